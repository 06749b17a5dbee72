//! Passwords of SMTP logins: only their Argon2id hashes are known.

use std::{fmt, str::FromStr, sync::Arc};

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version,
    password_hash::{self, phc},
};

/// What [`PasswordHash::of`] spends, in KiB and passes: OWASP, "Password Storage Cheat Sheet", section
/// Argon2id (19 MiB, two passes, one lane).
const MEMORY: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// What a hash in the configuration may ask for: each login costs that much, and strangers can try.
const MOST_MEMORY: u32 = 1024 * 1024;
const MOST_PASSES: u32 = 32;
const MOST_LANES: u32 = 16;

/// An Argon2id hash in PHC form, such as `$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH`. Never shown by Debug.
/// Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(Arc<phc::PasswordHash>);

/// Does not hold what it refuses: it may be a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHash {
    #[error("is not an Argon2id hash in PHC form")]
    Form,
    #[error("asks for more than 1 GiB of memory, 32 passes or 16 lanes at each login")]
    Costly,
}

impl PasswordHash {
    /// The hash of a new password, with a salt of its own. Blocks for some tens of milliseconds.
    pub fn of(password: &[u8]) -> Result<Self, password_hash::Error> {
        let params = Params::new(MEMORY, PASSES, LANES, None)?;
        Self::with(password, params)
    }

    fn with(password: &[u8], params: Params) -> Result<Self, password_hash::Error> {
        let hash = Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password(password)?;
        Ok(Self(Arc::new(hash)))
    }

    /// Whether this is the hash of `password`. Blocks, and takes as much memory as the hash says.
    pub fn matches(&self, password: &[u8]) -> bool {
        Argon2::default().verify_password(password, &*self.0).is_ok()
    }

    /// A hash of no known password that costs as much to compare with as this one.
    pub fn decoy(&self) -> Self {
        let random: [u8; 32] = rand::random();
        let mut decoy = (*self.0).clone();
        decoy.salt = phc::Salt::new(&random[..16]).ok().or(decoy.salt);
        decoy.hash = phc::Output::new(&random).ok().or(decoy.hash);
        Self(Arc::new(decoy))
    }

    /// Whether a comparison is as much work as with the other.
    pub fn costs_as(&self, other: &Self) -> bool {
        self.cost() == other.cost()
    }

    /// Memory, passes and lanes.
    fn cost(&self) -> Option<[u32; 3]> {
        let params = Params::try_from(&*self.0).ok()?;
        Some([params.m_cost(), params.t_cost(), params.p_cost()])
    }

    /// The hash itself, for the configuration and for keys of caches.
    pub fn expose(&self) -> String {
        self.0.to_string()
    }
}

impl FromStr for PasswordHash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        let hash = phc::PasswordHash::new(text).map_err(|_| InvalidHash::Form)?;
        let has_form = hash.algorithm == argon2::ARGON2ID_IDENT
            && hash.version == Some(Version::V0x13.into())
            && ["m", "t", "p"].iter().all(|name| hash.params.get(*name).is_some())
            && hash.salt.is_some()
            && hash.hash.as_ref().is_some_and(|output| output.len() >= 16);
        let params = Params::try_from(&hash).map_err(|_| InvalidHash::Form)?;
        if !has_form || !params.keyid().is_empty() || !params.data().is_empty() {
            return Err(InvalidHash::Form);
        }
        if params.m_cost() > MOST_MEMORY || params.t_cost() > MOST_PASSES || params.p_cost() > MOST_LANES {
            return Err(InvalidHash::Costly);
        }
        Ok(Self(Arc::new(hash)))
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(password hash)")
    }
}

#[cfg(any(test, feature = "fuzzing"))]
#[allow(clippy::unwrap_used, reason = "for tests only")]
impl PasswordHash {
    /// As cheap as Argon2 can be.
    pub(crate) fn cheap(password: &str) -> Self {
        Self::with(password.as_bytes(), Params::new(8, 1, 1, None).unwrap()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT_AND_HASH: &str = "c29tZXNhbHRzb21lc2FsdA$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g";

    fn parsed(params: &str) -> Result<PasswordHash, InvalidHash> {
        format!("$argon2id$v=19${params}${SALT_AND_HASH}").parse()
    }

    #[test]
    fn a_hash_is_of_one_password() {
        let hash: PasswordHash = PasswordHash::cheap("s3cret é").expose().parse().unwrap();
        assert!(hash.matches("s3cret é".as_bytes()));
        assert!(!hash.matches(b"s3cret") && !hash.matches(b""));
        assert!(!hash.decoy().matches("s3cret é".as_bytes()));
        assert_eq!(hash.decoy().cost(), hash.cost());
        assert_ne!(PasswordHash::cheap("x"), PasswordHash::cheap("x"));
        assert_eq!(format!("{hash:?}"), "(password hash)");
    }

    #[test]
    fn a_new_hash_has_the_parameters_of_the_cheat_sheet() {
        let hash = PasswordHash::of(b"s3cret").unwrap();
        assert!(hash.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert_eq!(hash.expose().parse(), Ok(hash));
    }

    #[test]
    fn parameters_have_bounds() {
        assert!(parsed("m=1048576,t=32,p=16").is_ok());
        for costly in ["m=1048577,t=1,p=1", "m=8,t=33,p=1", "m=4096,t=1,p=17"] {
            assert_eq!(parsed(costly), Err(InvalidHash::Costly), "{costly}");
        }
        for bad in
            ["m=7,t=1,p=1", "m=8,t=0,p=1", "m=8,t=1", "m=8,t=1,p=1,data=AAAA", "m=8,t=1,p=1,x=1", "m=a"]
        {
            assert_eq!(parsed(bad), Err(InvalidHash::Form), "{bad}");
        }
    }

    #[test]
    fn other_texts_are_no_hash() {
        for text in [
            "",
            "s3cret",
            "$argon2id$",
            "$argon2id$v=19$m=8,t=1,p=1",
            "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzb21lc2FsdA",
            "$6$salt$hash",
            "$y$j9T$salt$hash",
            &format!("$argon2i$v=19$m=8,t=1,p=1${SALT_AND_HASH}"),
            &format!("$argon2id$v=16$m=8,t=1,p=1${SALT_AND_HASH}"),
            &format!("$argon2id$m=8,t=1,p=1${SALT_AND_HASH}"),
            &format!("$argon2id$v=19$m=8,t=1,p=1${SALT_AND_HASH}$more"),
        ] {
            assert_eq!(text.parse::<PasswordHash>(), Err(InvalidHash::Form), "{text}");
        }
    }
}

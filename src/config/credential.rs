//! How a tenant's application, or a user, proves who it is: the keys of a tenant's table that say so.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use super::{
    ClientCertificate, ManagedIdentity, SecretSource,
    reader::{Item, TableReader},
    secret::PLACES,
};

/// What tokens are asked for with. One for each tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// The application's own: the grant `client_credentials`.
    App(ClientProof),
    /// A user's. `proof` is for an application that is registered as a confidential client.
    User { grant: UserGrant, proof: Option<ClientProof> },
    /// That of the machine that the relay runs on.
    ManagedIdentity(ManagedIdentity),
}

/// What proves that the application is asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientProof {
    Secret(SecretSource),
    Certificate(ClientCertificate),
    /// A file with a token of another identity provider, which replaces it from time to time.
    Federated(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserGrant {
    /// Resource owner password credentials.
    Password { username: String, password: SecretSource },
    /// A refresh token, which is stored and replaced by its successors. `first` is where they begin; `None`:
    /// with `m365-relay tenant login`.
    RefreshToken { first: Option<SecretSource> },
}

/// What the keys of one table describe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    App,
    Password,
    RefreshToken,
    Managed,
}

const CLIENT_ID: &str = r#""11111111-2222-3333-4444-555555555555""#;
const SECRET: &str = r#"{ file = "/etc/m365-relay/contoso.secret" }"#;
const PROOFS: [&str; 3] = ["client_secret", "certificate", "federated_token_file"];
const OF_CERTIFICATE: [&str; 3] = ["private_key", "certificate_password", "assertion_algorithm"];
/// Keys that hold a secret, or say where it is.
const SECRETS: [&str; 6] =
    ["client_secret", "certificate", "private_key", "certificate_password", "password", "refresh_token"];

/// What the password grant needs, and what speaks against it.
fn check_password_grant(table: &mut TableReader<'_>) {
    for (key, example) in [("username", USERNAME), ("password", SECRET)] {
        if !table.has(key) {
            table.fail_at::<()>(key, format!("missing: write {key} = {example}"));
        }
    }
    if let Some(item) = table.item("grant") {
        item.warn(
            "a user's password works only until multi-factor authentication or security defaults apply to \
             this user, which may be weeks from now; after that, nothing is delivered. Use an application's \
             credential, or grant = \"refresh_token\"",
        );
    }
}

impl Credential {
    /// The application's id and its credential. The id is empty if it is the machine's own identity. `None`:
    /// there is a mistake.
    pub(super) fn read(table: &mut TableReader<'_>) -> Option<(String, Self)> {
        SECRETS.iter().for_each(|key| table.note_keys(key, &PLACES));
        let has_grant = table.has("grant");
        let grant = table.optional("grant", |item| {
            item.choice(&[
                ("client_credentials", Kind::App),
                ("password", Kind::Password),
                ("refresh_token", Kind::RefreshToken),
            ])
        });
        table.note_keys("managed_identity", &super::managed_identity::KEYS);
        let managed = table.item("managed_identity").map(|item| ManagedIdentity::read(&item));
        let kind = match (&managed, has_grant) {
            (Some(None | Some(Some(_))), _) => Some(Kind::Managed),
            (Some(Some(None)) | None, true) => grant,
            (Some(Some(None)) | None, false) => Some(Kind::App),
        };
        let is_whole = kind.is_none_or(|kind| refuse_strangers(table, kind));
        let client_id = table.optional("client_id", |item| Some(item.word(CLIENT_ID)?.to_owned()));
        if kind != Some(Kind::Managed) && !table.has("client_id") {
            table.fail_at::<()>("client_id", format!("missing: write client_id = {CLIENT_ID}"));
        }
        let proof = ClientProof::read(table);
        let username = table.optional("username", |item| Some(item.word(USERNAME)?.to_owned()));
        let password = table.optional("password", SecretSource::read_of_tenant);
        let refresh_token = table.optional("refresh_token", |item| Some(SecretSource::read_of_tenant(item)));
        let proof = proof.filter(|_| is_whole);
        let credential = match kind? {
            Kind::Managed => {
                let managed = managed??.filter(|_| is_whole)?;
                let id = managed.user_assigned.as_ref().map_or("", |user_assigned| user_assigned.as_str());
                return Some((id.to_owned(), Self::ManagedIdentity(managed)));
            }
            Kind::App if !PROOFS.iter().any(|key| table.has(key)) => {
                return table.fail_at(
                    "client_secret",
                    format!(
                        "missing: write client_secret = {SECRET}, or certificate, federated_token_file or \
                         managed_identity (docs/credentials.md)"
                    ),
                );
            }
            Kind::App => Self::App(proof??),
            Kind::Password => {
                check_password_grant(table);
                let grant = UserGrant::Password { username: username?, password: password? };
                Self::User { grant, proof: proof? }
            }
            Kind::RefreshToken => {
                let first = match refresh_token {
                    Some(source) => Some(source?),
                    None => None,
                };
                Self::User { grant: UserGrant::RefreshToken { first }, proof: proof? }
            }
        };
        Some((client_id?, credential))
    }

    /// An application's secret, as it stands.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn of_secret(secret: &str) -> Self {
        Self::App(ClientProof::Secret(SecretSource::Text(super::Secret::new(secret.into()))))
    }

    /// The files that it is read from, and that change when it is renewed.
    pub fn files(&self) -> Vec<Cow<'_, Path>> {
        let (grant, proof) = match self {
            Self::App(proof) => (None, Some(proof)),
            Self::User { grant, proof } => (Some(grant), proof.as_ref()),
            Self::ManagedIdentity(_) => (None, None),
        };
        let mut files = match proof {
            None => Vec::new(),
            Some(ClientProof::Secret(source)) => source.path().into_iter().collect(),
            Some(ClientProof::Certificate(certificate)) => certificate.files().collect(),
            Some(ClientProof::Federated(path)) => vec![path.into()],
        };
        files.extend(match grant {
            Some(UserGrant::Password { password, .. }) => password.path(),
            Some(UserGrant::RefreshToken { first: Some(first) }) => first.path(),
            Some(UserGrant::RefreshToken { first: None }) | None => None,
        });
        files
    }

    /// The certificate, if the application proves itself by one.
    pub fn certificate(&self) -> Option<&ClientCertificate> {
        match self {
            Self::App(ClientProof::Certificate(certificate))
            | Self::User { proof: Some(ClientProof::Certificate(certificate)), .. } => Some(certificate),
            _ => None,
        }
    }
}

const USERNAME: &str = r#""relay@contoso.com""#;

/// Notes an error for each key that has no meaning beside the others. Returns whether there was none.
fn refuse_strangers(table: &mut TableReader<'_>, kind: Kind) -> bool {
    let mut is_whole = true;
    let mut refuse = |item: Option<Item<'_>>, why: String| {
        if let Some(item) = item {
            is_whole = false;
            item.fail::<()>(why);
        }
    };
    if kind == Kind::Managed {
        let id = "has no effect with managed_identity; for a user-assigned identity, write managed_identity \
            = { client_id = \"…\" }";
        refuse(table.item("client_id"), id.into());
        for key in PROOFS.into_iter().chain(OF_CERTIFICATE).chain(["grant"]) {
            refuse(
                table.item(key),
                format!("conflicts with managed_identity: remove {key} or managed_identity"),
            );
        }
    }
    let given: Vec<&str> = PROOFS.into_iter().filter(|key| table.has(key)).collect();
    if let [one, others @ ..] = &given[..]
        && kind != Kind::Managed
    {
        for key in others {
            let key = PROOFS.into_iter().find(|proof| proof == key).unwrap_or_default();
            refuse(
                table.item(key),
                format!("there is {one} too: an application has one credential, so remove one"),
            );
        }
    }
    if !table.has("certificate") && kind != Kind::Managed {
        for key in OF_CERTIFICATE {
            refuse(table.item(key), "has no effect without certificate: add that, or remove this".into());
        }
    }
    for (key, of) in
        [("username", Kind::Password), ("password", Kind::Password), ("refresh_token", Kind::RefreshToken)]
    {
        if kind != of {
            let grant = if of == Kind::Password { "password" } else { "refresh_token" };
            refuse(table.item(key), format!("is only for grant = \"{grant}\": write that, or remove {key}"));
        }
    }
    is_whole
}

impl ClientProof {
    /// `Some(None)`: there is none. `None`: there is a mistake.
    fn read(table: &mut TableReader<'_>) -> Option<Option<Self>> {
        let mut found = None;
        let mut given = 0;
        let mut take = |is_given: bool, proof: Option<Self>| {
            given += usize::from(is_given);
            found = found.take().or(proof);
        };
        let secret = table.optional("client_secret", SecretSource::read_of_tenant).map(Self::Secret);
        take(table.has("client_secret"), secret);
        let certificate = ClientCertificate::read_keys(table).map(Self::Certificate);
        take(table.has("certificate"), certificate);
        let federated = table.optional("federated_token_file", |item| {
            let path = item.path()?;
            item.only_ours(&path)?;
            // Kubernetes lets every user of the container read it, so that is no reason to warn.
            match SecretSource::File(path.clone()).read() {
                Ok(_) => Some(Self::Federated(path)),
                Err(error) => item.fail_alone(Self::Federated(path), error.to_string()),
            }
        });
        take(table.has("federated_token_file"), federated);
        match (given, found) {
            (0, _) => Some(None),
            (_, found) => found.map(Some),
        }
    }
}

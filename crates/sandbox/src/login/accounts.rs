//! The users of an organisation while the service runs, and whether it consented to the application.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    super::{
        errors::LoginError,
        identities::{User, UserState},
        options::Directory,
        store::lock,
    },
    refusals::invalid_grant,
};

/// Entra ID's smart lockout: one minute at first, and longer after that. Here it is always one minute.
const LOCKOUT: Duration = Duration::from_secs(60);

pub(crate) struct Accounts {
    consented: AtomicBool,
    /// By name in lower case.
    users: Mutex<HashMap<String, Account>>,
}

struct Account {
    user: User,
    wrong_passwords: u32,
    locked_until: Option<Instant>,
    /// Refresh tokens from before this time are void.
    revoked: Option<Instant>,
}

impl Accounts {
    pub(crate) fn new(directory: &Directory) -> Self {
        let account = |user: &User| Account {
            user: user.clone(),
            wrong_passwords: 0,
            locked_until: None,
            revoked: None,
        };
        let users = directory.users.iter().map(|user| (user.name.to_lowercase(), account(user))).collect();
        Self { consented: AtomicBool::new(directory.consented), users: Mutex::new(users) }
    }

    pub(crate) fn consented(&self) -> bool {
        self.consented.load(Ordering::Relaxed)
    }

    pub(crate) fn consent(&self) {
        self.consented.store(true, Ordering::Relaxed);
    }

    /// False: there is no such user.
    pub(crate) fn set_state(&self, name: &str, state: UserState) -> bool {
        self.change(name, |account| account.user.state = state)
    }

    /// Acts as an administrator who ends all sessions of the user. False: there is no such user.
    pub(crate) fn revoke(&self, name: &str) -> bool {
        self.change(name, |account| account.revoked = Some(Instant::now()))
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Account)) -> bool {
        lock(&self.users).get_mut(&name.to_lowercase()).map(change).is_some()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        lock(&self.users).contains_key(&name.to_lowercase())
    }

    /// The name as it is written in the directory, if this user may log in with this password and nothing
    /// else.
    pub(super) fn check_password(
        &self,
        name: &str,
        password: &str,
        directory: &Directory,
        lockout_threshold: u32,
    ) -> Result<String, LoginError> {
        let mut users = lock(&self.users);
        let account = users.get_mut(&name.to_lowercase()).ok_or_else(|| {
            let text = format!(
                "The user account {{EUII Hidden}} does not exist in the {} directory. To sign into this application, the \
                 account must be added to the directory.",
                directory.id()
            );
            invalid_grant(50034, text)
        })?;
        if account.user.state == UserState::Locked
            || account.locked_until.is_some_and(|until| until > Instant::now())
        {
            return Err(locked());
        }
        // Spaces at either end are not supported in this flow, whatever the password is.
        if password != account.user.password || password.trim() != password {
            account.wrong_passwords += 1;
            if account.wrong_passwords >= lockout_threshold {
                account.wrong_passwords = 0;
                account.locked_until = Some(Instant::now() + LOCKOUT);
            }
            let text = "Error validating credentials due to invalid username or password.";
            return Err(invalid_grant(50126, text));
        }
        account.wrong_passwords = 0;
        match account.user.state {
            UserState::MfaRequired => Err(second_factor()),
            UserState::PasswordExpired => Err(invalid_grant(50055, "The password is expired.")),
            state => admitted(state).map(|()| account.user.name.clone()),
        }
    }

    /// Whether a user who logged in at `since` is still admitted, without any further question.
    pub(super) fn check_session(&self, name: &str, since: Instant) -> Result<(), LoginError> {
        let users = lock(&self.users);
        let account = users.get(&name.to_lowercase()).ok_or_else(revoked)?;
        if account.revoked.is_some_and(|revoked| since <= revoked) {
            return Err(revoked());
        }
        match account.user.state {
            UserState::MfaRequired => Err(second_factor()),
            UserState::PasswordExpired => Err(revoked()),
            state => admitted(state),
        }
    }

    /// The name as it is written in the directory, if this user can log in at a browser.
    pub(super) fn at_browser(&self, name: &str) -> Option<String> {
        let users = lock(&self.users);
        let account = users.get(&name.to_lowercase())?;
        // The browser asks for a new password and a second factor.
        admitted(account.user.state).ok().map(|()| account.user.name.clone())
    }
}

fn admitted(state: UserState) -> Result<(), LoginError> {
    match state {
        UserState::Fine | UserState::MfaRequired | UserState::PasswordExpired => Ok(()),
        UserState::Blocked => Err(invalid_grant(
            53003,
            "Access has been blocked by Conditional Access policies. The access policy does not allow token issuance.",
        )),
        UserState::Disabled => Err(invalid_grant(50057, "The user account is disabled.")),
        UserState::Locked => Err(locked()),
    }
}

fn locked() -> LoginError {
    invalid_grant(
        50053,
        "The account is locked, you've tried to sign in too many times with an incorrect user ID or password.",
    )
}

fn second_factor() -> LoginError {
    invalid_grant(
        50076,
        "Due to a configuration change made by your administrator, or because you moved to a new location, you must use \
         multi-factor authentication to access the resource.",
    )
}

fn revoked() -> LoginError {
    invalid_grant(
        50173,
        "The provided grant has expired due to it being revoked, a fresh auth token is needed. The user might have \
         changed or reset their password.",
    )
}

//! Who may log in to an organisation, besides an application with its secret: certificates, outside issuers,
//! users and managed identities. All of them are made up by the code that starts the service.

use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::ids::uuid_of;

/// A certificate that was uploaded to the app registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredCertificate {
    /// The X.509 certificate in DER, with an RSA key of 2048 to 8192 bits. If it cannot be read,
    /// no assertion is accepted by it.
    pub der: Vec<u8>,
}

/// A federated identity credential: the issuer and subject whose tokens stand for the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FederatedIdentity {
    /// The claim `iss`, letter for letter.
    pub issuer: String,
    /// The claim `sub`, letter for letter.
    pub subject: String,
    pub audience: String,
    /// The issuer's RSA key: a SubjectPublicKeyInfo in DER (RFC 5280 section 4.1.2.7). The real service
    /// fetches it from the issuer.
    pub public_key: Vec<u8>,
}

/// A person of the organisation, with a mailbox at the same address.
#[derive(Clone)]
pub struct User {
    /// User principal name, which is the address too. Case does not matter.
    pub name: String,
    pub password: String,
    pub state: UserState,
}

/// What prevents a user from getting a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserState {
    #[default]
    Fine,
    /// A password alone is not enough: 50076. In the device code flow the user is at a browser, so that
    /// works.
    MfaRequired,
    /// Conditional Access refuses: 53003.
    Blocked,
    /// 50057.
    Disabled,
    /// 50055; a refresh token gets 50173.
    PasswordExpired,
    /// 50053.
    Locked,
}

/// An identity of the machine that this service runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedIdentity {
    pub client_id: String,
    pub object_id: String,
    /// `/subscriptions/…/userAssignedIdentities/NAME`. Empty for a system-assigned one.
    pub resource_id: String,
    /// Returned if the request names none. Without a system-assigned identity, the only user-assigned one is
    /// returned.
    pub system_assigned: bool,
}

/// How logins behave where Microsoft leaves it open or takes too long for a test.
#[derive(Clone)]
pub struct LoginRules {
    /// From issue to expiry of a certificate's assertion. Microsoft recommends 5 to 10 minutes "at most", and
    /// says that nothing is enforced; here 10 minutes are enforced. `None`: no limit.
    pub assertion_lifetime: Option<Duration>,
    /// Refuses an assertion that has been used. The real service accepts it again: MSAL for Python sends one
    /// assertion for nine minutes. A second assertion under a used `jti` is refused in any case.
    pub assertions_once: bool,
    /// How long a refresh token works unused. Microsoft: 90 days.
    pub refresh_lifetime: Duration,
    /// How long a refresh token still works after it has been used. The real service keeps it much longer; a
    /// client that counts on that loses its login when somebody revokes it.
    pub refresh_grace: Duration,
    /// How long a device code can be used. Microsoft: 15 minutes.
    pub device_code_lifetime: Duration,
    /// Seconds between polls with a device code, at least 1. Microsoft: 5.
    pub device_interval: u32,
    /// Wrong passwords in a row that lock a user out, for a minute. Microsoft: 10.
    pub lockout_threshold: u32,
    /// What `X-IDENTITY-HEADER` must contain at the App Service's endpoint.
    pub identity_header: String,
    /// The folder that an Azure Arc agent would write its secrets to. `None`: the machine is not an Arc
    /// machine.
    pub arc_secrets: Option<PathBuf>,
}

impl FederatedIdentity {
    /// Makes one with the audience that Microsoft recommends.
    pub fn new(issuer: impl Into<String>, subject: impl Into<String>, public_key: Vec<u8>) -> Self {
        Self {
            issuer: issuer.into(),
            subject: subject.into(),
            audience: "api://AzureADTokenExchange".into(),
            public_key,
        }
    }
}

impl User {
    pub fn new(name: impl Into<String>, password: impl Into<String>) -> Self {
        Self { name: name.into(), password: password.into(), state: UserState::Fine }
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("password", &"(secret)")
            .field("state", &self.state)
            .finish()
    }
}

impl ManagedIdentity {
    /// The system-assigned identity of the machine.
    pub fn system(client_id: impl Into<String>) -> Self {
        let client_id = client_id.into();
        let object_id = uuid_of(&client_id).to_string();
        Self { client_id, object_id, resource_id: String::new(), system_assigned: true }
    }

    /// An identity that was assigned to the machine, and is known by any of its three ids.
    pub fn user_assigned(client_id: impl Into<String>) -> Self {
        let client_id = client_id.into();
        let object_id = uuid_of(&client_id).to_string();
        let resource_id = format!(
            "/subscriptions/{}/resourcegroups/mail/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{client_id}",
            uuid_of("subscription")
        );
        Self { client_id, object_id, resource_id, system_assigned: false }
    }
}

impl fmt::Debug for LoginRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginRules")
            .field("assertion_lifetime", &self.assertion_lifetime)
            .field("assertions_once", &self.assertions_once)
            .field("refresh_lifetime", &self.refresh_lifetime)
            .field("refresh_grace", &self.refresh_grace)
            .field("device_code_lifetime", &self.device_code_lifetime)
            .field("device_interval", &self.device_interval)
            .field("lockout_threshold", &self.lockout_threshold)
            .field("identity_header", &"(secret)")
            .field("arc_secrets", &self.arc_secrets)
            .finish()
    }
}

impl Default for LoginRules {
    fn default() -> Self {
        Self {
            assertion_lifetime: Some(Duration::from_secs(600)),
            assertions_once: false,
            refresh_lifetime: Duration::from_secs(90 * 24 * 3600),
            refresh_grace: Duration::ZERO,
            device_code_lifetime: Duration::from_secs(900),
            device_interval: 5,
            lockout_threshold: 10,
            identity_header: "853b9a84-5bfa-4b22-a3f3-0b9a43d9ad8a".into(),
            arc_secrets: None,
        }
    }
}

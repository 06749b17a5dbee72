//! Device codes that wait for their user, and the user's answer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::StatusCode;
use rand::RngExt;
use tokio::time::Instant;

use super::{
    super::{errors::LoginError, identities::LoginRules, store::lock, tenant::Tenant},
    refusals::{bad, invalid_grant},
};

/// No two of them look alike.
const LETTERS: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// By device code.
#[derive(Default)]
pub(crate) struct Devices(Mutex<HashMap<String, Device>>);

struct Device {
    user_code: String,
    /// `None`: the directory that the user belongs to.
    tenant: Option<Arc<Tenant>>,
    client_id: String,
    scope: String,
    expires: Instant,
    interval: Duration,
    polled: Option<Instant>,
    state: State,
}

enum State {
    Waiting,
    Approved(Approval),
    Declined,
    Used,
}

/// A user who agreed.
#[derive(Clone)]
pub(super) struct Approval {
    pub(super) tenant: Arc<Tenant>,
    pub(super) user: String,
    pub(super) scope: String,
}

impl Devices {
    /// Begins a new device code, with the code that the user types in.
    pub(super) fn begin(
        &self,
        tenant: Option<Arc<Tenant>>,
        client_id: &str,
        scope: &str,
        rules: &LoginRules,
    ) -> (String, String) {
        let mut random = rand::rng();
        let user_code: String =
            (0..9).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect();
        let device_code = BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 48]>());
        let now = Instant::now();
        let mut devices = lock(&self.0);
        // An expired code can be distinguished from an unknown one for the same time again.
        devices.retain(|_, device| device.expires + rules.device_code_lifetime > now);
        devices.insert(
            device_code.clone(),
            Device {
                user_code: user_code.clone(),
                tenant,
                client_id: client_id.to_owned(),
                scope: scope.to_owned(),
                expires: now + rules.device_code_lifetime,
                interval: Duration::from_secs(interval(rules).into()),
                polled: None,
                state: State::Waiting,
            },
        );
        (device_code, user_code)
    }

    /// Returns the user who agreed, once: then the code is used up.
    pub(super) fn poll(&self, device_code: &str, client_id: &str) -> Result<Approval, LoginError> {
        let now = Instant::now();
        let mut devices = lock(&self.0);
        let device = devices
            .get_mut(device_code)
            .filter(|device| device.client_id.eq_ignore_ascii_case(client_id))
            .ok_or_else(|| {
                bad(
                    "bad_verification_code",
                    70018,
                    "Invalid verification code. The device code is not known.",
                )
            })?;
        if device.expires <= now {
            let text = "The provided value for the input parameter 'device_code' is not valid. This device code has \
                        expired.";
            return Err(bad("expired_token", 70019, text));
        }
        // The tenth allows for what the network does to a client that keeps to the interval.
        let too_soon = device.polled.is_some_and(|polled| polled + device.interval.mul_f64(0.9) > now);
        device.polled = Some(now);
        if too_soon {
            // RFC 8628 section 3.5. Microsoft's document has no such error.
            device.interval += Duration::from_secs(5);
            return Err(unnumbered("slow_down", "Polling too often."));
        }
        match std::mem::replace(&mut device.state, State::Used) {
            State::Approved(approval) => Ok(approval),
            State::Used => Err(invalid_grant(
                54005,
                "OAuth2 Authorization code was already redeemed, please retry with a new valid code.",
            )),
            State::Declined => {
                device.state = State::Declined;
                Err(unnumbered("authorization_declined", "The end user denied the authorization request."))
            }
            State::Waiting => {
                device.state = State::Waiting;
                let text = "OAuth 2.0 device flow error. Authorization is pending. Continue polling.";
                Err(bad("authorization_pending", 70016, text))
            }
        }
    }

    /// Acts as the user who typed the code in and logged in. False: no such code waits, or the user is not
    /// admitted.
    pub(crate) fn approve(&self, tenants: &[Arc<Tenant>], user_code: &str, user: &str) -> bool {
        let mut devices = lock(&self.0);
        let Some(device) = waiting(&mut devices, user_code) else { return false };
        let mut meant = tenants
            .iter()
            .filter(|one| device.tenant.as_ref().is_none_or(|tenant| Arc::ptr_eq(tenant, one)))
            .filter(|tenant| tenant.directory.is_application(&device.client_id));
        let admitted = meant.find_map(|tenant| Some((tenant.clone(), tenant.accounts.at_browser(user)?)));
        let Some((tenant, user)) = admitted else { return false };
        device.state = State::Approved(Approval { tenant, user, scope: device.scope.clone() });
        true
    }

    /// Acts as a user who refuses. False: no such code waits.
    pub(crate) fn decline(&self, user_code: &str) -> bool {
        let mut devices = lock(&self.0);
        waiting(&mut devices, user_code).map(|device| device.state = State::Declined).is_some()
    }
}

/// Seconds between two polls.
pub(super) fn interval(rules: &LoginRules) -> u32 {
    rules.device_interval.max(1)
}

fn waiting<'a>(devices: &'a mut HashMap<String, Device>, user_code: &str) -> Option<&'a mut Device> {
    let now = Instant::now();
    devices.values_mut().find(|device| {
        device.user_code.eq_ignore_ascii_case(user_code)
            && device.expires > now
            && matches!(device.state, State::Waiting)
    })
}

fn unnumbered(error: &'static str, message: &'static str) -> LoginError {
    LoginError {
        status: StatusCode::BAD_REQUEST,
        error: error.into(),
        number: None,
        message: message.into(),
        retry_after: None,
    }
}

//! The device code flow (RFC 8628): a code that a person types in elsewhere, and a client that asks whether that has
//! happened. Here, a test or a call of `/_sandbox/device` is the person.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::response::Response;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::StatusCode;
use rand::RngExt;
use serde_json::json;
use tokio::time::Instant;

use super::{
    super::{
        errors::LoginError,
        store::lock,
        world::{Tenant, World},
    },
    Request, bad, invalid_grant, success, unknown_application,
};

pub(super) const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// None that look alike.
const LETTERS: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// By device code.
#[derive(Default)]
pub(in super::super) struct Devices(Mutex<HashMap<String, Device>>);

struct Device {
    user_code: String,
    /// `None`: of whichever directory the user is.
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

/// A user who said yes.
#[derive(Clone)]
pub(super) struct Approval {
    pub(super) tenant: Arc<Tenant>,
    pub(super) user: String,
    pub(super) scope: String,
}

/// `POST /{directory}/oauth2/v2.0/devicecode`.
pub(super) fn begin(request: &Request<'_>) -> Result<Response, LoginError> {
    let world = request.world;
    let rules = &world.options.logins;
    let id = request.client_id()?;
    let scope = request.required("scope")?;
    let tenant = request.directory()?;
    let mut may_be_meant =
        world.tenants.iter().filter(|one| tenant.is_none_or(|tenant| Arc::ptr_eq(tenant, one)));
    if !may_be_meant.any(|tenant| tenant.directory.is_application(id)) {
        return Err(unknown_application(id, request.name));
    }
    let mut random = rand::rng();
    let user_code: String =
        (0..9).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect();
    let device_code = BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 48]>());
    let interval = rules.device_interval.max(1);
    let now = Instant::now();
    let mut devices = lock(&world.logins.devices.0);
    // An expired one is told from an unknown one for as long again.
    devices.retain(|_, device| device.expires + rules.device_code_lifetime > now);
    devices.insert(
        device_code.clone(),
        Device {
            user_code: user_code.clone(),
            tenant: tenant.cloned(),
            client_id: id.to_owned(),
            scope: scope.to_owned(),
            expires: now + rules.device_code_lifetime,
            interval: Duration::from_secs(interval.into()),
            polled: None,
            state: State::Waiting,
        },
    );
    let page = "https://microsoft.com/devicelogin";
    Ok(success(&json!({
        "user_code": user_code,
        "device_code": device_code,
        "verification_uri": page,
        "expires_in": rules.device_code_lifetime.as_secs(),
        "interval": interval,
        "message": format!(
            "To sign in, use a web browser to open the page {page} and enter the code {user_code} to authenticate."
        ),
    })))
}

impl Devices {
    /// Who said yes, once: then the code is used up.
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
        // A tenth for what the network does to a client that keeps to the interval.
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

    /// As the user who typed the code in and logged in. False: no such code waits, or the user is not let in.
    pub(in super::super) fn approve(&self, world: &World, user_code: &str, user: &str) -> bool {
        let mut devices = lock(&self.0);
        let Some(device) = waiting(&mut devices, user_code) else { return false };
        let mut meant = world
            .tenants
            .iter()
            .filter(|one| device.tenant.as_ref().is_none_or(|tenant| Arc::ptr_eq(tenant, one)))
            .filter(|tenant| tenant.directory.is_application(&device.client_id));
        let admitted = meant.find_map(|tenant| Some((tenant.clone(), tenant.accounts.at_browser(user)?)));
        let Some((tenant, user)) = admitted else { return false };
        device.state = State::Approved(Approval { tenant, user, scope: device.scope.clone() });
        true
    }

    /// As a user who says no. False: no such code waits.
    pub(in super::super) fn decline(&self, user_code: &str) -> bool {
        let mut devices = lock(&self.0);
        waiting(&mut devices, user_code).map(|device| device.state = State::Declined).is_some()
    }
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

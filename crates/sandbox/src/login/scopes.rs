//! The parameter `scope`: permissions of one service, and what else a user's login should return.

use http::StatusCode;

use super::super::{errors::LoginError, options::Directory, token::Audience};

const OPENID: [&str; 4] = ["openid", "profile", "email", "offline_access"];
const GRAPH: &str = "https://graph.microsoft.com";

/// What an application requests.
pub(super) struct Resource {
    pub(super) audience: Audience,
    pub(super) name: String,
}

/// What a user's client requested and was granted.
#[derive(Debug)]
pub(super) struct Scopes {
    pub(super) audience: Audience,
    /// As the scopes name it, without a slash at the end.
    pub(super) resource: String,
    /// Permissions without their resource.
    pub(super) permissions: Vec<String>,
    /// As they are returned to the client.
    pub(super) granted: Vec<String>,
    pub(super) open_id: bool,
    pub(super) offline: bool,
}

impl Resource {
    /// From `RESOURCE/.default`, and nothing else.
    pub(super) fn of_application(scope: &str, own: &str) -> Result<Self, LoginError> {
        let Some(name) = scope.strip_suffix("/.default").filter(|r| !r.contains(' ')) else {
            let message = format!(
                "The provided value for scope {scope} is not valid. Client credential flows must have a scope value \
                 with /.default suffixed to the resource identifier (application ID URI)."
            );
            return Err(LoginError::new(StatusCode::BAD_REQUEST, "invalid_scope", 1002012, message));
        };
        Ok(Self { audience: audience(name, own)?, name: name.to_owned() })
    }
}

impl Scopes {
    /// From scopes of one service, with or without those of OpenID Connect. All permissions must have been
    /// consented to.
    pub(super) fn of_user(scope: &str, own: &str, directory: &Directory) -> Result<Self, LoginError> {
        let mut scopes = Self {
            audience: Audience::Graph,
            resource: GRAPH.into(),
            permissions: Vec::new(),
            granted: Vec::new(),
            open_id: false,
            offline: false,
        };
        let mut named: Option<String> = None;
        for one in scope.split_ascii_whitespace() {
            match one {
                "openid" => scopes.open_id = true,
                "offline_access" => scopes.offline = true,
                _ => {}
            }
            if OPENID.contains(&one) {
                // `offline_access` shows in the refresh token only.
                if one != "offline_access" {
                    scopes.granted.push(one.to_owned());
                }
                continue;
            }
            // `Mail.Send` alone belongs to Graph.
            let (resource, permission) = one.rsplit_once('/').unwrap_or((GRAPH, one));
            let resource = resource.trim_end_matches('/');
            if resource.is_empty() || permission.is_empty() {
                let message = format!(
                    "The provided value for the input parameter 'scope' is not valid. The scope '{one}' does not exist."
                );
                return Err(LoginError::new(StatusCode::BAD_REQUEST, "invalid_scope", 70011, message));
            }
            if named.as_ref().is_some_and(|named| !named.eq_ignore_ascii_case(resource)) {
                let message = "The provided value for the input parameter 'scope' is not valid because it contains more \
                               than one resource.";
                return Err(LoginError::new(StatusCode::BAD_REQUEST, "invalid_scope", 700022, message));
            }
            scopes.audience = audience(resource, own)?;
            scopes.add(one, permission, resource, directory)?;
            named = Some(resource.to_owned());
        }
        if let Some(resource) = named {
            scopes.resource = resource;
        }
        Ok(scopes)
    }

    fn add(
        &mut self,
        one: &str,
        permission: &str,
        resource: &str,
        directory: &Directory,
    ) -> Result<(), LoginError> {
        let consented = directory.scopes.iter().filter(|scope| self.audience.has(scope));
        if permission == ".default" {
            for scope in consented {
                self.permissions.push(scope.clone());
                self.granted.push(format!("{resource}/{scope}"));
            }
        } else {
            let scope = consented.into_iter().find(|scope| scope.eq_ignore_ascii_case(permission));
            self.permissions.push(scope.ok_or_else(|| no_consent(&directory.client_id))?.clone());
        }
        self.granted.push(one.to_owned());
        Ok(())
    }
}

pub(super) fn no_consent(client_id: &str) -> LoginError {
    let message = format!(
        "The user or administrator has not consented to use the application with ID '{client_id}'. Send an interactive \
         authorization request for this user and resource."
    );
    LoginError::new(StatusCode::BAD_REQUEST, "invalid_grant", 65001, message)
}

fn audience(resource: &str, own: &str) -> Result<Audience, LoginError> {
    Audience::of(resource, own).ok_or_else(|| {
        let message = format!(
            "The resource principal named {resource} was not found in the tenant. This can happen if the application \
             has not been installed by the administrator of the tenant or consented to by any user in the tenant."
        );
        LoginError::new(StatusCode::BAD_REQUEST, "invalid_resource", 500011, message)
    })
}

//! AUTH: XOAUTH2 with a token for Exchange Online, and LOGIN, which no longer admits anybody.

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{
    replies::{self, Reply},
    rules::ConnectionsCountAt,
    seat::Login,
    session::{Fate, Go, Session},
    wire::Heard,
};
use crate::{faults::On, options::Directory};

/// `user=… ^A auth=Bearer … ^A ^A`. Its `Debug` would show a token, so it has none.
struct Credentials {
    user: String,
    token: String,
}

/// A login that got as far as being answered.
enum Attempt {
    XOAuth2(Option<Credentials>),
    Login { user: String },
}

/// Why there is no attempt.
enum NoAttempt {
    Refused(Reply),
    Over(Go),
}

impl Session {
    pub(super) async fn auth(&mut self, argument: &str) -> Go {
        let attempt = match self.attempt(argument).await {
            Ok(attempt) => attempt,
            Err(NoAttempt::Refused(reply)) => {
                self.world.smtp.record.auth(false);
                return self.say(&reply);
            }
            Err(NoAttempt::Over(go)) => return go,
        };
        let user = attempt.user().map(str::to_owned);
        let fate = {
            let tenant = attempt.tenant(self);
            self.fate_of(On::SmtpAuth, tenant.as_ref(), user.as_deref()).await
        };
        let (reply, cut) = match fate {
            Fate::Refuse(reply) => (reply, false),
            Fate::Cut => return Go::Cut,
            Fate::Do => (self.log_in(attempt), false),
            Fate::DoThenSay(reply) => {
                self.log_in(attempt);
                (reply, false)
            }
            Fate::DoThenCut => (self.log_in(attempt), true),
        };
        self.world.smtp.record.auth(reply.code() == 235);
        if cut {
            return Go::Cut;
        }
        if reply.code() != 334 {
            return self.say(&reply);
        }
        // The form that other services use: the error in JSON, the client's empty line, and then the refusal.
        match self.ask(&reply).await {
            Ok(_) => self.say(&replies::wrong_credentials(self.session_id)),
            Err(NoAttempt::Refused(reply)) => self.say(&reply),
            Err(NoAttempt::Over(go)) => go,
        }
    }

    async fn attempt(&mut self, argument: &str) -> Result<Attempt, NoAttempt> {
        let refuse = |text: &str| Err(NoAttempt::Refused(text.into()));
        match (self.greeted, self.is_encrypted, &self.login) {
            (None | Some(false), _, _) => return refuse(replies::SEND_HELLO),
            // Not offered, so unknown.
            (_, false, _) => return refuse(replies::NO_SUCH_MECHANISM),
            (_, _, Some(_)) => return refuse(replies::BAD_SEQUENCE),
            _ => {}
        }
        let mut words = argument.split(' ').filter(|word| !word.is_empty());
        let mechanism = words.next().unwrap_or_default().to_ascii_uppercase();
        let initial = words.next().map(str::to_owned);
        if words.next().is_some() || mechanism.is_empty() {
            return refuse(replies::ARGUMENTS);
        }
        match mechanism.as_str() {
            "XOAUTH2" => {
                let encoded = match initial {
                    Some(encoded) => encoded,
                    None => self.ask(&"334 ".into()).await?,
                };
                Ok(Attempt::XOAuth2(Credentials::decode(&encoded)))
            }
            "LOGIN" => {
                let user = match initial {
                    Some(user) => user,
                    None => self.ask(&"334 VXNlcm5hbWU6".into()).await?,
                };
                self.ask(&"334 UGFzc3dvcmQ6".into()).await?;
                let user = BASE64_STANDARD.decode(user).unwrap_or_default();
                Ok(Attempt::Login { user: String::from_utf8_lossy(&user).into() })
            }
            _ => refuse(replies::NO_SUCH_MECHANISM),
        }
    }

    /// Sends a 334 and returns the client's answer.
    async fn ask(&mut self, challenge: &Reply) -> Result<String, NoAttempt> {
        self.say(challenge);
        match self.wire.response().await {
            Heard::Line(line) => {
                self.heard("(…)".into());
                match line.as_slice() {
                    b"*" => Err(NoAttempt::Refused("501 5.7.0 Authentication cancelled".into())),
                    _ => Ok(String::from_utf8_lossy(&line).into()),
                }
            }
            // RFC 4954 section 6.
            Heard::TooLong => {
                Err(NoAttempt::Refused("500 5.5.6 Authentication exchange line is too long".into()))
            }
            Heard::Silence => Err(NoAttempt::Over(self.time_out())),
            Heard::End => Err(NoAttempt::Over(Go::Cut)),
        }
    }

    fn log_in(&mut self, attempt: Attempt) -> Reply {
        let Credentials { user, token } = match attempt {
            Attempt::XOAuth2(Some(credentials)) => credentials,
            Attempt::XOAuth2(None) => return replies::BAD_XOAUTH2.into(),
            Attempt::Login { .. } => return replies::basic_is_disabled(self.session_id),
        };
        // One reply for everything that can be wrong with a token, as at the real service.
        let Ok(grant) = self.world.tokens.check_exchange(&token) else {
            return replies::wrong_credentials(self.session_id);
        };
        let Some(mailbox) = grant.tenant.mailbox(&user) else {
            return replies::wrong_credentials(self.session_id);
        };
        if !grant.may_submit_as(&user) {
            return replies::wrong_credentials(self.session_id);
        }
        if grant.tenant.directory.smtp_auth_disabled {
            return replies::smtp_auth_is_disabled(self.session_id);
        }
        let options = &self.world.options;
        let most = options.limits.smtp_connections;
        let mut login = Login::new(grant.tenant, mailbox, most);
        let count_now = options.submission.connections_count_at == ConnectionsCountAt::Auth;
        if count_now && !login.take_place(most) {
            return replies::CONNECTIONS.into();
        }
        self.login = Some(login);
        "235 2.7.0 Authentication successful".into()
    }
}

impl Attempt {
    fn user(&self) -> Option<&str> {
        match self {
            Self::XOAuth2(credentials) => credentials.as_ref().map(|credentials| credentials.user.as_str()),
            Self::Login { user } => Some(user),
        }
    }

    /// The organisation of the login: by the token, or, if that is not valid, by the address.
    fn tenant(&self, session: &Session) -> Option<Directory> {
        let by_token = match self {
            Self::XOAuth2(Some(credentials)) => {
                let grant = session.world.tokens.check_exchange(&credentials.token);
                grant.ok().map(|grant| grant.tenant)
            }
            _ => None,
        };
        let by_address = || {
            let user = self.user()?;
            session.world.tenants.iter().find(|tenant| tenant.directory.mailboxes.has(user)).cloned()
        };
        by_token.or_else(by_address).map(|tenant| tenant.directory.clone())
    }
}

impl Credentials {
    fn decode(encoded: &str) -> Option<Self> {
        let text = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
        let (user, bearer) = text.strip_prefix("user=")?.strip_suffix("\u{1}\u{1}")?.split_once('\u{1}')?;
        let (scheme, token) = bearer.strip_prefix("auth=")?.split_once(' ')?;
        let is_one = !token.is_empty() && !token.contains(|c: char| c.is_whitespace() || c.is_control());
        (scheme.eq_ignore_ascii_case("Bearer") && is_one && !user.is_empty())
            .then(|| Self { user: user.to_owned(), token: token.to_owned() })
    }
}

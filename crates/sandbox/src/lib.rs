//! A simulated Microsoft 365: the login service, Graph's mail calls and upload sessions on one loopback port,
//! SMTP submission on another.
//!
//! For trying the relay out and for tests; both run this same code. It checks requests as strictly as the
//! real service is documented to, because a simulator that forgives proves nothing: token audience and
//! expiry, permissions, base64, sizes, recipients, send-as, calls at a time, messages a minute. Where
//! Microsoft documents nothing, the code says so and chooses the answer that is harder on the client. Faults
//! can be requested ([`Fault`]), and everything that happened can be read back, in the process ([`Service`])
//! or over HTTP (`/_sandbox/…`, and a page for people at `/`).
//!
//! It promises: a message is in [`Service::messages`] before its 202 or 250 is sent; a refused call delivers
//! nothing; a call continues when its client gives up, as at the real back end. It keeps the last messages
//! and calls in memory, never on disk. Access tokens are signed with a key that nobody else knows; the
//! service holds no secrets but the made-up ones it was started with.
//!
//! Files depend on one another in one direction: `server` on the handlers, handlers on `world`, `world` on
//! the state that it holds, such as `tenant`, `store` and `login::logins`. State depends on no handler.
//!
//! | file | what |
//! |---|---|
//! | `options`, `identities`, `ids` | what exists, who may log in, and the limits; GUIDs |
//! | `server`, `exchange`, `wire` | routes; a call with its body and id; connections that can be cut |
//! | `login`, `token` | every way to log in; its own table is there |
//! | `graph`, `caller` | permissions and routing of Graph calls; who calls, once that is allowed |
//! | `send`, `mime` | `sendMail` |
//! | `drafts`, `items` | calls on messages, what is in a mailbox |
//! | `resource`, `properties`, `rendering` | JSON messages, their MAPI properties, their MIME |
//! | `attachments`, `uploads` | calls on attachments, small and large |
//! | `attachment`, `upload_sessions` | one attachment; those that are still coming |
//! | `smtp` | SMTP submission, with TLS and XOAUTH2; its own table is there |
//! | `limits`, `errors` | throttling, Microsoft's error shapes |
//! | `faults`, `struck`, `fault_answers` | faults on demand, which of them strikes, what a call meets |
//! | `world`, `tenant` | what it all acts on; an organisation and its mailboxes |
//! | `store`, `delivered` | what is remembered, also of each message |
//! | `control`, `page` | `/_sandbox/…` and `/` |

#![forbid(unsafe_code)]

mod attachment;
mod attachments;
mod caller;
mod clock;
mod control;
mod delivered;
mod drafts;
mod errors;
mod exchange;
mod fault_answers;
mod faults;
mod graph;
mod identities;
mod ids;
mod items;
mod limits;
mod login;
mod mime;
mod options;
mod page;
mod properties;
mod rendering;
mod resource;
mod send;
mod server;
mod smtp;
mod store;
mod struck;
mod tenant;
#[cfg(test)]
mod tests;
mod token;
mod upload_sessions;
mod uploads;
mod urlencoded;
mod wire;
mod world;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use delivered::{Delivered, DeliveredAttachment, Via};
pub use faults::{Action, Fault, FaultBody, InvalidFault, Misreading, On, StatusFault};
pub use identities::{
    FederatedIdentity, LoginRules, ManagedIdentity, RegisteredCertificate, User, UserState,
};
pub use login::Assertion;
pub use options::{Directory, Limits, MailboxPolicy, Options, RetryAfter, Unresolvable};
pub use smtp::{
    ConnectionsCountAt, SenderRefusal, SmtpEnvelope, SmtpLine, SmtpRecipient, SmtpSessions, SubmissionRules,
};
pub use store::{Call, Counts, TokensByGrant};

use self::{
    wire::{Cut, Door},
    world::World,
};

/// A running service. Clones are handles to the same one; it stops when the last is dropped.
#[derive(Clone)]
pub struct Service(Arc<Running>);

struct Running {
    world: Arc<World>,
    address: SocketAddr,
    smtp_address: Option<SocketAddr>,
    task: TaskTracker,
    _stop: DropGuard,
}

impl Service {
    /// Binds, and serves on the current tokio runtime. Fails only if it cannot bind.
    pub async fn start(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.address).await?;
        let address = listener.local_addr()?;
        let smtp = match options.smtp {
            Some(address) => Some(TcpListener::bind(address).await?),
            None => None,
        };
        let smtp_address = smtp.as_ref().map(TcpListener::local_addr).transpose()?;
        let world = Arc::new(World::new(format!("http://{address}"), options));
        let stop: CancellationToken = world.stop.clone();
        let service = server::router(world.clone()).into_make_service_with_connect_info::<Cut>();
        let serve =
            axum::serve(Door::new(listener), service).with_graceful_shutdown(stop.clone().cancelled_owned());
        let task = TaskTracker::new();
        task.spawn(async move { serve.await });
        if let Some(listener) = smtp {
            task.spawn(smtp::serve(world.clone(), listener, task.clone()));
        }
        task.close();
        Ok(Self(Arc::new(Running { world, address, smtp_address, task, _stop: stop.drop_guard() })))
    }

    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// `http://127.0.0.1:PORT`: the base of login URLs and of Graph URLs.
    pub fn url(&self) -> String {
        self.0.world.url.clone()
    }

    /// The address that accepts SMTP submission. `None` if [`Options::smtp`] gives none.
    pub fn smtp_address(&self) -> Option<SocketAddr> {
        self.0.smtp_address
    }

    /// The certificate to trust for SMTP, in PEM. It signs one for 127.0.0.1, ::1 and localhost. Both are
    /// made when they are first needed, and are new in each service.
    pub fn ca_pem(&self) -> String {
        self.0.world.smtp.identity().ca_pem.clone()
    }

    /// Totals of SMTP since the start.
    pub fn smtp_sessions(&self) -> SmtpSessions {
        self.0.world.smtp_sessions()
    }

    /// The SMTP dialogues, without passwords, tokens and content; the last [`Options::keep_calls`] lines. A
    /// reply is in the log before it is sent.
    pub fn smtp_log(&self) -> Vec<SmtpLine> {
        self.0.world.smtp.record.lines()
    }

    /// The messages that would have been delivered, in the order of acceptance; the last
    /// [`Options::keep_messages`].
    pub fn messages(&self) -> Vec<Arc<Delivered>> {
        self.0.world.store.messages()
    }

    /// [`messages`](Self::messages), once `count` have been accepted since the start or `timeout` has passed.
    pub async fn wait_for(&self, count: usize, timeout: Duration) -> Vec<Arc<Delivered>> {
        let _ = tokio::time::timeout(timeout, self.0.world.store.accepted(count as u64)).await;
        self.messages()
    }

    /// Totals since the start. Cheap, whatever their size.
    pub fn counts(&self) -> Counts {
        self.0.world.store.counts()
    }

    /// Drafts in all mailboxes that were neither sent nor deleted.
    pub fn drafts(&self) -> usize {
        self.0.world.drafts()
    }

    /// The log of login, Graph and upload calls, in the order of their answers; the last
    /// [`Options::keep_calls`]. A call is in it before its answer is sent.
    pub fn calls(&self) -> Vec<Call> {
        self.0.world.store.calls()
    }

    /// The highest number of calls in progress at one mailbox at a time, without refused ones.
    pub fn peak_concurrency(&self, mailbox: &str) -> u32 {
        self.0.world.peak(mailbox)
    }

    /// The highest number of token requests in progress at a time.
    pub fn peak_logins(&self) -> u32 {
        self.0.world.logins.load.peak()
    }

    /// Client assertions that were accepted: the last thousand, oldest first.
    pub fn assertions(&self) -> Vec<Assertion> {
        self.0.world.logins.assertions.accepted()
    }

    /// Logs in the user who typed in `user_code`. False: no such code is waiting, or that user cannot log in.
    pub fn approve_device(&self, user_code: &str, user: &str) -> bool {
        self.0.world.logins.devices.approve(&self.0.world.tenants, user_code, user)
    }

    /// Refuses the client that waits with `user_code`. False: no client does.
    pub fn decline_device(&self, user_code: &str) -> bool {
        self.0.world.logins.devices.decline(user_code)
    }

    /// Takes effect from now on. False: no organisation has such a user.
    pub fn set_user_state(&self, user: &str, state: UserState) -> bool {
        self.0.world.tenants.iter().any(|tenant| tenant.accounts.set_state(user, state))
    }

    /// Grants the application these roles and no others. As at Entra ID, they are in tokens that are issued
    /// from now on. False: there is no such organisation.
    pub fn set_roles(&self, directory: &str, roles: &[&str]) -> bool {
        self.0.world.set_roles(directory, roles.iter().map(|role| (*role).to_owned()).collect())
    }

    /// Ends all logins of a user: refresh tokens no longer work (50173), access tokens do until they expire.
    /// False: no organisation has such a user.
    pub fn revoke_logins(&self, user: &str) -> bool {
        self.0.world.tenants.iter().any(|tenant| tenant.accounts.revoke(user))
    }

    /// Whether Exchange now accepts this access token for submitting mail as `mailbox`.
    pub fn opens_smtp(&self, token: &str, mailbox: &str) -> bool {
        self.0.world.tokens.check_exchange(token).is_ok_and(|grant| grant.may_submit_as(mailbox))
    }

    /// # Panics
    ///
    /// If the fault could not strike: see [`Fault::check`].
    pub fn inject(&self, fault: Fault) {
        if let Err(error) = fault.check() {
            panic!("{fault:?}: {error}");
        }
        self.0.world.faults.inject(fault);
    }

    pub fn clear_faults(&self) {
        self.0.world.faults.clear();
    }

    /// Faults that may still strike.
    pub fn faults(&self) -> Vec<Fault> {
        self.0.world.faults.active()
    }

    /// Stops for all handles: cuts the calls in progress, closes the others' connections, and returns when
    /// the ports are free.
    pub async fn shutdown(self) {
        self.0.world.stop.cancel();
        self.0.task.wait().await;
    }
}

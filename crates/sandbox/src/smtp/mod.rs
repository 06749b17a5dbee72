//! SMTP submission as `smtp.office365.com:587` offers it: STARTTLS, XOAUTH2, and a message for the mailbox
//! that logged in.
//!
//! As strict as the documents are, and where they say nothing, harder on the client ([`SubmissionRules`] has
//! the choices). A message is among the delivered ones before its 250 is sent. Once its last octet has
//! arrived it is judged and delivered, whether the client is still there or not. The dialogue is kept
//! ([`SmtpLine`]), without passwords, tokens and content.
//!
//! | file | what |
//! |---|---|
//! | `dialogue` | one connection: commands in, and which function answers each |
//! | `session` | its state, replies out, faults |
//! | `login` | AUTH |
//! | `mail`, `delivery` | MAIL and RCPT; the judgement on a message |
//! | `transaction` | a message until its content ends |
//! | `content` | DATA and BDAT |
//! | `command`, `parameters` | one line, and the parameters of MAIL and RCPT |
//! | `replies` | Microsoft's words |
//! | `wire` | lines and octets of a connection |
//! | `identity`, `shared` | the certificate, and the one that signed it; what all sessions share |
//! | `standing`, `seat` | how many sessions a mailbox has; one of them that has logged in |
//! | `rules`, `envelope`, `record` | options, what is recorded of a message, of the sessions |

mod command;
mod content;
mod delivery;
mod dialogue;
pub(crate) mod envelope;
mod identity;
mod login;
mod mail;
mod parameters;
pub(crate) mod record;
mod replies;
pub(crate) mod rules;
mod seat;
mod session;
pub(crate) mod shared;
pub(crate) mod standing;
mod transaction;
mod wire;

use std::{sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

pub use envelope::{SmtpEnvelope, SmtpRecipient};
pub use record::{SmtpLine, SmtpSessions};
pub use rules::{ConnectionsCountAt, SenderRefusal, SubmissionRules};

use self::session::Session;
use super::world::World;

/// Takes connections until the service stops, each on a task of its own.
pub(super) async fn serve(world: Arc<World>, listener: TcpListener, tasks: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = world.stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, client)) => {
                // Only speed is lost if this fails.
                let _ = stream.set_nodelay(true);
                let session = Session::new(world.clone(), stream, client.ip());
                let stop = world.stop.clone();
                tasks.spawn(async move {
                    tokio::select! {
                        () = session.run() => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
            // Out of descriptors, most likely: others must close first.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

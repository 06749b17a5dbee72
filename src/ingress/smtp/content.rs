//! DATA: from the 354 to the reply that says what became of the message.
//!
//! The content goes into a [`Submission`] as it comes. A message that is refused on the way is still read to its real end:
//! a reply before that would let the rest of the message pass for commands.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tracing::info;

use super::{
    data::{DataReader, Piece},
    reply::Reply,
    session::{Accepted, Session},
};
use crate::{
    ingress::{Refusal, Submission},
    telemetry::{Ingress, Refused},
};

/// Reads the content and settles the message; `None` if the client stalls. An error ends the connection. Either way
/// there is no message then.
pub(super) async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
    session: &mut Session<S>,
    accepted: Accepted,
) -> io::Result<Option<Reply>> {
    let Accepted { grant, envelope, origin } = accepted;
    let tenant = grant.tenant.name.clone();
    let sender = envelope.sender().cloned();
    let recipients = envelope.recipients().len();
    let door = session.service.door.clone();

    let submission = Submission::begin(&door, grant, envelope, origin);
    let mut message = Ok(submission);
    let mut size = 0u64;
    let mut reader = DataReader::new();
    loop {
        let Some(input) = session.wire.content().await? else { return Ok(None) };
        let mut rest = input;
        let mut ended = false;
        while let Some(piece) = reader.next(&mut rest) {
            let Piece::Content(content) = piece else {
                ended = true;
                break;
            };
            size += content.len() as u64;
            let Ok(submission) = &mut message else { continue };
            if let Err(refusal) = take(submission, content, size, &reader, &door).await {
                message = Err(refusal);
            }
        }
        let used = input.len() - rest.len();
        session.wire.consume(used);
        if ended {
            break;
        }
    }

    let stored = match message {
        Ok(submission) => submission.finish_by(Instant::now() + session.service.reply_within).await,
        Err(refusal) => Err(refusal),
    };
    match stored {
        Ok(id) => {
            session.forgive();
            session.service.metrics.received(&tenant, Ingress::Smtp);
            let sender = sender.as_ref().map_or("", |sender| sender.as_str());
            info!(%id, %tenant, sender, recipients, size, "accepted");
            Ok(Some(Reply::new(250, "2.0.0", format!("Ok: queued as {id}"))))
        }
        Err(refusal) => Ok(Some(session.refuse("DATA", &refusal))),
    }
}

async fn take(
    submission: &mut Submission,
    content: &[u8],
    size: u64,
    reader: &DataReader,
    door: &crate::ingress::Door,
) -> Result<(), Refusal> {
    door.check_size(size)?;
    if reader.has_bare_newline() {
        let text = "Lines of a message end with CR LF: bare CR or LF found";
        return Err(Refusal::new(550, "5.6.11", text, Refused::Malformed));
    }
    submission.write(content).await
}

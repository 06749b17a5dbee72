//! The content of a message, by DATA or BDAT: from its first octet to the reply that gives the outcome.
//!
//! The content goes into a [`Submission`] as it comes. A message that is refused on the way is still read to
//! its real end: a reply before that would let the rest of the message pass for commands.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tracing::info;

use super::{
    conversation::{Admitted, Conversation},
    data::{DataReader, Piece},
    memory::Holding,
    reply::Reply,
};
use crate::{
    config::BareNewlines,
    ingress::{
        Refusal, Submission,
        newlines::{BareNewline, Lenience, Newlines},
    },
    telemetry::{List, Refused},
};
use relay_mail::{Ingress, MailboxAddress, TenantName};

/// A message whose content is coming in.
pub(super) struct Incoming {
    message: Result<Submission, Refusal>,
    /// Of the memory for envelopes and headers.
    holding: Holding,
    /// Octets that the envelope takes up of it.
    envelope: u64,
    newlines: Newlines,
    size: u64,
    tenant: TenantName,
    sender: Option<MailboxAddress>,
    recipients: List,
}

impl Incoming {
    pub(super) fn begin<S>(talk: &Conversation<S>, accepted: Admitted) -> Self {
        let Admitted { grant, envelope, origin, holding, held } = accepted;
        let limits = &talk.service.limits;
        let lenience = match limits.bare_newlines {
            BareNewlines::Refuse => Lenience::None,
            BareNewlines::Fix => Lenience::Both,
        };
        Self {
            tenant: grant.tenant.name.clone(),
            sender: envelope.sender().cloned(),
            recipients: List::of_recipients(envelope.recipients()),
            message: Ok(Submission::begin(&talk.service.door, grant, envelope, origin)),
            holding,
            envelope: held,
            newlines: Newlines::new(lenience),
            size: 0,
        }
    }

    /// Takes the next part of the content. Nothing is kept of a message that is refused.
    async fn take(&mut self, content: &[u8]) {
        self.size += content.len() as u64;
        let Ok(submission) = &mut self.message else { return };
        let taken = match self.newlines.mend(content) {
            Ok(mended) => submission.write(&mended).await,
            Err(bare) => Err(bare.into()),
        };
        let held = self.envelope + submission.held() as u64;
        if let Err(refusal) = taken.and_then(|()| self.holding.hold(held)) {
            self.message = Err(refusal);
            // Giving back is never refused.
            let _ = self.holding.hold(0);
        }
    }

    /// The content is complete. Returns the outcome of the message.
    async fn finish<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        talk: &mut Conversation<S>,
        verb: &'static str,
    ) -> Reply {
        let Self { message, newlines, size, tenant, sender, recipients, .. } = self;
        // The client waits this long for the reply.
        let reply_by = Instant::now() + talk.service.limits.reply_within;
        let stored = async {
            let mut submission = message?;
            submission.write(newlines.finish()?).await?;
            submission.finish_by(reply_by).await
        };
        match stored.await {
            Ok(id) => {
                talk.forgive();
                talk.service.metrics.received(&tenant, Ingress::Smtp);
                let sender = sender.as_ref().map_or("", |sender| sender.as_str());
                info!(%id, %tenant, sender, ?recipients, size, "message accepted");
                Reply::new(250, "2.0.0", format!("Ok: queued as {id}"))
            }
            Err(refusal) => talk.refuse(verb, &refusal),
        }
    }
}

impl From<BareNewline> for Refusal {
    fn from(_: BareNewline) -> Self {
        let text = "Lines of a message end with CR LF: bare CR or LF found";
        Self::new(550, "5.6.11", text, Refused::Malformed)
    }
}

/// DATA: reads the content and settles the message; `None` if the client stalls. An error ends the
/// connection. Either way there is no message then.
pub(super) async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
    talk: &mut Conversation<S>,
    accepted: Admitted,
) -> io::Result<Option<Reply>> {
    let mut incoming = Incoming::begin(talk, accepted);
    let mut reader = DataReader::new();
    let deadline = talk.ends();
    loop {
        let Some(input) = talk.wire.content(deadline).await? else { return Ok(None) };
        let mut rest = input;
        let mut ended = false;
        while let Some(piece) = reader.next(&mut rest) {
            let Piece::Content(content) = piece else {
                ended = true;
                break;
            };
            incoming.take(content).await;
        }
        let used = input.len() - rest.len();
        talk.wire.consume(used);
        if ended {
            return Ok(Some(incoming.finish(talk, "DATA").await));
        }
    }
}

/// BDAT: reads one chunk (RFC 3030 section 2). `chunked` is the message that more chunks are to come for.
/// `None` and errors mean the same as for [`receive`].
///
/// A chunk is read whatever its outcome, since the client sends it without waiting for an answer.
pub(super) async fn receive_chunk<S: AsyncRead + AsyncWrite + Unpin>(
    talk: &mut Conversation<S>,
    chunked: &mut Option<Box<Incoming>>,
    octets: u64,
    is_last: bool,
) -> io::Result<Option<Reply>> {
    let deadline = talk.ends();
    let begun = match chunked.take() {
        Some(incoming) => Ok(incoming),
        None => talk.end_envelope().map(|accepted| Box::new(Incoming::begin(talk, accepted))),
    };
    let mut incoming = match begun {
        Ok(incoming) => incoming,
        Err(reply) => return Ok(talk.wire.skip(octets, deadline).await?.then_some(reply)),
    };
    let mut left = octets;
    while left > 0 {
        let Some(input) = talk.wire.content(deadline).await? else { return Ok(None) };
        let part = &input[..input.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        incoming.take(part).await;
        let used = part.len();
        left -= used as u64;
        talk.wire.consume(used);
    }
    if is_last {
        return Ok(Some(incoming.finish(talk, "BDAT").await));
    }
    // A refused chunk ends the transaction: chunks that follow find none.
    if let Err(refusal) = &incoming.message {
        return Ok(Some(talk.refuse("BDAT", refusal)));
    }
    *chunked = Some(incoming);
    Ok(Some(Reply::new(250, "2.0.0", format!("{octets} octets received"))))
}

//! A claimed message, opened: what every route must know about it.

use std::io;

use bytes::Bytes;

use relay_mail::{
    Addressed, HeaderBlock, HeaderScanner, MAX_STORED_HEADER, MessageId, SplitMessage, Visible, address_to,
};
use relay_spool::{BodyReader, Claim, DamagedBody, OpenBody};

pub(super) struct Letter {
    header: HeaderBlock,
    addressed: Addressed,
    begun: Bytes,
    rest: OpenBody,
    message_id: Option<String>,
    is_part: bool,
}

/// A message ready to be sent, as often as is needed.
#[derive(Debug, Clone)]
pub(super) struct Mime {
    /// With the empty line.
    pub(super) header: Bytes,
    /// Octets of body that came with the header.
    pub(super) begun: Bytes,
    pub(super) rest: OpenBody,
}

impl Mime {
    pub(super) fn len(&self) -> u64 {
        self.header.len() as u64 + self.begun.len() as u64 + self.rest.remaining()
    }
}

/// The field at the top that tells one part of a divided message from another: all parts have the same
/// Message-ID. The field does not leave the relay. A field further down is a client's own and no business of
/// the relay: above what a client has written, there is a `Received`.
const PART_OF: &str = "X-M365-Relay-Part-Of";

/// The mark at the top of a part of the message `id`.
pub(super) fn part_mark(id: MessageId) -> String {
    format!("{PART_OF}: {id}\r\n")
}

/// Whether a stored message with this beginning is a part.
pub(super) fn is_marked(begin: &[u8]) -> bool {
    begin.strip_prefix(PART_OF.as_bytes()).is_some_and(|rest| rest.starts_with(b": "))
}

impl Letter {
    /// `Err`: the body is damaged or cannot be read now.
    pub(super) async fn open(claim: &Claim) -> Result<Self, DamagedBody> {
        let (SplitMessage { header, body }, rest, is_part) = read(&claim.body).await?;
        let addressed = address_to(&header, &claim.message.envelope);
        let message_id = message_id(&header);
        Ok(Self { header, addressed, begun: body.into(), rest, message_id, is_part })
    }

    /// With its angle brackets.
    pub(super) fn message_id(&self) -> Option<&str> {
        self.message_id.as_deref()
    }

    /// Whether To and Cc name nobody outside the envelope.
    pub(super) fn visible(&self) -> Visible {
        self.addressed.visible
    }

    /// Whether it is one of several that a message was divided into for SMTP.
    pub(super) fn is_part(&self) -> bool {
        self.is_part
    }

    /// The header whose To, Cc and Bcc name the envelope's recipients.
    pub(super) fn addressed_header(&self) -> &HeaderBlock {
        &self.addressed.header
    }

    /// With its header as it came.
    pub(super) fn as_it_is(&self) -> Mime {
        self.with(self.header.clone())
    }

    /// With To, Cc and Bcc as the envelope says.
    pub(super) fn addressed(&self) -> Mime {
        self.with(self.addressed.header.clone())
    }

    fn with(&self, header: HeaderBlock) -> Mime {
        let mut header = header.into_bytes();
        header.extend_from_slice(b"\r\n");
        Mime { header: header.into(), begun: self.begun.clone(), rest: self.rest.clone() }
    }
}

fn message_id(header: &HeaderBlock) -> Option<String> {
    let field = header.named("Message-ID").next()?;
    let value = field.value();
    let text = std::str::from_utf8(&value).ok()?;
    let start = text.find('<')?;
    let end = text.find('>')?;
    text.get(start..=end).map(str::to_owned)
}

/// The Message-ID of a stored message, with its angle brackets.
pub async fn stored_message_id(body: &BodyReader) -> Result<Option<String>, DamagedBody> {
    let (split, _) = read_header(body).await?;
    Ok(message_id(&split.header))
}

/// The header of a stored message, the octets of body that came with it, and the rest.
pub(super) async fn read_header(body: &BodyReader) -> Result<(SplitMessage, OpenBody), DamagedBody> {
    read(body).await.map(|(split, rest, _)| (split, rest))
}

/// The same, and whether it is a part. The mark is removed.
async fn read(body: &BodyReader) -> Result<(SplitMessage, OpenBody, bool), DamagedBody> {
    let mut open = body.open().await?;
    let mut scanner = HeaderScanner::with_limit(MAX_STORED_HEADER);
    let unreadable = |e: String| body.damaged(io::Error::new(io::ErrorKind::InvalidData, e));
    let mut whole = None;
    while whole.is_none()
        && let Some(part) = open.next().await.map_err(|e| body.damaged(e))?
    {
        whole = scanner.push(&part).map_err(|e| unreadable(e.to_string()))?;
    }
    let SplitMessage { header, body } = match whole {
        Some(split) => split,
        None => scanner.finish().map_err(|e| unreadable(e.to_string()))?,
    };
    let is_part = header.fields().next().is_some_and(|field| field.is(PART_OF));
    let header = if is_part { HeaderBlock::from_fields(header.fields().skip(1)) } else { header };
    Ok((SplitMessage { header, body }, open, is_part))
}

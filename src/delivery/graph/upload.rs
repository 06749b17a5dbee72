//! An attachment by upload session: pieces below 4 MB, strictly one after the other.
//!
//! After an interrupted piece, the service is asked how far the upload has come, and the upload continues
//! from there. A session that has expired or is gone is begun again, unless the attachment turns out to be
//! there.

use bytes::Bytes;
use http::Method;
use tracing::{debug, info};

use super::{
    Passage,
    answer::CallError,
    content_reader::ContentReader,
    conversation::Request,
    draft::{Added, Draft, json_body},
    named::UploadUrl,
    resource::{AttachmentItem, CreateUploadSession, UploadProgress, UploadSession},
};
use relay_mail::Attachment;

/// Below 4 MB, and a multiple of 320 KiB, which other services of Graph ask for.
const PIECE: usize = 12 * 320 * 1024;
/// Sessions for one attachment in one attempt.
const SESSIONS: u32 = 3;
/// Calls for one piece.
const TRIES: u32 = 6;

enum Uploaded {
    Whole,
    /// The session is gone.
    SessionGone,
}

/// Adds the attachment to the draft, which has `before` others.
pub(super) async fn upload(
    passage: &mut Passage<'_>,
    draft: &Draft,
    attachment: &Attachment,
    before: usize,
) -> Result<Added, CallError> {
    for session in 1..=SESSIONS {
        let url = begin(passage, draft, attachment).await?;
        let reader = passage.mime.content(attachment.range.clone(), attachment.encoding);
        match put_all(passage, &url, reader, attachment.decoded_len).await? {
            Uploaded::Whole if session == 1 => return Ok(Added::Once),
            Uploaded::Whole => return Ok(Added::PerhapsTwice),
            Uploaded::SessionGone if passage.attached(draft).await? > before => {
                return Ok(Added::PerhapsTwice);
            }
            Uploaded::SessionGone => {
                info!(id = %passage.claim.lease.id, session, "upload session lost; starting another");
            }
        }
    }
    Err(CallError::stopped("upload sessions end before they are complete"))
}

async fn begin(
    passage: &mut Passage<'_>,
    draft: &Draft,
    attachment: &Attachment,
) -> Result<UploadUrl, CallError> {
    let item = AttachmentItem {
        attachment_type: "file",
        name: &attachment.name,
        size: attachment.decoded_len,
        content_type: &attachment.content_type,
        is_inline: attachment.is_inline,
        content_id: attachment.content_id.as_deref(),
    };
    let body = json_body(&CreateUploadSession { item });
    let mut tries = 1;
    loop {
        let path = ["messages", &draft.id, "attachments", "createUploadSession"];
        match passage.talk.call(Request::new(Method::POST, &path, body.clone())).await {
            Ok(answer) => {
                let session = answer.json::<UploadSession>();
                let session =
                    session.ok_or_else(|| CallError::stopped("Graph's upload session cannot be read"))?;
                let url = UploadUrl::parse(&session.upload_url, &passage.talk.tenant.cloud);
                return url.map_err(|foreign| CallError::stopped(foreign.to_string()));
            }
            Err(error) => match error.worth_waiting(tries).filter(|_| tries < TRIES) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            },
        }
        tries += 1;
    }
}

async fn put_all(
    passage: &mut Passage<'_>,
    url: &UploadUrl,
    mut reader: ContentReader,
    total: u64,
) -> Result<Uploaded, CallError> {
    let mut ahead = Vec::with_capacity(PIECE + 256 * 1024);
    let mut at = 0;
    while at < total {
        while ahead.len() < PIECE && reader.more(&mut ahead).await.map_err(|e| CallError::cannot_read(&e))? {}
        let len = ahead.len().min(PIECE);
        if len == 0 {
            return Err(CallError::stopped_here("the attachment has become shorter"));
        }
        let rest = ahead.split_off(len);
        let piece = Bytes::from(std::mem::replace(&mut ahead, rest));
        ahead.reserve(PIECE);
        match put(passage, url, piece, at, total).await? {
            Uploaded::Whole => at += len as u64,
            Uploaded::SessionGone => return Ok(Uploaded::SessionGone),
        }
    }
    Ok(Uploaded::Whole)
}

/// Puts one piece, all of it.
async fn put(
    passage: &mut Passage<'_>,
    url: &UploadUrl,
    piece: Bytes,
    start: u64,
    total: u64,
) -> Result<Uploaded, CallError> {
    let end = start + piece.len() as u64;
    let mut at = start;
    let mut tries = 1;
    while at < end {
        // Both lie in the piece.
        let part = piece.slice((at - start) as usize..);
        let range = format!("bytes {at}-{}/{total}", end - 1);
        let error = match passage.talk.upload(url, Some((part, range))).await {
            Ok(_) => return Ok(Uploaded::Whole),
            Err(error) if error.is_status(404) => return Ok(Uploaded::SessionGone),
            Err(error) => error,
        };
        // The service has part of it already, or waits for another part.
        let is_range = error.is_status(416);
        let pause = if is_range { Some(std::time::Duration::ZERO) } else { error.worth_waiting(tries) };
        let Some(pause) = pause.filter(|_| tries < TRIES) else { return Err(error) };
        debug!(id = %passage.claim.lease.id, ?error, "upload of a range failed");
        tries += 1;
        tokio::time::sleep(pause).await;
        match passage.talk.upload(url, None).await {
            Ok(answer) => match answer.json::<UploadProgress>().and_then(|progress| progress.next()) {
                Some(next) if (start..=end).contains(&next) => at = next,
                _ => return Ok(Uploaded::SessionGone),
            },
            Err(error) if error.is_status(404) => return Ok(Uploaded::SessionGone),
            // The piece itself will tell.
            Err(_) => {}
        }
    }
    Ok(Uploaded::Whole)
}

//! `/v1.0/users/{mailbox}/…`: which operation, whether the token allows it, and whether the mailbox has room
//! for it.
//!
//! Refusals come in this order: token (401), unknown path (400), permission (403), unknown mailbox (404),
//! throttling (429), size (413), then whatever the operation itself finds.

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::Method;
use tokio::time::Instant;

use super::{
    attachments,
    caller::Caller,
    drafts,
    errors::GraphError,
    exchange::{BodyError, Exchange, Outcome},
    fault_answers::with_faults,
    faults::On,
    items::Folder,
    limits::Permit,
    send,
    token::Grant,
    uploads,
    urlencoded::decode_percent,
    world::World,
};

const READ: &[&str] = &["Mail.ReadWrite", "Mail.Read", "Mail.ReadBasic", "Mail.ReadBasic.All"];
/// Mail.ReadBasic is not among them: it excludes bodies, attachments and extended properties.
const READ_ALL: &[&str] = &["Mail.ReadWrite", "Mail.Read"];
const WRITE: &[&str] = &["Mail.ReadWrite"];
const SEND: &[&str] = &["Mail.Send"];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operation {
    SendMail,
    List(Folder),
    Create,
    Read(String),
    Update(String),
    Delete(String),
    Send(String),
    Attach(String),
    ListAttachments(String),
    BeginUpload(String),
}

pub(super) async fn answer(world: &World, exchange: &mut Exchange, body: Body) -> Outcome {
    let (mailbox, operation) = parse(&exchange.method, exchange.uri.path());
    exchange.mailbox = mailbox;
    let grant = world.tokens.check(exchange.header("authorization"));
    let tenant = grant.as_ref().ok().map(|grant| grant.tenant.clone());
    exchange.directory = tenant.as_ref().map(|tenant| tenant.directory.name().to_owned());
    let on = operation.as_ref().map_or(On::AnyGraph, Operation::on);
    let caller = grant.and_then(|grant| admit(world, exchange, grant, operation));
    let body = match exchange.read(body, world.options.limits.request_bytes).await {
        Ok(body) => Ok(body),
        Err(BodyError::TooLarge) => Err(GraphError::too_large()),
        Err(BodyError::Broken) => return Outcome::Cut,
    };
    let directory = tenant.as_ref().map(|tenant| &tenant.directory);
    with_faults(world, on, directory, exchange, |exchange| {
        let result = caller.and_then(|(caller, operation)| {
            let limits = &world.options.limits;
            let charged = caller.mailbox.gate.upload(exchange.body_len, limits, Instant::now());
            charged.map_err(|t| GraphError::throttled(t, &world.options.retry_after))?;
            perform(&caller, operation, exchange, body?)
        });
        result.unwrap_or_else(|error| error.into_response(exchange))
    })
    .await
}

fn admit<'a>(
    world: &'a World,
    exchange: &Exchange,
    grant: Grant,
    operation: Result<Operation, GraphError>,
) -> Result<(Caller<'a>, Operation), GraphError> {
    let operation = operation?;
    if !grant.has_role(operation.roles()) {
        return Err(GraphError::denied());
    }
    let address = exchange.mailbox.as_deref().unwrap_or_default();
    if !grant.may_use(address) {
        return Err(GraphError::denied());
    }
    let reads_bodies = grant.has_role(READ_ALL);
    let mailbox = grant.tenant.mailbox(address).ok_or_else(|| GraphError::no_such_user(address))?;
    let permit = Permit::take(&mailbox.gate, &world.options.limits, Instant::now())
        .map_err(|throttled| GraphError::throttled(throttled, &world.options.retry_after))?;
    Ok((Caller { world, tenant: grant.tenant, mailbox, reads_bodies, _permit: permit }, operation))
}

fn perform(
    caller: &Caller<'_>,
    operation: Operation,
    exchange: &Exchange,
    body: Bytes,
) -> Result<Response, GraphError> {
    match operation {
        Operation::SendMail => send::send_mail(caller, exchange, body),
        Operation::List(folder) => drafts::list(caller, exchange, folder),
        Operation::Create => drafts::create(caller, exchange, body),
        Operation::Read(id) => drafts::read(caller, exchange, &id),
        Operation::Update(id) => drafts::update(caller, exchange, &id, &body),
        Operation::Delete(id) => drafts::delete(caller, &id),
        Operation::Send(id) => drafts::send(caller, exchange, &id),
        Operation::Attach(id) => attachments::attach(caller, &id, &body),
        Operation::ListAttachments(id) => attachments::list(caller, exchange, &id),
        Operation::BeginUpload(id) => uploads::begin(caller, &id, &body),
    }
}

impl Operation {
    fn roles(&self) -> &'static [&'static str] {
        match self {
            Self::SendMail | Self::Send(_) => SEND,
            Self::List(_) | Self::Read(_) => READ,
            Self::ListAttachments(_) => READ_ALL,
            _ => WRITE,
        }
    }

    fn on(&self) -> On {
        match self {
            Self::SendMail => On::SendMail,
            Self::Send(_) => On::SendDraft,
            Self::Create => On::CreateDraft,
            Self::Update(_) => On::UpdateDraft,
            Self::Attach(_) => On::Attach,
            Self::BeginUpload(_) => On::BeginUpload,
            Self::List(_) | Self::Read(_) | Self::ListAttachments(_) => On::Read,
            Self::Delete(_) => On::DeleteDraft,
        }
    }
}

/// The mailbox and the operation requested on it. Names in the path are compared without case, as Graph does.
fn parse(method: &Method, path: &str) -> (Option<String>, Result<Operation, GraphError>) {
    let mut segments: Vec<String> = path.split('/').skip(2).map(|part| decode_percent(part, false)).collect();
    // A key in parentheses, with quotes doubled (OData 4.01, URL conventions, section 4.3.1).
    if let Some(key) = segments.first().and_then(|first| first.strip_prefix("users('")?.strip_suffix("')")) {
        let key = key.replace("''", "'");
        segments.splice(..1, ["users".to_owned(), key]);
    }
    let lower: Vec<String> = segments.iter().map(|part| part.to_ascii_lowercase()).collect();
    let mailbox = match lower.first().map(String::as_str) {
        Some("users") => segments.get(1).cloned(),
        _ => None,
    };
    let id = || segments.get(3).cloned().unwrap_or_default();
    let names: Vec<&str> = lower.iter().skip(2).map(String::as_str).collect();
    let operation = match (method.as_str(), names.as_slice()) {
        _ if mailbox.is_none() => None,
        ("POST", ["sendmail"]) => Some(Operation::SendMail),
        ("GET", ["messages"]) => Some(Operation::List(Folder::All)),
        ("GET", ["mailfolders", "drafts", "messages"]) => Some(Operation::List(Folder::Drafts)),
        ("GET", ["mailfolders", "sentitems", "messages"]) => Some(Operation::List(Folder::SentItems)),
        ("POST", ["messages"]) => Some(Operation::Create),
        ("GET", ["messages", _]) => Some(Operation::Read(id())),
        ("PATCH", ["messages", _]) => Some(Operation::Update(id())),
        ("DELETE", ["messages", _]) | ("POST", ["messages", _, "permanentdelete"]) => {
            Some(Operation::Delete(id()))
        }
        ("POST", ["messages", _, "send"]) => Some(Operation::Send(id())),
        ("GET", ["messages", _, "attachments"]) => Some(Operation::ListAttachments(id())),
        ("POST", ["messages", _, "attachments"]) => Some(Operation::Attach(id())),
        ("POST", ["messages", _, "attachments", "createuploadsession"]) => Some(Operation::BeginUpload(id())),
        _ => None,
    };
    let operation = operation.ok_or_else(|| {
        let last = segments.last().cloned().unwrap_or_default();
        GraphError::bad("BadRequest", format!("Resource not found for the segment '{last}' and {method}."))
    });
    (mailbox, operation)
}

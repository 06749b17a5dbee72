//! The values that labels can take. No label is free text, and none holds an address.

/// Why a message or a command was refused at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No tenant takes mail from this client with this sender, or more than one does.
    NoTenant,
    /// The same, and it may be mail of a tenant whose configuration has mistakes.
    Configuration,
    /// The tenant may not use this envelope sender or header From.
    Sender,
    /// The client has to log in first.
    NoLogin,
    /// Too large, too many recipients, or too long a header.
    TooLarge,
    /// The tenant's `max_queued` is reached.
    TenantFull,
    /// The tenant's share of the disk, or its `max_queued_bytes`, is used up.
    TenantBytes,
    /// The disk is too full.
    DiskFull,
    /// The spool cannot write.
    Unhealthy,
    /// Not a mail message, or not a valid address.
    Malformed,
    /// It has passed too many servers.
    Loop,
    /// The tenant is suspended, and must not take mail while it is.
    Suspended,
    /// Too many connections.
    Connections,
    /// The tenant or the client's network has used up its share of the connections.
    ConnectionsShare,
    /// Too many connections from one client address.
    ConnectionsPerAddress,
    /// A connection that lasted as long as one may, whatever was in progress on it.
    SessionTimeout,
    /// The envelopes and headers that are being received take up all the memory that this client, this tenant
    /// or all may have.
    HeaderMemory,
    /// A proxy sent no readable PROXY header.
    ProxyHeader,
    /// A TLS handshake failed.
    TlsHandshake,
    /// Stored when its client no longer waited.
    Late,
    /// To or Cc names others than the envelope, and the tenant refuses that.
    Mismatch,
    /// A pickup folder that other users could replace with another, or that cannot be read.
    Folder,
}

/// How a delivery attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    Retry,
    Failed,
    Unknown,
    Held,
    TenantBlocked,
    MailboxBlocked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    Graph,
    /// SMTP submission.
    Smtp,
}

/// Which limit a mailbox waits for or was throttled by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LimitKind {
    MessagesPerMinute,
    ConcurrentRequests,
    RecipientsPerDay,
    RequestsPer10Minutes,
    UploadPer5Minutes,
    /// Calls of one application, over all its tenants.
    AppRequests,
    /// The service said when: 429 or 503 with Retry-After.
    Service,
    /// Not a limit: something about the mailbox must be fixed, and it is checked now and then.
    Mailbox,
    /// Not a limit: somebody has suspended the mailbox.
    Suspended,
}

/// What a failed attempt failed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// No connection: nothing was sent.
    Connection,
    /// A connection broke off, or no answer came in time.
    Interrupted,
    /// The service cannot at present, or its answer makes no sense.
    Service,
    /// Too many calls.
    Throttled,
    /// The mailbox has sent as much as it may in an hour or a day.
    Quota,
    /// A limit that this relay keeps: nothing was tried.
    Limit,
    /// The login service is unreachable, overloaded or at fault.
    Login,
    /// The login service refuses the tenant's credential.
    Credential,
    /// The relay's own request for a token was wrong.
    Defect,
    /// The service does not accept the token.
    Token,
    /// The app lacks a permission, or the tenant is closed to it.
    Permission,
    /// Something about the mailbox must be fixed.
    Mailbox,
    /// The mailbox may not send as this sender.
    SendAs,
    /// The service does not take a recipient.
    Recipients,
    /// The service does not take such a message.
    Content,
    TooLarge,
    Malware,
    /// The service would have sent it to others than the envelope names.
    RecipientsDiffer,
    /// Something on this machine.
    Relay,
}

impl ErrorClass {
    /// Whether the service was called about the message.
    pub const fn is_of_a_call(self) -> bool {
        !matches!(self, Self::Limit | Self::Login | Self::Credential | Self::Defect)
    }
}

/// What an unknown outcome turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolved {
    /// The message was found among what the mailbox has sent.
    Arrived,
    /// The message was looked for until `settle_after` had passed, and is sent again.
    NotSent,
    /// Nothing could be asked about it; sent again after `settle_after`.
    Resent,
}

/// What became of a message whose draft had other recipients than its envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecipientMismatch {
    /// The service calls some of them by another address. The message went.
    Respelled,
    /// The draft's recipients were set again, and then were those of the envelope. The message went.
    Mended,
    /// They were set again to no effect. The message is held.
    Held,
}

/// How a client's login went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginResult {
    Ok,
    /// Accepted as one of the last minutes' logins was.
    Cached,
    /// Wrong password.
    Wrong,
    /// There is no such user.
    Unknown,
    /// Not checked after too many failures.
    Locked,
    /// Not checked because too many others were being checked.
    Busy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenResult {
    Ok,
    Transient,
    Blocked,
    /// The relay's request was wrong.
    Defect,
}

/// Why a connection or a request for metrics, health or the API was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminRefused {
    /// It gave its seat to another: it had asked nothing, or did not read its answer.
    Crowded,
    /// The request, the answer or the reading of it took too long.
    Timeout,
    TooLarge,
    /// Not HTTP.
    Malformed,
    /// `Host` is missing, or names another machine.
    Host,
    /// No token, a wrong one, or none that would be accepted.
    Token,
    /// Too many requests at a time.
    Busy,
}

macro_rules! label {
    ($($kind:ty { $($variant:ident => $text:literal),+ $(,)? })+) => {$(
        impl $kind {
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    )+};
}

label! {
    Refused {
        NoTenant => "no_tenant", Configuration => "configuration", Sender => "sender", NoLogin => "no_login", TooLarge => "too_large", TenantFull => "tenant_full",
        TenantBytes => "tenant_bytes",
        DiskFull => "disk_full", Unhealthy => "unhealthy", Malformed => "malformed", Connections => "connections",
        Loop => "loop", Suspended => "suspended",
        ConnectionsShare => "connections_share",
        ConnectionsPerAddress => "connections_per_address", SessionTimeout => "session_timeout", HeaderMemory => "header_memory", ProxyHeader => "proxy_header", TlsHandshake => "tls_handshake",
        Late => "late", Mismatch => "mismatch", Folder => "folder",
    }
    AdminRefused {
        Crowded => "crowded", Timeout => "timeout", TooLarge => "too_large", Malformed => "malformed",
        Host => "host", Token => "token", Busy => "busy",
    }
    Outcome {
        Delivered => "delivered", Retry => "retry", Failed => "failed", Unknown => "unknown", Held => "held",
        TenantBlocked => "tenant_blocked", MailboxBlocked => "mailbox_blocked",
    }
    Route { Graph => "graph", Smtp => "smtp" }
    LimitKind {
        MessagesPerMinute => "messages_per_minute", ConcurrentRequests => "concurrent_requests",
        RecipientsPerDay => "recipients_per_day", RequestsPer10Minutes => "requests_per_10_minutes",
        UploadPer5Minutes => "upload_per_5_minutes", AppRequests => "app_requests", Service => "service",
        Mailbox => "mailbox", Suspended => "suspended",
    }
    ErrorClass {
        Connection => "connection", Interrupted => "interrupted", Service => "service",
        Throttled => "throttled", Quota => "quota", Limit => "limit", Login => "login",
        Credential => "credential", Defect => "defect", Token => "token", Permission => "permission",
        Mailbox => "mailbox", SendAs => "send_as", Recipients => "recipients", Content => "content",
        TooLarge => "too_large", Malware => "malware", RecipientsDiffer => "recipients_differ",
        Relay => "relay",
    }
    Resolved { Arrived => "arrived", NotSent => "not_sent", Resent => "resent" }
    RecipientMismatch { Respelled => "respelled", Mended => "mended", Held => "held" }
    LoginResult {
        Ok => "ok", Cached => "cached", Wrong => "wrong", Unknown => "unknown", Locked => "locked", Busy => "busy",
    }
    TokenResult { Ok => "ok", Transient => "transient", Blocked => "blocked", Defect => "defect" }
}

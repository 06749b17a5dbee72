//! One connection to the service: greeting, TLS, login, and then commands and replies.
//!
//! No secret and no mail is sent before TLS is established and the certificate is checked.

use std::{io, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use prometheus::IntGauge;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};
use zeroize::Zeroizing;

use super::{
    Broken,
    dial::{Dialer, Duplex},
    reply::{Extensions, Malformed, Reply},
};
use crate::{
    config::{Cloud, CloudName, SmtpAddress, Tenant},
    identity::AccessToken,
};
use relay_mail::MailboxAddress;

/// A connection that is logged in.
pub(super) struct Connection {
    pub(super) talk: Talk,
    pub(super) extensions: Extensions,
    token: AccessToken,
    place: Destination,
    _open: Open,
}

/// Where a connection leads. Once the tenant's configuration has changed that, an old connection is of no
/// use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    cloud: CloudName,
    address: SmtpAddress,
    directory: String,
    client_id: String,
}

/// Commands and replies on a stream.
pub(super) struct Talk {
    stream: Duplex,
    input: BytesMut,
    /// The time for one reply, and for one write.
    patience: Duration,
}

/// Counts a connection while it lives.
pub(super) struct Open(IntGauge);

/// Why there is no connection.
pub(super) enum NotOpen {
    Broken(Broken),
    /// In answer to greeting, EHLO or STARTTLS.
    Refused(Reply),
    /// The login was refused.
    Login(Reply),
}

impl From<Broken> for NotOpen {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl Destination {
    /// `None`: the cloud has no SMTP.
    pub(super) fn of(tenant: &Tenant) -> Option<Self> {
        let Cloud { name, smtp, .. } = &tenant.cloud;
        Some(Self {
            cloud: name.clone(),
            address: smtp.clone()?,
            directory: tenant.directory.clone(),
            client_id: tenant.client_id.clone(),
        })
    }
}

impl Open {
    pub(super) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Connection {
    /// Connects and logs in as `mailbox`. `hostname` is this relay's.
    pub(super) async fn open(
        dialer: &Dialer,
        place: &Destination,
        hostname: &str,
        (mailbox, token): (&MailboxAddress, &AccessToken),
        patience: Duration,
        open: Open,
    ) -> Result<Self, NotOpen> {
        let Destination { cloud, address, .. } = place;
        let stream = dialer.connect(address, cloud).await?;
        let mut talk = Talk { stream, input: BytesMut::new(), patience };
        let greeting = talk.reply().await?;
        if !greeting.is_good() {
            return Err(NotOpen::Refused(greeting));
        }
        if !talk.hello(hostname).await?.start_tls {
            // A token is never sent unencrypted, whoever is between here and there.
            return Err(Broken::because(format!("{address} offers no STARTTLS")).into());
        }
        let answer = talk.command("STARTTLS").await?;
        if !answer.is_good() {
            return Err(NotOpen::Refused(answer));
        }
        if !talk.input.is_empty() {
            // Sent unencrypted, it would be taken for something that was sent under TLS.
            return Err(Broken::because(format!("{address} sent more than its answer to STARTTLS")).into());
        }
        let stream = dialer.encrypt(talk.stream, address, cloud).await?;
        let mut talk = Talk { stream, input: BytesMut::new(), patience };
        let extensions = talk.hello(hostname).await?;
        if !extensions.xoauth2 {
            return Err(Broken::because(format!("{address} offers no AUTH XOAUTH2")).into());
        }
        let answer = talk.log_in(mailbox, token).await?;
        if !answer.is_good() {
            return Err(NotOpen::Login(answer));
        }
        Ok(Self { talk, extensions, token: token.clone(), place: place.clone(), _open: open })
    }

    /// Whether it can be used again for `place`: it leads there, its token is valid, and the server has
    /// neither said anything nor closed it.
    pub(super) fn is_fit(&mut self, place: &Destination) -> bool {
        self.place == *place && self.token.expires() > Instant::now() && self.talk.is_quiet()
    }

    pub(super) fn has_token(&self, token: &AccessToken) -> bool {
        self.token.expose() == token.expose()
    }

    /// RFC 5321 section 4.1.1.10. Does not wait for long.
    pub(super) async fn quit(mut self, patience: Duration) {
        self.talk.patience = patience;
        // The connection is closed in any case.
        let _ = self.talk.command("QUIT").await;
    }
}

impl Talk {
    async fn hello(&mut self, hostname: &str) -> Result<Extensions, NotOpen> {
        self.ask(format!("EHLO {hostname}\r\n").as_bytes()).await?;
        let (reply, octets) = self.whole_reply().await?;
        if !reply.is_good() {
            return Err(NotOpen::Refused(reply));
        }
        Ok(Extensions::parse(&octets).map_err(|e| Broken::because(e.to_string()))?)
    }

    /// Microsoft, "Authenticate an IMAP, POP or SMTP connection using OAuth".
    async fn log_in(&mut self, mailbox: &MailboxAddress, token: &AccessToken) -> Result<Reply, Broken> {
        let said = Zeroizing::new(format!("user={mailbox}\u{1}auth=Bearer {}\u{1}\u{1}", token.expose()));
        let said = Zeroizing::new(STANDARD.encode(said.as_bytes()));
        let line = Zeroizing::new(format!("AUTH XOAUTH2 {}\r\n", *said));
        self.ask(line.as_bytes()).await?;
        let mut answer = self.reply().await?;
        if answer.code == 334 {
            // The reason, in JSON; the refusal itself comes once that is answered.
            answer = self.command("").await?;
        }
        Ok(answer)
    }

    /// Sends a line and waits for the reply.
    pub(super) async fn command(&mut self, line: &str) -> Result<Reply, Broken> {
        self.ask(format!("{line}\r\n").as_bytes()).await?;
        self.reply().await
    }

    /// Sends something that expects a reply. Octets that were received before are no reply to it. They
    /// would be taken for one, though they belong to another command or come from a server that answers what
    /// it was not asked. A connection with such octets is of no more use.
    pub(super) async fn ask(&mut self, octets: &[u8]) -> Result<(), Broken> {
        self.expect_quiet()?;
        self.write(octets).await
    }

    /// Checks that nothing was received without being asked for.
    pub(super) fn expect_quiet(&mut self) -> Result<(), Broken> {
        if self.is_quiet() {
            return Ok(());
        }
        Err(Broken::because(match self.heard() {
            Some(reply) => format!("the server replied before any command: {reply}"),
            None if self.input.is_empty() => "the server closed the connection".into(),
            None => "the server sent data before any command".into(),
        }))
    }

    /// The reply that has been received already, if it is complete.
    pub(super) fn heard(&self) -> Option<Reply> {
        Reply::parse(&self.input).ok().flatten().map(|(reply, _)| reply)
    }

    pub(super) async fn write(&mut self, octets: &[u8]) -> Result<(), Broken> {
        self.write_within(octets, self.patience).await
    }

    pub(super) async fn write_within(&mut self, octets: &[u8], patience: Duration) -> Result<(), Broken> {
        let write = async {
            self.stream.write_all(octets).await?;
            self.stream.flush().await
        };
        let written = timeout(patience, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        written.map_err(|e| Broken::new("the connection was lost", &e))
    }

    pub(super) async fn reply(&mut self) -> Result<Reply, Broken> {
        Ok(self.whole_reply().await?.0)
    }

    pub(super) async fn reply_within(&mut self, patience: Duration) -> Result<Reply, Broken> {
        let usual = std::mem::replace(&mut self.patience, patience);
        let reply = self.reply().await;
        self.patience = usual;
        reply
    }

    async fn whole_reply(&mut self) -> Result<(Reply, Bytes), Broken> {
        let read = timeout(self.patience, self.read_reply()).await;
        let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        read.map_err(|e| Broken::new("no reply", &e))
    }

    /// If cancelled, it loses nothing.
    async fn read_reply(&mut self) -> io::Result<(Reply, Bytes)> {
        loop {
            if let Some((reply, len)) =
                Reply::parse(&self.input).map_err(|Malformed| io::Error::other(Malformed))?
            {
                return Ok((reply, self.input.split_to(len).freeze()));
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
            }
        }
    }

    /// A refusal that the server sent before it stopped listening.
    pub(super) async fn last_words(&mut self) -> Option<Reply> {
        const PATIENCE: Duration = Duration::from_secs(1);
        self.reply_within(PATIENCE).await.ok().filter(Reply::is_refusal)
    }

    /// Whether nothing unread was received, not even the end of the stream.
    fn is_quiet(&mut self) -> bool {
        self.input.is_empty() && self.stream.read_buf(&mut self.input).now_or_never().is_none()
    }
}

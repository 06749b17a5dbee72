//! SMTP submission, by a client that sends what it is told to.

mod content;
mod dialogue;
mod faults;
mod limits;
mod login;
mod transactions;

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const FROM: &str = "MAIL FROM:<scanner@contoso.example>";
const TO: &str = "RCPT TO:<ann@example.net>";

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

struct Client(BufReader<Box<dyn Duplex>>);

/// A service whose applications may submit, and no limits.
fn smtp_options() -> Options {
    let mut options = options();
    for directory in &mut options.directories {
        directory.roles.push("SMTP.SendAsApp".into());
    }
    options
}

impl Lab {
    async fn smtp() -> Self {
        Self::start_smtp(smtp_options()).await
    }

    /// Its token is for Exchange.
    async fn start_smtp(options: Options) -> Self {
        let mut lab = Self::start(options).await;
        lab.token = lab.log_in("https://outlook.office365.com").await;
        lab
    }

    /// Connected and greeted.
    async fn connect(&self) -> Client {
        let mut client = self.connect_silently().await;
        assert_eq!(client.reply().await.split(' ').next(), Some("220"));
        client
    }

    async fn connect_silently(&self) -> Client {
        let stream =
            TcpStream::connect(self.service.smtp_address().expect("SMTP")).await.expect("a connection");
        Client(BufReader::new(Box::new(stream)))
    }

    /// Connected with TLS, and EHLO sent.
    async fn encrypted(&self) -> Client {
        let mut client = self.connect().await;
        client.say("EHLO client.example").await;
        assert_eq!(client.say("STARTTLS").await, "220 2.0.0 SMTP server ready");
        let mut client = client.shake(&self.service, "localhost").await.expect("TLS");
        client.say("EHLO client.example").await;
        client
    }

    /// Logged in as the mailbox.
    async fn submitter(&self, mailbox: &str) -> Client {
        let mut client = self.encrypted().await;
        assert_eq!(client.log_in(mailbox, &self.token).await, "235 2.7.0 Authentication successful");
        client
    }

    /// The dialogue on the connection of that number.
    fn heard(&self, connection: u64) -> Vec<String> {
        let lines = self.service.smtp_log().into_iter().filter(|line| line.connection == connection);
        lines.map(|line| line.to_string()).collect()
    }
}

impl Client {
    async fn shake(self, service: &Service, name: &str) -> std::io::Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        let pem = service.ca_pem();
        for certificate in rustls::pki_types::pem::PemObject::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate.expect("PEM")).expect("an authority");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).expect("a name");
        let stream = TlsConnector::from(Arc::new(config)).connect(name, self.0.into_inner()).await?;
        Ok(Self(BufReader::new(Box::new(stream))))
    }

    async fn write(&mut self, octets: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(octets.as_ref()).await.expect("a reader");
        self.0.get_mut().flush().await.expect("a reader");
    }

    /// The next reply, its lines joined by LF. Empty: the connection has ended.
    async fn reply(&mut self) -> String {
        let mut whole = String::new();
        loop {
            let mut line = String::new();
            // A connection that is cut may end in an error, too.
            let read = timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("an answer");
            if read.unwrap_or(0) == 0 {
                return whole;
            }
            let line = line.strip_suffix("\r\n").expect("CRLF");
            whole.push_str(line);
            if line.as_bytes().get(3) != Some(&b'-') {
                return whole;
            }
            whole.push('\n');
        }
    }

    async fn say(&mut self, line: &str) -> String {
        self.write(format!("{line}\r\n")).await;
        self.reply().await
    }

    /// Sends them all, and checks how each answer must begin.
    async fn dialogue(&mut self, exchanges: &[(&str, &str)]) {
        for (line, expected) in exchanges {
            let reply = self.say(line).await;
            assert!(reply.starts_with(expected), "{line:?} got {reply:?} and not {expected:?}");
        }
    }

    async fn log_in(&mut self, mailbox: &str, token: &str) -> String {
        self.say(&format!("AUTH XOAUTH2 {}", xoauth2(mailbox, token))).await
    }

    /// Sends MAIL, RCPT, DATA and the content, all accepted; returns the answer to the content.
    async fn send(&mut self, content: &str) -> String {
        self.dialogue(&[(FROM, "250"), (TO, "250"), ("DATA", "354")]).await;
        self.say(&format!("{content}.")).await
    }
}

fn xoauth2(mailbox: &str, token: &str) -> String {
    BASE64_STANDARD.encode(format!("user={mailbox}\u{1}auth=Bearer {token}\u{1}\u{1}"))
}

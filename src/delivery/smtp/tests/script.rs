//! A server that does what a test says, and remembers what it was told.

use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{CertificateParams, KeyPair};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// What is done at a step.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// One line or several, each without its end.
    Say(&'static str),
    /// The connection is closed.
    Cut,
    /// Says it, takes this many octets more, and closes the connection.
    SayAndCutAfter(&'static str, usize),
}

/// Names of steps are `connect`, `starttls`, and the line itself: `EHLO relay.example`, `DATA`,
/// `BDAT 12 LAST`; at the end of content after DATA it is `.`. `None`: acts as a server that accepts
/// everything.
pub(super) type Rule = fn(connection: usize, step: &str) -> Option<Act>;

pub(super) struct Script {
    pub(super) port: u16,
    pub(super) ca_pem: String,
    lines: Arc<Mutex<Vec<String>>>,
}

struct Session<S> {
    stream: BufReader<S>,
    number: usize,
    offers: &'static [&'static str],
    rule: Rule,
    lines: Arc<Mutex<Vec<String>>>,
}

enum Ended {
    Closed,
    StartTls,
}

impl Script {
    /// `offers` are the lines after EHLO under TLS; without TLS, STARTTLS is offered.
    pub(super) async fn start(offers: &'static [&'static str], rule: Rule) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let kept = lines.clone();
        tokio::spawn(async move {
            for number in 1.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                tokio::spawn(serve(stream, acceptor.clone(), number, offers, rule, kept.clone()));
            }
        });
        Self { port, ca_pem: certificate.pem(), lines }
    }

    /// What clients said: `1 EHLO relay.example`, with the number of the connection; content in one piece,
    /// dots and all.
    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lines that begin with `start`, without it.
    pub(super) fn said(&self, start: &str) -> Vec<String> {
        self.lines().iter().filter_map(|line| line.strip_prefix(start)).map(str::to_owned).collect()
    }
}

async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    number: usize,
    offers: &'static [&'static str],
    rule: Rule,
    lines: Arc<Mutex<Vec<String>>>,
) -> Option<()> {
    let mut clear =
        Session { stream: BufReader::new(stream), number, offers: &["STARTTLS"], rule, lines: lines.clone() };
    clear.act("connect", "220 script").await?;
    if let Ended::Closed = clear.run().await? {
        return None;
    }
    let stream = acceptor.accept(clear.stream.into_inner()).await.ok()?;
    let mut encrypted = Session { stream: BufReader::new(stream), number, offers, rule, lines };
    encrypted.run().await?;
    None
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// `None`: the connection is gone.
    async fn run(&mut self) -> Option<Ended> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).await.ok()? == 0 {
                return Some(Ended::Closed);
            }
            let line = line.trim_end().to_owned();
            self.note(&line);
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match verb {
                "EHLO" => {
                    let offers: Vec<String> = std::iter::once("script")
                        .chain(self.offers.iter().copied())
                        .map(str::to_owned)
                        .collect();
                    let (last, first) = offers.split_last().unwrap();
                    let lines: String = first.iter().map(|offer| format!("250-{offer}\r\n")).collect();
                    self.act(&line, &format!("{lines}250 {last}")).await?;
                }
                "STARTTLS" => {
                    self.act(&line, "220 go").await?;
                    return Some(Ended::StartTls);
                }
                "AUTH" => {
                    self.act("AUTH", "235 in").await?;
                }
                "DATA" => {
                    if self.act(&line, "354 go").await? == 354 {
                        let content = self.content().await?;
                        self.note(&content);
                        self.act(".", "250 2.0.0 OK <1@script>").await?;
                    }
                }
                "BDAT" => {
                    let len = rest.split(' ').next().unwrap().parse().unwrap();
                    let mut chunk = vec![0; len];
                    self.stream.read_exact(&mut chunk).await.ok()?;
                    self.note(&String::from_utf8_lossy(&chunk));
                    self.act(&line, "250 2.0.0 OK <1@script>").await?;
                }
                "QUIT" => {
                    self.act(&line, "221 bye").await?;
                    return None;
                }
                _ => {
                    self.act(&line, "250 ok").await?;
                }
            };
        }
    }

    fn note(&self, what: &str) {
        let line = format!("{} {what}", self.number);
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    async fn content(&mut self) -> Option<String> {
        let mut content = Vec::new();
        while !content.ends_with(b"\r\n.\r\n") {
            content.push(self.stream.read_u8().await.ok()?);
        }
        Some(String::from_utf8_lossy(&content).into_owned())
    }

    /// Returns the code that was sent.
    async fn act(&mut self, step: &str, usual: &str) -> Option<u16> {
        let act = (self.rule)(self.number, step);
        let (text, cut_after) = match &act {
            None => (usual, None),
            Some(Act::Say(text)) => (*text, None),
            Some(Act::SayAndCutAfter(text, octets)) => (*text, Some(*octets)),
            Some(Act::Cut) => return None,
        };
        self.stream.write_all(format!("{text}\r\n").as_bytes()).await.ok()?;
        self.stream.flush().await.ok()?;
        if let Some(octets) = cut_after {
            let mut taken = vec![0; octets];
            self.stream.read_exact(&mut taken).await.ok()?;
            return None;
        }
        Some(text.get(..3)?.parse().unwrap_or(0))
    }
}

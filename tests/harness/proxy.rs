//! An HTTP proxy, and TLS in front of a service. Each ends with the test's process.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

/// Accepts CONNECT and requests in absolute form (RFC 9112 section 3.2.2), and keeps their heads.
pub struct Proxy {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

/// What a proxy does.
#[derive(Clone, Default)]
pub struct ProxySetup {
    /// `Basic …`; without it the proxy answers 407.
    pub authorization: Option<String>,
    /// Where CONNECT leads, whatever host it names.
    pub leads_to: Option<SocketAddr>,
}

impl Proxy {
    pub fn start(setup: ProxySetup) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let keep = heads.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let setup = setup.clone();
                let keep = keep.clone();
                thread::spawn(move || serve(client, &setup, &keep));
            }
        });
        Self { address, heads }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far: first line and fields.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(client: TcpStream, setup: &ProxySetup, heads: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut to_client = client.try_clone()?;
    let mut client = BufReader::new(client);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if client.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    heads.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
    let is_login = |line: &&str| line.to_ascii_lowercase().starts_with("proxy-authorization:");
    let login = head.lines().find(is_login).and_then(|line| line.split_once(": ")).map(|(_, login)| login);
    if setup.authorization.is_some() && setup.authorization.as_deref() != login {
        to_client.write_all(
            b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        )?;
        // The rest of what the client sends is read, so that it is not cut off before it has the answer.
        to_client.shutdown(Shutdown::Write)?;
        return io::copy(&mut client, &mut io::sink()).map(|_| ());
    }
    let mut words = head.split(' ');
    let method = words.next().unwrap_or_default();
    let target = words.next().unwrap_or_default();
    let server = if method == "CONNECT" {
        let server = match setup.leads_to {
            Some(address) => TcpStream::connect(address)?,
            None => TcpStream::connect(target)?,
        };
        to_client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
        server
    } else {
        let rest = target.strip_prefix("http://").unwrap_or_else(|| panic!("not in absolute form: {head}"));
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let mut server = TcpStream::connect(host)?;
        // One request per connection, so that what follows need not be read.
        let fields = head.lines().skip(1).filter(|line| !line.is_empty() && !is_login(line));
        let fields: String = fields.flat_map(|line| [line, "\r\n"]).collect();
        write!(server, "{method} /{path} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n")?;
        server
    };
    let mut from_server = server.try_clone()?;
    let back = thread::spawn(move || pass_on(&mut from_server, &mut to_client));
    let mut server = server;
    pass_on(&mut client, &mut server);
    back.join().map_err(|_| io::Error::other("the way back broke down"))
}

fn pass_on(from: &mut impl Read, to: &mut TcpStream) {
    let _ = io::copy(from, to);
    let _ = to.shutdown(Shutdown::Write);
}

/// A certificate authority that nobody knows, and a server with a certificate from it.
pub struct TlsFront {
    pub address: SocketAddr,
    /// PEM.
    pub ca: String,
}

impl TlsFront {
    /// Accepts TLS for `names`, and passes the traffic on unencrypted to `target`.
    pub fn start(names: &[&str], target: SocketAddr) -> Self {
        let mut authority = rcgen::CertificateParams::new([]).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        authority.distinguished_name.push(rcgen::DnType::CommonName, "A private CA");
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = authority.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(authority, key);
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        thread::spawn(move || runtime.block_on(accept(listener, acceptor, target)));
        Self { address, ca }
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, target: SocketAddr) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    while let Ok((client, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let mut client = acceptor.accept(client).await?;
            let mut server = tokio::net::TcpStream::connect(target).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await
        });
    }
}

//! A machine between the relay and the service that is not what it claims: it passes on each request, and
//! changes the answer.
//!
//! Tokens are requested by the address of Graph, which here is the front's: the service receives its own.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

/// From a request's first line and the whole answer, returns what is sent.
pub(crate) type Tamper = dyn Fn(&str, Vec<u8>) -> Vec<u8> + Send + Sync;

/// Ends with the test's process.
pub(crate) struct Front {
    pub(crate) address: SocketAddr,
}

impl Front {
    pub(crate) fn start(
        service: &str,
        tamper: impl Fn(&str, Vec<u8>) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let service: SocketAddr = service.trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let tamper: Arc<Tamper> = Arc::new(tamper);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let tamper = tamper.clone();
                thread::spawn(move || serve(client, service, &*tamper));
            }
        });
        Self { address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn serve(client: TcpStream, service: SocketAddr, tamper: &Tamper) -> Option<()> {
    client.set_nodelay(true).ok()?;
    let own = client.local_addr().ok()?;
    let mut to_client = client.try_clone().ok()?;
    let mut from_client = BufReader::new(client);
    let server = TcpStream::connect(service).ok()?;
    let mut to_server = server.try_clone().ok()?;
    let mut from_server = BufReader::new(server);
    loop {
        let request = read_message(&mut from_client)?;
        let first = String::from_utf8_lossy(request.split(|octet| *octet == b'\r').next()?).into_owned();
        let request = if first.contains("/token ") { named_as(service, &request, own) } else { request };
        to_server.write_all(&request).ok()?;
        let answer = read_message(&mut from_server)?;
        to_client.write_all(&tamper(&first, answer)).ok()?;
    }
}

/// Ports chosen by the system have five digits each, so the length stays the same.
fn named_as(service: SocketAddr, request: &[u8], own: SocketAddr) -> Vec<u8> {
    let text = String::from_utf8(request.to_vec()).unwrap();
    text.replace(&format!("%3A{}", own.port()), &format!("%3A{}", service.port())).into_bytes()
}

/// Head and body, unchanged. Neither side sends chunked what these tests care about.
fn read_message(stream: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
    });
    let mut message = head.into_bytes();
    let from = message.len();
    message.resize(from + length.unwrap_or(0), 0);
    stream.read_exact(&mut message[from..]).ok()?;
    Some(message)
}

/// An answer with another body, and its length adjusted.
pub(crate) fn with_body(answer: &[u8], change: impl Fn(String) -> String) -> Vec<u8> {
    let text = String::from_utf8(answer.to_vec()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let body = change(body.to_owned());
    let fields = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("content-length:"));
    let head: String = fields.flat_map(|line| [line, "\r\n"]).collect();
    format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

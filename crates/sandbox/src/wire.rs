//! Connections that can be cut: the client sees the end of the connection and no answer.
//!
//! axum has no way to drop a connection from within a handler. Here each connection carries a [`Cut`]; once
//! it is set, every write fails, so the HTTP engine gives the connection up before an octet of the answer is
//! sent.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

pub(super) struct Door {
    listener: TcpListener,
    accepted: AtomicU64,
}

pub(super) struct Wire {
    stream: TcpStream,
    cut: Cut,
}

/// Cuts a connection; it also has the connection's number. A handler that has used it may return anything:
/// none of it is sent.
#[derive(Clone)]
pub(super) struct Cut(Arc<Connection>);

struct Connection {
    number: u64,
    cut: AtomicBool,
}

impl Door {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, accepted: AtomicU64::new(0) }
    }
}

impl Cut {
    fn new(number: u64) -> Self {
        Self(Arc::new(Connection { number, cut: AtomicBool::new(false) }))
    }

    /// 1, 2, 3 … in the order of acceptance.
    pub(super) fn connection(&self) -> u64 {
        self.0.number
    }

    pub(super) fn now(&self) {
        self.0.cut.store(true, Ordering::Release);
    }

    fn check(&self) -> io::Result<()> {
        if self.0.cut.load(Ordering::Acquire) { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl Listener for Door {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    // Only speed is lost if this fails.
                    let _ = stream.set_nodelay(true);
                    let number = self.accepted.fetch_add(1, Ordering::Relaxed) + 1;
                    return (Wire { stream, cut: Cut::new(number) }, from);
                }
                // Out of descriptors, most likely: others must close first.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, Door>> for Cut {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        stream.io().cut.clone()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.cut.check()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.cut.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cut.check()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cut.check()?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

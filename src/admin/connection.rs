//! One connection: requests in, answers out, each within its time and size.
//!
//! A request is read whole, head and body, before anything is done for it, so a handler never waits for a
//! client.

use std::{
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, to_bytes},
    http::{
        HeaderValue, Request, StatusCode,
        header::{CONNECTION, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::debug;

use super::{
    Site,
    gate::Way,
    seats::{Seat, Stage, Taken},
};
use crate::telemetry::AdminRefused;

/// For the head of a request, from the end of the last answer on: a connection that is kept open may be
/// silent for this long.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// In octets. A browser on this machine may have many cookies for its other ports.
const LONGEST_HEAD: usize = 16 * 1024;
const MOST_HEADERS: usize = 64;
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// In octets.
const LONGEST_BODY: usize = 64 * 1024;
/// For any request: a reload of very many tenants takes longest.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Serves until the client has gone, until `shutdown`, or until another connection needs the seat.
pub(super) async fn serve<S>(stream: S, way: Way, taken: Taken, site: Arc<Site>, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let seat = taken.seat();
    let service = service_fn(|request| {
        let site = site.clone();
        let seat = seat.clone();
        async move {
            let answer = answer(&site, way, &seat, request).await;
            seat.enter(Stage::Answering);
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_header_size(LONGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .max_buf_size(2 * LONGEST_HEAD)
        .serve_connection(TokioIo::new(Watched { stream, seat: seat.clone() }), service);
    let mut connection = pin!(connection);
    let mut is_told = false;
    let refused = loop {
        tokio::select! {
            // First whatever has arrived.
            biased;
            ended = connection.as_mut() => break ended.err().and_then(|error| refused(&error, seat)),
            () = seat.is_needed() => break Some(AdminRefused::Crowded),
            () = seat.is_overdue() => break Some(AdminRefused::Timeout),
            () = shutdown.cancelled(), if !is_told => {
                is_told = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Some(reason) = refused {
        site.metrics.admin_refused(reason);
    }
}

/// `None`: the client has gone, or has kept the connection open for nothing.
fn refused(error: &hyper::Error, seat: &Seat) -> Option<AdminRefused> {
    debug!(%error, "admin connection failed");
    match error {
        _ if error.is_timeout() && seat.is_idle() => None,
        _ if error.is_timeout() => Some(AdminRefused::Timeout),
        _ if error.is_parse_too_large() => Some(AdminRefused::TooLarge),
        _ if error.is_parse() => Some(AdminRefused::Malformed),
        _ => None,
    }
}

async fn answer(site: &Site, way: Way, seat: &Seat, request: Request<Incoming>) -> Response {
    let (mut head, body) = request.into_parts();
    let _pass = match site.gate.admit(way, &head).await {
        Ok(pass) => pass,
        Err(refusal) => return refusal,
    };
    let read = timeout(BODY_WITHIN, to_bytes(Body::new(body), LONGEST_BODY)).await;
    let body = match read {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            site.metrics.admin_refused(AdminRefused::TooLarge);
            let error = format!("a request may have at most {LONGEST_BODY} octets\n");
            return close((StatusCode::PAYLOAD_TOO_LARGE, error).into_response());
        }
        Err(_) => {
            site.metrics.admin_refused(AdminRefused::Timeout);
            let error = format!("the request did not come within {BODY_WITHIN:?}\n");
            return close((StatusCode::REQUEST_TIMEOUT, error).into_response());
        }
    };
    seat.enter(Stage::Working);
    head.extensions.insert(way.actor());
    let asked = site.router.clone().oneshot(Request::from_parts(head, Body::from(body)));
    match timeout(ANSWER_WITHIN, asked).await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(_) => {
            site.metrics.admin_refused(AdminRefused::Timeout);
            let error = format!("no answer within {ANSWER_WITHIN:?}: the relay is overloaded\n");
            (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "10")], error).into_response()
        }
    }
}

/// The rest of the request is not read.
fn close(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Tells the seat when an answer has been written. hyper flushes when it has handed over everything it has.
struct Watched<S> {
    stream: S,
    seat: Arc<Seat>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.seat.heard();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.seat.written();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, octets)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

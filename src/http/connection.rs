//! Serves one connection, with HTTP/1.1 and with limits.
//!
//! ```text
//!   Head ──head complete──▶ Handling ──answer made──▶ Answering ──its body ended──▶ Flushing ──written──▶ Idle ──first byte──▶ Head …
//! ```
//!
//! Each phase has a time limit. A connection in the phases `Head` and `Idle` has no request: it is closed at the
//! stop, and when its slot is needed. With [`Limits::half_close`] the client may close its sending side in the phase
//! `Handling` and still gets its answer. A client that is gone looks the same. [`ClientGone`] informs a handler.
//!
//! Most answers are in memory as a whole. The body of a call that the proxy passes on arrives piece by piece, and the
//! connection is in the phase `Answering` until it has ended.
//!
//! The socket, the service and the HTTP state machine of hyper run in one task, so a phase changes only while that
//! task polls hyper.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{self, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use hyper::Request;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::listener::{Limits, WaitingQueue};
use crate::metric;

/// How long an answer may take to be written after the stop has begun. A client that does not read is not waited for.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// What a connection needs from the listener.
pub(super) struct Context {
    pub(super) limits: Limits,
    pub(super) stop: CancellationToken,
    pub(super) waiting: WaitingQueue,
}

/// Cancelled when the client of a request has closed its sending side: it is gone, or waits for the answer only. Also while a long answer is
/// being sent. An extension of each request.
#[derive(Clone)]
pub(super) struct ClientGone(pub(super) CancellationToken);

/// Cancelled when the server stops. An extension of each request.
#[derive(Clone)]
pub(super) struct Stopping(pub(super) CancellationToken);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Without a byte of the next request.
    Idle,
    /// Before the end of the head of a request.
    Head,
    /// A request is being handled; its body may still arrive.
    Handling,
    /// An answer is being written, and its body has not ended.
    Answering,
    /// The body of the answer has ended; its last bytes are being written.
    Flushing,
}

impl Phase {
    const fn waits_for_request(self) -> bool {
        matches!(self, Self::Idle | Self::Head)
    }
}

struct Progress {
    phase: Phase,
    /// Since when the limit of the phase counts. The limit of a request counts from the end of its head.
    since: Instant,
    gone: CancellationToken,
}

/// The progress of a connection, shared by its socket, its service and its task.
#[derive(Clone)]
struct SharedProgress(Arc<Mutex<Progress>>);

impl SharedProgress {
    fn new() -> Self {
        let progress = Progress { phase: Phase::Head, since: Instant::now(), gone: CancellationToken::new() };
        Self(Arc::new(Mutex::new(progress)))
    }

    fn get(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, phase: Phase) {
        let mut progress = self.get();
        progress.phase = phase;
        if !matches!(phase, Phase::Answering | Phase::Flushing) {
            progress.since = Instant::now();
        }
    }

    /// A request begins; returns the token of its [`ClientGone`].
    fn request(&self) -> CancellationToken {
        self.enter(Phase::Handling);
        let gone = CancellationToken::new();
        self.get().gone = gone.clone();
        gone
    }
}

/// Serves a connection until its client closes it, a limit is reached, its slot is needed, or the stop.
pub(super) async fn serve(stream: TcpStream, router: Router, context: Context) {
    let Context { limits, stop, waiting } = context;
    let (progress, close) = (SharedProgress::new(), CancellationToken::new());
    let stream = Arc::new(Mutex::new(stream));
    let socket = Socket { stream: Arc::clone(&stream), progress: progress.clone() };
    let (router, served, stopping) = (TowerToHyperService::new(router), progress.clone(), stop.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ClientGone(served.request()));
        request.extensions_mut().insert(Stopping(stopping.clone()));
        let (answer, served) = (router.call(request), served.clone());
        async move {
            let answer = answer.await;
            served.enter(Phase::Answering);
            answer.map(|answer| answer.map(|body| Answer { body, _end: AnswerEnd(served) }))
        }
    });
    let mut builder = http1::Builder::new();
    let mut connection = pin!(builder.half_close(limits.half_close).serve_connection(TokioIo::new(socket), service));
    let (mut stopped, mut closed) = (pin!(stop.cancelled()), pin!(close.cancelled()));
    let mut timer = pin!(tokio::time::sleep_until(Instant::now() + limits.head));
    let (mut entry, mut is_stopping) = (None, false);
    let ended = poll_fn(|cx| {
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready("client");
        }
        if !is_stopping && stopped.as_mut().poll(cx).is_ready() {
            is_stopping = true;
            // The answer to the open request says that the connection will be closed.
            connection.as_mut().graceful_shutdown();
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready("stop");
            }
        }
        let (phase, since) = {
            let progress = progress.get();
            (progress.phase, progress.since)
        };
        if phase.waits_for_request() {
            if is_stopping {
                return Poll::Ready("stop");
            }
            entry.get_or_insert_with(|| waiting.push(&close));
            if closed.as_mut().poll(cx).is_ready() {
                return Poll::Ready("full");
            }
        } else {
            entry = None;
        }
        // Without half-closed connections hyper reads itself, and ends the connection when the client is gone.
        if matches!(phase, Phase::Handling | Phase::Answering) && limits.half_close {
            watch_client(&stream, &progress, cx);
        }
        let (reason, deadline) = match phase {
            Phase::Flushing if is_stopping => ("stop", Instant::now() + LAST_ANSWER),
            Phase::Idle => ("idle", since + limits.idle),
            Phase::Head => ("head", since + limits.head),
            Phase::Handling | Phase::Answering | Phase::Flushing => ("request", since + limits.request),
        };
        // During the stop each poll would move the deadline; only the first one counts.
        if timer.deadline() != deadline && !(reason == "stop" && timer.deadline() < deadline) {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).map(|()| reason)
    });
    let reason = ended.await;
    metrics::counter!(metric::HTTP_CONNECTIONS_CLOSED.name, "reason" => reason).increment(1);
}

/// Notices that the client has closed its sending side. hyper does not read while a request is handled or answered. The bytes of
/// a next request hide the end; then it is not noticed.
fn watch_client(stream: &Mutex<TcpStream>, progress: &SharedProgress, cx: &mut task::Context<'_>) {
    let mut byte = [0; 1];
    let stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
    match stream.poll_peek(cx, &mut ReadBuf::new(&mut byte)) {
        Poll::Ready(Ok(0) | Err(_)) => progress.get().gone.cancel(),
        Poll::Ready(Ok(_)) | Poll::Pending => {}
    }
}

/// The body of an answer; its end is noted.
struct Answer {
    body: Body,
    _end: AnswerEnd,
}

/// hyper drops a body as soon as it has read its end, also a body that is empty or that the client must not get.
struct AnswerEnd(SharedProgress);

impl Drop for AnswerEnd {
    fn drop(&mut self) {
        self.0.enter(Phase::Flushing);
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The socket of a connection; it notes the first byte of a request and the last byte of an answer.
struct Socket {
    stream: Arc<Mutex<TcpStream>>,
    progress: SharedProgress,
}

impl Socket {
    fn with<T>(&self, call: impl FnOnce(Pin<&mut TcpStream>) -> T) -> T {
        call(Pin::new(&mut self.stream.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut task::Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = self.with(|stream| stream.poll_read(cx, buffer));
        if buffer.filled().len() > before && self.progress.get().phase == Phase::Idle {
            self.progress.enter(Phase::Head);
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut task::Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper flushes the socket after it has written all that it has. So the first flush after the end of the body is
    /// the end of the answer.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.with(|stream| stream.poll_flush(cx));
        if flushed.is_ready() && self.progress.get().phase == Phase::Flushing {
            self.progress.enter(Phase::Idle);
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
    }
}

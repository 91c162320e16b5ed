//! The customer's program at the other end of relink's requests: an HTTP server that answers as the test says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::support::within;

/// A request that relink has sent.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().expect("a text")).unwrap_or_default()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a text")
    }
}

/// The status of the answer to a request; `None`: no answer, the connection stays open.
type Answer = Box<dyn FnMut(&Received) -> Option<u16> + Send>;

/// The server.
pub(crate) struct Receiver {
    address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    received: mpsc::UnboundedReceiver<Received>,
}

impl Receiver {
    pub(crate) async fn start(answer: impl FnMut(&Received) -> Option<u16> + Send + 'static) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), answer).await
    }

    /// A server at an address where nothing listens.
    pub(crate) async fn start_at(
        address: SocketAddr,
        answer: impl FnMut(&Received) -> Option<u16> + Send + 'static,
    ) -> Self {
        let answer: Arc<Mutex<Answer>> = Arc::new(Mutex::new(Box::new(answer)));
        let (sender, received) = mpsc::unbounded_channel();
        let answers = Arc::clone(&answer);
        let handle = move |request: Request| {
            let (answers, sender) = (Arc::clone(&answers), sender.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = to_bytes(body, 1 << 20).await.expect("a body");
                let received = Received { headers: parts.headers, body };
                let status = answers.lock().expect("no panic before")(&received);
                let _ended = sender.send(received);
                match status {
                    Some(status) => StatusCode::from_u16(status).expect("a status"),
                    None => std::future::pending().await,
                }
            }
        };
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handle)).await });
        Self { address, answer, received }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hooks?of=relink", self.address)
    }

    /// From now on the server answers like this.
    pub(crate) fn answer_with(&self, answer: impl FnMut(&Received) -> Option<u16> + Send + 'static) {
        *self.answer.lock().expect("no panic before") = Box::new(answer);
    }

    /// The next request, with every answer.
    pub(crate) async fn next(&mut self) -> Received {
        within("a request of relink", self.received.recv()).await.expect("the server runs")
    }

    /// The requests that have arrived and that no test has read.
    pub(crate) fn rest(&mut self) -> Vec<Received> {
        std::iter::from_fn(|| self.received.try_recv().ok()).collect()
    }
}

/// An address where nothing listens.
pub(crate) async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address")
}

//! Publishes messages that no NATS client publishes.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{TestNats, within};

/// A client that speaks the protocol byte by byte, because a NATS client refuses to publish such headers.
pub(crate) struct RawClient(BufReader<TcpStream>);

impl RawClient {
    pub(crate) async fn connect(nats: &TestNats) -> Self {
        let port = nats.server.port().expect("a port");
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.expect("a connection"));
        stream.read_line(&mut String::new()).await.expect("the server's INFO");
        let connect = b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}\r\n";
        stream.get_mut().write_all(connect).await.expect("a write");
        Self(stream)
    }

    pub(crate) async fn publish(&mut self, subject: &str, headers: &[u8], body: &[u8]) {
        let (size, total) = (headers.len(), headers.len() + body.len());
        let mut frame = format!("HPUB {subject} {size} {total}\r\n").into_bytes();
        frame.extend_from_slice(headers);
        frame.extend_from_slice(body);
        frame.extend_from_slice(b"\r\n");
        self.0.get_mut().write_all(&frame).await.expect("a write");
    }

    /// Waits until the server has taken all messages.
    pub(crate) async fn flush(&mut self) {
        self.0.get_mut().write_all(b"PING\r\n").await.expect("a write");
        let mut line = String::new();
        while line != "PONG\r\n" {
            line.clear();
            assert!(within("an answer", self.0.read_line(&mut line)).await.expect("a line") > 0, "connection closed");
        }
    }
}

//! relink with few file descriptors: strangers that open connections cannot take the descriptors that relink needs.

#![cfg(unix)]

mod support;

use serde_json::json;
use support::binary::{Relink, client};
use support::{TestNats, within};
use tokio::net::TcpStream;

/// The descriptors of the process, and the connections that are opened to it.
const DESCRIPTORS: u32 = 256;
const STRANGERS: usize = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_idle_connections_than_descriptors_do_not_end_relink() {
    let nats = TestNats::start().await;
    let mut relink =
        Relink::serve_with_descriptors(DESCRIPTORS, nats.server.url(), &nats.dir.path().join("data")).await;
    let address = relink.url.trim_start_matches("http://").to_owned();
    let mut strangers = Vec::new();
    for _ in 0..STRANGERS {
        strangers.push(within("a connection", TcpStream::connect(&address)).await.unwrap());
    }
    let client = client();
    for n in 0..30 {
        let webhook = json!({"webhook_id": format!("w-{n}"), "webhook_type": "LINK", "webhook_code": "token_required",
            "link_id": format!("16f68516-bcbc-4cf7-b815-c500d4204e{n:02x}"), "data": {}});
        assert_eq!(within("an answer", relink.webhook(&client, webhook.to_string())).await, Some(200));
    }
    assert!(relink.child.try_wait().unwrap().is_none(), "relink runs");
    // The stop writes the last checkpoint, and does not wait for the strangers.
    relink.signal("TERM").await;
    let status = within("the stop", relink.child.wait()).await.unwrap();
    assert!(status.success(), "{status}");
    drop(strangers);
}

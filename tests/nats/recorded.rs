//! Reads of what a stream has recorded, as by `relink replay`.

use std::ops::ControlFlow;

use relink::nats::recorded::Recordings;
use relink::nats::subject::Subjects;

use crate::support::node::PARTITIONS;
use crate::support::{TestNats, within};

/// Many large messages, as customers' webhooks with data may be: more than one request may ask for at once, and more than the server keeps for
/// a connection.
#[tokio::test(flavor = "multi_thread")]
async fn large_messages_are_read_once_each_and_in_order() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let large = 300 * 1024;
    for n in 0..400_usize {
        let size = if n % 2 == 0 { large } else { n };
        let body = vec![b'x'; size];
        let subject = format!("belvo.webhook.00000000-0000-4000-8000-{n:012}");
        nats.context.publish(subject, body.into()).await.expect("a publish").await.expect("stored");
    }
    let recordings = Recordings::new(nats.client.clone(), Subjects::default());
    let mut sizes = Vec::new();
    let read = recordings.read("BELVO", vec!["belvo.>".to_owned()], None, |message| {
        sizes.push(message.payload.len());
        ControlFlow::Continue(())
    });
    within("the read", read).await.expect("the stream can be read");
    let expected: Vec<usize> = (0..400).map(|n| if n % 2 == 0 { large } else { n }).collect();
    assert_eq!(sizes, expected);
}

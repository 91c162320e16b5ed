//! A store whose call does not return: the open call shows it, and the node goes on when the call returns.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::support::store::{ChangedStore, Operations};
use crate::support::{TestNats, webhook, within};
use relink::link::{Policy, PolicySettings};
use relink::nats::node::{Node, NodeOptions};
use relink::nats::subject::Subjects;
use relink::node::Phase;
use relink::store::{Changes, MemoryStore, Store, StoreError};
use tokio_util::sync::CancellationToken;

const PARTITIONS: u16 = 2;
const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";

/// A store whose writes wait while it hangs.
#[derive(Clone, Default)]
struct Hanging(Arc<(Mutex<bool>, Condvar)>);

impl Hanging {
    fn set(&self, hangs: bool) {
        *self.0.0.lock().expect("a lock") = hangs;
        self.0.1.notify_all();
    }
}

impl Operations for Hanging {
    fn apply(&self, links: &MemoryStore, changes: &Changes) -> Result<(), StoreError> {
        let (hangs, changed) = &*self.0;
        drop(changed.wait_while(hangs.lock().expect("a lock"), |hangs| *hangs).expect("a lock"));
        links.apply(changes)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_does_not_return_is_an_open_call() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let store = ChangedStore::<Hanging>::default();
    let policy = Policy::new(PolicySettings::default()).expect("the defaults are in range");
    let owner = "test".to_owned();
    let options = NodeOptions { subjects: Subjects::default(), partitions: PARTITIONS, owner, policy };
    let node = Node::new(nats.connect().await, options, store.clone());
    let (mut phase, calls, mut as_of) = (node.phase(), node.open_calls(), node.as_of());
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(node.run(shutdown.clone()));
    let running = async { phase.wait_for(|phase| *phase == Phase::Running).await.map(|_| ()) };
    within("starting the partitions", running).await.expect("the node runs");
    let before = as_of.borrow_and_update().expect("the store has caught up");

    store.operations.set(true);
    nats.context
        .publish(format!("belvo.webhook.{LINK}"), webhook(LINK, "token_required", 1).into())
        .await
        .expect("a publish")
        .await
        .expect("stored");
    let stuck = async {
        loop {
            if let Some(what) = calls.look() {
                return what;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(within("the call to be stuck", stuck).await, "a write");

    store.operations.set(false);
    let followed = async { as_of.wait_for(|as_of| *as_of > Some(before)).await.map(|_| ()) };
    within("the store to follow the commit", followed).await.expect("the node runs");
    assert!(store.get(&LINK.parse().expect("an id")).expect("a store").is_some());
    shutdown.cancel();
    within("stopping", task).await.expect("no panic").expect("a clean end");
    assert_eq!((0..100).find_map(|_| calls.look()), None, "no call is open");
}

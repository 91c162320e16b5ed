//! A store whose call does not return: the open call shows it, and the node goes on when the call returns.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use relink::contract::{CommittedOffset, IncidentBody, LinksDigest};
use relink::link::{LinkId, Policy, PolicySettings, StateName, Timestamp};
use relink::nats::node::{Node, NodeOptions};
use relink::nats::subject::Subjects;
use relink::node::Phase;
use relink::store::{Changes, MemoryStore, Page, Position, Query, Store, StoreError, StoredLink};
use support::{TestNats, within};
use tokio_util::sync::CancellationToken;

const PARTITIONS: u16 = 2;
const LINK: &str = "16f68516-bcbc-4cf7-b815-c500d4204e28";

/// A store whose writes wait while it hangs.
#[derive(Clone, Default)]
struct Hanging {
    links: MemoryStore,
    hangs: Arc<(Mutex<bool>, Condvar)>,
}

impl Hanging {
    fn set(&self, hangs: bool) {
        *self.hangs.0.lock().expect("a lock") = hangs;
        self.hangs.1.notify_all();
    }
}

impl Store for Hanging {
    fn apply(&self, changes: &Changes) -> Result<(), StoreError> {
        let (hangs, changed) = &*self.hangs;
        drop(changed.wait_while(hangs.lock().expect("a lock"), |hangs| *hangs).expect("a lock"));
        self.links.apply(changes)
    }

    fn get(&self, id: &LinkId) -> Result<Option<StoredLink>, StoreError> {
        self.links.get(id)
    }

    fn checkpoint(&self) -> Result<(), StoreError> {
        self.links.checkpoint()
    }

    fn restart_empty(&self) -> Result<Option<PathBuf>, StoreError> {
        self.links.restart_empty()
    }

    fn position(&self) -> Result<Option<Position>, StoreError> {
        self.links.position()
    }

    fn offsets(&self) -> Result<BTreeMap<u16, CommittedOffset>, StoreError> {
        self.links.offsets()
    }

    fn incidents(&self) -> Result<Vec<IncidentBody>, StoreError> {
        self.links.incidents()
    }

    fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<LinkId>, StoreError> {
        self.links.due(now, limit)
    }

    fn next_deadline(&self) -> Result<Option<Timestamp>, StoreError> {
        self.links.next_deadline()
    }

    fn page(&self, query: &Query) -> Result<Page, StoreError> {
        self.links.page(query)
    }

    fn count(&self) -> Result<BTreeMap<StateName, u64>, StoreError> {
        self.links.count()
    }

    fn links_digest(&self) -> Result<LinksDigest, StoreError> {
        self.links.links_digest()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_does_not_return_is_an_open_call() {
    let nats = TestNats::start_with_streams(PARTITIONS).await;
    let store = Hanging::default();
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

    store.set(true);
    let webhook = format!(
        r#"{{"webhook_id":"aadf41a1fc8e4f79a49f7f04027ac999","webhook_type":"LINK","process_type":"recurrent_update",
            "webhook_code":"token_required","link_id":"{LINK}","request_id":"1","external_id":null,"data":{{}}}}"#
    );
    nats.context
        .publish(format!("belvo.webhook.{LINK}"), webhook.into())
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
    assert_eq!(within("the call to be stuck", stuck).await, "a read or a write");

    store.set(false);
    let followed = async { as_of.wait_for(|as_of| *as_of > Some(before)).await.map(|_| ()) };
    within("the store to follow the commit", followed).await.expect("the node runs");
    assert!(store.get(&LINK.parse().expect("an id")).expect("a store").is_some());
    shutdown.cancel();
    within("stopping", task).await.expect("no panic").expect("a clean end");
    assert_eq!((0..100).find_map(|_| calls.look()), None, "no call is open");
}

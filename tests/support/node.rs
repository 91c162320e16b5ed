//! A node over a real nats-server, in the process of the test.

use relink::clock::Clock;
use relink::link::{Policy, PolicySettings};
use relink::nats::node::{Node, NodeError, NodeOptions};
use relink::nats::subject::Subjects;
use relink::node::Phase;
use relink::store::MemoryStore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{TestNats, within};

/// The number of partitions of the streams.
pub(crate) const PARTITIONS: u16 = 4;

/// The options of the nodes of the tests.
pub(crate) fn options() -> NodeOptions {
    // No worker answers a job here, so the node is one without Belvo's keys.
    let settings = PolicySettings { can_verify: false, ..PolicySettings::default() };
    let policy = Policy::new(settings).expect("the defaults are in range");
    NodeOptions { subjects: Subjects::default(), partitions: PARTITIONS, owner: "test".to_owned(), policy }
}

/// A node whose partitions run.
pub(crate) struct RunningNode {
    pub(crate) store: MemoryStore,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), NodeError>>,
}

impl RunningNode {
    pub(crate) async fn start(nats: &TestNats, store: MemoryStore) -> Self {
        Self::start_with_clock(nats, store, Clock::wall()).await
    }

    pub(crate) async fn start_with_clock(nats: &TestNats, store: MemoryStore, clock: Clock) -> Self {
        let node = Node::new(nats.connect().await, options(), store.clone()).with_clock(clock);
        let mut phase = node.phase();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(node.run(shutdown.clone()));
        let running = phase.wait_for(|phase| *phase == Phase::Running);
        within("starting the partitions", running).await.expect("the node runs");
        Self { store, shutdown, task }
    }

    pub(crate) async fn stop(self) -> MemoryStore {
        self.shutdown.cancel();
        within("stopping", self.task).await.expect("no panic").expect("a clean end");
        self.store
    }

    /// Ends the node at once, like SIGKILL.
    pub(crate) async fn abort(self) -> MemoryStore {
        self.task.abort();
        let _ = self.task.await;
        self.store
    }
}

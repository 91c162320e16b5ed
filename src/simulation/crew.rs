//! The crew of a process: the shipped jobs worker and the shipped reconciler, and all that they wait for, as values.
//!
//! What is shipped is asynchronous and knows three traits: Belvo is behind `Wire`, the publisher behind `Inputs`, the histories behind
//! `ReadHistory`. Here each call is a wish that the world grants, late, wrongly or not at all, and the future is polled by hand when it has
//! been. So a crew that dies in the middle of a job is a future that is dropped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::BoxFuture;
use futures::task::noop_waker;

use crate::belvo::{Budget, Client, MissingGuard, Question, Reply, Wire};
use crate::clock::{Clock, ManualClock};
use crate::jobs::{Next, Worker};
use crate::link::{LinkId, Policy, Timestamp};
use crate::nats::history::{HistoryError, LinkHistory, ReadHistory};
use crate::nats::inputs::{Inputs, NewInput};
use crate::nats::publisher::PublishError;
use crate::reconciler::{Parts, Reconciler, Schedule, Settings, Step};
use crate::store::MemoryStore;

/// relink's defaults.
pub(super) const SETTINGS: Settings = Settings {
    sweep_every: Duration::from_secs(3600),
    rotation: Duration::from_secs(24 * 3600),
    adoption_per_hour: 60,
};

/// Where the answer to a wish goes.
pub(super) type Answer<T, E> = oneshot::Sender<Result<T, E>>;

/// Something that a task waits for.
pub(super) enum Wish {
    /// Belvo's answer.
    Ask(Question, Answer<Reply, String>),
    /// An input on the disk.
    Put(NewInput, Answer<(), PublishError>),
    /// The history of a link.
    History(LinkId, Answer<LinkHistory, HistoryError>),
}

/// What tasks wait for, until the world takes it.
#[derive(Clone, Default)]
struct Mailbox(Arc<Mutex<Vec<Wish>>>);

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mailbox")
    }
}

impl Mailbox {
    fn wish(&self, wish: Wish) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(wish);
    }

    fn take(&self) -> Vec<Wish> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Wire for Mailbox {
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Reply, String>> {
        let (answer, answered) = oneshot::channel();
        self.wish(Wish::Ask(question, answer));
        Box::pin(async move { answered.await.unwrap_or_else(|_| Err("broke off".to_owned())) })
    }
}

impl Inputs for Mailbox {
    fn put(&self, input: NewInput) -> BoxFuture<'_, Result<(), PublishError>> {
        let (answer, answered) = oneshot::channel();
        self.wish(Wish::Put(input, answer));
        Box::pin(async move { answered.await.unwrap_or(Err(PublishError::Closed)) })
    }
}

impl ReadHistory for Mailbox {
    fn history<'a>(&'a self, link: &'a LinkId) -> BoxFuture<'a, Result<LinkHistory, HistoryError>> {
        let (answer, answered) = oneshot::channel();
        self.wish(Wish::History(link.clone(), answer));
        Box::pin(async move { answered.await.unwrap_or_else(|_| Ok(LinkHistory::default())) })
    }
}

/// How a task ended.
pub(super) enum Outcome {
    Job(Next),
    Step(Step, Box<Schedule>, Duration),
}

struct Task {
    future: BoxFuture<'static, Outcome>,
    /// The job that it does.
    job: Option<String>,
    /// What it has put on the input stream.
    reports_count: usize,
}

pub(super) struct Crew {
    worker: Worker,
    reconciler: Option<Reconciler>,
    /// When the reconciler does what; away while it does something.
    schedule: Option<Box<Schedule>>,
    hands: ManualClock,
    mailbox: Mailbox,
    tasks: BTreeMap<u64, Task>,
    tasks_count: u64,
}

/// A task that has ended: how, the job that it did, and how many reports of it are on the input stream.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) job: Option<String>,
    pub(super) reports_count: usize,
}

impl Crew {
    pub(super) fn new(
        client: &Client,
        store: &MemoryStore,
        policy: &Policy,
        sweeps: bool,
        now_ms: i64,
        seed: u64,
    ) -> Self {
        let (clock, hands) = Clock::manual(Timestamp::from_millis(now_ms));
        let mailbox = Mailbox::default();
        // Waiting for one's turn is tried elsewhere; what Belvo says of too many requests holds here too.
        let belvo = client.clone().with_budget(Budget::by(clock.clone(), 1_000)).with_wire(Arc::new(mailbox.clone()));
        let (guard, inputs) = (MissingGuard::default(), Arc::new(mailbox.clone()) as Arc<dyn Inputs>);
        let worker = Worker::new(Arc::clone(&inputs), belvo.clone(), guard.clone(), clock.clone());
        let schedule = Box::new(Schedule::new(clock.elapsed(), seed));
        let parts = Parts {
            belvo,
            guard,
            store: Arc::new(store.clone()),
            inputs,
            histories: Arc::new(mailbox.clone()),
            policy: policy.clone(),
            clock,
        };
        let reconciler = sweeps.then(|| Reconciler::rotating_from(None, SETTINGS, parts));
        let (tasks, tasks_count) = Default::default();
        Self { worker, reconciler, schedule: Some(schedule), hands, mailbox, tasks, tasks_count }
    }

    /// How many jobs it does.
    pub(super) fn jobs_count(&self) -> usize {
        self.tasks.values().filter(|task| task.job.is_some()).count()
    }

    /// Begins a job.
    pub(super) fn begin_job(&mut self, id: &str, body: Vec<u8>, tries: i64, stored_at_ms: i64) -> u64 {
        let (worker, stored_at) = (self.worker.clone(), Timestamp::from_millis(stored_at_ms));
        let future = Box::pin(async move { Outcome::Job(worker.work_on(&body, tries, stored_at).await) });
        self.begin(future, Some(id.to_owned()))
    }

    /// The next step of the reconciler, and at what time; none while it does one.
    pub(super) fn next_step(&self, now_ms: i64) -> Option<(Step, i64)> {
        self.reconciler.as_ref()?;
        let (step, at) = self.schedule.as_ref()?.next(span(now_ms), &SETTINGS);
        Some((step, i64::try_from(at.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Begins it.
    pub(super) fn begin_step(&mut self, step: Step) -> Option<u64> {
        let reconciler = self.reconciler.clone()?;
        let mut schedule = self.schedule.take()?;
        let future = Box::pin(async move {
            let pause = reconciler.perform(step, &mut schedule).await;
            Outcome::Step(step, schedule, pause)
        });
        Some(self.begin(future, None))
    }

    /// A step has ended.
    pub(super) fn end_step(&mut self, step: Step, mut schedule: Box<Schedule>, pause: Duration, now_ms: i64) {
        schedule.ended(step, span(now_ms), pause);
        self.schedule = Some(schedule);
    }

    fn begin(&mut self, future: BoxFuture<'static, Outcome>, job: Option<String>) -> u64 {
        self.tasks_count += 1;
        self.tasks.insert(self.tasks_count, Task { future, job, reports_count: 0 });
        self.tasks_count
    }

    /// Goes on with a task, as far as it comes: what it waits for then, and how it ended.
    pub(super) fn poll(&mut self, id: u64, now_ms: i64) -> (Vec<Wish>, Option<Ended>) {
        self.hands.set(Timestamp::from_millis(now_ms));
        let Some(task) = self.tasks.get_mut(&id) else { return (Vec::new(), None) };
        let waker = noop_waker();
        let polled = task.future.as_mut().poll(&mut Context::from_waker(&waker));
        let wishes = self.mailbox.take();
        let Poll::Ready(outcome) = polled else { return (wishes, None) };
        let ended = self.tasks.remove(&id).map(|Task { job, reports_count, .. }| Ended { outcome, job, reports_count });
        (wishes, ended)
    }

    /// A report of a task is on the input stream.
    pub(super) fn is_reported(&mut self, task: u64) {
        self.tasks.get_mut(&task).into_iter().for_each(|task| task.reports_count += 1);
    }
}

/// The clock of a crew, since the Unix epoch.
fn span(now_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(now_ms).unwrap_or(0))
}

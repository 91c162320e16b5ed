//! The background tasks of a process: the shipped jobs worker and the shipped reconciler. Each external call is a value.
//!
//! The shipped code is asynchronous and uses three traits: `Wire` for Belvo, `Inputs` for the publisher, and `ReadHistory` for the
//! histories. Here each call becomes a `PendingCall`, which the world answers late, wrongly or not at all. After the answer the world
//! polls the future. So a process that crashes in the middle of a job is a dropped future.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::BoxFuture;
use futures::task::noop_waker;

use crate::belvo::{Budget, Client, MissingGuard, Question, Reply, Wire};
use crate::clock::{Clock, ManualClock};
use crate::contract::{JobBody, JobName};
use crate::jobs::{KnownLinks, Next, Worker};
use crate::link::{LinkId, Policy, Timestamp};
use crate::nats::history::{HistoryError, LinkHistory, ReadHistory};
use crate::nats::inputs::{Inputs, NewInput};
use crate::nats::publisher::PublishError;
use crate::reconciler::{Parts, Reconciler, Schedule, Step, SweepSettings};
use crate::store::MemoryStore;

/// relink's default settings.
pub(super) const SETTINGS: SweepSettings = SweepSettings {
    sweep_every: Duration::from_secs(3600),
    rotation: Duration::from_secs(24 * 3600),
    adoption_per_hour: 60,
};

/// The channel for the answer to a call.
pub(super) type Answer<T, E> = oneshot::Sender<Result<T, E>>;

/// An external call of a task.
pub(super) enum PendingCall {
    /// A request to Belvo.
    Ask(Question, Answer<Reply, String>),
    /// A publish to the input stream.
    Put(NewInput, Answer<(), PublishError>),
    /// A read of the history of a link.
    History(LinkId, Answer<LinkHistory, HistoryError>),
}

/// The calls that the tasks have made and the world has not taken yet.
#[derive(Clone, Default)]
struct CallQueue(Arc<Mutex<Vec<PendingCall>>>);

impl std::fmt::Debug for CallQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mailbox")
    }
}

impl CallQueue {
    fn enqueue(&self, enqueue: PendingCall) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(enqueue);
    }

    fn take(&self) -> Vec<PendingCall> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Wire for CallQueue {
    fn ask(&self, question: Question) -> BoxFuture<'_, Result<Reply, String>> {
        let (answer, answered) = oneshot::channel();
        self.enqueue(PendingCall::Ask(question, answer));
        Box::pin(async move { answered.await.unwrap_or_else(|_| Err("broke off".to_owned())) })
    }
}

impl Inputs for CallQueue {
    fn put(&self, input: NewInput) -> BoxFuture<'_, Result<(), PublishError>> {
        let (answer, answered) = oneshot::channel();
        self.enqueue(PendingCall::Put(input, answer));
        Box::pin(async move { answered.await.unwrap_or(Err(PublishError::Closed)) })
    }
}

impl ReadHistory for CallQueue {
    fn history<'a>(&'a self, link: &'a LinkId) -> BoxFuture<'a, Result<LinkHistory, HistoryError>> {
        let (answer, answered) = oneshot::channel();
        self.enqueue(PendingCall::History(link.clone(), answer));
        Box::pin(async move { answered.await.unwrap_or_else(|_| Ok(LinkHistory::default())) })
    }
}

/// The result of a task.
pub(super) enum Outcome {
    Job(Next),
    Step(Step, Box<Schedule>, Duration),
}

struct Task {
    future: BoxFuture<'static, Outcome>,
    /// The id of its job, if it does one.
    job: Option<String>,
    /// Whether it has to store a report on the input stream, and has not done so yet.
    lacks_report: bool,
}

pub(super) struct BackgroundTasks {
    worker: Worker,
    reconciler: Option<Reconciler>,
    /// The schedule of the reconciler; `None` while a step is running.
    schedule: Option<Box<Schedule>>,
    manual_clock: ManualClock,
    call_queue: CallQueue,
    tasks: BTreeMap<u64, Task>,
    tasks_count: u64,
}

/// A finished task: its result, its job, and whether it has not reported what it had to.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) job: Option<String>,
    pub(super) lacks_report: bool,
}

impl BackgroundTasks {
    pub(super) fn new(
        client: &Client,
        store: &MemoryStore,
        policy: &Policy,
        sweeps: bool,
        now_ms: i64,
        seed: u64,
    ) -> Self {
        let (clock, manual_clock) = Clock::manual(Timestamp::from_millis(now_ms));
        let call_queue = CallQueue::default();
        // The call budget is tested elsewhere, so it is large here; a 429 of Belvo still pauses the calls.
        let belvo =
            client.clone().with_budget(Budget::by(clock.clone(), 1_000)).with_wire(Arc::new(call_queue.clone()));
        let (guard, inputs) = (MissingGuard::default(), Arc::new(call_queue.clone()) as Arc<dyn Inputs>);
        let known = KnownLinks { store: Arc::new(store.clone()), policy: policy.clone() };
        let worker = Worker::new(Arc::clone(&inputs), belvo.clone(), known, guard.clone(), clock.clone());
        let schedule = Box::new(Schedule::new(clock.elapsed(), seed));
        let parts = Parts {
            belvo,
            guard,
            store: Arc::new(store.clone()),
            inputs,
            histories: Arc::new(call_queue.clone()),
            policy: policy.clone(),
            clock,
        };
        let reconciler = sweeps.then(|| Reconciler::rotating_from(None, SETTINGS, parts));
        let (tasks, tasks_count) = Default::default();
        Self { worker, reconciler, schedule: Some(schedule), manual_clock, call_queue, tasks, tasks_count }
    }

    /// The number of running jobs.
    pub(super) fn jobs_count(&self) -> usize {
        self.tasks.values().filter(|task| task.job.is_some()).count()
    }

    /// Starts a job and returns the id of its task.
    pub(super) fn begin_job(&mut self, id: &str, body: Vec<u8>, tries: i64, stored_at_ms: i64) -> u64 {
        let (worker, stored_at) = (self.worker.clone(), Timestamp::from_millis(stored_at_ms));
        // A look-up that finds nothing has nothing to report; `LinkChecker::check_superseded` checks what all of them find.
        let name = serde_json::from_slice::<JobBody>(&body).ok().map(|job| job.name);
        let lacks_report = !matches!(name, Some(JobName::FindSuperseded | JobName::ReadSuccessor));
        let future = Box::pin(async move { Outcome::Job(worker.work_on(&body, tries, stored_at).await) });
        self.begin(future, Some(id.to_owned()), lacks_report)
    }

    /// The next step of the reconciler and its time; `None` while a step is running.
    pub(super) fn next_step(&self, now_ms: i64) -> Option<(Step, i64)> {
        self.reconciler.as_ref()?;
        let (step, at) = self.schedule.as_ref()?.next(span(now_ms), &SETTINGS);
        Some((step, i64::try_from(at.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Starts a step of the reconciler.
    pub(super) fn begin_step(&mut self, step: Step) -> Option<u64> {
        let reconciler = self.reconciler.clone()?;
        let mut schedule = self.schedule.take()?;
        let future = Box::pin(async move {
            let pause = reconciler.perform(step, &mut schedule).await;
            Outcome::Step(step, schedule, pause)
        });
        Some(self.begin(future, None, false))
    }

    /// Records that a step has finished.
    pub(super) fn end_step(&mut self, step: Step, mut schedule: Box<Schedule>, pause: Duration, now_ms: i64) {
        schedule.ended(step, span(now_ms), pause);
        self.schedule = Some(schedule);
    }

    fn begin(&mut self, future: BoxFuture<'static, Outcome>, job: Option<String>, lacks_report: bool) -> u64 {
        self.tasks_count += 1;
        self.tasks.insert(self.tasks_count, Task { future, job, lacks_report });
        self.tasks_count
    }

    /// Polls a task; returns its new calls and, if it has finished, its result.
    pub(super) fn poll(&mut self, id: u64, now_ms: i64) -> (Vec<PendingCall>, Option<Ended>) {
        self.manual_clock.set(Timestamp::from_millis(now_ms));
        let Some(task) = self.tasks.get_mut(&id) else { return (Vec::new(), None) };
        let waker = noop_waker();
        let polled = task.future.as_mut().poll(&mut Context::from_waker(&waker));
        let calls = self.call_queue.take();
        let Poll::Ready(outcome) = polled else { return (calls, None) };
        let ended = self.tasks.remove(&id).map(|Task { job, lacks_report, .. }| Ended { outcome, job, lacks_report });
        (calls, ended)
    }

    /// Notes a report of a task that is on the input stream.
    pub(super) fn is_reported(&mut self, task: u64) {
        self.tasks.get_mut(&task).into_iter().for_each(|task| task.lacks_report = false);
    }
}

/// The time since the Unix epoch.
fn span(now_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(now_ms).unwrap_or(0))
}

//! The journals of the hosts: the shipped writer and forwarder on a disk in memory. Each publish of a forwarder is a value.
//!
//! A forwarder is asynchronous, and its only outside is the trait `Target`. As with the background tasks, each call becomes a value that
//! the world answers late, wrongly or never, and then the world polls the future. A process that crashes drops its forwarder in the
//! middle of a publish; the disk stays on its host.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::channel::oneshot;
use futures::future::BoxFuture;
use futures::task::noop_waker;

use crate::engine::Delivery;
use crate::journal::{Dead, Entry, Forwarder, ManualWriter, MemoryDisk, Step, Target, open_manual};
use crate::link::Timestamp;
use crate::nats::publisher::PublishError;

/// A segment has a few records, so that a run has many segments.
const SEGMENT_BYTES: u64 = 2_000;

/// The header with which the simulation recognises a message. relink does not know it.
pub(super) const NUMBER_HEADER: &str = "Simulation-Number";

/// A publish of a forwarder that has no answer yet.
pub(super) enum JournalCall {
    Publish(Vec<Entry>, oneshot::Sender<Vec<Result<u64, PublishError>>>),
    SetAside(Vec<(Entry, Dead)>, oneshot::Sender<Result<Vec<u64>, String>>),
}

#[derive(Clone, Default)]
struct CallQueue(Arc<Mutex<Vec<JournalCall>>>);

impl CallQueue {
    fn enqueue(&self, call: JournalCall) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }
}

impl Target for CallQueue {
    fn publish(&self, entries: Vec<Entry>) -> BoxFuture<'_, Vec<Result<u64, PublishError>>> {
        let (answer, answered) = oneshot::channel();
        let count = entries.len();
        self.enqueue(JournalCall::Publish(entries, answer));
        Box::pin(async move { answered.await.unwrap_or_else(|_| vec![Err(PublishError::Closed); count]) })
    }

    fn set_aside(&self, letters: Vec<(Entry, Dead)>) -> BoxFuture<'_, Result<Vec<u64>, String>> {
        let (answer, answered) = oneshot::channel();
        self.enqueue(JournalCall::SetAside(letters, answer));
        Box::pin(async move { answered.await.unwrap_or_else(|_| Err("broke off".to_owned())) })
    }
}

/// The journal of a running process.
struct Running {
    writer: ManualWriter<MemoryDisk>,
    /// `None` while a step is running.
    forwarder: Option<Forwarder<MemoryDisk>>,
    step: Option<BoxFuture<'static, (Forwarder<MemoryDisk>, Step)>>,
    call_queue: CallQueue,
}

/// A host with its disk.
#[derive(Default)]
pub(super) struct Host {
    pub(super) disk: MemoryDisk,
    running: Option<Running>,
    /// How often a journal was opened here: an event of an earlier one is ignored.
    pub(super) run: u32,
    /// How many bytes of the disk were changed.
    pub(super) damages: u32,
    /// The last publish has failed. Only an injected bug reads it.
    pub(super) has_failed: bool,
}

/// All hosts, and the messages that they were sent.
#[derive(Default)]
pub(super) struct Journals {
    pub(super) hosts: Vec<Host>,
    /// The host of each process.
    pub(super) host_of: BTreeMap<u32, usize>,
    /// The messages, by their number. A repeat by its sender is another message.
    pub(super) messages: Vec<Sent>,
    opened_count: u32,
    /// Only for the injected bug of repeats with another id.
    pub(super) ids_count: u32,
}

/// A message that was sent to the HTTP server of a host.
pub(super) struct Sent {
    pub(super) delivery: Delivery,
    /// NATS refuses it, now and later.
    pub(super) is_refused: bool,
}

impl Journals {
    /// A new host.
    pub(super) fn add_host(&mut self) -> usize {
        self.hosts.push(Host::default());
        self.hosts.len() - 1
    }

    /// Opens the journal of a host.
    pub(super) fn open(&mut self, host: usize) -> io::Result<u32> {
        self.opened_count += 1;
        let (host, call_queue) = (&mut self.hosts[host], CallQueue::default());
        let target = Arc::new(call_queue.clone());
        // The shipped salt is random, and only its difference matters here.
        let (writer, forwarder) = open_manual(host.disk.clone(), self.opened_count, SEGMENT_BYTES, target)?;
        host.running = Some(Running { writer, forwarder: Some(forwarder), step: None, call_queue });
        host.run += 1;
        Ok(host.run)
    }

    /// Notes a message, and returns it as the HTTP server appends it, with its number.
    pub(super) fn note(&mut self, delivery: Delivery, is_refused: bool, now: Timestamp) -> (u64, Entry) {
        let number = self.messages.len() as u64;
        let mut headers = delivery.headers.clone();
        // The checkers search this header in damaged bytes, so it is the last one.
        headers.push((NUMBER_HEADER.to_owned(), number_text(number)));
        let (subject, payload) = (delivery.subject.clone(), delivery.payload.clone());
        self.messages.push(Sent { delivery, is_refused });
        (number, Entry { at: now, subject, headers, payload, dead: None })
    }
}

impl Host {
    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Ends the process: what it has written stays.
    pub(super) fn crash(&mut self) {
        if self.running.take().is_some() {
            self.disk = self.disk.after_crash();
        }
    }

    /// Ends the host: what was not synced may be lost. A write is in progress.
    pub(super) fn crash_host(&mut self, interrupted: Entry, chance: impl FnMut(usize) -> usize) -> io::Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        self.disk.stall(true);
        let appended = running.writer.append(vec![interrupted]).map(drop);
        self.disk = self.disk.after_host_crash(chance);
        appended
    }

    pub(super) fn append(&mut self, entry: Entry) -> io::Result<u64> {
        let running = self.running.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        running.writer.append(vec![entry])
    }

    /// Up to when the journal is published; `None` if it is not known.
    pub(super) fn published_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.running.as_ref().map_or(Some(now), |running| running.writer.published_until(now))
    }

    /// Starts a step of the forwarder, unless one is running, and polls it. Returns its calls and its result.
    pub(super) fn poll(&mut self) -> (Vec<JournalCall>, Option<Step>) {
        let Some(running) = &mut self.running else { return (Vec::new(), None) };
        if let Some(mut forwarder) = running.forwarder.take() {
            running.step = Some(Box::pin(async move {
                let step = forwarder.step().await;
                (forwarder, step)
            }));
        }
        let Some(step) = &mut running.step else { return (Vec::new(), None) };
        let waker = noop_waker();
        let polled = step.as_mut().poll(&mut Context::from_waker(&waker));
        let calls = std::mem::take(&mut *running.call_queue.0.lock().unwrap_or_else(PoisonError::into_inner));
        let Poll::Ready((forwarder, step)) = polled else { return (calls, None) };
        (running.forwarder, running.step) = (Some(forwarder), None);
        (calls, Some(step))
    }
}

/// The number of a message in its header: repeated, so that one changed bit does not make the number of another message.
pub(super) fn number_text(number: u64) -> String {
    format!("{number}.{number}.{number}")
}

/// The number of a message, if it has one.
pub(super) fn number_of(headers: &[(String, String)]) -> Option<u64> {
    let (_, value) = headers.iter().find(|(name, _)| name == NUMBER_HEADER)?;
    value.split('.').next()?.parse().ok()
}

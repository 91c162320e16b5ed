//! The writer: a thread that performs the node's writes to the store, in order.
//!
//! While it writes, the driver hands further inputs to the node, which plans the next commit. If several writes wait, the writer applies
//! them as one: of a link that several commits have changed, only the newest state is written.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use tokio::sync::mpsc as answers;

use super::calls::{CHECKPOINT_LOOKS_MAX, LOOKS_MAX, OpenCalls};
use super::driver::failed_store;
use crate::node::{Input, RequestId};
use crate::store::{Changes, Store};

/// The most writes that are applied as one. The node has at most a few open ([`crate::node::Output::Apply`]).
const JOINED_MAX: usize = 8;

/// A write.
pub(super) enum Write {
    /// Apply these changes.
    Apply(RequestId, Changes),
    /// Empty the store.
    RestartEmpty(RequestId),
    /// Say when every earlier write is done: the checkpoint of this request may begin.
    Reach(RequestId),
}

/// What the writer has done. One channel carries all of it: the node must not learn of a checkpoint before the writes that it includes.
#[derive(Debug, PartialEq)]
pub(super) enum Written {
    /// The node's input for a write.
    Answer(Input),
    /// Every write before [`Write::Reach`] is done, and its answer was sent.
    Reached(RequestId),
}

/// The thread. When this is dropped, the writes that it has not begun are not made, as in a crash of the process.
pub(super) struct Writer {
    /// `None` only while it is dropped.
    writes: Option<mpsc::Sender<Write>>,
    thread: Option<JoinHandle<()>>,
    is_dropped: Arc<AtomicBool>,
}

impl Writer {
    /// Starts the thread. The answers for the node arrive at the receiver, which is closed if the thread panics.
    pub(super) fn start<S: Store + 'static>(store: S, calls: OpenCalls) -> (Self, answers::UnboundedReceiver<Written>) {
        let (answer, answered) = answers::unbounded_channel();
        let writer = Self::with(move |writes| {
            // At the end of a rebuild the store writes all that it has collected, which takes minutes for millions of links.
            let is_long =
                writes.iter().any(|write| matches!(write, Write::Apply(_, changes) if changes.is_end_of_read));
            let _call = calls.open("a write", if is_long { CHECKPOINT_LOOKS_MAX } else { LOOKS_MAX });
            perform(&store, writes, |written| drop(answer.send(written)));
        });
        (writer, answered)
    }

    fn with(mut perform: impl FnMut(Vec<Write>) + Send + 'static) -> Self {
        let (writes, waiting) = mpsc::channel();
        let is_dropped = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&is_dropped);
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
            while let Ok(first) = waiting.recv() {
                let mut joined = vec![first];
                joined.extend(waiting.try_iter().take(JOINED_MAX - 1));
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                perform(joined);
            }
        });
        let thread = Some(thread.expect("the system has room for a thread"));
        Self { writes: Some(writes), thread, is_dropped }
    }

    /// Makes a write, after all earlier ones.
    pub(super) fn write(&self, write: Write) {
        // The thread ends early only by a panic, which the closed receiver of the answers reports.
        if let Some(writes) = &self.writes {
            drop(writes.send(write));
        }
    }

    /// Continues the panic of the thread.
    pub(super) fn panicked(&mut self) -> ! {
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            Some(Ok(())) | None => unreachable!("the thread ends only when the writer is dropped"),
        }
    }
}

impl Drop for Writer {
    /// Waits for the write under way: the next driver may use the same store.
    fn drop(&mut self) {
        self.is_dropped.store(true, Ordering::SeqCst);
        self.writes = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Performs writes in order, and applies adjacent changes as one.
fn perform<S: Store>(store: &S, writes: Vec<Write>, mut answer: impl FnMut(Written)) {
    let (mut requests, mut changes) = (Vec::new(), Changes::default());
    let apply = |requests: &mut Vec<RequestId>, changes: &mut Changes, answer: &mut dyn FnMut(Written)| {
        if requests.is_empty() {
            return;
        }
        match store.apply(&std::mem::take(changes)) {
            Ok(()) => requests.drain(..).for_each(|request| answer(Written::Answer(Input::Applied { request }))),
            Err(error) => {
                requests.clear();
                answer(Written::Answer(failed_store(error)));
            }
        }
    };
    for write in writes {
        match write {
            Write::Apply(request, next) => {
                requests.push(request);
                changes.join(next);
            }
            Write::RestartEmpty(request) => {
                apply(&mut requests, &mut changes, &mut answer);
                answer(Written::Answer(store.restart_empty().map_or_else(failed_store, |kept_at| {
                    let kept_at = kept_at.map(|path| path.display().to_string());
                    Input::StoreRestarted { request, kept_at }
                })));
            }
            Write::Reach(request) => {
                apply(&mut requests, &mut changes, &mut answer);
                answer(Written::Reached(request));
            }
        }
    }
    apply(&mut requests, &mut changes, &mut answer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{LinkId, StateName};
    use crate::store::{Head, MemoryStore, Position, Put};

    fn put(link: &str, version: u64) -> Put {
        let id: LinkId = link.parse().unwrap();
        let head = Head { state: StateName::Valid, partition: 0, version, deadline: None };
        Put::of_record(id, head, br#"{"link_id":"x"}"#.to_vec())
    }

    fn changes(link: &str, version: u64, sequence: u64) -> Changes {
        let position = Position { stream_created_ns: 1, sequence, witness: None };
        Changes { puts: vec![put(link, version)], position: Some(position), ..Changes::default() }
    }

    fn version(store: &MemoryStore, link: &str) -> Option<u64> {
        store.get(&link.parse().unwrap()).unwrap().map(|stored| stored.head.version)
    }

    #[test]
    fn writes_are_answered_in_order_and_the_newest_state_of_a_link_is_kept() {
        let store = MemoryStore::default();
        let writes = vec![
            Write::Apply(RequestId(1), changes("a", 1, 10)),
            Write::Apply(RequestId(2), changes("a", 2, 20)),
            Write::Apply(RequestId(3), changes("b", 7, 30)),
            Write::Reach(RequestId(6)),
            Write::RestartEmpty(RequestId(4)),
            Write::Apply(RequestId(5), changes("c", 1, 40)),
        ];
        let mut answers = Vec::new();
        perform(&store, writes, |input| {
            if answers.len() == 2 {
                assert_eq!((version(&store, "a"), version(&store, "b")), (Some(2), Some(7)));
            }
            answers.push(input);
        });
        let applied = |number| Written::Answer(Input::Applied { request: RequestId(number) });
        let restarted = Written::Answer(Input::StoreRestarted { request: RequestId(4), kept_at: None });
        let reached = Written::Reached(RequestId(6));
        assert_eq!(answers, [applied(1), applied(2), applied(3), reached, restarted, applied(5)]);
        assert_eq!((version(&store, "a"), version(&store, "c")), (None, Some(1)));
        assert_eq!(store.position().unwrap().map(|position| position.sequence), Some(40));
    }

    #[test]
    fn a_dropped_writer_finishes_the_write_under_way_and_begins_no_other() {
        let ((begun, has_begun), (go_on, waits)) = (mpsc::channel(), mpsc::channel::<()>());
        let writer = Writer::with(move |writes| {
            begun.send(writes.len()).unwrap();
            waits.recv().unwrap();
        });
        let write = |number| writer.write(Write::Apply(RequestId(number), Changes::default()));
        write(1);
        assert_eq!(has_begun.recv(), Ok(1));
        write(2);
        writer.is_dropped.store(true, Ordering::SeqCst);
        go_on.send(()).unwrap();
        drop(writer);
        assert!(has_begun.recv().is_err(), "the thread has ended, and began no other write");
    }
}

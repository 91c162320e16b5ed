//! The blocking calls of the driver that have not returned.
//!
//! A call of the store may never return: a disk that hangs, or a thread of the database that has failed, leaves its caller waiting. The
//! driver waits inside such a call, so it cannot notice that. A supervisor on another thread looks at the open calls in regular
//! intervals ([`OpenCalls::look`]). Looks are counted and not seconds, so that the time in which the whole process was stopped
//! (SIGSTOP) does not count.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A call that was open at this number of looks is stuck.
pub const LOOKS_MAX: u32 = 10;

/// The same for a checkpoint and for the end of a rebuild. The first may compact the store, the second writes all of it, and both take
/// minutes for millions of links. No commit waits for them.
pub(super) const CHECKPOINT_LOOKS_MAX: u32 = 10 * LOOKS_MAX;

/// The open calls. All clones share them.
#[derive(Clone, Debug, Default)]
pub struct OpenCalls(Arc<Mutex<Calls>>);

#[derive(Debug, Default)]
struct Calls {
    last_id: u64,
    open: BTreeMap<u64, Call>,
}

#[derive(Debug)]
struct Call {
    what: &'static str,
    looks_left: u32,
}

impl OpenCalls {
    /// Opens a call, which ends when the returned value is dropped. It is stuck after `looks_max` looks.
    pub fn open(&self, what: &'static str, looks_max: u32) -> OpenCall {
        let mut calls = self.calls();
        calls.last_id += 1;
        let id = calls.last_id;
        calls.open.insert(id, Call { what, looks_left: looks_max });
        OpenCall { calls: self.clone(), id }
    }

    /// Looks at all open calls. Returns what a stuck one does.
    pub fn look(&self) -> Option<&'static str> {
        let mut calls = self.calls();
        calls.open.values_mut().for_each(|call| call.looks_left = call.looks_left.saturating_sub(1));
        calls.open.values().find(|call| call.looks_left == 0).map(|call| call.what)
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that has not returned.
#[must_use = "the call ends when this is dropped"]
#[derive(Debug)]
pub struct OpenCall {
    calls: OpenCalls,
    id: u64,
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.calls.calls().open.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_stuck_after_its_looks_and_no_longer_after_its_end() {
        let calls = OpenCalls::default();
        let long = calls.open("a long call", 3);
        assert_eq!((calls.look(), calls.look()), (None, None));
        let short = calls.open("a short call", 3);
        assert_eq!(calls.look(), Some("a long call"));
        drop(long);
        assert_eq!(calls.look(), None);
        drop(short);
        assert_eq!((0..9).find_map(|_| calls.look()), None);
    }
}

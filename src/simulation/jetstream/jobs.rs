//! The consumer of the jobs: each is handed out until somebody acknowledges it, one after the other and in no order to rely on.

use std::collections::BTreeSet;

/// After this a job that was not acknowledged comes again (`job_ack_wait`).
const ACK_WAIT_MS: i64 = 60_000;

/// The jobs on the output stream.
#[derive(Default)]
pub(in crate::simulation) struct Jobs {
    all: Vec<JobMessage>,
}

/// A message on a job subject, as the consumer knows it.
pub(in crate::simulation) struct JobMessage {
    /// The id of the message.
    pub(in crate::simulation) id: String,
    pub(in crate::simulation) body: Vec<u8>,
    pub(in crate::simulation) stored_at_ms: i64,
    /// How often it has been handed out.
    pub(in crate::simulation) tries: i64,
    /// When it is handed out next; never, once it is acknowledged or given up.
    next_ms: Option<i64>,
}

impl Jobs {
    pub(in crate::simulation) fn store(&mut self, id: String, body: Vec<u8>, now_ms: i64) {
        self.all.push(JobMessage { id, body, stored_at_ms: now_ms, tries: 0, next_ms: Some(now_ms) });
    }

    /// The stream has lost messages: their jobs are gone with them.
    pub(in crate::simulation) fn retain(&mut self, stored: &BTreeSet<String>) {
        self.all.retain(|job| stored.contains(&job.id));
    }

    /// Hands out the next one that is due, and waits for its acknowledgement.
    pub(in crate::simulation) fn hand_out(&mut self, now_ms: i64) -> Option<&JobMessage> {
        let is_due = |job: &&mut JobMessage| job.next_ms.is_some_and(|at_ms| at_ms <= now_ms);
        let job = self.all.iter_mut().filter(is_due).min_by_key(|job| job.next_ms)?;
        job.tries += 1;
        job.next_ms = Some(now_ms + ACK_WAIT_MS);
        Some(job)
    }

    /// When one is to be handed out.
    pub(in crate::simulation) fn next_ms(&self) -> Option<i64> {
        self.all.iter().filter_map(|job| job.next_ms).min()
    }

    /// An acknowledgement: nothing more (`Ack`, `Term`), or again at `next_ms` (`Nak` with a delay). The last one counts.
    pub(in crate::simulation) fn acknowledge(&mut self, id: &str, next_ms: Option<i64>) {
        let open = self.all.iter_mut().filter(|job| job.id == id && job.next_ms.is_some());
        open.for_each(|job| job.next_ms = next_ms);
    }

    /// One that was stored before, and is still not done.
    pub(in crate::simulation) fn open_before(&self, before_ms: i64) -> Option<&JobMessage> {
        self.all.iter().find(|job| job.next_ms.is_some() && job.stored_at_ms < before_ms)
    }
}

//! The jobs consumer: each job is delivered until it is acknowledged. The order is not guaranteed.

use std::collections::BTreeSet;

/// The time after which an unacknowledged job is delivered again (`job_ack_wait`).
const ACK_WAIT_MS: i64 = 60_000;

/// The jobs on the output stream.
#[derive(Default)]
pub(in crate::simulation) struct Jobs {
    all: Vec<JobMessage>,
}

/// A message on a job subject, with its consumer state.
pub(in crate::simulation) struct JobMessage {
    /// The id of the message.
    pub(in crate::simulation) id: String,
    pub(in crate::simulation) body: Vec<u8>,
    pub(in crate::simulation) stored_at_ms: i64,
    /// The number of deliveries.
    pub(in crate::simulation) tries: i64,
    /// The time of the next delivery; `None` once the job is acknowledged or given up.
    next_ms: Option<i64>,
}

impl Jobs {
    pub(in crate::simulation) fn store(&mut self, id: String, body: Vec<u8>, now_ms: i64) {
        self.all.push(JobMessage { id, body, stored_at_ms: now_ms, tries: 0, next_ms: Some(now_ms) });
    }

    /// Removes the jobs whose messages the stream has lost.
    pub(in crate::simulation) fn retain(&mut self, stored: &BTreeSet<String>) {
        self.all.retain(|job| stored.contains(&job.id));
    }

    /// Delivers the next job that is due.
    pub(in crate::simulation) fn hand_out(&mut self, now_ms: i64) -> Option<&JobMessage> {
        let is_due = |job: &&mut JobMessage| job.next_ms.is_some_and(|at_ms| at_ms <= now_ms);
        let job = self.all.iter_mut().filter(is_due).min_by_key(|job| job.next_ms)?;
        job.tries += 1;
        job.next_ms = Some(now_ms + ACK_WAIT_MS);
        Some(job)
    }

    /// The time of the next delivery.
    pub(in crate::simulation) fn next_ms(&self) -> Option<i64> {
        self.all.iter().filter_map(|job| job.next_ms).min()
    }

    /// Handles an acknowledgement: final (`Ack`, `Term`), or a redelivery at `next_ms` (`Nak` with a delay). The last one counts.
    pub(in crate::simulation) fn acknowledge(&mut self, id: &str, next_ms: Option<i64>) {
        let open = self.all.iter_mut().filter(|job| job.id == id && job.next_ms.is_some());
        open.for_each(|job| job.next_ms = next_ms);
    }

    /// A job that was stored before `before_ms` and is still open.
    pub(in crate::simulation) fn open_before(&self, before_ms: i64) -> Option<&JobMessage> {
        self.all.iter().find(|job| job.next_ms.is_some() && job.stored_at_ms < before_ms)
    }
}

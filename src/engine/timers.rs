//! Timers: the machine gets a `DeadlinePassed` for every link whose deadline has passed, in the same plan as the
//! deliveries.
//!
//! The store has an index of the deadlines. The index can be outdated: a commit in flight, or a changed policy, may
//! have moved a deadline.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Engine, Item, LinkEntry, Plan, TIMERS_MAX};
use crate::contract::{Because, Origin};
use crate::link::{Event, Input, Link, LinkId, Timestamp};
use crate::store::{Head, Put, Store, StoreError};

impl<S: Store> Engine<S> {
    /// Plans the timers of at most `max` links that are due at `now`.
    pub(super) fn plan_timers(&mut self, now: Timestamp, max: usize, plan: &mut Plan) -> Result<(), StoreError> {
        for (id, entry) in self.due(now, max, plan)? {
            let link = &entry.link;
            let under_way = self.recent.is_uncommitted(&id);
            // The machine uses the time of the last step if that is later than `now`, so it would accept an early timer
            // of a link in the future.
            if link.deadline(&self.policy).is_none_or(|at| at > now) {
                plan.retime(self.retimed(link)?);
                continue;
            }
            let incident = self.institutions.down_since(link.profile.institution.as_deref());
            let mut input = Input { incident, ..Event::DeadlinePassed.into() };
            // A bug that panics on one timer must not end the process: the timer would be due again at every start.
            match catch_unwind(AssertUnwindSafe(|| self.step_link(link, &mut input, now))) {
                Ok(Err(error)) => return Err(error),
                Ok(Ok(Ok(step))) => {
                    plan.tally.add("timer", "accepted");
                    let because = Because::of(&step, &input, Origin::timer(now));
                    plan.add_item(|| Item::Timer(id));
                    plan.follow_timer(&entry, self.publishing.spans);
                    plan.span_about(&entry);
                    self.take_step(&entry, step, entry.partition, because, now, plan);
                    plan.end_span();
                }
                Ok(Ok(Err(_))) if under_way => {}
                Ok(Ok(Err(_))) => plan.retime(self.retimed(link)?),
                Err(_) => {
                    plan.tally.add("timer", "panicked");
                    plan.timers_panicked.push(id.clone());
                    self.timers_skipped.insert(id);
                }
            }
        }
        Ok(())
    }

    /// The first `max` due links of the owned partitions, without the skipped ones and those that wait for inputs.
    fn due(&mut self, now: Timestamp, max: usize, plan: &mut Plan) -> Result<Vec<(LinkId, LinkEntry)>, StoreError> {
        let mut limit = TIMERS_MAX + self.timers_skipped.len();
        loop {
            let all = self.store.due(now, limit)?;
            let is_all = all.len() < limit;
            let mut ours = Vec::new();
            for id in all {
                if ours.len() == max {
                    return Ok(ours);
                }
                if self.timers_skipped.contains(&id) {
                    continue;
                }
                let entry = match self.load(&id) {
                    Ok(entry) => entry,
                    Err(error) if error.is_of_one_record() => {
                        // The link stays due until the store has been rebuilt.
                        plan.links_unreadable.push(id.clone());
                        self.timers_skipped.insert(id);
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                let Some(entry) = entry else { continue };
                // A commit in flight has handled this timer; the next plan takes others.
                if self.recent.is_uncommitted(&id) && entry.link.deadline(&self.policy).is_none_or(|at| at > now) {
                    continue;
                }
                if let Some(partition) = self.partition_of(entry.partition) {
                    let deadline = entry.link.deadline(&self.policy).filter(|at| *at <= now);
                    // The links are in the order of their deadlines, so those behind this one wait too.
                    if deadline.zip(self.due_by).is_some_and(|(deadline, due_by)| deadline > due_by) {
                        plan.are_timers_held = true;
                        return Ok(ours);
                    }
                    ours.push((id, LinkEntry { partition, ..entry }));
                }
            }
            if is_all || ours.len() == max {
                return Ok(ours);
            }
            limit *= 2;
        }
    }

    /// The partition that handles the timers of a link of `partition`; `None` if this node does not own it.
    pub(super) fn partition_of(&self, partition: u16) -> Option<u16> {
        let partition = if partition < self.partitions_count { partition } else { partition % self.partitions_count };
        self.planned.contains_key(&partition).then_some(partition)
    }

    /// A change of the stored deadline to the one under the current policy; `None` if it is the same.
    fn retimed(&self, link: &Link) -> Result<Option<Put>, StoreError> {
        let Some(stored) = self.store.get(&link.id)? else { return Ok(None) };
        let head = Head { deadline: link.deadline(&self.policy), ..stored.head };
        Ok((head != stored.head).then(|| Put::of_record(link.id.clone(), head, stored.record)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use super::*;
    use crate::engine::Delivery;
    use crate::link::{Policy, PolicySettings, Refusal, Step, step};
    use crate::store::MemoryStore;

    const START: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    fn broken(link: &str, sequence: u64) -> Delivery {
        let body = format!(
            r#"{{"webhook_id":"w","webhook_type":"LINK","webhook_code":"token_required","process_type":"recurrent_update",
                "link_id":"{link}","request_id":"r","data":{{}}}}"#
        );
        Delivery {
            partition: 0,
            sequence,
            stored_at_ns: START.as_millis() * 1_000_000,
            subject: String::new(),
            kind: "webhook".to_owned(),
            link: link.to_owned(),
            headers: Vec::new(),
            payload: body.into(),
            receipt: String::new(),
        }
    }

    fn with_a_bug(link: &Link, input: &Input, now: Timestamp, policy: &Policy) -> Result<Step, Refusal> {
        assert!(link.id.as_str() != "bad" || input.event != Event::DeadlinePassed, "a bug, on purpose");
        step(link, input, now, policy)
    }

    fn plan(engine: &mut Engine<MemoryStore>, queue: Vec<Delivery>, now: Timestamp) -> Plan {
        let plan = engine.plan(&mut VecDeque::from(queue), now).unwrap();
        engine.store().apply(&plan.changes(None)).unwrap();
        engine.record_commit(&plan);
        plan
    }

    fn engine() -> Engine<MemoryStore> {
        let policy = Policy::new(PolicySettings { can_verify: true, ..PolicySettings::default() }).unwrap();
        let mut engine = Engine::new(MemoryStore::default(), policy, 1, &[(0, 0)].into()).unwrap();
        engine.step = with_a_bug;
        plan(&mut engine, vec![broken("bad", 1), broken("good", 2)], START);
        engine
    }

    #[test]
    fn a_timer_that_panics_is_skipped_and_reported_once() {
        let mut engine = engine();
        let tomorrow = START.after(Duration::from_secs(25 * 3600));
        assert_eq!(engine.store().due(tomorrow, 9).unwrap().len(), 2);
        let first = plan(&mut engine, Vec::new(), tomorrow);
        assert_eq!(first.timers_panicked, ["bad".parse().unwrap()]);
        assert_eq!(first.puts.iter().map(|put| put.id.as_str()).collect::<Vec<_>>(), ["good"]);
        let offsets = [(0, 2)].into();
        for _ in 0..2 {
            let again = plan(&mut engine, Vec::new(), tomorrow);
            assert!(again.is_idle(), "{again:?}");
            engine.restart(1, &offsets).unwrap();
        }
        // Only the timer is skipped; deliveries for the link are handled.
        let answer = plan(&mut engine, vec![broken("bad", 3)], tomorrow);
        assert_eq!(answer.dead_letters.len(), 0);
        assert!(!answer.messages.is_empty());
    }

    #[test]
    fn a_timer_that_a_commit_in_flight_has_moved_is_not_early_for_a_link_in_the_future() {
        let mut engine = engine();
        let tomorrow = START.after(Duration::from_secs(25 * 3600));
        let sent = |sequence, kind: &str, body: &'static str, at: Timestamp| Delivery {
            kind: kind.to_owned(),
            payload: body.into(),
            stored_at_ns: at.as_millis() * 1_000_000,
            ..broken("good", sequence)
        };
        // The update moves the deadline by ten minutes. The server's clock is a year ahead for the last message.
        let year = Duration::from_secs(365 * 86_400);
        let started = sent(3, "widget", r#"{"event": "started", "expires_in_seconds": 600}"#, tomorrow);
        let muted = sent(4, "command", r#"{"command": "mute"}"#, tomorrow.after(year));
        let in_flight = engine.plan(&mut VecDeque::from([started, muted]), tomorrow).unwrap();
        assert_eq!(in_flight.puts.last().unwrap().head.version, 4, "a reminder, an update and a mute");
        let next = engine.plan(&mut VecDeque::new(), tomorrow.after(Duration::from_secs(1))).unwrap();
        assert!(next.is_idle(), "{next:?}");
    }

    #[test]
    fn timers_of_partitions_of_another_node_are_not_planned() {
        let mut engine = engine();
        let tomorrow = START.after(Duration::from_secs(25 * 3600));
        engine.restart(1, &[(1, 0)].into()).unwrap();
        assert!(engine.plan(&mut VecDeque::new(), tomorrow).unwrap().is_idle());
        // The stream has fewer partitions than before: the link is assigned to one of them.
        let mut engine = engine.with_partitions(1);
        engine.restart(1, &[(0, 0)].into()).unwrap();
        assert!(!engine.plan(&mut VecDeque::new(), tomorrow).unwrap().is_idle());
    }
}

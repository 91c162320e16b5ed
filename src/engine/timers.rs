//! Timers: every link whose deadline has passed is stepped, in the same plan as what was delivered.
//!
//! The index of deadlines is the store's. It can be stale: a commit under way, or a changed policy, may have moved a deadline.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Engine, Held, Item, Plan, TIMERS_MAX};
use crate::contract::{Because, Origin};
use crate::link::{Event, Input, Link, LinkId, Timestamp};
use crate::store::{Head, Put, Store, StoreError};

impl<S: Store> Engine<S> {
    /// Steps at most `max` of the links that are due at `now`.
    pub(super) fn plan_timers(&mut self, now: Timestamp, max: usize, plan: &mut Plan) -> Result<(), StoreError> {
        for (id, Held { link, lane }) in self.due(now, max, plan)? {
            let under_way = self.overlay.contains_key(&id);
            let incident = self.incidents.is_on(link.profile.institution.as_deref());
            let input = Input { incident, ..Event::DeadlinePassed.into() };
            // A bug that panics on one deadline must not end the process, and be due again at every start.
            match catch_unwind(AssertUnwindSafe(|| (self.step)(&link, &input, now, &self.policy))) {
                Ok(Ok(step)) => {
                    plan.tally.add("timer", "accepted");
                    let because = Because::of(&step, &input, Origin::timer(now));
                    plan.add_item(|| Item::Timer(id));
                    self.take(&step, lane, because, now, plan);
                }
                Ok(Err(_)) if under_way => {}
                Ok(Err(_)) => plan.retime(self.retimed(&link)?),
                Err(_) => {
                    plan.tally.add("timer", "panicked");
                    plan.timers_panicked.push(id.clone());
                    self.timers_skipped.insert(id);
                }
            }
        }
        Ok(())
    }

    /// The first `max` links of our lanes that the store says are due, but those that are left alone.
    fn due(&mut self, now: Timestamp, max: usize, plan: &mut Plan) -> Result<Vec<(LinkId, Held)>, StoreError> {
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
                let held = match self.load(&id) {
                    Ok(held) => held,
                    Err(error) if error.is_of_one_record() => {
                        // It stays due until the store has been rebuilt.
                        plan.links_unreadable.push(id.clone());
                        self.timers_skipped.insert(id);
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                let Some(held) = held else { continue };
                if let Some(lane) = self.home_of(held.lane) {
                    ours.push((id, Held { lane, ..held }));
                }
            }
            if is_all || ours.len() == max {
                return Ok(ours);
            }
            limit *= 2;
        }
    }

    /// The lane that takes care of a link recorded on `lane`, if it is held: another node has the others.
    fn home_of(&self, lane: u16) -> Option<u16> {
        let lane = if lane < self.partitions_count { lane } else { lane % self.partitions_count };
        self.planned.contains_key(&lane).then_some(lane)
    }

    /// The stored link with the deadline it has under today's policy.
    fn retimed(&self, link: &Link) -> Result<Option<Put>, StoreError> {
        let Some(stored) = self.store.get(&link.id)? else { return Ok(None) };
        let head = Head { deadline: link.deadline(&self.policy), ..stored.head };
        Ok((head != stored.head).then(|| Put { id: link.id.clone(), head, record: stored.record }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use super::*;
    use crate::engine::Delivery;
    use crate::link::{Policy, Refusal, Settings, Step, step};
    use crate::store::MemoryStore;

    const START: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    fn broken(link: &str, sequence: u64) -> Delivery {
        let body = format!(
            r#"{{"webhook_id":"w","webhook_type":"LINK","webhook_code":"token_required","process_type":"recurrent_update",
                "link_id":"{link}","request_id":"r","data":{{}}}}"#
        );
        Delivery {
            lane: 0,
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
        engine.settle(&plan);
        plan
    }

    fn engine() -> Engine<MemoryStore> {
        let policy = Policy::new(Settings { can_verify: true, ..Settings::default() }).unwrap();
        let mut engine = Engine::new(MemoryStore::default(), policy, 1, &[(0, 0)].into()).unwrap();
        engine.step = with_a_bug;
        plan(&mut engine, vec![broken("bad", 1), broken("good", 2)], START);
        engine
    }

    #[test]
    fn a_timer_that_panics_is_left_alone_and_told_once() {
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
        // It is a timer only: what is delivered for the link is handled.
        let answer = plan(&mut engine, vec![broken("bad", 3)], tomorrow);
        assert_eq!(answer.dead.len(), 0);
        assert!(!answer.messages.is_empty());
    }

    #[test]
    fn timers_of_lanes_that_are_not_held_are_another_nodes() {
        let mut engine = engine();
        let tomorrow = START.after(Duration::from_secs(25 * 3600));
        engine.restart(1, &[(1, 0)].into()).unwrap();
        assert!(engine.plan(&mut VecDeque::new(), tomorrow).unwrap().is_idle());
        // A lane that the stream no longer has is counted to one of those that it has.
        let mut engine = engine.with_partitions(1);
        engine.restart(1, &[(0, 0)].into()).unwrap();
        assert!(!engine.plan(&mut VecDeque::new(), tomorrow).unwrap().is_idle());
    }
}

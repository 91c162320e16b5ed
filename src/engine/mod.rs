//! THE DURABLE STEP: a slice of deliveries in, one commit out. Synchronous, no I/O but reading the store.
//!
//! [`Engine::plan`] decodes each delivery, steps its link, and gathers what all of it comes to: the messages of one atomic batch, the
//! changes of the store, the dead letters. Whoever called it makes that durable (`nats`), then says [`Engine::settle`]; if it could not be
//! made durable, the engine is dropped and a new one starts at the marks. Until then, later slices are planned over an overlay of what is
//! still under way.
//!
//! It must never: publish, acknowledge, read a clock, or let one bad message stop the good ones behind it.
//!
//! - `delivery`: what comes in, and the checks of its envelope
//! - `plan`: what goes out
//! - `incident`: which institutions' links fail together

mod delivery;
mod incident;
mod plan;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use delivery::{Dead, Delivery, payload};
pub use plan::{Message, Outgoing, Plan, Tally, TallyKey};

use self::incident::{Incidents, Opening};
use crate::belvo::{Meaning, Undecodable, translate};
use crate::contract::{At, Because, DeadReason, Mark, Origin, OriginKind, Record, RefusedBody};
use crate::link::{EFFECTS_MAX, Event, Input, Link, LinkId, Policy, Prompt, StateName, Step, Timestamp, step};
use crate::store::{Head, Put, Query, Store, StoreError};

/// The most messages one plan may have: JetStream's limit for an atomic batch (`jetstream.limits.batch.max_msgs`, nats-server 2.12).
pub const MESSAGES_MAX: usize = 1000;

/// The most messages one delivery can make: the state, its effects, and that its institution's incident begins; or a refusal.
const MESSAGES_PER_DELIVERY_MAX: usize = 2 + EFFECTS_MAX;

/// How many timers one plan takes at most, so that a morning of reminders does not hold up what is arriving.
const TIMERS_MAX: usize = 64;

/// The lane whose fence guards what is of no link: every owner has it.
const FIRST_LANE: u16 = 0;

/// How many links are read from the store at once.
const STORE_PAGE: usize = 1_000;

/// Plans commits for the lanes of this node.
pub struct Engine<S> {
    store: S,
    policy: Policy,
    input_created_ns: i64,
    /// Links changed by plans that are not settled yet.
    overlay: HashMap<LinkId, Held>,
    /// Per lane, the last delivery that has been planned.
    planned: BTreeMap<u16, u64>,
    /// As of the last plan, settled or not.
    incidents: Incidents,
}

#[derive(Clone)]
struct Held {
    link: Link,
    lane: u16,
}

impl<S: Store> Engine<S> {
    /// An engine over `store`, with every lane at its mark. `input_created_ns` is the identity of the input stream, which new marks name.
    ///
    /// Reads every broken link, to know which institutions' links fail together.
    ///
    /// # Errors
    /// [`StoreError`]: the store cannot be read.
    pub fn new(
        store: S,
        policy: Policy,
        input_created_ns: i64,
        marks: &BTreeMap<u16, u64>,
    ) -> Result<Self, StoreError> {
        let incidents = incidents_of(&store, &policy)?;
        Ok(Self { store, policy, input_created_ns, overlay: HashMap::new(), planned: marks.clone(), incidents })
    }

    /// The store below.
    pub const fn store(&self) -> &S {
        &self.store
    }

    /// How many institutions have an incident.
    pub fn incidents_count(&self) -> usize {
        self.incidents.count()
    }

    /// When something is due that the store does not know of: an incident's end.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.incidents.next_end()
    }

    /// The policy of the machine.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Plans as much of `queue` as fits one commit, after the timers that are due at `now`. What does not fit stays in the queue.
    ///
    /// # Errors
    /// [`StoreError`]: the store cannot be read. The engine is of no use then; a new one starts at the marks.
    pub fn plan(&mut self, queue: &mut VecDeque<Delivery>, now: Timestamp) -> Result<Plan, StoreError> {
        let mut plan = Plan::default();
        // Ended before the timers, so that prompts that waited for it need not wait once more.
        for body in self.incidents.end(now, TIMERS_MAX) {
            plan.incident(FIRST_LANE, body);
        }
        self.plan_timers(now, &mut plan)?;
        // Every lane touched adds its mark at the end; a delivery may touch one more.
        while plan.messages.len() + plan.marks.len() + MESSAGES_PER_DELIVERY_MAX < MESSAGES_MAX {
            let Some(delivery) = queue.pop_front() else { break };
            plan.receipts.insert(delivery.lane, delivery.receipt.clone());
            if self.planned.get(&delivery.lane).is_some_and(|&planned| delivery.sequence <= planned) {
                plan.tally.add(delivery.kind_word(), "redelivered");
                continue;
            }
            self.plan_delivery(&delivery, now, &mut plan)?;
            self.planned.insert(delivery.lane, delivery.sequence);
            let mark = Mark {
                stream_created_ns: self.input_created_ns,
                sequence: delivery.sequence,
                stored_at_ns: delivery.stored_at_ns,
            };
            plan.marks.insert(delivery.lane, mark);
        }
        plan.close();
        Ok(plan)
    }

    /// The plan is durable and the store has it: forget what was held for it.
    pub fn settle(&mut self, plan: &Plan) {
        for put in &plan.puts {
            if self.overlay.get(&put.id).is_some_and(|held| held.link.version <= put.head.version) {
                self.overlay.remove(&put.id);
            }
        }
    }

    fn plan_delivery(&mut self, delivery: &Delivery, now: Timestamp, plan: &mut Plan) -> Result<(), StoreError> {
        let received_at = delivery.stored_at();
        // A bug that panics on one message must not stop the lane for ever: the message is set aside and the lane goes on.
        let decoded = catch_unwind(AssertUnwindSafe(|| {
            let (kind, link) = delivery.open()?;
            let meaning = translate(kind, &link, &delivery.payload, received_at)
                .map_err(|undecodable| (reason_of(&undecodable), undecodable.to_string()))?;
            Ok((kind, link, meaning))
        }));
        let (kind, link, meaning) = match decoded {
            Ok(Ok(decoded)) => decoded,
            Ok(Err((reason, detail))) => {
                self.bury(delivery, reason, detail, plan);
                return Ok(());
            }
            Err(_) => {
                self.bury(delivery, DeadReason::Panicked, "decoding panicked".to_owned(), plan);
                return Ok(());
            }
        };
        let origin = Origin {
            kind: OriginKind::from(kind),
            input_sequence: Some(delivery.sequence),
            message_id: delivery.header("ce-id").map(str::to_owned),
            heard_at: At(received_at),
        };
        let word = delivery.kind_word();
        match meaning {
            Meaning::Event(mut input) => {
                let Held { link, lane } = self
                    .load(&link)?
                    .unwrap_or_else(|| Held { link: Link::unheard_of(link, received_at), lane: delivery.lane });
                let institution = input.profile.institution.as_ref().or(link.profile.institution.as_ref());
                input.incident = self.incidents.is_on(institution.map(String::as_str));
                let event = input.event.name();
                let stepped = catch_unwind(AssertUnwindSafe(|| step(&link, &input, received_at, &self.policy)));
                match stepped {
                    Ok(Ok(step)) => {
                        plan.tally.add(word, "accepted");
                        let because = Because::of(&step, &input, origin);
                        self.take(&step, lane, because, now, plan);
                    }
                    Ok(Err(refusal)) => {
                        plan.tally.add(word, refusal.as_str());
                        plan.refuse(
                            lane,
                            delivery.sequence,
                            &link,
                            RefusedBody::refusal(&link, event, refusal, origin),
                        );
                    }
                    Err(_) => self.bury(delivery, DeadReason::Panicked, format!("{event} panicked"), plan),
                }
            }
            Meaning::NotAboutTheLink { class, code } => {
                plan.tally.add(word, "not_about_the_link");
                let detail = format!("{code}: {}", class.as_str());
                self.plan_remark(&link, delivery, "not_about_the_link", detail, origin, plan)?;
            }
            Meaning::Unknown { what } => {
                let detail = format!("{what}; kept whole in the dead letters");
                self.plan_remark(&link, delivery, "unknown", detail, origin, plan)?;
                self.bury(delivery, DeadReason::UnknownCode, what, plan);
            }
        }
        Ok(())
    }

    /// A message that is no event for the link is still part of its story.
    fn plan_remark(
        &self,
        link: &LinkId,
        delivery: &Delivery,
        reason: &str,
        detail: String,
        origin: Origin,
        plan: &mut Plan,
    ) -> Result<(), StoreError> {
        let held = self.load(link)?;
        let lane = held.as_ref().map_or(delivery.lane, |held| held.lane);
        let link = held.map_or_else(|| Link::unheard_of(link.clone(), delivery.stored_at()), |held| held.link);
        let body = RefusedBody {
            link_id: link.id.to_string(),
            event: None,
            reason: reason.to_owned(),
            detail,
            state: (link.version > 0).then(|| link.state.name().into()),
            origin,
        };
        plan.refuse(lane, delivery.sequence, &link, body);
        Ok(())
    }

    fn bury(&self, delivery: &Delivery, reason: DeadReason, detail: String, plan: &mut Plan) {
        plan.tally.add(delivery.kind_word(), reason.as_str());
        plan.dead.push(Dead { delivery: delivery.clone(), reason, detail });
    }

    fn plan_timers(&mut self, now: Timestamp, plan: &mut Plan) -> Result<(), StoreError> {
        for id in self.store.due(now, TIMERS_MAX)? {
            let under_way = self.overlay.contains_key(&id);
            let Some(Held { link, lane }) = self.load(&id)? else { continue };
            let incident = self.incidents.is_on(link.profile.institution.as_deref());
            let input = Input { incident, ..Event::DeadlinePassed.into() };
            match step(&link, &input, now, &self.policy) {
                Ok(step) => {
                    plan.tally.add("timer", "accepted");
                    let origin =
                        Origin { kind: OriginKind::Timer, input_sequence: None, message_id: None, heard_at: At(now) };
                    let because = Because::of(&step, &input, origin);
                    self.take(&step, lane, because, now, plan);
                }
                // The index is of before a change that is under way, or of before the policy was changed.
                Err(_) if under_way => {}
                Err(_) => plan.retime(self.retimed(&link)?),
            }
        }
        Ok(())
    }

    /// The stored link with the deadline it has under today's policy.
    fn retimed(&self, link: &Link) -> Result<Option<Put>, StoreError> {
        let Some(stored) = self.store.get(&link.id)? else { return Ok(None) };
        let head = Head { deadline: link.deadline(&self.policy), ..stored.head };
        Ok((head != stored.head).then(|| Put { id: link.id.clone(), head, record: stored.record }))
    }

    fn take(&mut self, step: &Step, lane: u16, because: Because, now: Timestamp, plan: &mut Plan) {
        let link = &step.link;
        let is_new = matches!(step.from, StateName::Unconfirmed | StateName::Valid);
        let opening = opening_of(link).filter(|_| is_new);
        let began = opening.and_then(|opening| {
            plan.prompts_held_count += u64::from(opening.held);
            self.incidents.opened(&opening, &because.origin, now)
        });
        let sent = plan.effects(lane, step, &because);
        let record = plan::encode(&Record::of(link, lane, because, sent));
        let head = Head::of(link, lane, &self.policy);
        plan.state(lane, step, &record);
        plan.puts.push(Put { id: link.id.clone(), head, record });
        self.overlay.insert(link.id.clone(), Held { link: link.clone(), lane });
        if let Some(body) = began {
            plan.incident(lane, body);
        }
    }

    fn load(&self, id: &LinkId) -> Result<Option<Held>, StoreError> {
        if let Some(held) = self.overlay.get(id) {
            return Ok(Some(held.clone()));
        }
        let Some(stored) = self.store.get(id)? else { return Ok(None) };
        let link = stored.parse()?.link()?;
        Ok(Some(Held { link, lane: stored.head.lane }))
    }
}

/// The link's open episode, if its like make an incident: with a prompt, and a cause that the institution can have. A muted link has
/// no prompt to hold; and links that were broken before relink came are adopted muted.
fn opening_of(link: &Link) -> Option<Opening<'_>> {
    let institution = link.profile.institution.as_deref()?;
    let episode = link.state.episode().filter(|episode| episode.cause.may_be_the_institutions())?;
    let held = match episode.prompt {
        Prompt::Sent => false,
        Prompt::Waiting { .. } => true,
        Prompt::Held => return None,
    };
    Some(Opening { institution, link: &link.id, at: episode.opened_at, held })
}

/// What the store still tells of incidents; see `incident` for what it does not.
fn incidents_of<S: Store>(store: &S, policy: &Policy) -> Result<Incidents, StoreError> {
    let mut incidents = Incidents::of(policy, store.incidents()?);
    for state in [StateName::Invalid, StateName::TokenRequired, StateName::Updating] {
        let mut query = Query { state: Some(state), limit: STORE_PAGE, ..Query::default() };
        loop {
            let page = store.page(&query)?;
            for stored in &page.links {
                opening_of(&stored.parse()?.link()?).iter().for_each(|opening| incidents.remember(opening));
            }
            match page.next {
                Some(next) => query.after = Some(next),
                None => break,
            }
        }
    }
    Ok(incidents)
}

fn reason_of(undecodable: &Undecodable) -> DeadReason {
    match undecodable {
        Undecodable::FutureVersion { .. } => DeadReason::FutureVersion,
        Undecodable::Payments => DeadReason::NoLink,
        Undecodable::Empty
        | Undecodable::NotJson { .. }
        | Undecodable::WrongShape { .. }
        | Undecodable::LinkMismatch { .. } => DeadReason::Malformed,
    }
}

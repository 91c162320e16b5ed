//! THE DURABLE STEP: a slice of deliveries in, one commit out. Synchronous, no I/O but reading the store.
//!
//! [`Engine::plan`] decodes each delivery, steps its link, and gathers what all of it comes to: the messages of one atomic batch, the
//! changes of the store, the dead letters. The node (`node`) has that made durable, then calls [`Engine::settle`]; if it could not be made
//! durable, [`Engine::restart`] begins anew at the marks. Until then, later slices are planned over an overlay of what is still under way.
//!
//! It must never: publish, acknowledge, read a clock, or let one bad message stop the good ones behind it.
//!
//! - `delivery`: what comes in, and the checks of its envelope
//! - `plan`: what goes out
//! - `timers`: links whose deadline has passed
//! - `incident`: which institutions' links fail together

mod delivery;
mod incident;
mod plan;
mod timers;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use delivery::{Dead, Delivery, payload};
pub use plan::{Item, Message, Outgoing, Plan, Receipt, Tally, TallyKey};

use self::incident::{Incidents, Opening};
use crate::belvo::{self, Meaning, Reading, Undecodable};
use crate::contract::{At, BadRecord, Because, DeadReason, InputKind, Mark, Origin, OriginKind, Record, RefusedBody};
use crate::link::{EFFECTS_MAX, Input, Link, LinkId, Policy, Prompt, Refusal, StateName, Step, Timestamp, step};
use crate::store::{Head, Put, Query, Store, StoreError, pages};

/// The most messages one plan may have: JetStream's limit for an atomic batch (`jetstream.limits.batch.max_msgs`, nats-server 2.12), less
/// the one that the node adds (`contract::Commit`).
pub const MESSAGES_MAX: usize = 999;

/// The most messages one delivery can make: the state, its effects, and that its institution's incident begins; or a refusal.
const MESSAGES_PER_DELIVERY_MAX: usize = 2 + EFFECTS_MAX;

/// How many timers one plan takes at most, so that a morning of reminders does not hold up what is arriving.
const TIMERS_MAX: usize = 64;

/// How many links are read from the store at once.
const STORE_PAGE: usize = 1_000;

/// Plans commits for the lanes of this node.
pub struct Engine<S> {
    store: S,
    policy: Policy,
    input_created_ns: i64,
    /// Links changed by plans that are not settled yet.
    overlay: HashMap<LinkId, Held>,
    /// Per lane that is held, the last delivery that has been planned.
    planned: BTreeMap<u16, u64>,
    /// How many lanes the input stream has.
    partitions_count: u16,
    /// As of the last plan, settled or not.
    incidents: Incidents,
    /// Deliveries whose commit cannot be stored, and why: dead-lettered when they are planned.
    set_aside: BTreeMap<(u16, u64, i64), String>,
    /// Links whose timer cannot be handled: left alone until the next start of the process.
    timers_skipped: BTreeSet<LinkId>,
    /// The machine; a test puts a bug in its place.
    step: StepFn,
}

type StepFn = fn(&Link, &Input, Timestamp, &Policy) -> Result<Step, Refusal>;

/// A link, and the lane of the input stream that last changed it.
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
        Ok(Self {
            store,
            policy,
            input_created_ns,
            overlay: HashMap::new(),
            planned: marks.clone(),
            partitions_count: u16::MAX,
            incidents,
            set_aside: BTreeMap::new(),
            timers_skipped: BTreeSet::new(),
            step,
        })
    }

    /// The same engine, told how many lanes the input stream has: a link that was recorded on a lane beyond them, when the stream had
    /// more, is counted to one of these.
    #[must_use]
    pub const fn with_partitions(mut self, count: u16) -> Self {
        self.partitions_count = count;
        self
    }

    /// Forgets every plan that is not settled, and goes on behind these offsets of the lanes that are held now. What was set aside stays
    /// set aside.
    ///
    /// # Errors
    /// [`StoreError`]: the store cannot be read.
    pub fn restart(&mut self, input_created_ns: i64, offsets: &BTreeMap<u16, u64>) -> Result<(), StoreError> {
        let ends_skipped = self.incidents.take_ends_skipped();
        self.incidents = incidents_of(&self.store, &self.policy)?;
        self.incidents.skip_ends(ends_skipped);
        if input_created_ns != self.input_created_ns {
            self.set_aside.clear();
        }
        self.set_aside.retain(|(lane, sequence, _), _| offsets.get(lane).is_none_or(|offset| sequence > offset));
        self.overlay.clear();
        (self.input_created_ns, self.planned) = (input_created_ns, offsets.clone());
        Ok(())
    }

    /// The lane is no longer held: nothing is planned for it any more.
    pub fn release(&mut self, lane: u16) {
        self.planned.remove(&lane);
    }

    /// The item cannot be stored, whatever it is planned with, for the reason in `detail`. A delivery becomes a dead letter when it is
    /// planned again; a timer is left alone until the next start of the process. `detail` must not quote what was delivered.
    pub fn set_aside(&mut self, item: Item, detail: String) {
        match item {
            Item::Delivery { lane, sequence, stored_at_ns } => {
                self.set_aside.insert((lane, sequence, stored_at_ns), detail);
            }
            Item::Timer(link) => drop(self.timers_skipped.insert(link)),
            Item::IncidentEnd(institution) => self.incidents.skip_ends([institution].into()),
        }
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
        self.plan_at_most(usize::MAX, queue, now)
    }

    /// The same, with at most so many items: ends of incidents, timers and deliveries. At least one.
    ///
    /// # Errors
    /// As [`Engine::plan`].
    pub fn plan_at_most(
        &mut self,
        items_max: usize,
        queue: &mut VecDeque<Delivery>,
        now: Timestamp,
    ) -> Result<Plan, StoreError> {
        let items_max = items_max.max(1);
        let mut plan = Plan::default();
        // What is of no link is guarded by the fence of the first lane.
        if let Some(&first_lane) = self.planned.keys().next() {
            // Ended before the timers, so that prompts that waited for it need not wait once more.
            for body in self.incidents.end(now, TIMERS_MAX.min(items_max)) {
                plan.add_item(|| Item::IncidentEnd(body.institution.clone()));
                plan.incident(first_lane, body);
            }
        }
        self.plan_timers(now, TIMERS_MAX.min(items_max - plan.items_count), &mut plan)?;
        // Every lane touched adds its mark at the end; a delivery may touch one more.
        while plan.items_count < items_max
            && plan.messages.len() + plan.marks.len() + MESSAGES_PER_DELIVERY_MAX < MESSAGES_MAX
        {
            let Some(delivery) = queue.pop_front() else { break };
            let Delivery { lane, sequence, stored_at_ns, .. } = delivery;
            plan.receive(&delivery);
            if self.planned.get(&lane).is_some_and(|&planned| sequence <= planned) {
                plan.tally.add(delivery.kind_word(), "redelivered");
                continue;
            }
            plan.add_item(|| Item::Delivery { lane, sequence, stored_at_ns });
            match self.set_aside.get(&(lane, sequence, stored_at_ns)) {
                Some(detail) => Self::bury(&delivery, DeadReason::TooLarge, detail.clone(), &mut plan),
                None => self.plan_delivery(&delivery, now, &mut plan)?,
            }
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
        for (id, version) in plan.versions() {
            if self.overlay.get(id).is_some_and(|held| held.link.version <= version) {
                self.overlay.remove(id);
            }
        }
    }

    fn plan_delivery(&mut self, delivery: &Delivery, now: Timestamp, plan: &mut Plan) -> Result<(), StoreError> {
        let received_at = delivery.stored_at();
        // A bug that panics on one message must not stop the lane for ever: the message is set aside and the lane goes on.
        let decoded = catch_unwind(AssertUnwindSafe(|| {
            let (kind, link) = delivery.open()?;
            let reading = belvo::read(kind, &link, &delivery.payload, received_at)
                .map_err(|undecodable| (reason_of(&undecodable), undecodable.to_string()))?;
            Ok((kind, link, reading))
        }));
        let (kind, id, Reading { meaning, mut unread }) = match decoded {
            Ok(Ok(decoded)) => decoded,
            Ok(Err((reason, detail))) => {
                Self::bury(delivery, reason, detail, plan);
                return Ok(());
            }
            Err(_) => {
                Self::bury(delivery, DeadReason::Panicked, "decoding panicked".to_owned(), plan);
                return Ok(());
            }
        };
        let (message_id, too_long) = delivery.message_id();
        unread.extend(too_long.then_some("ce-id"));
        let origin = Origin {
            kind: OriginKind::from(kind),
            input_sequence: Some(delivery.sequence),
            message_id,
            heard_at: At(received_at),
            unread: unread.iter().map(|&field| field.to_owned()).collect(),
        };
        plan.unread.extend(unread.into_iter().map(|field| (id.clone(), field)));
        let held = match self.load(&id) {
            Ok(held) => held,
            Err(error) if error.is_of_one_record() => {
                let detail = "what relink knows of the link cannot be read".to_owned();
                Self::bury(delivery, DeadReason::UnreadableRecord, detail, plan);
                plan.links_unreadable.push(id);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let link = held.map_or_else(|| Link::unheard_of(id, received_at), |held| held.link);
        let word = delivery.kind_word();
        match meaning {
            Meaning::Event(mut input) => {
                if kind == InputKind::Widget && link.profile.institution.is_some() {
                    // A widget's `institution` comes from the user's device: it fills a gap and corrects nothing.
                    input.profile.institution = None;
                }
                let institution = input.profile.institution.as_ref().or(link.profile.institution.as_ref());
                input.incident = self.incidents.is_on(institution.map(String::as_str));
                let event = input.event.name();
                let stepped = catch_unwind(AssertUnwindSafe(|| (self.step)(&link, &input, received_at, &self.policy)));
                match stepped {
                    Ok(Ok(step)) => {
                        plan.tally.add(word, "accepted");
                        let because = Because::of(&step, &input, origin);
                        self.take(&step, delivery.lane, because, now, plan);
                    }
                    Ok(Err(refusal)) => {
                        plan.tally.add(word, refusal.as_str());
                        plan.refuse(
                            delivery.lane,
                            delivery.sequence,
                            &link,
                            RefusedBody::refusal(&link, event, refusal, origin),
                        );
                    }
                    Err(_) => Self::bury(delivery, DeadReason::Panicked, format!("{event} panicked"), plan),
                }
            }
            Meaning::NotAboutTheLink { class, code } => {
                plan.tally.add(word, "not_about_the_link");
                let detail = format!("{code}: {}", class.as_str());
                Self::plan_remark(&link, delivery, "not_about_the_link", detail, origin, plan);
            }
            Meaning::Unknown { what } => {
                let detail = format!("{what}; kept whole in the dead letters");
                Self::plan_remark(&link, delivery, "unknown", detail, origin, plan);
                Self::bury(delivery, DeadReason::UnknownCode, what, plan);
            }
        }
        Ok(())
    }

    /// A message that is no event for the link is still part of its story.
    fn plan_remark(link: &Link, delivery: &Delivery, reason: &str, detail: String, origin: Origin, plan: &mut Plan) {
        let body = RefusedBody {
            link_id: link.id.to_string(),
            event: None,
            reason: reason.to_owned(),
            detail,
            state: (link.version > 0).then(|| link.state.name().into()),
            origin,
        };
        plan.refuse(delivery.lane, delivery.sequence, link, body);
    }

    fn bury(delivery: &Delivery, reason: DeadReason, detail: String, plan: &mut Plan) {
        plan.tally.add(delivery.kind_word(), reason.as_str());
        plan.dead.push(Dead { delivery: delivery.clone(), reason, detail });
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
        for page in pages(store, Query { state: Some(state), limit: STORE_PAGE, ..Query::default() }) {
            let page = page?;
            for (id, stored) in page.ids.iter().zip(&page.links) {
                match stored.parse().and_then(|record| Ok(record.link()?)) {
                    Ok(link) => opening_of(&link).iter().for_each(|opening| incidents.remember(opening)),
                    Err(error @ StoreError::Record(BadRecord::FutureVersion { .. })) => return Err(error),
                    // It is one less in a count. The engine stops when it has to decide about that link, and not before.
                    Err(error) => tracing::error!(link.id = %id, %error, "a record cannot be read and is not counted"),
                }
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
        | Undecodable::Compressed
        | Undecodable::TooLarge { .. }
        | Undecodable::NotJson { .. }
        | Undecodable::WrongShape { .. }
        | Undecodable::LinkMismatch { .. } => DeadReason::Malformed,
    }
}

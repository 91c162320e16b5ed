//! The engine: it turns deliveries of input messages into plans of commits. It is synchronous, and its only I/O is to
//! read the store.
//!
//! [`Engine::plan`] decodes each delivery, calls the state machine for its link, and collects the results in one
//! [`Plan`]: the messages of one atomic batch, the changes of the store, and the dead letters. The node (`node`) makes
//! the plan durable and then calls [`Engine::record_commit`]. If that fails, [`Engine::restart`] drops the plan and
//! continues after the committed offsets. While a plan is being committed, the next one is planned on top of it: the
//! *overlay* has the links that uncommitted plans have changed. Links that were used recently stay decoded in a cache,
//! because reading and decoding a record costs as much as everything else that a delivery needs.
//!
//! The engine never publishes, never acknowledges and never reads a clock. A message that cannot be handled does not
//! stop the messages after it.
//!
//! - `delivery`: an input message, and the checks of its subject and headers
//! - `plan`: the planned commit; `publishing`: how its effects are published; `outcomes`: what becomes of an input;
//!   `spans`: the traces
//! - `timers`: links whose deadline has passed
//! - `corrections`: links whose times lie in the future
//! - `outage_errors`: errors of Belvo about an outage of an institution
//! - `institutions`: institutions that are degraded or down; `incident`: institutions whose links fail together
//! - `status_page`: reports of Belvo's status page
//! - `persons`: the other links of a person; `successors`: links whose user has connected the bank anew
//! - `journals`: records of a journal that were published again
//! - `links`: the overlay and the cache of links

mod activity;
mod corrections;
mod delivery;
mod incident;
mod institutions;
mod journals;
mod links;
mod outage_errors;
mod outcomes;
mod persons;
mod plan;
mod publishing;
mod spans;
mod status_page;
mod successors;
mod timers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

pub use activity::{Activity, Creations};
pub use delivery::{DeadDelivery, Delivery, payload};
pub use plan::{Item, Message, Outgoing, Plan, Receipt, Tally, TallyKey};
pub use publishing::Publishing;
pub use spans::StepSpan;

use self::corrections::Corrections;
use self::institutions::{Institutions, institutions_of};
use self::journals::Journals;
use self::links::{LinkEntry, Links};
use crate::belvo::{self, Meaning, Reading, Undecodable};
use crate::contract::{Because, CommittedOffset, DeadReason, InputKind, LinksDigest, RefusedBody};
use crate::institution::Components;
use crate::link::{EFFECTS_MAX, Input, Link, LinkId, Policy, Refusal, Step, Timestamp, step};
use crate::store::{Store, StoreError};

/// The most messages one plan may have: JetStream's limit for an atomic batch (`jetstream.limits.batch.max_msgs`, nats-server 2.12), less
/// the one that the node adds (`contract::Commit`).
pub const MESSAGES_MAX: usize = 999;

/// The most messages that one delivery can lead to: the state, the effects, and the start of an incident; or a refusal.
const MESSAGES_PER_DELIVERY_MAX: usize = 2 + EFFECTS_MAX;

/// The most timers in one plan, so that many reminders at one time do not delay arriving messages.
const TIMERS_MAX: usize = 64;

/// The number of links in one page that is read from the store.
const STORE_PAGE: usize = 1_000;

/// Whether a plan contains timers, and corrections of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithTimers {
    /// It does.
    Yes,
    /// It does not.
    No,
}

/// Plans the commits of the partitions that this node owns.
pub struct Engine<S> {
    store: S,
    policy: Policy,
    input_created_ns: i64,
    /// The links of uncommitted plans, and links that were used recently.
    recent: Links,
    /// For each owned partition, the sequence of the last planned delivery.
    planned: BTreeMap<u16, u64>,
    /// Finds the records of a journal that were published again.
    journals: Journals,
    /// The number of partitions of the input stream.
    partitions_count: u16,
    /// All links of the store and of the overlay, as of the last plan, committed or not.
    links: LinksDigest,
    /// The institutions as of the last plan, committed or not.
    institutions: Institutions,
    /// Deliveries whose commit cannot be stored, and the reason. These deliveries are dead-lettered when they are
    /// planned again.
    set_aside: BTreeMap<(u16, u64, i64), String>,
    /// Links whose timer cannot be handled. Their timers are skipped until the next start of the process.
    timers_skipped: BTreeSet<LinkId>,
    /// Deadlines of links after this time wait. `None`: all that have passed are planned.
    due_by: Option<Timestamp>,
    /// Finds links whose times lie in the future.
    corrections: Corrections,
    publishing: Publishing,
    /// The institutions that the components of Belvo's status page stand for.
    components: Components,
    /// [`step`]; a test replaces it by a version that panics.
    step: StepFn,
}

type StepFn = fn(&Link, &Input, Timestamp, &Policy) -> Result<Step, Refusal>;

impl<S: Store> Engine<S> {
    /// An engine that continues after these committed offsets, one for each owned partition. `input_created_ns`
    /// identifies the input stream; new committed offsets contain it.
    ///
    /// Reads every broken link from the store, to count the failures of each institution.
    ///
    /// # Errors
    /// [`StoreError`]: the store cannot be read.
    pub fn new(
        store: S,
        policy: Policy,
        input_created_ns: i64,
        offsets: &BTreeMap<u16, u64>,
    ) -> Result<Self, StoreError> {
        let institutions = institutions_of(&store, &policy)?;
        Ok(Self {
            links: store.links_digest()?,
            store,
            policy,
            input_created_ns,
            recent: Links::default(),
            planned: offsets.clone(),
            journals: Journals::default(),
            partitions_count: u16::MAX,
            institutions,
            set_aside: BTreeMap::new(),
            timers_skipped: BTreeSet::new(),
            due_by: None,
            corrections: Corrections::default(),
            publishing: Publishing::default(),
            components: Components::default(),
            step,
        })
    }

    /// Sets the number of partitions of the input stream. A link of a higher partition, from a time when the stream had
    /// more of them, is assigned to one of these.
    #[must_use]
    pub const fn with_partitions(mut self, count: u16) -> Self {
        self.partitions_count = count;
        self
    }

    /// Sets how effects are published.
    #[must_use]
    pub fn with_publishing(mut self, publishing: Publishing) -> Self {
        self.publishing = publishing;
        self
    }

    /// Sets the institutions that the components of Belvo's status page stand for.
    #[must_use]
    pub fn with_components(mut self, components: Components) -> Self {
        self.components = components;
        self
    }

    /// Drops every plan that is not committed, and continues after these committed offsets of the owned partitions.
    /// Items that were set aside stay set aside.
    ///
    /// # Errors
    /// [`StoreError`]: the store cannot be read.
    pub fn restart(&mut self, input_created_ns: i64, offsets: &BTreeMap<u16, u64>) -> Result<(), StoreError> {
        let skipped = self.institutions.take_skipped();
        self.institutions = institutions_of(&self.store, &self.policy)?;
        self.links = self.store.links_digest()?;
        self.institutions.skip(skipped);
        if input_created_ns != self.input_created_ns {
            self.set_aside.clear();
        }
        self.set_aside
            .retain(|(partition, sequence, _), _| offsets.get(partition).is_none_or(|offset| sequence > offset));
        self.recent = Links::default();
        self.check_all_times();
        (self.input_created_ns, self.planned) = (input_created_ns, offsets.clone());
        self.journals.clear();
        Ok(())
    }

    /// The node no longer owns the partition. Nothing is planned for it any more.
    pub fn release(&mut self, partition: u16) {
        self.planned.remove(&partition);
        self.journals.remove(partition);
    }

    /// Sets aside an item whose commit is refused even if the plan contains nothing else. A delivery is dead-lettered
    /// when it is planned again; a timer is skipped until the next start of the process. `detail` is the reason, and
    /// must not quote the message.
    pub fn set_aside(&mut self, item: Item, detail: String) {
        match item {
            Item::Delivery { partition, sequence, stored_at_ns } => {
                self.set_aside.insert((partition, sequence, stored_at_ns), detail);
            }
            Item::Timer(link) => drop(self.timers_skipped.insert(link)),
            Item::IncidentEnd(institution) => self.institutions.skip([institution].into()),
        }
    }

    /// From now on, deadlines of links after `due_by` are not planned, although they have passed: inputs that are older may still arrive.
    /// `None`: all deadlines that have passed are planned. The end of an outage by time does not wait: an older outage error begins it
    /// again, and the prompts for which it matters wait.
    pub const fn set_due_by(&mut self, due_by: Option<Timestamp>) {
        self.due_by = due_by;
    }

    /// The store.
    pub const fn store(&self) -> &S {
        &self.store
    }

    /// How many institutions are down.
    pub fn incidents_count(&self) -> usize {
        self.institutions.count_down()
    }

    /// When the next institution works again. The store knows all other deadlines.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.institutions.next_end()
    }

    /// The policy of the machine.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Plans the timers that are due at `now`, and then as many deliveries of `queue` as fit into one commit. The
    /// others stay in the queue.
    ///
    /// # Errors
    /// [`StoreError`]: the store cannot be read. Then the engine must be dropped; a new one continues after the
    /// committed offsets.
    pub fn plan(&mut self, queue: &mut VecDeque<Delivery>, now: Timestamp) -> Result<Plan, StoreError> {
        self.plan_at_most(usize::MAX, WithTimers::Yes, queue, now)
    }

    /// Like [`Engine::plan`], with at most `items_max` items (ends of incidents, timers and deliveries), but at least
    /// one. Without timers, it reads nothing from the store that a commit can change that is not recorded yet
    /// ([`Engine::record_commit`]).
    ///
    /// # Errors
    /// As [`Engine::plan`].
    pub fn plan_at_most(
        &mut self,
        items_max: usize,
        with_timers: WithTimers,
        queue: &mut VecDeque<Delivery>,
        now: Timestamp,
    ) -> Result<Plan, StoreError> {
        let items_max = items_max.max(1);
        let mut plan = Plan::default();
        // The message about an incident belongs to no link; the fence of the first partition guards it.
        if let Some(&first_partition) = self.planned.keys().next() {
            // Incidents end before the timers run, so that the timers see it and deferred prompts are not deferred
            // again.
            for bodies in self.institutions.pass_time(now, TIMERS_MAX.min(items_max)) {
                plan.add_item(|| Item::IncidentEnd(bodies[0].institution.clone()));
                bodies.into_iter().for_each(|body| plan.incident(first_partition, body));
            }
        }
        if with_timers == WithTimers::Yes {
            let ended = plan.items_count;
            self.plan_corrections(TIMERS_MAX.min(items_max - plan.items_count), &mut plan)?;
            // While no message waits, timers take the place of corrections that are not needed.
            let timers_max = if queue.is_empty() { 2 * TIMERS_MAX - (plan.items_count - ended) } else { TIMERS_MAX };
            self.plan_timers(now, timers_max.min(items_max - plan.items_count), &mut plan)?;
        }
        // Each changed partition adds its committed offset at the end, and the next delivery may be of another
        // partition.
        while plan.items_count < items_max
            && queue
                .front()
                .is_some_and(|next| plan.messages.len() + plan.offsets.len() + messages_max(next) < MESSAGES_MAX)
        {
            let Some(delivery) = queue.pop_front() else { break };
            let Delivery { partition, sequence, stored_at_ns, .. } = delivery;
            plan.receive(&delivery);
            if self.planned.get(&partition).is_some_and(|&planned| sequence <= planned) {
                plan.tally.add(delivery.kind_word(), "redelivered");
                continue;
            }
            plan.add_item(|| Item::Delivery { partition, sequence, stored_at_ns });
            let is_repeated = self.journals.is_repeated(&self.store, &delivery)?;
            plan.follow(&delivery, self.publishing.spans, now);
            match self.set_aside.get(&(partition, sequence, stored_at_ns)) {
                Some(detail) => Self::dead_letter(&delivery, DeadReason::TooLarge, detail.clone(), &mut plan),
                None => self.plan_delivery(&delivery, is_repeated, now, &mut plan)?,
            }
            plan.end_span();
            self.planned.insert(delivery.partition, delivery.sequence);
            let offset = CommittedOffset {
                stream_created_ns: self.input_created_ns,
                sequence: delivery.sequence,
                stored_at_ns: delivery.stored_at_ns,
                journals: Vec::new(),
            };
            plan.offsets.insert(delivery.partition, offset);
        }
        self.journals.complete(&self.store, &mut plan.offsets)?;
        plan.close();
        plan.links = self.links;
        Ok(plan)
    }

    /// The plan is committed and applied to the store: moves its links from the overlay to the cache.
    pub fn record_commit(&mut self, plan: &Plan) {
        for (id, version) in plan.versions() {
            self.recent.record_commit(id, version);
        }
    }

    fn plan_delivery(
        &mut self,
        delivery: &Delivery,
        is_repeated: bool,
        now: Timestamp,
        plan: &mut Plan,
    ) -> Result<(), StoreError> {
        let received_at = delivery.stored_at();
        // A bug that panics on one message must not stop the partition: the message is dead-lettered.
        let decoded = catch_unwind(AssertUnwindSafe(|| {
            let (kind, link) = delivery.open()?;
            let reading = belvo::read(kind, &link, &delivery.payload, received_at)
                .map_err(|undecodable| (reason_of(&undecodable), undecodable.to_string()))?;
            Ok((kind, link, reading))
        }));
        let (kind, id, Reading { meaning, mut unreadable_fields }) = match decoded {
            Ok(Ok(decoded)) => decoded,
            Ok(Err((reason, detail))) => {
                Self::dead_letter(delivery, reason, detail, plan);
                return Ok(());
            }
            Err(_) => {
                Self::dead_letter(delivery, DeadReason::Panicked, "decoding panicked".to_owned(), plan);
                return Ok(());
            }
        };
        let origin = delivery.origin(kind, &mut unreadable_fields);
        plan.unreadable_fields.extend(unreadable_fields.into_iter().map(|field| (id.clone(), field)));
        let meaning = match meaning {
            Meaning::StatusPage(report) => {
                self.plan_status_page(delivery, &report, is_repeated, &origin, now, plan);
                return Ok(());
            }
            Meaning::Event(_) | Meaning::NotAboutTheLink { .. } | Meaning::Unknown { .. } => meaning,
        };
        let entry = match self.load(&id) {
            Ok(entry) => entry,
            Err(error) if error.is_of_one_record() => {
                let detail = "relink's own record of the link cannot be read".to_owned();
                Self::dead_letter(delivery, DeadReason::UnreadableRecord, detail, plan);
                plan.links_unreadable.push(id);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let entry = entry.unwrap_or_else(|| {
            let link = Arc::new(Link::unknown(id, received_at));
            LinkEntry { link, partition: delivery.partition, trace: None }
        });
        plan.span_about(&entry);
        let link = &entry.link;
        let word = delivery.kind_word();
        match meaning {
            Meaning::Event(mut input) => {
                let institution = input.profile.institution.as_ref().or(link.profile.institution.as_ref());
                input.incident = self.institutions.down_since(institution.map(String::as_str));
                let event = input.event.name();
                let step = || {
                    if is_repeated { Ok(Err(Refusal::Repeated)) } else { self.step_link(link, &mut input, received_at) }
                };
                match catch_unwind(AssertUnwindSafe(step)) {
                    Ok(Err(error)) => return Err(error),
                    Ok(Ok(Ok(step))) => {
                        plan.tally.add(word, "accepted");
                        let because = Because::of(&step, &input, origin);
                        self.take_step(&entry, step, delivery.partition, because, now, plan);
                    }
                    Ok(Ok(Err(refusal))) => {
                        plan.tally.add(word, refusal.as_str());
                        plan.refuse(
                            delivery.partition,
                            delivery.sequence,
                            link,
                            RefusedBody::refusal(link, event, refusal, origin),
                        );
                    }
                    Err(_) => Self::dead_letter(delivery, DeadReason::Panicked, format!("{event} panicked"), plan),
                }
            }
            // It is about no link, and was handled before the link was loaded.
            Meaning::StatusPage(_) => {}
            Meaning::NotAboutTheLink { class, code } => {
                // Only an error of Belvo's API counts: a warning of the widget comes from the user's device.
                let is_outage = kind == InputKind::ApiError && class.is_about_the_institution() && !is_repeated;
                if is_outage && self.plan_outage_error(delivery, &entry, &origin, now, plan)? {
                    return Ok(());
                }
                plan.tally.add(word, "not_about_the_link");
                let detail = format!("{code}: {}", class.clause());
                Self::plan_remark(link, delivery, "not_about_the_link", detail, origin, plan);
            }
            Meaning::Unknown { what } => {
                let detail = format!("{what}: relink does not know it, so the message is in the dead letters");
                Self::plan_remark(link, delivery, "unknown", detail, origin, plan);
                Self::dead_letter(delivery, DeadReason::UnknownCode, what, plan);
            }
        }
        Ok(())
    }

    fn load(&mut self, id: &LinkId) -> Result<Option<LinkEntry>, StoreError> {
        if let Some(entry) = self.recent.get(id) {
            return Ok(Some(entry.clone()));
        }
        let Some(stored) = self.store.get(id)? else { return Ok(None) };
        let (link, trace) = stored.link_and_trace()?;
        let entry = LinkEntry { link: Arc::new(link), partition: stored.head.partition, trace };
        self.recent.read(entry.clone());
        Ok(Some(entry))
    }
}

/// The most messages that a delivery can lead to.
fn messages_max(delivery: &Delivery) -> usize {
    if delivery.kind == InputKind::InstitutionStatus.as_str() {
        status_page::MESSAGES_MAX
    } else {
        MESSAGES_PER_DELIVERY_MAX
    }
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

//! The checker: it knows the ground truth (when each link really broke and worked again), receives relink's notices, and
//! compares the two.
//!
//! The ground truth of a link is Belvo's status. An **outage** begins when the status says that only the user can help,
//! and ends when it no longer does. relink has to prompt once in each.
//!
//! - **repeated**: a second prompt in one outage
//! - **lost**: two whole sweeps ended within the outage, and there was no prompt
//! - **false**: a prompt for a working link
//! - **in vain**: a message to a user who can do nothing, or has nothing to do ([`super::in_vain`])
//! - **too soon**: a message to a person within the pause after the last one, about whichever link it was
//!
//! An outage that ended before the second sweep without a prompt counts as none of these: relink could not detect it.
//! For links that were broken before relink was installed, relink defers the prompts on purpose, until the adoption
//! releases them. If a link was repaired and broke again before relink detected the repair, the earlier prompt is still
//! valid, and reminders follow it: such outages are **carried over**. If a bank refuses all logins, relink defers the
//! prompts until the incident is over; the prompts of links that work again by then are **avoided**.
//!
//! Belvo also contradicts itself: it refuses a login, or has no credentials left, and its status stays `valid` (six
//! refusals make a link invalid). A read of the status and a call for data then have different answers. Such an outage
//! begins with the refusal and is checked like any other.

use std::collections::BTreeMap;
use std::time::Duration;

use super::in_vain::{Facts, InVain};
use super::relink::Source;
use crate::link::Timestamp;

/// How many sweeps there are between two surveys of all links, which are daily.
const SWEEPS_PER_SURVEY: u64 = 24;

/// A sweep lists the links of users whose message is due within this time.
const LISTED_BEFORE: Duration = Duration::from_secs(75 * 60);

/// The ground truth of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GroundTruth {
    Works,
    /// Belvo's status is `valid`, and its last response to a call was an error that only the user can resolve.
    Refused,
    Broken,
    Gone,
}

/// The circumstances of a message that the ground truth of the link does not show.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances {
    /// Whether the bank is down or refuses everybody, and whether relink could know it.
    pub(super) bank_is_down: bool,
    pub(super) bank_could_be_known: bool,
    /// Whether it is night where the user is, and quiet hours are on.
    pub(super) is_quiet: bool,
    /// Whether the message is a reminder: relink knows before that it is due.
    pub(super) is_reminder: bool,
}

/// One outage of one link.
#[derive(Clone, Debug)]
pub(super) struct Outage {
    pub(super) began_at: Timestamp,
    /// The number of finished sweeps at that time.
    began_after_sweeps: u64,
    /// Whether it began before relink was installed.
    adopted: bool,
    /// Whether the prompt of the previous outage is still valid.
    carried_over: bool,
    /// Whether Belvo's status and its responses ever contradicted each other in it.
    contradicted: bool,
    /// Whether its prompt was deferred by an incident.
    deferred: bool,
    /// Whether a call of relink caused it: a handler without relink never makes that call.
    by_relink: bool,
    pub(super) prompts: u32,
    /// The prompts of a handler without relink.
    naive_prompts: u32,
    /// Until when its person gets no message, because of an earlier one.
    quiet_until: Option<Timestamp>,
}

/// The record of one link.
#[derive(Clone, Debug)]
struct Case {
    truth: GroundTruth,
    outage: Option<Outage>,
    /// The end of the last outage, until relink publishes it; only if relink had published its beginning.
    repaired_at: Option<Timestamp>,
    /// Whether a gap is open.
    gap: bool,
    /// The state of the handler without relink: whether the link is broken.
    naive_broken: bool,
    /// The person of the link: the number of the person's first link.
    person: usize,
    /// How many sweeps had finished when its user connected the bank anew, if that has happened.
    replaced_after_sweeps: Option<u64>,
    /// Whether relink has published that another link works in place of it.
    is_superseded: bool,
    /// How many sweeps had finished when it began to work.
    works_after_sweeps: u64,
    /// Since it works: whether relink has published that, and whether something said that it is broken.
    is_recovered: bool,
    reported_broken: bool,
    /// Whether a read of Belvo's status could show the end of the last outage.
    end_is_hidden: bool,
}

/// The results of relink, or of the handler without relink.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// The number of outages for each number of prompts.
    pub(super) prompts_per_outage: BTreeMap<u32, u64>,
    pub(super) prompts: u64,
    pub(super) repeated: u64,
    pub(super) lost: u64,
    pub(super) false_prompts: u64,
    pub(super) stuck: u64,
    pub(super) in_vain: InVain,
}

/// The checker, with the results of all links.
pub(super) struct Checker {
    cases: Vec<Case>,
    /// The least time between two messages to a person, and the last message to each person.
    pause: Duration,
    messages: BTreeMap<usize, Timestamp>,
    /// The last prompt of the handler without relink to each person.
    naive_messages: BTreeMap<usize, Timestamp>,
    /// The links of each person.
    families: BTreeMap<usize, Vec<usize>>,
    /// How many sweeps a prompt may wait for the end of quiet hours.
    quiet_sweeps: u64,
    pub(super) outages: u64,
    pub(super) adopted: u64,
    pub(super) carried_over: u64,
    /// Outages in which Belvo contradicted itself.
    pub(super) contradicted: u64,
    /// Outages whose prompt was deferred by an incident, and that ended before the prompt was due.
    pub(super) avoided: u64,
    /// Outages that a call of relink caused.
    pub(super) by_relink: u64,
    /// Whether relink is making a call to Belvo now.
    pub(super) relink_calls: bool,
    pub(super) relink: Tally,
    pub(super) baseline: Tally,
    /// From the beginning of an outage to its prompt, in milliseconds.
    pub(super) to_detect: Vec<u64>,
    /// The time from the repair to `recovered`.
    pub(super) to_recover: Vec<u64>,
    pub(super) detected_by_sweep: u64,
    pub(super) gaps_opened: u64,
    pub(super) gaps_closed: u64,
    sweeps: u64,
    swept_at: Timestamp,
    /// The number of sweeps after which every adopted link is released.
    adoption_sweeps: u64,
    /// The failures: the number of the link, and a sentence.
    pub(super) failures: Vec<(usize, String)>,
}

impl Checker {
    pub(super) fn new(links: usize, pause: Duration, quiet_hours: bool) -> Self {
        let mut families = BTreeMap::<usize, Vec<usize>>::new();
        (0..links).for_each(|link| families.entry(person_of(link)).or_default().push(link));
        Self {
            cases: (0..links).map(|link| Case::of(person_of(link))).collect(),
            pause,
            messages: BTreeMap::new(),
            naive_messages: BTreeMap::new(),
            families,
            quiet_sweeps: if quiet_hours { 11 } else { 0 },
            outages: 0,
            adopted: 0,
            carried_over: 0,
            contradicted: 0,
            avoided: 0,
            by_relink: 0,
            relink_calls: false,
            relink: Tally::default(),
            baseline: Tally::default(),
            to_detect: Vec::new(),
            to_recover: Vec::new(),
            detected_by_sweep: 0,
            gaps_opened: 0,
            gaps_closed: 0,
            sweeps: 0,
            swept_at: Timestamp::default(),
            adoption_sweeps: 0,
            failures: Vec::new(),
        }
    }

    pub(super) fn truth(&self, link: usize) -> GroundTruth {
        self.cases[link].truth
    }

    /// The person of a link: the number of the person's first link.
    pub(super) fn person(&self, link: usize) -> usize {
        self.cases[link].person
    }

    /// Records a link that was broken before relink was installed.
    pub(super) fn broken_before(&mut self, link: usize, now: Timestamp) {
        self.set_truth(link, GroundTruth::Broken, now);
        self.adopted += 1;
        if let Some(outage) = &mut self.cases[link].outage {
            outage.adopted = true;
        }
        // Adoption releases sixty links an hour, and there is one sweep an hour.
        self.adoption_sweeps = self.adopted / 60 + 1;
    }

    /// Records a change of the ground truth.
    pub(super) fn set_truth(&mut self, link: usize, truth: GroundTruth, now: Timestamp) {
        let case = &mut self.cases[link];
        if case.truth == truth {
            return;
        }
        case.truth = truth;
        if truth == GroundTruth::Works {
            (case.works_after_sweeps, case.is_recovered, case.reported_broken) = (self.sweeps, false, false);
            case.end_is_hidden = case.outage.as_ref().is_some_and(|outage| outage.contradicted);
        }
        if let (Some(outage), GroundTruth::Broken | GroundTruth::Refused) = (&mut case.outage, truth) {
            outage.contradicted = true;
            return;
        }
        let before = case.repaired_at.take();
        if let Some(outage) = case.outage.take() {
            // relink has a recovery to publish only if it had prompted.
            case.repaired_at = (truth == GroundTruth::Works && outage.prompts > 0).then_some(now);
            self.close(link, &outage, now);
        }
        if matches!(truth, GroundTruth::Broken | GroundTruth::Refused) {
            self.outages += 1;
            self.carried_over += u64::from(before.is_some());
            self.by_relink += u64::from(self.relink_calls);
            let began_after_sweeps = self.sweeps;
            let outage = Outage {
                began_at: now,
                began_after_sweeps,
                adopted: false,
                carried_over: before.is_some(),
                contradicted: truth == GroundTruth::Refused,
                deferred: false,
                by_relink: self.relink_calls,
                prompts: 0,
                naive_prompts: 0,
                quiet_until: self
                    .messages
                    .get(&self.cases[link].person)
                    .map(|at| at.after(self.pause))
                    .filter(|until| *until > now),
            };
            self.cases[link].outage = Some(outage);
        }
    }

    fn close(&mut self, link: usize, outage: &Outage, now: Timestamp) {
        let patience = if outage.adopted { 2 + self.adoption_sweeps } else { 2 };
        let is_spared = outage.deferred && outage.prompts == 0;
        self.avoided += u64::from(is_spared);
        // Its user has found another way.
        let is_replaced = self.cases[link].replaced_after_sweeps.is_some();
        let excused = outage.carried_over || is_spared || is_replaced;
        let sweeps = self.sweeps.saturating_sub(outage.began_after_sweeps);
        let is_noticeable = |patience: u64| !excused && sweeps >= patience;
        let baseline = (&mut self.baseline, outage.naive_prompts, is_noticeable(patience) && !outage.by_relink);
        // There is one sweep an hour.
        let quiet_hours = outage.quiet_until.map_or(0, |until| 1 + until.since(outage.began_at).as_secs() / 3_600);
        let is_noticeable = is_noticeable(patience + quiet_hours + self.quiet_sweeps);
        for (tally, prompts, is_noticeable) in [(&mut self.relink, outage.prompts, is_noticeable), baseline] {
            *tally.prompts_per_outage.entry(prompts).or_default() += 1;
            let [repeated, lost] = [prompts.saturating_sub(1), u32::from(prompts == 0 && is_noticeable)].map(u64::from);
            tally.repeated += repeated;
            tally.lost += lost;
        }
        self.contradicted += u64::from(outage.contradicted);
        if outage.prompts == 0 && is_noticeable {
            self.failures.push((link, format!("lost: broken from {} to {now}, never prompted", outage.began_at)));
        }
        if outage.prompts > 1 {
            let times = outage.prompts;
            self.failures
                .push((link, format!("repeated: broken from {} to {now}, prompted {times} times", outage.began_at)));
        }
    }

    /// Records a successful sweep.
    pub(super) const fn swept(&mut self, now: Timestamp) {
        self.sweeps += 1;
        self.swept_at = now;
    }

    /// Records the notice `update_required`.
    pub(super) fn prompted(&mut self, link: usize, source: Option<Source>, now: Timestamp) {
        self.relink.prompts += 1;
        self.detected_by_sweep += u64::from(source == Some(Source::Sweep));
        let Some(outage) = &mut self.cases[link].outage else {
            self.relink.false_prompts += 1;
            return;
        };
        outage.prompts += 1;
        if outage.prompts == 1 && !outage.adopted && !outage.deferred {
            self.to_detect.push(millis(now, outage.began_at.max(outage.quiet_until.unwrap_or_default())));
        }
    }

    /// Records a message to the person of a link, which mentions these other links.
    pub(super) fn messaged(&mut self, link: usize, also: &[usize], now: Timestamp) {
        let person = self.cases[link].person;
        if let Some(last) = self.messages.insert(person, now).filter(|last| now < last.after(self.pause)) {
            self.failures.push((link, format!("too soon: its person got a message at {last}, and again at {now}")));
        }
        for other in self.families.get(&person).into_iter().flatten().copied().filter(|other| *other != link) {
            let Some(outage) = self.cases[other].outage.as_mut().filter(|outage| outage.prompts == 0) else { continue };
            outage.quiet_until = Some(now.after(self.pause));
            if also.contains(&other) {
                outage.prompts = 1;
                self.relink.prompts += 1;
            }
        }
    }

    /// Records that the user of a link has connected the bank anew. The new link is the last one.
    pub(super) fn connected_anew(&mut self, link: usize) {
        let person = self.cases[link].person;
        self.families.entry(person).or_default().push(self.cases.len());
        self.cases.push(Case::of(person));
        self.cases[link].replaced_after_sweeps = Some(self.sweeps);
    }

    /// Records the notice `superseded`.
    pub(super) fn superseded(&mut self, link: usize) {
        self.cases[link].is_superseded = true;
    }

    /// Checks a message of relink that asks the user of a link, before [`Self::messaged`].
    pub(super) fn asked(&mut self, link: usize, circumstances: Circumstances, now: Timestamp) {
        let last = self.messages.get(&self.cases[link].person).copied();
        let Some((reason, could_know)) = self.facts(link, circumstances, last, now).reason() else { return };
        self.relink.in_vain.count(reason, could_know);
        if could_know {
            self.failures
                .push((link, format!("in vain: its user was asked at {now} ({reason:?}), which relink could know")));
        }
    }

    fn facts(&self, link: usize, at: Circumstances, last: Option<Timestamp>, now: Timestamp) -> Facts {
        let case = &self.cases[link];
        let is_swept = |after: u64| self.sweeps >= after + 2;
        let works = case.truth == GroundTruth::Works;
        let is_seen = case.is_recovered || (!case.end_is_hidden && is_swept(case.works_after_sweeps));
        // A link that relink does not know is found by the survey, once a day, if all its webhooks are lost; or by the last sweep before a
        // reminder.
        let is_surveyed = |after: u64| is_swept(after + SWEEPS_PER_SURVEY);
        let is_listed = |after: u64| at.is_reminder && is_swept(after) && now.since(self.swept_at) < LISTED_BEFORE;
        let is_found = |after: u64| is_surveyed(after) || is_listed(after);
        let could_know_replaced = case.is_superseded || case.replaced_after_sweeps.is_some_and(is_found);
        Facts {
            works,
            is_replaced: case.replaced_after_sweeps.is_some(),
            link_could_be_known: if works { is_seen && !case.reported_broken } else { could_know_replaced },
            bank_is_down: at.bank_is_down,
            bank_could_be_known: at.bank_could_be_known,
            is_quiet: at.is_quiet,
            is_twice_in_pause: last.is_some_and(|last| now < last.after(self.pause)),
        }
    }

    /// Records that relink defers the prompt until the incident of the institution is over.
    pub(super) fn deferred(&mut self, link: usize) {
        if let Some(outage) = &mut self.cases[link].outage {
            outage.deferred = true;
        }
    }

    /// Records the notice `recovered`.
    pub(super) fn recovered(&mut self, link: usize, now: Timestamp) {
        self.cases[link].is_recovered = self.cases[link].truth == GroundTruth::Works;
        if let Some(repaired_at) = self.cases[link].repaired_at.take() {
            self.to_recover.push(millis(now, repaired_at));
        }
    }

    /// Records the notice `refresh_due`.
    pub(super) fn gap_opened(&mut self, link: usize) {
        self.gaps_opened += 1;
        self.cases[link].gap = true;
    }

    /// Records the notice `refreshed`.
    pub(super) fn gap_closed(&mut self, link: usize) {
        self.gaps_closed += 1;
        self.cases[link].gap = false;
    }

    /// A handler without relink receives evidence, and prompts.
    pub(super) fn baseline_broken(&mut self, link: usize, circumstances: Circumstances, now: Timestamp) {
        self.baseline.prompts += 1;
        let last = self.naive_messages.insert(self.cases[link].person, now);
        if let Some((reason, _)) = self.facts(link, circumstances, last, now).reason() {
            self.baseline.in_vain.count(reason, false);
        }
        self.cases[link].reported_broken = true;
        let case = &mut self.cases[link];
        case.naive_broken = true;
        match &mut case.outage {
            Some(outage) => outage.naive_prompts += 1,
            None => self.baseline.false_prompts += 1,
        }
    }

    /// A handler without relink receives data, its only sign that a link works again.
    pub(super) fn baseline_works(&mut self, link: usize) {
        self.cases[link].naive_broken = false;
    }

    /// Checks the open outages at the end, and compares relink's last state of each link.
    pub(super) fn end(&mut self, states: &[Option<GroundTruth>], now: Timestamp) {
        for (link, state) in states.iter().enumerate() {
            if let Some(outage) = self.cases[link].outage.take() {
                self.close(link, &outage, now);
            }
            let truth = self.cases[link].truth;
            let word_wanted = if truth == GroundTruth::Refused { GroundTruth::Broken } else { truth };
            if *state != Some(word_wanted) {
                self.relink.stuck += 1;
                self.failures.push((link, format!("stuck: relink's state is {state:?}, and Belvo's {truth:?}")));
            }
            let naive_says_broken = self.cases[link].naive_broken;
            self.baseline.stuck += match truth {
                GroundTruth::Works => u64::from(naive_says_broken),
                GroundTruth::Broken | GroundTruth::Refused => u64::from(!naive_says_broken),
                GroundTruth::Gone => 0,
            };
        }
        self.to_detect.sort_unstable();
        self.to_recover.sort_unstable();
    }
}

impl Case {
    /// A link that works.
    const fn of(person: usize) -> Self {
        Self {
            truth: GroundTruth::Works,
            outage: None,
            repaired_at: None,
            gap: false,
            naive_broken: false,
            person,
            replaced_after_sweeps: None,
            is_superseded: false,
            works_after_sweeps: 0,
            is_recovered: false,
            reported_broken: false,
            end_is_hidden: false,
        }
    }
}

/// The person of a link: the number of the person's first link. Every second person has two links.
pub(super) const fn person_of(link: usize) -> usize {
    if link % 3 == 2 { link - 1 } else { link }
}

fn millis(now: Timestamp, since: Timestamp) -> u64 {
    u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX)
}

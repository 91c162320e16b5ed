//! The repair funnel: which stages an outage has passed, and how long each took. Without I/O.
//!
//! Most notices name their episode and when it was opened, so an outage is known from any of them. `refreshed` names the end of its gap
//! instead, which is the time of `recovered`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use strum::{IntoStaticStr, VariantArray};

use crate::contract::At;
use crate::link::Timestamp;

/// The stages of a repair, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Stage {
    /// The outage became known.
    Detected,
    /// The user was prompted, or would have been in observe mode.
    Prompted,
    /// The user opened the repair page. relink does not record this: a `GET` of the page may come from a mail scanner.
    Opened,
    /// The user started an attempt: a widget token was created.
    Updating,
    /// The link works again.
    Recovered,
    /// The missed data has arrived, or the wait for it is over.
    Refreshed,
}

impl Stage {
    /// The name in all outputs.
    pub(super) fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether relink records the stage.
    pub(super) fn is_recorded(self) -> bool {
        self != Self::Opened
    }

    /// The recorded stage before this one.
    fn before(self) -> Option<Self> {
        Self::VARIANTS.iter().copied().rfind(|stage| *stage < self && stage.is_recorded())
    }
}

/// How an outage ended without a repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(super) enum OtherEnd {
    /// A newer link of the same user works.
    Superseded,
    /// The link was removed.
    Removed,
}

/// The stages that one outage has reached. The inner value is the time, if it is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Passage([Option<Option<Timestamp>>; Stage::VARIANTS.len()]);

impl Passage {
    fn reach(&mut self, stage: Stage, at: Option<Timestamp>) {
        let reached = &mut self.0[stage as usize];
        // The first time counts; a time replaces a stage without one.
        *reached = match (*reached, at) {
            (Some(Some(first)), Some(at)) => Some(Some(first.min(at))),
            (Some(known), at) => Some(known.or(at)),
            (None, at) => Some(at),
        };
    }

    pub(super) fn has(&self, stage: Stage) -> bool {
        self.0[stage as usize].is_some()
    }

    fn at(&self, stage: Stage) -> Option<Timestamp> {
        self.0[stage as usize].flatten()
    }

    /// The milliseconds from one stage to another; `None` if one has no time, or they came in the other order.
    fn span(&self, from: Stage, to: Stage) -> Option<i64> {
        let (from, to) = self.at(from).zip(self.at(to))?;
        Some(to.as_millis() - from.as_millis()).filter(|span| *span >= 0)
    }
}

/// One outage.
#[derive(Clone, Debug, Default)]
pub(super) struct Outage {
    pub(super) institution: Option<String>,
    pub(super) cause: Option<String>,
    pub(super) passage: Passage,
    /// The reminders by their number.
    reminders: BTreeMap<u64, Timestamp>,
    pub(super) other_end: Option<OtherEnd>,
}

/// What the messages of a time range say.
#[derive(Debug, Default)]
pub(super) struct Reading {
    outages: BTreeMap<(String, u64), Outage>,
    /// When each link recovered, and the number of the outage that this ended.
    recovered: BTreeMap<(String, Timestamp), u64>,
    /// Links whose creation was not finished in time, by their institution.
    pub(super) unfinished: BTreeMap<String, Unfinished>,
    /// How many prompts were only recorded, in observe mode.
    pub(super) observed_count: usize,
}

/// A creation that was not finished in time.
#[derive(Debug)]
pub(super) struct Unfinished {
    pub(super) institution: Option<String>,
    at: Timestamp,
    /// Whether the link is unconfirmed now.
    pub(super) is_still: bool,
}

impl Reading {
    /// Takes a notice, sent or observed, as `GET /v1/events` has it.
    pub(super) fn take_event(&mut self, event: &Value) {
        let (body, name) = (&event["body"], event["type"].as_str().unwrap_or_default());
        let at = time(&body["because"]["at"]).or_else(|| time(&event["stored_at"]));
        let (Some(at), Some(link)) = (at, event["link_id"].as_str()) else { return };
        if event["kind"] == "observed" && name == "update_required" {
            self.observed_count += 1;
        }
        match name {
            "creation_unfinished" => {
                let institution = body["institution"].as_str().map(str::to_owned);
                self.unfinished.insert(link.to_owned(), Unfinished { institution, at, is_still: false });
            }
            "refreshed" => {
                let end = time(&body["gap"]["to"]).and_then(|end| self.recovered.get(&(link.to_owned(), end)));
                let outage = end.and_then(|number| self.outages.get_mut(&(link.to_owned(), *number)));
                if let Some(outage) = outage {
                    outage.passage.reach(Stage::Refreshed, Some(at));
                }
            }
            _ => self.take_notice(name, link, body, at),
        }
    }

    /// A notice about an outage.
    fn take_notice(&mut self, name: &str, link: &str, body: &Value, at: Timestamp) {
        if matches!(name, "update_required" | "reminder") {
            // A message about one link counts as the prompt for the other links that it mentions.
            for other in body["also_broken"].as_array().into_iter().flatten() {
                if let (Some(link), Some(number)) = (other["link_id"].as_str(), other["episode"].as_u64()) {
                    let other = self.outages.entry((link.to_owned(), number)).or_default();
                    other.passage.reach(Stage::Prompted, Some(at));
                }
            }
        }
        let Some(number) = body["episode"]["number"].as_u64() else { return };
        let outage = self.outage(link, &body["episode"], body);
        match name {
            "update_required" => outage.passage.reach(Stage::Prompted, Some(at)),
            "reminder" => {
                outage.passage.reach(Stage::Prompted, None);
                outage.reminders.entry(body["number"].as_u64().unwrap_or(1)).or_insert(at);
            }
            "update_started" => outage.passage.reach(Stage::Updating, Some(at)),
            "recovered" => {
                outage.passage.reach(Stage::Recovered, Some(at));
                // A newer link had taken its place, and it works again all the same.
                outage.other_end = None;
                self.recovered.insert((link.to_owned(), at), number);
            }
            "superseded" => outage.other_end = Some(OtherEnd::Superseded),
            "removed" => outage.other_end = Some(OtherEnd::Removed),
            _ => {}
        }
    }

    /// Takes a link as `GET /v1/links` has it: its open outage, which no notice need have named.
    pub(super) fn take_link(&mut self, link: &Value) {
        let Some(id) = link["link_id"].as_str() else { return };
        if let Some(unfinished) = self.unfinished.get_mut(id) {
            unfinished.is_still = link["state"] == "unconfirmed";
        }
        if link["episode"].is_object() {
            let is_prompted = link["episode"]["prompt_sent"] == true;
            let outage = self.outage(id, &link["episode"], link);
            // An operator may have decided that the newer link does not take its place.
            if link["episode"]["superseded_by"].is_null() {
                outage.other_end = outage.other_end.filter(|end| *end != OtherEnd::Superseded);
            }
            if is_prompted {
                outage.passage.reach(Stage::Prompted, None);
            }
        }
    }

    /// The outage of an episode, with what the episode and the body around it say of it.
    fn outage(&mut self, link: &str, episode: &Value, body: &Value) -> &mut Outage {
        let number = episode["number"].as_u64().unwrap_or_default();
        let outage = self.outages.entry((link.to_owned(), number)).or_default();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        // The newest message knows best: a cause becomes more specific, and an institution becomes known.
        outage.institution = text(&body["institution"]).or(outage.institution.take());
        outage.cause = text(&episode["cause"]).or(outage.cause.take());
        if let Some(opened_at) = time(&episode["opened_at"]) {
            outage.passage.reach(Stage::Detected, Some(opened_at));
        }
        if episode["prompts_count"].as_u64().is_some_and(|count| count > 0) {
            outage.passage.reach(Stage::Prompted, None);
        }
        outage
    }

    /// Whether an outage, or a creation that was not finished, is of this institution.
    pub(super) fn has_institution(&self, name: &str) -> bool {
        let of_outages = self.outages.values().map(|outage| &outage.institution);
        let mut all = of_outages.chain(self.unfinished.values().map(|unfinished| &unfinished.institution));
        all.any(|institution| institution.as_deref() == Some(name))
    }

    /// The outages that were detected in the range, of the institution if one is given.
    pub(super) fn outages(&self, range: &Range, institution: Option<&str>) -> Vec<&Outage> {
        let is_wanted = |outage: &&Outage| {
            outage.passage.at(Stage::Detected).is_some_and(|at| range.includes(at))
                && institution.is_none_or(|wanted| outage.institution.as_deref() == Some(wanted))
        };
        self.outages.values().filter(is_wanted).collect()
    }

    /// The creations that were reported as unfinished in the range, of the institution if one is given.
    pub(super) fn unfinished(&self, range: &Range, institution: Option<&str>) -> Vec<&Unfinished> {
        let is_wanted = |unfinished: &&Unfinished| {
            range.includes(unfinished.at)
                && institution.is_none_or(|wanted| unfinished.institution.as_deref() == Some(wanted))
        };
        self.unfinished.values().filter(is_wanted).collect()
    }
}

/// A range of time: from the first moment up to, and without, the second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) since: Timestamp,
    pub(super) until: Timestamp,
}

impl Range {
    fn includes(&self, at: Timestamp) -> bool {
        (self.since..self.until).contains(&at)
    }
}

fn time(value: &Value) -> Option<Timestamp> {
    serde_json::from_value::<At>(value.clone()).ok().map(|At(at)| at)
}

/// The passages of the outages by the last message before the user started the repair: the row of a message has the outages that got it, and
/// those that went on before the next message.
pub(super) fn by_step(outages: &[&Outage]) -> Vec<(String, Vec<Passage>)> {
    let numbers: BTreeSet<u64> = outages.iter().flat_map(|outage| outage.reminders.keys().copied()).collect();
    let mut steps = vec![("before the prompt".to_owned(), Vec::new()), ("prompt".to_owned(), Vec::new())];
    steps.extend(numbers.iter().map(|number| (format!("reminder {number}"), Vec::new())));
    for outage in outages {
        let passage = &outage.passage;
        let went_on = passage.at(Stage::Updating).or_else(|| passage.at(Stage::Recovered));
        let messages = std::iter::once(passage.at(Stage::Prompted))
            .chain(numbers.iter().map(|n| outage.reminders.get(n).copied()));
        let sent: Vec<(usize, Timestamp)> =
            messages.enumerate().filter_map(|(at, time)| Some((at + 1, time?))).collect();
        // The last message before the user went on.
        let led = went_on.map(|went_on| sent.iter().rev().find(|(_, at)| *at <= went_on).map_or(0, |(step, _)| *step));
        let is_known = !passage.has(Stage::Prompted) || !sent.is_empty();
        if led == Some(0) && is_known {
            steps[0].1.push(Passage { ..passage.clone() }.without(Stage::Prompted));
        }
        for (step, at) in sent.iter().filter(|(_, at)| went_on.is_none_or(|went_on| *at <= went_on)) {
            let mut of_step = passage.clone();
            of_step.0[Stage::Prompted as usize] = Some(Some(*at));
            if led != Some(*step) {
                for later in [Stage::Updating, Stage::Recovered, Stage::Refreshed] {
                    of_step = of_step.without(later);
                }
            }
            steps[*step].1.push(of_step);
        }
    }
    steps.retain(|(_, passages)| !passages.is_empty());
    steps
}

impl Passage {
    fn without(mut self, stage: Stage) -> Self {
        self.0[stage as usize] = None;
        self
    }
}

/// How many outages reached a stage, and how long they took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StageCount {
    pub(super) stage: Stage,
    /// `None`: relink does not record the stage.
    pub(super) outages: Option<usize>,
    /// The time from the recorded stage before, of those outages of which both times are known.
    pub(super) took: Option<Quantiles>,
}

/// The time within which half, and nine tenths, of some outages reached a stage. Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quantiles {
    pub(super) p50: i64,
    pub(super) p90: i64,
}

impl Quantiles {
    /// By the nearest rank: each is one of the spans.
    fn of(mut spans: Vec<i64>) -> Option<Self> {
        spans.sort_unstable();
        let rank = |percent: usize| spans.get((spans.len() * percent).div_ceil(100).max(1) - 1).copied();
        Some(Self { p50: rank(50)?, p90: rank(90)? })
    }
}

/// The number of outages at each stage.
pub(super) fn count<'a>(passages: impl Iterator<Item = &'a Passage> + Clone) -> Vec<StageCount> {
    let of_stage = |stage: &Stage| {
        let stage = *stage;
        let outages = stage.is_recorded().then(|| passages.clone().filter(|passage| passage.has(stage)).count());
        let took =
            stage.before().filter(|_| stage.is_recorded()).and_then(|before| between(passages.clone(), before, stage));
        StageCount { stage, outages, took }
    };
    Stage::VARIANTS.iter().map(of_stage).collect()
}

/// How long outages took from one stage to another.
pub(super) fn between<'a>(passages: impl Iterator<Item = &'a Passage>, from: Stage, to: Stage) -> Option<Quantiles> {
    Quantiles::of(passages.filter_map(|passage| passage.span(from, to)).collect())
}

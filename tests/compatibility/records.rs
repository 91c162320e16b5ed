//! Link records of every shape that the machine produces, found by random walks of events.
//!
//! A record is kept if it has a trait that no other kept record has: for its state, a present or absent field, a value of a fixed set,
//! a number of facts, or a pair of these in one part of the record. So a new field is covered without a change here.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use fastrand::Rng;
use relink::contract::{Because, Origin, OriginKind, Record};
use relink::link::{
    AccessMode, Consent, DedupKey, Due, Event, Input, Link, Policy, Profile, RECENT_KEYS_MAX, Step, Timestamp, step,
};
use serde_json::Value;

use crate::check::policy;
use crate::world::{DAY, ENDINGS, HOUR, MINUTE, START, events, profiles, shift};

const SEED: u64 = 8;

/// The number of walks that find every trait in [`MUST_SHOW`].
pub(crate) const WALKS_TO_TRY: u64 = 150;

/// The number of walks that find almost every possible pair of fields. They take minutes, so only a released version is
/// written with this number.
pub(crate) const WALKS_TO_KEEP: u64 = 3_000;

const STEPS_MAX: usize = 90;

/// The traits that the records together must have, so that a change of the walks cannot make the corpus poorer without notice.
const MUST_SHOW: &[&str] = &[
    "unconfirmed",
    "valid",
    "invalid",
    "token_required",
    "updating",
    "removed",
    "episode.cause=credentials",
    "episode.cause=token",
    "episode.cause=account_blocked",
    "episode.cause=consent_ended",
    "episode.cause=unsupported",
    "episode.prompt=sent",
    "episode.prompt=muted",
    "episode.prompt=deferred",
    "episode.prompt_asked_at",
    "episode.refused_at",
    "episode.tried_at",
    "episode.arrived",
    "update.phase=with_user",
    "update.phase=verifying",
    "update.after=claimed",
    "update.after=abandoned",
    "update.after=timed_out",
    "session_expires_at",
    "suspicion.session_expires_at",
    "suspicion.during_update=true",
    "suspicion.refused_login=true",
    "refresh.asked=true",
    "refresh.asked=false",
    "refresh.arrived",
    "refresh_needs_token=true",
    "stale_probed_until",
    "stale_reported=true",
    "refresh_quota.refused_until",
    "muted=true",
    "snoozed_until",
    "verify_asked_at",
    "consent.due_at",
    "consent.endless=true",
    "consent.announced=true",
    "consent.announced_for",
    "consent.passed",
    "consent.institution_icon_logo",
    "access_mode=single",
    "access_mode=recurrent",
    "external_id",
    "institution",
    "recent#0",
    "recent#32",
    "because.incident=true",
];

/// The lines of the file. Each record has its own link id, which names its state.
pub(crate) fn lines(walks_count: u64) -> Vec<String> {
    let mut paths = BTreeSet::new();
    walks(walks_count, &mut |record| paths.extend(shapes_of(&to_value(record)).into_keys()));
    let paths: Vec<String> = paths.into_iter().collect();

    let mut shown = BTreeSet::new();
    let mut candidates = Vec::new();
    walks(walks_count, &mut |record| {
        let traits = traits_of(&to_value(record), &paths);
        if traits.iter().any(|found| !shown.contains(found)) {
            shown.extend(traits.iter().cloned());
            candidates.push((record.clone(), traits));
        }
    });
    // Later records have more traits, so an earlier one is kept only for a trait that no later one has.
    let mut kept = Vec::new();
    let mut kept_traits = BTreeSet::new();
    for (record, traits) in candidates.into_iter().rev() {
        if traits.iter().any(|found| !kept_traits.contains(found)) {
            kept_traits.extend(traits);
            kept.push(record);
        }
    }
    kept.reverse();
    let values: Vec<Value> = kept.iter().map(to_value).collect();
    assert_shown(&values, &paths);
    let mut counts = BTreeMap::<String, u32>::new();
    let named = kept.iter().zip(&values).map(|(record, value)| {
        let state = value["state"].as_str().unwrap().to_owned();
        let count = counts.entry(state.clone()).or_default();
        *count += 1;
        let id = format!("{}-{count:03}", state.replace('_', "-"));
        let link = Link { id: id.parse().unwrap(), ..record.link().unwrap() };
        let sent = record.sent.iter().map(|sent| format!("{id}.{sent}")).collect();
        serde_json::to_string(&Record::of(&link, record.partition, record.because.clone(), sent)).unwrap()
    });
    named.collect()
}

fn assert_shown(records: &[Value], paths: &[String]) {
    let shown: BTreeSet<String> = records
        .iter()
        .flat_map(|record| {
            let shapes = shapes_of(record).into_iter().flat_map(|(path, shape)| [format!("{path}{shape}"), path]);
            let recent = recent_count(&record["recent"]);
            shapes.chain([format!("recent#{recent}"), record["state"].as_str().unwrap().to_owned()]).collect::<Vec<_>>()
        })
        .collect();
    let missing: Vec<_> = MUST_SHOW.iter().filter(|wanted| !shown.contains(**wanted)).collect();
    assert!(missing.is_empty(), "no record shows {missing:?}; there are {paths:?}");
    assert_eq!(RECENT_KEYS_MAX, 32, "`recent#32` in MUST_SHOW is the longest list");
}

/// How many dedup keys a record has: 0.2 and earlier wrote a list, later versions a text with 16 bytes for each.
fn recent_count(recent: &Value) -> usize {
    match recent {
        Value::Array(list) => list.len(),
        Value::String(text) => text.len() * 6 / 8 / 16,
        _ => 0,
    }
}

/// The list of dedup keys of 0.2 in the form of 0.3: of each key 8 bytes, and of its time in milliseconds 8 bytes, as base64.
pub(crate) fn recent_as_text(list: &Value) -> Value {
    let mut bytes = Vec::new();
    for fact in list.as_array().unwrap() {
        let key = u64::from_str_radix(fact["key"].as_str().unwrap(), 16).unwrap();
        let at: Timestamp = fact["at"].as_str().unwrap().parse().unwrap();
        bytes.extend(key.to_le_bytes());
        bytes.extend(at.as_millis().to_le_bytes());
    }
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes).into()
}

/// Calls `take` with every record of the walks. The walks are the same in each run.
fn walks(count: u64, take: &mut impl FnMut(&Record)) {
    let mut rng = Rng::with_seed(SEED);
    let policies = [policy(true), policy(true), policy(false)];
    for number in 0..count {
        let id = "walk".parse().unwrap();
        let mut walk = Walk {
            link: Link::unknown(id, START),
            now: START,
            incident: None,
            habits: rng.usize(0..3),
            is_busy: rng.u8(0..6) == 0,
            number,
        };
        let policy = &policies[rng.usize(0..policies.len())];
        for _ in 0..rng.usize(1..STEPS_MAX) {
            if let Some(record) = walk.take_step(policy, &mut rng) {
                take(&record);
            }
        }
    }
}

struct Walk {
    link: Link,
    now: Timestamp,
    incident: Option<Timestamp>,
    /// How much the inputs describe the link: not, partly, fully.
    habits: usize,
    /// Whether all events are within the time for which the record keeps facts.
    is_busy: bool,
    number: u64,
}

impl Walk {
    fn take_step(&mut self, policy: &Policy, rng: &mut Rng) -> Option<Record> {
        if rng.u8(0..12) == 0 {
            self.incident = if self.incident.is_none() { Some(self.now) } else { None };
        }
        let deadline = self.link.deadline(policy).filter(|_| !self.is_busy && rng.u8(0..4) == 0);
        let input = if let Some(at) = deadline {
            self.now = self.now.max(at);
            Input { incident: self.incident, ..Event::DeadlinePassed.into() }
        } else {
            let waits = [MINUTE, 7 * MINUTE, HOUR, 9 * HOUR, 2 * DAY];
            self.now = shift(self.now, if self.is_busy { MINUTE } else { waits[rng.usize(0..waits.len())] });
            let event = match rng.u8(0..80) {
                0 => ENDINGS[rng.usize(0..ENDINGS.len())].clone(),
                1..8 => Event::UpdateStarted { until: shift(self.now, 10 * MINUTE) },
                8..12 => Event::UpdateAbandoned,
                12..16 => Event::UpdateClaimed,
                _ => rng.choice(events(self.now)).unwrap(),
            };
            let key = (self.is_busy || rng.u8(0..3) > 0).then(|| DedupKey(rng.u64(..)));
            Input { event, key, profile: self.profile(rng), incident: self.incident, successor: None, person: None }
        };
        let step = step(&self.link, &input, self.now, policy).ok()?;
        let because = Because::of(&step, &input, self.origin(&input.event));
        self.link = step.link.clone();
        let sent = sent_of(&step);
        Some(Record::of(&step.link, u16::try_from(self.number % 16).unwrap(), because, sent))
    }

    fn profile(&self, rng: &mut Rng) -> Profile {
        let full = Profile {
            external_id: Some("user-7".to_owned()),
            institution: Some("ofgringotts_br_retail".to_owned()),
            access_mode: Some(AccessMode::Recurrent),
            consent: Some(Box::new(Consent {
                id: Some("b2c17cb6-1f9d-4f9c-8d0f-1f5e7d0c0f5a".to_owned()),
                due: [Due::Unknown, Due::Never, Due::At(shift(self.now, 9 * DAY))][rng.usize(0..3)],
                institution_display_name: Some("Gringotts (Brasil) – conta \"única\"".to_owned()),
                institution_icon_logo: Some("https://example.com/gringotts.svg".to_owned()),
                ..Consent::default()
            })),
            ..Profile::default()
        };
        match (self.habits, rng.u8(0..8)) {
            (1, 0..3) => rng.choice(profiles(self.now)).unwrap(),
            (2, 0) => full,
            (2, 1) => Profile { consent: None, ..full },
            (2, 2) => rng.choice(profiles(self.now)).unwrap(),
            _ => Profile::default(),
        }
    }

    fn origin(&self, event: &Event) -> Origin {
        let kind = match event {
            Event::DeadlinePassed => OriginKind::Timer,
            Event::Command(_) => OriginKind::Command,
            Event::UpdateStarted { .. } | Event::UpdateClaimed | Event::UpdateAbandoned => OriginKind::Widget,
            Event::Observed(_) | Event::ConsentObserved(_) | Event::ObservedMissing => OriginKind::Observation,
            Event::DataArrived(_) | Event::LinkDeleted => OriginKind::Webhook,
            _ => OriginKind::ApiError,
        };
        let is_input = kind != OriginKind::Timer;
        let message_id =
            (is_input && self.number.is_multiple_of(2)).then(|| format!("b7d6b3c2-0000-4000-8000-{:012}", self.number));
        Origin { kind, input_sequence: is_input.then_some(self.number), message_id, ..Origin::timer(self.now) }
    }
}

/// The ids of a step's messages, without the link's id.
fn sent_of(step: &Step) -> Vec<String> {
    (1..=step.effects.len()).map(|number| format!("{}.{number}", step.link.version)).collect()
}

fn to_value(record: &Record) -> Value {
    serde_json::to_value(record).unwrap()
}

/// Every path of the record, with its value if the value is one of a fixed set.
fn shapes_of(record: &Value) -> BTreeMap<String, String> {
    let mut shapes = BTreeMap::new();
    collect_shapes(record, "", &mut shapes);
    shapes
}

fn collect_shapes(value: &Value, path: &str, shapes: &mut BTreeMap<String, String>) {
    let shape = match value {
        Value::Null => return,
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect_shapes(value, &path, shapes);
            }
            String::new()
        }
        Value::Bool(flag) => format!("={flag}"),
        Value::String(word) if is_word(path) => format!("={word}"),
        recent if path == "recent" && recent_count(recent) == RECENT_KEYS_MAX => "=full".to_owned(),
        Value::String(_) | Value::Number(_) | Value::Array(_) => String::new(),
    };
    if !path.is_empty() {
        shapes.insert(path.to_owned(), shape);
    }
}

/// Whether the field's values are a fixed set.
fn is_word(path: &str) -> bool {
    let last = path.rsplit('.').next().unwrap_or_default();
    ["state", "cause", "prompt", "phase", "after", "fallback", "access_mode", "event", "kind"].contains(&last)
}

fn traits_of(record: &Value, paths: &[String]) -> BTreeSet<String> {
    let shapes = shapes_of(record);
    let state = record["state"].as_str().unwrap();
    let described: Vec<(&str, String)> = paths
        .iter()
        .map(|path| {
            let shape = shapes.get(path).map_or_else(|| "-".to_owned(), |shape| format!("+{shape}"));
            (path.as_str(), format!("{path}{shape}"))
        })
        .collect();
    let mut traits: BTreeSet<String> = described
        .iter()
        .map(|(path, shape)| if path.starts_with("because") { shape.clone() } else { format!("{state} {shape}") })
        .collect();
    // Pairs of shapes within one part of the record.
    for (index, (path, shape)) in described.iter().enumerate() {
        let Some((part, _)) = path.rsplit_once('.').filter(|(part, _)| !part.starts_with("because")) else { continue };
        if !shapes.contains_key(part) {
            continue;
        }
        let siblings =
            described[index + 1..].iter().filter(|(other, _)| other.rsplit_once('.').is_some_and(|(of, _)| of == part));
        traits.extend(siblings.map(|(_, other)| format!("{shape} {other}")));
    }
    traits
}

//! Reads the data of one version like an upgraded relink, and lists every problem.

use std::collections::BTreeMap;

use bytes::Bytes;
use relink::belvo::{Meaning, translate};
use relink::contract::{Commit, CommittedOffset, Fence, IncidentBody, JobBody, NoticeBody, Record, RefusedBody};
use relink::link::{Event, Link, LinkId, Policy, PolicySettings, StateName, Timestamp, step};
use relink::nats::subject::{OutputSubject, Subjects};
use relink::store::{Changes, MemoryStore, Position, Put, Query, SledStore, Store, StoredLink};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::corpus::{Corpus, INPUTS, LINKS, Line};
use crate::{CACHE_BYTES, Promise, Renamed, Version};

/// The identity of the stream in rebuilt stores. The value is arbitrary.
pub(crate) const REBUILT_FROM: i64 = 1;

/// Every difference from the promise in the version's row.
pub(crate) fn problems(corpus: &Corpus, version: &Version) -> Vec<String> {
    let mut problems = Vec::new();
    let mut note = |place: &str, result: Result<(), String>| {
        problems.extend(result.err().map(|problem| format!("{}: {place}: {problem}", version.name)));
    };
    for (number, record) in (1..).zip(corpus.records()) {
        note(&format!("record {number}"), check_record(record.as_bytes(), version));
    }
    for line in corpus.lines(LINKS) {
        let checked = match Subjects::default().parse_output(&line.subject) {
            Some(OutputSubject::State { .. }) => check_record(&line.payload(), version),
            Some(subject) => check_message(subject, &line.payload(), version),
            None => Err("its subject is none of relink's".to_owned()),
        };
        note(&format!("{} {}", line.sequence, line.subject), checked);
    }
    for line in corpus.lines(INPUTS) {
        note(&format!("{} {}", line.sequence, line.subject), check_input(&line));
    }
    note("the store", check_store(corpus, version));
    problems
}

/// The policy of an operator with API keys, or of one without.
pub(crate) fn policy(can_verify: bool) -> Policy {
    Policy::new(PolicySettings { can_verify, ..PolicySettings::default() }).unwrap()
}

fn check_record(json: &[u8], version: &Version) -> Result<(), String> {
    let read = Record::parse(json).and_then(|record| Ok((record.link()?, record)));
    let (link, record) = match (read, version.messages) {
        (Ok(read), Promise::Reads) => read,
        (Ok(_), Promise::Refuses(_)) => return Err("it is read but must be refused".to_owned()),
        (Err(error), Promise::Refuses(saying)) if error.to_string().contains(saying) => return Ok(()),
        (Err(error), _) => return Err(error.to_string()),
    };
    let again = Record::of(&link, record.partition, record.because.clone(), record.sent.clone());
    let again = serde_json::to_vec(&again).unwrap();
    let reread = Record::parse(&again).and_then(|record| record.link()).map_err(|error| error.to_string())?;
    if reread != link {
        return Err(format!("the link changes when it is written and read again: {reread:?}, was {link:?}"));
    }
    compare(&value(json), &value(&again), version)?;
    goes_on(&link)
}

/// Checks that the machine can handle the link's next deadline and its removal.
fn goes_on(link: &Link) -> Result<(), String> {
    for policy in [policy(true), policy(false)] {
        if let Some(at) = link.deadline(&policy) {
            let passed = step(link, &Event::DeadlinePassed.into(), at, &policy);
            passed.map_err(|refusal| format!("its deadline {at} is refused: {refusal}"))?;
        }
        if step(link, &Event::LinkDeleted.into(), link.updated_at, &policy).is_err() != is_removed(link) {
            return Err("it cannot be removed, or a removed link was changed".to_owned());
        }
    }
    Ok(())
}

fn is_removed(link: &Link) -> bool {
    link.state.name() == StateName::Removed
}

fn check_message(subject: OutputSubject<'_>, payload: &[u8], version: &Version) -> Result<(), String> {
    match subject {
        OutputSubject::State { .. } => check_record(payload, version),
        OutputSubject::Notice { .. } | OutputSubject::Observed { .. } => check_body::<NoticeBody>(payload, version),
        OutputSubject::Job { .. } => check_body::<JobBody>(payload, version),
        OutputSubject::Refused { .. } => check_body::<RefusedBody>(payload, version),
        OutputSubject::Offset { .. } => check_body::<CommittedOffset>(payload, version),
        OutputSubject::Fence { .. } => check_body::<Fence>(payload, version),
        OutputSubject::Commit { .. } => check_body::<Commit>(payload, version),
        OutputSubject::Incident { .. } => check_body::<IncidentBody>(payload, version),
    }
}

fn check_body<T: DeserializeOwned + Serialize>(payload: &[u8], version: &Version) -> Result<(), String> {
    let body: T = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    compare(&value(payload), &serde_json::to_value(&body).unwrap(), version)
}

/// Checks that the new body has every field of the old one, unless the version's row names the field. Parsing alone does not show a loss: a
/// renamed optional field gets its default, and the old name is ignored.
fn compare(old: &Value, new: &Value, version: &Version) -> Result<(), String> {
    let lost = lost(&with_todays_names(old, version), new, "");
    let known = |path: &String| path == "schema_version" || version.gone.iter().any(|(gone, _why)| gone == path);
    match lost.into_iter().find(|path| !known(path)) {
        Some(path) => Err(format!("`{path}` is lost or changed")),
        None => Ok(()),
    }
}

/// The body of an older version, with today's names.
fn with_todays_names(old: &Value, version: &Version) -> Value {
    let mut body = old.clone();
    for renamed in version.renamed {
        let (Renamed::Field { path, .. } | Renamed::Value { path, .. } | Renamed::Form { path, .. }) = renamed;
        let (parents, name) = path.rsplit_once('.').unwrap_or(("", path));
        let parent =
            parents.split('.').filter(|step| !step.is_empty()).try_fold(&mut body, |value, step| value.get_mut(step));
        let Some(fields) = parent.and_then(Value::as_object_mut) else { continue };
        match renamed {
            Renamed::Field { to, .. } => {
                if let Some(value) = fields.remove(name) {
                    fields.insert((*to).to_owned(), value);
                }
            }
            Renamed::Value { from, to, .. } => {
                if let Some(value) = fields.get_mut(name).filter(|value| *value == from) {
                    *value = (*to).into();
                }
            }
            Renamed::Form { to, .. } => {
                if let Some(value) = fields.get_mut(name) {
                    *value = to(value);
                }
            }
        }
    }
    body
}

/// The paths of `old` that are missing in `new`. Null and absent are the same.
fn lost(old: &Value, new: &Value, path: &str) -> Vec<String> {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let child = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            old.iter().flat_map(|(name, old)| lost(old, new.get(name).unwrap_or(&Value::Null), &child(name))).collect()
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            old.iter().zip(new).flat_map(|(old, new)| lost(old, new, path)).collect()
        }
        _ if old == new => Vec::new(),
        _ => vec![path.to_owned()],
    }
}

fn value(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap()
}

fn check_input(line: &Line) -> Result<(), String> {
    let before = line.means.as_deref().ok_or("it has no meaning")?;
    // A later version may understand an input that this one did not.
    if before.starts_with(UNKNOWN) || before.starts_with(UNREADABLE) {
        return Ok(());
    }
    let now = meaning_of(line);
    if now == before { Ok(()) } else { Err(format!("its meaning was `{before}`, and now is `{now}`")) }
}

const UNKNOWN: &str = "unknown";
const UNREADABLE: &str = "unreadable";

/// A short text for the meaning of a stored input.
pub(crate) fn meaning_of(line: &Line) -> String {
    let subjects = Subjects::default();
    let Some(input) = subjects.parse_input(&line.subject) else { return format!("{UNREADABLE} subject") };
    let (link, stored_at): (LinkId, _) = (input.link_id.parse().unwrap(), line.stored_at.unwrap().0);
    match translate(input.kind, &link, &line.payload(), stored_at) {
        Ok(Meaning::Event(input)) => input.event.name().to_string(),
        Ok(Meaning::NotAboutTheLink { class, code }) => {
            // Since 0.3 the class `outage` is divided, because the errors of an institution are evidence about it.
            let class = if code == "institution_down" { "outage" } else { class.as_str() };
            format!("not about the link: {class} {code}")
        }
        Ok(Meaning::StatusPage(_)) => "the status page".to_owned(),
        Ok(Meaning::Unknown { what }) => format!("{UNKNOWN} {what}"),
        Err(error) => format!("{UNREADABLE} {}", error.as_str()),
    }
}

/// A store that is rebuilt from KV_links like in `node::catch_up`.
pub(crate) fn rebuild(lines: &[Line], policy: &Policy) -> Result<MemoryStore, String> {
    let (store, subjects) = (MemoryStore::default(), Subjects::default());
    for line in lines {
        let (mut changes, payload) = (Changes::default(), line.payload());
        match subjects.parse_output(&line.subject) {
            Some(OutputSubject::State { .. }) => changes.puts.push(put(&payload, policy)?),
            Some(OutputSubject::Offset { partition }) => changes.offsets.push((partition, body(&payload)?)),
            Some(OutputSubject::Incident { .. }) => changes.incidents.push(body(&payload)?),
            _ => {}
        }
        changes.position = Some(Position { stream_created_ns: REBUILT_FROM, sequence: line.sequence, witness: None });
        store.apply(&changes).map_err(|error| error.to_string())?;
    }
    Ok(store)
}

/// The put of a record, as in a commit and in catching up.
pub(crate) fn put(payload: &Bytes, policy: &Policy) -> Result<Put, String> {
    Put::of_state_message(payload, policy).map_err(|error| error.to_string())
}

fn body<T: DeserializeOwned>(payload: &[u8]) -> Result<T, String> {
    serde_json::from_slice(payload).map_err(|error| error.to_string())
}

fn check_store(corpus: &Corpus, version: &Version) -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    let copy = corpus.copy_to(&directory.path().join("copy"));
    let opened = match (SledStore::open(&copy.store(), CACHE_BYTES), version.store) {
        (Err(error), Promise::Refuses(saying)) if error.to_string().contains(saying) => return Ok(()),
        (Err(error), _) => return Err(error.to_string()),
        (Ok(opened), _) => opened,
    };
    match (opened.quarantined, version.store) {
        (Some((_aside, why)), Promise::Refuses(saying)) if why.contains(saying) => return Ok(()),
        (Some((_aside, why)), _) => return Err(format!("it is quarantined: {why}")),
        (None, Promise::Refuses(_)) => return Err("it is opened but must be refused".to_owned()),
        (None, Promise::Reads) => {}
    }
    if matches!(version.messages, Promise::Refuses(_)) {
        return Ok(());
    }
    let (store, policy) = (opened.store, policy(true));
    let expected = rebuild(&corpus.lines(LINKS), &policy)?;
    let puts =
        corpus.stored_records().into_iter().map(|record| put(&record.into(), &policy)).collect::<Result<_, _>>()?;
    expected.apply(&Changes { puts, ..Changes::default() }).map_err(|error| error.to_string())?;
    let (links, expected_links) = (links_of(&store)?, links_of(&expected)?);
    // A deadline in the store follows from the old policy, so it is compared only with the timers.
    let facts = |link: &StoredLink| (link.head.state, link.head.partition, link.head.version, link.record.clone());
    if !links.iter().map(facts).eq(expected_links.iter().map(facts)) {
        return Err(format!("it has {} links, but {} were written", links.len(), expected_links.len()));
    }
    check_timers(&store, &links)?;
    check_lists(&store, &expected)?;
    let bookkeeping = |store: &dyn Store| -> Result<_, relink::store::StoreError> {
        Ok((store.offsets()?, store.incidents()?, store.count()?, store.position()?.map(|position| position.sequence)))
    };
    let found = bookkeeping(&store).map_err(|error| error.to_string())?;
    let written = bookkeeping(&expected).map_err(|error| error.to_string())?;
    if found != written {
        return Err(format!("it has {found:?}, but {written:?} was written"));
    }
    Ok(())
}

/// The lists of each institution, external id and state, and the counts of institutions.
fn check_lists(store: &dyn Store, expected: &dyn Store) -> Result<(), String> {
    let counts = |store: &dyn Store| store.count_by_institution(usize::MAX).map_err(|error| error.to_string());
    if counts(store)? != counts(expected)? {
        return Err(format!("it has the counts {:?}, but {:?} are right", counts(store)?, counts(expected)?));
    }
    for link in links_of(expected)? {
        let record = link.parse().map_err(|error| error.to_string())?;
        let Record { institution, external_id, institution_user_id, .. } = record;
        let state = Some(link.head.state);
        let query = Query { state, institution, external_id, institution_user_id, after: None, limit: usize::MAX };
        let ids = |store: &dyn Store| store.page(&query).map(|page| page.ids).map_err(|error| error.to_string());
        if ids(store)? != ids(expected)? {
            return Err(format!("its list of {query:?} is {:?}", ids(store)?));
        }
    }
    Ok(())
}

fn check_timers(store: &dyn Store, links: &[StoredLink]) -> Result<(), String> {
    let mut expected: Vec<(Timestamp, String)> = Vec::new();
    for link in links {
        let id = link.parse().map_err(|error| error.to_string())?.link_id;
        expected.extend(link.head.deadline.map(|at| (at, id)));
    }
    expected.sort();
    let due = store.due(Timestamp::from_millis(i64::MAX - 1), usize::MAX).map_err(|error| error.to_string())?;
    if !due.iter().map(LinkId::as_str).eq(expected.iter().map(|(_, id)| id.as_str())) {
        return Err("its timers do not match its links".to_owned());
    }
    Ok(())
}

pub(crate) fn links_of(store: &dyn Store) -> Result<Vec<StoredLink>, String> {
    let page = store.page(&Query { limit: usize::MAX, ..Query::default() });
    Ok(page.map_err(|error| error.to_string())?.links)
}

/// The links, committed offsets and incidents of a store.
pub(crate) fn everything(store: &dyn Store) -> (Vec<StoredLink>, BTreeMap<u16, CommittedOffset>, Vec<IncidentBody>) {
    (links_of(store).unwrap(), store.offsets().unwrap(), store.incidents().unwrap())
}

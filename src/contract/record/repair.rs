//! A record of which a field cannot be read, because a bug or an earlier version of relink wrote it. The link is rebuilt
//! from the fields that can be read.
//!
//! 0.1 wrote dates before the year 0 that no version can read again.

use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use super::{BadRecord, Record};
use crate::link::Timestamp;

/// The most fields that are dropped. A record with more unreadable fields is not repaired.
const DROPPED_MAX: usize = 64;

/// A record without its unreadable fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Repaired {
    /// The record.
    pub record: Record,
    /// The paths of the fields that could not be read, such as `consent.due_at`.
    pub dropped: Vec<String>,
}

impl Record {
    /// Reads a record, and drops the fields that cannot be read. An unreadable time that the link cannot be without
    /// becomes the time of its last step.
    ///
    /// # Errors
    /// [`BadRecord`]: the bytes are not the JSON of an object, a newer relink wrote them, or a field is missing that
    /// nothing else in the record can replace, such as the state.
    pub fn repair(json: &[u8]) -> Result<Repaired, BadRecord> {
        let mut value: Value = serde_json::from_slice(json)?;
        let found = value.get("schema_version").and_then(Value::as_u64).and_then(|found| u16::try_from(found).ok());
        if let Some(found) = found.filter(|found| *found > super::super::SCHEMA_VERSION) {
            return Err(BadRecord::FutureVersion { found, known: super::super::SCHEMA_VERSION });
        }
        let last_step = last_step(&value);
        let mut dropped: Vec<String> = Vec::new();
        // Whether a time may still replace the field that was dropped last.
        let mut may_replace = false;
        loop {
            // The place of the first unreadable field, or the object in which a needed field is missing; and the error.
            let (path, error) = match serde_path_to_error::deserialize::<_, Self>(&value) {
                Ok(record) => match record.link() {
                    Ok(_) => {
                        let dropped = dropped.iter().map(|path| path[1..].replace('/', "."));
                        return Ok(Repaired { record, dropped: dropped.collect() });
                    }
                    Err(error) => (None, error),
                },
                Err(error) => (Some(pointer(error.path())), BadRecord::NotARecord(error.into_inner())),
            };
            let is_needed = |field: &&String| {
                let parent = field.rsplit_once('/').map(|(parent, _)| parent);
                may_replace && (path.is_none() || parent == path.as_deref())
            };
            if let Some(field) = dropped.last().filter(is_needed) {
                let Some(at) = last_step else { return Err(error) };
                set(&mut value, field, Some(Value::from(at.to_string())));
                may_replace = false;
                continue;
            }
            let Some(path) = path else { return Err(error) };
            if dropped.contains(&path) || dropped.len() >= DROPPED_MAX || !set(&mut value, &path, None) {
                return Err(error);
            }
            dropped.push(path);
            may_replace = true;
        }
    }
}

/// The time of the last step, from the first field that has a readable one.
fn last_step(record: &Value) -> Option<Timestamp> {
    let times = ["/updated_at", "/because/at", "/because/origin/received_at", "/since"];
    times.iter().find_map(|path| record.pointer(path)?.as_str()?.parse().ok())
}

/// The path as a JSON pointer, such as `/recent/3/at`. No field of a record has a slash or a tilde in its name.
fn pointer(path: &Path) -> String {
    let keys = path.iter().map(|segment| match segment {
        Segment::Map { key } => format!("/{key}"),
        Segment::Seq { index } => format!("/{index}"),
        Segment::Enum { .. } | Segment::Unknown => "/?".to_owned(),
    });
    keys.collect()
}

/// Sets or removes a field of an object; returns whether there is such a field, or a place for it.
fn set(record: &mut Value, path: &str, to: Option<Value>) -> bool {
    let place = path.rsplit_once('/').and_then(|(parent, key)| Some((record.pointer_mut(parent)?, key)));
    let Some((Value::Object(fields), key)) = place else { return false };
    match to {
        Some(value) => {
            fields.insert(key.to_owned(), value);
            true
        }
        None => fields.remove(key).is_some(),
    }
}

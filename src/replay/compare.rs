//! The differences between what was sent and what the replay has sent.
//!
//! Messages about one link of one kind are paired: first those that the same input led to, then those whose times are within the
//! tolerance, then those of the same episode or the same end of a consent. What is left was removed or added.

use std::collections::BTreeMap;

use super::Span;
use super::machine::Replayed;
use super::recorded::{Sent, SentKind};
use crate::link::{LinkId, Timestamp};

/// One message that the replay has sent at another time, or only one side has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The link.
    pub link: LinkId,
    /// What was sent.
    pub kind: SentKind,
    /// The number of a reminder, the resource of data, or the step before the end of a consent; empty for other kinds.
    pub which: String,
    /// When relink sent it; `None`: it did not, so the message is added.
    pub recorded_at: Option<Timestamp>,
    /// When the replay sent it; `None`: it did not, so the message is removed.
    pub replayed_at: Option<Timestamp>,
}

/// The messages of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindCount {
    /// The same in both.
    pub same: u64,
    /// Only the replay has sent them.
    pub added: u64,
    /// Only relink has sent them.
    pub removed: u64,
    /// Both have sent them, at times that differ by more than the tolerance.
    pub moved: u64,
}

impl KindCount {
    /// Whether there is no difference.
    pub const fn is_same(&self) -> bool {
        self.added == 0 && self.removed == 0 && self.moved == 0
    }
}

/// The result of a replay.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The span.
    pub span: Span,
    /// The counts of each kind that occurs.
    pub kinds: BTreeMap<SentKind, KindCount>,
    /// The notices that differ, in the order of links and times. Questions to Belvo are counted only.
    pub differences: Vec<Difference>,
    /// How many links were replayed.
    pub links_count: u64,
    /// How many inputs were replayed.
    pub inputs_count: u64,
    /// How many of them this version cannot handle.
    pub unreadable_inputs_count: u64,
    /// How many recorded messages this version cannot read.
    pub unreadable_count: u64,
    /// For how many links the state at the start of the span is no longer kept, so that their replay begins later.
    pub begun_later_count: u64,
}

/// The messages of one link and kind.
struct Group {
    /// The time from which the recording has all of them.
    complete_from: Timestamp,
    recorded: Vec<Sent>,
    replayed: Vec<Sent>,
}

impl Comparison {
    /// Compares what the replay has sent with the recording.
    pub fn of(replayed: Replayed) -> Self {
        let Replayed { mut recorded, sent, links_count, inputs_count, unreadable_inputs_count } = replayed;
        let span = recorded.span;
        let mut groups: BTreeMap<(LinkId, SentKind, String), Group> = BTreeMap::new();
        let sides = [(false, std::mem::take(&mut recorded.sent)), (true, sent)];
        for (is_replayed, sent) in
            sides.into_iter().flat_map(|(side, sent)| sent.into_iter().map(move |sent| (side, sent)))
        {
            let key = (sent.link.clone(), sent.kind, sent.which.clone());
            let group = groups.entry(key).or_insert_with(|| Group {
                complete_from: recorded.complete_from(&sent.link, sent.kind),
                recorded: Vec::new(),
                replayed: Vec::new(),
            });
            if is_replayed { group.replayed.push(sent) } else { group.recorded.push(sent) }
        }
        let mut comparison = Self {
            span,
            kinds: BTreeMap::new(),
            differences: Vec::new(),
            links_count,
            inputs_count,
            unreadable_inputs_count,
            unreadable_count: recorded.unreadable_count,
            begun_later_count: recorded.begun_later().len() as u64,
        };
        for ((link, kind, which), group) in groups {
            comparison.add(link, kind, &which, group);
        }
        comparison.differences.sort_by(|one, other| {
            let time = |difference: &Difference| difference.recorded_at.or(difference.replayed_at);
            (&one.link, time(one)).cmp(&(&other.link, time(other)))
        });
        comparison
    }

    /// Whether the replay sent the same notices at the same times.
    pub fn is_same(&self) -> bool {
        self.differences.is_empty()
    }

    /// The questions to Belvo that only the replay has asked. The recording has no answers to them.
    pub fn unanswered_count(&self) -> u64 {
        self.kinds.get(&SentKind::Question).map_or(0, |count| count.added)
    }

    fn add(&mut self, link: LinkId, kind: SentKind, which: &str, group: Group) {
        let Span { to, tolerance, .. } = self.span;
        let is_near = |one: &Sent, other: &Sent| distance(one.at, other.at) <= tolerance.as_millis();
        let Group { complete_from, mut recorded, mut replayed } = group;
        let mut pairs = Vec::new();
        for is_pair in [
            &(|one: &Sent, other: &Sent| one.input.is_some() && one.input == other.input)
                as &dyn Fn(&Sent, &Sent) -> bool,
            &is_near,
            &|one: &Sent, other: &Sent| one.episode.is_some() && one.episode == other.episode,
            &|one: &Sent, other: &Sent| one.consent_end.is_some() && one.consent_end == other.consent_end,
        ] {
            pair(&mut recorded, &mut replayed, &mut pairs, is_pair);
        }
        let count = self.kinds.entry(kind).or_default();
        let mut differences = Vec::new();
        for (one, other) in pairs {
            if is_near(&one, &other) {
                count.same += 1;
            } else {
                count.moved += 1;
                differences.push((Some(one.at), Some(other.at)));
            }
        }
        // Messages outside the complete part of the span are there only as partners of messages near its ends.
        let is_inside = |sent: &Sent| sent.at >= complete_from && sent.at < to;
        for one in recorded.into_iter().filter(is_inside) {
            count.removed += 1;
            differences.push((Some(one.at), None));
        }
        for other in replayed.into_iter().filter(is_inside) {
            count.added += 1;
            differences.push((None, Some(other.at)));
        }
        if matches!(kind, SentKind::Notice(_)) {
            self.differences.extend(differences.into_iter().map(|(recorded_at, replayed_at)| Difference {
                link: link.clone(),
                kind,
                which: which.to_owned(),
                recorded_at,
                replayed_at,
            }));
        }
    }
}

fn distance(one: Timestamp, other: Timestamp) -> u128 {
    one.since(other).max(other.since(one)).as_millis()
}

/// Moves the pairs out of the two lists: for each recorded message the nearest replayed one that `is_pair` accepts.
fn pair(
    recorded: &mut Vec<Sent>,
    replayed: &mut Vec<Sent>,
    pairs: &mut Vec<(Sent, Sent)>,
    is_pair: &dyn Fn(&Sent, &Sent) -> bool,
) {
    recorded.retain(|one| {
        let partners = replayed.iter().enumerate().filter(|(_, other)| is_pair(one, other));
        let nearest = partners.min_by_key(|(_, other)| distance(one.at, other.at)).map(|(index, _)| index);
        if let Some(index) = nearest {
            pairs.push((one.clone(), replayed.remove(index)));
        }
        nearest.is_none()
    });
}

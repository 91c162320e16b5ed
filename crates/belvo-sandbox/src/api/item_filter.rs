//! The documented filters of data calls, such as `value_date__range` of `GET /api/transactions/`.
//!
//! A filter of a field that the resource does not have is ignored, as Belvo ignores unknown filters. `link`, `page` and `page_size` are in
//! [`super::data`] and [`super::list`].

use std::collections::HashSet;

use serde_json::Value;

use super::list::{DAY_MS, Params, moment};
use crate::problem::Problem;

/// The fields with a date or a time, by which items can be filtered.
const TIMES: [&str; 6] = ["value_date", "accounting_date", "collected_at", "created_at", "due_date", "invoice_date"];

/// The suffixes of a filter by time, and what they mean. Without a suffix it is a day.
const SPANS: [(&str, Span); 5] =
    [("", Span::Day), ("__gt", Span::After), ("__gte", Span::From), ("__lt", Span::Before), ("__lte", Span::UpTo)];

/// The fields with a text, each as `name` and as `name__in`, and where an item has it.
const WORDS: [(&str, &str); 6] = [
    ("id", "/id"),
    ("account", "/account/id"),
    ("type", "/type"),
    ("status", "/status"),
    ("currency", "/currency"),
    ("category", "/category"),
];

#[derive(Clone, Copy)]
enum Span {
    Day,
    After,
    From,
    Before,
    UpTo,
}

/// The filters of one call, parsed.
pub(super) struct ItemFilter<'a> {
    times: Vec<(&'static str, Span, i64)>,
    words: Vec<(&'static str, HashSet<&'a str>)>,
}

impl<'a> ItemFilter<'a> {
    /// Refuses an invalid time.
    pub(super) fn new(params: &'a Params) -> Result<Self, Problem> {
        let (mut times, mut words) = (Vec::new(), Vec::new());
        for field in TIMES {
            for (suffix, span) in SPANS {
                let key = format!("{field}{suffix}");
                if let Some(text) = params.get(&key) {
                    times.push((field, span, moment(&key, text)?));
                }
            }
            let key = format!("{field}__range");
            if let Some(range) = params.get(&key) {
                let (from, to) = range.split_once(',').unwrap_or((range, range));
                times.push((field, Span::From, moment(&key, from)?));
                times.push((field, Span::UpTo, moment(&key, to)?));
            }
        }
        for (name, place) in WORDS {
            words.extend(params.get(name).map(|word| (place, HashSet::from([word.as_str()]))));
            words.extend(params.get(&format!("{name}__in")).map(|list| (place, list.split(',').collect())));
        }
        Ok(Self { times, words })
    }

    /// Whether every item matches.
    pub(super) fn is_empty(&self) -> bool {
        self.times.is_empty() && self.words.is_empty()
    }

    pub(super) fn matches(&self, item: &Value) -> bool {
        let is_within = |(field, span, limit): &(&str, Span, i64)| {
            let at = item[*field].as_str().and_then(|text| moment(field, text).ok());
            at.is_none_or(|at| match span {
                Span::Day => at.div_euclid(DAY_MS) == limit.div_euclid(DAY_MS),
                Span::After => at > *limit,
                Span::From => at >= *limit,
                Span::Before => at < *limit,
                Span::UpTo => at <= *limit,
            })
        };
        let is_one_of = |(place, words): &(&str, HashSet<&str>)| {
            item.pointer(place).and_then(Value::as_str).is_none_or(|word| words.contains(word))
        };
        self.times.iter().all(is_within) && self.words.iter().all(is_one_of)
    }
}

//! Belvo's lists: pages, absolute `next` links, and the documented filters of links. Those of data are in [`super::item_filter`].
//!
//! There is no filter on when a link last changed, because Belvo has none. Unknown filters are ignored, as Belvo's are.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

use axum::http::header::HOST;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use uuid::Uuid;

use crate::link::{AccessMode, CREATED_BY, Link, LinkStatus, RefreshRate};
use crate::problem::Problem;

/// The query of a list call.
pub(crate) type Params = HashMap<String, String>;

const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: usize = 1000;

/// One page of `items`, which are all that matched.
pub(crate) fn page<T>(
    items: &[T],
    params: &Params,
    uri: &Uri,
    headers: &HeaderMap,
    show: impl Fn(&T) -> Value,
) -> Result<Response, Problem> {
    page_of(items.len(), params, uri, headers, |range| items[range].iter().map(&show).collect())
}

/// One page of a list; only the items of the page are created.
pub(crate) fn page_of(
    count: usize,
    params: &Params,
    uri: &Uri,
    headers: &HeaderMap,
    make: impl FnOnce(Range<usize>) -> Vec<Value>,
) -> Result<Response, Problem> {
    let number = |name: &str| params.get(name).filter(|text| !text.is_empty()).map(|text| text.parse::<usize>());
    let size = match number("page_size") {
        Some(Ok(size)) if size > 0 => size.min(PAGE_SIZE_MAX),
        _ => PAGE_SIZE_DEFAULT,
    };
    let page = match number("page") {
        None => 1,
        Some(Ok(page)) if page > 0 => page,
        Some(_) => return Err(Problem::new(404, "not_found", "Invalid page.")),
    };
    let start = (page - 1).saturating_mul(size);
    if page > 1 && start >= count {
        return Err(Problem::new(404, "not_found", "Invalid page."));
    }
    let end = count.min(start.saturating_add(size));
    let results: Vec<Value> = make(start..end).into_iter().map(|item| select(item, params)).collect();
    let next = (end < count).then(|| page_url(uri, headers, page + 1));
    let previous = (page > 1).then(|| page_url(uri, headers, page - 1));
    let body = json!({"count": count, "next": next, "previous": previous, "results": results});
    Ok(axum::Json(body).into_response())
}

/// The same call with another page number; the rest of the query stays byte for byte.
fn page_url(uri: &Uri, headers: &HeaderMap, page: usize) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let mut query: Vec<String> = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.starts_with("page="))
        .map(str::to_owned)
        .collect();
    query.push(format!("page={page}"));
    format!("http://{host}{}?{}", uri.path(), query.join("&"))
}

/// `fields` and `omit`.
fn select(mut item: Value, params: &Params) -> Value {
    let named = |name: &str| params.get(name).map(|list| list.split(',').map(str::trim).collect::<Vec<_>>());
    if let Value::Object(object) = &mut item {
        if let Some(fields) = named("fields") {
            object.retain(|key, _| fields.contains(&key.as_str()));
        }
        if let Some(omitted) = named("omit") {
            object.retain(|key, _| !omitted.contains(&key.as_str()));
        }
    }
    item
}

/// The documented filters of `GET /api/links/`, parsed.
pub(crate) struct LinkFilter<'a> {
    ids: Option<BTreeSet<Uuid>>,
    /// A field and its allowed values.
    words: Vec<(Field, HashSet<&'a str>)>,
    created: Vec<(&'static str, i64)>,
}

/// How to read a field of a link.
type Field = fn(&Link) -> &str;

/// The fields that can be filtered by, each as `name` and as `name__in`.
const FIELDS: [(&str, Field); 6] = [
    ("institution", |link| link.institution.name),
    ("access_mode", |link| link.access_mode.into()),
    ("status", |link| link.status.as_str()),
    ("external_id", |link| link.external_id.as_deref().unwrap_or_default()),
    ("institution_user_id", |link| link.institution_user_id.as_str()),
    ("refresh_rate", |link| link.refresh_rate.map_or("", RefreshRate::into)),
];

impl<'a> LinkFilter<'a> {
    /// Refuses unknown statuses and access modes, and invalid times.
    pub(crate) fn new(params: &'a Params) -> Result<Self, Problem> {
        for (name, known) in [
            ("status", (|word| word.parse::<LinkStatus>().is_ok()) as fn(&str) -> bool),
            ("access_mode", |word| word.parse::<AccessMode>().is_ok()),
        ] {
            for key in [name.to_owned(), format!("{name}__in")] {
                let words = params.get(&key).map(String::as_str).unwrap_or_default().split(',');
                if let Some(word) = words.filter(|word| !word.is_empty()).find(|word| !known(word)) {
                    let message = format!("Select a valid choice. {word} is not one of the available choices.");
                    return Err(Problem::field(&key, "invalid_choice", &message));
                }
            }
        }
        let mut created = Vec::new();
        for (suffix, kind) in [("", "day"), ("__gt", "gt"), ("__gte", "gte"), ("__lt", "lt"), ("__lte", "lte")] {
            let key = format!("created_at{suffix}");
            if let Some(text) = params.get(&key) {
                created.push((kind, moment(&key, text)?));
            }
        }
        if let Some(range) = params.get("created_at__range") {
            let (from, to) = range.split_once(',').unwrap_or((range, range));
            created.push(("gte", moment("created_at__range", from)?));
            created.push(("lte", moment("created_at__range", to)?));
        }
        let given = |name: &str| {
            let one = params.get(name).map(|word| HashSet::from([word.as_str()]));
            one.into_iter().chain(params.get(&format!("{name}__in")).map(|list| list.split(',').collect()))
        };
        let mut words: Vec<(Field, HashSet<&str>)> = Vec::new();
        for (name, field) in FIELDS {
            words.extend(given(name).map(|words| (field, words)));
        }
        let is_ours = |list: &String| list.split(',').any(|by| by == CREATED_BY);
        if params.get("created_by__not_in").is_some_and(is_ours) {
            // All links of this sandbox were created by its only user.
            words.push((|_| "", HashSet::new()));
        }
        let ids = given("id").map(|ids| ids.into_iter().filter_map(|id| id.parse().ok()).collect::<BTreeSet<Uuid>>());
        let ids = ids.reduce(|one, other| &one & &other);
        Ok(Self { ids, words, created })
    }

    /// The matching links. With a filter by id only those links are searched.
    pub(crate) fn select<'w>(&self, links: &'w BTreeMap<Uuid, Link>) -> Vec<&'w Link> {
        match &self.ids {
            Some(ids) => ids.iter().filter_map(|id| links.get(id)).filter(|link| self.matches(link)).collect(),
            None => links.values().filter(|link| self.matches(link)).collect(),
        }
    }

    fn matches(&self, link: &Link) -> bool {
        self.words.iter().all(|(field, words)| words.contains(field(link)))
            && self.created.iter().all(|&(kind, at)| match kind {
                "gt" => link.created_at > at,
                "gte" => link.created_at >= at,
                "lt" => link.created_at < at,
                "lte" => link.created_at <= at,
                _ => link.created_at.div_euclid(DAY_MS) == at.div_euclid(DAY_MS),
            })
    }
}

pub(super) const DAY_MS: i64 = 24 * 3600 * 1000;

/// A time or a day in a filter.
pub(super) fn moment(field: &str, text: &str) -> Result<i64, Problem> {
    let day = format_description!("[year]-[month]-[day]");
    let at = OffsetDateTime::parse(text.trim(), &Rfc3339)
        .or_else(|_| time::Date::parse(text.trim(), &day).map(|day| day.midnight().assume_utc()));
    let at = at.map_err(|_| Problem::field(field, "invalid", "Enter a valid date/time."))?;
    Ok(i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX))
}

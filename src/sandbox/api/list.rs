//! Belvo's lists: pages, absolute `next` links, and the documented filters of links.
//!
//! There is no filter on when a link last changed, because Belvo has none. Unknown filters are ignored, as Belvo's are.

use std::collections::HashMap;

use axum::http::header::HOST;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use crate::sandbox::link::{AccessMode, CREATED_BY, Link, LinkStatus, RefreshRate};
use crate::sandbox::problem::Problem;

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
    if page > 1 && start >= items.len() {
        return Err(Problem::new(404, "not_found", "Invalid page."));
    }
    let end = items.len().min(start.saturating_add(size));
    let results: Vec<Value> = items[start..end].iter().map(|item| select(show(item), params)).collect();
    let next = (end < items.len()).then(|| page_url(uri, headers, page + 1));
    let previous = (page > 1).then(|| page_url(uri, headers, page - 1));
    let body = json!({"count": items.len(), "next": next, "previous": previous, "results": results});
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
    params: &'a Params,
    created: Vec<(&'static str, i64)>,
}

impl<'a> LinkFilter<'a> {
    /// Refuses words that are no status or access mode, and times that are none.
    pub(crate) fn new(params: &'a Params) -> Result<Self, Problem> {
        for (name, known) in [
            ("status", (|word| LinkStatus::from_name(word).is_some()) as fn(&str) -> bool),
            ("access_mode", |word| AccessMode::from_name(word).is_some()),
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
        Ok(Self { params, created })
    }

    /// Whether this link is in the list.
    pub(crate) fn matches(&self, link: &Link) -> bool {
        let id = link.id.to_string();
        let external_id = link.external_id.as_deref().unwrap_or_default();
        let refresh_rate = link.refresh_rate.map(RefreshRate::as_str).unwrap_or_default();
        let one_of = [
            ("id", id.as_str()),
            ("institution", link.institution.name),
            ("access_mode", link.access_mode.as_str()),
            ("status", link.status.as_str()),
            ("external_id", external_id),
            ("institution_user_id", link.institution_user_id.as_str()),
            ("refresh_rate", refresh_rate),
        ];
        one_of.iter().all(|(name, value)| self.allows(name, value))
            && self.params.get("created_by__not_in").is_none_or(|list| !list.split(',').any(|by| by == CREATED_BY))
            && self.created.iter().all(|&(kind, at)| match kind {
                "gt" => link.created_at > at,
                "gte" => link.created_at >= at,
                "lt" => link.created_at < at,
                "lte" => link.created_at <= at,
                _ => link.created_at.div_euclid(DAY_MS) == at.div_euclid(DAY_MS),
            })
    }

    fn allows(&self, name: &str, value: &str) -> bool {
        self.params.get(name).is_none_or(|wanted| wanted == value)
            && self.params.get(&format!("{name}__in")).is_none_or(|list| list.split(',').any(|wanted| wanted == value))
    }
}

const DAY_MS: i64 = 24 * 3600 * 1000;

/// A time or a day in a filter.
fn moment(field: &str, text: &str) -> Result<i64, Problem> {
    let day = format_description!("[year]-[month]-[day]");
    let at = OffsetDateTime::parse(text.trim(), &Rfc3339)
        .or_else(|_| time::Date::parse(text.trim(), &day).map(|day| day.midnight().assume_utc()));
    let at = at.map_err(|_| Problem::field(field, "invalid", "Enter a valid date/time."))?;
    Ok(i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX))
}

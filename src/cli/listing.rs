//! Reads links page by page from the HTTP API, in the order of their ids or sorted.

use std::cmp::Ordering;

use clap::ValueEnum;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::client::RunningRelink;

/// The links on one page of the HTTP API.
const PAGE: usize = 1_000;

/// The field by which links are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Field {
    /// When the outage of a broken link began, and when any other link came into its state
    Since,
    /// When the link last changed
    Updated,
    /// The name of the state
    State,
    /// The name of the institution
    Institution,
    /// The external id
    ExternalId,
}

/// Which links are read.
pub(super) struct Wanted {
    /// Only links whose users were not prompted yet.
    is_held: bool,
    /// The end of the query.
    filters: String,
    /// `None`: in the order of the ids.
    order: Option<Order>,
    limit: usize,
}

/// An order of links. Those that lack the field are the last ones, and those that are equal are in the order of their ids.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub(super) by: Field,
    pub(super) is_reversed: bool,
}

/// The links that were read, and whether there are more.
pub(super) struct Listed {
    pub(super) links: Vec<Value>,
    pub(super) unreadable: Vec<Value>,
    pub(super) has_more: bool,
}

impl Field {
    const fn name(self) -> &'static str {
        match self {
            Self::Since => "since",
            Self::Updated => "updated_at",
            Self::State => "state",
            Self::Institution => "institution",
            Self::ExternalId => "external_id",
        }
    }

    fn of(self, link: &Value) -> &Value {
        match self {
            Self::Since => begun_at(link),
            _ => &link[self.name()],
        }
    }
}

/// When the outage of a broken link began: a failed attempt to repair it begins its state again, and not the outage. Of any other link, when
/// it came into its state.
pub(super) fn begun_at(link: &Value) -> &Value {
    let opened_at = &link["episode"]["opened_at"];
    if opened_at.is_string() { opened_at } else { &link["since"] }
}

impl Order {
    fn compare(self, one: &Value, other: &Value) -> Ordering {
        // Times of relink have one form, in which the order of the texts is that of the times.
        match (self.by.of(one).as_str(), self.by.of(other).as_str()) {
            (Some(one), Some(other)) if self.is_reversed => other.cmp(one),
            (Some(one), Some(other)) => one.cmp(other),
            (one, other) => one.is_none().cmp(&other.is_none()),
        }
    }
}

impl Wanted {
    /// At most `limit` links that match these filters; an absent filter matches all.
    pub(super) fn new<const N: usize>(filters: [(&str, Option<String>); N], limit: usize) -> Self {
        let filters = filters.into_iter();
        let filters = filters
            .filter_map(|(name, value)| Some(format!("&{name}={}", utf8_percent_encode(&value?, NON_ALPHANUMERIC))))
            .collect();
        Self { is_held: false, filters, order: None, limit }
    }

    /// The same in this order. Then all pages are read.
    pub(super) fn sorted(self, order: Option<Order>) -> Self {
        Self { order, ..self }
    }

    /// Of the same links only those whose users were not prompted yet.
    pub(super) fn held(self, is_held: bool) -> Self {
        Self { is_held, ..self }
    }

    /// Whether a page may add something to what was read.
    fn needs_more(&self, count: usize) -> bool {
        self.order.is_some() || count < self.limit
    }

    /// The links to ask for. Few of the links that relink looks at for one page may be held.
    fn page(&self, count: usize) -> usize {
        if self.order.is_some() || self.is_held { PAGE } else { PAGE.min(self.limit.saturating_sub(count)) }
    }
}

/// Reads links page by page. `progress` gets the number of links that were read after each page.
pub(super) async fn read(
    relink: &RunningRelink,
    wanted: &Wanted,
    progress: &mut impl FnMut(usize),
) -> anyhow::Result<Listed> {
    let path = if wanted.is_held { "/v1/prompts/held" } else { "/v1/links" };
    let mut listed = Listed { links: Vec::new(), unreadable: Vec::new(), has_more: false };
    let (mut after, mut has_next, mut read_count) = (String::new(), true, 0);
    while has_next && wanted.needs_more(listed.links.len()) {
        let (limit, filters) = (wanted.page(listed.links.len()), &wanted.filters);
        let mut page = relink.get(&format!("{path}?limit={limit}{filters}{after}")).await?;
        let (Value::Array(links), unreadable) = (page["links"].take(), page["unreadable"].take()) else {
            anyhow::bail!("the answer of relink has no links");
        };
        read_count += links.len();
        progress(read_count);
        listed.take(links, wanted);
        listed.unreadable.extend(unreadable.as_array().cloned().unwrap_or_default());
        let next = page["next"].as_str().map(|next| format!("&after={}", utf8_percent_encode(next, NON_ALPHANUMERIC)));
        // Ends even if the server repeats a page.
        has_next = next.as_ref().is_some_and(|next| *next != after);
        after = next.unwrap_or_default();
    }
    listed.has_more |= has_next;
    Ok(listed)
}

impl Listed {
    /// Adds the links of a page, and keeps only as many as wanted: a sorted list of a million links needs the memory of those it prints.
    fn take(&mut self, links: Vec<Value>, wanted: &Wanted) {
        self.links.extend(links);
        if let Some(order) = wanted.order {
            self.links.sort_by(|one, other| order.compare(one, other));
        }
        self.has_more |= self.links.len() > wanted.limit;
        self.links.truncate(wanted.limit);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pages_are_sorted_into_the_first_links_of_all() {
        let link =
            |id: u32, since: Option<u32>| json!({"link_id": id, "since": since.map(|day| format!("2026-11-{day:02}"))});
        let sorted = |is_reversed: bool, limit: usize| {
            let order = Order { by: Field::Since, is_reversed };
            let wanted = Wanted::new([], limit).sorted(Some(order));
            let mut listed = Listed { links: Vec::new(), unreadable: Vec::new(), has_more: false };
            let pages = [
                [link(1, Some(9)), link(2, None)],
                [link(3, Some(4)), link(4, Some(9))],
                [link(5, Some(1)), link(6, None)],
            ];
            for page in pages {
                listed.take(page.into(), &wanted);
            }
            let ids: Vec<_> = listed.links.iter().map(|link| link["link_id"].as_u64().unwrap()).collect();
            (ids, listed.has_more)
        };
        assert_eq!(sorted(false, 10), (vec![5, 3, 1, 4, 2, 6], false));
        assert_eq!(sorted(true, 10), (vec![1, 4, 3, 5, 2, 6], false), "links without the field stay behind");
        assert_eq!(sorted(false, 2), (vec![5, 3], true));
    }
}

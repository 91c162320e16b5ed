//! Reads links page by page from the HTTP API.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::client::RunningRelink;

/// The links on one page of the HTTP API.
const PAGE: usize = 1_000;

/// The links that were read, and whether there are more.
pub(super) struct Listed {
    pub(super) links: Vec<Value>,
    pub(super) unreadable: Vec<Value>,
    pub(super) has_more: bool,
}

pub(super) fn query_of(filters: [(&str, Option<String>); 3]) -> String {
    let filters = filters.into_iter();
    filters
        .filter_map(|(name, value)| Some(format!("&{name}={}", utf8_percent_encode(&value?, NON_ALPHANUMERIC))))
        .collect()
}

/// Reads links page by page. `filters` is the end of the query; `progress` gets the number of links after each page.
pub(super) async fn read(
    relink: &RunningRelink,
    filters: &str,
    limit: usize,
    progress: &mut impl FnMut(usize),
) -> anyhow::Result<Listed> {
    let mut listed = Listed { links: Vec::new(), unreadable: Vec::new(), has_more: true };
    let mut after = String::new();
    while listed.has_more && listed.links.len() < limit {
        let wanted = PAGE.min(limit - listed.links.len());
        let mut page = relink.get(&format!("/v1/links?limit={wanted}{filters}{after}")).await?;
        let (Value::Array(links), unreadable) = (page["links"].take(), page["unreadable"].take()) else {
            anyhow::bail!("the answer of relink has no links");
        };
        listed.links.extend(links);
        progress(listed.links.len());
        listed.unreadable.extend(unreadable.as_array().cloned().unwrap_or_default());
        let next = page["next"].as_str().map(|next| format!("&after={}", utf8_percent_encode(next, NON_ALPHANUMERIC)));
        // Ends even if the server repeats a page.
        listed.has_more = next.as_ref().is_some_and(|next| *next != after);
        after = next.unwrap_or_default();
    }
    Ok(listed)
}

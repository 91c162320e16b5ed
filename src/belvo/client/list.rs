//! `GET /api/links/`, `GET /api/consents/`: lists, page by page.
//!
//! Belvo has no sort and no "changed since", so a list is asked for by status or by id. It must never send the keys
//! elsewhere: of Belvo's absolute `next` only the query is used, and only if it names the host that was asked. Sources:
//! "API reference: links" (filters, `fields`), "API
//! reference: consents", "Sandbox" (pages of 10 unless `page_size` is given).

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::{Method, StatusCode, Url};
use serde_json::{Map, Value};

use super::answer::Refused;
use super::{Call, CallError, Client};
use crate::belvo::budget::Urgency;
use crate::link::LinkId;

/// Belvo's maximum. A larger one is cut down in silence.
const PAGE_SIZE: usize = 1000;

/// The most of a page that is read: a thousand links of the fields below, ten times over.
const PAGE_BYTES_MAX: usize = 8 << 20;

/// What relink needs of a link. The rest, such as who owns the account, need not travel.
const FIELDS: &str =
    "id,institution,access_mode,status,refresh_rate,last_accessed_at,created_at,external_id,fetch_resources";

/// What relink needs of a consent. The rest names a person, and must not travel.
pub(super) const CONSENT_FIELDS: &str = "id,link_id,status,expired_at,undefined_consent_expiration,belvo_institution_name,institution_display_name,\
     institution_icon_logo";

/// Drops what was not asked for: `fields` may be lost on the way from page to page, or not be known to a call.
pub(super) fn keep(fields: &str, item: &mut Map<String, Value>) {
    item.retain(|field, _| fields.split(',').any(|wanted| wanted == field));
}

const LINKS: &str = "/api/links/";
pub(super) const CONSENTS: &str = "/api/consents/";

/// How many links are asked for by id in one request: the address of the request stays below 2 000 characters.
pub const IDS_MAX: usize = 50;

/// Which links to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkFilter {
    /// All of them.
    All,
    /// Those with a status that needs somebody: `invalid`, `token_required`, `unconfirmed`.
    Broken,
    /// These; at most [`IDS_MAX`], each a UUID.
    Ids(Vec<LinkId>),
}

impl LinkFilter {
    fn query(&self) -> String {
        let page = format!("page_size={PAGE_SIZE}&fields={FIELDS}");
        match self {
            Self::All => page,
            Self::Broken => format!("status__in=invalid,token_required,unconfirmed&{page}"),
            Self::Ids(ids) => {
                let ids: Vec<&str> = ids.iter().map(LinkId::as_str).collect();
                format!("id__in={}&{page}", ids.join(","))
            }
        }
    }
}

/// One page of a list.
#[derive(Clone)]
pub struct ListPage {
    /// The resources, as they came.
    pub items: Vec<Map<String, Value>>,
    /// From when the request left until the answer was there: what they say may be so old.
    pub took: Duration,
}

/// The pages of a list, asked for one after the other.
#[derive(Debug)]
pub struct ListPages<'a> {
    client: &'a Client,
    path: &'static str,
    fields: &'static str,
    urgency: Urgency,
    next: Option<String>,
    asked: BTreeSet<String>,
}

impl Client {
    /// The links that fit, in pages. Nothing is asked before the first [`ListPages::next`].
    pub fn links(&self, filter: &LinkFilter) -> ListPages<'_> {
        self.list(LINKS, FIELDS, Urgency::Background, filter.query())
    }

    /// All consents, in pages (Open Finance Brazil).
    pub fn consents(&self) -> ListPages<'_> {
        let query = format!("page_size={PAGE_SIZE}&fields={CONSENT_FIELDS}");
        self.list(CONSENTS, CONSENT_FIELDS, Urgency::Background, query)
    }

    fn list(&self, path: &'static str, fields: &'static str, urgency: Urgency, query: String) -> ListPages<'_> {
        ListPages { client: self, path, fields, urgency, next: Some(query), asked: BTreeSet::new() }
    }

    /// Whether Belvo knows any link under these keys.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn knows_any_link(&self) -> Result<bool, CallError> {
        let mut pages = self.list(LINKS, FIELDS, Urgency::Now, "page_size=1&fields=id".to_owned());
        Ok(pages.next().await?.is_some_and(|page| !page.items.is_empty()))
    }

    fn next_query(&self, call: &Call<'_>, next: &str) -> Result<String, CallError> {
        let base = Url::parse(&self.base).map_err(|_| call.failed("the address of Belvo is none"))?;
        // By itself relative to the list, should Belvo ever do without the origin.
        let url = base.join(next).map_err(|_| call.failed("`next` is no address"))?;
        let same_place = url.host_str() == base.host_str() && url.path().ends_with(&call.path);
        match url.query() {
            Some(query) if same_place => Ok(query.to_owned()),
            Some(_) | None => Err(call.failed("`next` leads away from Belvo")),
        }
    }
}

impl ListPages<'_> {
    /// The next page; `None` after the last.
    ///
    /// # Errors
    /// [`CallError`]; asking again then asks for the same page.
    pub async fn next(&mut self) -> Result<Option<ListPage>, CallError> {
        let Some(query) = self.next.clone() else { return Ok(None) };
        let call = Call { method: Method::GET, path: self.path.to_owned(), link: None };
        let url = format!("{}{}?{query}", self.client.base, call.path);
        let (answer, took) =
            self.client.ask_at(&call, &url, self.urgency, PAGE_BYTES_MAX, |it| self.client.with_keys(it)).await?;
        if answer.status == StatusCode::NOT_FOUND && !self.asked.is_empty() {
            // "Invalid page.": the list became shorter while it was read.
            self.next = None;
            return Ok(None);
        }
        if !answer.status.is_success() {
            return Err(Refused::of(&call, answer)?.into());
        }
        let Some(results) = answer.body.get("results").and_then(Value::as_array) else {
            return Err(call.failed("the answer is no list"));
        };
        let mut items: Vec<_> = results.iter().filter_map(Value::as_object).cloned().collect();
        items.iter_mut().for_each(|item| keep(self.fields, item));
        let next = answer.body.get("next").and_then(Value::as_str);
        let next = next.map(|next| self.client.next_query(&call, next)).transpose()?;
        self.asked.insert(query);
        if next.as_ref().is_some_and(|next| self.asked.contains(next)) {
            return Err(call.failed("`next` leads in a circle"));
        }
        self.next = next;
        Ok(Some(ListPage { items, took }))
    }
}

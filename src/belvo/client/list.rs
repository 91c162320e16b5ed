//! Lists, page by page: `GET /api/links/` and `GET /api/consents/`.
//!
//! Belvo can neither sort a list nor filter it by time, so links are listed by status, by id or by their users. `next` in a page is an
//! absolute URL; only its query is used, with the configured address, so that the keys are never sent elsewhere. A page
//! or a `next` that occurred before ends the list. Sources: "API reference: links" (filters, `fields`, `page`), "API
//! reference: consents", "Sandbox" (pages of 10 unless `page_size` is given).

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde_json::{Map, Value};

use super::answer::Refused;
use super::{Call, CallError, Client};
use crate::belvo::budget::Urgency;
use crate::link::LinkId;

/// The size of a page: Belvo's maximum. Belvo replaces a larger size by it without an error.
const PAGE_SIZE: usize = 1000;

/// The largest page that is read, in bytes: ten times a thousand links with the fields below.
const PAGE_BYTES_MAX: usize = 8 << 20;

/// The most pages of a list: ten million links.
const PAGES_MAX: usize = 10_000;

/// The longest query of a `next` that is used. The longest query of relink has about 2 000 characters.
const QUERY_LENGTH_MAX: usize = 8_000;

/// The fields of a link that relink needs. Other fields, such as the owner of the account, are not requested.
const FIELDS: &str = "id,institution,institution_user_id,access_mode,status,refresh_rate,last_accessed_at,created_at,external_id,\
     fetch_resources";

/// The fields of a consent that relink needs. Other fields identify a person and must not be requested.
pub(super) const CONSENT_FIELDS: &str = "id,link_id,status,expired_at,undefined_consent_expiration,belvo_institution_name,institution_display_name,\
     institution_icon_logo";

/// Removes fields that were not requested. `next` may lose the parameter `fields`, and some calls do not support it.
pub(super) fn keep(fields: &str, item: &mut Map<String, Value>) {
    item.retain(|field, _| fields.split(',').any(|wanted| wanted == field));
}

const LINKS: &str = "/api/links/";
pub(super) const CONSENTS: &str = "/api/consents/";

/// How many links are listed by id in one request, so that the URL stays below 2 000 characters.
pub const IDS_MAX: usize = 50;

/// The links to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkFilter {
    /// All links.
    All,
    /// Links with the status `invalid`, `token_required` or `unconfirmed`.
    Broken,
    /// The links with these ids; at most [`IDS_MAX`], each a UUID.
    Ids(Vec<LinkId>),
    /// The links of these users: at most [`USER_KEYS_MAX`] values with at most [`USER_KEYS_BYTES_MAX`] bytes, none with a comma.
    Users {
        /// What the values are.
        key: UserKey,
        /// The keys of the users.
        values: Vec<String>,
    },
}

/// A field of a link that names its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UserKey {
    /// Belvo's key of the user at the institution.
    InstitutionUserId,
    /// The customer's own id.
    ExternalId,
}

/// How many users are listed in one request.
pub const USER_KEYS_MAX: usize = 50;

/// The most bytes of their keys. Each byte may become three in the URL.
pub const USER_KEYS_BYTES_MAX: usize = 1_000;

impl LinkFilter {
    pub(super) fn query(&self) -> String {
        let page = format!("page_size={PAGE_SIZE}&fields={FIELDS}");
        match self {
            Self::All => page,
            Self::Broken => format!("status__in=invalid,token_required,unconfirmed&{page}"),
            Self::Ids(ids) => {
                let ids: Vec<&str> = ids.iter().map(LinkId::as_str).collect();
                format!("id__in={}&{page}", ids.join(","))
            }
            Self::Users { key, values } => {
                let field = match key {
                    UserKey::InstitutionUserId => "institution_user_id",
                    UserKey::ExternalId => "external_id",
                };
                let encoded = |value: &String| utf8_percent_encode(value, NON_ALPHANUMERIC).to_string();
                let values: Vec<_> = values.iter().map(encoded).collect();
                format!("{field}__in={}&{page}", values.join(","))
            }
        }
    }
}

/// One page of a list.
#[derive(Clone)]
pub struct ListPage {
    /// The unchanged resources.
    pub items: Vec<Map<String, Value>>,
    /// How many elements were left out because they are not objects.
    pub malformed_count: usize,
    /// The time from sending the request to the complete answer. The resources may be this old.
    pub took: Duration,
}

/// The pages of a list, requested one after the other.
#[derive(Debug)]
pub struct ListPages<'a> {
    client: &'a Client,
    path: &'static str,
    fields: &'static str,
    urgency: Urgency,
    next: Next,
    asked: BTreeSet<String>,
    /// Digests of the earlier pages.
    seen: BTreeSet<u64>,
}

/// Where a list continues.
#[derive(Debug)]
enum Next {
    /// At the page with this query.
    Query(String),
    /// Unknown, because the `next` of the last page cannot be followed.
    Lost,
    /// Nowhere: the list has ended.
    End,
}

impl Client {
    /// The pages of these links. The first request is made by [`ListPages::next`].
    pub fn links(&self, filter: &LinkFilter) -> ListPages<'_> {
        self.list(LINKS, FIELDS, Urgency::Background, filter.query())
    }

    /// The pages of all consents (Open Finance Brazil).
    pub fn consents(&self) -> ListPages<'_> {
        let query = format!("page_size={PAGE_SIZE}&fields={CONSENT_FIELDS}");
        self.list(CONSENTS, CONSENT_FIELDS, Urgency::Background, query)
    }

    fn list(&self, path: &'static str, fields: &'static str, urgency: Urgency, query: String) -> ListPages<'_> {
        let (next, asked, seen) = (Next::Query(query), BTreeSet::new(), BTreeSet::new());
        ListPages { client: self, path, fields, urgency, next, asked, seen }
    }

    /// Whether there is any link under these API keys.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn knows_any_link(&self) -> Result<bool, CallError> {
        let mut pages = self.list(LINKS, FIELDS, self.urgency, "page_size=1&fields=id".to_owned());
        Ok(pages.next().await?.is_some_and(|page| !page.items.is_empty() || page.malformed_count > 0))
    }
}

impl ListPages<'_> {
    /// The next page; `None` after the last.
    ///
    /// # Errors
    /// [`CallError`]. The next call requests the same page again, unless it is skipped.
    pub async fn next(&mut self) -> Result<Option<ListPage>, CallError> {
        let call = Call { method: Method::GET, path: self.path.to_owned(), link: None };
        let query = match &self.next {
            Next::Query(query) => query.clone(),
            Next::Lost => return Err(call.lost()),
            Next::End => return Ok(None),
        };
        let url = format!("{}{}?{query}", self.client.base, call.path);
        let (answer, took) =
            self.client.ask_at(&call, &url, self.urgency, PAGE_BYTES_MAX, |it| self.client.with_keys(it)).await?;
        if answer.says_missing() && !self.asked.is_empty() {
            // "Invalid page.": the list became shorter during the reading.
            self.next = Next::End;
            return Ok(None);
        }
        let (status, retry_after) = (answer.status, answer.retry_after);
        if !status.is_success() {
            return Err(Refused::of(&call, answer)?.into());
        }
        let mut list = answer.object().unwrap_or_default();
        let Some(Value::Array(results)) = list.remove("results") else {
            return Err(call.not_belvos(status, retry_after));
        };
        if !self.seen.insert(digest(&results)) && !self.asked.is_empty() {
            self.end("the page has come before");
            return Ok(None);
        }
        self.asked.insert(query);
        self.go_on(list.get("next"));
        let count = results.len();
        let mut items: Vec<_> = results.into_iter().filter_map(object).collect();
        items.iter_mut().for_each(|item| keep(self.fields, item));
        Ok(Some(ListPage { malformed_count: count - items.len(), items, took }))
    }

    /// Skips the page that could not be read. Returns whether there can be another page; pages are numbered from 1.
    pub fn skip_page(&mut self) -> bool {
        let Next::Query(query) = &self.next else { return false };
        let number = query.split('&').find_map(|pair| pair.strip_prefix("page=")?.parse::<usize>().ok()).unwrap_or(1);
        let others: Vec<_> = query.split('&').filter(|pair| !pair.starts_with("page=")).collect();
        let query = format!("{}&page={}", others.join("&"), number.saturating_add(1));
        // Pages with a cursor have no number, so the next page is not known.
        let has_others = !others.iter().any(|pair| pair.starts_with("cursor=")) && number < PAGES_MAX;
        if has_others {
            self.next = Next::Query(query);
        }
        has_others
    }

    fn go_on(&mut self, next: Option<&Value>) {
        match next {
            None | Some(Value::Null) => self.next = Next::End,
            Some(next) => match next.as_str().and_then(query_of) {
                None => self.next = Next::Lost,
                Some(query) if self.asked.contains(query) => self.end("`next` leads back"),
                Some(_) if self.asked.len() >= PAGES_MAX => self.end("there are too many pages"),
                Some(query) => self.next = Next::Query(query.to_owned()),
            },
        }
    }

    /// Ends a list whose pages repeat.
    fn end(&mut self, why: &str) {
        tracing::warn!(list = self.path, pages_count = self.asked.len(), why, "relink stops reading a list of Belvo");
        self.next = Next::End;
    }
}

impl Call<'_> {
    fn lost(&self) -> CallError {
        let why = format!("{} {}: `next` cannot be followed", self.method, self.path);
        CallError::Transient { why, retry_after: None }
    }
}

/// The query of a URL.
fn query_of(next: &str) -> Option<&str> {
    let (_, query) = next.split('#').next()?.split_once('?')?;
    let is_usable =
        !query.is_empty() && query.len() <= QUERY_LENGTH_MAX && query.bytes().all(|byte| byte.is_ascii_graphic());
    is_usable.then_some(query)
}

fn object(value: Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(object) => Some(object),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => None,
    }
}

fn digest(results: &[Value]) -> u64 {
    let mut hasher = DefaultHasher::new();
    results.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::belvo::body::LinkResource;

    /// Without the `institution_user_id`, a link that only sweeps have read is never superseded.
    #[test]
    fn a_list_has_every_field_that_relink_reads() {
        let link = json!({"id": "x", "institution": "x", "institution_user_id": "x", "access_mode": "recurrent", "status": "valid",
            "refresh_rate": "7d", "last_accessed_at": "2026-01-02T03:04:05Z", "created_at": "2026-01-02T03:04:05Z",
            "external_id": "x", "fetch_resources": ["OWNERS"], "credentials_storage": "5d"});
        let at = "2026-02-02T03:04:05Z".parse().expect("a time");
        let all = link.as_object().expect("an object").clone();
        let mut kept = all;
        keep(FIELDS, &mut kept);
        let LinkResource {
            id,
            status,
            institution,
            institution_user_id,
            created_at,
            access_mode,
            refresh_every,
            last_accessed_at,
            external_id,
            fetch_resources,
        } = LinkResource::parse(&kept, at);
        assert!(id.is_some() && status.is_some() && institution.is_some() && institution_user_id.is_some());
        assert!(created_at.is_some() && last_accessed_at.is_some() && external_id.is_some());
        assert!(access_mode.is_some() && refresh_every.is_some() && !fetch_resources.is_empty());
    }
}

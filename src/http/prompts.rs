//! `GET /v1/prompts`: the links whose users would have to be asked right now. For a first deployment, or for a notifier that has lost
//! messages. `GET /v1/prompts/held`: the links whose users were not prompted yet, for operators.
//!
//! A message about one link also asks about the other links that it mentions, although the prompt of such a link shows as postponed until
//! its own time. So it is on the first list, and not on the second.
//!
//! Two ranges of the index by state have all broken links. A page reads the next links of both, in the order of their ids, and leaves out
//! those that nobody is asked about: so it may have fewer links than its limit, and still not be the last one.

use axum::extract::State;
use axum::{Extension, Json};

use super::connection::ClientGone;
use super::parameters::Query;
use super::problem::Problem;
use super::surroundings::{Down, Surrounded, SurroundingsReader};
use super::{Server, SharedServer};
use crate::contract::{LINKS_ON_PAGE, LinksPage};
use crate::link::{Link, LinkId, StateName};
use crate::store::{self, Store, StoreError};

/// The states of a broken link that nobody is repairing.
const BROKEN: [StateName; 2] = [StateName::Invalid, StateName::TokenRequired];

pub(super) async fn list(
    State(server): State<SharedServer>,
    Extension(client): Extension<ClientGone>,
    query: Query,
) -> Result<Json<LinksPage>, Problem> {
    // While a bank is down, its users can do nothing, unless an operator who knows better has released the prompt.
    let down = server.read_store(Down::read).await?;
    let is_released = |link: &Link| link.state.episode().is_some_and(|episode| episode.is_released);
    let is_up = |link: &Link| down.since(link).is_none() || is_released(link);
    let is_listed = |link: &Link, is_mentioned| (link.is_asked_for() || is_mentioned) && is_up(link);
    page(&server, &client, &query, is_listed).await
}

pub(super) async fn list_held(
    State(server): State<SharedServer>,
    Extension(client): Extension<ClientGone>,
    query: Query,
) -> Result<Json<LinksPage>, Problem> {
    page(&server, &client, &query, |link, is_mentioned| link.held_prompt().is_some() && !is_mentioned).await
}

/// A page of the broken links that `is_listed`, which gets the link, and whether a message about another link has asked about it.
async fn page(
    server: &Server,
    client: &ClientGone,
    query: &Query,
    is_listed: impl Fn(&Link, bool) -> bool,
) -> Result<Json<LinksPage>, Problem> {
    query.only(&["institution", "external_id", "limit", "after"])?;
    let query = store::Query {
        state: None,
        institution: query.filter("institution")?,
        external_id: query.filter("external_id")?,
        institution_user_id: None,
        after: query.parse("after")?,
        limit: query.limit(LINKS_ON_PAGE)?,
    };
    let Broken { links: found, unreadable, next } = server.scan(client, move |store| broken(store, &query)).await?;
    let listed = found.iter().filter(|found| is_listed(&found.link, found.is_mentioned));
    let links = listed.map(|found| found.surrounded.show(server)).collect::<Result<_, _>>()?;
    Ok(Json(LinksPage { links, unreadable, next: next.map(|id| id.to_string()) }))
}

/// A page of broken links, in the order of their ids.
struct Broken {
    links: Vec<BrokenLink>,
    unreadable: Vec<String>,
    next: Option<LinkId>,
}

struct BrokenLink {
    surrounded: Surrounded,
    link: Link,
    /// Whether the prompt is postponed, and a message about another link of the person mentions the link.
    is_mentioned: bool,
}

fn broken(store: &dyn Store, query: &store::Query) -> Result<Broken, StoreError> {
    let (mut links, mut unreadable, mut next) = (Vec::new(), Vec::new(), None);
    for state in BROKEN {
        let page = store.page(&store::Query { state: Some(state), ..query.clone() })?;
        links.extend(page.ids.into_iter().zip(page.links));
        unreadable.extend(page.unreadable.into_iter().map(|entry| entry.key));
        // Behind the end of the shorter page, links of its state are not known yet.
        next = match (next, page.next) {
            (Some(one), Some(other)) => Some(std::cmp::min::<LinkId>(one, other)),
            (one, other) => one.or(other),
        };
    }
    links.sort_by(|(one, _), (other, _)| one.cmp(other));
    if links.len() > query.limit {
        links.truncate(query.limit);
        let last = links.last().map(|(id, _)| id.clone());
        next = match (last, next) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }
    if let Some(end) = &next {
        links.retain(|(id, _)| id <= end);
    }
    let reader = SurroundingsReader::new(store)?;
    let mut found = Vec::new();
    for (id, stored) in links {
        match stored.link() {
            Ok(link) => {
                let surrounded = reader.of(stored)?;
                found.push(BrokenLink { is_mentioned: surrounded.is_mentioned(&link), link, surrounded });
            }
            Err(_unreadable) => unreadable.push(id.to_string()),
        }
    }
    Ok(Broken { links: found, unreadable, next })
}

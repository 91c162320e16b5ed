//! `POST /v1/notices/check`: whom a notice is still about. `contract::NoticeToCheck` has the rules.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Request, State};

use super::problem::{Kind, Problem};
use super::surroundings::SurroundingsReader;
use super::{SharedServer, body};
use crate::belvo::read_json;
use crate::contract::{CheckedNotice, NoticeToCheck};
use crate::link::{LinkId, PERSON_LINKS_MAX};
use crate::store::Store;

pub(super) async fn check(
    State(server): State<SharedServer>,
    request: Request,
) -> Result<Json<CheckedNotice>, Problem> {
    let body = body::read_json(request).await?;
    let value = read_json(&body)?;
    // serde reads a list as the fields of an object in their order.
    let notice = if value.is_object() {
        serde_json::from_value::<NoticeToCheck>(value).map_err(|error| error.to_string())
    } else {
        Err("it is no object".to_owned())
    };
    let notice = notice.map_err(|problem| {
        let detail = "The body must be a notice as relink published it on `link.notice.>`, unchanged";
        Problem::new(Kind::WrongShape, format!("{detail}: {problem}."))
    })?;
    let ids = notice.link_ids();
    if ids.len() > PERSON_LINKS_MAX {
        let detail = format!("A notice is about {PERSON_LINKS_MAX} links at most, and this body has {}.", ids.len());
        return Err(Problem::new(Kind::WrongShape, detail));
    }
    let read = move |store: &dyn Store| {
        let reader = SurroundingsReader::new(store)?;
        let mut found = Vec::new();
        for id in ids {
            let Ok(key) = id.parse::<LinkId>() else { continue };
            let Some(stored) = store.get(&key)? else { continue };
            found.push((id, reader.of(stored)?));
        }
        Ok(found)
    };
    let found = server.read_store(read).await?;
    let links = found.iter().map(|(id, link)| Ok((id.clone(), link.show(&server)?)));
    let links = links.collect::<Result<BTreeMap<_, _>, Problem>>()?;
    Ok(Json(notice.check(&links, server.clock.now(), server.policy.settings().incident_wait)))
}

//! `POST /webhooks/belvo-status`: the endpoint for the webhooks of Belvo's status page.
//!
//! The page is Atlassian's Statuspage: it sends to an address only, without a header of the subscriber's choice. So the secret may be the
//! parameter `secret` of the address. relink logs no address. Without a configured secret the endpoint is off.
//!
//! As for Belvo's webhooks, 2xx is sent only for a webhook that is stored, and an unreadable webhook is dead-lettered before it is refused.

use axum::Json;
use axum::extract::{Request, State};
use tokio::time::timeout;

use super::parameters::Query;
use super::problem::{Kind, Problem};
use super::{SharedServer, auth, ingest};
use crate::contract::{DeadReason, InputKind, Receipt, STATUS_PAGE};
use crate::link::LinkId;

/// The path; also the subject of dead letters that cannot be read.
pub(super) const PATH: &str = "/webhooks/belvo-status";

pub(super) async fn webhook(
    State(server): State<SharedServer>,
    query: Query,
    request: Request,
) -> Result<Json<Receipt>, Problem> {
    let (parts, body) = request.into_parts();
    auth::check_status_webhook(&server.status_keys, &parts.headers, query.text("secret"))?;
    let late = Problem::new(Kind::Unavailable, "The webhook could not be stored in time; send it again.")
        .retry_after_secs(5)
        .log_detail(format!("not stored within {} s", ingest::ANSWER_WITHIN.as_secs()));
    let stored = timeout(ingest::ANSWER_WITHIN, async {
        let body = ingest::read(&server, &parts.headers, PATH, body).await?;
        let (kind, page) = (InputKind::InstitutionStatus, page());
        match server.translate(kind, &page, &body) {
            Ok(_meaning) => server.store_input(kind, &page, body).await,
            Err(error) => {
                let subject = server.subject_of(kind, &page);
                let reason = DeadReason::Malformed;
                Err(ingest::dead_letter(&server, &parts.headers, body, subject, reason, error.into()).await)
            }
        }
    });
    stored.await.unwrap_or(Err(late)).map(Json)
}

/// The last token of the subject.
fn page() -> LinkId {
    STATUS_PAGE.parse().expect("the name of the page is a token")
}

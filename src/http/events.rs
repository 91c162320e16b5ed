//! `GET /v1/events`: the messages about links and institutions as they come, as server-sent events.
//!
//! The id of an event is its sequence in `KV_links`. An answer ends after [`EVENTS_WAIT_MAX`], because a request has a time limit; a client
//! asks again with `Last-Event-ID` and misses nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use strum::VariantArray;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::SharedServer;
use super::auth::Caller;
use super::connection::{ClientGone, Stopping};
use super::parameters::{Query, bad};
use super::problem::{Kind, Problem};
use crate::contract::{EVENTS_WAIT_MAX, EventKind, IncidentChange, JobName, NoticeName, StreamEvent};
use crate::link::LinkId;
use crate::nats::events::{EventReader, EventsError, Selection};

/// How many clients may watch at the same time. Each one reads from NATS on its own.
pub(super) const WATCHERS_MAX: usize = 32;

/// How often to look for new messages.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How many messages are read at a time.
const BATCH: usize = 64;

/// The messages that a client wants.
struct Wanted {
    kinds: Vec<EventKind>,
    types: Vec<String>,
    institution: Option<String>,
}

impl Wanted {
    fn includes(&self, event: &StreamEvent) -> bool {
        let is_type = |name: &String| event.name.as_ref() == Some(name);
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && (self.types.is_empty() || self.types.iter().any(is_type))
            && self.institution.as_ref().is_none_or(|wanted| event.institution.as_ref() == Some(wanted))
    }
}

/// An answer that is being sent.
struct Watch {
    reader: EventReader,
    wanted: Wanted,
    until: Instant,
    stop: CancellationToken,
    gone: CancellationToken,
    caller: Caller,
    is_first: bool,
    _slot: OwnedSemaphorePermit,
}

pub(super) async fn watch(
    State(server): State<SharedServer>,
    Extension(Stopping(stop)): Extension<Stopping>,
    Extension(ClientGone(gone)): Extension<ClientGone>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    query: Query,
) -> Result<Response, Problem> {
    query.only(&["after", "link", "institution", "kind", "type", "wait"])?;
    let list = |name: &str| query.text(name).into_iter().flat_map(|text| text.split(',')).map(str::trim);
    let kinds = list("kind").map(|kind| kind.parse::<EventKind>());
    let kinds = kinds.collect::<Result<Vec<_>, _>>();
    let kinds = kinds.map_err(|_| {
        bad("kind", "must be one or more of `state`, `notice`, `observed`, `job`, `refused` and `incident`")
    })?;
    let types = list("type").map(known_type).collect::<Result<_, _>>()?;
    let wanted = Wanted { kinds, types, institution: query.filter("institution")? };
    let wait = match query.number("wait")?.unwrap_or(EVENTS_WAIT_MAX) {
        wait @ 0..=EVENTS_WAIT_MAX => wait,
        _ => return Err(bad("wait", &format!("must be at most {EVENTS_WAIT_MAX}"))),
    };
    // A browser that connects again says what it has, whatever the address says.
    let last = headers.get("last-event-id").map(|id| id.to_str().unwrap_or_default().parse::<u64>()).transpose();
    let last = last.map_err(|_| bad("Last-Event-ID", "must be the id of an event"))?;
    let after = last.or(query.number("after")?);
    query.filter("link")?;
    let link = query.parse::<LinkId>("link")?;
    let slot = server.event_slots.clone().try_acquire_owned();
    let slot = slot.map_err(|_| {
        Problem::new(Kind::Busy, format!("{WATCHERS_MAX} clients watch already; try again.")).retry_after_secs(10)
    })?;
    // An answer that does not wait has no place to keep, so it reads only what is wanted. For a client that waits, each message moves its
    // place.
    let (kinds, types) = match wait {
        0 if !wanted.kinds.is_empty() => (&*wanted.kinds, &*wanted.types),
        _ => (EventKind::VARIANTS, &[][..]),
    };
    let reader = server.events.reader(after, Selection { link: link.as_ref(), kinds, types }).await?;
    let until = Instant::now() + Duration::from_secs(wait);
    let watch = Watch { reader, wanted, until, stop, gone, caller, is_first: true, _slot: slot };
    let mut response =
        Sse::new(events(watch)).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response();
    // Proxies such as nginx keep back an answer that they may buffer.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// A type of notice or job, or what can change at an institution. An unknown one would match no message for ever.
fn known_type(text: &str) -> Result<String, Problem> {
    let notices = NoticeName::VARIANTS.iter().map(|name| name.as_str());
    let jobs = JobName::VARIANTS.iter().map(|name| name.as_str());
    let changes = IncidentChange::VARIANTS.iter().map(|name| name.as_str());
    // A notice and a change may have the same name.
    let known: BTreeSet<_> = notices.chain(jobs).chain(changes).collect();
    if known.contains(text) {
        return Ok(text.to_owned());
    }
    Err(bad("type", &format!("must be one or more of `{}`", known.into_iter().collect::<Vec<_>>().join("`, `"))))
}

/// The events of an answer. If NATS cannot be read, the answer breaks off: an answer that ends would say that there is no more.
fn events(watch: Watch) -> impl Stream<Item = Result<Event, EventsError>> + Send + use<> {
    let batches = stream::unfold(Some(watch), |watch| async move {
        let mut watch = watch?;
        loop {
            if !watch.is_first {
                let next = Instant::now() + LOOK_EVERY;
                if next > watch.until {
                    return None;
                }
                tokio::select! {
                    () = watch.stop.cancelled() => return None,
                    // It has got what was there. A client that only closed its sending side does not wait for more either.
                    () = watch.gone.cancelled() => return None,
                    () = sleep_until(next) => {}
                }
            }
            watch.is_first = false;
            match watch.reader.next(BATCH).await {
                Ok(read) if read.is_empty() => {}
                Ok(read) => {
                    // There may be more.
                    watch.is_first = read.len() == BATCH && !watch.stop.is_cancelled();
                    // An event without data moves the `Last-Event-ID` of the client, and is not shown.
                    let reached = read.last().map(|last| Event::default().id(last.sequence.to_string()));
                    let wanted = read.into_iter().filter(|event| watch.wanted.includes(event));
                    let events = wanted.map(|event| server_sent(event, &watch.caller));
                    let events: Vec<_> = events.chain(reached).map(Ok).collect();
                    return Some((stream::iter(events), Some(watch)));
                }
                // The client asks again, with the id of the last event.
                Err(error) => {
                    tracing::debug!(%error, "a stream of events breaks off");
                    return Some((stream::iter(vec![Err(error)]), None));
                }
            }
        }
    });
    batches.flatten()
}

fn server_sent(mut event: StreamEvent, caller: &Caller) -> Event {
    caller.hide_repair_links(&mut event.body);
    let text = serde_json::to_string(&event).unwrap_or_default();
    Event::default().id(event.sequence.to_string()).data(text)
}

impl From<EventsError> for Problem {
    fn from(error: EventsError) -> Self {
        match &error {
            EventsError::Read(_) => {
                Self::new(Kind::Unavailable, "The messages could not be read from NATS; try again.")
                    .retry_after_secs(1)
                    .log_detail(error)
            }
            EventsError::BehindTheEnd { after, last } => bad(
                "after",
                &format!(
                    "{after} is behind the end of `KV_links`, whose last sequence is {last}. Leave it out to begin now, or begin with 0; \
                     if the number was right before, the stream has been replaced or restored"
                ),
            ),
        }
    }
}

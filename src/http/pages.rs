//! The repair page: `/repair/{token}`. It needs no credentials; the signed token in the address is one.
//!
//! ```text
//!   GET  /repair/{token}                            the page; changes nothing, and mints nothing
//!   POST /repair/{token}                            the button: mints a widget token and opens the widget   (start)
//!   POST /repair/{token}/check                      reads the link at Belvo; publishes a repair, or that    (start)
//!                                                   the user waits because the institution is down
//!   GET  /repair/{token}/state                      what the page shows, as JSON
//!   GET  /repair/callback/{locale}/{event}/{token}  the widget returns: success, exit or event              (callback)
//!   GET  /repair/logo                               the logo
//! ```
//!
//! A wrong address gets a page that helps, and never a problem that quotes it: the address is as good as a password.
//! Nothing that the user enters is stored or logged. Next: `repair` decides what the page shows, and has its texts.

mod bank_names;
mod callback;
mod rate;
mod start;

use std::time::Duration;

use axum::extract::{FromRequestParts, Path, RawPathParams, State};
use axum::http::header::{
    ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY,
    RETRY_AFTER, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use self::bank_names::{Bank, BankNames};
use self::rate::Rate;
use super::problem::{LoggedProblem, Problem};
use super::surroundings::Down;
use super::{Server, SharedServer};
use crate::clock::Clock;
use crate::config::{Config, WidgetPlace};
use crate::link::{Link, LinkId, Policy, Prompt};
use crate::repair::{Claims, Locale, Look, Mistakes, Page, Purpose, RepairLinks, Shown, Trouble, View};
use crate::store::{Store, StoreError};
use crate::trace;

/// The path of all pages.
pub(super) const PATH: &str = "/repair";

/// How often the page looks whether an input has changed the link.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How many links, each of which supersedes the one before, are looked up.
const SUCCESSORS_MAX: usize = 8;

/// How many tokens, and how many callbacks, relink takes for one link in this time.
const ATTEMPTS_MAX: u32 = 12;
const ATTEMPTS_WINDOW: Duration = Duration::from_secs(600);

/// How often an open page may make relink read its link at Belvo.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// What the pages of this installation need.
pub(super) struct Pages {
    links: RepairLinks,
    look: Look,
    widget: WidgetPlace,
    script_url: String,
    policy: Policy,
    banks: BankNames,
    mints: Rate,
    callbacks: Rate,
    checks: Rate,
    waits: Rate,
}

impl Pages {
    /// `None` if they are switched off.
    pub(super) fn of(config: &Config, clock: &Clock) -> Option<Self> {
        let repair = config.repair.as_ref()?;
        let logo_url = format!("{}{PATH}/logo", repair.links.base_url());
        let rate = |max, window| Rate::new(max, window, clock.clone());
        let look = Look::new(repair.brand.clone(), logo_url, &[&config.belvo.widget_url, &config.belvo.portal_url]);
        Some(Self {
            links: repair.links.clone(),
            look,
            widget: repair.widget,
            script_url: repair.script_url.clone(),
            policy: config.policy.clone(),
            banks: BankNames::new(clock.clone()),
            mints: rate(ATTEMPTS_MAX, ATTEMPTS_WINDOW),
            callbacks: rate(ATTEMPTS_MAX, ATTEMPTS_WINDOW),
            checks: rate(1, CHECK_EVERY),
            waits: rate(1, CHECK_EVERY),
        })
    }
}

/// The routes below [`PATH`].
pub(super) fn routes() -> Router<SharedServer> {
    Router::new()
        .route("/", any(wrong_address))
        .route("/logo", get(logo))
        .route("/callback/{locale}/{event}/{token}", get(callback::take).fallback(wrong_method_of_callback))
        .route("/{token}", get(show).post(start::start).fallback(wrong_method))
        .route("/{token}/state", get(state).fallback(wrong_method))
        .route("/{token}/check", post(start::check).fallback(wrong_method))
        .fallback(wrong_address)
}

/// The parts of a request that decide how the page looks. They are never refused.
pub(super) struct Visit {
    /// The `{token}` of the path; empty if there is none.
    token: String,
    /// The `locale` of the query.
    locale: Option<String>,
    accept_language: Option<String>,
    /// Whether the user has seen the attempt.
    is_return: bool,
    /// Whether to open the hosted widget in any case.
    is_hosted: bool,
}

impl FromRequestParts<SharedServer> for Visit {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, server: &SharedServer) -> Result<Self, Self::Rejection> {
        let path = RawPathParams::from_request_parts(parts, server).await.ok();
        let token = path.iter().flatten().find(|(name, _)| *name == "token").map(|(_, token)| token.to_owned());
        let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        let query = query.map(|query| query.0).unwrap_or_default();
        let value = |name: &str| query.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone());
        let accept_language = parts.headers.get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
        Ok(Self {
            token: token.unwrap_or_default(),
            locale: value("locale"),
            accept_language: accept_language.map(str::to_owned),
            is_return: value("done").is_some(),
            is_hosted: value("hosted").is_some(),
        })
    }
}

/// A link behind a signed address.
struct Opened {
    claims: Claims,
    link: Option<Link>,
    view: View,
    trouble: Option<Trouble>,
}

impl Opened {
    fn institution(&self) -> Option<&str> {
        self.link.as_ref()?.profile.institution.as_deref()
    }
}

async fn show(State(server): State<SharedServer>, visit: Visit) -> Response {
    let Some(pages) = &server.pages else { return switched_off() };
    match open(&server, pages, &visit).await {
        Ok(opened) => draw(&server, pages, &visit, opened.as_ref()).await,
        Err(problem) => not_now(pages, &visit, problem),
    }
}

async fn state(State(server): State<SharedServer>, visit: Visit) -> Response {
    let Some(pages) = &server.pages else { return switched_off() };
    match open(&server, pages, &visit).await {
        Ok(opened) => state_as_json(opened.as_ref()),
        Err(problem) => problem.into_response(),
    }
}

/// What the page shows now. An open page loads itself again when it differs.
fn state_as_json(opened: Option<&Opened>) -> Response {
    let view = opened.map_or(View::Unknown, |opened| opened.view);
    let mut body = json!({"view": view.as_str()});
    if let Some(trouble) = opened.and_then(|opened| opened.trouble) {
        body["trouble"] = trouble.as_str().into();
    }
    let body: Json<Value> = Json(body);
    ([(CACHE_CONTROL, "no-store"), (REFERRER_POLICY, "no-referrer")], body).into_response()
}

/// The logo. An SVG file may have scripts, so they are forbidden.
async fn logo(State(server): State<SharedServer>) -> Response {
    let logo = server.pages.as_ref().and_then(|pages| pages.look.brand().logo.as_ref());
    let Some(logo) = logo else { return switched_off() };
    let headers = [
        (CONTENT_TYPE, logo.media_type),
        (CACHE_CONTROL, "public, max-age=3600"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; sandbox"),
    ];
    (headers, logo.bytes.clone()).into_response()
}

async fn wrong_method(server: State<SharedServer>, visit: Visit) -> Response {
    refuse_method(Purpose::Page, server, visit).await
}

async fn wrong_method_of_callback(
    server: State<SharedServer>,
    Path((_locale, event, _token)): Path<(String, String, String)>,
    visit: Visit,
) -> Response {
    if callback::is_event(&event) {
        refuse_method(Purpose::Callback, server, visit).await
    } else {
        wrong_address(server, visit).await
    }
}

/// A method that the address does not have. An address that relink did not sign does not exist, with any method.
async fn refuse_method(purpose: Purpose, State(server): State<SharedServer>, visit: Visit) -> Response {
    let Some(pages) = &server.pages else { return switched_off() };
    let mut response = draw(&server, pages, &visit, None).await;
    if pages.links.verify(purpose, &visit.token).is_ok() {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    }
    response
}

/// A path that the page does not have: most likely the address was cut or changed.
pub(super) async fn wrong_address(State(server): State<SharedServer>, visit: Visit) -> Response {
    let Some(pages) = &server.pages else { return switched_off() };
    draw(&server, pages, &visit, None).await
}

/// The answer without the setting: it quotes no address.
fn switched_off() -> Response {
    Problem::new(super::Kind::NotFound, "There is no such page. The repair page needs RELINK_REPAIR_BASE_URL.")
        .into_response()
}

/// The link behind an address; `None` if relink did not sign the address.
async fn open(server: &Server, pages: &Pages, visit: &Visit) -> Result<Option<Opened>, Problem> {
    let Ok(claims) = pages.links.verify(Purpose::Page, &visit.token) else { return Ok(None) };
    let mut opened = look_up(server, claims).await?;
    if visit.is_return {
        let waits = server.journal.waiting().since.map(|since| server.clock.now().since(since)).unwrap_or_default();
        opened.view = opened.view.after_return(waits);
    }
    Ok(Some(opened))
}

/// The link of these claims.
async fn look_up(server: &Server, claims: Claims) -> Result<Opened, Problem> {
    let id = claims.link.clone();
    let read = server.read_store(move |store| {
        let stored = store.get(&id)?;
        let (link, began) = stored.map(|stored| stored.link_and_trace()).transpose()?.unzip();
        let successor = link.as_ref().map(|link| last_successor(store, link)).transpose()?.flatten();
        let down = Down::read(store)?;
        let down_since = link.as_ref().and_then(|link| down.since(link));
        Ok((link, began.flatten(), down_since.is_some(), successor))
    });
    let (link, began, has_incident, successor) = read.await?;
    trace::note("relink.link.id", || claims.link.to_string());
    // The visit is hours after the outage began, so it is a trace of its own.
    began.iter().for_each(trace::link_to);
    let view = View::of(&claims, link.as_ref(), successor.as_ref(), server.clock.now());
    let episode = link.as_ref().and_then(|link| link.state.episode());
    let is_down = has_incident || episode.is_some_and(|episode| matches!(episode.prompt, Prompt::Deferred { .. }));
    let announced = link.as_ref().and_then(|link| link.institution_outage);
    let is_promised = announced.is_some_and(|outage| outage.check_at.is_some());
    let trouble = if is_promised { Trouble::BankDownAndPromised } else { Trouble::BankDown };
    let trouble = Some(trouble).filter(|_| is_down && view.may_start());
    Ok(Opened { claims, link, view, trouble })
}

/// The link that supersedes this one, or that supersedes its successor, and so on: the newest one that the store has.
fn last_successor(store: &dyn Store, link: &Link) -> Result<Option<Link>, StoreError> {
    let mut last: Option<Link> = None;
    for _ in 0..SUCCESSORS_MAX {
        let superseded_by =
            last.as_ref().unwrap_or(link).state.episode().and_then(|episode| episode.superseded_by.as_ref());
        let Some(stored) = superseded_by.map(|id| store.get(id)).transpose()?.flatten() else { break };
        last = Some(stored.link()?);
    }
    Ok(last)
}

/// Waits until the link has changed as `is_it` asks, or the time is over.
async fn wait_for(server: &Server, link: &LinkId, limit: Duration, is_it: impl Fn(&Link) -> bool) -> bool {
    let has_changed = async {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            looks.tick().await;
            if server.link(link).await.ok().flatten().is_some_and(|link| is_it(&link)) {
                return;
            }
        }
    };
    tokio::time::timeout(limit, has_changed).await.is_ok()
}

fn locale_of(visit: &Visit, institution: Option<&str>) -> Locale {
    Locale::choose(visit.locale.as_deref(), visit.accept_language.as_deref(), institution)
}

/// The page for a link; for `None` the page for an address that relink did not sign.
async fn draw(server: &Server, pages: &Pages, visit: &Visit, opened: Option<&Opened>) -> Response {
    let view = opened.map_or(View::Unknown, |opened| opened.view);
    draw_as(server, pages, visit, opened, Shown::View(view), false).await
}

async fn draw_as(
    server: &Server,
    pages: &Pages,
    visit: &Visit,
    opened: Option<&Opened>,
    shown: Shown<'_>,
    cannot_start: bool,
) -> Response {
    // An old address, which others may have found, does not name the bank.
    let has_ended = matches!(shown, Shown::View(View::Expired | View::Replaced | View::Unknown));
    let link = opened.and_then(|opened| opened.link.as_ref()).filter(|_| !has_ended);
    let bank = match link {
        Some(link) => pages.banks.of(server.belvo.as_ref(), link).await,
        None => Bank::default(),
    };
    let locale = locale_of(visit, opened.and_then(Opened::institution).or(bank.code.as_deref()));
    let token = opened.map(|_| visit.token.as_str());
    let trouble = opened.and_then(|opened| opened.trouble);
    let bank = bank.name.as_deref();
    let page = Page { locale, bank, shown, token, is_return: visit.is_return, trouble, cannot_start };
    let status = match (shown, cannot_start) {
        (Shown::View(View::Unknown), _) => StatusCode::NOT_FOUND,
        (Shown::View(View::Expired | View::Replaced | View::Removed), _) => StatusCode::GONE,
        (Shown::Form(_, mistakes), _) if mistakes != Mistakes::default() => StatusCode::UNPROCESSABLE_ENTITY,
        (_, true) => StatusCode::BAD_GATEWAY,
        (_, false) => StatusCode::OK,
    };
    respond(&pages.look, status, &page)
}

fn respond(look: &Look, status: StatusCode, page: &Page<'_>) -> Response {
    let mut headers = HeaderMap::new();
    let fixed = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("x-robots-tag"), "noindex, nofollow"),
        (CONTENT_LANGUAGE, page.locale.as_str()),
    ];
    headers.extend(fixed.map(|(name, value)| (name, HeaderValue::from_static(value))));
    match HeaderValue::try_from(look.policy(&page.shown)) {
        Ok(policy) => drop(headers.insert(CONTENT_SECURITY_POLICY, policy)),
        Err(error) => return Problem::internal(error).into_response(),
    }
    (status, headers, look.render(page)).into_response()
}

/// The page for a problem of relink. The log gets the problem.
fn not_now(pages: &Pages, visit: &Visit, problem: Problem) -> Response {
    let problem = problem.into_response();
    let page = Page {
        locale: locale_of(visit, None),
        bank: None,
        shown: Shown::NotNow,
        token: None,
        is_return: visit.is_return,
        trouble: None,
        cannot_start: false,
    };
    let mut response = respond(&pages.look, problem.status(), &page);
    log_as(&mut response, &problem);
    response
}

/// Logs a problem although the user gets a page.
fn log_as(response: &mut Response, problem: &Response) {
    if let Some(logged) = problem.extensions().get::<LoggedProblem>() {
        response.extensions_mut().insert(logged.clone());
    }
    if let Some(wait) = problem.headers().get(RETRY_AFTER) {
        response.headers_mut().insert(RETRY_AFTER, wait.clone());
    }
}

/// Leads the browser to an address, which it gets by GET. The address of the page is not sent there.
fn see_other(url: &str) -> Response {
    match HeaderValue::from_str(url) {
        Ok(url) => {
            let fixed = [CACHE_CONTROL, REFERRER_POLICY].into_iter().zip(["no-store", "no-referrer"]);
            let headers: HeaderMap =
                fixed.map(|(name, value)| (name, HeaderValue::from_static(value))).chain([(LOCATION, url)]).collect();
            (StatusCode::SEE_OTHER, headers).into_response()
        }
        Err(error) => Problem::internal(error).into_response(),
    }
}

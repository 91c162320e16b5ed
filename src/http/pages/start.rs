//! The button of the page: `POST /repair/{token}`. Before the widget opens, relink asks Belvo whether the link works
//! again already.
//!
//! An update-mode token has Belvo's status of the link in it, which saves a call. If the status is `valid`, or if the
//! token does not have it, the link is read. The observation is published only if the machine would end the episode by
//! it; then the page says that nothing is left to do. If Belvo does not have the link, relink is asked to read it.
//! `POST /repair/{token}/check` does the same without a token: an open page sends it once, so a link that works again
//! needs no click. While the institution is down, it publishes that the user waits.

use std::time::Duration;

use axum::Form;
use axum::extract::State;
use axum::extract::rejection::FormRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use reqwest::Url;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::super::auth::Caller;
use super::super::problem::Problem;
use super::super::repair::{not_minted, publish_started, refused};
use super::super::{Server, SharedServer, renewal};
use super::{
    Opened, Pages, View, Visit, callback, draw, draw_as, locale_of, log_as, look_up, not_now, open, see_other,
    state_as_json, switched_off, wait_for,
};
use crate::belvo::{CallError, Client, LinkRead, Meaning, WidgetToken, translate};
use crate::clock::Clock;
use crate::config::WidgetPlace;
use crate::contract::{At, Command, CommandName, InputKind, Observation, ReadOutcome, Source, Widget};
use crate::link::{InstitutionNotices, Link, State as LinkState, StateName, UpdatePhase, step};
use crate::repair::{Locale, Mistakes, Need, Person, Shown, Trouble, WidgetOnPage};

/// How long the user waits for Belvo's token.
const MINT_MAX: Duration = Duration::from_secs(12);

/// How long the user waits for the question whether the link works again.
const READ_MAX: Duration = Duration::from_secs(4);

/// How long the page waits until the machine has ended the episode.
const HEAL_MAX: Duration = Duration::from_secs(2);

/// The permissions of a consent in Belvo's guide "My Belvo Portal".
const PERMISSIONS: [&str; 4] = ["REGISTER", "ACCOUNTS", "CREDIT_CARDS", "CREDIT_OPERATIONS"];

/// The entries of the form. A page without a form sends none of them; its button asks for the form.
#[derive(Deserialize, Default)]
pub(super) struct Entries {
    name: Option<String>,
    document: Option<String>,
}

pub(super) async fn start(
    State(server): State<SharedServer>,
    visit: Visit,
    form: Result<Form<Entries>, FormRejection>,
) -> Response {
    let Some(pages) = &server.pages else { return switched_off() };
    let opened = match open(&server, pages, &visit).await {
        Ok(opened) => opened,
        Err(problem) => return not_now(pages, &visit, problem),
    };
    let may_start = opened.as_ref().filter(|opened| opened.view.may_start());
    let Some((opened, link)) = may_start.and_then(|opened| Some((opened, opened.link.as_ref()?))) else {
        return draw(&server, pages, &visit, opened.as_ref()).await;
    };
    let is_readable = form.is_ok();
    let Entries { name, document } = form.map(|form| form.0).unwrap_or_default();
    let has_no_form = is_readable && name.is_none() && document.is_none();
    let entries = Person { name: name.unwrap_or_default(), document: document.unwrap_or_default() };
    let person = match link.profile.consent.as_ref().map(|_| entries.check()).transpose() {
        Ok(person) => person,
        Err(mistakes) => {
            let mistakes = if has_no_form { Mistakes::default() } else { mistakes };
            return draw_as(&server, pages, &visit, Some(opened), Shown::Form(&entries, mistakes), false).await;
        }
    };
    let cannot_start = || draw_as(&server, pages, &visit, Some(opened), Shown::View(opened.view), true);
    // The page has an address in `link.observed` only, or is open since before.
    let Some(belvo) = server.belvo.as_ref().filter(|_| !server.observe).map(Client::for_people) else {
        return cannot_start().await;
    };
    if !pages.mints.allows(&link.id) {
        let mut page = cannot_start().await;
        *page.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        return page;
    }
    let locale = locale_of(&visit, opened.institution());
    let callbacks = callback::addresses(&pages.links, &opened.claims, attempt_of(link), locale);
    let token = match mint(&server, pages, &belvo, link, &callbacks, person).await {
        Ok(token) => token,
        Err(problem) => {
            // Belvo mints no token for a link that was deleted there.
            if is_settled(&server, pages, &belvo, opened, link, None).await {
                return draw_anew(&server, pages, &visit, opened).await;
            }
            let mut page = cannot_start().await;
            log_as(&mut page, &problem);
            return page;
        }
    };
    if is_settled(&server, pages, &belvo, opened, link, token.link_status.as_deref()).await {
        return draw_anew(&server, pages, &visit, opened).await;
    }
    if let Err(problem) = publish_started(&server, &link.id, &token, &Caller::default()).await {
        return not_now(pages, &visit, problem);
    }
    match (link.profile.consent.is_some(), pages.widget) {
        (false, WidgetPlace::Page) if !visit.is_hosted => {
            let token = token.access.expose_secret().to_owned();
            let widget = WidgetOnPage { token, callbacks, script_url: pages.script_url.clone() };
            draw_as(&server, pages, &visit, Some(opened), Shown::Widget(&widget), false).await
        }
        (has_consent, _) => match widget_address(&server, link, &token, has_consent, locale) {
            Ok(url) => see_other(url.as_str()),
            Err(problem) => problem.into_response(),
        },
    }
}

/// The number of the attempt that a token begins: it belongs to an attempt that is open already.
fn attempt_of(link: &Link) -> u32 {
    let is_open = matches!(link.state, LinkState::Updating { phase: UpdatePhase::WithUser { .. }, .. });
    link.state.episode().map_or(1, |episode| episode.attempts_count + u32::from(!is_open))
}

/// Draws the page of the link as it is now.
async fn draw_anew(server: &Server, pages: &Pages, visit: &Visit, opened: &Opened) -> Response {
    match look_up(server, opened.claims.clone()).await {
        Ok(changed) => draw(server, pages, visit, Some(&changed)).await,
        Err(problem) => not_now(pages, visit, problem),
    }
}

pub(super) async fn check(State(server): State<SharedServer>, visit: Visit) -> Response {
    let Some(pages) = &server.pages else { return switched_off() };
    let mut opened = match open(&server, pages, &visit).await {
        Ok(Some(opened)) => opened,
        Ok(None) => return state_as_json(None),
        Err(problem) => return problem.into_response(),
    };
    let is_broken = matches!(opened.view, View::NeedsYou(need) if need != Need::Nothing);
    let Some(link) = opened.link.as_ref().filter(|_| is_broken) else { return state_as_json(Some(&opened)) };
    let is_over_at_belvo = async || match &server.belvo {
        // A page can be open without a person at it, so this counts as a job.
        Some(belvo) => pages.checks.allows(&link.id) && is_settled(&server, pages, belvo, &opened, link, None).await,
        None => false,
    };
    let has_changed = is_over_at_belvo().await
        || (opened.trouble == Some(Trouble::BankDown) && notes_waiting(&server, pages, link).await);
    if has_changed {
        match look_up(&server, opened.claims.clone()).await {
            Ok(changed) => opened = changed,
            Err(problem) => return problem.into_response(),
        }
    }
    state_as_json(Some(&opened))
}

/// Publishes that the user waits because the institution is down, and waits until the machine has noted it. Returns whether it has.
async fn notes_waiting(server: &Server, pages: &Pages, link: &Link) -> bool {
    if pages.policy.settings().institution_notices == InstitutionNotices::Off || !pages.waits.allows(&link.id) {
        return false;
    }
    let body = serde_json::to_vec(&Widget::Waiting {}).expect("a widget event has string keys");
    if let Err(problem) = server.store_input(InputKind::Widget, &link.id, Bytes::from(body)).await {
        tracing::warn!(link.id = %link.id, "that a user waits could not be stored as an input: {}", problem.detail());
        return false;
    }
    wait_for(server, &link.id, HEAL_MAX, |link| link.institution_outage.is_some()).await
}

/// Mints the token. The error is a response, of which only the log and `Retry-After` are used.
async fn mint(
    server: &Server,
    pages: &Pages,
    belvo: &Client,
    link: &Link,
    callbacks: &[String; 3],
    person: Option<(String, &'static str, String)>,
) -> Result<WidgetToken, Response> {
    let widget = widget_object(pages, callbacks, person.as_ref());
    let minted = timeout(MINT_MAX, async {
        match &person {
            Some(_) => belvo.renewal_token(&link.id, widget).await,
            None => belvo.update_token(&link.id, Some(widget)).await,
        }
    });
    let late = || CallError::Transient { why: "Belvo minted no token in time".to_owned(), retry_after: None };
    match minted.await.unwrap_or_else(|_| Err(late())) {
        Ok(token) => Ok(token),
        // Belvo's error may quote the user's name and document number, so it is not published.
        Err(error) if person.is_some() => Err(not_minted(&error).into_response()),
        Err(error) => Err(refused(server, &link.id, error, &Caller::default()).await.into_response()),
    }
}

/// Belvo's `widget` object: the brand, the addresses of the callbacks, and the user of a consent.
fn widget_object(
    pages: &Pages,
    [success, exit, event]: &[String; 3],
    person: Option<&(String, &'static str, String)>,
) -> Map<String, Value> {
    let brand = pages.look.brand();
    let mut branding = Map::new();
    let mut add = |name: &str, value: Option<String>| {
        branding.extend(value.map(|value| (name.to_owned(), Value::from(value))));
    };
    add("company_name", brand.name.clone());
    add("company_logo", brand.logo.as_ref().map(|_| format!("{}{}/logo", pages.links.base_url(), super::PATH)));
    add("company_terms_url", brand.terms_url.clone());
    let mut widget = Map::new();
    widget.insert("callback_urls".to_owned(), json!({"success": success, "exit": exit, "event": event}));
    if !branding.is_empty() {
        widget.insert("branding".to_owned(), branding.into());
    }
    if let Some((name, kind, number)) = person {
        let mut consent = json!({
            "permissions": PERMISSIONS,
            "identification_info": [{"type": kind, "number": number, "name": name}],
        });
        if let Some(terms) = &brand.terms_url {
            consent["terms_and_conditions_url"] = terms.as_str().into();
        }
        widget.insert("consent".to_owned(), consent);
    }
    widget
}

fn widget_address(
    server: &Server,
    link: &Link,
    token: &WidgetToken,
    has_consent: bool,
    locale: Locale,
) -> Result<Url, Problem> {
    if has_consent {
        return renewal::address(&server.portal_url, link, token);
    }
    let mut url = Url::parse(&server.widget_url).map_err(Problem::internal)?;
    url.query_pairs_mut()
        .append_pair("access_token", token.access.expose_secret())
        .append_pair("locale", locale.as_str());
    Ok(url)
}

/// Whether Belvo says that the link works again or was deleted, and the episode is over by that. `status` is what is known already.
async fn is_settled(
    server: &Server,
    pages: &Pages,
    belvo: &Client,
    opened: &Opened,
    link: &Link,
    status: Option<&str>,
) -> bool {
    if status.is_some_and(|status| status != "valid") {
        return false;
    }
    let observations = match timeout(READ_MAX, read(belvo, &server.clock, link)).await {
        Ok(Said::Works(observations)) => observations,
        Ok(Said::Missing) => return is_removed(server, link).await,
        Ok(Said::Nothing) | Err(_) => return false,
    };
    // The machine is asked before anything is published: what does not end the episode is not worth an input.
    let mut observed = link.clone();
    let now = server.clock.now();
    for body in &observations {
        let Ok(Meaning::Event(input)) = translate(InputKind::Observation, &link.id, body, now) else { return false };
        if let Ok(step) = step(&observed, &input, now, &pages.policy) {
            observed = step.link;
        }
    }
    if observed.state.episode().is_some() {
        return false;
    }
    for body in observations {
        if server.store_input(InputKind::Observation, &link.id, Bytes::from(body)).await.is_err() {
            return false;
        }
    }
    let episode = opened.claims.episode;
    let is_over = |link: &Link| link.state.episode().is_none_or(|open| open.number != episode);
    wait_for(server, &link.id, HEAL_MAX, is_over).await
}

/// Lets relink read the link, which Belvo does not have: many missing links at once are no deletions, and the job that reads links decides
/// about that. Returns whether the link was removed soon.
async fn is_removed(server: &Server, link: &Link) -> bool {
    let reason = Some("Belvo did not have the link when its user opened the repair page".to_owned());
    let command = Command { schema_version: None, command: CommandName::Verify, until: None, by: None, reason };
    let body = serde_json::to_vec(&command).expect("a command has string keys");
    if let Err(problem) = server.store_input(InputKind::Command, &link.id, Bytes::from(body)).await {
        tracing::warn!(link.id = %link.id, "that a link is missing could not be stored as an input: {}", problem.detail());
        return false;
    }
    wait_for(server, &link.id, HEAL_MAX, |link| link.state.name() == StateName::Removed).await
}

/// What Belvo says about a broken link.
enum Said {
    /// It works again: observations of the consent and the link.
    Works(Vec<Vec<u8>>),
    /// Belvo does not have it.
    Missing,
    /// Nothing that ends the episode.
    Nothing,
}

async fn read(belvo: &Client, clock: &Clock, link: &Link) -> Said {
    let observed_at = At(clock.now());
    let body = |outcome| {
        let observation = Observation { schema_version: None, observed_at, source: Source::Verify, outcome };
        serde_json::to_vec(&observation).expect("an observation has string keys")
    };
    let resource = match belvo.get_link(&link.id).await {
        Ok(LinkRead::Found(resource)) if resource.get("status").and_then(Value::as_str) == Some("valid") => resource,
        Ok(LinkRead::Missing) => return Said::Missing,
        Ok(LinkRead::Found(_)) | Err(_) => return Said::Nothing,
    };
    let mut observations = Vec::new();
    if let Some(id) = link.profile.consent.as_ref().and_then(|consent| consent.id.as_deref())
        && let Ok(Some(consent)) = belvo.get_consent(&link.id, id).await
    {
        observations.push(body(ReadOutcome::Consent { consent }));
    }
    observations.push(body(ReadOutcome::Found { link: resource }));
    Said::Works(observations)
}

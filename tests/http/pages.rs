//! `/repair/{token}`: the page on which a user repairs a link, with the simulated Belvo. The browser test,
//! `tests/browser`, has the whole road; here is what a browser does not show.

use std::time::Duration;

use belvo_sandbox::{AccessMode, ApiFault, LinkStatus, Sandbox, SandboxConfig};
use relink::contract::{IncidentBecause, IncidentBody, IncidentCause, IncidentChange};
use relink::link::{Cause, Consent, Episode, EpisodeNumber, Prompt, State, Timestamp, UpdatePhase};
use relink::repair::{Claims, Purpose, RepairLinks};
use relink::store::{Changes, Store};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::bench::{Answer, Bench, answer, because};
use crate::capture;

const KEY: &str = "the-key-of-these-tests-is-long-enough-for-it";
const BASE: &str = "https://relink.example.com";
/// Far from the present: no test waits for it.
const LATER: Timestamp = Timestamp::from_millis(4_000_000_000_000);
const FORM: &str = "application/x-www-form-urlencoded";

/// A server with the page, the simulated Belvo, a link that is broken there, and a client that follows no redirect.
struct Scene {
    bench: Bench,
    sandbox: Sandbox,
    link: Uuid,
    client: Client,
}

fn links() -> RepairLinks {
    RepairLinks::new(BASE, &[KEY.into()], Duration::from_secs(86_400))
}

fn episode(number: u32, cause: Cause) -> Episode {
    let opened_at = Timestamp::from_millis(1_700_000_000_000);
    Episode::new(EpisodeNumber(number), cause, opened_at, Prompt::Sent)
}

fn broken(number: u32) -> State {
    State::Invalid { episode: episode(number, Cause::Credentials) }
}

impl Scene {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    async fn with(more: &[(&str, &str)]) -> Self {
        let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
        let link = sandbox.control().add_link("erebor_mx_retail", AccessMode::Recurrent, None).unwrap();
        sandbox.control().set_status(link, LinkStatus::Invalid).unwrap();
        let (url, widget, portal) =
            (sandbox.url(), format!("{}/widget/", sandbox.url()), format!("{}/portal/", sandbox.url()));
        let mut environment = vec![
            ("RELINK_BELVO_URL", url.as_str()),
            ("RELINK_BELVO_SECRET_ID", "sandbox"),
            ("RELINK_BELVO_SECRET_PASSWORD", "sandbox"),
            ("RELINK_BELVO_WIDGET_URL", widget.as_str()),
            ("RELINK_BELVO_PORTAL_URL", portal.as_str()),
            ("RELINK_REPAIR_BASE_URL", BASE),
            ("RELINK_REPAIR_KEYS", KEY),
            ("RELINK_REPAIR_NAME", "Acme <Money>"),
            ("RELINK_REPAIR_RETURN_URL", "https://acme.example.com/banks"),
            ("RELINK_REPAIR_SUPPORT", "help@acme.example.com"),
        ];
        environment.extend(more);
        let bench = Bench::with(&environment).await;
        bench.put(&link.to_string(), "erebor_mx_retail", broken(2));
        let client = Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
        Self { bench, sandbox, link, client }
    }

    fn token(&self, episode: u32, expires_at: Timestamp) -> String {
        let link = self.link.to_string().parse().unwrap();
        let claims = Claims { link, episode: EpisodeNumber(episode), expires_at, attempt: 0 };
        links().sign(Purpose::Page, &claims)
    }

    fn open(&self) -> String {
        self.token(2, LATER)
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}/repair/{path}", self.bench.url))
    }

    async fn get(&self, path: &str) -> Answer {
        answer(self.ask(Method::GET, path)).await
    }

    async fn post(&self, path: &str, form: &str) -> Answer {
        answer(self.ask(Method::POST, path).header("content-type", FORM).body(form.to_owned())).await
    }

    /// The bodies of the stored inputs.
    async fn inputs(&self) -> Vec<Value> {
        self.bench.inputs().await.iter().map(|(_, _, body)| serde_json::from_slice(body).unwrap()).collect()
    }
}

fn location(answer: &Answer) -> &str {
    answer.headers["location"].to_str().unwrap()
}

/// The user's action in the stand-in of the widget. Returns the path of the callback.
async fn act(scene: &Scene, opened: &Answer, outcome: &str) -> String {
    let widget = reqwest::Url::parse(location(opened)).unwrap();
    let token = widget.query_pairs().find(|(name, _)| name == "access_token").unwrap().1.into_owned();
    let body = json!({"access_token": token, "outcome": outcome});
    let done = answer(scene.client.post(format!("{}/widget/complete", scene.sandbox.url())).json(&body)).await;
    let url = done.headers["x-sandbox-callback-url"].to_str().unwrap();
    url.strip_prefix("https://relink.example.com/repair/").unwrap().to_owned()
}

#[tokio::test]
async fn a_look_at_the_page_mints_nothing_and_publishes_nothing() {
    let scene = Scene::new().await;
    // The next token call fails: if a look minted a token, the button below would work.
    scene.sandbox.control().fail_api(ApiFault::server_error(), 1, "/api/token/").unwrap();
    let token = scene.open();
    for method in [Method::GET, Method::HEAD] {
        let page = answer(scene.ask(method, &token)).await;
        assert_eq!(page.status, 200, "{}", page.text);
    }
    let state = scene.get(&format!("{token}/state")).await;
    assert_eq!((state.status, &state.body), (200, &json!({"view": "needs_you"})));
    // Belvo says that the link is broken, so there is nothing to publish.
    assert_eq!(scene.post(&format!("{token}/check"), "").await.body, json!({"view": "needs_you"}));
    assert!(scene.inputs().await.is_empty());
    assert_eq!(scene.post(&token, "").await.status, 502, "the fault is still there");
    assert!(scene.inputs().await.is_empty(), "without a token no attempt has started");
}

#[tokio::test]
async fn a_user_opens_the_widget_although_jobs_have_used_up_their_calls() {
    let scene = Scene::with(&[("RELINK_BELVO_REQUESTS_PER_30S", "16")]).await;
    let (jobs, link) = (scene.bench.belvo.as_ref().unwrap(), scene.link.to_string().parse().unwrap());
    let mut calls_count = 0;
    while jobs.get_link(&link).await.is_ok() {
        calls_count += 1;
    }
    assert_eq!(calls_count, 14);
    assert_eq!(scene.post(&scene.open(), "").await.status, 303, "the user is led to the widget");
}

#[tokio::test]
async fn relink_is_asked_to_read_a_link_that_belvo_does_not_have() {
    let scene = Scene::new().await;
    let token = scene.open();
    scene.sandbox.control().wipe();
    assert_eq!(scene.post(&token, "").await.status, 502, "nothing decides here whether the link was deleted");
    assert_eq!(scene.post(&format!("{token}/check"), "").await.body, json!({"view": "needs_you"}));
    let inputs = scene.inputs().await;
    assert_eq!(inputs.iter().map(|input| &input["command"]).collect::<Vec<_>>(), ["verify", "verify"]);
}

#[tokio::test]
async fn while_the_bank_is_down_the_page_says_so_and_reports_that_its_user_waits() {
    for (policy, waiting) in [("off", 0), ("repair", 1)] {
        let scene = Scene::with(&[("RELINK_POLICY_INSTITUTION_NOTICES", policy)]).await;
        let at = because().at;
        let down = IncidentBody {
            change: IncidentChange::Began,
            cause: IncidentCause::StatusPage,
            institution: "erebor_mx_retail".to_owned(),
            at,
            began_at: at,
            links_count: 0,
            deferred_count: 0,
            threshold: 0,
            window_seconds: 600,
            because: IncidentBecause { link_id: None, origin: because().origin },
        };
        scene.bench.store.apply(&Changes { incidents: vec![down.clone()], ..Changes::default() }).unwrap();
        let (token, expected) = (scene.open(), json!({"view": "needs_you", "trouble": "bank_down"}));
        let page = scene.get(&format!("{token}?locale=en")).await;
        assert!(page.text.contains("there is nothing to do now"), "{}", page.text);
        assert!(!page.text.contains("Enter your current"), "{}", page.text);
        // Nobody promises a message before relink has noted that the user waits.
        assert!(!page.text.contains("will write to you"), "{}", page.text);
        assert!(scene.inputs().await.is_empty(), "a look publishes nothing");
        assert_eq!(scene.get(&format!("{token}/state")).await.body, expected);
        for _ in 0..2 {
            assert_eq!(scene.post(&format!("{token}/check"), "").await.body, expected);
            assert_eq!(scene.inputs().await, vec![json!({"event": "waiting"}); waiting], "{policy}");
        }
        let over = IncidentBody { change: IncidentChange::Ended, ..down };
        scene.bench.store.apply(&Changes { incidents: vec![over], ..Changes::default() }).unwrap();
        assert_eq!(scene.get(&format!("{token}/state")).await.body, json!({"view": "needs_you"}));
    }
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere_and_tells_nobody_its_address() {
    let scene = Scene::new().await;
    let page = scene.get(&scene.open()).await;
    let header = |name: &str| page.headers[name].to_str().unwrap();
    assert_eq!((header("cache-control"), header("referrer-policy")), ("no-store", "no-referrer"));
    assert_eq!((header("x-frame-options"), header("x-content-type-options")), ("DENY", "nosniff"));
    let policy = header("content-security-policy");
    let sandbox = scene.sandbox.url();
    for part in
        ["default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'", &format!("form-action 'self' {sandbox}")]
    {
        assert!(policy.contains(part), "{part} is not in {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(page.text.contains("Acme &lt;Money&gt;") && !page.text.contains("<Money>"), "names are escaped");
    assert!(page.text.contains("Erebor") && !page.text.contains("erebor_mx_retail"), "{}", page.text);
    for attribute in [" src=\"", " action=\"", " href=\""] {
        for (_, rest) in page.text.match_indices(attribute).map(|(at, found)| page.text.split_at(at + found.len())) {
            let is_ours = ["?locale=", "mailto:help@acme.example.com"].iter().any(|start| rest.starts_with(start));
            assert!(is_ours, "{attribute}{}", &rest[..rest.len().min(60)]);
        }
    }
}

#[tokio::test]
async fn a_wrong_method_of_a_signed_address_is_refused_as_such() {
    let scene = Scene::new().await;
    let good = scene.open();
    let claims = links().verify(Purpose::Page, &good).unwrap();
    let callback = format!("callback/pt/success/{}", links().sign(Purpose::Callback, &claims));
    for (method, address, allowed) in [
        (Method::PUT, good.clone(), "GET,HEAD,POST"),
        (Method::POST, format!("{good}/state"), "GET,HEAD"),
        (Method::GET, format!("{good}/check"), "POST"),
        (Method::POST, callback, "GET,HEAD"),
    ] {
        let page = answer(scene.ask(method.clone(), &address).header("accept-language", "pt")).await;
        assert_eq!((page.status, page.headers["allow"].to_str().unwrap()), (405, allowed), "{method} {address}");
        assert!(page.text.contains("Este link não funciona"), "a person gets a page: {}", page.text);
    }
    assert!(scene.inputs().await.is_empty());
}

#[tokio::test]
async fn each_wrong_address_gets_a_page_that_helps() {
    let scene = Scene::new().await;
    let good = scene.open();
    let foreign =
        RepairLinks::new(BASE, &["a-key-of-somebody-else-that-is-long-enough".into()], Duration::from_secs(60));
    let claims = links().verify(Purpose::Page, &good).unwrap();
    let mut tampered = good.clone();
    let last = tampered.pop().unwrap();
    tampered.push(if last == 'A' { 'B' } else { 'A' });
    let addresses = [
        format!("{good}."),
        format!("{good}/"),
        good[..good.len() - 3].to_owned(),
        tampered,
        foreign.sign(Purpose::Page, &claims),
        links().sign(Purpose::Callback, &claims),
        "%ff%00".to_owned(),
        "x".repeat(5_000),
        format!("callback/pt/success/{good}"),
        "callback/pt/success/planted".to_owned(),
        format!("callback/pt/finished/{}", links().sign(Purpose::Callback, &claims)),
        "callback".to_owned(),
        format!("{good}/check/more"),
        String::new(),
    ];
    for address in &addresses {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let page = answer(scene.ask(method.clone(), address).header("accept-language", "pt-BR, en;q=0.5")).await;
            assert_eq!(page.status, 404, "{method} {address}: {}", page.text);
            assert!(page.text.contains("Este link não funciona"), "{method} {address}: {}", page.text);
            assert!(!page.text.contains("Erebor"), "a wrong address shows nothing of a link");
        }
    }
    let unknown = Claims { link: "another-link".parse().unwrap(), ..claims };
    assert_eq!(scene.get(&links().sign(Purpose::Page, &unknown)).await.status, 404);
    assert!(scene.inputs().await.is_empty());
    let log = capture::log();
    assert!(addresses.iter().filter(|address| address.len() > 40).all(|address| !log.contains(address.as_str())));
}

#[tokio::test]
async fn an_address_is_useless_when_its_episode_or_its_time_is_over() {
    let scene = Scene::new().await;
    let id = scene.link.to_string();
    let early = Timestamp::from_millis(1_700_000_000_000);
    let with_user = UpdatePhase::WithUser { started_at: early, until: LATER };
    let updating = |number| State::Updating { episode: episode(number, Cause::Credentials), phase: with_user };
    for (state, token, status, title) in [
        (broken(2), scene.token(2, early), 410, "This link has expired"),
        (broken(3), scene.open(), 410, "This link is out of date"),
        (State::Removed, scene.open(), 410, "This connection was removed"),
        (State::Valid { suspicion: None }, scene.open(), 200, "This is already fixed"),
        (State::Valid { suspicion: None }, scene.token(2, early), 200, "This is already fixed"),
        (updating(2), scene.open(), 200, "You are reconnecting Erebor"),
    ] {
        scene.bench.put(&id, "erebor_mx_retail", state.clone());
        let page = scene.get(&format!("{token}?locale=en")).await;
        assert_eq!(page.status, status, "{state:?}: {}", page.text);
        assert!(page.text.contains(&format!("<h1>{title}</h1>")), "{state:?}: {}", page.text);
        if matches!(state, State::Updating { .. }) {
            continue;
        }
        let pressed = scene.post(&format!("{token}?locale=en"), "").await;
        assert_eq!(pressed.status, status, "{state:?}");
        assert!(!pressed.text.contains("<button"), "{}", pressed.text);
    }
    assert!(scene.inputs().await.is_empty());
}

#[tokio::test]
async fn a_superseded_link_needs_nothing_and_can_still_be_repaired() {
    let scene = Scene::new().await;
    let superseded_by = Some("11111111-1111-4111-8111-111111111111".parse().unwrap());
    let superseded = Episode { superseded_by, ..episode(2, Cause::Credentials) };
    scene.bench.put(&scene.link.to_string(), "erebor_mx_retail", State::Invalid { episode: superseded });
    let token = scene.open();
    for (locale, title) in [
        ("en", "You have connected Erebor again"),
        ("es", "Ya conectaste Erebor de nuevo"),
        ("pt", "Você já conectou Erebor de novo"),
    ] {
        let page = scene.get(&format!("{token}?locale={locale}")).await;
        assert_eq!(page.status, 200, "{}", page.text);
        assert!(page.text.contains(&format!("<h1>{title}</h1>")), "{}", page.text);
    }
    assert_eq!(scene.get(&format!("{token}/state")).await.body, json!({"view": "superseded"}));
    // The page does not say that the new connection works if it does not.
    let newer = "11111111-1111-4111-8111-111111111111";
    scene.bench.put(newer, "erebor_mx_retail", broken(1));
    let page = scene.get(&format!("{token}?locale=en")).await;
    assert!(page.text.contains("The new connection needs you too"), "{}", page.text);
    // Of a chain the last link counts.
    let newest = Some("22222222-2222-4222-8222-222222222222".parse().unwrap());
    let chain = Episode { superseded_by: newest, ..episode(1, Cause::Credentials) };
    scene.bench.put(newer, "erebor_mx_retail", State::Invalid { episode: chain });
    scene.bench.put("22222222-2222-4222-8222-222222222222", "erebor_mx_retail", State::Valid { suspicion: None });
    let page = scene.get(&format!("{token}?locale=en")).await;
    assert!(page.text.contains("The new connection works"), "{}", page.text);
    scene.bench.put(newer, "erebor_mx_retail", State::Removed);
    let page = scene.get(&format!("{token}?locale=en")).await;
    assert!(page.text.contains("<h1>Reconnect Erebor</h1>"), "{}", page.text);
    assert!(scene.inputs().await.is_empty());
    // The two connections may be of different logins.
    assert_eq!(scene.post(&token, "").await.status, 303);
    assert_eq!(scene.inputs().await, [json!({"event": "started", "expires_in_seconds": 600})]);
}

#[tokio::test]
async fn the_button_mints_a_token_and_the_widget_comes_back_to_relink() {
    let scene = Scene::new().await;
    let token = scene.open();
    let opened = scene.post(&format!("{token}?locale=pt"), "").await;
    assert_eq!((opened.status, &opened.headers["cache-control"]), (303, &"no-store".parse().unwrap()));
    let widget = format!("{}/widget/?access_token=", scene.sandbox.url());
    assert!(
        location(&opened).starts_with(&widget) && location(&opened).ends_with("&locale=pt"),
        "{}",
        location(&opened)
    );
    assert_eq!(scene.inputs().await, [json!({"event": "started", "expires_in_seconds": 600})]);

    let left = act(&scene, &opened, "exit").await;
    assert!(left.starts_with("callback/pt/exit/"), "{left}");
    // A preview of the address is no callback.
    assert_eq!(answer(scene.ask(Method::HEAD, &left)).await.status, 303);
    let back = scene.get(&left).await;
    assert_eq!(back.status, 303);
    assert_eq!(
        location(&back),
        format!("{BASE}/repair/{token}?locale=pt&done"),
        "the address has nothing of Belvo's query"
    );
    let exit = json!({"event": "exit", "meta_data_step": "abandon-survey"});
    assert_eq!(scene.inputs().await[1..], [exit]);

    let failed = act(&scene, &opened, "error").await;
    assert_eq!(scene.get(&failed).await.status, 303);
    let succeeded = act(&scene, &opened, "success").await;
    assert_eq!(scene.get(&succeeded).await.status, 303);
    let error = json!({"event": "error", "error": "ACCESS_TOKEN_NOT_VALID"});
    assert_eq!(scene.inputs().await[2..], [error, json!({"event": "success", "link": scene.link})]);

    // Of an earlier attempt, only a success is a hint: an exit must not end the attempt in which the user is now.
    let early = Timestamp::from_millis(1_700_000_000_000);
    let phase = UpdatePhase::WithUser { started_at: early, until: LATER };
    let second = Episode { attempts_count: 2, ..episode(2, Cause::Credentials) };
    scene.bench.put(&scene.link.to_string(), "erebor_mx_retail", State::Updating { episode: second, phase });
    for earlier in [&left, &failed] {
        assert_eq!(scene.get(earlier).await.status, 303);
    }
    assert_eq!(scene.inputs().await.len(), 4, "{:?}", scene.inputs().await);
    scene.sandbox.control().set_status(scene.link, LinkStatus::Invalid).unwrap();
    let left_again = act(&scene, &scene.post(&token, "").await, "exit").await;
    assert_eq!(scene.get(&left_again).await.status, 303);
    assert_eq!(scene.inputs().await.len(), 6, "this one ends its own attempt");

    // The callback of an earlier episode says nothing about this one.
    scene.bench.put(&scene.link.to_string(), "erebor_mx_retail", broken(3));
    assert_eq!(scene.get(&succeeded).await.status, 303);
    assert_eq!(scene.inputs().await.len(), 6);
    assert!(scene.inputs().await.iter().all(|input| !input.to_string().contains(&token)));
}

#[tokio::test]
async fn the_button_starts_nothing_while_relink_only_observes() {
    let scene = Scene::with(&[("RELINK_OBSERVE", "true")]).await;
    let page = scene.get(&scene.open()).await;
    assert_eq!(page.status, 200, "{}", page.text);
    let pressed = scene.post(&scene.open(), "").await;
    assert!(pressed.status == 502 && pressed.text.contains("no se puede abrir la página segura"), "{}", pressed.text);
    assert!(scene.inputs().await.is_empty(), "no attempt has started");
}

#[tokio::test]
async fn a_button_that_is_pressed_very_often_mints_no_more_tokens() {
    let scene = Scene::new().await;
    let token = scene.open();
    let mut statuses = Vec::new();
    for _press in 0..14 {
        statuses.push(scene.post(&token, "").await.status);
    }
    assert_eq!((statuses[0], statuses[11], statuses[12]), (303, 303, 429), "{statuses:?}");
    assert_eq!(scene.inputs().await.len(), 12);
}

#[tokio::test]
async fn a_consent_is_renewed_with_the_entries_of_the_form_which_are_kept_nowhere() {
    let scene = Scene::new().await;
    let consent = Consent {
        id: Some("b2c17cb6".into()),
        institution_display_name: Some("Mock & Sons".into()),
        ..Consent::default()
    };
    let state = State::Invalid { episode: episode(2, Cause::ConsentEnded) };
    scene.bench.put_with_consent(&scene.link.to_string(), "ofmockbank_br_retail", state, Some(consent));
    let page = scene.get(&scene.open()).await;
    assert!(
        page.text.contains("Renove sua permissão para Mock &amp; Sons"),
        "the language of the country: {}",
        page.text
    );

    // The button of a page without a form, such as "try again" after an attempt, sends nothing.
    let form = scene.post(&format!("{}?done", scene.open()), "").await;
    assert_eq!((form.status, form.text.contains("aria-invalid=\"true\"")), (200, false), "{}", form.text);

    let wrong = scene.post(&scene.open(), "name=&document=123").await;
    assert_eq!(wrong.status, 422);
    assert_eq!(wrong.text.matches("aria-invalid=\"true\"").count(), 2, "{}", wrong.text);
    assert!(wrong.text.contains("value=\"123\""), "what the user has typed stays");
    assert!(scene.inputs().await.is_empty());

    let opened = scene.post(&scene.open(), "name=Planted+Ralph+Bragg&document=761.092.776-73").await;
    assert_eq!(opened.status, 303, "{}", opened.text);
    let portal = location(&opened);
    assert!(portal.starts_with(&format!("{}/portal/?access_token=", scene.sandbox.url())), "{portal}");
    assert!(portal.ends_with("&institution_display_name=Mock+%26+Sons&action=renew"), "{portal}");
    let log = capture::log();
    for personal in ["Planted", "76109277673", "761.092"] {
        assert!(!portal.contains(personal) && !log.contains(personal), "{personal}");
    }
    assert_eq!(scene.inputs().await, [json!({"event": "started", "expires_in_seconds": 600})]);
}

#[tokio::test]
async fn the_widget_can_open_on_the_page_itself() {
    let scene = Scene::with(&[
        ("RELINK_REPAIR_WIDGET", "page"),
        ("RELINK_REPAIR_SCRIPT_URL", "https://cdn.belvo.example/widget.js"),
    ])
    .await;
    let token = scene.open();
    let opened = scene.post(&format!("{token}?locale=en"), "").await;
    assert_eq!(opened.status, 200, "{}", opened.text);
    assert!(
        opened.text.contains("data-token=\"ey") && opened.text.contains("src=\"https://cdn.belvo.example/widget.js\"")
    );
    let policy = opened.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("script-src 'sha256-") && policy.contains(" https://cdn.belvo.example;"), "{policy}");
    let hosted = scene.post(&format!("{token}?locale=en&hosted"), "").await;
    assert_eq!(hosted.status, 303, "without JavaScript the hosted widget opens");
}

#[tokio::test]
async fn without_the_setting_there_is_no_page() {
    let bench = Bench::new().await;
    let token = "planted-address-of-a-page-that-is-long-enough-to-be-found";
    for path in [format!("/repair/{token}"), format!("/repair/{token}/state"), "/repair/logo".to_owned()] {
        let refused = answer(bench.request(Method::GET, &path)).await;
        refused.problem(404, "not-found");
        assert!(!refused.text.contains(token));
    }
    assert!(!capture::log().contains(token));
}

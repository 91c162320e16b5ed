//! `relink why` and `relink dead-letters`, the binary against a door.

use std::process::Output;

use async_nats::HeaderMap;
use relink::contract::{Because, Record, RefusedBody};
use relink::link::{Breakage, Cause, Event, Input, Link, Policy, Settings, State, Timestamp};
use serde_json::{Value, json};

use crate::bench::{API_TOKEN, Bench, LINK, answer, because};

/// Runs relink against the door.
async fn relink(bench: &Bench, args: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_relink"));
    command.args(args).args(["--url", &bench.url]).env_clear().env("RELINK_API_TOKENS", API_TOKEN);
    command.output().await.unwrap()
}

/// What it printed; it must have ended well.
async fn told(bench: &Bench, args: &[&str]) -> String {
    let output = relink(bench, args).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn publish(bench: &Bench, subject: String, id: &str, body: &Value) {
    let mut headers = HeaderMap::new();
    headers.insert("ce-id", format!("{LINK}.{id}"));
    let published = bench.nats.context.publish_with_headers(subject, headers, body.to_string().into());
    published.await.unwrap().await.unwrap();
}

/// A link that data made valid, with a notice, a job and something ignored.
async fn live(bench: &Bench) {
    let mut link = Link::unheard_of(LINK.parse().unwrap(), Timestamp::from_millis(1_700_000_000_000));
    link.version = 1;
    link.profile.institution = Some("erebor_mx_retail".into());
    link.state = State::Valid { suspicion: None };
    let record = Record::of(&link, 0, because(), vec![format!("{LINK}.1.1"), format!("{LINK}.1.2")]);
    let refused = RefusedBody {
        link_id: LINK.into(),
        event: Some("token_requested".into()),
        reason: "repeat".into(),
        detail: "heard before".into(),
        state: None,
        origin: because().origin,
    };
    let news = json!({"type": "data_available", "resource": "TRANSACTIONS", "kind": "new"});
    publish(bench, format!("link.notice.data_available.{LINK}"), "1.1", &news).await;
    publish(bench, format!("link.job.verify.{LINK}"), "1.2", &json!({"type": "verify"})).await;
    publish(bench, format!("link.state.{LINK}"), "1.0", &serde_json::to_value(&record).unwrap()).await;
    publish(bench, format!("link.refused.{LINK}"), "r", &serde_json::to_value(&refused).unwrap()).await;
}

#[tokio::test]
async fn the_story_of_a_link_names_every_move_and_what_it_caused() {
    let bench = Bench::new().await;
    live(&bench).await;
    let story = told(&bench, &["why", LINK]).await;
    let expected = format!(
        "{LINK} at erebor_mx_retail is valid since 2023-11-14T22:13:20.000Z

  2023-11-14T22:13:20.000Z  data_arrived  unconfirmed → valid
        because of a webhook of Belvo's, heard 2023-11-14T22:13:20.000Z, input 1, message w-1
        told everyone: data_available (resource TRANSACTIONS, kind new)  {LINK}.1.1
        asks Belvo: verify  {LINK}.1.2
"
    );
    assert!(story.starts_with(&expected), "{story}");
    assert!(story.contains("ignored token_requested: heard before"), "{story}");
    assert!(!story.contains('\u{1b}'), "no colours where nobody looks");

    let pointed = told(&bench, &["why", &format!("{LINK}.1.1")]).await;
    let marked: Vec<_> = pointed.lines().filter(|line| line.starts_with('▶')).collect();
    assert!(marked.len() == 1 && marked[0].contains("data_available"), "{pointed}");
    // However the id is spelt: as a database has it, or pasted with a blank.
    let plain = LINK.replace('-', "");
    for link in [plain.clone(), format!(" {LINK} "), format!("{{{}}}", LINK.to_uppercase()), format!("urn:uuid:{LINK}")]
    {
        assert_eq!(told(&bench, &["why", &link]).await, story, "{link}");
    }
    for message in [format!("{plain}.1.1"), format!("{}.1.1 ", LINK.to_uppercase())] {
        assert_eq!(told(&bench, &["why", &message]).await, pointed, "{message}");
    }
}

#[tokio::test]
async fn what_a_stranger_calls_a_link_forges_no_line_of_its_story() {
    let bench = Bench::new().await;
    let evil = "x\n2026-01-01T00:00:00.000Z  forged\r\u{1b}[2J\u{9b}31m\u{202e}\u{200b}é";
    let mut link = Link::unheard_of(LINK.parse().unwrap(), Timestamp::from_millis(1_700_000_000_000));
    (link.version, link.state) = (1, State::Valid { suspicion: None });
    (link.profile.institution, link.profile.external_id) = (Some(evil.to_owned()), Some(evil.repeat(1_000)));
    let record = Record::of(&link, 0, because(), Vec::new());
    publish(&bench, format!("link.state.{LINK}"), "1.0", &serde_json::to_value(&record).unwrap()).await;
    let story = told(&bench, &["why", LINK]).await;
    assert!(!story.contains(['\r', '\u{1b}', '\u{9b}', '\u{202e}', '\u{200b}']), "{story:?}");
    assert!(!story.lines().any(|line| line.starts_with("2026")) && story.len() < 4_000, "{story:?}");
    assert!(story.contains(r"x\n2026-01-01T00:00:00.000Z  forged\r\u{1b}[2J\u{9b}31m\u{202e}\u{200b}é"), "{story:?}");
}

#[tokio::test]
async fn the_story_says_why_a_user_got_no_message() {
    let bench = Bench::new().await;
    let now = Timestamp::from_millis(1_700_000_000_000);
    let policy = Policy::new(Settings { can_verify: true, ..Settings::default() }).unwrap();
    let mut link = Link::unheard_of(LINK.parse().unwrap(), now);
    let mut step = |event: Event, incident, now| {
        let input = Input { incident, ..event.into() };
        let step = relink::link::step(&link, &input, now, &policy).unwrap();
        link = step.link.clone();
        Record::of(&link, 0, Because::of(&step, &input, because().origin), Vec::new())
    };
    let broken = step(Event::Broken(Breakage::of(Cause::Credentials)), true, now);
    let later = now.after(policy.settings().incident_wait);
    let asked = step(Event::DeadlinePassed, false, later);
    for (record, why) in [
        (broken, "many links of the institution failed together; looked at again 2023-11-14T22:23:20.000Z\n"),
        (asked, "Belvo was asked 2023-11-14T22:23:20.000Z whether it works again, and has until 2023-11-14T22:53:20"),
    ] {
        publish(&bench, format!("link.state.{LINK}"), "1.0", &serde_json::to_value(&record).unwrap()).await;
        let story = told(&bench, &["why", LINK]).await;
        assert!(story.contains(&format!("its user has not been asked: {why}")), "{story}");
        assert!(story.contains("unconfirmed → invalid  (many links of its institution were failing)"), "{story}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_in_one_paragraph() {
    let bench = Bench::new().await;
    live(&bench).await;
    for (subject, reason) in [
        ("unheard-of".to_owned(), "404: relink has not heard of the link unheard-of"),
        (format!("{LINK}.99.1"), "has no message"),
        ("a b".to_owned(), "400: "),
    ] {
        let output = relink(&bench, &["why", &subject]).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(reason) && said.starts_with("relink: "), "{said}");
    }
    let output = relink(&bench, &["why", LINK, "--token", "wrong"]).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("401: The bearer token is not one of those configured"), "{said}");
}

#[tokio::test]
async fn dead_letters_can_be_looked_at_and_replayed() {
    let bench = Bench::new().await;
    assert_eq!(told(&bench, &["dead-letters", "list"]).await, "there are no dead letters\n");
    answer(bench.webhook("hello \u{1b}[31m")).await.problem(400, "not-json");
    let no_code = json!({"webhook_type": "LINK", "link_id": LINK}).to_string();
    answer(bench.webhook(no_code)).await.problem(422, "wrong-shape");

    let list = told(&bench, &["dead-letters", "list"]).await;
    assert_eq!(list.lines().count(), 2, "{list}");
    assert!(list.contains("malformed") && list.contains(&format!("belvo.webhook.{LINK}")), "{list}");
    let shown = told(&bench, &["dead-letters", "show", "1"]).await;
    assert!(shown.contains("\nhello \u{fffd}[31m\n"), "a terminal is not told what to do: {shown:?}");
    assert_eq!(told(&bench, &["dead-letters", "replay", "2"]).await, "dead letter 2 is input 1 now\n");
    let output = relink(&bench, &["dead-letters", "replay", "1"]).await;
    assert!(String::from_utf8(output.stderr).unwrap().contains("409: "), "only what names a link can be replayed");
}

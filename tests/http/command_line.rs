//! The commands that call a running relink (`why`, `links`, `show`, `mute` …): the binary, run against the HTTP server.

use std::process::Output;

use async_nats::HeaderMap;
use relink::contract::{Because, Record, RefusedBody};
use relink::link::{Breakage, Cause, Event, Input, Link, Policy, PolicySettings, State, Timestamp};
use serde_json::{Value, json};

use crate::bench::{API_TOKEN, Bench, LINK, answer, because};
use crate::support::within;

/// Runs relink against the server.
pub(crate) async fn relink(bench: &Bench, args: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_relink"));
    command.args(args).args(["--url", &bench.url]).env_clear().env("RELINK_API_TOKENS", API_TOKEN);
    command.output().await.unwrap()
}

/// The address and the token are also taken from the environment. An empty variable counts as not set.
#[tokio::test]
async fn the_environment_names_the_address_and_the_token() {
    let bench = Bench::new().await;
    bench.put(LINK, "erebor", State::Valid { suspicion: None });
    for (variables, is_found) in [
        ([("RELINK_URL", bench.url.as_str()), ("RELINK_API_TOKEN", API_TOKEN)], true),
        ([("RELINK_URL", bench.url.as_str()), ("RELINK_API_TOKEN", "wrong")], false),
        ([("RELINK_URL", ""), ("RELINK_API_TOKEN", API_TOKEN)], false),
    ] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_relink"));
        let output = command.args(["show", LINK]).env_clear().envs(variables).output().await.unwrap();
        assert_eq!(output.status.success(), is_found, "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The output of a successful run.
pub(crate) async fn printed(bench: &Bench, args: &[&str]) -> String {
    let output = relink(bench, args).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) async fn publish(bench: &Bench, subject: String, id: &str, body: &Value) {
    let mut headers = HeaderMap::new();
    headers.insert("ce-id", format!("{LINK}.{id}"));
    let published = bench.nats.context.publish_with_headers(subject, headers, body.to_string().into());
    published.await.unwrap().await.unwrap();
}

/// Publishes a link that data made valid, with a notice, a job and a refused message.
pub(crate) async fn publish_history(bench: &Bench) {
    let mut link = Link::unknown(LINK.parse().unwrap(), Timestamp::from_millis(1_700_000_000_000));
    link.version = 1;
    link.profile.institution = Some("erebor_mx_retail".into());
    link.state = State::Valid { suspicion: None };
    let record = Record::of(&link, 0, because(), vec![format!("{LINK}.1.1"), format!("{LINK}.1.2")]);
    let refused = RefusedBody {
        link_id: LINK.into(),
        event: Some("token_requested".into()),
        reason: "repeat".into(),
        detail: "known already".into(),
        state: None,
        origin: because().origin,
    };
    let notice = json!({"type": "data_available", "resource": "TRANSACTIONS", "kind": "new"});
    publish(bench, format!("link.notice.data_available.{LINK}"), "1.1", &notice).await;
    publish(bench, format!("link.job.verify.{LINK}"), "1.2", &json!({"type": "verify"})).await;
    publish(bench, format!("$KV.links.{LINK}"), "1.0", &serde_json::to_value(&record).unwrap()).await;
    publish(bench, format!("link.refused.{LINK}"), "r", &serde_json::to_value(&refused).unwrap()).await;
}

#[tokio::test]
async fn a_text_that_is_no_link_id_leads_to_no_other_address() {
    let bench = Bench::new().await;
    let commands = [&["mute"][..], &["forget", "--yes"], &["show"], &["why"], &["verify"]];
    for command in commands {
        for link in ["nope/../x", "../links/zz", "../summary?", "", "a b"] {
            let output = relink(&bench, &[command, &[link]].concat()).await;
            let stderr = String::from_utf8_lossy(&output.stderr);
            // The exit code of an argument that cannot be used, for every command.
            assert_eq!(output.status.code(), Some(2), "{command:?} {link}: {stderr}");
            assert!(stderr.contains("a link id is 1 to 64"), "{command:?} {link}: {stderr}");
        }
    }
    assert!(bench.inputs().await.is_empty());
}

#[tokio::test]
async fn tail_prints_one_line_for_each_message() {
    let bench = Bench::new().await;
    publish_history(&bench).await;
    let all = printed(&bench, &["tail", "--after", "0", "--no-follow"]).await;
    assert_eq!(all.lines().count(), 4, "{all}");
    assert!(all.lines().all(|line| line.contains(LINK)), "{all}");
    assert!(all.contains("unconfirmed → valid") && all.contains("data_available"), "{all}");
    let jobs = printed(&bench, &["tail", "--after", "0", "--no-follow", "--kind", "job", "--json"]).await;
    let job: Value = serde_json::from_str(&jobs).unwrap();
    assert_eq!((&job["kind"], &job["type"]), (&json!("job"), &json!("verify")));

    assert_eq!(jobs.lines().count(), 1, "each message is one line: {jobs}");
    let incident = json!({"type": "began", "institution": "erebor_mx_retail", "cause": "failing_links"}).to_string();
    bench.nats.context.publish("link.incident.erebor_mx_retail", incident.into()).await.unwrap().await.unwrap();
    let incidents = printed(&bench, &["tail", "--after", "0", "--no-follow", "--kind", "incident"]).await;
    assert!(
        incidents.contains("institution erebor_mx_retail is down (evidence: many of its links failed together)"),
        "{incidents}"
    );

    let output = relink(&bench, &["tail", "--kind", "nothing"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("[possible values: state, notice,"));
    let output = relink(&bench, &["tail", "--type", "nothing"]).await;
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.matches("`recovered`").count(), 1, "a notice and an incident have this name: {text}");
}

#[tokio::test]
async fn why_shows_every_transition_and_its_messages() {
    let bench = Bench::new().await;
    publish_history(&bench).await;
    let history = printed(&bench, &["why", LINK]).await;
    let expected = format!(
        "{LINK} at erebor_mx_retail is valid since 2023-11-14T22:13:20.000Z
The link works.

What happens next
  Nothing is due. relink waits for the next message about the link.

What happened, the oldest first
  2023-11-14T22:13:20.000Z  unconfirmed → valid
        Belvo reported in a webhook: data of the link is at Belvo.  data_arrived
        evidence: a webhook, stored 2023-11-14T22:13:20.000Z as number 1 of the input stream, message w-1
        relink reported that Belvo has new data (TRANSACTIONS)  data_available  {LINK}.1.1
        relink ordered a read of the link from Belvo  verify  {LINK}.1.2
"
    );
    assert!(history.starts_with(&expected), "{history}");
    assert!(history.contains("requires a new MFA token. Nothing changed: known already."), "{history}");
    assert!(!history.contains('\u{1b}'), "no colours without a terminal");

    let json = printed(&bench, &["why", LINK, "--json"]).await;
    assert_eq!(
        serde_json::from_str::<Value>(&json).unwrap(),
        bench.get(&format!("/v1/links/{LINK}/history")).await.body,
        "--json prints the answer of the HTTP API"
    );

    let pointed = printed(&bench, &["why", &format!("{LINK}.1.1")]).await;
    let marked: Vec<_> = pointed.lines().filter(|line| line.starts_with('▶')).collect();
    assert!(marked.len() == 1 && marked[0].contains("data_available"), "{pointed}");
    // The id is accepted in every spelling.
    let plain = LINK.replace('-', "");
    for link in [plain.clone(), format!(" {LINK} "), format!("{{{}}}", LINK.to_uppercase()), format!("urn:uuid:{LINK}")]
    {
        assert_eq!(printed(&bench, &["why", &link]).await, history, "{link}");
    }
    for message in [format!("{plain}.1.1"), format!("{}.1.1 ", LINK.to_uppercase())] {
        assert_eq!(printed(&bench, &["why", &message]).await, pointed, "{message}");
    }
}

#[tokio::test]
async fn names_from_outside_forge_no_line_of_the_history() {
    let bench = Bench::new().await;
    let hostile = "x\n2026-01-01T00:00:00.000Z  forged\r\u{1b}[2J\u{9b}31m\u{202e}\u{200b}é";
    let mut link = Link::unknown(LINK.parse().unwrap(), Timestamp::from_millis(1_700_000_000_000));
    (link.version, link.state) = (1, State::Valid { suspicion: None });
    (link.profile.institution, link.profile.external_id) = (Some(hostile.to_owned()), Some(hostile.repeat(1_000)));
    let record = Record::of(&link, 0, because(), Vec::new());
    publish(&bench, format!("$KV.links.{LINK}"), "1.0", &serde_json::to_value(&record).unwrap()).await;
    let history = printed(&bench, &["why", LINK]).await;
    assert!(!history.contains(['\r', '\u{1b}', '\u{9b}', '\u{202e}', '\u{200b}']), "{history:?}");
    let json = printed(&bench, &["why", LINK, "--json"]).await;
    assert!(!json.contains(['\r', '\u{1b}', '\u{9b}', '\u{202e}', '\u{200b}']), "{json:?}");
    let body = &serde_json::from_str::<Value>(&json).unwrap()["entries"][0]["body"];
    assert_eq!(body["institution"], hostile, "JSON has the exact text");
    assert!(!history.lines().any(|line| line.starts_with("2026")) && history.len() < 4_000, "{history:?}");
    assert!(
        history.contains(r"x\n2026-01-01T00:00:00.000Z  forged\r\u{1b}[2J\u{9b}31m\u{202e}\u{200b}é"),
        "{history:?}"
    );
}

#[tokio::test]
async fn why_shows_why_a_user_was_not_prompted() {
    let bench = Bench::new().await;
    let now = Timestamp::from_millis(1_700_000_000_000);
    let policy = Policy::new(PolicySettings { can_verify: true, ..PolicySettings::default() }).unwrap();
    let mut link = Link::unknown(LINK.parse().unwrap(), now);
    let mut step = |event: Event, incident: bool, now| {
        let input = Input { incident: incident.then_some(now), ..event.into() };
        let step = relink::link::step(&link, &input, now, &policy).unwrap();
        link = step.link.clone();
        Record::of(&link, 0, Because::of(&step, &input, because().origin), Vec::new())
    };
    let broken = step(Event::Broken(Breakage::of(Cause::Credentials)), true, now);
    let later = now.after(policy.settings().incident_wait);
    let asked = step(Event::DeadlinePassed, false, later);
    for (record, why) in [
        (
            broken,
            ", because the institution has an incident: many of its links failed together, or the institution is down. \
             relink checks again at 2023-11-14T22:23:20.000Z (",
        ),
        (
            asked,
            ". After the incident of the institution, relink asked Belvo at 2023-11-14T22:23:20.000Z whether the link works \
             again; it waits for the answer until 2023-11-14T22:53:20",
        ),
    ] {
        publish(&bench, format!("$KV.links.{LINK}"), "1.0", &serde_json::to_value(&record).unwrap()).await;
        let history = printed(&bench, &["why", LINK]).await;
        assert!(history.contains(&format!("The user has not been prompted{why}")), "{history}");
        assert!(history.contains("unconfirmed → invalid  (during an incident of the institution)"), "{history}");
    }
}

#[tokio::test]
async fn errors_are_one_paragraph() {
    let bench = Bench::new().await;
    publish_history(&bench).await;
    for (subject, reason) in [
        ("unknown-link".to_owned(), "404: relink does not know the link unknown-link"),
        (format!("{LINK}.99.1"), "does not contain the message"),
    ] {
        let output = relink(&bench, &["why", &subject]).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && stderr.contains(reason) && stderr.starts_with("relink: "), "{stderr}");
    }
    let output = relink(&bench, &["why", LINK, "--token", "wrong"]).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("401: The bearer token is none of the values"), "{stderr}");
}

#[tokio::test]
async fn dead_letters_are_listed_shown_and_replayed() {
    let bench = Bench::new().await;
    assert_eq!(printed(&bench, &["dead-letters", "list"]).await, "there are no dead letters\n");
    answer(bench.webhook("hello \u{1b}[31m")).await.problem(400, "not-json");
    let no_code = json!({"webhook_type": "LINK", "link_id": LINK}).to_string();
    answer(bench.webhook(no_code)).await.problem(422, "wrong-shape");

    let list = printed(&bench, &["dead-letters", "list"]).await;
    assert_eq!(list.lines().count(), 4, "{list}");
    assert!(list.contains("malformed") && list.contains(&format!("belvo.webhook.{LINK}")), "{list}");
    let shown = printed(&bench, &["dead-letters", "show", "1"]).await;
    assert!(
        shown.contains("\n    hello \u{fffd}[31m\n"),
        "characters that a terminal interprets must be replaced: {shown:?}"
    );
    let json = printed(&bench, &["dead-letters", "show", "1", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["payload"], "hello \u{1b}[31m", "{json}");
    let json: Value = serde_json::from_str(&printed(&bench, &["dead-letters", "list", "--json"]).await).unwrap();
    assert_eq!(json["dead_letters"].as_array().map(Vec::len), Some(2), "{json}");
    assert_eq!(
        printed(&bench, &["dead-letters", "replay", "2"]).await,
        "dead letter 2 was published again as input 1\n"
    );
    let output = relink(&bench, &["dead-letters", "replay", "1"]).await;
    assert!(
        String::from_utf8(output.stderr).unwrap().contains("409: "),
        "only a dead letter with a link can be replayed"
    );
}

#[tokio::test]
async fn why_shows_the_last_state_while_nats_is_gone() {
    let mut bench = Bench::new().await;
    bench.put(LINK, "erebor", State::Valid { suspicion: None });
    bench.as_of.send_replace(Some(Timestamp::from_millis(1_700_000_000_000)));
    bench.nats.kill().await;
    for subject in [LINK.to_owned(), format!("{LINK}.1.1")] {
        let shown = printed(&bench, &["why", &subject]).await;
        assert!(shown.starts_with("relink cannot read the history from NATS now"), "{shown}");
        assert!(shown.contains("in its store, as of 2023-11-14T22:13:20.000Z\n"), "{shown}");
        assert!(shown.contains("unconfirmed → valid"), "{shown}");
    }
    let output = relink(&bench, &["why", "unknown-link"]).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && stderr.contains("503: The history could not be read"), "{stderr}");
}

#[tokio::test]
async fn links_are_listed_with_filters_and_shown() {
    let bench = Bench::new().await;
    bench.put(LINK, "erebor", State::Valid { suspicion: None });
    bench.put("other-link", "gotham", State::Unconfirmed);
    let table = printed(&bench, &["links"]).await;
    assert!(table.contains(LINK) && table.contains("other-link") && table.contains("2 links\n"), "{table}");
    let table = printed(&bench, &["links", "--institution", "erebor", "--state", "valid"]).await;
    assert!(table.contains(LINK) && !table.contains("other-link"), "{table}");
    assert_eq!(printed(&bench, &["links", "--external-id", "a&state=valid"]).await, "no link matches\n");
    let first = printed(&bench, &["links", "--limit", "1"]).await;
    assert!(first.contains("the first 1 link; a higher limit shows more"), "{first}");
    let json: Value = serde_json::from_str(&printed(&bench, &["links", "--json"]).await).unwrap();
    assert_eq!((json["links"].as_array().map(Vec::len), &json["more"]), (Some(2), &Value::Bool(false)), "{json}");
    let order = async |args: &[&str]| {
        let text = printed(&bench, &[&["links", "--json", "--sort"], args].concat()).await;
        let json: Value = serde_json::from_str(&text).unwrap();
        let ids = json["links"].as_array().unwrap().iter().map(|link| link["link_id"].as_str().unwrap().to_owned());
        (ids.collect::<Vec<_>>(), json["more"] == true)
    };
    assert_eq!(order(&["institution"]).await, (vec![LINK.to_owned(), "other-link".to_owned()], false));
    assert_eq!(order(&["institution", "--reverse"]).await, (vec!["other-link".to_owned(), LINK.to_owned()], false));
    assert_eq!(
        order(&["state", "--limit", "1"]).await,
        (vec!["other-link".to_owned()], true),
        "`unconfirmed`, `valid`"
    );
    let output = relink(&bench, &["links", "--state", "broken"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("[possible values: unconfirmed, "));

    let shown = printed(&bench, &["show", LINK]).await;
    assert!(shown.starts_with(&format!("{LINK} at erebor")) && shown.contains("What happens next\n  "), "{shown}");
    let json: Value = serde_json::from_str(&printed(&bench, &["show", LINK, "--json"]).await).unwrap();
    assert_eq!(json, bench.get(&format!("/v1/links/{LINK}")).await.body);
    let output = relink(&bench, &["show", "unknown-link"]).await;
    assert!(String::from_utf8(output.stderr).unwrap().contains("404: relink does not know the link"));
}

/// Publishes what relink makes of the next command, and runs the command meanwhile.
pub(crate) async fn command(bench: &Bench, args: &[&str], handled: impl Fn(&Value) -> (String, Value)) -> Output {
    let handle = async {
        let input = within("the command on the input stream", async {
            loop {
                let stream = bench.nats.context.get_stream("BELVO").await.unwrap();
                if let Ok(message) = stream.get_last_raw_message_by_subject(&format!("belvo.*.command.{LINK}")).await {
                    break message;
                }
            }
        })
        .await;
        let id = input.headers.get("ce-id").unwrap().as_str();
        let origin = json!({"kind": "command", "message_id": id, "received_at": "2023-11-14T22:13:20.000Z"});
        let (subject, body) = handled(&origin);
        publish(bench, subject, "2.0", &body).await;
        let body: Value = serde_json::from_slice(&input.payload).unwrap();
        assert_eq!((&body["by"], &body["reason"]), (&json!("ana"), &json!("a call")), "{body}");
    };
    let args = [args, &[LINK, "--by", "ana", "--reason", "a call"]].concat();
    tokio::join!(relink(bench, &args), handle).0
}

/// Publishes this state of the link as the result of a command.
fn state_of(link: Link, sent: Vec<String>) -> impl Fn(&Value) -> (String, Value) {
    move |origin| {
        let mut record = serde_json::to_value(Record::of(&link, 0, because(), sent.clone())).unwrap();
        record["because"]["origin"] = origin.clone();
        (format!("$KV.links.{LINK}"), record)
    }
}

#[tokio::test]
async fn a_command_waits_for_its_result() {
    let bench = Bench::new().await;
    bench.put(LINK, "erebor", State::Valid { suspicion: None });
    let mut link = Link::unknown(LINK.parse().unwrap(), Timestamp::from_millis(1_700_000_000_000));
    (link.version, link.muted) = (2, true);
    let output = command(&bench, &["mute"], state_of(link.clone(), Vec::new())).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.starts_with("mute: done. The link is unconfirmed."), "{text}");
    assert!(text.contains(&format!("no prompt and no reminder until `relink unmute {LINK}`")), "{text}");

    let bench = Bench::new().await;
    bench.put(LINK, "erebor", State::Valid { suspicion: None });
    let until = relink::clock::now().after(std::time::Duration::from_secs(30 * 86_400));
    link.snoozed_until = Some(until);
    let output = command(&bench, &["snooze", "--until", &until.to_string()], state_of(link.clone(), Vec::new())).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&format!("no reminder before {until} (in ")), "{text}");

    let bench = Bench::new().await;
    link.state = State::Removed;
    let output = command(&bench, &["forget", "--yes"], state_of(link, Vec::new())).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "forget: done. The link is removed. relink ignores all later messages about it.\n");

    let refused = |reason: &'static str, state: Option<&'static str>| {
        move |origin: &Value| {
            let body = json!({"link_id": LINK, "event": "verify", "reason": reason, "detail": "no \u{1b}keys", "state": state,
                "origin": origin});
            (format!("link.refused.{LINK}"), body)
        }
    };
    let bench = Bench::new().await;
    let output = command(&bench, &["verify"], refused("creation_only", Some("valid"))).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success() && text == "verify: nothing has changed: no \\u{1b}keys\n", "{text}");

    let bench = Bench::new().await;
    bench.put(LINK, "erebor", State::Valid { suspicion: None });
    let output = command(&bench, &["unmute"], refused("already_known", Some("valid"))).await;
    assert!(output.status.success(), "the link is as the operator wants it");

    let bench = Bench::new().await;
    bench.put(LINK, "erebor", State::Valid { suspicion: None });
    let release = |origin: &Value| {
        let body = json!({"link_id": LINK, "event": "release", "reason": "already_known", "detail": "nothing new", "state": "invalid",
            "origin": origin});
        (format!("link.refused.{LINK}"), body)
    };
    let output = command(&bench, &["release"], release).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success() && text.contains("a newer link of the same user has replaced this one"), "{text}");

    // A link that is removed from the store while the command is on its way.
    let bench = Bench::new().await;
    bench.put(LINK, "erebor", State::Valid { suspicion: None });
    let output = command(&bench, &["unmute"], refused("already_known", None)).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success() && text.contains("unmute: relink does not know this link"), "{text}");
}

#[tokio::test]
async fn a_command_says_what_was_sent_and_what_was_only_recorded() {
    let mut link = Link::unknown(LINK.parse().unwrap(), Timestamp::from_millis(1_700_000_000_000));
    link.version = 2;
    let notice = json!({"type": "update_required", "action": "provide_token"});
    for (kind, expected) in [
        ("notice", "relink prompted the user: give a new MFA token in the widget.\n".to_owned()),
        (
            "observed",
            "relink would have prompted the user: give a new MFA token in the widget (observe mode).\n\
             relink only observes: this is recorded, and nothing is sent to the user.\n"
                .to_owned(),
        ),
    ] {
        let bench = Bench::new().await;
        bench.put(LINK, "erebor", State::Valid { suspicion: None });
        publish(&bench, format!("link.{kind}.update_required.{LINK}"), "2.1", &notice).await;
        let handled = state_of(link.clone(), vec![format!("{LINK}.2.1")]);
        let output = command(&bench, &["release"], handled).await;
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.starts_with("release: done.") && text.ends_with(&expected), "{text}");
    }
}

#[tokio::test]
async fn a_command_without_its_confirmation_or_time_is_not_sent() {
    let bench = Bench::new().await;
    bench.put(LINK, "erebor", State::Valid { suspicion: None });
    for (args, reason, status) in [
        (&["forget", LINK][..], "confirm this with --yes", 2),
        (&["snooze", LINK], "--until <TIME>|--for <SPAN>", 2),
        (&["snooze", LINK, "--for", "0s"], "--for must be longer than 0 s", 2),
        (&["snooze", LINK, "--until", "tomorrow"], "422", 2),
    ] {
        let output = relink(&bench, args).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(status) && stderr.contains(reason), "{status}: {stderr}");
    }
    let stream = bench.nats.context.get_stream("BELVO").await.unwrap();
    assert_eq!(stream.cached_info().state.messages, 0);
}

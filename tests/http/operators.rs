//! The commands of operators that read or change more than one link: `stats`, `institutions`, `at`, and `dead-letters` in bulk.

use async_nats::HeaderMap;
use relink::contract::{DeadReason, IncidentBody, Record};
use relink::link::{Link, State, Timestamp};
use relink::nats::dead_letter::{DeadLetter, DeadLetters};
use relink::nats::subject::Subjects;
use relink::store::{Changes, Store};
use reqwest::Method;
use serde_json::{Value, json};

use crate::bench::{API_TOKEN, Bench, LINK, answer, because};
use crate::capture;
use crate::command_line::{command, printed, publish, publish_history, relink};

/// Stores dead letters with these reasons.
async fn store_letters(bench: &Bench, reasons: &[DeadReason]) {
    let letters = DeadLetters::new(bench.nats.context.clone(), Subjects::default());
    for (at, reason) in reasons.iter().enumerate() {
        let mut headers = HeaderMap::new();
        headers.insert("ce-id", format!("w-{at}"));
        let letter = DeadLetter {
            subject: format!("belvo.webhook.{LINK}"),
            headers,
            payload: format!("{{\"number\": {at}}}").into(),
            reason: *reason,
            detail: "why it could not be handled".to_owned(),
            input: None,
        };
        letters.publish(&letter).await.unwrap();
    }
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn dead_letters_are_replayed_and_dropped_in_bulk() {
    let bench = Bench::new().await;
    store_letters(&bench, &[DeadReason::NoLink, DeadReason::UnknownCode, DeadReason::UnknownCode]).await;
    let list = printed(&bench, &["dead-letters", "list", "--reason", "unknown_code"]).await;
    assert!(list.lines().count() == 4 && list.ends_with("2 dead letters: 2 unknown_code\n"), "{list}");
    assert_eq!(printed(&bench, &["dead-letters", "list", "--before", "1h"]).await, "no dead letter matches\n");

    // Without a terminal and without --yes nothing is done; a dry run only lists.
    for args in [&["replay", "--reason", "unknown_code"][..], &["drop", "--all"], &["drop", "1"]] {
        let output = relink(&bench, &[&["dead-letters"], args].concat()).await;
        assert!(!output.status.success() && stderr(&output).contains("confirm this with --yes"), "{}", stderr(&output));
    }
    let dry = printed(&bench, &["dead-letters", "drop", "--all", "--dry-run"]).await;
    assert!(dry.ends_with("drop: 3 dead letters; nothing was done (--dry-run)\n") && dry.lines().count() == 5, "{dry}");
    let output = relink(&bench, &["dead-letters", "replay"]).await;
    assert_eq!(output.status.code(), Some(2), "which ones? {}", stderr(&output));
    assert!(stderr(&output).contains("say which dead letters to replay"), "{}", stderr(&output));
    let output = relink(&bench, &["dead-letters", "list", "--reason", "nope"]).await;
    assert!(
        !output.status.success() && stderr(&output).contains("no dead letter has the reason `nope`"),
        "{}",
        stderr(&output)
    );
    let output = relink(&bench, &["dead-letters", "show", "seven"]).await;
    assert!(stderr(&output).contains("must be a whole number"), "{}", stderr(&output));
    assert!(bench.inputs().await.is_empty());

    let replayed = printed(&bench, &["dead-letters", "replay", "--reason", "unknown_code", "--yes"]).await;
    assert!(replayed.starts_with("replayed: 2 of 2 dead letters; what relink still cannot handle"), "{replayed}");
    assert_eq!(bench.inputs().await.len(), 2);

    let drop = ["dead-letters", "drop", "2", "--yes", "--by", "ana", "--why", "of a\ntest"];
    let dropped = printed(&bench, &drop).await;
    assert_eq!(dropped, format!("dead letter 2 (unknown_code, belvo.webhook.{LINK}) was dropped\n"));
    let output = relink(&bench, &["dead-letters", "drop", "1", "2", "--yes"]).await;
    assert!(stderr(&output).contains("404: there is no dead letter 2"), "{}", stderr(&output));
    let all = printed(&bench, &["dead-letters", "drop", "--all", "--yes", "--json"]).await;
    let all: Value = serde_json::from_str(&all).unwrap();
    assert_eq!((all["done"].as_array().unwrap().len(), &all["failed"]), (2, &json!([])), "{all}");
    assert_eq!(printed(&bench, &["dead-letters", "list"]).await, "there are no dead letters\n");
    assert_eq!(printed(&bench, &["dead-letters", "drop", "--all", "--yes"]).await, "no dead letter matches\n");

    // What is dropped leaves one line in the log.
    let log = capture::log();
    let line = log.lines().find(|line| line.contains("is dropped by an operator") && line.contains("ana")).unwrap();
    for part in ["dead_letter.sequence=2", "unknown_code", "w-1", LINK, r"of a\\ntest"] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

#[tokio::test]
async fn a_drop_names_its_token_and_refuses_a_wrong_body() {
    let bench = Bench::with(&[("RELINK_NAMED_API_TOKENS", "night-shift:operate+read:t-operate")]).await;
    store_letters(&bench, &[DeadReason::NoLink]).await;
    let request = || bench.request(Method::POST, "/v1/dead-letters/1/drop").bearer_auth("t-operate");
    for body in [json!({"why": "?"}), json!(["ana", "because"]), json!({"by": 7})] {
        answer(request().json(&body)).await.problem(422, "wrong-shape");
    }
    let dropped = answer(request()).await;
    let expected =
        json!({"dead_letter": 1, "subject": format!("belvo.webhook.{LINK}"), "reason": "no_link", "message_id": "w-0"});
    assert_eq!((dropped.status, &dropped.body), (200, &expected));
    answer(request()).await.problem(404, "not-found");
    assert!(
        capture::log().lines().any(|line| line.contains("is dropped by an operator") && line.contains("night-shift"))
    );
}

#[tokio::test]
async fn institutions_are_listed_with_their_incidents() {
    let bench = Bench::new().await;
    bench.put(LINK, "erebor", State::Valid { suspicion: None });
    bench.put("other-link", "gotham", State::Unconfirmed);
    let at = "2023-11-14T22:13:20.000Z";
    let began: IncidentBody =
        serde_json::from_value(json!({"type": "began", "cause": "failing_links", "institution": "gotham",
        "at": at, "began_at": at, "links_count": 12, "deferred_count": 0, "threshold": 10, "window_seconds": 600,
        "because": {"origin": {"kind": "timer", "received_at": at}}}))
        .unwrap();
    bench.store.apply(&Changes { incidents: vec![began], ..Changes::default() }).unwrap();
    let table = printed(&bench, &["institutions"]).await;
    assert!(
        table.contains("gotham") && table.contains("12 links at its begin") && table.contains("2 institutions\n"),
        "{table}"
    );
    let table = printed(&bench, &["institutions", "--not-operational"]).await;
    assert!(table.contains("gotham") && !table.contains("erebor"), "{table}");
    let json = printed(&bench, &["institutions", "--state", "down", "--json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["institutions"][0]["incident"], json!({"began_at": at, "links_count": 12}));
    let one = printed(&bench, &["institutions", "--institution", "erebor"]).await;
    assert!(one.contains("1 valid") && one.contains("1 institution\n"), "{one}");
}

#[tokio::test]
async fn at_shows_the_state_of_a_time() {
    let bench = Bench::new().await;
    publish_history(&bench).await;
    let then = printed(&bench, &["at", LINK, "2023-11-14T22:13:20Z"]).await;
    assert!(then.contains("was valid since") && then.contains("this is still the state of the link"), "{then}");
    let before = printed(&bench, &["at", LINK, "2023-11-14"]).await;
    assert!(before.contains("did not know the link"), "{before}");
    let json: Value = serde_json::from_str(&printed(&bench, &["at", LINK, "now", "--json"]).await).unwrap();
    assert_eq!((&json["state"]["state"], &json["is_future"]), (&json!("valid"), &json!(false)));
    let output = relink(&bench, &["at", "unknown-link", "now"]).await;
    assert!(stderr(&output).contains("404: relink does not know the link"), "{}", stderr(&output));
    let output = relink(&bench, &["at", LINK, "2023-11-14T22:13:20"]).await;
    assert!(stderr(&output).contains("has no offset: add Z for UTC"), "{}", stderr(&output));
    let output = relink(&bench, &["at", LINK, "yesterday"]).await;
    assert!(stderr(&output).contains("must be a time such as"), "{}", stderr(&output));
}

#[tokio::test]
async fn stats_read_the_notices_and_the_open_outages() {
    let bench = Bench::new().await;
    let opened = "2023-11-14T22:13:20.000Z";
    for (name, at) in [
        ("update_required", "2023-11-14T22:14:20.000Z"),
        ("data_available", opened),
        ("recovered", "2023-11-14T23:13:20.000Z"),
    ] {
        let body = json!({"type": name, "institution": "erebor", "because": {"at": at},
            "episode": {"number": 1, "cause": "token", "opened_at": opened, "prompts_count": 1}});
        publish(&bench, format!("link.notice.{name}.{LINK}"), name, &body).await;
    }
    let since = ["stats", "--since", "2023-11-01"];
    let json: Value = serde_json::from_str(&printed(&bench, &[&since[..], &["--json"]].concat()).await).unwrap();
    let stages = json["total"]["stages"].as_array().unwrap().iter();
    let stages: Vec<_> =
        stages.map(|stage| (stage["stage"].as_str().unwrap(), stage["outages_count"].as_u64())).collect();
    let expected =
        [("detected", 1), ("prompted", 1), ("opened", 0), ("updating", 0), ("recovered", 1), ("refreshed", 0)];
    assert_eq!(stages, expected.map(|(stage, count)| (stage, (stage != "opened").then_some(count))));
    let csv = printed(&bench, &[&since[..], &["--csv", "--by", "institution"]].concat()).await;
    assert!(csv.contains("institution,erebor,recovered,1,1,,\n"), "{csv}");
    let table = printed(&bench, &since).await;
    assert!(table.contains("detected to recovered") && table.contains("60 min"), "{table}");
    // The default is the last 30 days.
    assert!(printed(&bench, &["stats", "--csv"]).await.contains("total,,detected,0,,,\n"));
    let output = relink(&bench, &["stats", "--since", "1h", "--until", "2h"]).await;
    assert!(stderr(&output).contains("must be before --until"), "{}", stderr(&output));
    // An institution of the notices is known, also if it has no links; a mistyped name is not.
    let of_erebor = printed(&bench, &[&since[..], &["--institution", "erebor"]].concat()).await;
    assert!(of_erebor.contains("Outages at erebor"), "{of_erebor}");
    let output = relink(&bench, &["stats", "--institution", "nope"]).await;
    assert!(!output.status.success() && stderr(&output).contains("knows no institution `nope`"), "{}", stderr(&output));
}

#[tokio::test]
async fn an_address_with_a_password_is_refused_and_not_printed() {
    let bench = Bench::new().await;
    let url = bench.url.replace("http://", "http://ana:hunter2@");
    for args in [&["links"][..], &["stats"], &["tail"], &["mute", LINK]] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_relink"));
        let output = command.args(args).args(["--token", API_TOKEN, "--url", &url]).env_clear().output().await.unwrap();
        let text = stderr(&output);
        assert!(!output.status.success() && text.contains("--url must have no user"), "{text}");
        assert!(!text.contains("hunter2") && output.stdout.is_empty(), "{text}");
    }
}

#[tokio::test]
async fn a_snooze_without_sense_and_an_unknown_link_are_named() {
    let bench = Bench::new().await;
    for (flag, end, why) in [
        ("--for", "0s", "must be longer than 0 s"),
        ("--for", "100years", "`relink mute` stops the reminders"),
        ("--until", "2126-01-01T00:00:00Z", "`relink mute` stops the reminders"),
    ] {
        let output = relink(&bench, &["snooze", LINK, flag, end]).await;
        assert!(!output.status.success() && stderr(&output).contains(why), "{}", stderr(&output));
    }
    assert!(bench.inputs().await.is_empty());
    for args in [&["mute"][..], &["unmute"], &["snooze", "--for", "3days"], &["unsupersede"], &["release"]] {
        let (output, shown) = (relink(&bench, &[args, &[LINK]].concat()).await, relink(&bench, &["show", LINK]).await);
        let text = stderr(&output);
        assert!(text.contains(&format!("404: relink does not know the link {LINK}")), "{args:?}: {text}");
        assert!(text.contains("Nothing has changed") && output.stdout.is_empty(), "{args:?}: {text}");
        assert_eq!(output.status.code(), shown.status.code(), "{args:?}");
    }
    assert!(bench.inputs().await.is_empty(), "a mistyped id creates no link");
    let output = relink(&bench, &["tail", "--link", LINK, "--no-follow"]).await;
    assert!(
        output.status.success() && stderr(&output).contains("relink does not know the link"),
        "{}",
        stderr(&output)
    );
    let output = relink(&bench, &["links", "--token", "one\ntwo"]).await;
    assert!(!output.status.success() && stderr(&output).contains("must be on one line"), "{}", stderr(&output));
    let output = command(&bench, &["verify"], |origin| {
        let mut link = Link::unknown(LINK.parse().unwrap(), Timestamp::from_millis(1_700_000_000_000));
        link.version = 1;
        let mut record = serde_json::to_value(Record::of(&link, 0, because(), Vec::new())).unwrap();
        record["because"]["origin"] = origin.clone();
        (format!("$KV.links.{LINK}"), record)
    });
    let text = String::from_utf8(output.await.stdout).unwrap();
    assert!(text.contains(&format!("relink did not know the link {LINK} before")), "{text}");
}

#[tokio::test]
async fn a_problem_names_the_whole_path() {
    let bench = Bench::new().await;
    let missing = bench.get("/v1/nothing/here").await;
    let detail = missing.problem(404, "not-found")["detail"].as_str().unwrap();
    assert!(detail.contains("/v1/nothing/here"), "{detail}");
    let wrong = answer(bench.request(Method::DELETE, "/v1/links").bearer_auth(API_TOKEN)).await;
    let detail = wrong.problem(405, "method-not-allowed")["detail"].as_str().unwrap();
    assert!(detail.starts_with("/v1/links does not support"), "{detail}");
    let page = answer(bench.request(Method::GET, "/openapi/")).await;
    assert!(page.status == 200 && page.text.contains("<code>") && !page.text.contains('`'), "{}", page.status);
}

//! The reading endpoints: links, histories, the summary, dead letters.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::HeaderMap;
use relink::contract::{
    At, IncidentBecause, IncidentBody, IncidentCause, IncidentChange, NoticeName, Record, RefusedBody, SweepStatus,
};
use relink::engine::Activity;
use relink::link::{
    Cause, Episode, EpisodeNumber, Link, Messaged, Need, Prompt, State, StateName, Timestamp, UpdatePhase, WaitingLink,
};
use relink::nats::lag::{Lag, PartitionLag};
use relink::store::{Changes, Store};
use reqwest::Method;
use serde_json::{Value, json};

use crate::bench::{API_TOKEN, Bench, LINK, WEBHOOK_SECRET, answer, because};
use crate::command_line::printed;
use crate::support::within;

fn valid() -> State {
    State::Valid { suspicion: None }
}

fn ids(body: &Value) -> Vec<&str> {
    body["links"].as_array().unwrap().iter().map(|link| link["link_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn links_are_listed_filtered_and_paged() {
    let bench = Bench::new().await;
    bench.put("a", "erebor", valid());
    bench.put("b", "gringotts", valid());
    bench.put("c", "erebor", State::Unconfirmed);
    bench.put("d", "erebor", valid());
    for (query, expected) in [
        ("", vec!["a", "b", "c", "d"]),
        ("?state=valid", vec!["a", "b", "d"]),
        ("?institution=erebor", vec!["a", "c", "d"]),
        ("?state=valid&institution=erebor", vec!["a", "d"]),
        ("?external_id=user-d", vec!["d"]),
        ("?external_id=user-d&institution=erebor&state=valid", vec!["d"]),
        ("?external_id=user-d&institution=gringotts", vec![]),
        ("?after=b", vec!["c", "d"]),
        ("?state=removed", vec![]),
        ("?state=", vec!["a", "b", "c", "d"]),
    ] {
        let answer = bench.get(&format!("/v1/links{query}")).await;
        assert_eq!((answer.status, ids(&answer.body)), (200, expected), "{query}");
    }
    let mut seen = Vec::new();
    let mut path = "/v1/links?limit=3".to_owned();
    loop {
        let page = bench.get(&path).await;
        seen.extend(ids(&page.body).into_iter().map(str::to_owned));
        let Some(next) = page.body["next"].as_str() else { break };
        path = format!("/v1/links?limit=3&after={next}");
    }
    assert_eq!(seen, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn whom_to_ask_is_listed_without_those_whom_nobody_asks() {
    let bench = Bench::new().await;
    let sent = |cause, prompt| {
        let at = Timestamp::from_millis(1_700_000_000_000);
        State::broken(Episode { prompt, ..episode(cause, at) })
    };
    bench.put("a", "erebor", sent(Cause::Credentials, Prompt::Sent));
    bench.put("b", "erebor", sent(Cause::Token, Prompt::Sent));
    bench.put("c", "gringotts", sent(Cause::ConsentEnded, Prompt::Sent));
    bench.put("d", "erebor", sent(Cause::Token, Prompt::Sent));
    bench.put("e", "erebor", sent(Cause::Unsupported, Prompt::Sent));
    bench.put("f", "erebor", sent(Cause::Credentials, Prompt::Muted));
    let until = Timestamp::from_millis(1_700_000_600_000);
    bench.put("g", "erebor", sent(Cause::Credentials, Prompt::Deferred { until, asked_at: None }));
    let phase = UpdatePhase::WithUser { started_at: until, until };
    let episode = Episode { attempts_count: 1, ..episode(Cause::Token, until) };
    bench.put("h", "erebor", State::Updating { episode: episode.clone(), phase });
    bench.put("i", "erebor", valid());
    for (query, expected) in [
        ("", vec!["a", "b", "c", "d"]),
        ("?institution=erebor", vec!["a", "b", "d"]),
        ("?external_id=user-b", vec!["b"]),
        ("?after=b", vec!["c", "d"]),
    ] {
        let answer = bench.get(&format!("/v1/prompts{query}")).await;
        assert_eq!((answer.status, ids(&answer.body)), (200, expected), "{query}");
    }
    for limit in 1..9 {
        let (mut seen, mut path) = (Vec::new(), format!("/v1/prompts?limit={limit}"));
        loop {
            let page = bench.get(&path).await;
            assert!(ids(&page.body).len() <= limit);
            seen.extend(ids(&page.body).into_iter().map(str::to_owned));
            let Some(next) = page.body["next"].as_str() else { break };
            path = format!("/v1/prompts?limit={limit}&after={next}");
        }
        assert_eq!(seen, ["a", "b", "c", "d"], "{limit}");
    }
    let down = json!({"type": "began", "cause": "status_page", "institution": "erebor", "at": "2026-11-22T10:00:00Z",
        "began_at": "2026-11-22T10:00:00Z", "links_count": 0, "deferred_count": 0, "threshold": 0, "window_seconds": 600,
        "because": {"origin": {"kind": "institution_status", "received_at": "2026-11-22T10:00:00Z"}}});
    let incidents = vec![serde_json::from_value(down).unwrap()];
    bench.store.apply(&Changes { incidents, ..Changes::default() }).unwrap();
    assert_eq!(ids(&bench.get("/v1/prompts").await.body), ["c"], "the bank of the others is down");
    for (id, down_since) in [("a", Some("2026-11-22T10:00:00.000Z")), ("c", None)] {
        let shown = bench.get(&format!("/v1/links/{id}")).await.body;
        assert_eq!(shown["institution_down_since"].as_str(), down_since, "{shown}");
    }
    bench.get("/v1/prompts?state=valid").await.problem(400, "bad-parameter");
    // The others that are broken were not prompted; a superseded link is not to be asked about.
    let superseded = Episode { superseded_by: Some("b".parse().unwrap()), prompt: Prompt::Muted, ..episode };
    bench.put("j", "erebor", State::broken(superseded));
    for (query, expected) in [("", vec!["f", "g"]), ("?institution=gringotts", vec![]), ("?after=f", vec!["g"])] {
        let answer = bench.get(&format!("/v1/prompts/held{query}")).await;
        assert_eq!((answer.status, ids(&answer.body)), (200, expected), "{query}");
    }
    bench.get("/v1/prompts/held?limit=0").await.problem(400, "bad-parameter");
    let table = printed(&bench, &["links", "--held", "--institution", "erebor"]).await;
    assert!(table.contains("2 links\n") && table.contains("check of the incident now"), "{table}");
    let first = printed(&bench, &["links", "--held", "--sort", "external-id", "--reverse", "--limit", "1"]).await;
    assert!(first.contains("user-g") && first.contains("the first 1 link;"), "{first}");
}

#[tokio::test]
async fn a_link_that_a_message_about_another_one_mentions_is_asked_for_and_not_held() {
    let bench = Bench::new().await;
    let at = Timestamp::from_millis(1_700_000_000_000);
    let link = |id: &str, state| {
        let mut link = Link::unknown(id.parse().unwrap(), at);
        (link.version, link.state, link.profile.external_id) = (1, state, Some("maria".to_owned()));
        link
    };
    let postponed = |number| {
        let prompt = Prompt::Postponed { until: Timestamp::from_millis(1_900_000_000_000) };
        let number = EpisodeNumber(number);
        State::broken(Episode { prompt, number, ..episode(Cause::Credentials, at) })
    };
    // The link that the message was about works again. The message mentioned an earlier outage of the last link.
    let need = Need::Repair { episode: EpisodeNumber(1), cause: Cause::Credentials };
    let mention = |id: &str| WaitingLink { id: id.parse().unwrap(), institution: None, need };
    let mut about = link("about", valid());
    about.messaged = Some(Messaged { at, mentioned: vec![mention("mentioned"), mention("later")] });
    for link in [about, link("mentioned", postponed(1)), link("later", postponed(2)), link("other", postponed(1))] {
        bench.put_link(&link);
    }
    assert_eq!(ids(&bench.get("/v1/prompts").await.body), ["mentioned"]);
    assert_eq!(ids(&bench.get("/v1/prompts/held").await.body), ["later", "other"]);
    for (id, mentioned) in [("mentioned", true), ("later", false), ("other", false), ("about", false)] {
        let shown = bench.get(&format!("/v1/links/{id}")).await.body;
        let expected =
            json!({"at": "2023-11-14T22:13:20.000Z", "link_id": "about", "counts_until": "2023-11-15T22:13:20.000Z"});
        assert_eq!(shown.get("last_mention"), mentioned.then_some(&expected), "{id}: {shown}");
    }
    let text = printed(&bench, &["show", "mentioned"]).await;
    let expected = "The last message to the same user that mentioned this link too was about the link about, at 2023-11-14T22:13:20.000Z";
    assert!(text.contains(expected), "{text}");
}

fn episode(cause: Cause, opened_at: Timestamp) -> Episode {
    Episode::new(EpisodeNumber(1), cause, opened_at, Prompt::Sent)
}

#[tokio::test]
async fn unknown_parameters_and_values_are_refused() {
    let bench = Bench::new().await;
    for (query, parameter) in [
        ("status=valid", "status"),
        ("state=broken", "state"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=many", "limit"),
        ("after=a.b", "after"),
        ("limit=1&limit=2", "limit"),
    ] {
        let answer = bench.get(&format!("/v1/links?{query}")).await;
        assert_eq!(answer.problem(400, "bad-parameter")["parameter"], parameter, "{query}");
    }
    let answer = bench.get("/v1/links?state=broken").await;
    assert!(answer.body["detail"].as_str().unwrap().contains("`token_required`"), "{}", answer.text);
    let answer = bench.get("/v1/dead-letters?after=x").await;
    assert_eq!(answer.problem(400, "bad-parameter")["detail"], "`after`: must be a whole number, from 0.");
    bench.get("/v1/dead-letters/x").await.problem(400, "bad-parameter");
}

#[tokio::test]
async fn a_link_is_shown_without_internal_fields() {
    let bench = Bench::new().await;
    bench.put(LINK, "erebor", valid());
    let answer = bench.get(&format!("/v1/links/{LINK}")).await;
    assert_eq!((answer.status, &answer.body["state"]), (200, &json!("valid")), "{}", answer.text);
    assert_eq!(answer.body["because"]["origin"]["message_id"], "w-1");
    assert!(answer.body.get("recent").is_none());
    let upper = bench.get(&format!("/v1/links/{}", LINK.to_uppercase())).await;
    assert_eq!(upper.status, 200, "every spelling names the same link");
    bench.get("/v1/links/unknown-link").await.problem(404, "not-found");
    bench.get("/v1/links/a.b").await.problem(400, "bad-parameter");
}

#[tokio::test]
async fn the_summary_counts_every_state() {
    let bench = Bench::new().await;
    bench.put("a", "erebor", valid());
    bench.put("b", "erebor", valid());
    bench.put("c", "erebor", State::Removed);
    let answer = bench.get("/v1/summary").await;
    let by_state =
        json!({"invalid": 0, "removed": 1, "token_required": 0, "unconfirmed": 0, "updating": 0, "valid": 2});
    let by_institution = json!({"erebor": {"valid": 2, "removed": 1}});
    let expected = json!({"links_count": 3, "by_state": by_state, "by_institution": by_institution, "incidents": [],
        "drift_by_institution": {}});
    assert_eq!(answer.body, expected);
}

#[tokio::test]
async fn the_summary_contains_incidents_and_drift() {
    let bench = Bench::new().await;
    let at = because().at;
    let incident = |institution: &str, change| IncidentBody {
        change,
        cause: IncidentCause::StatusPage,
        institution: institution.to_owned(),
        at,
        began_at: at,
        links_count: 21,
        deferred_count: 3,
        threshold: 20,
        window_seconds: 600,
        because: IncidentBecause { link_id: None, origin: because().origin },
    };
    let incidents = vec![incident("erebor", IncidentChange::Began), incident("gringotts", IncidentChange::Ended)];
    bench.store.apply(&Changes { incidents, ..Changes::default() }).unwrap();
    bench.drift.send_replace(BTreeMap::from([("erebor".to_owned(), 4)]));
    let summary = bench.get("/v1/summary").await.body;
    assert_eq!(summary["incidents"], json!([{"institution": "erebor", "began_at": at, "links_count": 21}]));
    assert_eq!(summary["drift_by_institution"], json!({"erebor": 4}));
}

#[tokio::test]
async fn the_status_has_the_sweeps_the_budget_and_what_waits() {
    let bench = Bench::with(&[
        ("RELINK_WEBHOOK_SECRETS", WEBHOOK_SECRET),
        ("RELINK_API_TOKENS", API_TOKEN),
        ("RELINK_BELVO_URL", "http://127.0.0.1:9"),
        ("RELINK_BELVO_SECRET_ID", "id"),
        ("RELINK_BELVO_SECRET_PASSWORD", "password"),
    ])
    .await;
    let empty = bench.get("/v1/status").await.body;
    assert_eq!(
        (&empty["sweeps"], &empty["partitions"], &empty["partitions_read_at"]),
        (&json!([]), &json!([]), &json!(null))
    );
    let at = Timestamp::from_millis(1_700_000_000_000);
    let ended = SweepStatus { step: "broken", ended_at: At(at), took_secs: 1.5 };
    bench.steps_ended.send_replace(BTreeMap::from([("broken", ended)]));
    let lags = vec![PartitionLag::default(), PartitionLag { waiting: 3, oldest_at: Some(at) }];
    bench.lag.send_replace(Lag { read_at: Some(at), partitions: lags });
    let status = bench.get("/v1/status").await.body;
    let text = "2023-11-14T22:13:20.000Z";
    assert_eq!(status["sweeps"], json!([{"step": "broken", "ended_at": text, "took_secs": 1.5}]));
    let partitions =
        json!([{"partition": 0, "waiting": 0, "oldest_at": null}, {"partition": 1, "waiting": 3, "oldest_at": text}]);
    assert_eq!((&status["partitions"], &status["partitions_read_at"]), (&partitions, &json!(text)));
    let belvo = json!({"requests_max": 80, "requests_left": 80, "window_secs": 30, "keys_refused": false});
    assert_eq!((&status["belvo"], &status["journal"]["waiting"]), (&belvo, &json!(0)));
    let metrics = answer(bench.request(Method::GET, "/metrics")).await.text;
    assert!(metrics.lines().any(|line| line == "relink_belvo_requests_left 80"), "{metrics}");
    // A counter has a value before its first event, and a histogram has buckets, so that Prometheus adds up those of several instances.
    for start in
        ["relink_foreign_messages_total ", "relink_http_request_seconds_bucket{route=\"/v1/status\",le=\"0.001\"} "]
    {
        assert!(metrics.lines().any(|line| line.starts_with(start)), "{start}: {metrics}");
    }
    // Without keys there are no sweeps and no calls.
    let bench = Bench::new().await;
    assert!(bench.get("/v1/status").await.body.get("belvo").is_none());
}

#[tokio::test]
async fn the_activity_counts_the_last_hours() {
    let bench = Bench::new().await;
    let empty = bench.get("/v1/activity").await;
    assert_eq!((empty.status, &empty.body["periods"], &empty.body["since"]), (200, &json!([]), &Value::Null));
    let now = because().at.0;
    bench.as_of.send_replace(Some(now));
    for hours_ago in [5, 0] {
        let mut activity =
            Activity { at: Some(now.before(Duration::from_secs(hours_ago * 3_600))), ..Activity::default() };
        activity.outages_count = 1;
        activity.transitions.insert((StateName::Valid, StateName::Invalid), 1);
        activity.notices.insert(NoticeName::UpdateRequired, 1);
        activity.prompts.extend([(0, 1), (2, 1)]);
        activity.repaired_after = vec![Duration::from_secs(60)];
        bench.activity.add(&activity);
    }
    let day = bench.get("/v1/activity").await.body;
    assert_eq!((day["outages_count"].as_u64(), day["periods"].as_array().map(Vec::len)), (Some(2), Some(2)), "{day}");
    assert_eq!(day["transitions"], json!([{"from": "valid", "to": "invalid", "count": 2}]));
    assert_eq!((&day["notices"], &day["prompts"]), (&json!({"update_required": 2}), &json!([2, 0, 2])));
    let p50 = day["time_to_repair"]["p50_secs"].as_f64().unwrap();
    assert!((59.0..=61.0).contains(&p50) && day["time_to_prompt"]["p50_secs"].is_null(), "{day}");
    let hour = bench.get("/v1/activity?hours=1").await.body;
    assert_eq!((hour["outages_count"].as_u64(), &hour["since"]), (Some(1), &hour["periods"][0]["at"]), "{hour}");
    for bad in ["hours=0", "hours=25", "hours=x", "days=1"] {
        bench.get(&format!("/v1/activity?{bad}")).await.problem(400, "bad-parameter");
    }
}

#[tokio::test]
async fn each_institution_has_a_state() {
    let bench = Bench::new().await;
    bench.put("a", "erebor", valid());
    bench.put("b", "gringotts", valid());
    let at = because().at;
    let changes =
        [("erebor", IncidentChange::Began), ("gotham", IncidentChange::Degraded), ("ironbank", IncidentChange::Ended)];
    let incidents = changes.map(|(institution, change)| IncidentBody {
        change,
        cause: IncidentCause::OutageErrors,
        institution: institution.to_owned(),
        at,
        began_at: at,
        links_count: 5,
        deferred_count: 0,
        threshold: 5,
        window_seconds: 600,
        because: IncidentBecause { link_id: None, origin: because().origin },
    });
    bench.store.apply(&Changes { incidents: incidents.to_vec(), ..Changes::default() }).unwrap();
    let none = json!({});
    let expected = json!({"institutions": [
        {"institution": "erebor", "state": "down", "since": at, "cause": "outage_errors", "links_count": 1, "by_state": {"valid": 1}},
        {"institution": "gotham", "state": "degraded", "since": at, "cause": "outage_errors", "links_count": 0, "by_state": none},
        {"institution": "gringotts", "state": "operational", "links_count": 1, "by_state": {"valid": 1}},
        {"institution": "ironbank", "state": "operational", "since": at, "links_count": 0, "by_state": none},
    ]});
    assert_eq!(bench.get("/v1/institutions").await.body, expected);
}

#[tokio::test]
async fn a_history_has_all_messages_of_its_link_in_order() {
    let bench = Bench::new().await;
    let mut link = Link::unknown(LINK.parse().unwrap(), Timestamp::from_millis(0));
    link.version = 1;
    link.state = valid();
    let record = serde_json::to_value(Record::of(&link, 0, because(), vec![format!("{LINK}.1.1")])).unwrap();
    let refused = RefusedBody {
        link_id: LINK.into(),
        event: Some("token_requested".into()),
        reason: "repeat".into(),
        detail: "known already".into(),
        state: None,
        origin: because().origin,
    };
    let messages = [
        (format!("$KV.links.{LINK}"), record),
        (format!("link.notice.data_available.{LINK}"), json!({"type": "data_available"})),
        ("$KV.links.other".to_owned(), json!({})),
        (format!("link.job.verify.{LINK}"), json!({"type": "verify"})),
        ("link.offset.0".to_owned(), json!({})),
        (format!("link.refused.{LINK}"), serde_json::to_value(&refused).unwrap()),
    ];
    for (at, (subject, body)) in messages.into_iter().enumerate() {
        let mut headers = HeaderMap::new();
        headers.insert("ce-id", format!("{LINK}.1.{at}"));
        let publish = bench.nats.context.publish_with_headers(subject, headers, body.to_string().into());
        publish.await.unwrap().await.unwrap();
    }
    let answer = bench.get(&format!("/v1/links/{LINK}/history")).await;
    assert_eq!((answer.status, &answer.body["truncated"]), (200, &json!(false)), "{}", answer.text);
    let entries = answer.body["entries"].as_array().unwrap();
    let listed: Vec<_> =
        entries.iter().map(|entry| (entry["kind"].as_str().unwrap(), entry["type"].as_str())).collect();
    let expected = [("state", None), ("notice", Some("data_available")), ("job", Some("verify")), ("refused", None)];
    assert_eq!(listed, expected);
    assert_eq!(entries[0]["message_id"], format!("{LINK}.1.0"));
    assert_eq!(entries[0]["body"]["because"]["event"], "data_arrived");
    assert!(entries[0]["stored_at"].as_str().unwrap().ends_with('Z'));
    bench.get("/v1/links/unknown-link/history").await.problem(404, "not-found");
}

#[tokio::test]
async fn dead_letters_are_listed_shown_and_replayed() {
    let bench = Bench::new().await;
    answer(bench.webhook("hello")).await.problem(400, "not-json");
    let no_code = json!({"webhook_type": "LINK", "link_id": LINK}).to_string();
    answer(bench.webhook(no_code.clone())).await.problem(422, "wrong-shape");
    answer(bench.webhook(vec![0xff, 0xfe])).await.problem(400, "not-json");

    let list = bench.get("/v1/dead-letters").await;
    let letters = list.body["dead_letters"].as_array().unwrap();
    assert_eq!(letters.len(), 3);
    assert_eq!((&letters[0]["reason"], &letters[0]["bytes"]), (&json!("malformed"), &json!(5)));
    assert!(letters[0].get("payload").is_none(), "the list contains no payloads");
    let page = bench.get("/v1/dead-letters?limit=2").await;
    assert_eq!((&page.body["next"], &page.body["total"]), (&json!(2), &json!(3)));
    let end = bench.get("/v1/dead-letters?after=18446744073709551615").await;
    assert_eq!(end.body["dead_letters"], json!([]), "{}", end.text);
    assert_eq!(bench.get("/v1/dead-letters?after=2").await.body["dead_letters"].as_array().unwrap().len(), 1);

    assert_eq!(bench.get("/v1/dead-letters/1").await.body["payload"], "hello");
    assert_eq!(bench.get("/v1/dead-letters/3").await.body["payload_base64"], "//4=");
    for missing in ["99", "0", "18446744073709551615"] {
        bench.get(&format!("/v1/dead-letters/{missing}")).await.problem(404, "not-found");
        bench.post(&format!("/v1/dead-letters/{missing}/replay"), "").await.problem(404, "not-found");
    }
    for wrong in ["-1", "18446744073709551616", "one"] {
        bench.get(&format!("/v1/dead-letters/{wrong}")).await.problem(400, "bad-parameter");
    }

    bench.post("/v1/dead-letters/1/replay", "").await.problem(409, "not-replayable");
    let replayed = bench.post("/v1/dead-letters/2/replay", "").await;
    assert_eq!(replayed.body, json!({"dead_letter": 2, "sequence": 1}));
    let stored = bench.inputs().await;
    assert_eq!(
        (stored[0].0.as_str(), &stored[0].2[..]),
        (format!("belvo.webhook.{LINK}").as_str(), no_code.as_bytes())
    );
}

#[tokio::test]
async fn answers_from_the_store_have_their_time_and_need_no_nats() {
    const AS_OF: &str = "relink-as-of";
    let mut bench = Bench::new().await;
    bench.put(LINK, "erebor", valid());
    let link = format!("/v1/links/{LINK}");
    assert!(bench.get(&link).await.headers.get(AS_OF).is_none(), "the store has not caught up yet");
    bench.as_of.send_replace(Some(Timestamp::from_millis(1_700_000_000_000)));
    bench.nats.kill().await;
    for (path, status) in [(link.as_str(), 200), ("/v1/links", 200), ("/v1/summary", 200), ("/v1/links/unknown", 404)] {
        let answer = bench.get(path).await;
        assert_eq!((answer.status, &answer.headers[AS_OF]), (status, &"2023-11-14T22:13:20.000Z".parse().unwrap()));
    }
    assert!(bench.get("/v1/links?limit=0").await.headers.get(AS_OF).is_none(), "a refusal is not from the store");
}

#[tokio::test]
async fn reads_of_nats_fail_soon_while_it_is_gone() {
    let mut bench = Bench::new().await;
    bench.nats.kill().await;
    // Together they end within the limit of one `within`; each alone took up to ten seconds.
    let all = async {
        // An empty answer with events would say that nothing has happened: `relink stats` counted only the outages that were open.
        let events = "/v1/events?after=0&wait=0".to_owned();
        let history = format!("/v1/links/{LINK}/history");
        for path in [history, "/v1/dead-letters".to_owned(), "/v1/dead-letters/1".to_owned(), events] {
            for _again in 0..2 {
                let answer = bench.get(&path).await;
                answer.problem(503, "unavailable");
                assert!(answer.headers.contains_key("retry-after"), "{path}");
            }
        }
        bench.post("/v1/dead-letters/1/replay", "").await.problem(503, "unavailable");
    };
    within("the answers", all).await;
}

//! API tokens with a name and scopes: what each may do, and where its name appears.

use relink::contract::{Operation, Scope};
use reqwest::Method;
use serde_json::json;
use strum::VariantArray;

use crate::bench::{API_TOKEN, Bench, LINK, answer};
use crate::openapi::request_for;

#[tokio::test]
async fn a_token_may_do_what_its_scopes_allow_and_nothing_else() {
    let tokens = "app:report+repair:t-app,support:read:t-read,ops:operate+read:t-ops:with:colons";
    let bench = Bench::with(&[("RELINK_NAMED_API_TOKENS", tokens)]).await;
    let all = [
        ("t-app", vec![Scope::Report, Scope::Repair]),
        ("t-read", vec![Scope::Read]),
        ("t-ops:with:colons", vec![Scope::Read, Scope::Operate]),
    ];
    for operation in Operation::VARIANTS {
        let Some(scope) = operation.scope() else { continue };
        let (method, path) = request_for(*operation);
        for (token, scopes) in &all {
            let answered = answer(bench.request(method.clone(), &path).bearer_auth(token)).await;
            assert_eq!(answered.status != 403, scopes.contains(&scope), "{token} {path}: {}", answered.text);
            if answered.status == 403 {
                assert_eq!(answered.problem(403, "forbidden")["scope"], scope.to_string());
            }
        }
    }
}

#[tokio::test]
async fn the_command_line_takes_a_token_that_may_do_what_is_asked() {
    let tokens = "support:read:t-support,ops:read+operate:t-ops,app:report+repair:t-app";
    for tokens in [tokens.to_owned(), tokens.rsplit(',').collect::<Vec<_>>().join(",")] {
        let bench = Bench::with(&[("RELINK_NAMED_API_TOKENS", &tokens)]).await;
        bench.put(LINK, "erebor", relink::link::State::Valid { suspicion: None });
        let run = async |args: &[&str]| {
            let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_relink"));
            let command = command.args(args).args(["--url", &bench.url]).env_clear();
            let output = command.env("RELINK_NAMED_API_TOKENS", &tokens).output().await.unwrap();
            (output.status.success(), String::from_utf8(output.stderr).unwrap())
        };
        assert_eq!(run(&["links"]).await, (true, String::new()));
        assert_eq!(run(&["dead-letters", "list"]).await, (true, String::new()));
        let (_, refused) = run(&["forget", LINK, "--yes"]).await;
        assert!(!refused.contains("403"), "{refused}");
        let names: Vec<_> = bench
            .inputs()
            .await
            .iter()
            .map(|(_, headers, _)| headers.get("Relink-Token").unwrap().to_string())
            .collect();
        assert_eq!(names, ["ops"]);
    }
}

#[tokio::test]
async fn a_token_without_a_name_may_do_everything() {
    let bench = Bench::new().await;
    for scope in Scope::VARIANTS {
        let operation = Operation::VARIANTS.iter().find(|operation| operation.scope() == Some(*scope)).unwrap();
        let (method, path) = request_for(*operation);
        let answered = answer(bench.request(method, &path).bearer_auth(API_TOKEN).body("{}")).await;
        assert!(![401, 403].contains(&answered.status), "{scope}: {}", answered.text);
    }
}

#[tokio::test]
async fn an_input_carries_the_name_of_the_token_and_never_the_token() {
    let bench =
        Bench::with(&[("RELINK_NAMED_API_TOKENS", "ana:operate:t-secret"), ("RELINK_API_TOKENS", "plain")]).await;
    let command = |token: &str| {
        let request = bench.request(Method::POST, &format!("/v1/links/{LINK}/commands")).bearer_auth(token);
        // A sender cannot choose the name with a header of the request.
        request.header("relink-token", "somebody-else").json(&json!({"command": "mute", "by": "the day shift"}))
    };
    assert_eq!(answer(command("t-secret")).await.status, 202);
    assert_eq!(answer(command("plain")).await.status, 202);
    let inputs = bench.inputs().await;
    let names: Vec<Option<&str>> =
        inputs.iter().map(|(_, headers, _)| headers.get("Relink-Token").map(|name| name.as_str())).collect();
    assert_eq!(names, [Some("ana"), None]);
    assert!(inputs.iter().all(|(_, headers, body)| {
        !format!("{headers:?}").contains("t-secret") && !String::from_utf8_lossy(body).contains("t-secret")
    }));
}

/// Whoever has a repair link gets a token for the user's bank connection from its page.
#[tokio::test]
async fn only_a_token_that_may_repair_reads_repair_links() {
    let bench = Bench::with(&[("RELINK_NAMED_API_TOKENS", "support:read:t-read,app:read+repair:t-app")]).await;
    let other = json!({"link_id": "other", "institution": "erebor", "episode": 1, "repair_url": "https://r/repair/2"});
    let body = json!({"type": "update_required", "repair_url": "https://r/repair/1", "also_broken": [other]});
    let subject = format!("link.notice.update_required.{LINK}");
    bench.nats.context.publish(subject, body.to_string().into()).await.unwrap().await.unwrap();
    for path in [format!("/v1/links/{LINK}/history"), "/v1/events?wait=0&after=0".to_owned()] {
        let read = async |token: &str| answer(bench.request(Method::GET, &path).bearer_auth(token)).await;
        let (support, app) = (read("t-read").await, read("t-app").await);
        assert_eq!((support.status, app.status), (200, 200), "{}{}", support.text, app.text);
        assert!(support.text.contains("update_required") && support.text.contains("other"), "{}", support.text);
        assert!(!support.text.contains("https://r/repair"), "{}", support.text);
        assert!(app.text.contains("https://r/repair/1") && app.text.contains("https://r/repair/2"), "{}", app.text);
    }
}

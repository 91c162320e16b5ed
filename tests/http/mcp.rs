//! `relink mcp`, against the HTTP server: the handshake of the protocol, and each tool.

use std::process::Stdio;

use relink::link::State;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::bench::{Bench, LINK, WEBHOOK_SECRET, answer};
use crate::command_line::publish_history;
use crate::support::within;

/// An assistant, and the program that it has started.
struct Assistant {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    id: u64,
}

impl Assistant {
    fn start(url: &str, tokens: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relink"));
        command.args(["mcp", "--url", url]).env_clear().envs(tokens.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output).lines(), id: 0 }
    }

    async fn send(&mut self, message: &Value) {
        self.input.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.id += 1;
        self.send(&json!({"jsonrpc": "2.0", "id": self.id, "method": method, "params": params})).await;
        let line = within(method, self.output.next_line()).await.unwrap().expect("an answer");
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&answer["jsonrpc"], &answer["id"]), (&json!("2.0"), &json!(self.id)), "{answer}");
        answer
    }

    /// The text of a tool's answer, and whether it is an error.
    async fn call(&mut self, tool: &str, arguments: Value) -> (String, bool) {
        let answer = self.ask("tools/call", json!({"name": tool, "arguments": arguments})).await;
        let result = &answer["result"];
        let text = result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
        (text.to_owned(), result["isError"] == true)
    }
}

#[tokio::test]
async fn an_assistant_reads_links_by_the_tools() {
    let tokens = [("RELINK_WEBHOOK_SECRETS", WEBHOOK_SECRET), ("RELINK_NAMED_API_TOKENS", "assistant:read:t-read")];
    let bench = Bench::with(&tokens).await;
    publish_history(&bench).await;
    bench.put(LINK, "erebor_mx_retail", State::Valid { suspicion: None });
    let refused = bench.client.post(format!("{}/webhooks/belvo", bench.url)).header("authorization", WEBHOOK_SECRET);
    assert_eq!(answer(refused.body("{\u{1b}[2J")).await.status, 400);

    // The server knows only one of these tokens: the one with the fewest scopes.
    let known = [
        ("RELINK_API_TOKENS", "may-do-everything"),
        ("RELINK_NAMED_API_TOKENS", "ops:read+operate:t-ops,assistant:read:t-read,app:report:t-app"),
    ];
    let mut assistant = Assistant::start(&bench.url, &known);
    let client =
        json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}});
    let begun = assistant.ask("initialize", client).await;
    let begun = &begun["result"];
    assert_eq!((&begun["protocolVersion"], &begun["serverInfo"]["name"]), (&json!("2025-06-18"), &json!("relink")));
    assert!(begun["capabilities"]["tools"].is_object() && begun["capabilities"]["resources"].is_null(), "{begun}");
    assistant.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;

    let listed = assistant.ask("tools/list", json!({})).await;
    let tools = listed["result"]["tools"].as_array().unwrap();
    let names: Vec<&str> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["why", "show", "links", "summary", "dead_letters"]);
    assert!(tools.iter().all(|tool| tool["annotations"]["readOnlyHint"] == true));

    let (why, _) = assistant.call("why", json!({"link_or_message_id": format!("{LINK}.1.1")})).await;
    assert!(why.contains("unconfirmed → valid") && why.contains(&format!("The message {LINK}.1.1")), "{why}");
    let (show, _) = assistant.call("show", json!({"link_id": LINK})).await;
    assert!(show.contains("erebor_mx_retail") && show.contains("The link works."), "{show}");
    let (links, _) = assistant.call("links", json!({"state": "valid", "limit": 5})).await;
    assert!(links.contains("EXTERNAL ID") && links.contains(LINK), "{links}");
    let (none, _) = assistant.call("links", json!({"institution": "gotham"})).await;
    assert_eq!(none, "no link matches\n");
    let (summary, _) = assistant.call("summary", json!({})).await;
    assert_eq!(serde_json::from_str::<Value>(&summary).unwrap()["links_count"], 1, "{summary}");
    let (letters, is_error) = assistant.call("dead_letters", json!({})).await;
    assert!(!is_error && letters.contains("malformed"), "{letters}");
    let (letter, _) = assistant.call("dead_letters", json!({"sequence": 1})).await;
    assert!(letter.contains("payload") || letter.contains("{"), "{letter}");
    assert!(!letter.contains('\u{1b}') && !letters.contains('\u{1b}'));

    // An error of a tool is an answer that the assistant can read, and the program goes on.
    for (tool, arguments, reason) in [
        ("show", json!({"link_id": "../summary"}), "a link id is 1 to 64"),
        ("show", json!({"link_id": "unknown-link"}), "404"),
        ("why", json!({}), "do not fit the schema"),
        ("links", json!({"colour": "red"}), "do not fit the schema"),
        ("links", json!({"state": "asleep"}), "state"),
    ] {
        let (text, is_error) = assistant.call(tool, arguments.clone()).await;
        assert!(is_error && text.contains(reason), "{tool} {arguments}: {text}");
    }
    let unknown = assistant.ask("tools/call", json!({"name": "forget", "arguments": {"link_id": LINK}})).await;
    assert_eq!(unknown["error"]["code"], -32602);
    assert!(bench.inputs().await.is_empty(), "nothing is written");

    drop(assistant.input);
    assert!(within("the end of the program", assistant.child.wait()).await.unwrap().success());
}

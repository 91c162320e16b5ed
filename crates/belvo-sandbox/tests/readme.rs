//! The README and `GET /sandbox` list the same endpoints, and each endpoint exists.

use belvo_sandbox::{Sandbox, SandboxConfig};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn the_readme_and_the_index_list_every_endpoint() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await.expect("a free port");
    let client = reqwest::Client::new();
    let index: Value = client
        .get(format!("{}/sandbox", sandbox.url()))
        .send()
        .await
        .expect("it answers")
        .json()
        .await
        .expect("the index is JSON");
    let readme = include_str!("../README.md");
    let is_row = |line: &&str| line.starts_with("| `") && line.contains(" /sandbox");
    let listed: Vec<_> = readme.lines().filter(is_row).collect();
    let endpoints = index["endpoints"].as_array().expect("a list");
    let text = |endpoint: &Value, field: &str| endpoint[field].as_str().expect("a text").to_owned();
    let expected: Vec<_> = endpoints
        .iter()
        .map(|endpoint| {
            let [method, path, takes, about] = ["method", "path", "takes", "about"].map(|field| text(endpoint, field));
            format!("| `{method} {path}` | {takes} | {about} |")
        })
        .collect();
    assert!(listed == expected, "README.md lists other endpoints; it should list\n\n{}", expected.join("\n"));
    for endpoint in endpoints {
        let (method, path) = (text(endpoint, "method"), text(endpoint, "path"));
        let path = path.replace("{id}", "16f68516-bcbc-4cf7-b815-c500d4204e28").replace("{seq}", "1");
        let request = client.request(method.parse::<Method>().expect("a method"), format!("{}{path}", sandbox.url()));
        let status = request.json(&json!({})).send().await.expect("it answers").status();
        assert_ne!(status, 405, "{method} {path}");
    }
    sandbox.shutdown().await;
}

//! `/console`: what the browser test does not show. The page is driven in `tests/browser/console.mjs`.

use crate::bench::{API_TOKEN, Bench};

const FILES: &[&str] = &["", "/app.js", "/style.css", "/icon.svg", "/machine.json"];

#[tokio::test]
async fn the_page_is_served_without_credentials_and_with_a_strict_policy() {
    let bench = Bench::new().await;
    for file in FILES {
        let answer = bench.client.get(format!("{}/console{file}", bench.url)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{file}");
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        let policy = header("content-security-policy");
        assert!(
            policy.contains("default-src 'none'") && policy.contains("require-trusted-types-for 'script'"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"), "{policy}");
        let fixed = ["x-content-type-options", "x-frame-options", "referrer-policy", "cache-control"].map(header);
        assert_eq!(fixed, ["nosniff", "DENY", "no-referrer", "no-store"]);
        assert!(!answer.text().await.unwrap().contains(API_TOKEN));
    }
    for missing in ["/console/nothing.js", "/console/../Cargo.toml", "/console/console/app.js", "/Console"] {
        let answer = bench.client.get(format!("{}{missing}", bench.url)).send().await.unwrap();
        assert_eq!(answer.status(), 404, "{missing}");
    }
}

#[tokio::test]
async fn the_setting_switches_the_page_off() {
    let bench =
        Bench::with(&[("RELINK_API_TOKENS", API_TOKEN), ("RELINK_WEBHOOK_SECRETS", "x"), ("RELINK_CONSOLE", "false")])
            .await;
    for file in FILES {
        let answer = bench.client.get(format!("{}/console{file}", bench.url)).send().await.unwrap();
        assert_eq!(answer.status(), 404, "{file}");
    }
}

//! The command line, tested with the binary: its output and its exit codes.

use std::process::{Command, Output};

/// Runs relink with only this environment.
fn relink(args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relink"));
    command.args(args).env_clear().envs(environment.iter().copied());
    command.output().expect("relink runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

#[test]
fn help_names_every_subcommand_and_shows_examples() {
    let output = relink(&["--help"], &[]);
    let text = stdout(&output);
    for word in
        ["serve", "demo", "dev", "sandbox", "check-config", "why", "dead-letters", "machine", "schemas", "Examples:"]
    {
        assert!(text.contains(word), "{word}\n{text}");
    }
    assert!(output.status.success());
}

#[test]
fn help_of_serve_documents_every_setting() {
    let text = stdout(&relink(&["serve", "--help"], &[]));
    for setting in relink::config::all_settings() {
        assert!(text.contains(setting.variable) && text.contains(setting.key), "{}", setting.key);
    }
    assert!(text.contains("A flag wins over the environment, the environment over the file"));
}

#[test]
fn check_config_prints_the_configuration_and_fails_like_serve() {
    let flags = ["check-config", "--listen", "127.0.0.1:9", "--observe"];
    let output = relink(&flags, &[("RELINK_WEBHOOK_SECRETS", "Bearer hunter2")]);
    let text = stdout(&output);
    assert!(text.contains("observe = true"), "{text}");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(text.contains("listen = \"127.0.0.1:9\"") && text.contains("# flag --listen"), "{text}");
    assert!(text.contains("webhook_secrets = [\"[set]\"]") && !text.contains("hunter2"), "{text}");

    let output = relink(&["check-config"], &[]);
    assert!(!output.status.success());
    assert!(stderr(&output).starts_with("relink: the configuration cannot be used"), "{}", stderr(&output));
    assert!(stdout(&output).contains("[policy]"), "the configuration must be shown also with an error");
}

#[test]
fn serve_refuses_to_start_with_open_webhooks_or_a_wrong_value() {
    let output = relink(&["serve"], &[]);
    assert_eq!(output.status.code(), Some(78), "EX_CONFIG");
    assert!(stderr(&output).contains("RELINK_WEBHOOK_SECRETS"), "{}", stderr(&output));
    let output = relink(&["serve", "--listen", "nonsense"], &[]);
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("flag --listen: http.listen must be"), "{}", stderr(&output));
}

#[test]
fn machine_prints_every_format() {
    for (format, start) in [("mermaid", "stateDiagram-v2"), ("dot", "digraph"), ("json", "{"), ("text", "state ")] {
        let output = relink(&["machine", "--format", format], &[]);
        assert!(stdout(&output).starts_with(start), "{format}");
    }
}

#[test]
fn a_missing_token_and_an_unreachable_relink_are_reported() {
    let output = relink(&["why", "some-link"], &[]);
    assert!(!output.status.success());
    assert!(stderr(&output).contains("RELINK_API_TOKENS"), "{}", stderr(&output));
    // Port 1 is reserved, and no program listens on it.
    let output = relink(&["dead-letters", "list", "--url", "http://127.0.0.1:1"], &[("RELINK_API_TOKENS", "hunter2")]);
    assert!(!output.status.success());
    let text = stderr(&output);
    assert!(text.contains("check that `relink serve` is running there") && !text.contains("hunter2"), "{text}");
}

#[test]
fn a_probe_tries_what_relink_needs_and_fails_if_it_cannot_be_used() {
    // Port 1 is reserved, and no program listens on it.
    let environment = [
        ("RELINK_WEBHOOK_SECRETS", "Bearer a"),
        ("RELINK_NATS_URL", "nats://127.0.0.1:1"),
        ("RELINK_BELVO_URL", "http://127.0.0.1:1"),
        ("RELINK_BELVO_SECRET_ID", "id"),
        ("RELINK_BELVO_SECRET_PASSWORD", "hunter2"),
        ("RELINK_TRACES_ENDPOINT", "http://127.0.0.1:1"),
        ("RELINK_DATA_DIR", "/proc"),
    ];
    let output = relink(&["check-config", "--probe"], &environment);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("NATS: ERROR: cannot connect") && text.contains("Belvo: ERROR: "), "{text}");
    assert!(text.contains("traces: ERROR: http://127.0.0.1:1/v1/traces does not answer: "), "{text}");
    #[cfg(target_os = "linux")]
    assert!(text.contains("data directory: ERROR: /proc cannot be written"), "{text}");
    assert!(text.contains("warning: belvo.url is an address of this machine") && !text.contains("hunter2"), "{text}");
    assert_eq!(relink(&["check-config"], &environment).status.code(), Some(0), "without the flag nothing is tried");

    let output = relink(&["check-config", "--probe", "--json"], &environment);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let setting = |key: &str| {
        let settings = report["settings"].as_array().unwrap();
        settings.iter().find(|setting| setting["key"] == key).unwrap_or_else(|| panic!("{key}")).clone()
    };
    assert_eq!(setting("belvo.url")["value"], "http://127.0.0.1:1");
    assert_eq!(setting("belvo.secret_password")["value"], "[set]");
    assert!(setting("repair.base_url")["value"].is_null() && setting("repair.base_url")["origin"].is_null());
    assert!(!stdout(&output).contains("hunter2"));
    assert!(report["warnings"].as_array().is_some_and(|warnings| !warnings.is_empty()), "{report}");
    assert_eq!((&report["probes"][0]["what"], &report["probes"][0]["is_usable"]), (&"NATS".into(), &false.into()));
}

#[test]
fn completions_and_manual_pages_have_every_subcommand() {
    for (shell, start) in [("bash", "_relink()"), ("zsh", "#compdef relink"), ("fish", "# Print an optspec")] {
        let text = stdout(&relink(&["completions", shell], &[]));
        assert!(text.starts_with(start) && text.contains("dead-letters") && text.contains("snooze"), "{shell}: {text}");
    }
    let page = stdout(&relink(&["man"], &[]));
    assert!(page.contains(".TH relink 1") && page.contains("relink\\-snooze(1)"), "{page}");
    let page = stdout(&relink(&["man", "why"], &[]));
    assert!(page.contains(".TH relink-why 1") && page.contains("16f68516"), "{page}");
    let directory = tempfile::TempDir::new().unwrap();
    let output = relink(&["man", "--write", directory.path().to_str().unwrap()], &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    for page in ["relink.1", "relink-why.1", "relink-dead-letters-show.1"] {
        assert!(directory.path().join(page).exists(), "{page}");
    }
    let page = stdout(&relink(&["man", "dead-letters", "replay"], &[]));
    assert!(page.contains(".TH relink-dead-letters-replay 1"), "{page}");
    for wrong in [&["nonsense"][..], &["dead-letters", "nonsense"]] {
        let output = relink(&[&["man"], wrong].concat(), &[]);
        assert_eq!(output.status.code(), Some(2));
        let reason = format!("there is no subcommand `{}`", wrong.join(" "));
        assert!(stderr(&output).contains(&reason), "{}", stderr(&output));
    }
}

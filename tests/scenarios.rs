//! Plays every file in `scenarios/` against a separate relink and nats-server.
//!
//! `RELINK_SCENARIO=<part of a file's name>` plays only those. A failure names the file, the step with its line, and
//! all messages that relink had published until then. `scenarios/README.md` describes the file format.

mod support;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use belvo_sandbox::{Sandbox, SandboxConfig};
use futures::StreamExt;
use relink::config::{Config, Sources};
use relink::rehearsal::scenario::{RelinkUnderTest, Scenario, play};
use relink::service::Service;
use secrecy::ExposeSecret;
use support::binary::{API_TOKEN, WEBHOOK_SECRET};

/// The number of scenarios that run at the same time: each waits most of its time, and its nats-server syncs to disk.
const AT_ONCE: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn every_scenario_passes() {
    let files = scenario_files();
    assert!(files.len() >= 15 || wanted().is_some_and(|_| !files.is_empty()), "there are {} scenarios", files.len());
    let played = files.into_iter().map(|file| async move {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let began = tokio::time::Instant::now();
        let ended = tokio::time::timeout(Duration::from_secs(120), play_file(&name, &file)).await;
        let ended = ended.unwrap_or_else(|_| Err("it took longer than 120 s".to_owned()));
        eprintln!(
            "{name}: {} after {:.1} s",
            if ended.is_ok() { "ok" } else { "FAILED" },
            began.elapsed().as_secs_f64()
        );
        ended.err().map(|problem| format!("{name}: {problem}"))
    });
    let failures: Vec<String> =
        futures::stream::iter(played).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await;
    assert!(failures.is_empty(), "\n\n{}\n", failures.join("\n\n"));
}

/// As an operator does it: the binary plays a scenario against a running relink with an external NATS.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_plays_a_scenario_against_a_running_relink() {
    let nats = support::TestNats::start().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let listen = free.expect("a free port").to_string();
    let belvo = format!("http://{listen}");
    let environment = [
        ("RELINK_BELVO_URL", belvo.as_str()),
        ("RELINK_BELVO_SECRET_ID", "sandbox"),
        ("RELINK_BELVO_SECRET_PASSWORD", "sandbox"),
        // Both runs have the same person.
        ("RELINK_POLICY_REMINDER_PAUSE", "1ms"),
    ];
    let data = nats.dir.path().join("relink");
    let relink = support::binary::Relink::serve(nats.server.url(), &data, &environment).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let passing = folder.join("widget-abandoned.toml");
    let text = std::fs::read_to_string(&passing).expect("the file exists");
    let failing = nats.dir.path().join("failing.toml");
    std::fs::write(&failing, text.replace("recovered = 1", "recovered = 2")).expect("written");
    for (file, passes) in [(&passing, true), (&failing, false)] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_relink"));
        command
            .args(["sandbox", "--listen", &listen, "--webhook-authorization", WEBHOOK_SECRET, "--scenario"])
            .arg(file);
        command.args(["--relink-url", &relink.url, "--api-token", API_TOKEN, "--nats-url", nats.server.url()]);
        let output = support::within("a rehearsal", command.kill_on_drop(true).output()).await.expect("it runs");
        let printed = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(i32::from(!passes)), "{printed}\n{errors}");
        assert_eq!(printed.ends_with("PASSED\n"), passes, "{printed}");
        assert_eq!(
            errors.contains("the final state of `maria`: notices `recovered`: found 1, expected 2"),
            !passes,
            "{errors}"
        );
    }
}

#[test]
fn a_mistake_in_a_file_is_named_with_its_line() {
    let file = |step: &str, end: &str| {
        format!(
            "title = 't'\nwhy = 'w'\n[links]\nmaria = {{ institution = 'erebor_mx_retail' }}\n[scenario]\nsteps = [\n\
             {{ notice = 'recovered', link = 'maria' }},\n{step}\n]\n[end]\n{end}\n"
        )
    };
    let end = "maria = { state = 'valid' }";
    let parse = |text: &str| Scenario::parse("a.toml", text).map(drop).map_err(|error| error.to_string());
    assert_eq!(parse(&file("", end)), Ok(()));
    for (step, end, line, problem) in [
        ("{ notice = 'recoverd', link = 'maria' },", end, 8, "`notice` must be one of"),
        ("{ notice = 'recovered', link = 'mario' },", end, 8, "`mario` is not in [links]"),
        ("{ notice = 'recovered', link = 'maria', wiht = {} },", end, 8, "this step has no `wiht`"),
        ("{ user = 'succeeds' },", end, 8, "this step needs `link`"),
        ("{ user = 'succeeds', app = 'calls', link = 'maria' },", end, 8, "exactly one of"),
        ("{ bank = 'lockd', link = 'maria' },", end, 8, "Belvo documents no error `lockd`"),
        ("{ notice = 'stale', link = 'maria', within = 'soon' },", end, 8, "must be a span such as"),
        ("{ notice = ", end, 8, ""),
        ("{ hear = 'recovered', link = 'maria' },", end, 8, "`hear` is now `notice`"),
        ("{ settled = true },", end, 8, "`settled` is now `idle`"),
        ("{ user = 'succeeds', link = 'maria', unheard = true },", end, 8, "`unheard` is now `reported = false`"),
        ("", "maria = { state = 'fine' }", 11, "`state` must be one of"),
        ("", "maria = { notices = { recoverd = 1 } }", 11, "there is no notice `recoverd`"),
        ("", "mario = {}", 11, "[end] names `mario`"),
        ("", "", 12, "[end] has no entry for `maria`"),
    ] {
        let error = parse(&file(step, end)).expect_err(problem);
        let fits = error.starts_with(&format!("a.toml:{line}: ")) && error.contains(problem);
        assert!(fits, "{error}, and not line {line}: {problem}");
    }
    let never = file("", end).replace("[links]", "[belvo]\nlogins_until_invalid = 0\n[links]");
    assert!(parse(&never).is_err_and(|error| error.contains("`logins_until_invalid` must be a number, 1 or more")));
    let old = file("", end).replace("[scenario]", "[story]");
    assert!(parse(&old).is_err_and(|error| error.starts_with("a.toml:5: `story` is now `[scenario]`")));
    let unknown = file("", end).replace("why", "whi");
    assert!(parse(&unknown).is_err_and(|error| error.starts_with("a.toml:2: unknown field `whi`")));
}

/// The sandbox refuses other codes, and its error names this list.
#[test]
fn the_readme_lists_every_code_that_belvo_documents() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/README.md"));
    let readme = readme.expect("the README exists");
    for code in belvo_sandbox::error_codes() {
        assert!(readme.contains(&format!("`{code}`")), "scenarios/README.md does not list {code}");
    }
}

/// The README lists every scenario file.
#[test]
fn the_readme_lists_every_file() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/README.md"));
    let readme = readme.expect("the README exists");
    for file in scenario_files() {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert!(readme.contains(&format!("({name})")), "{name} is not in scenarios/README.md");
    }
}

/// The scenario files, sorted by name.
fn scenario_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let entries = std::fs::read_dir(folder).expect("the directory exists");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    if let Some(part) = wanted() {
        files.retain(|file| file.to_string_lossy().contains(&part));
    }
    files.sort();
    files
}

#[expect(clippy::disallowed_methods, reason = "the tests are their own configuration")]
fn wanted() -> Option<String> {
    std::env::var("RELINK_SCENARIO").ok()
}

async fn play_file(name: &str, file: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let scenario = Scenario::parse(name, &text).map_err(|error| error.to_string())?;
    let printed = Mutex::new(String::new());
    let report = |line: &str| {
        let mut printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
        printed.push_str(line);
        printed.push('\n');
    };
    let sandbox =
        Sandbox::start(scenario.sandbox(SandboxConfig::default())).await.map_err(|error| error.to_string())?;
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let config = config(&scenario, &sandbox, directory.path())?;
    let mut service = Service::start(&config, support::server_source()).await.map_err(|error| format!("{error:#}"))?;
    service.running().await.map_err(|error| format!("{error:#}"))?;
    let url = format!("http://{}", service.http_address());
    sandbox.control().set_webhook(Some(format!("{url}/webhooks/belvo")), Some(WEBHOOK_SECRET.into()));
    let relink = RelinkUnderTest {
        url,
        api_token: API_TOKEN.into(),
        status_secret: Some(WEBHOOK_SECRET.into()),
        nats_url: service.own_nats_url_with_login().expect("its own NATS").expose_secret().to_owned(),
        stream: "KV_links".into(),
    };
    let ended = play(&scenario, &sandbox, &relink, &report).await;
    sandbox.shutdown().await;
    service.stop().await.map_err(|error| format!("{error:#}"))?;
    let printed = printed.into_inner().unwrap_or_else(PoisonError::into_inner);
    ended.map_err(|failure| format!("{failure}\n  output:\n{printed}"))
}

/// The configuration of a relink whose Belvo is the sandbox, with the policy of the scenario.
fn config(scenario: &Scenario, sandbox: &Sandbox, directory: &Path) -> Result<Config, String> {
    let file = directory.join("relink.toml");
    let mut settings = toml::Table::new();
    settings.insert("policy".to_owned(), scenario.policy().clone().into());
    std::fs::write(&file, settings.to_string()).map_err(|error| error.to_string())?;
    let environment = [
        ("RELINK_LISTEN", "127.0.0.1:0".to_owned()),
        ("RELINK_DATA_DIR", directory.join("data").display().to_string()),
        ("RELINK_PARTITIONS", "2".to_owned()),
        ("RELINK_BELVO_URL", sandbox.url()),
        ("RELINK_BELVO_PORTAL_URL", format!("{}/portal/", sandbox.url())),
        ("RELINK_BELVO_SECRET_ID", "sandbox".to_owned()),
        ("RELINK_BELVO_SECRET_PASSWORD", "sandbox".to_owned()),
    ];
    let environment = environment.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let sources = Sources { file: Some(file), environment, flags: Vec::new() };
    let mut config = Config::load(&sources).map_err(|error| error.to_string())?.config;
    config.http.webhook_secrets = vec![WEBHOOK_SECRET.into()];
    config.http.status_webhook_secrets = vec![WEBHOOK_SECRET.into()];
    config.http.api_tokens = vec![API_TOKEN.into()];
    Ok(config)
}

//! The pages in a real browser, against the whole relink and its sandbox: the repair page, from the link in a notice to "all set", and the
//! console.
//!
//! `stories.mjs` plays the users, and `console.mjs` support and operators, with the tools of `drive.mjs`. They press the buttons, check pages
//! with axe-core, and leave screenshots in `target/tmp/screens`. If the browser or a package cannot be installed, the test fails; it is
//! never skipped.

#[path = "../foreign/mod.rs"]
mod foreign;
#[path = "../support/mod.rs"]
mod support;

mod chromium;

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use belvo_sandbox::{Sandbox, SandboxConfig};
use relink::config::{Config, Sources};
use relink::service::Service;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use chromium::Chromium;
use foreign::{installed, run};
use support::binary::{API_TOKEN, WEBHOOK_SECRET};
use support::{server_source, within};

const KEY: &str = "the-key-of-this-test-is-long-enough-for-it";

/// The longest time of all stories together.
const STORIES_MAX: Duration = Duration::from_secs(300);

/// A whole relink with its own nats-server, and the simulated Belvo for it.
struct Scene {
    sandbox: Sandbox,
    service: Service,
    _directory: TempDir,
}

impl Scene {
    /// `place` is where Belvo's widget opens.
    async fn start(place: &str) -> Self {
        let sandbox = Sandbox::start(SandboxConfig::default()).await.expect("the sandbox starts");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let logo = directory.path().join("logo.svg");
        let drawing = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 120 32"><rect width="32" height="32" rx="8" fill="#0a7d55"/>
            <path d="M9 20l5-8 4 6 3-4 3 6" stroke="#fff" stroke-width="2.5" fill="none"/></svg>"##;
        std::fs::write(&logo, drawing).expect("written");
        // The address of the page contains the port, so the port must be known before relink starts.
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a free port").to_string();
        let belvo = sandbox.url();
        let settings = [
            ("RELINK_LISTEN", address.clone()),
            ("RELINK_DATA_DIR", directory.path().join("data").display().to_string()),
            ("RELINK_WEBHOOK_SECRETS", WEBHOOK_SECRET.to_owned()),
            ("RELINK_API_TOKENS", API_TOKEN.to_owned()),
            ("RELINK_STATUS_WEBHOOK_SECRETS", WEBHOOK_SECRET.to_owned()),
            ("RELINK_POLICY_INSTITUTION_NOTICES", "repair".to_owned()),
            ("RELINK_POLICY_INCIDENT_WAIT", "1s".to_owned()),
            ("RELINK_PARTITIONS", "2".to_owned()),
            ("RELINK_BELVO_URL", belvo.clone()),
            ("RELINK_BELVO_SECRET_ID", "sandbox".to_owned()),
            ("RELINK_BELVO_SECRET_PASSWORD", "sandbox".to_owned()),
            ("RELINK_BELVO_WIDGET_URL", format!("{belvo}/widget/")),
            ("RELINK_BELVO_PORTAL_URL", format!("{belvo}/portal/")),
            ("RELINK_BELVO_REQUESTS_PER_30S", "1000".to_owned()),
            ("RELINK_REPAIR_BASE_URL", format!("http://{address}")),
            ("RELINK_REPAIR_KEYS", KEY.to_owned()),
            ("RELINK_REPAIR_NAME", "Acme".to_owned()),
            ("RELINK_REPAIR_LOGO", logo.display().to_string()),
            ("RELINK_REPAIR_COLORS", "#0a7d55,#4fd1a1".to_owned()),
            ("RELINK_REPAIR_RETURN_URL", "https://acme.example.com/banks".to_owned()),
            ("RELINK_REPAIR_SUPPORT", "help@acme.example.com".to_owned()),
            ("RELINK_REPAIR_TERMS_URL", "https://acme.example.com/terms".to_owned()),
            ("RELINK_REPAIR_WIDGET", place.to_owned()),
            ("RELINK_REPAIR_SCRIPT_URL", format!("{belvo}/widget/script.js")),
        ];
        let environment = settings.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let sources = Sources { environment: environment.collect(), ..Sources::default() };
        let config = Config::load(&sources).expect("the settings are right").config;
        let mut service = Service::start(&config, server_source()).await.expect("relink starts");
        within("starting the partitions", service.running()).await.expect("running");
        let webhooks = format!("http://{address}/webhooks/belvo");
        sandbox.control().set_webhook(Some(webhooks), Some(WEBHOOK_SECRET.into()));
        Self { sandbox, service, _directory: directory }
    }

    fn addresses(&self) -> Value {
        json!({"relink": format!("http://{}", self.service.http_address()), "sandbox": self.sandbox.url()})
    }

    async fn stop(self) {
        self.sandbox.shutdown().await;
        within("stopping", self.service.stop()).await.expect("a clean end");
    }
}

/// The directory of the packages, with a copy of the program: Node looks for modules beside the program.
async fn program() -> std::path::PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    let package = tests.join("package.json");
    let wanted: Value = serde_json::from_slice(&std::fs::read(&package).expect("a file")).expect("JSON");
    let wanted = format!("browser {}", wanted["dependencies"]);
    let folder = installed(&wanted, async |folder| {
        std::fs::copy(&package, folder.join("package.json")).map_err(|error| error.to_string())?;
        let npm = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
        run(Command::new("npm").args(npm).current_dir(folder)).await.map(drop)
    });
    let folder = folder.await;
    for file in ["drive.mjs", "console.mjs", "stories.mjs"] {
        std::fs::copy(tests.join(file), folder.join(file)).expect("copied");
    }
    folder.join("stories.mjs")
}

/// How many links the console's story of a fleet has.
#[expect(clippy::disallowed_methods, reason = "the environment asks for another number of links")]
fn console_links() -> u32 {
    let asked = std::env::var("RELINK_TEST_CONSOLE_LINKS").ok();
    asked.map_or(1_000, |asked| asked.parse().expect("RELINK_TEST_CONSOLE_LINKS is a number"))
}

/// A part of the names of the stories to play; all without it.
#[expect(clippy::disallowed_methods, reason = "the environment asks for some stories only")]
fn wanted_stories() -> Option<String> {
    std::env::var("RELINK_TEST_STORIES").ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn users_repair_their_links_in_a_browser() {
    let (program, chromium) = (program().await, Chromium::find().await);
    let (hosted, on_page) = tokio::join!(Scene::start("hosted"), Scene::start("page"));
    let screens = Path::new(env!("CARGO_TARGET_TMPDIR")).join("screens");
    std::fs::create_dir_all(&screens).expect("cargo's temporary folder can be written");
    let options = json!({
        "chromium": chromium.program, "screens": screens, "key": KEY, "api_token": API_TOKEN, "webhook_secret": WEBHOOK_SECRET,
        "console_links": console_links(), "only": wanted_stories(),
        "hosted": hosted.addresses(), "page": on_page.addresses(),
    });
    let mut node = Command::new("node");
    node.arg(program).arg(options.to_string()).envs(chromium.environment);
    let time = STORIES_MAX.max(Duration::from_millis(20) * console_links());
    let played = tokio::time::timeout(time, run(&mut node)).await.expect("the stories end in time");
    eprintln!("{}", played.unwrap_or_else(|error| panic!("{error}")));
    hosted.stop().await;
    on_page.stop().await;
}

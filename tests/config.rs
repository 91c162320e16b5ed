//! The configuration: layers, origins, refused values, hidden secrets.

#![expect(clippy::unwrap_used, reason = "a failing test should name the line")]

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use relink::config::{Config, ConfigError, Loaded, LogFormat, Sources, all_settings};
use relink::link::PolicySettings;
use relink::nats::stream::StreamSettings;
use secrecy::ExposeSecret;

#[derive(Default)]
struct Given {
    sources: Sources,
    dir: Option<tempfile::TempDir>,
}

impl Given {
    fn file(mut self, text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relink.toml");
        std::fs::write(&path, text).unwrap();
        self.sources.file = Some(path);
        self.dir = Some(dir);
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.sources.environment.push((OsString::from(name), OsString::from(value)));
        self
    }

    fn flag(mut self, flag: &'static str, value: &str) -> Self {
        self.sources.flags.push((flag, value.to_owned()));
        self
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        Config::load(&self.sources)
    }

    fn config(&self) -> Config {
        self.load().unwrap().config
    }

    /// The only problem.
    fn problem(&self) -> String {
        let ConfigError { problems } = self.load().unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        problems[0].clone()
    }
}

fn given() -> Given {
    Given::default()
}

#[test]
fn the_defaults_are_the_documented_ones_and_those_of_the_modules() {
    let config = Config::defaults();
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8480");
    assert_eq!(config.store.data_dir, PathBuf::from("./relink-data"));
    assert_eq!(config.policy.settings(), &PolicySettings::default());
    assert_eq!(config.nats.streams, StreamSettings::default());
    assert_eq!((config.log.filter.as_str(), config.log.format), ("info", LogFormat::Text));
    assert!(config.belvo.keys.is_none());
    assert_eq!(config.belvo.requests_per_30s, 80);
    let reconciler = &config.reconciler;
    assert_eq!((reconciler.sweep_every.as_secs(), reconciler.rotation.as_secs()), (3_600, 86_400));
    assert_eq!(reconciler.adoption_per_hour, 60);
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_the_defaults() {
    let file = || given().file("[http]\nlisten = \"127.0.0.1:1\"\n[nats]\npartitions = 4\n");
    assert_eq!(file().config().http.listen.port(), 1);
    let env = || file().env("RELINK_LISTEN", "127.0.0.1:2");
    assert_eq!(env().config().http.listen.port(), 2);
    let flag = env().flag("--listen", "127.0.0.1:3");
    assert_eq!((flag.config().http.listen.port(), flag.config().nats.streams.partitions), (3, 4));
    let report = flag.load().unwrap().report;
    let line = report.lines().find(|line| line.starts_with("listen = \"127.0.0.1:3\"")).unwrap();
    assert!(line.ends_with(" # flag --listen"), "{line}");
    assert!(report.contains("partitions = 4") && report.contains("# file "), "{report}");
}

#[test]
fn an_empty_variable_is_not_set() {
    assert!(given().env("RELINK_NATS_URL", "").config().nats.url.is_none());
}

#[test]
fn every_kind_of_value_is_read() {
    let toml = r#"
        [http]
        webhook_secrets = ["Basic dTpw", "Bearer next"]
        api_tokens = ["one"]
        allow_open_webhooks = true
        [nats]
        url = "nats://user:hunter2@nats-1:4222,nats-2"
        prefix_input = "staging.belvo"
        prefix_output = "staging-link"
        input_max_age = "7d"
        replicas = 3
        stream_max_bytes = 5000000
        [store]
        cache_bytes = 1073741824
        [belvo]
        url = "https://sandbox.belvo.com/"
        secret_id = "id"
        secret_password = "12345"
        [log]
        format = "json"
        [policy]
        settle_window = "1h 30m"
        reminders = ["12h", "2d"]
        verify_attempts_max = 5
    "#;
    let config = given().file(toml).config();
    let secrets: Vec<_> = config.http.webhook_secrets.iter().map(ExposeSecret::expose_secret).collect();
    assert_eq!(secrets, ["Basic dTpw", "Bearer next"]);
    let url = config.nats.url.unwrap();
    assert_eq!(url.expose().collect::<Vec<_>>(), ["nats://user:hunter2@nats-1:4222", "nats-2"]);
    assert_eq!(url.to_string(), "nats://[set]@nats-1:4222,nats-2");
    assert_eq!(config.nats.subjects.input_stream(), "STAGING_BELVO");
    assert_eq!((config.nats.streams.replicas, config.nats.streams.input_age_max.as_secs()), (3, 7 * 86_400));
    assert_eq!(config.nats.streams.bytes_max, Some(5_000_000));
    assert_eq!(config.store.cache_bytes, 1 << 30);
    let keys = config.belvo.keys.unwrap();
    assert_eq!((keys.url.as_str(), keys.secret_password.expose_secret()), ("https://sandbox.belvo.com", "12345"));
    assert_eq!(config.log.format, LogFormat::Json);
    let settings = config.policy.settings();
    assert!(settings.can_verify, "with all three settings relink can verify");
    assert_eq!(settings.settle_window, Duration::from_secs(90 * 60));
    assert_eq!(settings.reminders, [12, 48].map(|hours| Duration::from_secs(hours * 3600)));
    assert_eq!(settings.verify_attempts_max, 5);
}

#[test]
fn environment_variables_hold_lists_with_commas_and_numbers_as_text() {
    let config = given()
        .env("RELINK_WEBHOOK_SECRETS", " Bearer a , Basic b ")
        .env("RELINK_POLICY_REMINDERS", "1d,3d")
        .env("RELINK_CACHE_BYTES", "64MiB")
        .env("RELINK_ALLOW_OPEN_WEBHOOKS", "true")
        .config();
    let secrets: Vec<_> = config.http.webhook_secrets.iter().map(ExposeSecret::expose_secret).collect();
    assert_eq!(secrets, ["Bearer a", "Basic b"]);
    assert_eq!(config.policy.settings().reminders.len(), 2);
    assert_eq!((config.store.cache_bytes, config.http.allow_open_webhooks), (64 << 20, true));
}

#[test]
fn every_setting_can_be_read_from_each_of_its_layers() {
    for setting in all_settings().filter(|setting| setting.default.is_some()) {
        let default = setting.default.unwrap();
        assert!(given().env(setting.variable, default).load().is_ok(), "{}", setting.variable);
        if let Some(flag) = setting.flag {
            assert!(given().flag(flag, default).load().is_ok(), "{flag}");
        }
    }
    let help = relink::config::help();
    assert!(all_settings().all(|setting| help.contains(setting.variable) && help.contains(setting.key)));
}

#[test]
fn unknown_names_are_refused_with_a_guess() {
    let check = |given: Given, expected: &str| {
        let problem = given.problem();
        assert!(problem.ends_with(expected), "{problem}");
    };
    check(
        given().env("RELINK_LISTN", "x"),
        "environment RELINK_LISTN: unknown variable; did you mean `RELINK_LISTEN`?",
    );
    check(given().env("RELINK_NATS", "x"), "unknown variable; did you mean `RELINK_NATS_URL`?");
    check(given().env("RELINK_XYZZY_PLUGH", "x"), "unknown variable; `relink serve --help` lists all settings");
    check(given().file("[http]\nlisen = \"x\""), "unknown key `http.lisen`; did you mean `http.listen`?");
    check(given().file("listen = \"x\""), "unknown key `listen`; did you mean `http.listen`?");
    check(
        given().file("[polcy]\nsettle_window = \"1h\""),
        "unknown key `polcy`; `relink serve --help` lists all settings",
    );
    check(given().file("[policy]\nsetle_window = \"1h\""), "did you mean `policy.settle_window`?");
}

#[test]
fn variables_of_kubernetes_are_ignored() {
    let variables = [
        "RELINK_SERVICE_HOST",
        "RELINK_SERVICE_PORT",
        "RELINK_SERVICE_PORT_HTTP",
        "RELINK_PORT",
        "RELINK_PORT_8480_TCP",
        "RELINK_PORT_8480_TCP_ADDR",
        "RELINK_NATS_SERVICE_HOST",
        "RELINK_NATS_PORT",
        "RELINK_NATS_PORT_4222_TCP_PROTO",
    ];
    let given = variables.iter().fold(given(), |given, name| given.env(name, "tcp://10.0.0.1:8480"));
    assert!(given.load().is_ok());
}

#[test]
fn wrong_values_are_refused_with_their_origin_and_the_expected_value() {
    let check = |given: Given, parts: &[&str]| {
        let problem = given.problem();
        assert!(parts.iter().all(|part| problem.contains(part)), "{problem}");
    };
    check(
        given().env("RELINK_PARTITIONS", "0"),
        &["environment RELINK_PARTITIONS: nats.partitions must be a whole number from 1 to 1024, but is `0`"],
    );
    check(given().file("[nats]\npartitions = \"4\""), &["file ", "nats.partitions must be a whole number", "a string"]);
    check(given().flag("--listen", "example.com:8480"), &["flag --listen: http.listen must be an address and a port"]);
    check(given().env("RELINK_HISTORY", "lots"), &["from 1 to 10000, but is `lots`"]);
    check(given().env("RELINK_REPLICAS", "6"), &["from 1 to 5"]);
    check(given().env("RELINK_INPUT_MAX_AGE", "5"), &["must be a duration such as 30m, 6h or 1d, but is `5`"]);
    check(given().env("RELINK_REPAIR_EXPIRES", "91d"), &["from 1h to 90d"]);
    check(given().env("RELINK_POLICY_TIME_ZONE", "Mars/Olympus"), &["policy.time_zone must be the name of"]);
    check(given().env("RELINK_CACHE_BYTES", "1"), &["must be from 1MiB to"]);
    check(given().env("RELINK_LOG_FORMAT", "xml"), &["log.format must be text or json"]);
    check(given().env("RELINK_LOG", "relink=loud"), &["log.filter must be a filter such as"]);
    check(given().env("RELINK_ALLOW_OPEN_WEBHOOKS", "yes"), &["must be true or false, but is `yes`"]);
    check(given().env("RELINK_PREFIX_OUTPUT", "belvo"), &["nats.prefix_output: ", "overlap"]);
    check(given().env("RELINK_NATS_URL", "nats://:::"), &["nats.url must be addresses such as nats://127.0.0.1:4222"]);
    check(given().env("RELINK_NATS_CREDENTIALS", "/nowhere.creds"), &["nats.credentials is not a file"]);
    check(given().env("RELINK_NATS_SERVER", "/nowhere/nats-server"), &["nats.server is not a file"]);
    check(
        given().file("[policy]\nreminders = [\"3d\", \"1d\"]"),
        &["file ", "policy.reminders must be a list in which every step is later"],
    );
    check(given().file("[policy]\nverify_wait = \"0s\""), &["policy.verify_wait must be from 1 ms to 366 days"]);
    check(given().file("[http]\napi_tokens = 1"), &["http.api_tokens must be an array of texts, but is an integer"]);
    check(given().file("[http\n"), &["line 1: not TOML"]);
    let mut missing = given();
    missing.sources.file = Some(PathBuf::from("/nowhere/relink.toml"));
    check(missing, &["file /nowhere/relink.toml: cannot be read"]);
}

#[test]
fn all_problems_are_reported_at_once() {
    let given = given().env("RELINK_PARTITIONS", "0").env("RELINK_LISTEN", "x").env("RELINK_OOPS", "x");
    let error = given.load().unwrap_err();
    assert_eq!(error.problems.len(), 3, "{error}");
}

#[test]
fn belvos_address_and_keys_are_set_together() {
    let one = given().env("RELINK_BELVO_URL", "https://sandbox.belvo.com").problem();
    assert!(one.contains("also needs belvo.secret_id (RELINK_BELVO_SECRET_ID) and belvo.secret_password"), "{one}");
    let two = given().env("RELINK_BELVO_SECRET_ID", "id").env("RELINK_BELVO_SECRET_PASSWORD", "p").problem();
    assert!(two.contains("also needs belvo.url (RELINK_BELVO_URL)"), "{two}");
}

#[test]
fn the_proxy_needs_the_address_of_belvo_and_another_one_of_its_own() {
    assert_eq!(Config::defaults().proxy, None);
    let proxy = || given().env("RELINK_PROXY_LISTEN", "127.0.0.1:8481");
    assert!(proxy().problem().contains("also needs belvo.url (RELINK_BELVO_URL)"));
    let before = |url: &str| {
        let keys = proxy().env("RELINK_BELVO_SECRET_ID", "id").env("RELINK_BELVO_SECRET_PASSWORD", "p");
        keys.env("RELINK_BELVO_URL", url)
    };
    for url in ["http://127.0.0.1:8481", "http://localhost:8481/", "http://[::1]:8481"] {
        let problem = before(url).problem();
        assert!(problem.contains("would pass each call on to itself"), "{problem}");
    }
    for url in ["https://sandbox.belvo.com", "http://127.0.0.1:8482", "https://belvo.example:8481"] {
        assert_eq!(before(url).config().proxy.map(|proxy| proxy.listen.port()), Some(8481), "{url}");
    }
}

#[test]
fn serving_without_a_webhook_secret_must_be_configured() {
    let error = Config::defaults().check_for_serving().unwrap_err().to_string();
    assert!(error.contains("RELINK_WEBHOOK_SECRETS") && error.contains("RELINK_ALLOW_OPEN_WEBHOOKS=true"), "{error}");
    assert!(given().env("RELINK_WEBHOOK_SECRETS", "Bearer a").config().check_for_serving().is_ok());
    assert!(given().env("RELINK_ALLOW_OPEN_WEBHOOKS", "true").config().check_for_serving().is_ok());
}

#[test]
fn no_secret_is_shown() {
    let loaded = given()
        .env("RELINK_WEBHOOK_SECRETS", "Bearer hunter2,Basic hunter2")
        .env("RELINK_API_TOKENS", "hunter2")
        .env("RELINK_BELVO_URL", "https://sandbox.belvo.com")
        .env("RELINK_BELVO_SECRET_ID", "hunter2")
        .env("RELINK_BELVO_SECRET_PASSWORD", "hunter2")
        .env("RELINK_NATS_URL", "nats://user:hunter2@127.0.0.1:4222")
        .load()
        .unwrap();
    let shown = format!("{}\n{:?}\n{}", loaded.report, loaded.config, loaded.config.nats.url.as_ref().unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(loaded.report.contains("webhook_secrets = [\"[set]\", \"[set]\"]"), "{}", loaded.report);
    assert!(loaded.report.contains("url = \"nats://[set]@127.0.0.1:4222\""), "{}", loaded.report);
    assert!(loaded.report.parse::<toml::Table>().is_ok(), "the report is TOML");
    for wrong in
        ["[http]\napi_tokens = hunter2\n", "[belvo]\nsecret_id = \"hunter2\n\"", "[nats]\nurl = [[\"hunter2\"]]"]
    {
        let error = given().file(wrong).load().unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = given().env("RELINK_NATS_URL", "nats://hunter2@[:1").load().unwrap_err().to_string();
    assert!(!error.contains("hunter2"), "{error}");
    assert!(given().env("RELINK_API_TOKENS", "[set]").problem().contains("is only its placeholder in check-config"));
}

#[test]
fn the_repair_page_needs_its_address_its_keys_and_belvos() {
    const KEY: &str = "0123456789abcdef0123456789abcdef";
    let belvo = |given: Given| {
        given
            .env("RELINK_BELVO_URL", "https://sandbox.belvo.com")
            .env("RELINK_BELVO_SECRET_ID", "id")
            .env("RELINK_BELVO_SECRET_PASSWORD", "password")
    };
    assert!(given().config().repair.is_none());
    let page = |key: &str| {
        belvo(given()).env("RELINK_REPAIR_BASE_URL", "https://r.example.com/").env("RELINK_REPAIR_KEYS", key)
    };
    let links = page(KEY).config().repair.unwrap().links;
    assert_eq!(links.base_url(), "https://r.example.com");
    page(&format!("{KEY}1,{KEY}2")).config();

    let short = page("short").problem();
    assert!(short.contains("at least 32 characters") && !short.contains("short,"), "{short}");
    assert!(page(&format!("{KEY}1,{KEY}2,{KEY}3")).problem().contains("one or two keys"));
    let alone = belvo(given()).env("RELINK_REPAIR_KEYS", KEY).problem();
    assert!(alone.contains("also needs repair.base_url"), "{alone}");
    let keyless = belvo(given()).env("RELINK_REPAIR_BASE_URL", "https://r.example.com").problem();
    assert!(keyless.contains("also needs repair.keys"), "{keyless}");
    let without_belvo = given().env("RELINK_REPAIR_BASE_URL", "https://r.example.com").env("RELINK_REPAIR_KEYS", KEY);
    assert!(without_belvo.problem().contains("also needs belvo.url"));
    let of = |url: &str| belvo(given()).env("RELINK_REPAIR_BASE_URL", url).env("RELINK_REPAIR_KEYS", KEY).problem();
    assert!(["r.example.com/?x", "https://r.example.com/a b"].iter().all(|url| of(url).contains("such as https://re")));
}

#[test]
fn targets_over_http_are_checked() {
    let key = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let with = |name: &'static str, value: &str| {
        let given =
            given().env("RELINK_NOTICES_URL", "https://app.example.com/relink").env("RELINK_NOTICES_SECRETS", key);
        given.env("RELINK_WEBHOOK_SECRETS", "Bearer x").env(name, value)
    };
    let config =
        with("RELINK_NOTICES_TYPES", "recovered, incident").env("RELINK_FORWARD_URL", "http://10.0.0.7/belvo").config();
    assert_eq!(config.outbound.notices.unwrap().retry_for, Duration::from_secs(3 * 86_400));
    assert!(config.outbound.forward.is_some());
    assert_eq!(config.nats.streams.outbound.len(), 2);
    assert!(given().config().nats.streams.outbound.is_empty());

    let unsigned = given().env("RELINK_NOTICES_URL", "https://app.example.com/");
    assert!(unsigned.problem().contains("also needs notices.secrets"), "{}", unsigned.problem());
    for (name, value, expected) in [
        ("RELINK_NOTICES_SECRETS", "whsec_too-short", "must be `whsec_` and the base64"),
        ("RELINK_NOTICES_URL", "ftp://app.example.com", "notices.url must be an address"),
        ("RELINK_NOTICES_URL", "https://user:word@app.example.com", "notices.url must be an address"),
        ("RELINK_NOTICES_TYPES", "recoverd", "notices.types has `recoverd`, which is none of update_required"),
        ("RELINK_FORWARD_URL", "http://127.0.0.1:8480/webhooks/belvo", "forward.url is the address of this relink"),
        ("RELINK_FORWARD_AUTHORIZATION", "Bearer y", "forward.authorization also needs forward.url"),
    ] {
        let problem = with(name, value).problem();
        assert!(problem.contains(expected), "{problem}");
        assert!(!problem.contains("too-short") && !problem.contains("word"), "{problem}");
    }
}

#[test]
fn several_values_are_written_alike_in_the_file_and_elsewhere() {
    let secrets =
        |config: Config| config.http.api_tokens.iter().map(|it| it.expose_secret().to_owned()).collect::<Vec<_>>();
    for tokens in ["\"one, two\"", "[\"one\", \"two\"]"] {
        assert_eq!(secrets(given().file(&format!("[http]\napi_tokens = {tokens}")).config()), ["one", "two"]);
    }
    assert_eq!(secrets(given().env("RELINK_API_TOKENS", "one, two").config()), ["one", "two"]);
    for urls in ["\"nats://u:hunter2@a:4222, b\"", "[\"nats://u:hunter2@a:4222\", \"b\"]"] {
        let loaded = given().file(&format!("[nats]\nurl = {urls}")).load().unwrap();
        assert_eq!(loaded.config.nats.url.unwrap().expose().collect::<Vec<_>>(), ["nats://u:hunter2@a:4222", "b"]);
        assert!(
            !loaded.report.contains("hunter2") && loaded.report.parse::<toml::Table>().is_ok(),
            "{}",
            loaded.report
        );
    }
}

#[test]
fn an_address_to_listen_on_may_be_localhost() {
    assert_eq!(given().env("RELINK_LISTEN", "localhost:8480").config().http.listen.to_string(), "127.0.0.1:8480");
    assert!(given().env("RELINK_LISTEN", "localhost").problem().contains("`localhost`; the port is missing"));
}

/// Belvo's settings with this address.
fn belvo(url: &str) -> Given {
    let keys = given().env("RELINK_BELVO_SECRET_ID", "id").env("RELINK_BELVO_SECRET_PASSWORD", "p");
    keys.env("RELINK_BELVO_URL", url)
}

#[test]
fn the_address_of_belvo_has_no_part_that_relink_adds() {
    for url in ["https://api.belvo.com/api/", "https://api.belvo.com/api/links/", "https://api.belvo.com/?a=b"] {
        assert!(belvo(url).problem().contains("no user, /api"), "{url}");
    }
    assert_eq!(
        belvo("https://gateway.example/belvo/").config().belvo.keys.unwrap().url,
        "https://gateway.example/belvo"
    );
}

#[test]
fn relink_and_the_proxy_need_different_addresses() {
    let with = |http: &str, proxy: &str| {
        belvo("https://sandbox.belvo.com").env("RELINK_LISTEN", http).env("RELINK_PROXY_LISTEN", proxy)
    };
    for (http, proxy) in [
        ("127.0.0.1:8480", "localhost:8480"),
        // All addresses of the machine are one of them too.
        ("0.0.0.0:8480", "127.0.0.1:8480"),
        ("127.0.0.1:8480", "0.0.0.0:8480"),
        ("[::]:8480", "127.0.0.1:8480"),
        ("[::]:8480", "[::1]:8480"),
        ("0.0.0.0:8480", "[::]:8480"),
        ("127.0.0.1:8480", "[::ffff:127.0.0.1]:8480"),
    ] {
        let problem = with(http, proxy).problem();
        assert!(problem.contains("is also the address of http.listen"), "{http} {proxy}: {problem}");
    }
    for (http, proxy) in [
        ("127.0.0.1:8480", "127.0.0.2:8480"),
        ("0.0.0.0:8480", "0.0.0.0:8481"),
        ("0.0.0.0:8480", "[::1]:8480"),
        ("127.0.0.1:0", "127.0.0.1:0"),
    ] {
        with(http, proxy).config();
    }
}

#[test]
fn a_short_api_token_is_warned_about_and_not_shown() {
    let warnings = |tokens: &str, named: &str| {
        let given = given().env("RELINK_API_TOKENS", tokens).env("RELINK_NAMED_API_TOKENS", named);
        given.load().unwrap().warnings
    };
    let long = "a-token-of-sixteen";
    assert_eq!(warnings(long, &format!("app:report:{long}-2")), Vec::<String>::new());
    let short = warnings(&format!("{long},hunter2"), "app:report:hunter3");
    assert!(
        short.len() == 2 && short[0].contains("RELINK_API_TOKENS") && short[1].contains("the token `app`"),
        "{short:?}"
    );
    assert!(!short.concat().contains("hunter"), "{short:?}");
}

#[test]
fn a_page_of_another_system_and_an_open_repair_page_are_warned_about() {
    let warnings = |given: Given| given.load().unwrap().warnings;
    assert_eq!(warnings(given()), Vec::<String>::new());
    assert_eq!(warnings(belvo("https://sandbox.belvo.com")), Vec::<String>::new());
    let mixed = warnings(belvo("http://localhost:8490"));
    assert!(mixed.len() == 2 && mixed[0].contains("belvo.widget_url"), "{mixed:?}");
    let pages = belvo("http://127.0.0.1:8490")
        .env("RELINK_BELVO_WIDGET_URL", "http://127.0.0.1:8490/widget/")
        .env("RELINK_BELVO_PORTAL_URL", "http://[::1]:8490/portal/");
    assert_eq!(warnings(pages), Vec::<String>::new());
    let repair = |url: &str| {
        let keys = belvo("https://sandbox.belvo.com").env("RELINK_REPAIR_KEYS", "0123456789abcdef0123456789abcdef");
        warnings(keys.env("RELINK_REPAIR_BASE_URL", url))
    };
    assert!(repair("http://relink.example.com")[0].contains("Use https"));
    assert_eq!(repair("https://relink.example.com"), Vec::<String>::new());
    assert_eq!(repair("http://127.0.0.1:8480"), Vec::<String>::new());
}

#[test]
fn a_named_token_has_a_name_and_scopes_and_no_problem_quotes_a_part_of_it() {
    let config =
        given().env("RELINK_NAMED_API_TOKENS", "app:report+repair:t:1, ana@night:operate+read+read:t2").config();
    let tokens = config.http.named_api_tokens;
    let scopes = |at: usize| tokens[at].scopes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!((tokens[0].name.as_str(), scopes(0).as_str()), ("app", "report repair"));
    assert_eq!((tokens[1].name.as_str(), scopes(1).as_str()), ("ana@night", "read operate"));
    assert_eq!(tokens[0].secret.expose_secret(), "t:1", "a token may have colons");
    for (value, problem) in [
        ("hunter2", "must have the form"),
        ("hunter2:hunter2", "must have the form"),
        ("app:hunter2:x", "a scope is none of report, read, repair, operate"),
        ("hunter 2:read:x", "the name must have"),
        ("app:read:", "must have the form"),
        ("a:read:hunter2,b:operate:hunter2", "item 2: the token is given twice"),
    ] {
        let found = given().env("RELINK_NAMED_API_TOKENS", value).problem();
        assert!(found.contains(problem) && !found.contains("hunter"), "{value}: {found}");
    }
    let both = given().env("RELINK_API_TOKENS", "same").env("RELINK_NAMED_API_TOKENS", "a:read:same").problem();
    assert!(both.contains("given twice"), "{both}");
}

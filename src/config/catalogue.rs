//! Every setting there is, as a table: its key in the file, its variable, its flag, its default, and what it is for.
//!
//! `--help`, `relink check-config`, the did-you-mean and the reading itself are made from these rows, so a setting
//! that is not
//! here does not exist. Next: `layers.rs` collects the values, `mod.rs` turns them into types.

use Kind::{Bytes, List, Number, Span, Spans, Switch, Text, Url};

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Its key in the TOML file, with the table before the dot.
    pub key: &'static str,
    /// Its environment variable.
    pub variable: &'static str,
    /// Its flag of `relink serve`, if it has one. Secrets have none: the flags of a process are visible to everybody
    /// on the machine.
    pub flag: Option<&'static str>,
    /// What its value looks like.
    pub kind: Kind,
    /// Whether its value is never shown.
    pub secret: bool,
    /// Its value if nobody gives one, spelled as in the environment.
    pub default: Option<&'static str>,
    /// What it is for.
    pub about: &'static str,
}

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// An address that may hold a user and a password.
    Url,
    /// A whole number.
    Number,
    /// A number of bytes, such as `1073741824` or `1GiB`.
    Bytes,
    /// `true` or `false`.
    Switch,
    /// Texts: an array in the file, comma-separated elsewhere.
    List,
    /// A span, such as `30m`, `6h` or `1d`.
    Span,
    /// Spans: an array in the file, comma-separated elsewhere.
    Spans,
}

const fn row(
    key: &'static str,
    variable: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    about: &'static str,
) -> Setting {
    Setting { key, variable, flag: None, kind, secret: false, default, about }
}

const fn secret(key: &'static str, variable: &'static str, kind: Kind, about: &'static str) -> Setting {
    Setting { key, variable, flag: None, kind, secret: true, default: None, about }
}

impl Setting {
    const fn flag(mut self, flag: &'static str) -> Self {
        self.flag = Some(flag);
        self
    }
}

/// All settings, in the order in which people are told of them.
pub static SETTINGS: &[Setting] = &[
    row("http.listen", "RELINK_LISTEN", Text, Some("127.0.0.1:8480"), "address of the HTTP door").flag("--listen"),
    secret(
        "http.webhook_secrets",
        "RELINK_WEBHOOK_SECRETS",
        List,
        "whole Authorization values that Belvo may send; two at a time for a rotation",
    ),
    secret("http.api_tokens", "RELINK_API_TOKENS", List, "bearer tokens for /v1"),
    row(
        "http.allow_open_webhooks",
        "RELINK_ALLOW_OPEN_WEBHOOKS",
        Switch,
        Some("false"),
        "start without webhook secrets: anybody may then post webhooks",
    )
    .flag("--allow-open-webhooks"),
    row(
        "nats.url",
        "RELINK_NATS_URL",
        Url,
        None,
        "NATS to connect to, several with commas; without one relink runs its own",
    )
    .flag("--nats-url"),
    row("nats.credentials", "RELINK_NATS_CREDENTIALS", Text, None, "NATS credentials file (.creds)")
        .flag("--nats-credentials"),
    row(
        "nats.server",
        "RELINK_NATS_SERVER",
        Text,
        None,
        "nats-server to run when no NATS is given; else the one on PATH",
    ),
    row(
        "nats.monitor_url",
        "RELINK_NATS_MONITOR_URL",
        Url,
        None,
        "HTTP monitor of the NATS server, to check its sync_interval",
    ),
    row("nats.prefix_input", "RELINK_PREFIX_INPUT", Text, Some("belvo"), "first words of the subjects relink hears"),
    row(
        "nats.prefix_output",
        "RELINK_PREFIX_OUTPUT",
        Text,
        Some("link"),
        "first words of the subjects relink speaks on",
    ),
    row(
        "nats.partitions",
        "RELINK_PARTITIONS",
        Number,
        Some("16"),
        "partitions; fixed when the input stream is created",
    ),
    row("nats.replicas", "RELINK_REPLICAS", Number, Some("1"), "copies of every stream in a NATS cluster"),
    row(
        "nats.history",
        "RELINK_HISTORY",
        Number,
        Some("64"),
        "messages kept per output subject: the length of a link's history",
    ),
    row("nats.input_max_age", "RELINK_INPUT_MAX_AGE", Span, Some("30d"), "how long an input is kept"),
    row(
        "store.data_dir",
        "RELINK_DATA_DIR",
        Text,
        Some("./relink-data"),
        "directory of the store, and of relink's own NATS",
    )
    .flag("--data-dir"),
    row("store.cache_bytes", "RELINK_CACHE_BYTES", Bytes, Some("256MiB"), "memory the store may use as a cache"),
    row(
        "belvo.url",
        "RELINK_BELVO_URL",
        Text,
        None,
        "Belvo's API, such as https://sandbox.belvo.com; with both secrets relink can ask Belvo",
    ),
    secret("belvo.secret_id", "RELINK_BELVO_SECRET_ID", Text, "Belvo's secret id"),
    secret("belvo.secret_password", "RELINK_BELVO_SECRET_PASSWORD", Text, "Belvo's secret password"),
    row(
        "belvo.widget_url",
        "RELINK_BELVO_WIDGET_URL",
        Text,
        Some("https://widget.belvo.io/"),
        "where Belvo's hosted widget lives",
    ),
    row(
        "belvo.portal_url",
        "RELINK_BELVO_PORTAL_URL",
        Text,
        Some("https://meuportal.belvo.com/"),
        "where users renew open-finance consents",
    ),
    row(
        "belvo.requests_per_30s",
        "RELINK_BELVO_REQUESTS_PER_30S",
        Number,
        Some("80"),
        "requests to Belvo in any 30 seconds, of all of relink",
    ),
    row("reconciler.sweep_every", "RELINK_SWEEP_EVERY", Span, Some("1h"), "how often Belvo is asked for broken links"),
    row(
        "reconciler.rotation",
        "RELINK_ROTATION",
        Span,
        Some("1d"),
        "how long it takes to compare every link with Belvo",
    ),
    row(
        "reconciler.adoption_per_hour",
        "RELINK_ADOPTION_PER_HOUR",
        Number,
        Some("60"),
        "adopted broken links released an hour; 0: none by itself",
    ),
    row("log.filter", "RELINK_LOG", Text, Some("info"), "what is logged, such as info or relink=debug,info")
        .flag("--log"),
    row("log.format", "RELINK_LOG_FORMAT", Text, Some("text"), "text or json").flag("--log-format"),
    row(
        "policy.update_wait_max",
        "RELINK_POLICY_UPDATE_WAIT_MAX",
        Span,
        Some("30m"),
        "the longest an update may be with the user",
    ),
    row(
        "policy.verify_wait",
        "RELINK_POLICY_VERIFY_WAIT",
        Span,
        Some("2m"),
        "how long one question to Belvo may go unanswered",
    ),
    row(
        "policy.verify_attempts_max",
        "RELINK_POLICY_VERIFY_ATTEMPTS_MAX",
        Number,
        Some("3"),
        "how often a claimed repair is looked at",
    ),
    row(
        "policy.settle_window",
        "RELINK_POLICY_SETTLE_WINDOW",
        Span,
        Some("30m"),
        "for how long after a recovery bad news is checked first",
    ),
    row(
        "policy.repeat_window",
        "RELINK_POLICY_REPEAT_WINDOW",
        Span,
        Some("4h"),
        "for how long a fact is recognised as a repeat",
    ),
    row(
        "policy.reminders",
        "RELINK_POLICY_REMINDERS",
        Spans,
        Some("1d,3d,7d"),
        "when users are reminded, from the beginning of the outage",
    ),
    row(
        "policy.reminder_pause",
        "RELINK_POLICY_REMINDER_PAUSE",
        Span,
        Some("1d"),
        "the least time between two words to a user",
    ),
    row(
        "policy.refresh_wait",
        "RELINK_POLICY_REFRESH_WAIT",
        Span,
        Some("6h"),
        "how long Belvo's own refresh may take after a repair",
    ),
    row(
        "policy.refresh_attempts_max",
        "RELINK_POLICY_REFRESH_ATTEMPTS_MAX",
        Number,
        Some("2"),
        "how many refreshes a repair is given, Belvo's own included",
    ),
    row(
        "policy.consent_refreshes_max",
        "RELINK_POLICY_CONSENT_REFRESHES_MAX",
        Number,
        Some("4"),
        "monthly refreshes for a link with a consent (quota: 8)",
    ),
    row(
        "policy.consent_notice",
        "RELINK_POLICY_CONSENT_NOTICE",
        Span,
        Some("7d"),
        "how long before a consent ends its user is told",
    ),
    row(
        "policy.stale_after_intervals",
        "RELINK_POLICY_STALE_AFTER_INTERVALS",
        Number,
        Some("2"),
        "after how many missed refresh intervals a link is stale",
    ),
    row(
        "policy.incident_links",
        "RELINK_POLICY_INCIDENT_LINKS",
        Number,
        Some("20"),
        "so many links of one institution are an incident; 0: never",
    ),
    row(
        "policy.incident_window",
        "RELINK_POLICY_INCIDENT_WINDOW",
        Span,
        Some("10m"),
        "within how long they have to fail, and how long a calm ends it",
    ),
    row(
        "policy.incident_wait",
        "RELINK_POLICY_INCIDENT_WAIT",
        Span,
        Some("10m"),
        "how often a prompt held in an incident is looked at",
    ),
];

/// The setting with this key.
pub(super) fn setting(key: &str) -> &'static Setting {
    SETTINGS
        .iter()
        .find(|setting| setting.key == key)
        .expect("every key that is read is in the catalogue, a test reads all")
}

/// The catalogue for `--help`: variable, key, default, purpose.
pub fn help() -> String {
    let mut text = String::from(
        "Settings. A flag wins over the environment, the environment over the file, the file over the default.\n\
         In the file, the part before the dot is the table: `[http]` and under it `listen = \"…\"`.\n",
    );
    for setting in SETTINGS {
        let default = setting.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
        let flag = setting.flag.map(|flag| format!(", {flag}")).unwrap_or_default();
        text.push_str(&format!("\n  {}, {}{flag}\n      {}{default}\n", setting.variable, setting.key, setting.about));
    }
    text
}

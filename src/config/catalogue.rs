//! The table of all settings: key in the file, variable, flag, default, description.
//!
//! `--help`, `relink check-config`, the guesses for unknown names and the reading of values use these rows, so no
//! other setting exists. `setting.rs` has the type of a row, `policy_catalogue.rs` the rows of the policy. Next: `layers.rs` collects the values, `mod.rs` converts them into types.

use super::policy_catalogue::POLICY;
use super::setting::Kind::{Bytes, List, Number, Text, Url};
use super::setting::{Setting, row, secret, span, switch};

/// All settings, in the order of `--help` and of docs/settings.md.
pub fn all_settings() -> impl Iterator<Item = &'static Setting> {
    PROGRAM.iter().chain(POLICY)
}

/// The settings of the program: its connections, its parts and its log.
static PROGRAM: &[Setting] = &[
    row("http.listen", "RELINK_LISTEN", Text, Some("127.0.0.1:8480"), "address and port of the HTTP server")
        .flag("--listen"),
    secret(
        "http.webhook_secrets",
        "RELINK_WEBHOOK_SECRETS",
        List,
        "accepted Authorization values of webhooks, whole; give two during a rotation",
    ),
    secret(
        "http.status_webhook_secrets",
        "RELINK_STATUS_WEBHOOK_SECRETS",
        List,
        "secrets for webhooks of Belvo's status page; default: all refused",
    ),
    secret("http.api_tokens", "RELINK_API_TOKENS", List, "bearer tokens for /v1, which may do everything"),
    secret(
        "http.named_api_tokens",
        "RELINK_NAMED_API_TOKENS",
        List,
        "bearer tokens with a name and scopes, each <name>:<scope>+<scope>:<token>",
    ),
    switch(
        "http.allow_open_webhooks",
        "RELINK_ALLOW_OPEN_WEBHOOKS",
        "false",
        "start without webhook secrets; then everybody can post webhooks",
    )
    .flag("--allow-open-webhooks"),
    row(
        "http.connections_max",
        "RELINK_CONNECTIONS_MAX",
        Number,
        Some("0"),
        "most open HTTP connections; 0: half of the allowed open files, at most 4096",
    ),
    row(
        "http.acknowledge",
        "RELINK_HTTP_ACKNOWLEDGE",
        Text,
        Some("journal"),
        "what 2xx promises: the input is on disk (journal), or in NATS too (stream)",
    ),
    switch(
        "http.console",
        "RELINK_CONSOLE",
        "true",
        "serve the console, a page for support and operators; it shows nothing without an API token",
    ),
    row(
        "journal.max_bytes",
        "RELINK_JOURNAL_MAX_BYTES",
        Bytes,
        Some("1GiB"),
        "largest size of the journal; then inputs get 503",
    ),
    span(
        "journal.max_age",
        "RELINK_JOURNAL_MAX_AGE",
        "1d",
        "longest time that an input may wait for NATS in the journal; then inputs get 503",
    ),
    row(
        "nats.url",
        "RELINK_NATS_URL",
        Url,
        None,
        "address of NATS, or several; without one relink runs its own nats-server",
    )
    .flag("--nats-url"),
    row(
        "nats.credentials",
        "RELINK_NATS_CREDENTIALS",
        Text,
        None,
        "NATS credentials file (.creds), read at each connect",
    )
    .flag("--nats-credentials"),
    row("nats.nkey", "RELINK_NATS_NKEY", Text, None, "file with the seed of an NKey, instead of a credentials file"),
    row(
        "nats.tls_ca",
        "RELINK_NATS_TLS_CA",
        Text,
        None,
        "PEM file with the CA certificates of NATS; default: the system's",
    ),
    row(
        "nats.tls_certificate",
        "RELINK_NATS_TLS_CERTIFICATE",
        Text,
        None,
        "PEM file with a client certificate for NATS",
    ),
    row("nats.tls_key", "RELINK_NATS_TLS_KEY", Text, None, "PEM file with the private key of that certificate"),
    row(
        "nats.server",
        "RELINK_NATS_SERVER",
        Text,
        None,
        "path of the nats-server that relink runs if nats.url is not set; default: the one on PATH",
    ),
    // Kubernetes sets RELINK_NATS_PORT for a service named relink-nats, so the variable has another name.
    row(
        "nats.port",
        "RELINK_NATS_PORT_NUMBER",
        Number,
        Some("0"),
        "port of relink's own nats-server; 0: that of the last start, first 4222 or a free one",
    ),
    row(
        "nats.monitor_url",
        "RELINK_NATS_MONITOR_URL",
        Url,
        None,
        "address of the NATS server's HTTP monitor, to check its sync_interval and its health",
    ),
    row("nats.prefix_input", "RELINK_PREFIX_INPUT", Text, Some("belvo"), "prefix of the subjects of inputs"),
    row("nats.prefix_output", "RELINK_PREFIX_OUTPUT", Text, Some("link"), "prefix of the subjects of outputs"),
    row(
        "nats.partitions",
        "RELINK_PARTITIONS",
        Number,
        Some("16"),
        "number of partitions; fixed when the input stream is created",
    ),
    row("nats.replicas", "RELINK_REPLICAS", Number, Some("1"), "replicas of every stream in a NATS cluster"),
    row(
        "nats.history",
        "RELINK_HISTORY",
        Number,
        Some("64"),
        "messages kept on each output subject, which limits the history of a link",
    ),
    row(
        "nats.stream_max_bytes",
        "RELINK_STREAM_MAX_BYTES",
        Bytes,
        Some("0"),
        "largest size of a new stream; a full one refuses messages; 0: no limit",
    ),
    span("nats.input_max_age", "RELINK_INPUT_MAX_AGE", "30d", "how long inputs are kept"),
    row(
        "store.data_dir",
        "RELINK_DATA_DIR",
        Text,
        Some("./relink-data"),
        "directory of the store and of relink's own NATS",
    )
    .flag("--data-dir"),
    row("store.cache_bytes", "RELINK_CACHE_BYTES", Bytes, Some("128MiB"), "size of the store's cache in memory"),
    row("belvo.url", "RELINK_BELVO_URL", Text, None, "address of Belvo's API, such as https://sandbox.belvo.com"),
    secret("belvo.secret_id", "RELINK_BELVO_SECRET_ID", Text, "Belvo's secret id"),
    secret("belvo.secret_password", "RELINK_BELVO_SECRET_PASSWORD", Text, "Belvo's secret password"),
    row(
        "belvo.widget_url",
        "RELINK_BELVO_WIDGET_URL",
        Text,
        Some("https://widget.belvo.io/"),
        "address of Belvo's hosted widget",
    ),
    row(
        "belvo.portal_url",
        "RELINK_BELVO_PORTAL_URL",
        Text,
        Some("https://meuportal.belvo.com/"),
        "portal where users renew open-finance consents",
    ),
    row(
        "belvo.requests_per_30s",
        "RELINK_BELVO_REQUESTS_PER_30S",
        Number,
        Some("80"),
        "most requests to Belvo in any 30 seconds",
    ),
    row(
        "repair.base_url",
        "RELINK_REPAIR_BASE_URL",
        Text,
        None,
        "public address of relink, such as https://relink.example.com; turns the repair page on",
    ),
    secret(
        "repair.keys",
        "RELINK_REPAIR_KEYS",
        List,
        "one or two keys of at least 32 characters; the first signs repair links, all verify",
    ),
    span("repair.expires", "RELINK_REPAIR_EXPIRES", "14d", "how long a repair link is valid"),
    row("repair.name", "RELINK_REPAIR_NAME", Text, None, "name of your product on the repair page"),
    row(
        "repair.logo",
        "RELINK_REPAIR_LOGO",
        Text,
        None,
        "file with your logo (.svg, .png, .jpg, .webp; at most 256 KiB), served by relink",
    ),
    row(
        "repair.colors",
        "RELINK_REPAIR_COLORS",
        List,
        None,
        "colour of the button, such as #0b5fa5; give a second one for the dark page",
    ),
    row(
        "repair.return_url",
        "RELINK_REPAIR_RETURN_URL",
        Text,
        None,
        "address of your product, to which the repair page leads back",
    ),
    row(
        "repair.support",
        "RELINK_REPAIR_SUPPORT",
        Text,
        None,
        "help for users: an e-mail address, an https address, or a text",
    ),
    row(
        "repair.terms_url",
        "RELINK_REPAIR_TERMS_URL",
        Text,
        None,
        "address of your terms, which Belvo requires to renew a consent",
    ),
    row(
        "repair.widget",
        "RELINK_REPAIR_WIDGET",
        Text,
        Some("hosted"),
        "where Belvo's widget opens: on Belvo's page (hosted), or on the repair page (page)",
    ),
    row(
        "repair.script_url",
        "RELINK_REPAIR_SCRIPT_URL",
        Text,
        Some("https://cdn.belvo.io/belvo-widget-1-stable.js"),
        "address of Belvo's widget program",
    ),
    row(
        "proxy.listen",
        "RELINK_PROXY_LISTEN",
        Text,
        None,
        "address and port of the proxy for Belvo's API; without one there is no proxy",
    ),
    row(
        "proxy.connections_max",
        "RELINK_PROXY_CONNECTIONS_MAX",
        Number,
        Some("0"),
        "most open connections of the proxy; 0: an eighth of the open files",
    ),
    row(
        "notices.url",
        "RELINK_NOTICES_URL",
        Text,
        None,
        "address that gets notices as signed HTTP webhooks; without one they are only on NATS",
    ),
    secret(
        "notices.secrets",
        "RELINK_NOTICES_SECRETS",
        List,
        "keys that sign these requests, each whsec_ and base64; give two during a rotation",
    ),
    row(
        "notices.types",
        "RELINK_NOTICES_TYPES",
        List,
        None,
        "types of notice that this address gets, and incident; default: all",
    ),
    span(
        "notices.retry_for",
        "RELINK_NOTICES_RETRY_FOR",
        "3d",
        "how long a notice is sent again until it is a dead letter",
    ),
    row(
        "forward.url",
        "RELINK_FORWARD_URL",
        Text,
        None,
        "address of your own handler, which gets each webhook of Belvo unchanged",
    ),
    secret(
        "forward.authorization",
        "RELINK_FORWARD_AUTHORIZATION",
        Text,
        "Authorization value for this address; default: the first webhook secret",
    ),
    span(
        "forward.retry_for",
        "RELINK_FORWARD_RETRY_FOR",
        "3d",
        "how long a webhook is sent again until it is a dead letter",
    ),
    span("reconciler.sweep_every", "RELINK_SWEEP_EVERY", "1h", "interval between sweeps of broken links"),
    span("reconciler.rotation", "RELINK_ROTATION", "1d", "time in which every link is compared with Belvo once"),
    row(
        "reconciler.adoption_per_hour",
        "RELINK_ADOPTION_PER_HOUR",
        Number,
        Some("60"),
        "adopted broken links that are released per hour; 0: none",
    ),
    span(
        "service.stop_timeout",
        "RELINK_STOP_TIMEOUT",
        "10s",
        "longest time of a stop; what has not ended by then is aborted",
    ),
    switch(
        "service.observe",
        "RELINK_OBSERVE",
        "false",
        "only observe: record what would be sent, send no notices, change nothing at Belvo",
    )
    .flag("--observe"),
    switch(
        "service.webhooks_first",
        "RELINK_WEBHOOKS_FIRST",
        "false",
        "while the CPU is busy, take webhooks before handling them (Linux)",
    ),
    row("log.filter", "RELINK_LOG", Text, Some("info"), "log filter, such as info or relink=debug,info").flag("--log"),
    row("log.format", "RELINK_LOG_FORMAT", Text, Some("text"), "log format: text or json").flag("--log-format"),
    row(
        "traces.endpoint",
        "RELINK_TRACES_ENDPOINT",
        Text,
        None,
        "address of an OTLP collector (http/protobuf), such as http://127.0.0.1:4318",
    ),
    secret("traces.headers", "RELINK_TRACES_HEADERS", List, "headers for the collector, each name=value"),
    row(
        "traces.sample_ratio",
        "RELINK_TRACES_SAMPLE_RATIO",
        Text,
        Some("1"),
        "share of the traces that begin in relink, from 0 to 1",
    ),
    row(
        "status.components",
        "RELINK_STATUS_COMPONENTS",
        List,
        None,
        "institutions on Belvo's status page: `Name on the page=erebor_mx_retail`",
    ),
];

/// The setting with this key.
pub(super) fn setting(key: &str) -> &'static Setting {
    all_settings()
        .find(|setting| setting.key == key)
        .expect("every key that is read is in the catalogue; a test reads all of them")
}

//! The rules: which module may import which, and which file may use which crate. See `../architecture.rs`.

/// Each top-level module of `src/`, and the modules that it may import, from the core outwards. A module imports only
/// modules above it.
pub(crate) const MODULES: &[(&str, &[&str])] = &[
    ("tls", &[]),
    ("printable", &[]),
    ("metric", &[]),
    ("os", &[]),
    ("direct", &["tls"]),
    ("link", &[]),
    ("clock", &["link"]),
    ("drawing", &["link"]),
    ("contract", &["link"]),
    ("belvo", &["metric", "tls", "link", "clock", "contract"]),
    ("store", &["link", "contract"]),
    ("engine", &["link", "contract", "belvo", "store"]),
    ("node", &["link", "contract", "store", "engine"]),
    ("nats", &["metric", "direct", "tls", "os", "link", "clock", "contract", "store", "engine", "node"]),
    ("journal", &["metric", "os", "link", "clock", "contract", "nats"]),
    ("schemas", &["link", "contract", "store", "engine", "nats"]),
    ("config", &["printable", "link", "nats", "journal"]),
    ("telemetry", &["metric", "printable", "config"]),
    ("jobs", &["metric", "link", "clock", "contract", "belvo", "store", "nats"]),
    ("reconciler", &["metric", "link", "clock", "contract", "belvo", "store", "nats"]),
    (
        "http",
        &["metric", "os", "journal", "link", "clock", "contract", "belvo", "store", "nats", "config", "telemetry"],
    ),
    (
        "service",
        &[
            "metric",
            "os",
            "clock",
            "belvo",
            "store",
            "node",
            "nats",
            "config",
            "telemetry",
            "journal",
            "jobs",
            "reconciler",
            "http",
        ],
    ),
    // The simulated Belvo is the crate `belvo_sandbox`, which imports nothing of relink; `simulation` uses it too.
    (
        "rehearsal",
        &[
            "direct",
            "printable",
            "link",
            "clock",
            "contract",
            "belvo",
            "store",
            "engine",
            "node",
            "nats",
            "config",
            "jobs",
            "reconciler",
            "service",
        ],
    ),
    (
        "simulation",
        &["link", "clock", "contract", "belvo", "store", "engine", "node", "nats", "jobs", "reconciler", "journal"],
    ),
    (
        "cli",
        &[
            "os",
            "printable",
            "contract",
            "drawing",
            "nats",
            "schemas",
            "direct",
            "config",
            "telemetry",
            "service",
            "rehearsal",
            "simulation",
        ],
    ),
    ("main", &["cli"]),
];

/// Each external crate with restricted use, and the only files that may use it.
pub(crate) const OWNERS: &[(&str, &[&str])] = &[
    ("sled", &["store/sled.rs", "store/sled/bulk.rs", "store/sled/check.rs", "store/sled/database.rs"]),
    (
        "async_nats",
        &[
            "nats/",
            "jobs.rs",
            "journal/target.rs",
            "service.rs",
            "service/own_server.rs",
            "service/nats.rs",
            "rehearsal/demo/",
            "rehearsal/scenario/subscriber.rs",
        ],
    ),
    ("axum", &["http/"]),
    ("hyper", &["http/connection.rs"]),
    ("hyper_util", &["http/connection.rs"]),
    ("rustix", &["os.rs"]),
    ("nkeys", &["nats/connection.rs"]),
    ("belvo_sandbox", &["rehearsal/", "simulation/belvo.rs", "cli/mod.rs"]),
    (
        "reqwest",
        &[
            "direct.rs",
            "belvo/client",
            "rehearsal/fleet/customer.rs",
            "rehearsal/demo/",
            "rehearsal/scenario/",
            "cli/",
            "config/",
            "http/repair.rs",
            "http/renewal.rs",
            "nats/durability.rs",
            "nats/server_health.rs",
        ],
    ),
    (
        "clap",
        &[
            "cli/",
            "drawing.rs",
            "rehearsal/demo/mod.rs",
            "rehearsal/scenario/args.rs",
            "rehearsal/fleet/args.rs",
            "simulation/args.rs",
            "simulation/fault.rs",
        ],
    ),
    (
        "anyhow",
        &[
            "cli/",
            "service.rs",
            "service/",
            "schemas.rs",
            "rehearsal/demo/",
            "rehearsal/scenario/args.rs",
            "rehearsal/fleet/",
            "simulation/args.rs",
        ],
    ),
    ("schemars", &["contract/", "schemas.rs", "schemas/"]),
    ("toml", &["config/", "rehearsal/scenario/"]),
    ("rustls", &["tls.rs"]),
    ("subtle", &["http/auth.rs"]),
    ("fastrand", &["rehearsal/", "simulation/", "reconciler/pace.rs", "journal/mod.rs"]),
    ("metrics_exporter_prometheus", &["telemetry.rs", "http/mod.rs"]),
];

/// Crates that the inner modules may not use: the core has no serde, I/O, async code or log.
pub(crate) const NOT_IN: &[(&str, &[&str])] = &[
    ("link/", &["serde", "serde_json", "schemars", "tokio", "futures", "tracing", "metrics", "fastrand", "bytes"]),
    ("contract/", &["tokio", "futures", "tracing", "metrics"]),
    ("store/", &["tokio", "futures"]),
    ("engine/", &["tokio", "futures", "metrics"]),
    // The node returns everything as a value, also events for the log and the metrics, so that a simulation sees
    // them.
    ("node/", &["tokio", "futures", "async_nats", "metrics", "tracing", "fastrand", "uuid", "time"]),
];

/// Directories whose files have no import cycle, so that they can be read in one order.
pub(crate) const WITHOUT_CYCLES: &[&str] = &["crates/belvo-sandbox/src/", "src/rehearsal/"];

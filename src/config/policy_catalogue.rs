//! The settings of the machine's policy: the rows of `[policy]` in the table of all settings. They change when a rule about prompts, repairs
//! or incidents gets a setting. Next: `policy.rs` reads them.

use super::setting::Kind::{Number, Span, Spans, Switch, Text};
use super::setting::{Setting, row, span};

/// The settings of the policy, in the order of `--help`.
pub(super) static POLICY: &[Setting] = &[
    span(
        "policy.update_wait_max",
        "RELINK_POLICY_UPDATE_WAIT_MAX",
        "30m",
        "longest time of one repair attempt of a user",
    ),
    span(
        "policy.verify_wait",
        "RELINK_POLICY_VERIFY_WAIT",
        "2m",
        "how long relink waits for the answer to one verify job",
    ),
    row(
        "policy.verify_attempts_max",
        "RELINK_POLICY_VERIFY_ATTEMPTS_MAX",
        Number,
        Some("3"),
        "how often a claimed repair is verified",
    ),
    span(
        "policy.settle_window",
        "RELINK_POLICY_SETTLE_WINDOW",
        "30m",
        "time after a recovery in which evidence is verified first",
    ),
    span("policy.repeat_window", "RELINK_POLICY_REPEAT_WINDOW", "4h", "how long a repeated fact is recognised"),
    row(
        "policy.reminders",
        "RELINK_POLICY_REMINDERS",
        Spans,
        Some("1d,3d,7d"),
        "times of the reminders, since the prompt",
    ),
    span("policy.reminder_pause", "RELINK_POLICY_REMINDER_PAUSE", "1d", "least time between two messages to a person"),
    row("policy.per_person", "RELINK_POLICY_PER_PERSON", Switch, Some("true"), "one external_id is one person"),
    row(
        "policy.quiet_hours",
        "RELINK_POLICY_QUIET_HOURS",
        Text,
        None,
        "part of the day without messages to users, as 22:00-08:00; default: none",
    ),
    row(
        "policy.time_zone",
        "RELINK_POLICY_TIME_ZONE",
        Text,
        None,
        "time zone of the quiet hours; default: that of the institution's country",
    ),
    span(
        "policy.refresh_wait",
        "RELINK_POLICY_REFRESH_WAIT",
        "6h",
        "how long relink waits for Belvo's own refresh after a repair",
    ),
    row(
        "policy.refresh_attempts_max",
        "RELINK_POLICY_REFRESH_ATTEMPTS_MAX",
        Number,
        Some("2"),
        "most refreshes after a repair, Belvo's own included",
    ),
    row(
        "policy.consent_refreshes_max",
        "RELINK_POLICY_CONSENT_REFRESHES_MAX",
        Number,
        Some("4"),
        "most refreshes per month of a link with a consent",
    ),
    row(
        "policy.consent_notices",
        "RELINK_POLICY_CONSENT_NOTICES",
        Spans,
        Some("30d,7d,1d"),
        "how long before its end a consent is announced, each once",
    ),
    row(
        "policy.stale_after_intervals",
        "RELINK_POLICY_STALE_AFTER_INTERVALS",
        Number,
        Some("2"),
        "missed refresh intervals after which a link is stale",
    ),
    row(
        "policy.incident_links",
        "RELINK_POLICY_INCIDENT_LINKS",
        Number,
        Some("20"),
        "failing links of an institution that are an incident; 0: never",
    ),
    span(
        "policy.incident_window",
        "RELINK_POLICY_INCIDENT_WINDOW",
        "10m",
        "window in which these links fail; one with few failures ends it",
    ),
    row(
        "policy.outage_links",
        "RELINK_POLICY_OUTAGE_LINKS",
        Number,
        Some("5"),
        "links of an institution with an outage error that are an incident; 0: never",
    ),
    span(
        "policy.incident_wait",
        "RELINK_POLICY_INCIDENT_WAIT",
        "10m",
        "how often a link with a deferred prompt is verified",
    ),
    row(
        "policy.institution_notices",
        "RELINK_POLICY_INSTITUTION_NOTICES",
        Text,
        Some("off"),
        "notices about a bank that is down: repair, all or off",
    ),
    row(
        "policy.unfinished_after",
        "RELINK_POLICY_UNFINISHED_AFTER",
        Span,
        Some("1h"),
        "wait before creation_unfinished; 0s: never",
    ),
    row(
        "policy.supersede",
        "RELINK_POLICY_SUPERSEDE",
        Text,
        Some("institution_user_id"),
        "the key that shows a newer link: also external_id, or never",
    ),
];

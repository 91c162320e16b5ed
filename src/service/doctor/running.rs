//! The running service, by its `/readyz` and `/metrics`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::Value;

use super::{ANSWER_WITHIN, Check, Verdict};
use crate::clock;
use crate::config::Config;
use crate::link::Timestamp;
use crate::metric::{self, Metric};
use crate::printable::counted;

const SERVICE: &str = "service";
const JOURNAL: &str = "journal";

/// Messages of the journal that wait for longer than this are a warning.
const JOURNAL_WAIT_SECS: u64 = 60;

/// A journal that is fuller than this part of its largest size is a warning.
const FULL_PERCENT: u64 = 80;

/// Counters that are zero in normal operation, and what to do if one is not.
const FAULTS: &[(Metric, &str)] = &[
    (metric::HTTP_PANICS, "this is a bug: report the log around the panic"),
    (metric::TIMERS_SET_ASIDE, "this is a bug: report the log; the timers run again at the next start"),
    (metric::LINKS_UNREADABLE, "look for the links in the log; an upgrade may be needed to read them"),
    (metric::STORE_DAMAGES, "the store was rebuilt; check the disk and the memory of this host"),
    (
        metric::STATES_LOST,
        "look for `states` in the log: NATS has lost messages; restore its backup or repair the links that are named",
    ),
    (
        metric::FOREIGN_MESSAGES,
        "another program publishes on relink's subjects: change its permissions in NATS (SECURITY.md)",
    ),
    (metric::INPUTS_REMOVED, "inputs were deleted before relink read them: check the limits of the stream BELVO"),
    (metric::JOURNAL_DAMAGED, "look at `relink dead-letters list`, and check the disk of this host"),
    (metric::CLOCK_JUMPS, "let a time service (NTP) set the clocks smoothly"),
];

pub(super) async fn checks(config: &Config) -> Vec<Check> {
    let Some(url) = address(config.http.listen) else { return Vec::new() };
    let client = match crate::direct::client().timeout(ANSWER_WITHIN).build() {
        Ok(client) => client,
        Err(error) => return vec![Check::problem(SERVICE, error.to_string(), "check the TLS settings of this host")],
    };
    let failed = |error: reqwest::Error| error.without_url().to_string();
    let ready = async {
        let answer = client.get(format!("{url}/readyz")).send().await.map_err(failed)?;
        let status = answer.status().as_u16();
        Ok::<_, String>((status, answer.json::<Value>().await.map_err(failed)?))
    };
    let (status, ready) = match ready.await {
        Ok(ready) => ready,
        Err(problem) => {
            let advice = "if it should run, start it; if it listens elsewhere, give doctor the settings of the service";
            return vec![Check::warning(SERVICE, format!("no relink answers at {url}: {problem}"), advice)];
        }
    };
    let mut checks = readiness(&url, status, &ready);
    checks.extend(journal(&ready["journal"], clock::now()));
    let metrics = async { client.get(format!("{url}/metrics")).send().await?.text().await };
    match metrics.await {
        Ok(text) => {
            let counted = counters(&text, config.journal.bytes_max);
            if counted.iter().any(|check| check.name == JOURNAL) {
                // One line says that the journal is full; no other one says that it is well.
                checks.retain(|check| check.name != JOURNAL || check.verdict != Verdict::Ok);
            }
            checks.extend(counted);
        }
        Err(error) => checks.push(Check::warning(SERVICE, failed(error), "check what answers at this address")),
    }
    checks
}

/// The address at which a program on this host reaches the service; `None` if the port is chosen at the start.
fn address(listen: SocketAddr) -> Option<String> {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    (listen.port() != 0).then(|| format!("http://{}", SocketAddr::new(ip, listen.port())))
}

fn readiness(url: &str, status: u16, ready: &Value) -> Vec<Check> {
    let texts = |field: &str| -> Vec<String> {
        ready[field].as_array().into_iter().flatten().filter_map(Value::as_str).map(ToOwned::to_owned).collect()
    };
    let (reasons, warnings) = (texts("reasons"), texts("warnings"));
    let mut checks: Vec<Check> = reasons
        .into_iter()
        .map(|reason| {
            Check::problem(
                SERVICE,
                reason,
                "see docs/operations.md, \"What can go wrong, and what to do\", and the log of relink",
            )
        })
        .collect();
    if status != 200 && checks.is_empty() {
        let text = format!("{url}/readyz answered {status}, and names no reason");
        checks.push(Check::problem(SERVICE, text, "check which program listens at this address"));
    }
    checks.extend(warnings.into_iter().map(|warning| match warning.split_once(": ") {
        Some((text, advice)) => Check::warning(SERVICE, text, advice),
        None => Check::warning(SERVICE, warning, "see docs/operations.md"),
    }));
    if checks.is_empty() {
        checks.push(Check::ok(SERVICE, format!("ready at {url}: every partition runs")));
    }
    checks
}

fn journal(journal: &Value, now: Timestamp) -> Option<Check> {
    let waiting = journal["waiting"].as_u64()?;
    let oldest: Option<Timestamp> = journal["oldest_at"].as_str().and_then(|at| at.parse().ok());
    let waits_secs = oldest.map_or(0, |oldest| now.since(oldest).as_secs());
    if waits_secs > JOURNAL_WAIT_SECS {
        let text = format!("{} waiting for NATS, the oldest for {waits_secs} s", counted(waiting, "message"));
        return Some(Check::warning(JOURNAL, text, "they are safe on this disk; look why NATS does not take them"));
    }
    Some(Check::ok(JOURNAL, format!("{} waiting for NATS", counted(waiting, "message"))))
}

fn counters(text: &str, journal_bytes_max: u64) -> Vec<Check> {
    let mut checks = Vec::new();
    let bytes = value(text, metric::JOURNAL_BYTES.name);
    if bytes * 100.0 >= (journal_bytes_max.saturating_mul(FULL_PERCENT)) as f64 {
        let text = format!("the journal has {bytes:.0} of {journal_bytes_max} bytes; a full journal refuses inputs");
        checks.push(Check::warning(
            JOURNAL,
            text,
            "look why NATS does not take them, or raise RELINK_JOURNAL_MAX_BYTES",
        ));
    }
    for (metric, advice) in FAULTS {
        let count = value(text, metric.name);
        if count > 0.0 {
            checks.push(Check::warning(
                "since the start",
                format!("{} is {count:.0}: {}", metric.name, metric.about),
                *advice,
            ));
        }
    }
    checks
}

/// The sum of all time series of a metric in Prometheus' text format.
fn value(text: &str, name: &str) -> f64 {
    let lines = text.lines().filter_map(|line| line.strip_prefix(name));
    let values = lines
        .filter(|rest| rest.starts_with([' ', '{']))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_unspecified_address_is_asked_on_this_host() {
        let of = |text: &str| address(text.parse().unwrap());
        assert_eq!(of("0.0.0.0:8480").as_deref(), Some("http://127.0.0.1:8480"));
        assert_eq!(of("[::]:8480").as_deref(), Some("http://[::1]:8480"));
        assert_eq!(of("10.0.0.1:80").as_deref(), Some("http://10.0.0.1:80"));
        assert_eq!(of("127.0.0.1:0"), None);
    }

    #[test]
    fn each_reason_and_each_warning_is_a_check() {
        let refused = json!({"status": "ready", "warnings": ["Belvo refuses the API keys: check belvo.secret_id"]});
        let check = &readiness("u", 200, &refused)[0];
        assert_eq!((check.verdict, check.advice.as_deref()), (Verdict::Warning, Some("check belvo.secret_id")));
        let unready = readiness("u", 503, &json!({"reasons": ["NATS is away", "not every partition is running"]}));
        assert_eq!(unready.iter().map(|check| check.verdict).collect::<Vec<_>>(), [Verdict::Problem; 2]);
        assert_eq!(readiness("u", 404, &json!({}))[0].verdict, Verdict::Problem);
        assert_eq!(readiness("u", 200, &json!({"status": "ready"}))[0].verdict, Verdict::Ok);
    }

    #[test]
    fn counters_that_should_be_zero_are_found() {
        let text = "# TYPE relink_clock_jumps_total counter\nrelink_clock_jumps_total{clock=\"nats\"} 2\n\
                    relink_clock_jumps_total{clock=\"host\"} 1\nrelink_http_panics_total 0\nrelink_journal_bytes 90\n";
        let checks = counters(text, 100);
        assert_eq!(checks.len(), 2, "{checks:?}");
        assert!(checks[0].text.contains("90 of 100 bytes") && checks[1].text.contains("relink_clock_jumps_total is 3"));
        assert!(counters("relink_journal_bytes 10\nrelink_http_panics_total_of_another 7\n", 100).is_empty());
    }

    #[test]
    fn a_message_that_waits_for_minutes_is_a_warning() {
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        let at = |oldest: &str| journal(&json!({"waiting": 2, "oldest_at": oldest}), now).unwrap().verdict;
        assert_eq!((at("2026-11-22T09:59:30Z"), at("2026-11-22T09:50:00Z")), (Verdict::Ok, Verdict::Warning));
        assert_eq!(journal(&json!({"waiting": 0}), now).unwrap().verdict, Verdict::Ok);
    }
}

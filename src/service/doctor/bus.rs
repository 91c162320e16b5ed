//! NATS: its version, whether it syncs its writes, the streams and consumers, their copies, and its clock.

use super::{Check, clock_check};
use crate::clock;
use crate::config::Config;
use crate::nats::declaration::{Ensured, StreamError};
use crate::nats::durability::{known_fault, sync_always};
use crate::nats::inspection::{Inspection, StreamReport};
use crate::nats::server::{ServerError, min_version_check};
use crate::nats::server_binary::{MINIMUM, ServerSource, locate};
use crate::nats::server_health::{ServerHealth, ServerMonitor};
use crate::printable::counted;

const CONNECTION: &str = "NATS";
const VERSION: &str = "NATS version";
const SYNC: &str = "NATS syncs";
const STREAMS: &str = "streams";
const COPIES: &str = "copies";
const SIZE: &str = "stream sizes";
const DEAD_LETTERS: &str = "dead letters";

/// A stream that is fuller than this part of its largest size is a warning.
const FULL_PERCENT: u64 = 80;

pub(super) async fn checks(config: &Config, source: ServerSource) -> Vec<Check> {
    let is_own = config.nats.url.is_none();
    let client = match crate::service::connect(config, "relink doctor").await {
        Ok(client) => client,
        Err(error) if is_own => return without_own_server(&format!("{error:#}"), source).await,
        Err(error) => {
            let advice = "check that it is running, and that RELINK_NATS_URL and the settings of the login and of TLS (RELINK_NATS_…) are \
                          right; relink takes inputs into its journal meanwhile";
            return vec![Check::problem(CONNECTION, format!("{error:#}"), advice)];
        }
    };
    let mut checks = vec![match &config.nats.url {
        Some(url) => Check::ok(CONNECTION, format!("connected to {url}")),
        None => Check::ok(CONNECTION, "connected to the nats-server that relink runs"),
    }];
    checks.push(version(min_version_check(&client)));
    checks.push(syncs(config).await);
    checks.extend(health(config).await);
    let inspection = Inspection::new(client, config.nats.subjects.clone());
    checks.extend(streams(inspection.compare(&config.nats.streams).await));
    match inspection.streams().await {
        Ok(reports) => checks.extend(sizes(&reports, config)),
        Err(problem) => checks.push(Check::problem(SIZE, problem, "check the permissions of relink's user in NATS")),
    }
    // Without the stream there is no time, and the comparison has said that it is missing.
    if let Ok(time) = inspection.server_time().await {
        checks.push(clock_check("clock of NATS", "the NATS server", time, clock::now()));
    }
    checks
}

/// relink does not run, so its nats-server does not run either.
async fn without_own_server(problem: &str, source: ServerSource) -> Vec<Check> {
    let mut checks = vec![Check::warning(
        CONNECTION,
        format!("the nats-server that relink runs itself cannot be reached ({problem})"),
        "start relink; if it runs, look for the server's end in its log",
    )];
    if let Err(error) = locate(source).await {
        checks.push(Check::problem(VERSION, error.to_string(), "install nats-server, or set RELINK_NATS_URL to yours"));
    }
    checks
}

fn version(found: Result<crate::nats::server_binary::ServerVersion, ServerError>) -> Check {
    match found {
        Ok(version) => match known_fault(version) {
            None => Check::ok(VERSION, format!("{version}, with JetStream; no known fault")),
            Some(fault) => match fault.split_once("; ") {
                Some((fault, advice)) => Check::warning(VERSION, format!("{version}: {fault}"), advice),
                None => Check::warning(VERSION, format!("{version}: {fault}"), format!("use {MINIMUM} or newer")),
            },
        },
        Err(error @ ServerError::NoJetStream) => {
            Check::problem(VERSION, error.to_string(), "add a `jetstream` block to the configuration of nats-server")
        }
        Err(error) => Check::problem(VERSION, error.to_string(), format!("install nats-server {MINIMUM} or newer")),
    }
}

async fn syncs(config: &Config) -> Check {
    if config.nats.url.is_none() {
        return Check::ok(SYNC, "relink's own nats-server syncs every write");
    }
    let monitor = config.nats.monitor_url.as_ref().and_then(|url| url.expose().next().map(str::to_owned));
    let advice = "set `sync_interval: always` in the `jetstream` block of the configuration of nats-server";
    let Some(monitor) = monitor else {
        return Check::warning(
            SYNC,
            "unknown; without `sync_interval: always` a crash of the NATS host loses acknowledged messages",
            "set RELINK_NATS_MONITOR_URL to the HTTP monitor of the server, so that relink can read it",
        );
    };
    match sync_always(&monitor).await {
        Ok(true) => Check::ok(SYNC, "every write"),
        Ok(false) => {
            Check::problem(SYNC, "not every write: a crash of the NATS host loses acknowledged messages", advice)
        }
        Err(problem) => Check::warning(
            SYNC,
            format!("the monitor of the server cannot be read: {problem}"),
            "check RELINK_NATS_MONITOR_URL",
        ),
    }
}

/// Whether the server can write; it says so only on its monitor.
async fn health(config: &Config) -> Option<Check> {
    const NAME: &str = "NATS health";
    let url = config.nats.monitor_url.as_ref()?.expose().next()?.to_owned();
    let monitor = ServerMonitor::new(&url).ok()?;
    Some(match monitor.health().await.ok()? {
        ServerHealth::Healthy => Check::ok(NAME, "its streams work"),
        ServerHealth::CannotWrite(error) => {
            Check::problem(NAME, format!("it cannot write: {error}"), "restart the NATS server when its disk has room")
        }
        ServerHealth::Unhealthy(error) => {
            Check::problem(NAME, format!("it is not healthy: {error}"), "look at the log of the NATS server")
        }
    })
}

fn streams(compared: Vec<(String, Result<Option<Ensured>, StreamError>)>) -> Vec<Check> {
    let (mut checks, mut missing, mut matching_count) = (Vec::new(), Vec::new(), 0_usize);
    // Without its stream, each consumer would be an error of its own.
    let mut is_stream_missing = |name: &str, found: &Result<Option<Ensured>, StreamError>| {
        let stream = name.split('/').next().unwrap_or_default().to_owned();
        if matches!(found, Ok(None)) {
            missing.push(name.to_owned());
            return true;
        }
        name.contains('/') && missing.contains(&stream)
    };
    let found: Vec<_> = compared.into_iter().filter(|(name, found)| !is_stream_missing(name, found)).collect();
    for (name, found) in found {
        match found {
            Ok(Some(Ensured::Paused { seconds })) => checks.push(Check::warning(
                STREAMS,
                format!("the consumer {name} is paused for {seconds} s more, so its messages wait"),
                format!("run `nats consumer resume {}`", name.replace('/', " ")),
            )),
            Ok(Some(Ensured::Matching | Ensured::Created) | None) => matching_count += 1,
            Err(StreamError::Differs { kind, name, differences }) => {
                checks.extend(differences.into_iter().map(|difference| {
                    let text = format!(
                        "the {kind} {name}: {} is {}, wanted {}",
                        difference.field, difference.found, difference.wanted
                    );
                    Check::problem(STREAMS, text, difference.advice)
                }));
            }
            Err(error) => {
                let text = error.to_string();
                let (text, advice) =
                    text.split_once(": ").map_or((text.as_str(), "see docs/operations.md"), |parts| parts);
                checks.push(Check::problem(STREAMS, text, advice));
            }
        }
    }
    if !missing.is_empty() {
        let text = format!("{} of the streams and consumers do not exist yet: {}", missing.len(), missing.join(", "));
        checks.push(Check::warning(
            STREAMS,
            text,
            "relink serve creates them; if relink has run before, check RELINK_PREFIX_INPUT and RELINK_PREFIX_OUTPUT",
        ));
    }
    if checks.is_empty() {
        checks.push(Check::ok(STREAMS, format!("{matching_count} streams and consumers are as relink wants them")));
    }
    checks
}

fn sizes(reports: &[StreamReport], config: &Config) -> Vec<Check> {
    let mut checks = Vec::new();
    for report in reports {
        let StreamReport { name, bytes, bytes_max, evicts, replicas, is_in_cluster, behind, .. } = report;
        if *evicts {
            checks.push(Check::problem(
                SIZE,
                format!("the size of {name} is limited, and NATS deletes its oldest messages when it is full"),
                format!("remove the limit, or run `nats stream edit {name} --discard=new`"),
            ));
        }
        if let Some(max) = bytes_max.filter(|max| bytes.saturating_mul(100) >= max.saturating_mul(FULL_PERCENT)) {
            checks.push(Check::warning(
                SIZE,
                format!("{name} has {bytes} of {max} bytes; a full stream refuses messages"),
                format!("run `nats stream edit {name} --max-bytes=…` with a larger size"),
            ));
        }
        if !behind.is_empty() {
            checks.push(Check::problem(
                COPIES,
                format!("the copies of {name} on {} are not current", behind.join(", ")),
                "look at these servers; if another server is lost too, NATS takes no messages",
            ));
        }
        if *is_in_cluster && *replicas == 1 {
            checks.push(Check::warning(
                COPIES,
                format!("{name} has one copy, although NATS is a cluster"),
                format!("run `nats stream edit {name} --replicas=3`, and set RELINK_REPLICAS=3"),
            ));
        }
    }
    let has = |checks: &[Check], name: &str| checks.iter().any(|check| check.name == name);
    if !has(&checks, SIZE) {
        let all: Vec<_> =
            reports.iter().map(|report| format!("{} {:.1} MB", report.name, report.bytes as f64 / 1e6)).collect();
        checks.push(Check::ok(SIZE, all.join(", ")));
    }
    if !has(&checks, COPIES) {
        checks.push(Check::ok(COPIES, format!("{} of each stream, and all are current", config.nats.streams.replicas)));
    }
    let dead = reports.iter().find(|report| report.name == config.nats.subjects.dead_stream());
    if let Some(count) = dead.map(|dead| dead.messages) {
        checks.push(if count == 0 {
            Check::ok(DEAD_LETTERS, "none")
        } else {
            Check::warning(
                DEAD_LETTERS,
                format!("{} that could not be handled", counted(count, "message")),
                "`relink dead-letters list` shows their reasons; replay them when the reason is removed",
            )
        });
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::nats::declaration::Difference;
    use crate::nats::server_binary::ServerVersion;

    fn report(name: &str) -> StreamReport {
        let (messages, bytes, bytes_max, evicts, replicas) = (0, 10, None, false, 1);
        StreamReport {
            name: name.to_owned(),
            messages,
            bytes,
            bytes_max,
            evicts,
            replicas,
            is_in_cluster: false,
            behind: Vec::new(),
        }
    }

    fn verdicts(reports: &[StreamReport]) -> Vec<(&'static str, Verdict)> {
        sizes(reports, &Config::defaults()).iter().map(|check| (check.name, check.verdict)).collect()
    }

    #[test]
    fn each_fault_of_a_stream_is_found() {
        let good = [("stream sizes", Verdict::Ok), ("copies", Verdict::Ok)];
        assert_eq!(verdicts(&[report("BELVO")]), good);
        let dead = StreamReport { messages: 3, ..report("RELINK_DEAD") };
        assert_eq!(verdicts(&[dead])[2], ("dead letters", Verdict::Warning));
        assert_eq!(verdicts(&[report("RELINK_DEAD")])[2], ("dead letters", Verdict::Ok));
        for (report, check) in [
            (StreamReport { evicts: true, ..report("BELVO") }, ("stream sizes", Verdict::Problem)),
            (StreamReport { bytes: 80, bytes_max: Some(100), ..report("BELVO") }, ("stream sizes", Verdict::Warning)),
            (StreamReport { behind: vec!["n2".to_owned()], ..report("BELVO") }, ("copies", Verdict::Problem)),
            (StreamReport { is_in_cluster: true, ..report("BELVO") }, ("copies", Verdict::Warning)),
        ] {
            let found = verdicts(&[report]);
            assert!(found.contains(&check) && found.len() == 2, "{found:?}");
        }
    }

    #[test]
    fn a_stream_that_differs_has_the_command_that_repairs_it() {
        let difference = Difference {
            field: "max_age",
            found: "1".to_owned(),
            wanted: "2".to_owned(),
            advice: "run `nats stream edit BELVO --max-age=2s`".to_owned(),
        };
        let differs = StreamError::Differs { kind: "stream", name: "BELVO".to_owned(), differences: vec![difference] };
        let checks =
            streams(vec![("BELVO".to_owned(), Err(differs)), ("KV_links".to_owned(), Ok(Some(Ensured::Matching)))]);
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].verdict, Verdict::Problem);
        assert_eq!(checks[0].advice.as_deref(), Some("run `nats stream edit BELVO --max-age=2s`"));
        let paused = streams(vec![("BELVO/relink-0".to_owned(), Ok(Some(Ensured::Paused { seconds: 9 })))]);
        assert_eq!(paused[0].verdict, Verdict::Warning);
        let api = StreamError::Api {
            action: "read",
            kind: "consumer",
            name: "BELVO/relink-0".to_owned(),
            detail: "stream not found".to_owned(),
        };
        let missing = streams(vec![("BELVO".to_owned(), Ok(None)), ("BELVO/relink-0".to_owned(), Err(api))]);
        assert_eq!((missing.len(), missing[0].verdict), (1, Verdict::Warning));
    }

    #[test]
    fn a_version_with_a_known_fault_is_a_warning_and_an_older_one_a_problem() {
        let of = |major, minor, patch| version(Ok(ServerVersion { major, minor, patch })).verdict;
        assert_eq!((of(2, 14, 0), of(2, 15, 0), of(2, 15, 1)), (Verdict::Warning, Verdict::Warning, Verdict::Ok));
        let old = version(Err(ServerError::TooOld { found: "2.10.0".to_owned() }));
        assert_eq!(old.verdict, Verdict::Problem);
        assert!(old.advice.unwrap().contains("2.14"));
    }
}

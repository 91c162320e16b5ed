//! `relink doctor`: one check after the other of what relink depends on. Each says what it found and, if something is wrong, what to do.
//!
//! It reads the configuration of the service and changes nothing, except that it writes and removes one file in the data directory. It
//! works with and without a running relink.
//!
//! - `bus`: NATS: version, syncs, streams, copies, time
//! - `host`: the data directory and its disk
//! - `running`: the running service, by its `/readyz` and `/metrics`

mod bus;
mod host;
mod running;

use std::time::Duration;

use strum::IntoStaticStr;

use super::probe::probe_belvo;
use super::traces;
use crate::clock;
use crate::config::{Config, ConfigError};
use crate::link::Timestamp;
use crate::nats::server_binary::ServerSource;

/// A difference between two clocks above this is a warning: observations of Belvo are dated by the host.
const CLOCK_WARNING: Duration = Duration::from_secs(2);

/// A difference above this is a problem: what is dated before NATS has answered is wrong by that much.
const CLOCK_PROBLEM: Duration = Duration::from_secs(60);

/// The longest time for an answer over HTTP.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Verdict {
    /// It is as it has to be.
    Ok,
    /// relink works, and an operator should know it.
    Warning,
    /// relink does not work, or will not.
    Problem,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was checked, such as `NATS version`.
    pub name: &'static str,
    /// What was found.
    pub verdict: Verdict,
    /// What was found, as one clause.
    pub text: String,
    /// What to do. Every problem has it.
    pub advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, text: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, text: text.into(), advice: None }
    }

    fn warning(name: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warning, text: text.into(), advice: Some(advice.into()) }
    }

    fn problem(name: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Problem, text: text.into(), advice: Some(advice.into()) }
    }
}

/// Makes all checks. `warnings` are those of the configuration; `source` finds the nats-server that relink would run itself.
pub async fn examine(config: &Config, warnings: Vec<String>, source: ServerSource) -> Vec<Check> {
    let mut checks = settings(config, warnings);
    checks.extend(bus::checks(config, source).await);
    checks.extend(host::checks(&config.store.data_dir));
    checks.extend(belvo(config).await);
    checks.extend(export_of_traces(config).await);
    checks.extend(running::checks(config).await);
    checks
}

async fn export_of_traces(config: &Config) -> Option<Check> {
    const NAME: &str = "traces";
    Some(match traces::probe(config.traces.as_ref()?).await {
        Ok(text) => Check::ok(NAME, text),
        Err(error) => {
            Check::problem(NAME, format!("{error:#}"), format!("{}; relink works without traces", traces::ADVICE))
        }
    })
}

const SETTINGS: &str = "settings";

/// The result for settings that cannot be used, so that nothing else can be checked.
pub fn refused(error: &ConfigError) -> Check {
    Check::problem(SETTINGS, "relink cannot use these settings", error.problems.join("; "))
}

fn settings(config: &Config, warnings: Vec<String>) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Err(error) = config.check_for_serving() {
        checks.push(Check::problem(SETTINGS, "relink serve refuses these settings", error.problems.join("; ")));
    }
    checks.extend(warnings.into_iter().map(|warning| match warning.split_once(". ") {
        Some((text, advice)) => Check::warning(SETTINGS, text, advice),
        None => Check::warning(SETTINGS, warning, "check this setting"),
    }));
    if config.service.observe {
        let advice = "unset service.observe (RELINK_OBSERVE) when the users shall get messages";
        checks.push(Check::warning(SETTINGS, "relink only observes: it sends no notices", advice));
    }
    if checks.is_empty() {
        checks.push(Check::ok(SETTINGS, "relink serve accepts them"));
    }
    checks
}

async fn belvo(config: &Config) -> Vec<Check> {
    const NAME: &str = "Belvo's keys";
    let Some(keys) = &config.belvo.keys else {
        return vec![Check::warning(
            NAME,
            "not set: relink cannot verify repairs, and sweeps find no missed webhooks",
            "set RELINK_BELVO_URL, RELINK_BELVO_SECRET_ID and RELINK_BELVO_SECRET_PASSWORD",
        )];
    };
    let keys_check = match probe_belvo(config).await {
        Ok(text) => Check::ok(NAME, text),
        Err(error) => {
            let text = format!("{error:#}");
            match text.split_once(". ") {
                Some((text, advice)) => Check::problem(NAME, text, advice),
                None => Check::problem(
                    NAME,
                    text,
                    "check belvo.url, and that this host may reach it; relink works without Belvo, but verifies nothing",
                ),
            }
        }
    };
    let mut checks = vec![keys_check];
    checks.extend(
        date_of(&keys.url).await.map(|date| clock_check("clock of Belvo", "Belvo's clock", date, clock::now())),
    );
    checks
}

/// The header `Date` of an address, which has whole seconds; `None` if there is none.
async fn date_of(url: &str) -> Option<Timestamp> {
    let client = crate::direct::client().timeout(ANSWER_WITHIN).build().ok()?;
    let answer = client.head(url).send().await.ok()?;
    let date = answer.headers().get("date")?.to_str().ok()?;
    httpdate(date).map(Timestamp::of)
}

/// Reads `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, 5.6.7).
fn httpdate(text: &str) -> Option<time::OffsetDateTime> {
    let rest = text.split_once(", ")?.1.strip_suffix(" GMT")?;
    let format = time::macros::format_description!("[day] [month repr:short] [year] [hour]:[minute]:[second]");
    time::PrimitiveDateTime::parse(rest, format).ok().map(time::PrimitiveDateTime::assume_utc)
}

/// Compares another clock with that of this host.
fn clock_check(name: &'static str, whose: &str, theirs: Timestamp, ours: Timestamp) -> Check {
    let (ahead, behind) = (ours.since(theirs), theirs.since(ours));
    let (difference, word) = if ahead > behind { (ahead, "ahead of") } else { (behind, "behind") };
    let text = format!("this host is {:.1} s {word} {whose}", difference.as_secs_f64());
    let advice = "let a time service (NTP) set the clocks of this host and of the NATS server";
    match difference {
        difference if difference > CLOCK_PROBLEM => Check::problem(name, text, advice),
        difference if difference > CLOCK_WARNING => Check::warning(name, text, advice),
        _ => Check::ok(name, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_compared_in_both_directions() {
        let at = |seconds: i64| Timestamp::from_millis(1_790_000_000_000 + 1_000 * seconds);
        for (theirs, verdict, text) in [
            (1, Verdict::Ok, "this host is 1.0 s behind X"),
            (-1, Verdict::Ok, "this host is 1.0 s ahead of X"),
            (30, Verdict::Warning, "this host is 30.0 s behind X"),
            (-3_600, Verdict::Problem, "this host is 3600.0 s ahead of X"),
        ] {
            let check = clock_check("clock", "X", at(theirs), at(0));
            assert_eq!((check.verdict, check.text.as_str()), (verdict, text));
            assert_eq!(check.advice.is_some(), verdict != Verdict::Ok);
        }
    }

    #[test]
    fn the_date_of_an_answer_is_read() {
        assert_eq!(httpdate("Sun, 06 Nov 1994 08:49:37 GMT").unwrap().unix_timestamp(), 784_111_777);
        assert!(httpdate("yesterday").is_none());
    }
}

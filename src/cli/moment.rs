//! What a person types as a value of a flag: a point in time (a time, a date, or how long ago), and a span.

use std::time::Duration;

use crate::clock;
use crate::link::Timestamp;

/// A point in time of the command line.
#[derive(Clone, Copy, Debug)]
pub(super) enum Moment {
    /// This time.
    At(Timestamp),
    /// So long before now.
    Ago(Duration),
}

impl Moment {
    /// Reads a time (`2026-11-26T10:00:00Z`), a date (`2026-11-26`: its first moment in UTC), a span before now (`3days`, `12h`), or `now`.
    ///
    /// # Errors
    /// A sentence with the accepted forms.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text == "now" {
            return Ok(Self::Ago(Duration::ZERO));
        }
        // A span is read first: `20261126` is a date, and every span has a unit.
        if let Ok(span) = humantime::parse_duration(text) {
            return Ok(Self::Ago(span));
        }
        let time = text.parse::<Timestamp>().map_err(|_| {
            "must be a time such as 2026-11-26T10:00:00Z, a date such as 2026-11-26, or how long ago: 3days, 12h"
                .to_owned()
        })?;
        // Belvo's times without an offset are in UTC. A person may mean the time on the clock at the wall.
        if lacks_offset(text) {
            return Err("has no offset: add Z for UTC, or one such as -03:00".to_owned());
        }
        Ok(Self::At(time))
    }

    /// The point in time.
    pub(super) fn time(self) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(span) => clock::now().before(span),
        }
    }
}

/// Whether a time that can be read has a time of day without an offset from UTC.
fn lacks_offset(text: &str) -> bool {
    let Some((_, time_of_day)) = text.trim().split_once(['T', 't', ' ']) else { return false };
    !time_of_day.ends_with(['Z', 'z']) && !time_of_day.contains(['+', '-'])
}

/// Reads a span that a flag names, such as `3days` or `12h`.
///
/// # Errors
/// A sentence with the accepted forms.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "must be a span such as 3days, 12h or 90s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_a_date_or_a_span_before_now() {
        let time = |text: &str| match Moment::parse(text) {
            Ok(Moment::At(time)) => time.to_string(),
            Ok(Moment::Ago(span)) => format!("{} s ago", span.as_secs()),
            Err(problem) => problem,
        };
        for (text, expected) in [
            ("2026-11-26T10:00:00Z", "2026-11-26T10:00:00.000Z"),
            ("2026-11-26T10:00:00-03:00", "2026-11-26T13:00:00.000Z"),
            ("2026-11-26", "2026-11-26T00:00:00.000Z"),
            ("20261126", "2026-11-26T00:00:00.000Z"),
            ("3days", "259200 s ago"),
            ("12h", "43200 s ago"),
            ("now", "0 s ago"),
        ] {
            assert_eq!(time(text), expected, "{text}");
        }
        for text in ["", "yesterday", "-3days", "2026-13-01"] {
            assert!(time(text).starts_with("must be a time such as"), "{text}: {}", time(text));
        }
        for text in ["2026-11-26T10:00:00", "2026-11-26 10:00", "20261126 1000", "26/11/2026 10:00"] {
            let found = time(text);
            assert!(found.starts_with("has no offset") || found.starts_with("must be a time"), "{text}: {found}");
        }
        assert!(time("2026-11-26T10:00:00").starts_with("has no offset"));
        assert_eq!(time("2026-11-26 10:00-03"), "2026-11-26T13:00:00.000Z");
    }
}

//! The sandbox's own clock: the real one plus a shift, or a manual one.
//!
//! Tokens, MFA sessions, cool-downs, credentials, the schedule and the outbox all read it. The clock never runs
//! backwards.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

/// The clock of a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SandboxTime {
    /// The clock of the machine, plus the time that the control API has added.
    #[default]
    Wall,
    /// A manual clock, which moves only by [`Control::advance`](super::Control::advance) and
    /// [`Control::advance_to`](super::Control::advance_to).
    Driven {
        /// The initial time, in milliseconds since the Unix epoch.
        from_ms: i64,
    },
}

/// The end of the year 9999, the maximum time: RFC 3339 cannot express a later one, and sums with spans cannot overflow.
pub(crate) const LATEST_MS: i64 = 253_402_300_799_999;

/// The clock behind [`SandboxTime`].
#[derive(Debug)]
pub(crate) struct Clock {
    is_driven: bool,
    /// For a manual clock the time; otherwise the offset to the machine's clock.
    shift_ms: AtomicI64,
}

impl Clock {
    pub(crate) fn new(time: SandboxTime) -> Self {
        match time {
            SandboxTime::Wall => Self { is_driven: false, shift_ms: AtomicI64::new(0) },
            SandboxTime::Driven { from_ms } => {
                Self { is_driven: true, shift_ms: AtomicI64::new(from_ms.clamp(0, LATEST_MS)) }
            }
        }
    }

    /// Now, in milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> i64 {
        let shift_ms = self.shift_ms.load(Ordering::Acquire);
        if self.is_driven { shift_ms } else { machine_now_ms().saturating_add(shift_ms).min(LATEST_MS) }
    }

    /// Moves the time forward and returns the new time. The caller has to wake the tasks that wait for this clock.
    pub(crate) fn advance(&self, span_ms: i64) -> i64 {
        let later = |shift_ms: i64| Some(shift_ms.saturating_add(span_ms.max(0)).min(LATEST_MS));
        let _always_some = self.shift_ms.fetch_update(Ordering::AcqRel, Ordering::Acquire, later);
        self.now_ms()
    }

    /// The time to sleep until then, if no call moves the clock; `None` for a manual clock.
    pub(crate) fn until(&self, at_ms: i64) -> Option<Duration> {
        let left_ms = at_ms.saturating_sub(self.now_ms());
        (!self.is_driven).then(|| Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)))
    }
}

/// The clock of the machine.
#[expect(clippy::disallowed_methods, reason = "the one place of the sandbox that reads a clock")]
fn machine_now_ms() -> i64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// A span in milliseconds, as a signed number.
pub(crate) fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX / 2)
}

/// Belvo's time format: RFC 3339, UTC, six fractional digits.
pub(crate) fn belvo_time(at_ms: i64) -> String {
    const FORM: &[time::format_description::BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    instant(at_ms).format(FORM).unwrap_or_default()
}

/// The calendar day, in the format of Belvo's date fields.
pub(crate) fn belvo_date(at_ms: i64) -> String {
    instant(at_ms).date().to_string()
}

/// Parses an RFC 3339 time from 1970 on.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    let at = OffsetDateTime::parse(text.trim(), &Rfc3339).ok()?;
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok().filter(|at_ms| *at_ms >= 0)
}

/// The next first of a month, 00:00 UTC, after this moment.
pub(crate) fn next_month(at_ms: i64) -> i64 {
    let date = instant(at_ms).date();
    let year = date.year() + i32::from(date.month() == time::Month::December);
    let first = time::Date::from_calendar_date(year, date.month().next(), 1);
    first.map_or(i64::MAX, |first| first.midnight().assume_utc().unix_timestamp().saturating_mul(1_000))
}

fn instant(at_ms: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_look_like_belvos() {
        assert_eq!(belvo_time(1_706_879_502_593), "2024-02-02T13:11:42.593000Z");
        assert_eq!(belvo_date(1_706_879_502_593), "2024-02-02");
    }

    #[test]
    fn times_are_read_back() {
        assert_eq!(parse_time("2024-02-02T13:11:42.593000Z"), Some(1_706_879_502_593));
        assert_eq!(parse_time("2024-02-02T10:11:42.593-03:00"), Some(1_706_879_502_593));
        assert_eq!((parse_time("1969-12-31T23:59:59Z"), parse_time("tomorrow")), (None, None));
    }

    #[test]
    fn months_end_at_midnight_utc() {
        let next = |at_ms| belvo_time(next_month(at_ms));
        assert_eq!(next(1_706_879_502_593), "2024-03-01T00:00:00.000000Z");
        assert_eq!(next(next_month(1_706_879_502_593)), "2024-04-01T00:00:00.000000Z", "the first itself is past");
        assert_eq!(next(1_735_000_000_000), "2025-01-01T00:00:00.000000Z");
    }

    #[test]
    fn driven_time_stands_still() {
        let clock = Clock::new(SandboxTime::Driven { from_ms: 5_000 });
        assert_eq!((clock.now_ms(), clock.until(9_000)), (5_000, None));
        assert_eq!((clock.advance(1_500), clock.advance(-9)), (6_500, 6_500));
        let wall = Clock::new(SandboxTime::Wall);
        assert!(wall.until(wall.now_ms() + 60_000).is_some_and(|nap| nap <= Duration::from_secs(60)));
    }
}

//! Points in time as values. The core never reads a clock.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use time::macros::offset;
use time::{Date, OffsetDateTime, UtcOffset};

mod text;

/// A point in time, in whole milliseconds since the Unix epoch (UTC), within the years 0 to 9999.
///
/// RFC 3339 can represent only these years. A time outside of them is replaced by the nearest time within them, so that
/// every written time can be read again.
///
/// Belvo's webhooks contain no timestamp. So times in this program are times of relink: when JetStream stored the
/// message, or when a timer was checked. Due dates, `last_accessed_at` and the time of an observation come from
/// messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// `0000-01-01T00:00:00.000Z`
    pub const EARLIEST: Self = Self(-62_167_219_200_000);

    /// `9999-12-31T23:59:59.999Z`
    pub const LATEST: Self = Self(253_402_300_799_999);

    /// A point in time from milliseconds since the Unix epoch; the nearest possible one if the number is out of range.
    pub const fn from_millis(millis: i64) -> Self {
        if millis < Self::EARLIEST.0 {
            Self::EARLIEST
        } else if millis > Self::LATEST.0 {
            Self::LATEST
        } else {
            Self(millis)
        }
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// This time plus a span; at most [`Timestamp::LATEST`].
    pub fn after(self, span: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This time minus a span; at least [`Timestamp::EARLIEST`].
    pub fn before(self, span: Duration) -> Self {
        Self::from_millis(self.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The time in whole milliseconds; the rest of the nanoseconds is cut off.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self::from_millis(nanos.div_euclid(1_000_000))
    }

    /// The time as the crate `time` has it.
    pub(crate) fn point(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .expect("a Timestamp lies within the years 0 to 9999")
    }

    /// This time in whole milliseconds; at most [`Timestamp::LATEST`].
    pub(crate) fn of(point: OffsetDateTime) -> Self {
        Self::from_millis(i64::try_from(point.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX))
    }

    /// The span from `earlier` to this time; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// A calendar month in the time zone of Brazil, where Belvo counts monthly quotas. The offset is fixed, because Brazil
/// has no daylight saving time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Month(i32);

const BRAZIL: UtcOffset = offset!(-3);

impl Month {
    /// The month of a point in time.
    pub fn of(at: Timestamp) -> Self {
        let date = at.point().to_offset(BRAZIL).date();
        // In Brazil, year 0 begins three hours after the first Timestamp.
        Self((date.year() * 12 + i32::from(u8::from(date.month())) - 1).max(0))
    }

    /// A month from 1 to 12 of a year from 0 to 9999; `None` if one of them is out of range.
    pub fn new(year: i32, month: i32) -> Option<Self> {
        let is_one = (0..=9999).contains(&year) && (1..=12).contains(&month);
        is_one.then(|| Self(year * 12 + month - 1))
    }

    /// The year, and the month from 1 to 12.
    pub const fn year_and_month(self) -> (i32, i32) {
        (self.0.div_euclid(12), self.0.rem_euclid(12) + 1)
    }

    /// When the next month begins.
    pub fn end(self) -> Timestamp {
        let next = self.0.saturating_add(1);
        let month = u8::try_from(next.rem_euclid(12) + 1).ok().and_then(|month| time::Month::try_from(month).ok());
        let first = month.and_then(|month| Date::from_calendar_date(next.div_euclid(12), month, 1).ok());
        first.map_or(Timestamp::LATEST, |date| Timestamp::of(date.midnight().assume_offset(BRAZIL)))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, with milliseconds, as in every message of relink. A message has some ten times, and formatting them with `time`
    /// took a fiftieth of its whole cost.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let point = self.point();
        let (hour, minute, second, milli) = point.to_hms_milli();
        let year = u16::try_from(point.year()).map_err(|_| fmt::Error)?;
        let parts = [(0..4, year), (5..7, u8::from(point.month()).into()), (8..10, point.day().into())];
        let of_day = [(11..13, hour.into()), (14..16, minute.into()), (17..19, second.into()), (20..23, milli)];
        let mut text = *b"0000-00-00T00:00:00.000Z";
        for (digits, mut number) in parts.into_iter().chain(of_day) {
            for digit in text[digits].iter_mut().rev() {
                // A digit is at most 9.
                *digit += (number % 10) as u8;
                number /= 10;
            }
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

/// The text is not a time in any of the accepted forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time such as 2026-11-22T10:15:00Z")]
pub struct NotATime;

impl FromStr for Timestamp {
    type Err = NotATime;

    /// Accepts RFC 3339, and other forms such as `01/12/2026` or seconds since 1970. A time beyond the years 0 to 9999
    /// is replaced by the nearest one within them.
    fn from_str(text: &str) -> Result<Self, NotATime> {
        text::parse(text).ok_or(NotATime)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_time_reads_back_as_it_was_written(millis in any::<i64>(), within in -70_000_000_000_000_i64..300_000_000_000_000) {
            for at in [millis, within].map(Timestamp::from_millis) {
                prop_assert_eq!(at.to_string().parse(), Ok(at));
                prop_assert!((Timestamp::EARLIEST..=Timestamp::LATEST).contains(&at));
                let (year, month) = Month::of(at).year_and_month();
                prop_assert_eq!(Month::new(year, month), Some(Month::of(at)));
                prop_assert!(Month::of(at).end() >= at);
            }
        }
    }

    #[test]
    fn times_out_of_range_are_limited() {
        for (millis, text) in [(i64::MIN, "0000-01-01T00:00:00.000Z"), (i64::MAX, "9999-12-31T23:59:59.999Z")] {
            let end = Timestamp::from_millis(millis);
            assert_eq!((end.to_string().as_str(), text.parse()), (text, Ok(end)));
            assert_eq!(end.after(Duration::MAX), Timestamp::LATEST);
            assert_eq!(end.before(Duration::MAX), Timestamp::EARLIEST);
        }
    }

    #[test]
    fn text_and_value_agree() {
        let at: Timestamp = "2024-02-02T13:11:42.593032Z".parse().unwrap();
        assert_eq!(at.to_string(), "2024-02-02T13:11:42.593Z");
        assert_eq!("2024-02-02T10:11:42.593-03:00".parse(), Ok(at));
        assert_eq!("yesterday".parse::<Timestamp>(), Err(NotATime));
    }

    #[test]
    fn a_month_ends_at_midnight_in_brazil() {
        let last = Timestamp::from_str("2026-12-31T23:30:00-03:00").unwrap();
        let end = Month::of(last).end();
        assert_eq!(end.to_string(), "2027-01-01T03:00:00.000Z");
        assert_eq!((Month::of(last), Month::of(end)), (Month::new(2026, 12).unwrap(), Month::new(2027, 1).unwrap()));
        assert_eq!(Month::new(9999, 12).unwrap().end(), Timestamp::from_millis(i64::MAX));
        assert_eq!((Month::new(2026, 13), Month::new(-1, 1)), (None, None));
    }

    #[test]
    fn spans_saturate() {
        let end = Timestamp::from_millis(i64::MAX);
        assert_eq!(end.after(Duration::MAX), end);
        assert_eq!(Timestamp::default().since(end), Duration::ZERO);
    }
}

//! Time as a value: the core never reads a clock.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use time::macros::format_description;
use time::macros::offset;
use time::{Date, OffsetDateTime, UtcOffset};

mod text;

/// A point in time, in whole milliseconds since the Unix epoch (UTC), within the years 0 to 9999.
///
/// Only those years have a spelling in RFC 3339. A time outside them is moved to their first or last millisecond
/// wherever it is made, so that what is written can be read again, and a mistake of somebody's never becomes 1970.
///
/// Belvo's webhooks carry no timestamp at all, so every time in this program is one of ours: when JetStream stored the
/// message, or when a timer was looked at. Exceptions are named where they are read: due dates, reads, accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// `0000-01-01T00:00:00.000Z`
    pub const EARLIEST: Self = Self(-62_167_219_200_000);

    /// `9999-12-31T23:59:59.999Z`
    pub const LATEST: Self = Self(253_402_300_799_999);

    /// A point in time from milliseconds since the Unix epoch; the nearest there is, if there is none.
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

    /// This point plus a span. Saturates at [`Timestamp::LATEST`] instead of wrapping.
    pub fn after(self, span: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This point minus a span. Saturates at [`Timestamp::EARLIEST`].
    pub fn before(self, span: Duration) -> Self {
        Self::from_millis(self.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    fn point(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .expect("a Timestamp lies within the years 0 to 9999")
    }

    fn of(point: OffsetDateTime) -> Self {
        Self::from_millis(i64::try_from(point.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX))
    }

    /// How long ago `earlier` was; zero if it lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// A calendar month of Brazil, where quotas are counted by it. Its offset is fixed: the country has no daylight saving.
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

    /// A month from 1 to 12 of a year from 0 to 9999; none if it is not.
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
    /// RFC 3339 in UTC, with milliseconds: the form in every message of ours.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const FORM: &[time::format_description::BorrowedFormatItem<'_>] =
            format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
        f.write_str(&self.point().format(FORM).map_err(|_| fmt::Error)?)
    }
}

/// The text is not an RFC 3339 time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time such as 2026-11-22T10:15:00Z")]
pub struct NotATime;

impl FromStr for Timestamp {
    type Err = NotATime;

    /// Accepts RFC 3339, and the other forms in which dates come: `01/12/2026`, seconds since 1970, and more. A time
    /// beyond the years 0 to 9999 is moved to their end.
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
    fn the_ends_of_time() {
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

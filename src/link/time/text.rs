//! The text forms of times that relink reads.
//!
//! relink writes one form, RFC 3339 in UTC. It reads more forms, because dates come from Belvo, from programs of
//! customers and from Brazilian back offices:
//!
//! | form | example |
//! |---|---|
//! | RFC 3339, also with a blank for `T`, in small letters, without seconds, with `+0000` or `+00` | `2026-12-01 10:15-0300` |
//! | without a time of day (read as midnight) or without an offset (read as UTC) | `2026-12-01`, `20261201`, `2026/12/01` |
//! | day, month, year, as in Brazil | `01/12/2026 10:15`, `1-12-2026`, `01.12.2026` |
//! | seconds, milliseconds, microseconds or nanoseconds since 1970, distinguished by size | `1796120100`, `1796120100000` |
//!
//! `03/04/2026` is the third of April. A date with the month first (`12/25/2026`) is not read: the same sender's dates
//! would be read wrongly on the first twelve days of each month.

use time::{Date, Month};

use super::Timestamp;

/// The longest text that can be a time.
const LENGTH_MAX: usize = 64;

const SECOND_MS: i64 = 1_000;
const MINUTE_MS: i64 = 60 * SECOND_MS;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;

/// The Julian day of 1970-01-01.
const EPOCH_JULIAN_DAY: i64 = 2_440_588;

/// The smallest number that is read as a count since 1970: the year 1973 in seconds. A smaller number is a year, or a
/// mistake.
const COUNT_MIN: i64 = 100_000_000;

/// The factor between two units (seconds, milliseconds, …). In each unit, counts of the years 1973 to 5138 lie between
/// [`COUNT_MIN`] and [`COUNT_MIN`] times this factor, so the size of a number shows its unit.
const UNIT: i64 = 1_000;

/// Reads a time. `None` if the text has none of the forms. A time outside the years 0 to 9999 is replaced by the
/// nearest one.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if !text.is_ascii() || text.is_empty() || text.len() > LENGTH_MAX {
        return None;
    }
    calendar(text).or_else(|| count(text)).map(Timestamp::from_millis)
}

/// A count since 1970, with or without a fraction; in milliseconds.
fn count(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let count: i64 = whole.parse().ok().filter(|count| *count >= COUNT_MIN)?;
    let limit = COUNT_MIN * UNIT;
    if count < limit {
        return Some(count * SECOND_MS + milliseconds(fraction));
    }
    // Milliseconds, microseconds, nanoseconds.
    let units = [1, UNIT, UNIT * UNIT];
    units.into_iter().map(|unit| count / unit).find(|millis| millis / UNIT < limit)
}

/// A date, with or without a time of day and an offset; in milliseconds since 1970.
fn calendar(text: &str) -> Option<i64> {
    let mut rest = Rest(text.as_bytes());
    let date = rest.date()?;
    let mut millis = (i64::from(date.to_julian_day()) - EPOCH_JULIAN_DAY) * DAY_MS;
    if rest.skip_to_time() {
        millis += rest.time_of_day()?;
    }
    rest.skip(b" ");
    millis -= rest.offset()?;
    rest.0.is_empty().then_some(millis)
}

/// The part of the text that has not been read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    /// Reads `yyyy-mm-dd`, `yyyymmdd`, `dd/mm/yyyy` and similar forms. Both separators must be the same character.
    fn date(&mut self) -> Option<Date> {
        let (first, length) = self.digits()?;
        let (year, month, day) = match length {
            8 => (first / 10_000, first / 100 % 100, first % 100),
            4 => {
                let separator = self.take(b"-/")?;
                let month = self.number(1..=2)?;
                self.take(&[separator])?;
                (first, month, self.number(1..=2)?)
            }
            1..=2 => {
                let separator = self.take(b"/-.")?;
                let month = self.number(1..=2)?;
                self.take(&[separator])?;
                (self.number(4..=4)?, month, first)
            }
            _other => return None,
        };
        let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
        Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?).ok()
    }

    /// Whether a time of day follows. Skips the separator before it.
    fn skip_to_time(&mut self) -> bool {
        if self.take(b"Tt_").is_some() {
            return true;
        }
        self.skip(b", ");
        self.0.first().is_some_and(u8::is_ascii_digit)
    }

    /// `hh:mm`, `hh:mm:ss`, `hhmm`, `hhmmss`, with any fraction of a second; in milliseconds.
    fn time_of_day(&mut self) -> Option<i64> {
        let (first, length) = self.digits()?;
        let (hour, minute, second) = match length {
            1..=2 => {
                self.take(b":")?;
                let minute = self.number(2..=2)?;
                (first, minute, if self.take(b":").is_some() { self.number(2..=2)? } else { 0 })
            }
            4 => (first / 100, first % 100, 0),
            6 => (first / 10_000, first / 100 % 100, first % 100),
            _other => return None,
        };
        let fraction = if self.take(b".,").is_some() {
            let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let (fraction, rest) = self.0.split_at_checked(digits).filter(|_| digits > 0)?;
            self.0 = rest;
            milliseconds(std::str::from_utf8(fraction).ok()?)
        } else {
            0
        };
        // 24:00 is read as the end of the day, and a leap second as the last millisecond of its minute.
        let is_midnight = hour == 24 && minute == 0 && second == 0 && fraction == 0;
        if (hour > 23 && !is_midnight) || minute > 59 || second > 60 {
            return None;
        }
        let within = if second == 60 { MINUTE_MS - 1 } else { second * SECOND_MS + fraction };
        Some(hour * HOUR_MS + minute * MINUTE_MS + within)
    }

    /// `Z`, `UTC`, `GMT`, `+hh:mm`, `+hhmm`, `+hh`, or nothing; in milliseconds east of UTC.
    fn offset(&mut self) -> Option<i64> {
        if self.0.is_empty() || [&b"Z"[..], b"UTC", b"GMT"].iter().any(|name| self.0.eq_ignore_ascii_case(name)) {
            self.0 = &[];
            return Some(0);
        }
        let sign = if self.take(b"+-")? == b'-' { -1 } else { 1 };
        let (first, length) = self.digits()?;
        let (hours, minutes) = match length {
            4 => (first / 100, first % 100),
            2 if self.take(b":").is_some() => (first, self.number(2..=2)?),
            2 => (first, 0),
            _other => return None,
        };
        (hours <= 23 && minutes <= 59).then_some(sign * (hours * HOUR_MS + minutes * MINUTE_MS))
    }

    fn take(&mut self, bytes: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first().filter(|(first, _)| bytes.contains(first))?;
        self.0 = rest;
        Some(*first)
    }

    fn skip(&mut self, bytes: &[u8]) {
        while self.take(bytes).is_some() {}
    }

    /// The value and the number of the digits that follow, at least one and at most eight.
    fn digits(&mut self) -> Option<(i64, usize)> {
        let length = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at_checked(length).filter(|_| (1..=8).contains(&length))?;
        self.0 = rest;
        Some((digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')), length))
    }

    fn number(&mut self, lengths: std::ops::RangeInclusive<usize>) -> Option<i64> {
        self.digits().filter(|(_, length)| lengths.contains(length)).map(|(number, _)| number)
    }
}

/// The digits behind a decimal point, as whole milliseconds.
fn milliseconds(fraction: &str) -> i64 {
    fraction.bytes().chain(*b"000").take(3).fold(0, |millis, digit| millis * 10 + i64::from(digit - b'0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;

    use super::*;

    fn read(text: &str) -> Option<String> {
        parse(text).map(|at| at.to_string())
    }

    #[test]
    fn all_forms_of_one_time() {
        for text in [
            "2026-12-01T10:15:00Z",
            "2026-12-01T10:15:00.000000+00:00",
            "2026-12-01t10:15:00z",
            "2026-12-01 10:15:00",
            " 2026-12-01  10:15:00 UTC ",
            "2026-12-01T10:15",
            "2026-12-01T10:15Z",
            "2026-12-01T07:15:00-03:00",
            "2026-12-01T07:15:00-0300",
            "2026-12-01T07:15-03",
            "2026-12-01T10:15:00+0000",
            "2026-12-01T10:15:00+00",
            "2026-12-01T10:15:00-00:00",
            "2026-12-01T10:15:00,0Z",
            "2026-12-01T10:15:00 GMT",
            "2026/12/01 10:15",
            "20261201T101500Z",
            "20261201T1015-0000",
            "01/12/2026 10:15",
            "01/12/2026, 10:15:00",
            "1/12/2026 10:15:00",
            "01-12-2026 10:15:00",
            "01-12-2026T07:15:00-03:00",
            "01.12.2026 10:15",
            "1796120100",
            "1796120100.0",
            "1796120100000",
            "1796120100000.0",
            "1796120100000000",
            "1796120100000000000",
        ] {
            assert_eq!(read(text).as_deref(), Some("2026-12-01T10:15:00.000Z"), "{text}");
        }
        for text in ["2026-12-01", "20261201", "2026/12/01", "01/12/2026", "1/12/2026", "01-12-2026", "2026-12-01Z"] {
            assert_eq!(read(text).as_deref(), Some("2026-12-01T00:00:00.000Z"), "{text}");
        }
    }

    #[test]
    fn the_odd_ones() {
        for (text, expected) in [
            ("03/04/2026", "2026-04-03T00:00:00.000Z"),
            ("2026-12-01-03:00", "2026-12-01T03:00:00.000Z"),
            ("2026-12-31T24:00:00-03:00", "2027-01-01T03:00:00.000Z"),
            ("2026-12-31T23:59:60Z", "2026-12-31T23:59:59.999Z"),
            ("1796120100.75", "2026-12-01T10:15:00.750Z"),
            ("2026-12-01T10:15:00.5Z", "2026-12-01T10:15:00.500Z"),
            ("1969-12-31T23:59:59.9999Z", "1969-12-31T23:59:59.999Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
            ("0000-01-01T00:00:00+01:00", "0000-01-01T00:00:00.000Z"),
            ("9999-12-31T23:59:59-03:00", "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(read(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn texts_that_are_not_times() {
        let long = format!("2026-12-01T10:15:00.{}Z", "0".repeat(100));
        for text in [
            "",
            " ",
            "soon",
            "null",
            "0",
            "1",
            "-1",
            "2026",
            "202612",
            "1796120100-",
            "-1796120100",
            "1e9",
            "12/25/2026",
            "31/02/2026",
            "2026-02-30",
            "2026-13-01",
            "2026-00-10",
            "01/12/26",
            "2026-12/01",
            "2026-12-01T",
            "2026-12-01T1",
            "2026-12-01T10",
            "2026-12-01T25:00",
            "2026-12-01T24:01",
            "2026-12-01T10:60",
            "2026-12-01T10:15:61Z",
            "2026-12-01T10:15:00.Z",
            "2026-12-01T10:15:00+3",
            "2026-12-01T10:15:00+24:00",
            "2026-12-01T10:15:00+03:60",
            "2026-12-01T10:15:00Zulu",
            "2026-12-01T10:15:00Z, or later",
            "+2026-12-01",
            "99999-01-01",
            "２０２６-12-01",
            "99999999999999999999",
            "1796120100.",
            ".5",
            &long,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn rfc_3339_is_read_as_its_own_library_reads_it(
            seconds in -62_135_596_800_i64..253_402_200_000, millis in 0_i64..1_000, hours in -12_i8..=14, minutes in 0_i8..60,
        ) {
            let offset = time::UtcOffset::from_hms(hours, if hours < 0 { -minutes } else { minutes }, 0).unwrap();
            let nanos = (i128::from(seconds) * 1_000 + i128::from(millis)) * 1_000_000;
            let point = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap().to_offset(offset);
            prop_assume!((0..=9999).contains(&point.year()));
            let text = point.format(&Rfc3339).unwrap();
            prop_assert_eq!(parse(&text), Some(Timestamp::from_millis(seconds * 1_000 + millis)), "{}", text);
        }

        #[test]
        fn nothing_panics(text in "[0-9TtZz:./, +-]{0,30}|.{0,20}") {
            let _time = parse(&text);
        }
    }
}

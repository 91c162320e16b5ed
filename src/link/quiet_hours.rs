//! Quiet hours: the part of the day in which no user gets a message.
//!
//! The rule needs the local time of the user, and so the rules of time zones, with their changes between summer and winter. The crate
//! `jiff` has them compiled in: no file of the host is read, so a replay of the same inputs gives the same times on every host.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Time;
use jiff::tz::TimeZone;

use super::{Profile, Timestamp};

/// The longest quiet hours. Where the country of a user is not known, the quiet hours of three countries are added, and a part of the day
/// must be left.
const MINUTES_MAX: i32 = 16 * 60;

/// A part of every day, such as from 22:00 to 08:00.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuietHours {
    from: Time,
    to: Time,
    /// The time zone of all users; `None`: that of the country of each institution.
    zone: Option<TimeZone>,
}

/// The text is not a part of a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be two times of the day with a dash, such as 22:00-08:00, at most 16 hours apart")]
pub struct NotQuietHours;

/// There is no time zone with this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be the name of a time zone, such as America/Mexico_City")]
pub struct NotATimeZone;

impl FromStr for QuietHours {
    type Err = NotQuietHours;

    fn from_str(text: &str) -> Result<Self, NotQuietHours> {
        let (from, to) = text.split_once('-').ok_or(NotQuietHours)?;
        let (from, to) = (parse_time(from)?, parse_time(to)?);
        let minutes = |time: Time| i32::from(time.hour()) * 60 + i32::from(time.minute());
        let length = (minutes(to) - minutes(from)).rem_euclid(24 * 60);
        if length == 0 || length > MINUTES_MAX {
            return Err(NotQuietHours);
        }
        Ok(Self { from, to, zone: None })
    }
}

fn parse_time(text: &str) -> Result<Time, NotQuietHours> {
    let (hour, minute) = text.trim().split_once(':').ok_or(NotQuietHours)?;
    if hour.len() > 2 || minute.len() != 2 {
        return Err(NotQuietHours);
    }
    let (hour, minute) = (hour.parse().map_err(|_| NotQuietHours)?, minute.parse().map_err(|_| NotQuietHours)?);
    Time::new(hour, minute, 0, 0).map_err(|_| NotQuietHours)
}

impl fmt::Display for QuietHours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.from.strftime("%H:%M"), self.to.strftime("%H:%M"))
    }
}

impl QuietHours {
    /// The same hours in the time zone with this name (IANA), for all users.
    ///
    /// # Errors
    /// [`NotATimeZone`]: the name is unknown.
    pub fn in_zone(self, name: &str) -> Result<Self, NotATimeZone> {
        let zone = TimeZone::get(name).map_err(|_| NotATimeZone)?;
        Ok(Self { zone: Some(zone), ..self })
    }

    /// Whether there is a time zone with this name (IANA).
    ///
    /// # Errors
    /// [`NotATimeZone`]: the name is unknown.
    pub fn check_zone(name: &str) -> Result<(), NotATimeZone> {
        TimeZone::get(name).map(drop).map_err(|_| NotATimeZone)
    }

    /// The first time at or after `at` that is outside of the quiet hours of a link's user.
    pub fn end(&self, at: Timestamp, profile: &Profile) -> Timestamp {
        let zones = match &self.zone {
            Some(zone) => vec![zone.clone()],
            None => zones_of(profile),
        };
        // The quiet hours of several zones overlap: at the end of those of one zone, those of another one may go on.
        let mut at = at;
        while let Some(end) = zones.iter().find_map(|zone| self.end_in(at, zone)) {
            at = end;
        }
        at
    }

    /// When the quiet hours end in which `at` lies; `None` if it lies in none.
    fn end_in(&self, at: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        // Only times that no clock shows are out of the range of years.
        let instant = jiff::Timestamp::from_millisecond(at.as_millis()).ok()?;
        let local = zone.to_datetime(instant);
        let (time, is_past_midnight) = (local.time(), self.from < self.to);
        let is_quiet =
            if is_past_midnight { self.from <= time && time < self.to } else { self.from <= time || time < self.to };
        if !is_quiet {
            return None;
        }
        let date = if time < self.to { local.date() } else { local.date().tomorrow().ok()? };
        // A local time may come twice, or not at all, when the clocks are changed: then the later one counts.
        let end = zone.to_ambiguous_timestamp(date.to_datetime(self.to)).later().ok()?;
        Some(Timestamp::from_millis(end.as_millisecond())).filter(|end| *end > at)
    }
}

/// The time zones in which the user of a link may live. Belvo's codes of institutions contain the country: `erebor_mx_retail`. A consent of
/// open finance exists only in Brazil. If the country is not known, the user may live in any of Belvo's countries.
fn zones_of(profile: &Profile) -> Vec<TimeZone> {
    const COUNTRIES: [(&str, &str); 3] =
        [("br", "America/Sao_Paulo"), ("mx", "America/Mexico_City"), ("co", "America/Bogota")];
    let zone = |name| TimeZone::get(name).unwrap_or(TimeZone::UTC);
    let mut parts = profile.institution.iter().flat_map(|code| code.rsplit('_'));
    let of_code = parts.find_map(|part| COUNTRIES.iter().find(|(country, _)| *country == part));
    match of_code.or_else(|| profile.consent.as_ref().map(|_| &COUNTRIES[0])) {
        Some((_, name)) => vec![zone(name)],
        None => COUNTRIES.iter().map(|(_, name)| zone(name)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn hours(text: &str) -> QuietHours {
        text.parse().expect("quiet hours")
    }

    #[test]
    fn hours_are_read_and_wrong_ones_refused() {
        assert_eq!(hours("22:00-8:00").to_string(), "22:00-08:00");
        for wrong in ["", "22-8", "22:00", "22:00-22:00", "06:00-23:00", "25:00-08:00", "22:0-08:00", "a:00-b:00"] {
            assert_eq!(wrong.parse::<QuietHours>(), Err(NotQuietHours), "{wrong}");
        }
        assert!(hours("22:00-08:00").in_zone("America/Nowhere").is_err());
    }

    #[test]
    fn each_institution_has_the_hours_of_its_country_and_an_unknown_one_those_of_all() {
        let quiet = hours("22:00-08:00");
        let of = |institution: Option<&str>, time| {
            let profile = Profile { institution: institution.map(str::to_owned), ..Profile::default() };
            quiet.end(at(time), &profile).to_string()
        };
        // São Paulo is 3 hours behind UTC, Bogotá 5, Mexico City 6.
        assert_eq!(of(Some("ofmockbank_br_retail"), "2026-11-23T02:00:00Z"), "2026-11-23T11:00:00.000Z");
        assert_eq!(of(Some("bancolombia_co_retail"), "2026-11-23T03:00:00Z"), "2026-11-23T13:00:00.000Z");
        assert_eq!(of(Some("erebor_mx_retail"), "2026-11-23T02:00:00Z"), "2026-11-23T02:00:00.000Z");
        assert_eq!(of(Some("erebor_mx_retail"), "2026-11-23T13:59:59Z"), "2026-11-23T14:00:00.000Z");
        assert_eq!(of(None, "2026-11-23T02:00:00Z"), "2026-11-23T14:00:00.000Z");
        assert_eq!(of(None, "2026-11-23T00:30:00Z"), "2026-11-23T00:30:00.000Z");
    }

    #[test]
    fn the_hours_follow_the_clocks_in_summer_and_winter() {
        let end = |hours_text: &str, time| {
            let quiet = hours(hours_text).in_zone("America/New_York").expect("a zone");
            quiet.end(at(time), &Profile::default()).to_string()
        };
        // The clocks go forward on 8 March 2026 and back on 1 November 2026, at 02:00.
        assert_eq!(end("22:00-08:00", "2026-03-07T03:30:00Z"), "2026-03-07T13:00:00.000Z");
        assert_eq!(end("22:00-08:00", "2026-03-08T03:30:00Z"), "2026-03-08T12:00:00.000Z");
        assert_eq!(end("22:00-08:00", "2026-11-01T03:30:00Z"), "2026-11-01T13:00:00.000Z");
        // 02:30 does not exist on the first day, and 01:30 comes twice on the second.
        assert_eq!(end("22:00-02:30", "2026-03-08T06:00:00Z"), "2026-03-08T07:30:00.000Z");
        assert_eq!(end("22:00-01:30", "2026-11-01T05:00:00Z"), "2026-11-01T06:30:00.000Z");
    }
}

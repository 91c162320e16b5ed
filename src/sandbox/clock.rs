//! The sandbox's own clock: the real one plus a shift, so that a test can drive time.
//!
//! Tokens, MFA sessions, cool-downs, credentials and the webhook queue all read it. It never runs backwards.
//! Next: [`super::courier`], which sleeps on it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use time::OffsetDateTime;
use time::macros::format_description;

/// Wall time plus whatever [`Clock::advance`] has added.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    shift_ms: AtomicI64,
}

impl Clock {
    /// Now, in milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> i64 {
        crate::clock::now().as_millis().saturating_add(self.shift_ms.load(Ordering::Acquire))
    }

    /// Moves time forward. Whoever sleeps on this clock has to be woken by the caller.
    pub(crate) fn advance(&self, span: Duration) {
        self.shift_ms.fetch_add(millis(span), Ordering::AcqRel);
    }
}

/// A span in milliseconds, as signed arithmetic wants it.
pub(crate) fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX / 2)
}

/// Belvo's way to write a time: RFC 3339, UTC, six fractional digits.
pub(crate) fn belvo_time(at_ms: i64) -> String {
    const FORM: &[time::format_description::BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    instant(at_ms).format(FORM).unwrap_or_default()
}

/// The calendar day, as Belvo's date fields have it.
pub(crate) fn belvo_date(at_ms: i64) -> String {
    instant(at_ms).date().to_string()
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
}

//! The clock of the input stream, as far as this process knows it.
//!
//! The server dates every input, so deadlines are dated by the server's clock too. A timer that compared them with the clock of this host
//! would fire too early or too late if the two clocks differ. So the node asks the server for its time, and keeps the difference to its
//! own clock. The driver's own clock is steady: changes of the host's time do not move it.
//!
//! If a measured time is far from the expected one, one of the clocks has jumped, and it is unknown which one. Then the node waits until
//! the jump is confirmed. Until then timers use the earlier of the two times, so that no user is prompted too early, and no time of a link is
//! corrected.

use std::time::Duration;

use crate::link::Timestamp;

/// Two times that differ by at most this are equal: the request takes some time, and the server may change its clock by small steps.
pub(super) const DEVIATION_MAX: Duration = Duration::from_secs(5);

/// For so long a jump must stay until it counts as the right time.
const CONFIRMED_AFTER: Duration = Duration::from_secs(60);

/// The difference between the clock of the server and the own one.
#[derive(Debug, Default)]
pub(super) struct StreamClock {
    /// The server's time minus the own time, in milliseconds.
    offset_ms: i64,
    /// Whether the server's time has been measured.
    is_known: bool,
    /// The wall clock of the host minus the own time, in milliseconds.
    host_offset_ms: i64,
    /// A jump that is not confirmed yet.
    unconfirmed: Option<Jump>,
}

/// A measured time that differs from the expected one.
#[derive(Clone, Copy, Debug)]
struct Jump {
    offset_ms: i64,
    /// When it was measured first, by the own clock.
    since: Timestamp,
}

/// What a measurement has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measured {
    /// The time is the expected one.
    AsExpected,
    /// The time differs by so many milliseconds (positive: the server is ahead), and it is not known yet whether this stays.
    Jumped { by_ms: i64 },
    /// The difference of the last measurement is still there.
    Unconfirmed,
    /// The jump was over before it was confirmed.
    JumpedBack,
    /// The jump has stayed, and the new time counts.
    Confirmed { by_ms: i64 },
}

impl StreamClock {
    /// Whether the server's time is known, so that timers can be compared with it.
    pub(super) const fn is_known(&self) -> bool {
        self.is_known
    }

    /// The time for timers.
    pub(super) fn now(&self, own: Timestamp) -> Timestamp {
        shifted(own, self.offset_in_use_ms())
    }

    /// The own time at which [`StreamClock::now`] will be `at`.
    pub(super) fn own_time(&self, at: Timestamp) -> Timestamp {
        shifted(at, self.offset_in_use_ms().saturating_neg())
    }

    /// The latest time that it may be now, by the clock of the server and by that of the host; `None` while the clocks are in jump.
    pub(super) fn latest_now(&self, own: Timestamp) -> Option<Timestamp> {
        let is_sure = self.is_known && self.unconfirmed.is_none();
        is_sure.then(|| shifted(own, self.offset_ms.max(self.host_offset_ms)))
    }

    /// At `own` the wall clock of the host showed `host`. Returns by how many milliseconds it has jumped since the last call.
    pub(super) fn host_measured(&mut self, own: Timestamp, host: Timestamp) -> Option<i64> {
        let before_ms = std::mem::replace(&mut self.host_offset_ms, difference(host, own));
        let by_ms = self.host_offset_ms.saturating_sub(before_ms);
        (!is_small(by_ms)).then_some(by_ms)
    }

    /// At `own` the server's clock showed `stream`.
    pub(super) fn measured(&mut self, own: Timestamp, stream: Timestamp) -> Measured {
        let offset_ms = difference(stream, own);
        self.is_known = true;
        let by_ms = offset_ms.saturating_sub(self.offset_ms);
        if is_small(by_ms) {
            self.offset_ms = offset_ms;
            return if self.unconfirmed.take().is_some() { Measured::JumpedBack } else { Measured::AsExpected };
        }
        match self.unconfirmed.filter(|jump| is_small(offset_ms.saturating_sub(jump.offset_ms))) {
            Some(jump) if own.since(jump.since) >= CONFIRMED_AFTER => {
                (self.offset_ms, self.unconfirmed) = (offset_ms, None);
                Measured::Confirmed { by_ms }
            }
            Some(_) => Measured::Unconfirmed,
            None => {
                self.unconfirmed = Some(Jump { offset_ms, since: own });
                Measured::Jumped { by_ms }
            }
        }
    }

    fn offset_in_use_ms(&self) -> i64 {
        self.unconfirmed.map_or(self.offset_ms, |jump| jump.offset_ms.min(self.offset_ms))
    }
}

fn shifted(at: Timestamp, by_ms: i64) -> Timestamp {
    Timestamp::from_millis(at.as_millis().saturating_add(by_ms))
}

fn difference(later: Timestamp, earlier: Timestamp) -> i64 {
    later.as_millis().saturating_sub(earlier.as_millis())
}

fn is_small(difference_ms: i64) -> bool {
    Duration::from_millis(difference_ms.unsigned_abs()) <= DEVIATION_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_790_000_000_000 + 1_000 * seconds)
    }

    #[test]
    fn a_host_that_is_ahead_does_not_advance_the_timers() {
        // The host is 11 minutes ahead of the server.
        let mut clock = StreamClock::default();
        assert!(!clock.is_known());
        assert_eq!(clock.measured(at(660), at(0)), Measured::Jumped { by_ms: -660_000 });
        assert_eq!((clock.now(at(661)), clock.latest_now(at(661))), (at(1), None));
        assert_eq!(clock.measured(at(690), at(30)), Measured::Unconfirmed);
        assert_eq!(clock.measured(at(720), at(60)), Measured::Confirmed { by_ms: -660_000 });
        assert_eq!((clock.now(at(721)), clock.own_time(at(61))), (at(61), at(721)));
        assert_eq!(clock.latest_now(at(721)), Some(at(721)), "the host may be right");
        assert_eq!(clock.host_measured(at(730), at(70)), Some(-660_000));
        assert_eq!(clock.latest_now(at(731)), Some(at(71)));
    }

    #[test]
    fn six_seconds_of_a_wrong_server_change_nothing() {
        for by_days in [400, -400] {
            let mut clock = StreamClock::default();
            assert_eq!(clock.measured(at(0), at(2)), Measured::AsExpected);
            let wrong = |seconds| Timestamp::from_millis(at(seconds).as_millis() + by_days * DAY_MS);
            assert!(matches!(clock.measured(at(10), wrong(12)), Measured::Jumped { .. }));
            assert!(clock.now(at(11)) <= at(13) && clock.latest_now(at(11)).is_none());
            assert_eq!(clock.measured(at(20), at(22)), Measured::JumpedBack);
            assert_eq!((clock.now(at(21)), clock.latest_now(at(21))), (at(23), Some(at(23))));
        }
    }

    #[test]
    fn a_jump_that_stays_becomes_the_time() {
        let mut clock = StreamClock::default();
        clock.measured(at(0), at(0));
        assert_eq!(clock.measured(at(10), at(3_610)), Measured::Jumped { by_ms: 3_600_000 });
        for seconds in [20, 30] {
            assert_eq!(clock.measured(at(seconds), at(3_600 + seconds)), Measured::Unconfirmed);
            assert_eq!(clock.now(at(seconds)), at(seconds));
        }
        assert_eq!(clock.measured(at(70), at(3_670)), Measured::Confirmed { by_ms: 3_600_000 });
        assert_eq!(clock.now(at(71)), at(3_671));
        // Another jump does not confirm the first one.
        clock.measured(at(80), at(80));
        assert!(matches!(clock.measured(at(200), at(9_000)), Measured::Jumped { .. }));
        assert!(clock.latest_now(at(200)).is_none());
    }
}

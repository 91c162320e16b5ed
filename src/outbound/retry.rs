//! When a request is repeated, and when a message becomes a dead letter: the rules, without I/O.
//!
//! The rules follow Standard Webhooks 1.0 (operational considerations): only 2xx is a success; 410 Gone ends all
//! requests to the address; 429, 502 and 504 slow down the requests; `Retry-After` counts; the pauses grow, have some
//! randomness, and go on for days.

use std::time::Duration;

/// The first pause of a message; each next one is twice as long.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest pause of a message that the target refuses. After the target is corrected, nothing waits longer.
const PAUSE_MAX: Duration = Duration::from_secs(15 * 60);

/// The longest pause of a target that cannot be reached or is overloaded.
pub(super) const TARGET_PAUSE_MAX: Duration = Duration::from_secs(60);

/// The longest `Retry-After` that is followed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// A message that has waited long enough is given up only after so many attempts since the start of relink. Otherwise
/// a message that waited while relink was stopped would get one attempt only.
const ATTEMPTS_MIN: u32 = 3;

/// The result of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The target has the message.
    Accepted {
        /// The status of the response.
        status: u16,
    },
    /// The target wants no more messages.
    Gone,
    /// The target does not have the message.
    Failed(Failure),
}

/// Why a message was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The reason, as one clause without private data.
    pub(super) why: String,
    /// Whether the reason is the target and not the message, so that the other messages would fail too.
    pub(super) is_of_target: bool,
    /// How long the target asks to wait.
    pub(super) retry_after: Option<Duration>,
}

impl Verdict {
    /// The meaning of a response. `retry_after` is the value of the header.
    pub(super) fn of_response(status: u16, retry_after: Option<&str>) -> Self {
        let seconds: Option<u64> = retry_after.and_then(|value| value.trim().parse().ok());
        let retry_after = seconds.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
        match status {
            200..=299 => Self::Accepted { status },
            410 => Self::Gone,
            _ => Self::Failed(Failure {
                why: format!("the response has the status {status}"),
                is_of_target: matches!(status, 429 | 502 | 503 | 504),
                retry_after,
            }),
        }
    }

    /// There is no response, for this reason.
    pub(super) const fn unreachable(why: String) -> Self {
        Self::Failed(Failure { why, is_of_target: true, retry_after: None })
    }
}

/// The pause after the attempt number `attempts` of a message.
pub(super) fn pause_of_message(attempts: u32, failure: &Failure) -> Duration {
    let longest = if failure.is_of_target { TARGET_PAUSE_MAX } else { PAUSE_MAX };
    backoff(attempts, longest).max(failure.retry_after.unwrap_or_default())
}

/// The pause of all requests after `failures` failures of the target in a row.
pub(super) fn pause_of_target(failures: u32, failure: &Failure) -> Duration {
    backoff(failures, TARGET_PAUSE_MAX).max(failure.retry_after.unwrap_or_default())
}

/// Three quarters to all of the pause, so that messages that failed together are not repeated together.
fn backoff(count: u32, longest: Duration) -> Duration {
    let pause = PAUSE_MIN.saturating_mul(1 << count.saturating_sub(1).min(16)).min(longest);
    pause.mul_f64(0.75 + 0.25 * fastrand::f64())
}

/// Whether a message of this age becomes a dead letter after so many attempts.
pub(super) fn gives_up(age: Duration, attempts: u32, retry_for: Duration) -> bool {
    attempts >= ATTEMPTS_MIN && age >= retry_for
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(status: u16, retry_after: Option<&str>) -> Failure {
        match Verdict::of_response(status, retry_after) {
            Verdict::Failed(failure) => failure,
            verdict => panic!("{status}: {verdict:?}"),
        }
    }

    #[test]
    fn only_2xx_is_a_success_and_410_is_the_end() {
        for status in [200, 202, 204, 299] {
            assert_eq!(Verdict::of_response(status, None), Verdict::Accepted { status });
        }
        assert_eq!(Verdict::of_response(410, None), Verdict::Gone);
        for (status, is_of_target) in [
            (301, false),
            (400, false),
            (401, false),
            (404, false),
            (500, false),
            (429, true),
            (502, true),
            (504, true),
        ] {
            assert_eq!(failure(status, None).is_of_target, is_of_target, "{status}");
        }
    }

    #[test]
    fn pauses_grow_to_a_maximum_and_retry_after_counts() {
        let refused = failure(400, None);
        for (attempts, seconds) in [(1, 1), (2, 2), (3, 4), (10, 512), (11, 900), (99, 900)] {
            let (longest, pause) = (Duration::from_secs(seconds), pause_of_message(attempts, &refused));
            assert!(pause <= longest && pause >= longest.mul_f64(0.7), "{attempts}: {pause:?}");
        }
        assert!(pause_of_message(99, &failure(503, None)) <= TARGET_PAUSE_MAX);
        let busy = failure(429, Some("120"));
        assert_eq!(pause_of_message(1, &busy), Duration::from_secs(120));
        assert_eq!(pause_of_target(1, &busy), Duration::from_secs(120));
        assert_eq!(failure(503, Some("999999999")).retry_after, Some(RETRY_AFTER_MAX));
        assert_eq!(failure(503, Some("Fri, 31 Dec 1999 23:59:59 GMT")).retry_after, None);
    }

    #[test]
    fn a_message_is_given_up_by_its_age_and_not_before_some_attempts() {
        let day = Duration::from_secs(86_400);
        assert!(!gives_up(day * 9, 2, day), "relink was stopped for days");
        assert!(!gives_up(day / 2, 99, day));
        assert!(gives_up(day, 3, day));
    }
}

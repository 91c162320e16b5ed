//! The policy of the machine: all durations and limits that it uses, checked once.

use std::time::Duration;

use strum::EnumString;

use super::QuietHours;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// The longest duration that a setting may have. A longer one is most likely a wrong unit.
const WAIT_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Which links may be superseded by a newer link of the same user at the same institution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum Supersede {
    /// None.
    Never,
    /// Links with the same `institution_user_id`, which is Belvo's key of a login at an institution.
    InstitutionUserId,
    /// Also links with the same `external_id`, if the `institution_user_id` of one of them is unknown.
    ExternalId,
}

/// Which links get notices about an outage of their institution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum InstitutionNotices {
    /// None.
    Off,
    /// Links whose user is repairing them, or looks at the repair page.
    Repair,
    /// Also links whose prompt waits for the end of the outage, and links about which a call failed because of it.
    All,
}

/// The settings of the machine, not yet checked. [`Policy::new`] checks them.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicySettings {
    /// Whether Belvo can be asked, that is, API keys are configured. Without keys a success callback counts as proof.
    pub can_verify: bool,
    /// The longest time that one attempt of the user may take, even if the widget token or the MFA session is valid for
    /// longer.
    pub update_wait_max: Duration,
    /// How long one verify request may stay unanswered, and the pause between two verify requests for a claimed repair.
    pub verify_wait: Duration,
    /// How many verify requests a claimed repair gets before it counts as failed. Belvo's status lags behind a repair.
    pub verify_attempts_max: u32,
    /// The settle window: for this time after a recovery or a claim, evidence is a suspicion and is verified.
    pub settle_window: Duration,
    /// For how long a message with a known dedup key is refused as a repeat.
    pub repeat_window: Duration,
    /// When the reminders are due, counted from the prompt.
    pub reminders: Vec<Duration>,
    /// The shortest time between two messages to one person.
    pub reminder_pause: Duration,
    /// Whether all links with the same `external_id` are of one person. If not, each link is a person of its own.
    pub per_person: bool,
    /// The part of the day in which no user gets a message; `None`: users get them at any time.
    pub quiet_hours: Option<QuietHours>,
    /// How long relink waits for Belvo's own refresh after a repair before it asks for one, and then for that one.
    pub refresh_wait: Duration,
    /// How many refreshes follow a repair at most, including Belvo's own, before the missing resources are given up.
    pub refresh_attempts_max: u32,
    /// How many refreshes relink asks for in a calendar month for a link with a consent. Each counts against the quota
    /// of the person (8 for most resources), which the customer's own calls use too.
    pub consent_refreshes_max: u32,
    /// How long before the end of a consent the notices `consent_expiring` are emitted: the rungs of a ladder, the longest first.
    pub consent_notices: Vec<Duration>,
    /// After how many missed refresh intervals a recurrent link is stale.
    pub stale_after_intervals: u32,
    /// How long a deferred prompt waits before it is checked again whether the incident is over.
    pub incident_wait: Duration,
    /// How many links of one institution have to fail within [`PolicySettings::incident_window`] to be an incident. 0:
    /// never.
    pub incident_links: u32,
    /// The window in which that many links have to fail. An incident is over after one such window with few failures.
    pub incident_window: Duration,
    /// How many links of one institution have to get an outage error of Belvo within [`PolicySettings::incident_window`]
    /// to be an incident. 0: never.
    pub outage_links: u32,
    /// Which links get notices about an outage of their institution.
    pub institution_notices: InstitutionNotices,
    /// How long after the first report that the creation of a link is not finished the application is notified; `None`: never.
    pub unfinished_after: Option<Duration>,
    /// Which links may be superseded.
    pub supersede: Supersede,
}

impl Default for PolicySettings {
    fn default() -> Self {
        Self {
            can_verify: false,
            // A token lives 10 minutes; an MFA session inside the widget can be longer (`expiry`, up to 9600 s seen).
            update_wait_max: Duration::from_secs(30 * 60),
            verify_wait: 2 * MINUTE,
            verify_attempts_max: 3,
            // Belvo retries a webhook five times with a linear back-off, and does not publish the step. Half an hour
            // covers steps of two minutes.
            settle_window: Duration::from_secs(30 * 60),
            // Shorter than the shortest refresh interval (6 h), so that the message of the next refresh is never a
            // repeat.
            repeat_window: 4 * HOUR,
            reminders: vec![DAY, 3 * DAY, 7 * DAY],
            reminder_pause: DAY,
            per_person: true,
            // A notice is a message to a program, which may show it in an app, where the hour does not matter.
            quiet_hours: None,
            refresh_wait: 6 * HOUR,
            refresh_attempts_max: 2,
            consent_refreshes_max: 4,
            // Belvo's own webhook comes 7 days ahead, and only to customers who asked its support for it.
            consent_notices: vec![30 * DAY, 7 * DAY, DAY],
            stale_after_intervals: 2,
            incident_wait: 10 * MINUTE,
            incident_links: 20,
            incident_window: 10 * MINUTE,
            // Belvo's error is a statement about the institution, so fewer links are enough than for failing logins.
            outage_links: 5,
            // With these notices the repair page promises the user a message, which only the subscriber can send.
            institution_notices: InstitutionNotices::Off,
            unfinished_after: Some(HOUR),
            // One person may connect two logins of one bank under one `external_id`.
            supersede: Supersede::InstitutionUserId,
        }
    }
}

/// Checked [`PolicySettings`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy(PolicySettings);

/// A setting is out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct BadSetting {
    /// The name of the setting.
    pub setting: &'static str,
    /// The range that it must be in.
    pub problem: &'static str,
}

impl Policy {
    /// Checks the settings.
    ///
    /// # Errors
    /// The first setting that is out of its range.
    pub fn new(settings: PolicySettings) -> Result<Self, BadSetting> {
        let bad = |setting, problem| Err(BadSetting { setting, problem });
        let waits = [
            ("update_wait_max", settings.update_wait_max),
            ("verify_wait", settings.verify_wait),
            ("settle_window", settings.settle_window),
            ("repeat_window", settings.repeat_window),
            ("reminder_pause", settings.reminder_pause),
            ("refresh_wait", settings.refresh_wait),
            ("incident_wait", settings.incident_wait),
            ("incident_window", settings.incident_window),
        ];
        for (setting, wait) in waits {
            if wait < Duration::from_millis(1) || wait > WAIT_MAX {
                return bad(setting, "must be from 1 ms to 366 days");
            }
        }
        if settings.unfinished_after.is_some_and(|wait| wait < Duration::from_millis(1) || wait > WAIT_MAX) {
            return bad("unfinished_after", "must be 0s (never), or from 1 ms to 366 days");
        }
        let counts = [
            ("verify_attempts_max", settings.verify_attempts_max),
            ("refresh_attempts_max", settings.refresh_attempts_max),
            ("stale_after_intervals", settings.stale_after_intervals),
        ];
        for (setting, count) in counts {
            if count == 0 || count > 100 {
                return bad(setting, "must be from 1 to 100");
            }
        }
        if settings.consent_refreshes_max > 100 {
            return bad("consent_refreshes_max", "must be from 0 to 100");
        }
        if settings.outage_links > 1_000 {
            return bad("outage_links", "must be from 0 to 1000");
        }
        if settings.reminders.len() > 20 {
            return bad("reminders", "must have at most 20 steps");
        }
        if settings.reminders.iter().any(|&step| step < Duration::from_millis(1) || step > WAIT_MAX) {
            return bad("reminders", "must be a list of steps from 1 ms to 366 days");
        }
        if !settings.reminders.is_sorted_by(|a, b| a < b) {
            return bad("reminders", "must be a list in which every step is later than the one before it");
        }
        let rungs = &settings.consent_notices;
        if rungs.len() > 20 || rungs.iter().any(|&rung| rung < Duration::from_millis(1) || rung > WAIT_MAX) {
            return bad("consent_notices", "must be a list of at most 20 steps from 1 ms to 366 days");
        }
        if !rungs.is_sorted_by(|a, b| a > b) {
            return bad("consent_notices", "must be a list in which every step is shorter than the one before it");
        }
        Ok(Self(settings))
    }

    /// The settings.
    pub const fn settings(&self) -> &PolicySettings {
        &self.0
    }

    pub(super) const fn can_verify(&self) -> bool {
        self.0.can_verify
    }

    /// The longest wait for the answer to a verify request, all its repeats included.
    pub(super) fn answer_wait(&self) -> Duration {
        self.0.verify_wait * self.0.verify_attempts_max
    }

    /// How long after the prompt, or after the reminder before it, the next reminder is due, if `count` reminders have been sent. `None`: all
    /// have been sent.
    pub(super) fn reminder_distance(&self, count: u32) -> Option<Duration> {
        let count = count as usize;
        let before = count.checked_sub(1).and_then(|before| self.0.reminders.get(before)).copied().unwrap_or_default();
        self.0.reminders.get(count).map(|&step| step.saturating_sub(before))
    }

    pub(super) const fn reminder_pause(&self) -> Duration {
        self.0.reminder_pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_range() {
        assert!(Policy::new(PolicySettings::default()).is_ok());
    }

    #[test]
    fn an_error_names_the_setting_that_is_out_of_range() {
        let check = |change: fn(&mut PolicySettings), setting: &str| {
            let mut settings = PolicySettings::default();
            change(&mut settings);
            assert_eq!(Policy::new(settings).unwrap_err().setting, setting);
        };
        check(|s| s.settle_window = Duration::ZERO, "settle_window");
        check(|s| s.refresh_wait = Duration::MAX, "refresh_wait");
        check(|s| s.unfinished_after = Some(Duration::MAX), "unfinished_after");
        check(|s| s.verify_attempts_max = 0, "verify_attempts_max");
        check(|s| s.reminders = vec![DAY, DAY], "reminders");
        check(|s| s.reminders = vec![Duration::ZERO], "reminders");
        check(|s| s.consent_notices = vec![DAY, 7 * DAY], "consent_notices");
        check(|s| s.consent_notices = vec![Duration::ZERO], "consent_notices");
        check(|s| s.stale_after_intervals = 0, "stale_after_intervals");
    }
}

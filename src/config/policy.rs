//! The settings of the state machine (`policy.*`).

use std::path::Path;

use super::catalogue::all_settings;
use super::layers::{Layers, Sources};
use super::reader::Reader;
use super::{Config, ConfigError};
use crate::link::{InstitutionNotices, Policy, PolicySettings, QuietHours, Supersede};

/// Reads the settings of the machine. `None` if one of them is wrong; then it has been noted.
pub(super) fn read(reader: &mut Reader, can_verify: bool) -> Option<Policy> {
    let count = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
    let settings = PolicySettings {
        can_verify,
        update_wait_max: reader.span("policy.update_wait_max"),
        verify_wait: reader.span("policy.verify_wait"),
        verify_attempts_max: count(reader.number("policy.verify_attempts_max", 1..=100)),
        settle_window: reader.span("policy.settle_window"),
        repeat_window: reader.span("policy.repeat_window"),
        reminders: reader.spans("policy.reminders"),
        reminder_pause: reader.span("policy.reminder_pause"),
        per_person: reader.switch("policy.per_person"),
        quiet_hours: read_quiet_hours(reader),
        refresh_wait: reader.span("policy.refresh_wait"),
        refresh_attempts_max: count(reader.number("policy.refresh_attempts_max", 1..=100)),
        consent_refreshes_max: count(reader.number("policy.consent_refreshes_max", 0..=100)),
        consent_notices: reader.spans("policy.consent_notices"),
        stale_after_intervals: count(reader.number("policy.stale_after_intervals", 1..=100)),
        incident_wait: reader.span("policy.incident_wait"),
        incident_links: count(reader.number("policy.incident_links", 0..=1_000_000)),
        incident_window: reader.span("policy.incident_window"),
        outage_links: count(reader.number("policy.outage_links", 0..=1_000)),
        institution_notices: reader
            .parsed("policy.institution_notices", "off, repair or all")
            .unwrap_or(InstitutionNotices::Off),
        unfinished_after: Some(reader.span("policy.unfinished_after")).filter(|wait| !wait.is_zero()),
        supersede: reader
            .parsed("policy.supersede", "institution_user_id, external_id or never")
            .unwrap_or(Supersede::Never),
    };
    let had_problems = !reader.layers.problems.is_empty();
    match Policy::new(settings) {
        Ok(policy) => Some(policy),
        // An invalid duration is zero here; its problem has been noted already.
        Err(_) if had_problems => None,
        Err(bad) => {
            let key =
                all_settings().map(|setting| setting.key).find(|key| key.strip_prefix("policy.") == Some(bad.setting));
            reader.reject(key.unwrap_or("policy"), bad.problem);
            None
        }
    }
}

impl Config {
    /// The policy of these sources, with the settings of `[policy]` in another file in their place. The other settings of that file are not
    /// used.
    ///
    /// # Errors
    /// [`ConfigError`]: the file cannot be used, or has no setting of the policy.
    pub fn policy_with(&self, sources: &Sources, file: &Path) -> Result<Policy, ConfigError> {
        let Layers { found, mut problems } = Layers::of_file(file);
        let mut layers = Layers::collect(sources);
        let changed: Vec<_> = found.into_iter().filter(|(key, _)| key.starts_with("policy.")).collect();
        if changed.is_empty() && problems.is_empty() {
            problems.push(format!("file {}: has no setting of [policy]", file.display()));
        }
        layers.problems = problems;
        layers.found.extend(changed);
        let mut reader = Reader { layers };
        let policy = read(&mut reader, self.belvo.keys.is_some());
        match policy {
            Some(policy) if reader.layers.problems.is_empty() => Ok(policy),
            _ => Err(ConfigError { problems: reader.layers.problems }),
        }
    }
}

fn read_quiet_hours(reader: &mut Reader) -> Option<QuietHours> {
    let zone = reader.text("policy.time_zone");
    let Some(hours) = reader.text("policy.quiet_hours") else {
        // A time zone that does not exist is a mistake also while no hours are quiet.
        let checked = zone.map(|zone| QuietHours::check_zone(&zone));
        if let Some(Err(error)) = checked {
            reader.reject("policy.time_zone", error.to_string());
        }
        return None;
    };
    let hours: QuietHours = match hours.parse() {
        Ok(hours) => hours,
        Err(error) => {
            reader.reject("policy.quiet_hours", error.to_string());
            return None;
        }
    };
    let Some(zone) = zone else { return Some(hours) };
    match hours.in_zone(&zone) {
        Ok(hours) => Some(hours),
        Err(error) => {
            reader.reject("policy.time_zone", error.to_string());
            None
        }
    }
}

//! The messages to users with the address of the repair page, and which page is right for an address.
//!
//! The right page is decided here from the record of the link, without the code of the page.

use crate::link::{EpisodeNumber, Link, State, Timestamp, UpdatePhase};

/// How long an address is valid: relink's default.
const EXPIRES_MS: i64 = 14 * 24 * 3_600 * 1_000;

/// An address has its time in seconds, and a message in milliseconds.
const EXPIRY_ACCURACY_MS: i64 = 1_000;

/// A message to a user with the address of the repair page.
#[derive(Clone, Debug)]
pub(super) struct Mail {
    pub(super) url: String,
    pub(super) episode: EpisodeNumber,
    pub(super) sent_at: Timestamp,
}

/// The views that the page of this message may have now. `link` is relink's record.
pub(super) fn right_views(mail: &Mail, link: Option<&Link>, now: Timestamp) -> &'static [&'static str] {
    let Some(link) = link else { return &["unknown"] };
    let age_ms = now.as_millis() - mail.sent_at.as_millis();
    let is_expired = age_ms >= EXPIRES_MS;
    let episode = match &link.state {
        State::Removed => return &["removed"],
        State::Valid { .. } => return &["repaired"],
        State::Unconfirmed => return &["unknown"],
        State::Invalid { episode } | State::TokenRequired { episode } | State::Updating { episode, .. } => episode,
    };
    let is_checked = matches!(link.state, State::Updating { phase: UpdatePhase::Verifying { .. }, .. });
    if episode.number != mail.episode {
        &["replaced"]
    } else if (age_ms - EXPIRES_MS).abs() < EXPIRY_ACCURACY_MS {
        &["needs_you", "in_progress", "checking", "superseded", "expired"]
    } else if is_expired && is_checked {
        &["expired", "checking"]
    } else if is_expired {
        &["expired"]
    } else if is_checked {
        &["checking", "needs_you", "superseded"]
    } else if matches!(link.state, State::Updating { .. }) {
        &["in_progress"]
    } else if episode.superseded_by.is_some() {
        &["superseded"]
    } else {
        &["needs_you"]
    }
}

/// The status of a page with this view: the only part that an answer to HEAD has.
pub(super) fn right_status(view: &str) -> u16 {
    match view {
        "unknown" => 404,
        "removed" | "expired" | "replaced" => 410,
        _ => 200,
    }
}

//! Compares relink's state of each link with Belvo's status after all faults have ended: sweeps must have found the changes without a
//! webhook.
//!
//! Hidden causes are excepted (docs/guarantees.md): Belvo's status shows no blocked account, no ended consent and no unsupported login.

use super::Checked;
use crate::link::{Cause, Link, State, StateName};

/// A link at the end of a run.
pub(in crate::simulation) struct GroundTruth<'a> {
    pub(in crate::simulation) name: &'a str,
    /// Belvo's status; `None` for a deleted link.
    pub(in crate::simulation) status: Option<&'a str>,
    /// relink's state of the link.
    pub(in crate::simulation) link: Option<&'a Link>,
    /// Whether calls have gone to another Belvo account.
    pub(in crate::simulation) had_wrong_account: bool,
}

impl GroundTruth<'_> {
    pub(in crate::simulation) fn check(&self) -> Checked {
        let Self { name, status, link, had_wrong_account } = *self;
        let mismatch = |link: StateName| {
            let status = status.unwrap_or("nothing");
            Err(format!("Belvo's status of {name} is {status}, and relink's state is {}", link.as_str()))
        };
        let Some(link) = link else {
            return match status {
                Some(_) => Err(format!("{name} is unknown to relink")),
                None => Ok(()),
            };
        };
        let state = link.state.name();
        match (status, state) {
            (None, StateName::Removed) => Ok(()),
            // A job accepts up to ten links as deleted: docs/guarantees.md, "What relink does not do (yet)".
            (Some(_), StateName::Removed) if had_wrong_account => Ok(()),
            (Some("valid"), StateName::Valid) | (Some("unconfirmed"), StateName::Unconfirmed) => Ok(()),
            (Some("valid"), _) if !is_shown_by_status(&link.state) => Ok(()),
            (Some("invalid" | "token_required"), StateName::Invalid | StateName::TokenRequired) => Ok(()),
            (None | Some(_), _) => mismatch(state),
        }
    }
}

fn is_shown_by_status(state: &State) -> bool {
    state.episode().is_none_or(|episode| matches!(episode.cause, Cause::Credentials | Cause::Token))
}

//! What relink holds of each link once all troubles are over, and what Belvo says of it: what no webhook told, the sweeps have found.
//!
//! Not asked of what Belvo's status cannot show (README, "Guarantees"): a blocked account, an ended consent, an unsupported login.

use super::Checked;
use crate::link::{Cause, Link, State, StateName};

/// A link at rest.
pub(in crate::simulation) struct Truth<'a> {
    pub(in crate::simulation) name: &'a str,
    /// Belvo's status; nothing for a link that is gone.
    pub(in crate::simulation) status: Option<&'a str>,
    /// What relink holds of it.
    pub(in crate::simulation) held: Option<&'a Link>,
    /// Whether the calls have reached the Belvo of another customer for a while.
    pub(in crate::simulation) was_astray: bool,
}

impl Truth<'_> {
    pub(in crate::simulation) fn check(&self) -> Checked {
        let Self { name, status, held, was_astray } = *self;
        let said = |held: StateName| {
            let status = status.unwrap_or("nothing");
            Err(format!("Belvo says {status} of {name}, and relink holds it to be {}", held.as_str()))
        };
        let Some(held) = held else {
            return match status {
                Some(_) => Err(format!("relink has never heard of {name}")),
                None => Ok(()),
            };
        };
        let state = held.state.name();
        match (status, state) {
            (None, StateName::Removed) => Ok(()),
            // Up to ten links a job may believe to be deleted: README, "What it does not do (yet)".
            (Some(_), StateName::Removed) if was_astray => Ok(()),
            (Some("valid"), StateName::Valid) => Ok(()),
            (Some("valid"), _) if !is_shown_by_status(&held.state) => Ok(()),
            (Some("invalid" | "token_required"), StateName::Invalid | StateName::TokenRequired) => Ok(()),
            (None | Some(_), _) => said(state),
        }
    }
}

fn is_shown_by_status(state: &State) -> bool {
    state.episode().is_none_or(|episode| matches!(episode.cause, Cause::Credentials | Cause::Token))
}

//! The legal transitions as data.
//!
//! [`MOVES`] lists every pair of state and event that the machine accepts, with all states that it can lead to. A pair
//! that is not listed is refused. `relink machine` makes its drawings from this table, and a test compares the table
//! with the machine.

use super::{EventName, StateName};

/// One row of the table: a state, an event, and the states that the event can lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The state before.
    pub from: StateName,
    /// The event.
    pub on: EventName,
    /// The possible states after it, in the order of the variants of [`StateName`]. The state before may be one of them.
    pub to: &'static [StateName],
}

use EventName as E;
use StateName as S;

/// All legal transitions, in the order of the variants of [`StateName`] and [`EventName`].
///
/// A transition to the same state changes another field of the link, or has an effect. From `Unconfirmed` and `Valid`,
/// evidence leads to `Valid` if it is a suspicion, which is verified first, and to `Updating` if the user is in the
/// widget already. There is no transition out of `Removed`.
pub const MOVES: &[Move] = &[
    // Unconfirmed: relink knows only that the link exists, or that its creation was never finished.
    row(S::Unconfirmed, E::CredentialsRejected, &[S::Valid, S::Invalid, S::Updating]),
    row(S::Unconfirmed, E::TokenRequested, &[S::Valid, S::TokenRequired, S::Updating]),
    row(S::Unconfirmed, E::AccountBlocked, &[S::Valid, S::Invalid, S::Updating]),
    row(S::Unconfirmed, E::ConsentEnded, &[S::Valid, S::Invalid, S::Updating]),
    row(S::Unconfirmed, E::UnsupportedLogin, &[S::Valid, S::Invalid, S::Updating]),
    row(S::Unconfirmed, E::CreationUnfinished, &[S::Unconfirmed]),
    row(S::Unconfirmed, E::ConsentEnding, &[S::Valid]),
    row(S::Unconfirmed, E::ConsentChanged, &[S::Unconfirmed]),
    row(S::Unconfirmed, E::UpdateStarted, &[S::Unconfirmed]),
    row(S::Unconfirmed, E::UpdateClaimed, &[S::Unconfirmed, S::Valid]),
    row(S::Unconfirmed, E::UpdateAbandoned, &[S::Unconfirmed]),
    row(S::Unconfirmed, E::ObservedValid, &[S::Valid]),
    row(S::Unconfirmed, E::ObservedInvalid, &[S::Valid, S::Invalid, S::Updating]),
    row(S::Unconfirmed, E::ObservedTokenRequired, &[S::Valid, S::TokenRequired, S::Updating]),
    row(S::Unconfirmed, E::ObservedUnconfirmed, &[S::Unconfirmed]),
    row(S::Unconfirmed, E::ObservedMissing, &[S::Removed]),
    row(S::Unconfirmed, E::ObservedConsentAuthorised, &[S::Unconfirmed]),
    row(S::Unconfirmed, E::MissingReported, &[S::Unconfirmed]),
    row(S::Unconfirmed, E::DataArrived, &[S::Unconfirmed, S::Valid]),
    row(S::Unconfirmed, E::RefreshAccepted, &[S::Unconfirmed]),
    row(S::Unconfirmed, E::QuotaReached, &[S::Unconfirmed]),
    row(S::Unconfirmed, E::LinkDeleted, &[S::Removed]),
    row(S::Unconfirmed, E::Mute, &[S::Unconfirmed]),
    row(S::Unconfirmed, E::Unmute, &[S::Unconfirmed]),
    row(S::Unconfirmed, E::Snooze, &[S::Unconfirmed]),
    row(S::Unconfirmed, E::Verify, &[S::Unconfirmed]),
    row(S::Unconfirmed, E::Forget, &[S::Removed]),
    // Valid: the link works. A transition to `Valid` changes the suspicion or another field, or asks Belvo.
    row(S::Valid, E::CredentialsRejected, &[S::Valid, S::Invalid, S::Updating]),
    row(S::Valid, E::TokenRequested, &[S::Valid, S::TokenRequired, S::Updating]),
    row(S::Valid, E::AccountBlocked, &[S::Valid, S::Invalid, S::Updating]),
    row(S::Valid, E::ConsentEnded, &[S::Valid, S::Invalid, S::Updating]),
    row(S::Valid, E::UnsupportedLogin, &[S::Valid, S::Invalid, S::Updating]),
    row(S::Valid, E::ConsentEnding, &[S::Valid]),
    row(S::Valid, E::ConsentChanged, &[S::Valid]),
    row(S::Valid, E::UpdateStarted, &[S::Valid]),
    row(S::Valid, E::UpdateClaimed, &[S::Valid]),
    row(S::Valid, E::UpdateAbandoned, &[S::Valid]),
    row(S::Valid, E::ObservedValid, &[S::Valid]),
    row(S::Valid, E::ObservedInvalid, &[S::Valid, S::Invalid, S::Updating]),
    row(S::Valid, E::ObservedTokenRequired, &[S::Valid, S::TokenRequired, S::Updating]),
    row(S::Valid, E::ObservedMissing, &[S::Removed]),
    row(S::Valid, E::ObservedConsentAuthorised, &[S::Valid]),
    row(S::Valid, E::ObservedConsentEnded, &[S::Invalid, S::Updating]),
    row(S::Valid, E::MissingReported, &[S::Valid]),
    row(S::Valid, E::DataArrived, &[S::Valid]),
    row(S::Valid, E::RefreshAccepted, &[S::Valid]),
    row(S::Valid, E::QuotaReached, &[S::Valid]),
    row(S::Valid, E::LinkDeleted, &[S::Removed]),
    row(S::Valid, E::DeadlinePassed, &[S::Valid, S::Invalid, S::TokenRequired, S::Updating]),
    row(S::Valid, E::Mute, &[S::Valid]),
    row(S::Valid, E::Unmute, &[S::Valid]),
    row(S::Valid, E::Snooze, &[S::Valid]),
    row(S::Valid, E::Verify, &[S::Valid]),
    row(S::Valid, E::Forget, &[S::Removed]),
    // Invalid: the link is broken until its user repairs it.
    row(S::Invalid, E::CredentialsRejected, &[S::Invalid]),
    row(S::Invalid, E::TokenRequested, &[S::TokenRequired]),
    row(S::Invalid, E::AccountBlocked, &[S::Invalid]),
    row(S::Invalid, E::ConsentEnded, &[S::Invalid]),
    row(S::Invalid, E::UnsupportedLogin, &[S::Invalid]),
    row(S::Invalid, E::SessionExpired, &[S::Invalid]),
    row(S::Invalid, E::ConsentEnding, &[S::Invalid]),
    row(S::Invalid, E::ConsentChanged, &[S::Valid, S::Invalid, S::Updating]),
    row(S::Invalid, E::UpdateStarted, &[S::Updating]),
    row(S::Invalid, E::UpdateClaimed, &[S::Valid, S::Updating]),
    row(S::Invalid, E::ObservedValid, &[S::Valid, S::Invalid]),
    row(S::Invalid, E::ObservedInvalid, &[S::Invalid]),
    row(S::Invalid, E::ObservedTokenRequired, &[S::TokenRequired]),
    row(S::Invalid, E::ObservedMissing, &[S::Removed]),
    row(S::Invalid, E::ObservedConsentAuthorised, &[S::Valid, S::Invalid]),
    row(S::Invalid, E::ObservedConsentEnded, &[S::Invalid]),
    row(S::Invalid, E::MissingReported, &[S::Invalid]),
    row(S::Invalid, E::DataArrived, &[S::Valid, S::Invalid]),
    row(S::Invalid, E::RefreshAccepted, &[S::Invalid]),
    row(S::Invalid, E::QuotaReached, &[S::Invalid]),
    row(S::Invalid, E::LinkDeleted, &[S::Removed]),
    row(S::Invalid, E::DeadlinePassed, &[S::Invalid]),
    row(S::Invalid, E::Mute, &[S::Invalid]),
    row(S::Invalid, E::Unmute, &[S::Invalid]),
    row(S::Invalid, E::Snooze, &[S::Invalid]),
    row(S::Invalid, E::Verify, &[S::Invalid]),
    row(S::Invalid, E::Forget, &[S::Removed]),
    // Token required: the link is broken until its user gives a new MFA token.
    row(S::TokenRequired, E::CredentialsRejected, &[S::Invalid]),
    row(S::TokenRequired, E::TokenRequested, &[S::TokenRequired]),
    row(S::TokenRequired, E::AccountBlocked, &[S::Invalid]),
    row(S::TokenRequired, E::ConsentEnded, &[S::Invalid]),
    row(S::TokenRequired, E::UnsupportedLogin, &[S::Invalid]),
    row(S::TokenRequired, E::SessionExpired, &[S::TokenRequired]),
    row(S::TokenRequired, E::ConsentEnding, &[S::TokenRequired]),
    row(S::TokenRequired, E::ConsentChanged, &[S::TokenRequired]),
    row(S::TokenRequired, E::UpdateStarted, &[S::Updating]),
    row(S::TokenRequired, E::UpdateClaimed, &[S::Valid, S::Updating]),
    row(S::TokenRequired, E::ObservedValid, &[S::Valid]),
    row(S::TokenRequired, E::ObservedInvalid, &[S::Invalid]),
    row(S::TokenRequired, E::ObservedTokenRequired, &[S::TokenRequired]),
    row(S::TokenRequired, E::ObservedMissing, &[S::Removed]),
    row(S::TokenRequired, E::ObservedConsentAuthorised, &[S::TokenRequired]),
    row(S::TokenRequired, E::ObservedConsentEnded, &[S::Invalid]),
    row(S::TokenRequired, E::MissingReported, &[S::TokenRequired]),
    row(S::TokenRequired, E::DataArrived, &[S::Valid, S::TokenRequired]),
    row(S::TokenRequired, E::RefreshAccepted, &[S::TokenRequired]),
    row(S::TokenRequired, E::QuotaReached, &[S::TokenRequired]),
    row(S::TokenRequired, E::LinkDeleted, &[S::Removed]),
    row(S::TokenRequired, E::DeadlinePassed, &[S::TokenRequired]),
    row(S::TokenRequired, E::Mute, &[S::TokenRequired]),
    row(S::TokenRequired, E::Unmute, &[S::TokenRequired]),
    row(S::TokenRequired, E::Snooze, &[S::TokenRequired]),
    row(S::TokenRequired, E::Verify, &[S::TokenRequired]),
    row(S::TokenRequired, E::Forget, &[S::Removed]),
    // Updating: the user is repairing the link, or the repair is being verified.
    row(S::Updating, E::CredentialsRejected, &[S::Updating]),
    row(S::Updating, E::TokenRequested, &[S::Updating]),
    row(S::Updating, E::AccountBlocked, &[S::Updating]),
    row(S::Updating, E::ConsentEnded, &[S::Updating]),
    row(S::Updating, E::UnsupportedLogin, &[S::Updating]),
    row(S::Updating, E::SessionExpired, &[S::Invalid, S::TokenRequired, S::Updating]),
    row(S::Updating, E::ConsentEnding, &[S::Updating]),
    row(S::Updating, E::ConsentChanged, &[S::Valid, S::Updating]),
    row(S::Updating, E::UpdateStarted, &[S::Updating]),
    row(S::Updating, E::UpdateClaimed, &[S::Valid, S::Updating]),
    row(S::Updating, E::UpdateAbandoned, &[S::Invalid, S::TokenRequired, S::Updating]),
    row(S::Updating, E::ObservedValid, &[S::Valid, S::Invalid, S::Updating]),
    row(S::Updating, E::ObservedInvalid, &[S::Invalid, S::Updating]),
    row(S::Updating, E::ObservedTokenRequired, &[S::TokenRequired, S::Updating]),
    row(S::Updating, E::ObservedMissing, &[S::Removed]),
    row(S::Updating, E::ObservedConsentAuthorised, &[S::Valid, S::Updating]),
    row(S::Updating, E::ObservedConsentEnded, &[S::Invalid, S::Updating]),
    row(S::Updating, E::MissingReported, &[S::Updating]),
    row(S::Updating, E::DataArrived, &[S::Valid, S::Updating]),
    row(S::Updating, E::RefreshAccepted, &[S::Updating]),
    row(S::Updating, E::QuotaReached, &[S::Updating]),
    row(S::Updating, E::LinkDeleted, &[S::Removed]),
    row(S::Updating, E::DeadlinePassed, &[S::Invalid, S::TokenRequired, S::Updating]),
    row(S::Updating, E::Mute, &[S::Updating]),
    row(S::Updating, E::Unmute, &[S::Updating]),
    row(S::Updating, E::Snooze, &[S::Updating]),
    row(S::Updating, E::Verify, &[S::Updating]),
    row(S::Updating, E::Forget, &[S::Removed]),
];

const fn row(from: StateName, on: EventName, to: &'static [StateName]) -> Move {
    Move { from, on, to }
}

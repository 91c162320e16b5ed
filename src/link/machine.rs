//! The machine: which event moves a link where.
//!
//! ```text
//! unconfirmed    ──▶ valid, invalid, token_required, updating, removed
//! valid          ──▶ invalid, token_required, updating, removed
//! invalid        ──▶ valid, token_required, updating, removed
//! token_required ──▶ valid, invalid, updating, removed
//! updating       ──▶ valid, invalid, token_required, removed
//! removed        ──▶ nothing leads out of it
//! ```
//!
//! Leaving `valid` opens an episode: one outage, with one prompt. `updating` is an attempt to repair the link: its user is in
//! the widget, or Belvo is asked whether it worked. It always ends, by proof in `valid`, or where the cause belongs: in
//! `invalid` or `token_required`, the same episode, without a new prompt.
//!
//! The one prompt waits while the link is muted, or its institution has an incident (`incident`).
//!
//! [`step`] is the whole decision, and a pure one: no clock, no randomness, no I/O. The match in `next` has an arm for
//! every state and event; what each arm does is in `breaking`, `repair`, `refresh`, `renewal`, `reminder`, `upkeep` and `orders`.
//! [`super::table`] is the same thing as data; tests hold the two together.
//!
//! An event that cannot move the link is a [`Refusal`], never a silent nothing.

use super::draft::Draft;
use super::{Event, Input, Link, Policy, Refusal, Removal, State, Step, Timestamp};

/// Takes one event in.
///
/// `now` is when the event was heard; a `now` before the link's last step counts as that step's time.
///
/// # Errors
/// A [`Refusal`] says why the event changes nothing. The link is then exactly as it was.
pub fn step(link: &Link, input: &Input, now: Timestamp, policy: &Policy) -> Result<Step, Refusal> {
    let mut draft = Draft::of(link, input, now, policy);
    if let Some(key) = input.key {
        draft.refuse_repeat(key)?;
    }
    draft.learn(&input.profile);
    let event = input.event.read_by(draft.now);
    match next(&mut draft, &event) {
        Ok(state) => Ok(draft.accept(link, state, input.key)),
        // The message says nothing new of the state, but something of the link.
        Err(Refusal::AlreadyKnown) if draft.has_learnt(link) => Ok(draft.accept(link, link.state.clone(), input.key)),
        Err(refusal) => Err(refusal),
    }
}

/// The state after `event`, with effects and memory noted in the draft.
fn next(draft: &mut Draft<'_>, event: &Event) -> Result<State, Refusal> {
    use Event as E;
    use State as S;
    match (draft.state(), event) {
        // A tombstone refuses whatever comes, whatever it will be: late messages never revive a link.
        (S::Removed, _event) => Err(Refusal::Removed),

        // Nothing has been heard but that the link exists, or that its creation was never finished.
        (S::Unconfirmed, E::Broken(breakage)) => draft.break_unconfirmed(breakage),
        (S::Unconfirmed, E::CreationUnfinished) => draft.first_word(),
        (S::Unconfirmed, E::SessionExpired) => Err(Refusal::CreationOnly),
        (S::Unconfirmed, E::ConsentEnding) => draft.confirm_by_consent(),
        (S::Unconfirmed, E::ConsentChanged) => draft.ask(S::Unconfirmed),
        (S::Unconfirmed, E::ConsentObserved(seen)) => draft.hear_of_consent(*seen),
        (state @ S::Unconfirmed, E::UpdateStarted { until }) => draft.enter_widget(state, *until),
        (S::Unconfirmed, E::UpdateClaimed) => draft.claim_creation(),
        (state @ S::Unconfirmed, E::UpdateAbandoned) => draft.leave_widget(state),
        (S::Unconfirmed, E::Observed(seen)) => draft.observe_unconfirmed(seen),
        (S::Unconfirmed, E::DataArrived(data)) => draft.confirm_by_data(data),
        (S::Unconfirmed, E::RefreshAccepted) => Err(Refusal::AlreadyKnown),
        (state @ S::Unconfirmed, E::QuotaReached { of_refresh }) => draft.note_quota(state, *of_refresh),
        (S::Unconfirmed, E::DeadlinePassed) => Err(Refusal::NotDue),

        // It works.
        (S::Valid { suspicion }, E::Broken(breakage)) => draft.break_or_suspect(suspicion, breakage),
        (S::Valid { .. }, E::CreationUnfinished) => Err(Refusal::CreationOnly),
        (S::Valid { .. }, E::SessionExpired) => Err(Refusal::NotUpdating),
        (state @ S::Valid { .. }, E::ConsentEnding) => draft.announce_consent_end(state),
        (state @ S::Valid { .. }, E::ConsentChanged) => draft.move_consent_end(state),
        (S::Valid { suspicion }, E::ConsentObserved(seen)) => draft.observe_consent_while_valid(suspicion, *seen),
        (state @ S::Valid { .. }, E::UpdateStarted { until }) => draft.enter_widget(state, *until),
        (S::Valid { suspicion }, E::UpdateClaimed) => draft.claim_while_valid(suspicion),
        (state @ S::Valid { .. }, E::UpdateAbandoned) => draft.leave_widget(state),
        (S::Valid { suspicion }, E::Observed(seen)) => draft.observe_valid(suspicion, seen),
        (S::Valid { suspicion }, E::DataArrived(data)) => draft.take_data(suspicion, data),
        (state @ S::Valid { .. }, E::RefreshAccepted) => draft.note_refresh_accepted(state),
        (state @ S::Valid { .. }, E::QuotaReached { of_refresh }) => draft.note_quota(state, *of_refresh),
        (S::Valid { suspicion }, E::DeadlinePassed) => draft.pass_valid_deadline(suspicion),

        // It is broken, and its user has been told.
        (S::Invalid { episode } | S::TokenRequired { episode }, E::Broken(breakage)) => {
            draft.restate(episode, breakage)
        }
        (S::Invalid { .. } | S::TokenRequired { .. }, E::CreationUnfinished) => Err(Refusal::CreationOnly),
        (S::Invalid { episode } | S::TokenRequired { episode }, E::SessionExpired) => draft.drop_session(episode),
        (S::Invalid { .. } | S::TokenRequired { .. }, E::ConsentEnding) => Err(Refusal::AlreadyKnown),
        (S::Invalid { episode } | S::TokenRequired { episode }, E::ConsentChanged) => draft.claim_renewal(episode),
        (S::Invalid { episode } | S::TokenRequired { episode }, E::ConsentObserved(seen)) => {
            draft.observe_consent_while_broken(episode, *seen)
        }
        (S::Invalid { episode } | S::TokenRequired { episode }, E::UpdateStarted { until }) => {
            draft.start_update(episode, *until)
        }
        (S::Invalid { episode } | S::TokenRequired { episode }, E::UpdateClaimed) => draft.claim_repair(episode),
        (S::Invalid { .. } | S::TokenRequired { .. }, E::UpdateAbandoned) => Err(Refusal::NotUpdating),
        (S::Invalid { episode } | S::TokenRequired { episode }, E::Observed(seen)) => {
            draft.observe_broken(episode, seen)
        }
        (S::Invalid { episode } | S::TokenRequired { episode }, E::DataArrived(data)) => {
            draft.take_data_while_broken(episode, data)
        }
        (state @ (S::Invalid { .. } | S::TokenRequired { .. }), E::RefreshAccepted) => {
            draft.ask_or(state, Refusal::AlreadyKnown)
        }
        (state @ (S::Invalid { .. } | S::TokenRequired { .. }), E::QuotaReached { of_refresh }) => {
            draft.note_quota(state, *of_refresh)
        }
        (S::Invalid { episode } | S::TokenRequired { episode }, E::DeadlinePassed) => {
            draft.pass_broken_deadline(episode)
        }

        // Its user is at it, or says it is done.
        (S::Updating { episode, phase }, E::Broken(breakage)) => draft.restate_update(episode, phase, breakage),
        (S::Updating { .. }, E::CreationUnfinished) => Err(Refusal::CreationOnly),
        (S::Updating { episode, phase }, E::SessionExpired) => draft.end_attempt_by_session(episode, phase),
        (S::Updating { .. }, E::ConsentEnding) => Err(Refusal::AlreadyKnown),
        (S::Updating { episode, phase }, E::ConsentChanged) => draft.claim_renewal_while_updating(episode, phase),
        (S::Updating { episode, phase }, E::ConsentObserved(seen)) => {
            draft.observe_consent_while_updating(episode, phase, *seen)
        }
        (S::Updating { episode, phase }, E::UpdateStarted { until }) => draft.restart_update(episode, phase, *until),
        (S::Updating { episode, phase }, E::UpdateClaimed) => draft.claim_update(episode, phase),
        (S::Updating { episode, phase }, E::UpdateAbandoned) => draft.abandon(episode, phase),
        (S::Updating { episode, phase }, E::Observed(seen)) => draft.observe_update(episode, phase, seen),
        (S::Updating { episode, phase }, E::DataArrived(data)) => draft.take_data_while_updating(episode, phase, data),
        (S::Updating { .. }, E::RefreshAccepted) => Err(Refusal::AlreadyKnown),
        (state @ S::Updating { .. }, E::QuotaReached { of_refresh }) => draft.note_quota(state, *of_refresh),
        (S::Updating { episode, phase }, E::DeadlinePassed) => draft.pass_update_deadline(episode, phase),

        // The ends, and the operator, are the same from every living state.
        (state, E::LinkDeleted) => Ok(draft.remove(&state, Removal::Deleted)),
        (state, E::ObservedMissing) => Ok(draft.remove(&state, Removal::Missing)),
        (state, E::MissingReported) => draft.ask(state),
        (state, E::Command(command)) => draft.obey(state, *command),
    }
}

//! The machine: the state that each event leads to.
//!
//! ```text
//! unconfirmed    ──▶ valid, invalid, token_required, updating, removed
//! valid          ──▶ invalid, token_required, updating, removed
//! invalid        ──▶ valid, token_required, updating, removed
//! token_required ──▶ valid, invalid, updating, removed
//! updating       ──▶ valid, invalid, token_required, removed
//! removed        ──▶ (final)
//! ```
//!
//! - `unconfirmed`: relink knows only that the link exists, or that its creation was never finished.
//! - `valid`: the link works, as far as relink knows.
//! - `invalid`: the link does not work until its user acts, for example gives the new password.
//! - `token_required`: the link does not work until its user gives a new MFA token.
//! - `updating`: the user is in Belvo's widget to repair the link, or Belvo is being asked whether the repair
//!   succeeded.
//! - `removed`: the link is a tombstone; every later event is refused.
//!
//! When a link leaves `valid`, the machine opens an *episode*: one outage, with exactly one prompt to the user.
//! `updating` is an attempt to repair the link within that episode. Every attempt ends: in `valid` if there is proof
//! that the link works, else in `invalid` or `token_required`, whichever fits the cause; then the episode goes on, and
//! the user is not prompted again.
//!
//! The prompt of an episode is not sent while the link is muted (a *muted* prompt), while its institution has an
//! incident (a *deferred* prompt; see `incident`; `outage` has the notices about it), while its user may get no message
//! (*postponed*; see `asking`), or before a link that was never read has been read (*unidentified*; see `identity`).
//! The user of a *superseded* link has connected the bank anew, and is
//! neither prompted nor reminded (see `successor`).
//!
//! [`step`] is the entry point. It is pure: the same link, input, time and policy give the same result. The `match` in
//! `next` has an arm for every pair of state and event; the arms are methods in `breaking`, `repair`, `refresh`,
//! `renewal`, `reminder`, `creation`, `successor`, `upkeep` and `commands`. [`super::table`] lists the same transitions as data, and tests
//! compare the two.
//!
//! An event that changes nothing is answered with a [`Refusal`], so that the caller can record the reason.

use super::builder::TransitionBuilder;
use super::{Event, EventName, Held, Input, Link, Policy, Refusal, Removal, State, Step, Timestamp};

/// Applies one event to a link and returns the link afterwards, with the effects to perform.
///
/// `now` is when the event was received. A `now` before the link's last step counts as the time of that step, because
/// the time of a link never runs backwards.
///
/// # Errors
/// [`Refusal`]: the event changes nothing, for the reason that it names.
pub fn step(link: &Link, input: &Input, now: Timestamp, policy: &Policy) -> Result<Step, Refusal> {
    // Before the link is copied: Belvo repeats a webhook up to five times.
    if let Some(key) = input.key {
        link.refuse_repeat(key, now, policy)?;
    }
    let mut builder = TransitionBuilder::of(link, input, now, policy);
    builder.merge_profile(&input.profile);
    let event = input.event.bounded_by_receipt(builder.now);
    // An operator who says that the link is not superseded is right at that moment.
    let is_superseded = event.name() != EventName::Unsupersede && builder.note_successor();
    let (mut state, refusal) = match next(&mut builder, &event) {
        Ok(state) => (state, None),
        Err(refusal @ (Refusal::AlreadyKnown | Refusal::NotDue)) => {
            let is_message_dropped = is_superseded && event.name() == EventName::DeadlinePassed;
            builder.held = is_message_dropped.then_some(Held::Superseded);
            (builder.state(), Some(refusal))
        }
        Err(refusal) => return Err(refusal),
    };
    // A timer of the link may be too early for a notice about the institution too.
    let is_due =
        refusal != Some(Refusal::NotDue) || is_superseded || link.outage_deadline().is_some_and(|at| at <= builder.now);
    let is_notified = is_due && builder.follow_outage(link, &event, &mut state);
    // An event that does not change the state still counts if the link has a successor now, if its institution is announced as down or
    // restored, or if the message has a new profile field, such as the `external_id`.
    let counts =
        |refusal| is_superseded || is_notified || (refusal == Refusal::AlreadyKnown && builder.has_new_profile(link));
    if let Some(refusal) = refusal.filter(|refusal| !counts(*refusal)) {
        return Err(refusal);
    }
    let due = link.passed_deadline(builder.now, policy).filter(|_| event.name() == EventName::DeadlinePassed);
    Ok(Step { due, ..builder.accept(link, state, input.key) })
}

/// The state after `event`. Effects, and changes of the other fields of the link, are recorded in the builder.
fn next(builder: &mut TransitionBuilder<'_>, event: &Event) -> Result<State, Refusal> {
    use Event as E;
    use State as S;
    match (builder.state(), event) {
        // A tombstone refuses every event, so that a late message never revives a removed link.
        (S::Removed, _event) => Err(Refusal::Removed),

        // Unconfirmed: relink knows only that the link exists, or that its creation was never finished.
        (S::Unconfirmed, E::Broken(breakage)) => builder.break_unconfirmed(breakage),
        (S::Unconfirmed, E::CreationUnfinished) => builder.report_unfinished_creation(),
        (S::Unconfirmed, E::SessionExpired) => Err(Refusal::CreationOnly),
        (S::Unconfirmed, E::ConsentEnding) => builder.confirm_by_consent(),
        (S::Unconfirmed, E::ConsentChanged) => builder.request_verification_or_refuse(S::Unconfirmed),
        (S::Unconfirmed, E::ConsentObserved(seen)) => builder.observe_consent_while_unconfirmed(*seen),
        (state @ S::Unconfirmed, E::UpdateStarted { until }) => builder.enter_widget(state, *until),
        (S::Unconfirmed, E::UpdateClaimed) => builder.claim_creation(),
        (state @ S::Unconfirmed, E::UpdateAbandoned) => builder.leave_widget(state),
        (S::Unconfirmed, E::Observed(seen)) => builder.observe_unconfirmed(seen),
        (S::Unconfirmed, E::DataArrived(data)) => builder.confirm_by_data(data),
        (S::Unconfirmed, E::RefreshAccepted) => Err(Refusal::AlreadyKnown),
        (state @ S::Unconfirmed, E::QuotaReached { of_refresh }) => builder.note_quota(state, *of_refresh),
        (S::Unconfirmed, E::DeadlinePassed) => builder.pass_creation_deadline(),

        // Valid: the link works.
        (S::Valid { suspicion }, E::Broken(breakage)) => builder.break_or_suspect(suspicion, breakage),
        (S::Valid { .. }, E::CreationUnfinished) => Err(Refusal::CreationOnly),
        (S::Valid { .. }, E::SessionExpired) => Err(Refusal::NotUpdating),
        (state @ S::Valid { .. }, E::ConsentEnding) => builder.announce_consent_end(state),
        (state @ S::Valid { .. }, E::ConsentChanged) => builder.move_consent_end(state),
        (S::Valid { suspicion }, E::ConsentObserved(seen)) => builder.observe_consent_while_valid(suspicion, *seen),
        (state @ S::Valid { .. }, E::UpdateStarted { until }) => builder.enter_widget(state, *until),
        (S::Valid { suspicion }, E::UpdateClaimed) => builder.claim_while_valid(suspicion),
        (state @ S::Valid { .. }, E::UpdateAbandoned) => builder.leave_widget(state),
        (S::Valid { suspicion }, E::Observed(seen)) => builder.observe_valid(suspicion, seen),
        (S::Valid { suspicion }, E::DataArrived(data)) => builder.take_data(suspicion, data),
        (state @ S::Valid { .. }, E::RefreshAccepted) => builder.note_refresh_accepted(state),
        (state @ S::Valid { .. }, E::QuotaReached { of_refresh }) => builder.note_quota(state, *of_refresh),
        (S::Valid { suspicion }, E::DeadlinePassed) => builder.pass_valid_deadline(suspicion),

        // Invalid or token required: the link is broken, and nobody is repairing it.
        (S::Invalid { episode } | S::TokenRequired { episode }, E::Broken(breakage)) => {
            builder.refine(episode, breakage)
        }
        (S::Invalid { .. } | S::TokenRequired { .. }, E::CreationUnfinished) => Err(Refusal::CreationOnly),
        (S::Invalid { episode } | S::TokenRequired { episode }, E::SessionExpired) => builder.drop_session(episode),
        (S::Invalid { .. } | S::TokenRequired { .. }, E::ConsentEnding) => Err(Refusal::AlreadyKnown),
        (S::Invalid { episode } | S::TokenRequired { episode }, E::ConsentChanged) => builder.claim_renewal(episode),
        (S::Invalid { episode } | S::TokenRequired { episode }, E::ConsentObserved(seen)) => {
            builder.observe_consent_while_broken(episode, *seen)
        }
        (S::Invalid { episode } | S::TokenRequired { episode }, E::UpdateStarted { until }) => {
            builder.start_update(episode, *until)
        }
        (S::Invalid { episode } | S::TokenRequired { episode }, E::UpdateClaimed) => builder.claim_repair(episode),
        (S::Invalid { .. } | S::TokenRequired { .. }, E::UpdateAbandoned) => Err(Refusal::NotUpdating),
        (S::Invalid { episode } | S::TokenRequired { episode }, E::Observed(seen)) => {
            builder.observe_broken(episode, seen)
        }
        (S::Invalid { episode } | S::TokenRequired { episode }, E::DataArrived(data)) => {
            builder.take_data_while_broken(episode, data)
        }
        (state @ (S::Invalid { .. } | S::TokenRequired { .. }), E::RefreshAccepted) => {
            builder.request_verification_or(state, Refusal::AlreadyKnown)
        }
        (state @ (S::Invalid { .. } | S::TokenRequired { .. }), E::QuotaReached { of_refresh }) => {
            builder.note_quota(state, *of_refresh)
        }
        (S::Invalid { episode } | S::TokenRequired { episode }, E::DeadlinePassed) => {
            builder.pass_broken_deadline(episode)
        }

        // Updating: the user is repairing the link, or the repair is being verified.
        (S::Updating { episode, phase }, E::Broken(breakage)) => builder.refine_update(episode, phase, breakage),
        (S::Updating { .. }, E::CreationUnfinished) => Err(Refusal::CreationOnly),
        (S::Updating { episode, phase }, E::SessionExpired) => builder.end_attempt_by_session(episode, phase),
        (S::Updating { .. }, E::ConsentEnding) => Err(Refusal::AlreadyKnown),
        (S::Updating { episode, phase }, E::ConsentChanged) => builder.claim_renewal_while_updating(episode, phase),
        (S::Updating { episode, phase }, E::ConsentObserved(seen)) => {
            builder.observe_consent_while_updating(episode, phase, *seen)
        }
        (S::Updating { episode, phase }, E::UpdateStarted { until }) => builder.restart_update(episode, phase, *until),
        (S::Updating { episode, phase }, E::UpdateClaimed) => builder.claim_update(episode, phase),
        (S::Updating { episode, phase }, E::UpdateAbandoned) => builder.abandon(episode, phase),
        (S::Updating { episode, phase }, E::Observed(seen)) => builder.observe_update(episode, phase, seen),
        (S::Updating { episode, phase }, E::DataArrived(data)) => {
            builder.take_data_while_updating(episode, phase, data)
        }
        (S::Updating { .. }, E::RefreshAccepted) => Err(Refusal::AlreadyKnown),
        (state @ S::Updating { .. }, E::QuotaReached { of_refresh }) => builder.note_quota(state, *of_refresh),
        (S::Updating { episode, phase }, E::DeadlinePassed) => builder.pass_update_deadline(episode, phase),

        // Another link works in place of this one. Only a broken link can be superseded.
        (state, E::Superseded(seen)) => builder.end_by_successor(state, seen),
        (state, E::SuccessorNamed { link }) => builder.hear_of_successor(state, link),

        // The outage of an institution changes no state. `follow_outage` decides about its notices.
        (_state, E::OutageMet { .. }) => Err(Refusal::AlreadyKnown),

        // The end of the link, and an operator's commands, are the same for every state but `removed`.
        (state, E::LinkDeleted) => Ok(builder.remove(&state, Removal::Deleted)),
        (state, E::ObservedMissing) => Ok(builder.remove(&state, Removal::Missing)),
        // A mistyped id in a call of the application: there is no link that could have been deleted.
        (S::Unconfirmed, E::MissingReported) if builder.link.version == 0 => Err(Refusal::AlreadyKnown),
        (state, E::MissingReported) => builder.request_verification_or_refuse(state),
        (state, E::Command(command)) => builder.apply_command(state, *command),
    }
}

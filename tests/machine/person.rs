//! One person with several links: at most one message within the reminder pause, and no link is dropped. `Family` does what the engine does
//! with the circumstance of an input; the properties look only at the messages and the states.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use relink::link::{
    Breakage, Cause, Command, Effect, Event, InstitutionNotices, Link, Need, Notice, PERSON_LINKS_MAX, PolicySettings,
    Prompt, State, Status, Timestamp, UpdatePhase,
};

use crate::family::{Family, Message};
use crate::scene::rejected;
use crate::world::{DAY, HOUR, MINUTE, START, shift};

#[derive(Clone, Debug)]
enum Action {
    Breaks(Cause),
    Works,
    Starts,
    Leaves,
    Commands(Command),
    ConsentEnds { after: i64 },
    ConsentEnding,
    BankIsDown(bool),
    UserMeetsOutage,
    Deadline { late: i64 },
}

fn actions() -> impl Strategy<Value = Vec<(Index, Action, i64)>> {
    let cause = select(&[Cause::Credentials, Cause::Token, Cause::ConsentEnded, Cause::Unsupported][..]);
    let command = select(&[Command::Mute, Command::Unmute, Command::Unmute, Command::Verify, Command::Release][..]);
    let action = prop_oneof![
        6 => cause.prop_map(Action::Breaks),
        3 => Just(Action::Works),
        1 => Just(Action::Starts),
        1 => Just(Action::Leaves),
        1 => command.prop_map(Action::Commands),
        2 => (HOUR..40 * DAY).prop_map(|after| Action::ConsentEnds { after }),
        1 => Just(Action::ConsentEnding),
        2 => any::<bool>().prop_map(Action::BankIsDown),
        1 => Just(Action::UserMeetsOutage),
        8 => prop_oneof![Just(0), 0..2 * DAY].prop_map(|late| Action::Deadline { late }),
    ];
    // The inputs of two partitions are not in the order of their times.
    let millis = prop_oneof![4 => 0..HOUR, 2 => 0..2 * DAY, 1 => -MINUTE..0];
    vec((any::<Index>(), action, millis), 1..60)
}

fn settings() -> impl Strategy<Value = PolicySettings> {
    let hours = proptest::option::of(Just("22:00-08:00".parse().unwrap()));
    let pause = select(&[HOUR, DAY, 3 * DAY][..]);
    let notices = select(&[InstitutionNotices::Off, InstitutionNotices::Repair, InstitutionNotices::All][..]);
    (any::<bool>(), hours, pause, notices).prop_map(|(can_verify, quiet_hours, pause, institution_notices)| {
        PolicySettings {
            can_verify,
            quiet_hours,
            institution_notices,
            reminder_pause: Duration::from_millis(pause.unsigned_abs()),
            ..PolicySettings::default()
        }
    })
}

/// When the token expires with which the user repairs the link.
fn in_widget_until(link: &Link) -> Option<Timestamp> {
    match link.state {
        State::Updating { phase: UpdatePhase::WithUser { until, .. }, .. } => Some(until),
        _ => link.widget_until,
    }
}

/// Whether the prompt of the link waits for an answer of Belvo, or for the end of an incident.
fn is_undecided(link: &Link) -> bool {
    link.awaits_user()
        .is_some_and(|episode| matches!(episode.prompt, Prompt::Deferred { .. } | Prompt::Unidentified { .. }))
}

/// How long a widget, or an answer about another link, may keep back the message. `None`: the message is about an outage that has just begun.
fn widget_wait_end(before: &Link, notice: &Notice, pause: Duration) -> Option<Timestamp> {
    let episode = before.state.episode();
    match notice {
        Notice::Reminder { .. } => {
            let episode = episode.expect("an outage");
            episode.remind_by.or(episode.next_reminder_at.map(|due_at| due_at.after(pause)))
        }
        Notice::ConsentExpiring { due_at, rung } => due_at.zip(*rung).map(|(at, rung)| at.before(rung).after(pause)),
        _ => episode.map(|episode| episode.remind_by.unwrap_or(Timestamp::LATEST)),
    }
}

/// Takes the action, and checks what it has led to.
fn act(family: &mut Family, which: usize, action: &Action, millis: i64) -> Result<(), TestCaseError> {
    family.wait(millis);
    let before = family.links.clone();
    let known = family.messages.len();
    match action {
        Action::Breaks(cause) => drop(family.receive(which, Event::Broken(Breakage::of(*cause)))),
        Action::Works => family.observe(which, Status::Valid),
        Action::Starts => drop(family.receive(which, Event::UpdateStarted { until: shift(family.now, 10 * MINUTE) })),
        Action::Leaves => drop(family.receive(which, Event::UpdateAbandoned)),
        Action::Commands(command) => drop(family.receive(which, Event::Command(*command))),
        Action::ConsentEnds { after } => family.ends(which, *after),
        Action::ConsentEnding => drop(family.receive(which, Event::ConsentEnding)),
        Action::BankIsDown(is_down) => family.is_down = *is_down,
        Action::UserMeetsOutage => drop(family.receive(0, Event::OutageMet { by_user: true })),
        Action::Deadline { late } => drop(family.pass_deadline(*late)),
    }
    let pause = family.policy.settings().reminder_pause;
    for (number, message) in family.messages.iter().enumerate().skip(known) {
        if matches!(message.notice, Notice::InstitutionRestored { .. }) {
            // relink has promised it. Messages after it wait for the pause. It asks for nothing that a message of this moment asks for.
            let about = family.links[message.about].id.as_str();
            let asks_too = |one: &&Message| one.at == message.at && one.mentioned.iter().any(|(id, _)| id == about);
            let earlier = family.messages[..number].iter().find(asks_too);
            prop_assert!(earlier.is_none(), "{message:?} {earlier:?}");
            let last = family.messages[..number].iter().rfind(|one| one.about != message.about);
            let last = last.filter(|last| message.at < last.at.after(pause));
            let number = before[message.about].state.episode().map(|episode| episode.number);
            let is_own = |(id, need): &(String, Need)| {
                id == about && matches!(need, Need::Repair { episode, .. } if Some(*episode) == number)
            };
            prop_assert!(!last.is_some_and(|last| last.mentioned.iter().any(is_own)), "{message:?} {last:?}");
            let others = before.iter().enumerate().filter(|(other, _)| *other != message.about);
            let is_up = |link: &Link| !family.is_bank_down(link.profile.institution.as_deref());
            let undecided = others.map(|(_, link)| link).find(|link| is_undecided(link) && is_up(link));
            prop_assert!(undecided.is_none(), "{message:?} {undecided:?}");
            continue;
        }
        let earlier = family.messages[..number].iter().map(|earlier| earlier.at).max();
        prop_assert!(earlier.is_none_or(|at| message.at >= at.after(pause)), "{:?}", family.messages);
        // A user who leaves the widget with this action is prompted by it.
        let is_in_widget = |link: &Link| in_widget_until(link).is_some_and(|until| message.at < until);
        let in_widget =
            before.iter().zip(&family.links).any(|(before, after)| is_in_widget(before) && is_in_widget(after));
        if in_widget {
            let latest = widget_wait_end(&before[message.about], &message.notice, pause);
            prop_assert!(latest.is_none_or(|latest| message.at >= latest), "{message:?} {before:?}");
        }
        // A message waits for Belvo's answer about another broken link, so that it can mention that one.
        let is_up = |link: &Link| !family.is_bank_down(link.profile.institution.as_deref());
        let mut others = before.iter().enumerate().filter(|(other, _)| *other != message.about).map(|(_, link)| link);
        if let Some(undecided) = others.find(|link| is_undecided(link) && is_up(link)) {
            let latest = widget_wait_end(&before[message.about], &message.notice, pause);
            prop_assert!(latest.is_none_or(|latest| message.at >= latest), "{message:?} {undecided:?}");
        }
        let mut broken: Vec<_> = family.links.iter().enumerate().filter(|(other, _)| *other != message.about).collect();
        broken.retain(|(_, link)| {
            let is_asked = |prompt| matches!(prompt, Prompt::Sent | Prompt::Postponed { .. });
            let at_rest = matches!(link.state, State::Invalid { .. } | State::TokenRequired { .. });
            let episode = link.state.episode().filter(|_| at_rest && !link.muted && is_up(link));
            episode.is_some_and(|episode| is_asked(episode.prompt) && episode.cause != Cause::Unsupported)
        });
        let is_mentioned = |link: &Link| message.mentioned.iter().any(|(id, _)| id == link.id.as_str());
        prop_assert!(broken.iter().all(|(_, link)| is_mentioned(link)), "{message:?}");
    }
    // A prompt or a reminder that counts without a message of its own.
    for (which, link) in family.links.iter().enumerate() {
        let counted =
            |link: &Link| link.state.episode().map_or((0, 0), |episode| (episode.number.0, episode.prompts_count()));
        let has_own = family.messages[known..].iter().any(|message| message.about == which);
        if counted(link) > counted(&before[which]) && counted(link).1 > 0 && !has_own {
            let is_of_user = link.state.episode().is_some_and(|episode| episode.cause.user_can_act());
            prop_assert!(!is_of_user || family.has_heard(which), "{:?} {:?}", link.state, family.messages);
            // A mention of the outage counts as its prompt at any time, and as a reminder within the pause.
            let last_at = family.messages.iter().map(|message| message.at).max();
            let is_prompt = counted(link).1 == 1;
            prop_assert!(is_prompt || !is_of_user || last_at.is_some_and(|at| link.updated_at < at.after(pause)));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_person_gets_one_message_in_a_pause_and_no_link_is_dropped(settings in settings(), count in 1..5usize, actions in actions()) {
        let mut family = Family::new(settings, count);
        for (which, action, millis) in &actions {
            act(&mut family, which.index(count), action, *millis)?;
        }
        family.is_down = false;
        // Every wait ends: each broken link is in a message, although nothing but time passes.
        for _ in 0..500 {
            let is_waiting = |link: &Link| {
                let is_held = |prompt| matches!(prompt, Prompt::Postponed { .. } | Prompt::Deferred { .. });
                link.state.episode().is_some_and(|episode| is_held(episode.prompt))
            };
            if !family.links.iter().any(is_waiting) {
                break;
            }
            act(&mut family, 0, &Action::Deadline { late: 0 }, 0)?;
        }
        for which in 0..count {
            let at_rest = matches!(family.links[which].state, State::Invalid { .. } | State::TokenRequired { .. });
            if at_rest && !family.links[which].muted {
                prop_assert_eq!(family.prompt(which), Prompt::Sent);
                let episode = family.links[which].state.episode().unwrap();
                // A cause that the user can do something about was found after the application was informed: a reminder follows.
                let is_reminded = family.informed.contains(&(which, episode.number)) && episode.next_reminder_at.is_some();
                let has_heard = family.has_heard(which) || is_reminded || !episode.cause.user_can_act();
                prop_assert!(has_heard, "{:?}", family.messages);
            }
        }
    }

    #[test]
    fn without_the_rule_each_link_is_a_person_of_its_own(settings in settings(), actions in actions()) {
        let mut family = Family::new(PolicySettings { per_person: false, ..settings }, 3);
        for (which, action, millis) in &actions {
            family.wait(*millis);
            let which = which.index(3);
            match action {
                Action::Breaks(cause) => drop(family.receive(which, Event::Broken(Breakage::of(*cause)))),
                Action::Works => family.observe(which, Status::Valid),
                _ => drop(family.pass_deadline(0)),
            }
        }
        prop_assert!(family.messages.iter().all(|message| message.mentioned.is_empty()));
    }
}

pub(crate) fn person_with(count: usize) -> Family {
    Family::new(PolicySettings { can_verify: true, ..PolicySettings::default() }, count)
}

#[test]
fn a_second_link_that_breaks_is_in_the_next_message() {
    let mut family = person_with(2);
    family.receive(0, rejected());
    family.wait(HOUR);
    family.receive(1, rejected());
    assert_eq!((family.sent(), family.prompt(1)), (vec![(0, 0)], Prompt::Postponed { until: shift(START, DAY) }));
    // A day after the prompt, the reminder of the first link is due, and the prompt of the second.
    family.pass_deadline(0);
    family.pass_deadline(0);
    assert_eq!((family.sent(), family.now), (vec![(0, 0), (0, 1)], shift(START, DAY)));
    assert_eq!(family.prompt(1), Prompt::Sent, "the reminder mentioned the second link");
    assert!(matches!(family.messages[1].notice, Notice::Reminder { number: 1 }));
    // Its own reminders go on a pause later.
    assert!(family.links[1].deadline(&family.policy) >= Some(shift(START, 2 * DAY)));
}

#[test]
fn the_message_that_a_bank_is_back_begins_the_pause_and_mentions_the_other_links() {
    let mut family = Family::new(
        PolicySettings {
            can_verify: true,
            institution_notices: InstitutionNotices::Repair,
            ..PolicySettings::default()
        },
        3,
    );
    family.receive(0, rejected());
    family.wait(HOUR);
    family.receive(1, rejected());
    family.is_down = true;
    family.receive(0, Event::OutageMet { by_user: true });
    family.is_down = false;
    family.pass_deadline(0);
    assert_eq!(family.sent(), [(0, 0), (0, 1)], "the bank is back: the second message, which mentions the second link");
    assert!(matches!(family.messages[1].notice, Notice::InstitutionRestored { asks: true, .. }));
    let restored_at = family.now;
    family.wait(HOUR);
    family.receive(2, rejected());
    assert_eq!(family.prompt(2), Prompt::Postponed { until: shift(restored_at, DAY) });
    // The second link is not asked for by a message of its own.
    while family.prompt(1) != Prompt::Sent && family.pass_deadline(0) {}
    assert_eq!(family.sent().len(), 2);
}

#[test]
fn an_outage_that_nobody_can_repair_is_no_message_and_has_no_reminders() {
    let mut family = person_with(2);
    let stepped = family.receive(0, Event::Broken(Breakage::of(Cause::Unsupported))).unwrap();
    let is_prompt = |effect: &Effect| matches!(effect, Effect::Notice { notice: Notice::UpdateRequired, .. });
    assert!(stepped.effects.iter().any(is_prompt), "the application is informed");
    family.wait(HOUR);
    family.receive(1, rejected());
    assert_eq!(family.sent(), [(1, 0)], "the prompt of the other link does not wait");
    while family.now < shift(START, 40 * DAY) && family.pass_deadline(0) {}
    assert!(family.messages.iter().all(|message| message.about == 1 && message.mentioned.is_empty()));
}

#[test]
fn a_link_that_works_again_in_time_is_in_no_message() {
    let mut family = person_with(2);
    family.receive(0, rejected());
    family.wait(HOUR);
    family.receive(1, rejected());
    family.wait(HOUR);
    family.observe(1, Status::Valid);
    while family.now < shift(START, 10 * DAY) && family.pass_deadline(0) {}
    assert!(family.messages.iter().all(|message| message.about == 0 && message.mentioned.is_empty()));
}

#[test]
fn a_link_that_breaks_again_and_again_prompts_once_in_a_pause() {
    let mut family = person_with(1);
    for _ in 0..5 {
        family.receive(0, rejected());
        family.wait(HOUR);
        family.observe(0, Status::Valid);
        family.wait(HOUR);
    }
    assert_eq!((family.sent(), family.links[0].episodes_count), (vec![(0, 0)], 5));
    // The last outage goes on: its user gets a message about it when the pause is over.
    family.receive(0, rejected());
    family.pass_deadline(0);
    assert_eq!((family.sent().len(), family.now), (2, shift(START, DAY)));
    assert_eq!(family.messages[1].notice, Notice::UpdateRequired);
}

#[test]
fn a_mention_says_nothing_about_a_later_outage() {
    let mut family = person_with(2);
    family.receive(0, rejected());
    family.wait(HOUR);
    family.receive(1, rejected());
    family.pass_deadline(0);
    assert_eq!(family.sent(), [(0, 0), (0, 1)]);
    // The user repairs both links, and the second one breaks again.
    family.observe(0, Status::Valid);
    family.observe(1, Status::Valid);
    family.wait(2 * HOUR);
    family.receive(1, rejected());
    assert!(matches!(family.prompt(1), Prompt::Postponed { .. }));
    while family.messages.len() < 3 && family.pass_deadline(0) {}
    assert_eq!((family.messages[2].about, family.now), (1, shift(START, 2 * DAY)));
}

#[test]
fn a_person_who_is_repairing_one_link_gets_no_message_about_another_one() {
    let mut family = person_with(2);
    family.receive(0, rejected());
    family.wait(DAY - MINUTE);
    family.receive(0, Event::UpdateStarted { until: shift(family.now, 10 * MINUTE) });
    family.wait(2 * MINUTE);
    family.receive(1, rejected());
    assert_eq!(family.prompt(1), Prompt::Postponed { until: shift(START, DAY + 9 * MINUTE) }, "the token expires then");
    family.observe(0, Status::Valid);
    family.pass_deadline(0);
    assert_eq!((family.sent(), family.now), (vec![(0, 0), (1, 0)], shift(START, DAY + 9 * MINUTE)));
}

#[test]
fn a_user_in_the_portal_gets_no_notice_about_the_end_of_the_consent() {
    let mut family = person_with(1);
    family.ends(0, 30 * DAY + MINUTE);
    // The user renews the consent in My Belvo Portal.
    family.receive(0, Event::UpdateStarted { until: shift(START, 10 * MINUTE) });
    while family.messages.is_empty() && family.pass_deadline(0) {}
    assert_eq!(family.now, shift(START, 10 * MINUTE));
    assert!(matches!(family.messages[0].notice, Notice::ConsentExpiring { .. }));
}

#[test]
fn a_link_that_the_user_has_replaced_is_in_no_message() {
    let mut family = person_with(3);
    for (link, created) in [(0, -HOUR), (1, 0)] {
        let profile = &mut family.links[link].profile;
        (profile.institution, profile.institution_user_id) = (Some("bank".to_owned()), Some("login".to_owned()));
        profile.created_at = Some(shift(START, created));
    }
    family.observe(1, Status::Valid);
    // `Family` looks for no successor, as if the look-up of the new link had been lost.
    family.receive(0, rejected());
    family.wait(2 * DAY);
    family.receive(2, rejected());
    assert_eq!(family.sent(), [(0, 0), (2, 0)]);
}

#[test]
fn an_application_that_mints_tokens_without_end_silences_nobody() {
    let mut family = person_with(2);
    family.receive(0, rejected());
    family.observe(0, Status::Valid);
    family.wait(2 * DAY);
    // A page mints a token for the first link every five minutes.
    let mint = |family: &mut Family| family.receive(0, Event::UpdateStarted { until: shift(family.now, 10 * MINUTE) });
    mint(&mut family);
    family.receive(1, rejected());
    let begun_at = family.now;
    let pass = |family: &mut Family, until: i64| {
        while family.now < shift(begun_at, until) {
            family.wait(5 * MINUTE);
            mint(family);
            while family.links[1].deadline(&family.policy).is_some_and(|at| at <= family.now) {
                family.receive(1, Event::DeadlinePassed);
            }
        }
    };
    pass(&mut family, DAY - HOUR);
    assert_eq!(family.messages.len(), 1);
    pass(&mut family, DAY);
    assert_eq!((family.messages.len(), family.prompt(1)), (2, Prompt::Sent));
    // The reminder is due a day later, and waits a day at most.
    pass(&mut family, 3 * DAY + HOUR);
    let reminder = &family.messages[2];
    assert_eq!((reminder.about, &reminder.notice), (1, &Notice::Reminder { number: 1 }));
}

#[test]
fn a_mention_counts_until_the_quiet_hours_of_the_mentioned_link_end() {
    let quiet_hours = Some("22:00-08:00".parse().unwrap());
    let reminder_pause = Duration::from_secs(3600);
    let mut family = Family::new(PolicySettings { quiet_hours, reminder_pause, ..PolicySettings::default() }, 2);
    for (link, institution) in ["bank_br_retail", "bank_mx_retail"].into_iter().enumerate() {
        family.links[link].profile.institution = Some(institution.to_owned());
    }
    // In Mexico City it is 5 o'clock, three hours before the end of quiet hours; in São Paulo it is 8.
    family.now = "2026-12-01T11:00:00Z".parse().unwrap();
    family.receive(1, rejected());
    family.receive(0, rejected());
    assert_eq!(family.sent(), [(0, 1)], "the message mentions the link in Mexico");
    let until = "2026-12-01T14:00:00Z".parse().unwrap();
    assert_eq!(family.prompt(1), Prompt::Postponed { until });
    family.now = until;
    family.receive(1, Event::DeadlinePassed);
    assert_eq!((family.sent().len(), family.prompt(1)), (1, Prompt::Sent));
}

#[test]
fn two_consents_that_end_on_one_day_are_in_one_notice() {
    let mut family = person_with(2);
    family.ends(0, 31 * DAY);
    family.ends(1, 31 * DAY + HOUR);
    for rungs in 1..=3 {
        while family.messages.len() < rungs && family.pass_deadline(0) {}
        family.pass_deadline(0);
    }
    assert_eq!(family.sent(), [(0, 1), (0, 1), (0, 1)]);
    let rungs = family.links.iter().map(|link| link.profile.consent.as_ref().unwrap().rung);
    assert!(rungs.into_iter().all(|rung| rung == Some(Duration::from_secs(86_400))));
}

#[test]
fn a_consent_that_may_not_be_announced_yet_is_announced_after_the_pause_or_has_ended() {
    let mut family = person_with(2);
    family.receive(0, rejected());
    // The message of Belvo has no date, so there is no mention of this consent.
    family.receive(1, Event::ConsentEnding);
    assert_eq!(family.sent(), [(0, 0)]);
    family.observe(0, Status::Valid);
    while family.messages.len() < 2 && family.pass_deadline(0) {}
    assert_eq!((family.messages[1].about, family.now), (1, shift(START, DAY)));
    // A consent that ends within the pause is reported by its outage.
    let mut family = person_with(2);
    family.receive(0, rejected());
    family.observe(0, Status::Valid);
    family.ends(1, 2 * HOUR);
    while family.messages.len() < 2 && family.pass_deadline(0) {}
    assert_eq!((family.messages[1].notice.clone(), family.now), (Notice::UpdateRequired, shift(START, DAY)));
}

#[test]
fn an_external_id_of_very_many_links_is_no_person() {
    for (count, messages) in [(PERSON_LINKS_MAX, 1), (PERSON_LINKS_MAX + 1, 2)] {
        let mut family = person_with(count);
        family.receive(0, rejected());
        family.receive(1, rejected());
        assert_eq!(family.messages.len(), messages, "{count} links");
    }
}

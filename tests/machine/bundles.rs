//! What breaks together is in one message: the links of one person that wait for Belvo's answer after an outage of their bank.

use std::time::Duration;

use relink::link::{Command, Event, Held, InstitutionNotices, Notice, PolicySettings, Prompt, Status, Timestamp};

use crate::family::{Family, Message};
use crate::scene::rejected;
use crate::world::{DAY, HOUR, MINUTE, START, shift};

/// Links of one person at one bank. They have broken while it was down, a minute apart, and it works again.
fn after_an_outage(settings: PolicySettings, count: usize) -> Family {
    let mut family = Family::new(settings, count);
    for link in 1..count {
        family.links[link].profile.institution = family.links[0].profile.institution.clone();
    }
    family.is_down = true;
    for link in 0..count {
        family.receive(link, rejected());
        assert!(matches!(family.prompt(link), Prompt::Deferred { .. }));
        family.wait(MINUTE);
    }
    family.is_down = false;
    family
}

fn can_verify() -> PolicySettings {
    PolicySettings { can_verify: true, ..PolicySettings::default() }
}

/// Belvo answers each question at once.
fn pass_time(family: &mut Family, status: Status, is_over: impl Fn(&Family) -> bool) {
    while !is_over(family) && family.pass_deadline(0) {
        for link in 0..family.links.len() {
            let is_asked = |prompt| matches!(prompt, Prompt::Deferred { asked_at: Some(_), .. });
            if family.links[link].awaits_user().is_some_and(|episode| is_asked(episode.prompt)) {
                family.observe(link, status);
            }
        }
    }
}

#[test]
fn links_that_one_outage_has_broken_are_in_one_message() {
    for settings in [can_verify(), PolicySettings::default()] {
        let mut family = after_an_outage(settings, 3);
        pass_time(&mut family, Status::Invalid, |family| family.now > shift(START, HOUR));
        assert_eq!(family.sent().first().map(|(_, mentioned)| *mentioned), Some(2), "{:?}", family.messages);
        let of_outage: Vec<_> = family.messages.iter().filter(|message| message.at < shift(START, HOUR)).collect();
        assert_eq!(of_outage.len(), 1, "{of_outage:?}");
        assert!((0..3).all(|link| family.prompt(link) == Prompt::Sent), "each outage counts as prompted");
    }
}

#[test]
fn a_link_that_works_again_is_not_waited_for_without_end_and_not_mentioned() {
    let mut family = after_an_outage(can_verify(), 2);
    family.pass_deadline(0);
    family.observe(0, Status::Invalid);
    assert!(family.messages.is_empty(), "the second link is asked about a minute later");
    family.pass_deadline(0);
    family.observe(1, Status::Valid);
    family.pass_deadline(0);
    assert_eq!(family.sent(), [(0, 0)]);
    assert!(family.now < shift(START, 15 * MINUTE), "{:?}", family.now);
}

#[test]
fn an_answer_that_never_comes_keeps_nothing_back_for_ever() {
    let mut family = after_an_outage(can_verify(), 2);
    family.pass_deadline(0);
    family.observe(0, Status::Invalid);
    while family.messages.is_empty() && family.pass_deadline(0) {}
    // The second link is prompted without an answer, and the message is about both.
    assert_eq!(family.sent(), [(1, 1)]);
    assert!(family.now < shift(START, HOUR), "{:?}", family.now);
}

#[test]
fn a_bank_that_stays_down_keeps_back_only_its_own_links() {
    let mut family = Family::new(can_verify(), 2);
    family.is_down = true;
    family.receive(0, rejected());
    family.receive(1, rejected());
    assert_eq!(family.sent(), [(1, 0)], "the bank of the second link works");
}

#[test]
fn a_bank_that_goes_up_and_down_keeps_a_message_back_for_a_pause_at_most() {
    let reminder_pause = Duration::from_secs(3600);
    let mut family = Family::new(PolicySettings { reminder_pause, ..can_verify() }, 2);
    family.is_down = true;
    family.receive(0, rejected());
    family.is_down = false;
    let held = family.receive(1, rejected()).and_then(|step| step.held);
    let begun_at = family.now;
    while family.messages.is_empty() && family.now < shift(begun_at, DAY) {
        family.wait(MINUTE);
        // The bank is down whenever the first link is due, and works whenever the second one is.
        for link in 0..2 {
            family.is_down = link == 0;
            if family.links[link].deadline(&family.policy).is_some_and(|at| at <= family.now) {
                family.receive(link, Event::DeadlinePassed);
            }
        }
    }
    assert_eq!(held, Some(Held::OtherAnswer));
    assert_eq!((family.sent(), family.now), (vec![(1, 0)], shift(begun_at, HOUR)));
}

#[test]
fn an_operator_who_releases_a_prompt_in_an_outage_waits_for_no_other_link() {
    let mut family = Family::new(can_verify(), 2);
    family.links[1].profile.institution = family.links[0].profile.institution.clone();
    family.is_down = true;
    family.receive(0, rejected());
    family.receive(1, rejected());
    family.receive(1, Event::Command(Command::Release));
    assert_eq!(family.sent(), [(1, 0)]);
}

/// Two links of one person at one bank. The user was prompted for the first one, and looks at its page while the bank is down; the second
/// one breaks then.
fn with_a_promise() -> Family {
    let institution_notices = InstitutionNotices::Repair;
    let reminder_pause = Duration::from_secs(3600);
    let mut family = Family::new(PolicySettings { institution_notices, reminder_pause, ..can_verify() }, 2);
    family.links[1].profile.institution = family.links[0].profile.institution.clone();
    family.receive(0, rejected());
    family.wait(2 * HOUR);
    family.is_down = true;
    family
}

/// The messages of the next half hour.
fn messages_within(family: &Family, begun_at: Timestamp) -> Vec<&Message> {
    family.messages.iter().filter(|message| (begun_at..shift(begun_at, 30 * MINUTE)).contains(&message.at)).collect()
}

fn restored(family: &Family) -> Vec<(usize, usize)> {
    let is_restored = |message: &&Message| matches!(message.notice, Notice::InstitutionRestored { .. });
    family.messages.iter().filter(is_restored).map(|message| (message.about, message.mentioned.len())).collect()
}

#[test]
fn the_message_that_a_bank_is_back_waits_for_the_answer_about_the_other_link() {
    let mut family = with_a_promise();
    family.receive(0, Event::OutageMet { by_user: true });
    family.wait(3_000);
    family.receive(1, rejected());
    family.is_down = false;
    let begun_at = family.now;
    pass_time(&mut family, Status::Invalid, |family| family.now > shift(begun_at, 30 * MINUTE));
    let of_outage = messages_within(&family, begun_at);
    assert_eq!(of_outage.len(), 1, "{of_outage:?}");
    assert_eq!(of_outage[0].mentioned.len(), 1, "it is about both links");
}

#[test]
fn a_bank_that_is_back_asks_for_nothing_that_a_message_has_just_asked_for() {
    let mut family = with_a_promise();
    family.receive(1, rejected());
    family.wait(3_000);
    family.receive(0, Event::OutageMet { by_user: true });
    family.is_down = false;
    let begun_at = family.now;
    pass_time(&mut family, Status::Invalid, |family| family.now > shift(begun_at, 30 * MINUTE));
    assert_eq!(restored(&family), []);
    let of_outage = messages_within(&family, begun_at);
    assert_eq!(of_outage.len(), 1, "{of_outage:?}");
}

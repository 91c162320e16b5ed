//! Messages about several links of one person that are due in one moment, or that wait for several things.

use std::time::Duration;

use relink::link::{Event, InstitutionNotices, Notice, PolicySettings, Prompt};

use crate::family::Family;
use crate::person::person_with;
use crate::scene::rejected;
use crate::world::{DAY, HOUR, MINUTE, START, shift};

/// The first reminder may be due before the end of the pause after the message that counted as the prompt.
#[test]
fn a_mention_counts_once() {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let settings =
        PolicySettings { can_verify: true, reminders: vec![hours(1), hours(48)], ..PolicySettings::default() };
    let mut family = Family::new(settings, 2);
    family.receive(0, rejected());
    family.wait(HOUR);
    family.receive(1, rejected());
    let counted = |family: &Family| {
        let episode = family.links[1].state.episode().unwrap();
        (episode.prompt, episode.reminders_count)
    };
    while counted(&family) != (Prompt::Sent, 0) {
        family.pass_deadline(0);
    }
    assert_eq!((family.sent(), family.now), (vec![(0, 0), (0, 1)], shift(START, DAY)), "the mention is the prompt");
    while family.now < shift(START, 2 * DAY) {
        assert_eq!(counted(&family), (Prompt::Sent, 0), "at {}", family.now);
        family.pass_deadline(0);
    }
    assert_eq!((counted(&family), family.messages.len()), ((Prompt::Sent, 1), 3));
}

/// The prompt of a link whose bank was down, and the reminder of another link, wait for the end of the same pause.
#[test]
fn the_message_that_a_bank_is_back_asks_for_nothing_if_another_one_has_just_asked() {
    let settings =
        PolicySettings { can_verify: false, institution_notices: InstitutionNotices::All, ..PolicySettings::default() };
    let mut family = Family::new(settings, 2);
    family.receive(1, rejected());
    family.wait(HOUR);
    family.is_down = true;
    family.receive(0, rejected());
    family.is_down = false;
    while family.prompt(0) != (Prompt::Postponed { until: shift(START, DAY) }) {
        family.pass_deadline(0);
    }
    family.wait(DAY - family.now.as_millis() + START.as_millis());
    for which in [1, 0, 0] {
        family.receive(which, Event::DeadlinePassed);
    }
    assert!(family.prompt(0) == Prompt::Sent && family.links[0].institution_outage.is_none(), "{:?}", family.links[0]);
    let asks = |notice: &Notice| matches!(notice, Notice::InstitutionRestored { asks: true, .. });
    assert!(family.messages.iter().all(|message| !asks(&message.notice)), "{:?}", family.messages);
    assert_eq!(family.messages.len(), 2, "{:?}", family.messages);
}

/// The widget of another link keeps a prompt back that has waited for the pause before.
#[test]
fn a_prompt_that_has_waited_waits_for_the_widget_too() {
    let mut family = person_with(2);
    family.receive(0, rejected());
    family.wait(MINUTE);
    family.receive(1, rejected());
    family.wait(DAY - 2 * MINUTE);
    family.receive(0, Event::UpdateStarted { until: shift(family.now, 10 * MINUTE) });
    while family.prompt(1) != Prompt::Sent && family.now < shift(START, 2 * DAY) {
        assert_eq!(family.messages.len(), 1, "the user is in the widget at {}", family.now);
        family.pass_deadline(0);
    }
    assert!(family.now >= shift(START, DAY + 9 * MINUTE), "{}", family.now);
}

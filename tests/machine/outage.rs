//! Notices about an outage of the institution: which links get them, when, and that they come in pairs.

use proptest::prelude::*;
use relink::link::{
    Breakage, Cause, Command, Effect, Event, Held, Input, InstitutionNotices, Need, Notice, PolicySettings, Prompt,
    Refusal, State, StateName, Status, Timestamp,
};

use crate::histories::history;
use crate::properties::{notices, steps};
use crate::scene::{Scene, data, prompts};
use crate::world::{DAY, HOUR, MINUTE, START, down, policy_with, shift};

/// A link whose institution may be down.
struct Bank {
    scene: Scene,
    is_down: bool,
}

impl Bank {
    /// A working link of an institution that is not down.
    fn new(institution_notices: InstitutionNotices) -> Self {
        Self::of(PolicySettings { can_verify: true, institution_notices, ..PolicySettings::default() })
    }

    /// The same, with notices for all links, and quiet hours from 22 to 8 o'clock in UTC.
    fn with_quiet_hours() -> Self {
        let hours = "22:00-08:00".parse().ok().and_then(|hours: relink::link::QuietHours| hours.in_zone("UTC").ok());
        Self::of(PolicySettings {
            can_verify: true,
            quiet_hours: hours,
            institution_notices: InstitutionNotices::All,
            ..PolicySettings::default()
        })
    }

    fn of(settings: PolicySettings) -> Self {
        let mut scene = Scene::valid(true);
        scene.history.policy = policy_with(settings);
        scene.wait(HOUR);
        Self { scene, is_down: false }
    }

    fn broken(institution_notices: InstitutionNotices) -> Self {
        let mut bank = Self::new(institution_notices);
        bank.receive(Event::Broken(Breakage::of(Cause::Credentials)));
        bank.is_down = true;
        bank
    }

    fn try_receive(&mut self, event: Event) -> Result<Vec<Effect>, Refusal> {
        self.scene.try_receive(Input { incident: down(self.is_down), ..event.into() })
    }

    fn receive(&mut self, event: Event) -> Vec<Effect> {
        self.try_receive(event).expect("the machine accepts it")
    }

    fn is_due(&mut self) -> Vec<Effect> {
        self.scene.wait_for_deadline();
        self.receive(Event::DeadlinePassed)
    }

    fn is_read(&mut self, status: Status) -> Vec<Effect> {
        self.scene.wait(MINUTE);
        let event = self.scene.observed(status, Some(self.scene.now));
        self.receive(event)
    }

    fn starts_update(&mut self) -> Vec<Effect> {
        let until = shift(self.scene.now, 10 * MINUTE);
        self.receive(Event::UpdateStarted { until })
    }
}

fn names(effects: &[Effect]) -> Vec<&'static str> {
    let name = |effect: &Effect| match effect {
        Effect::Notice { notice: Notice::InstitutionDown { since: START }, .. } => Some("down"),
        Effect::Notice { notice: Notice::InstitutionRestored { since: START, .. }, .. } => Some("restored"),
        Effect::Notice { notice: Notice::UpdateRequired, .. } => Some("prompt"),
        Effect::Notice { notice: Notice::Recovered { .. }, .. } => Some("recovered"),
        Effect::Notice { .. } | Effect::Job(_) => None,
    };
    effects.iter().filter_map(name).collect()
}

const CALL: Event = Event::OutageMet { by_user: false };
const USER: Event = Event::OutageMet { by_user: true };

#[test]
fn a_user_in_the_repair_gets_one_notice_and_another_when_the_bank_is_back() {
    let mut bank = Bank::broken(InstitutionNotices::Repair);
    assert_eq!(names(&bank.starts_update()), ["down"]);
    assert_eq!(bank.try_receive(USER), Err(Refusal::AlreadyKnown));
    bank.scene.wait(MINUTE);
    assert_eq!(names(&bank.receive(Event::UpdateAbandoned)), [""; 0]);
    bank.is_read(Status::Invalid);
    // The link waits for the end of the outage, and looks for it again and again.
    for _ in 0..20 {
        let before = bank.scene.now;
        assert_eq!(names(&bank.is_due()), [""; 0]);
        assert_eq!(bank.scene.now, shift(before, 10 * MINUTE).min(bank.scene.now));
    }
    bank.is_down = false;
    assert_eq!(names(&bank.is_due()), ["restored"]);
    assert_eq!(bank.scene.history.link.institution_outage, None);
}

#[test]
fn an_outage_that_began_before_the_last_one_was_restored_is_announced_too() {
    let mut bank = Bank::broken(InstitutionNotices::Repair);
    assert_eq!(names(&bank.starts_update()), ["down"]);
    // The first outage is over, another one has begun, and the link works all the same.
    let another = shift(START, MINUTE);
    bank.scene.wait(MINUTE);
    let observed = bank.scene.observed(Status::Valid, Some(bank.scene.now));
    let effects = bank.scene.try_receive(Input { incident: Some(another), ..observed.into() }).unwrap();
    assert_eq!(names(&effects), ["restored", "recovered"]);
    bank.scene.wait(HOUR);
    let mut receive = |event: Event| bank.scene.try_receive(Input { incident: Some(another), ..event.into() }).unwrap();
    receive(Event::Broken(Breakage::of(Cause::Credentials)));
    let effects = receive(Event::UpdateStarted { until: shift(START, 30 * HOUR) });
    let is_announced = |effect: &Effect| match effect {
        Effect::Notice { notice: Notice::InstitutionDown { since }, .. } => *since == another,
        _other => false,
    };
    assert!(effects.iter().any(is_announced), "{effects:?}");
}

#[test]
fn a_user_who_opens_the_repair_page_is_in_the_repair() {
    let mut bank = Bank::broken(InstitutionNotices::Repair);
    assert_eq!(names(&bank.receive(USER)), ["down"]);
    bank.is_down = false;
    bank.scene.wait(MINUTE);
    // The first step of the link after the outage has the notice, whatever it is about.
    assert_eq!(names(&bank.receive(Event::Broken(Breakage::of(Cause::AccountBlocked)))), ["restored"]);
    assert_eq!(bank.try_receive(USER), Err(Refusal::AlreadyKnown));
}

#[test]
fn a_bank_that_works_is_never_announced_as_down() {
    let mut bank = Bank::broken(InstitutionNotices::All);
    bank.is_down = false;
    assert_eq!(bank.try_receive(USER), Err(Refusal::AlreadyKnown));
    assert_eq!(bank.try_receive(CALL), Err(Refusal::AlreadyKnown));
    assert_eq!(names(&bank.starts_update()), [""; 0]);
}

#[test]
fn each_policy_has_its_links() {
    use InstitutionNotices::{All, Off, Repair};
    for (policy, deferred, called, in_repair) in
        [(Off, false, false, false), (Repair, false, false, true), (All, true, true, true)]
    {
        let down = |is_announced: bool| if is_announced { vec!["down"] } else { Vec::new() };
        let mut bank = Bank::new(policy);
        bank.is_down = true;
        assert_eq!(names(&bank.try_receive(CALL).unwrap_or_default()), down(called), "{policy:?}");
        let mut bank = Bank::new(policy);
        bank.is_down = true;
        let effects = bank.receive(Event::Broken(Breakage::of(Cause::Credentials)));
        assert_eq!((prompts(&effects), names(&effects)), (0, down(deferred)), "{policy:?}");
        let mut bank = Bank::broken(policy);
        assert_eq!(names(&bank.starts_update()), down(in_repair), "{policy:?}");
    }
}

#[test]
fn a_deferred_prompt_is_announced_and_its_end_has_the_notice_before_the_prompt() {
    let mut bank = Bank::new(InstitutionNotices::All);
    bank.is_down = true;
    assert_eq!(names(&bank.receive(Event::Broken(Breakage::of(Cause::Credentials)))), ["down"]);
    assert_eq!(bank.is_due(), []);
    bank.is_down = false;
    // relink asks Belvo first; the answer decides.
    assert_eq!(names(&bank.is_due()), [""; 0]);
    let effects = bank.is_read(Status::Invalid);
    assert_eq!(names(&effects), ["restored", "prompt"]);
    // The prompt asks the user, so that the other notice does not.
    assert!(matches!(effects[0], Effect::Notice { notice: Notice::InstitutionRestored { asks: false, .. }, .. }));
}

#[test]
fn a_bank_is_not_restored_with_nothing_to_do_before_a_prompt_that_is_postponed() {
    let mut bank = Bank::with_quiet_hours();
    bank.scene.now = "2026-11-23T21:30:00Z".parse().unwrap();
    bank.is_down = true;
    assert_eq!(names(&bank.receive(Event::Broken(Breakage::of(Cause::Credentials)))), ["down"]);
    bank.scene.now = "2026-11-23T22:30:00Z".parse().unwrap();
    bank.is_down = false;
    let mut notices = Vec::new();
    while notices.is_empty() {
        notices = names(&bank.is_due());
    }
    assert_eq!((notices, bank.scene.now), (vec!["restored", "prompt"], "2026-11-24T08:00:00Z".parse().unwrap()));
}

#[test]
fn a_link_that_works_although_the_outage_goes_on_is_restored_and_not_announced_again() {
    let mut bank = Bank::new(InstitutionNotices::All);
    bank.is_down = true;
    bank.receive(Event::Broken(Breakage::of(Cause::Credentials)));
    assert_eq!(names(&bank.is_read(Status::Valid)), ["restored", "recovered"]);
    bank.scene.wait(MINUTE);
    assert_eq!(bank.try_receive(CALL), Err(Refusal::AlreadyKnown));
    // Another outage is announced.
    let later = Input { incident: Some(shift(START, DAY)), ..CALL.into() };
    assert_eq!(bank.scene.receive(later).len(), 1);
}

#[test]
fn data_shows_that_a_working_link_has_not_met_the_outage_any_more() {
    let mut bank = Bank::new(InstitutionNotices::All);
    bank.is_down = true;
    assert_eq!(names(&bank.receive(CALL)), ["down"]);
    bank.scene.wait(MINUTE);
    assert_eq!(names(&bank.receive(data())), ["restored"]);
}

#[test]
fn a_muted_link_gets_neither_notice() {
    let mut bank = Bank::broken(InstitutionNotices::All);
    bank.receive(USER);
    bank.receive(Event::Command(Command::Mute));
    bank.is_down = false;
    bank.scene.wait(HOUR);
    assert_eq!(names(&bank.receive(Event::Command(Command::Unmute))), [""; 0], "the outage is forgotten");
    bank.is_down = true;
    bank.receive(Event::Command(Command::Mute));
    assert_eq!(bank.try_receive(USER), Err(Refusal::AlreadyKnown));
}

#[test]
fn in_quiet_hours_only_a_user_in_the_repair_is_notified_and_the_end_waits_for_the_morning() {
    let mut bank = Bank::with_quiet_hours();
    let evening: Timestamp = "2026-11-23T21:00:00Z".parse().unwrap();
    bank.scene.now = evening;
    bank.receive(Event::Broken(Breakage::of(Cause::Credentials)));
    bank.is_down = true;
    let morning = "2026-11-24T08:00:00Z".parse().unwrap();
    bank.scene.now = shift(evening, 2 * HOUR);
    assert_eq!(bank.try_receive(CALL), Err(Refusal::AlreadyKnown));
    assert_eq!(names(&bank.receive(USER)), ["down"]);
    bank.is_down = false;
    assert_eq!(names(&bank.is_due()), [""; 0]);
    assert_eq!(names(&bank.is_due()), ["restored"]);
    assert_eq!(bank.scene.now, morning);
}

#[test]
fn a_step_says_until_when_quiet_hours_keep_back_a_notice_about_the_outage() {
    let mut bank = Bank::with_quiet_hours();
    let peek = |bank: &Bank, event: Event| {
        let input = Input { incident: down(bank.is_down), ..event.into() };
        relink::link::step(&bank.scene.history.link, &input, bank.scene.now, &bank.scene.history.policy).unwrap()
    };
    let morning = Some("2026-11-24T08:00:00Z".parse().unwrap());
    bank.is_down = true;
    bank.scene.now = "2026-11-23T23:00:00Z".parse().unwrap();
    // The link meets the outage in the night, so it is not announced that the bank is down.
    let step = peek(&bank, Event::Broken(Breakage::of(Cause::Credentials)));
    assert_eq!((notices(&step).count(), step.outage_notice_at), (0, morning));
    // Its user is awake, so it is announced. When the bank works again, the notice about it waits for the morning.
    assert_eq!((names(&bank.receive(USER)), bank.is_down), (vec!["down"], true));
    bank.is_down = false;
    bank.scene.wait(HOUR);
    let step = peek(&bank, Event::DeadlinePassed);
    assert_eq!((notices(&step).count(), step.outage_notice_at), (0, morning));
    assert_eq!(names(&bank.receive(Event::DeadlinePassed)), [""; 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn notices_about_an_outage_come_in_pairs(history in history()) {
        let (mut open, mut announced) = (None, None);
        for (received, step) in steps(&history) {
            for notice in notices(step) {
                match notice {
                    Notice::InstitutionDown { since } => {
                        prop_assert_eq!((received.input.incident, open), (Some(*since), None));
                        prop_assert!(announced != Some(*since), "one outage is announced once");
                        prop_assert!(!step.link.muted && history.policy.settings().institution_notices != InstitutionNotices::Off);
                        (open, announced) = (Some(*since), Some(*since));
                    }
                    Notice::InstitutionRestored { since, asks } => {
                        prop_assert_eq!(open, Some(*since));
                        // One step asks a user once.
                        let is_message = |notice: &Notice| matches!(notice, Notice::UpdateRequired | Notice::Reminder { .. } | Notice::ConsentExpiring { .. });
                        let is_asked = notices(step).any(is_message);
                        let prompted = step.link.state.episode().is_some_and(|episode| episode.prompt == Prompt::Sent && episode.cause.user_can_act());
                        // Nor does it ask for what a message about another link has asked for within the pause.
                        let last = received.input.person.as_ref().and_then(|person| person.last_message.as_ref());
                        let number = step.link.state.episode().map(|episode| episode.number);
                        let pause = history.policy.settings().reminder_pause;
                        let is_asked_for = last.filter(|last| step.at < last.at.min(step.at).after(pause)).is_some_and(|last| {
                            matches!(last.mentioned, Some(Need::Repair { episode, .. }) if Some(episode) == number)
                        });
                        let is_mentioned = step.held == Some(Held::Mentioned) || is_asked_for;
                        prop_assert_eq!(*asks, prompted && !is_asked && !is_mentioned);
                        prop_assert!(!asks || step.link.messaged.as_ref().is_some_and(|message| message.at == step.at));
                        let waits = matches!(&step.link.state, State::Invalid { episode } | State::TokenRequired { episode }
                            if matches!(episode.prompt, Prompt::Deferred { .. } | Prompt::Postponed { .. } | Prompt::Unidentified { .. }));
                        let works = notices(step).any(|notice| matches!(notice, Notice::Recovered { .. }));
                        let has_access = step.link.data_at > received.before.data_at;
                        prop_assert!(received.input.incident.is_none() || works || has_access);
                        // "There is nothing to do" is not said before a prompt that only waits.
                        prop_assert!(!waits || has_access);
                        let next = step.link.state.episode().and_then(|episode| episode.next_reminder_at);
                        let pause_end = step.at.after(history.policy.settings().reminder_pause);
                        prop_assert!(!asks || next.is_none_or(|at| at >= pause_end), "asked twice in a pause");
                        open = None;
                    }
                    _ => {}
                }
            }
            // A notice that quiet hours keep back is not in the step, and its time is the end of the wait.
            if let Some(at) = step.outage_notice_at {
                let is_about_outage = |notice: &Notice| matches!(notice, Notice::InstitutionDown { .. } | Notice::InstitutionRestored { .. });
                prop_assert!(!notices(step).any(is_about_outage) && step.at < at);
                let check_at = step.link.institution_outage.and_then(|outage| outage.check_at);
                prop_assert!(check_at.is_none_or(|check_at| check_at == at), "{:?}", step.link.institution_outage);
                let quiet_hours = history.policy.settings().quiet_hours.as_ref().expect("only quiet hours keep it back");
                prop_assert_eq!(quiet_hours.end(at, &step.link.profile), at);
            }
            // The user of a silent link gets no message any more.
            let is_superseded = step.link.state.episode().is_some_and(|episode| episode.superseded_by.is_some());
            let is_removed = step.link.state.name() == StateName::Removed;
            open = open.filter(|_| !step.link.muted && !is_superseded && !is_removed);
            let remembered = step.link.institution_outage.is_some_and(|outage| outage.check_at.is_some());
            prop_assert_eq!(open.is_some(), remembered);
        }
    }

    #[test]
    fn an_announced_outage_always_ends(history in history(), lasts in 0..4_usize) {
        for (_, taken) in steps(&history) {
            let mut link = taken.link.clone();
            let mut steps_count = 0;
            while link.institution_outage.is_some_and(|outage| outage.check_at.is_some()) {
                let at = link.deadline(&history.policy).expect("an announced outage has a deadline");
                let input = Input { incident: down(steps_count < lasts), ..Event::DeadlinePassed.into() };
                let step = relink::link::step(&link, &input, at, &history.policy).unwrap();
                link = step.link;
                steps_count += 1;
                prop_assert!(steps_count < lasts + 40, "{:?}", link);
            }
        }
    }
}

//! Records with the extreme values of every field: what is written can be read again.

use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::super::{
    At, Because, DueWord, HeldWord, LastMessageRecord, NeedRecord, Origin, OriginKind, PersonRecord,
    UndecidedLinkRecord, WaitingLinkRecord,
};
use super::*;
use crate::link::{
    AccessMode, AttemptEnd, Breakage, Cause, Consent, DedupKey, Due, EpisodeNumber, InstitutionOutage, Messaged, Month,
    Need, Prompt, RecentFact, Refresh, RefreshQuota, Suspicion, Timestamp, UpdatePhase, WaitingLink,
};

/// Times at the ends of all ranges through which a time passes, and any other time.
fn at() -> BoxedStrategy<Timestamp> {
    const ENDS: &[i64] = &[
        i64::MIN,
        i64::MIN + 1,
        i64::MAX,
        i64::MAX - 1,
        Timestamp::EARLIEST.as_millis() - 1,
        Timestamp::EARLIEST.as_millis(),
        Timestamp::EARLIEST.as_millis() + 1,
        Timestamp::LATEST.as_millis() - 1,
        Timestamp::LATEST.as_millis(),
        Timestamp::LATEST.as_millis() + 1,
        -1,
        0,
        1,
    ];
    prop_oneof![
        2 => proptest::sample::select(ENDS).prop_map(Timestamp::from_millis),
        2 => proptest::sample::select(TEXTS).prop_filter_map("a time", |text| text.parse().ok()),
        1 => any::<i64>().prop_map(Timestamp::from_millis),
    ]
    .boxed()
}

/// Texts of times that are hard to represent. Those that no version can represent are refused when they are read.
const TEXTS: &[&str] = &[
    "-0001-12-31T23:59:59Z",
    "0000-01-01T00:00:00Z",
    "0000-01-01T00:00:00+23:59",
    "0000-01-01T00:00:00-23:59",
    "0000-02-29T12:00:00Z",
    "9999-12-31T23:59:60Z",
    "9999-12-31T23:59:59-23:59",
    "9999-12-31T23:59:59+23:59",
    "9999-12-31T24:00:00Z",
    "10000-01-01T00:00:00Z",
    "2016-12-31T23:59:60Z",
    "2016-12-31T23:59:60-23:59",
];

fn count() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(u32::MAX), any::<u32>()]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), Just("\u{0}\u{1b}\u{2028}\u{10ffff}\"\\".to_owned()), ".{0,20}"]
}

fn due() -> impl Strategy<Value = Due> {
    prop_oneof![Just(Due::Unknown), Just(Due::Never), at().prop_map(Due::At)]
}

fn consent() -> BoxedStrategy<Consent> {
    let announced = option::of(prop_oneof![Just(Due::Unknown), at().prop_map(Due::At)]);
    let times = (option::of(at()), option::of(at()));
    (option::of(text()), due(), option::of(text()), option::of(text()), announced, times)
        .prop_map(|(id, due, institution_display_name, institution_icon_logo, announced, times)| Consent {
            // A known due date is always announced with its rung.
            rung: announced.and_then(Due::at).map(|at| Duration::from_millis(at.as_millis().unsigned_abs())),
            id,
            due,
            institution_display_name,
            institution_icon_logo,
            announced,
            postponed_until: times.0,
            passed: times.1,
        })
        .boxed()
}

fn profile() -> BoxedStrategy<Profile> {
    let access_mode = option::of(prop_oneof![Just(AccessMode::Single), Just(AccessMode::Recurrent)]);
    let every = option::of(prop_oneof![Just(u64::MAX), Just(0), any::<u64>()].prop_map(Duration::from_secs));
    let user = (option::of(text()), option::of(at()));
    (option::of(text()), option::of(text()), user, access_mode, every, vec(text(), 0..3), option::of(consent()))
        .prop_map(|(external_id, institution, user, access_mode, refresh_every, fetch_resources, consent)| Profile {
            external_id,
            institution,
            institution_user_id: user.0,
            created_at: user.1,
            access_mode,
            refresh_every,
            fetch_resources,
            consent: consent.map(Box::new),
        })
        .boxed()
}

fn cause() -> impl Strategy<Value = Cause> {
    proptest::sample::select(
        &[Cause::Credentials, Cause::Token, Cause::AccountBlocked, Cause::ConsentEnded, Cause::Unsupported][..],
    )
}

fn link_id() -> impl Strategy<Value = LinkId> {
    "[A-Za-z0-9_-]{1,20}".prop_map(|id| id.parse::<LinkId>().unwrap())
}

fn episode() -> BoxedStrategy<Episode> {
    let prompt = prop_oneof![
        Just(Prompt::Sent),
        Just(Prompt::Muted),
        (at(), option::of(at())).prop_map(|(until, asked_at)| Prompt::Deferred { until, asked_at }),
        at().prop_map(|until| Prompt::Postponed { until }),
        at().prop_map(|until| Prompt::Unidentified { until }),
    ];
    let times = (
        at(),
        option::of(at()),
        option::of(at()),
        option::of(at()),
        option::of(at()),
        option::of(at()),
        option::of(at()),
    );
    let others = (option::of(link_id()), option::of(link_id()), any::<bool>(), option::of(at()));
    (count(), cause(), prompt, count(), times, count(), vec(text(), 0..3), others)
        .prop_map(|(number, cause, prompt, reminders_count, times, attempts_count, arrived, others)| {
            let (opened_at, observed_at, refused_at, next_reminder_at, remind_by, reminder_waits_since, tried_at) =
                times;
            Episode {
                number: EpisodeNumber(number),
                cause,
                session: None,
                opened_at,
                observed_at,
                refused_at,
                prompt,
                reminders_count,
                next_reminder_at,
                remind_by,
                reminder_waits_since,
                mention_counted_at: others.3,
                tried_at,
                attempts_count,
                arrived,
                superseded_by: others.0,
                successor_named: others.1,
                is_released: others.2,
            }
        })
        .boxed()
}

fn session() -> impl Strategy<Value = Option<Session>> {
    option::of(at().prop_map(|expires_at| Session { expires_at }))
}

fn state() -> BoxedStrategy<State> {
    let breakage = (cause(), session(), any::<bool>(), any::<bool>()).prop_map(
        |(cause, session, during_update, refused_login)| Breakage { cause, session, during_update, refused_login },
    );
    let suspicion = (breakage, at(), at()).prop_map(|(breakage, at, until)| Suspicion { breakage, at, until });
    let end = proptest::sample::select(&[AttemptEnd::Claimed, AttemptEnd::Abandoned, AttemptEnd::TimedOut][..]);
    let phase = prop_oneof![
        (at(), at()).prop_map(|(started_at, until)| UpdatePhase::WithUser { started_at, until }),
        (end, count(), at()).prop_map(|(after, asked_count, until)| UpdatePhase::Verifying {
            after,
            asked_count,
            until
        }),
    ];
    prop_oneof![
        Just(State::Unconfirmed),
        Just(State::Removed),
        option::of(suspicion).prop_map(|suspicion| State::Valid { suspicion }),
        episode().prop_map(|episode| State::Invalid { episode }),
        (episode(), session())
            .prop_map(|(episode, session)| State::TokenRequired { episode: Episode { session, ..episode } }),
        (episode(), phase).prop_map(|(episode, phase)| State::Updating { episode, phase }),
    ]
    .boxed()
}

fn refresh() -> BoxedStrategy<Refresh> {
    (option::of(at()), at(), any::<bool>(), count(), at(), vec(text(), 0..3))
        .prop_map(|(gap_from, gap_to, asked, rounds_count, until, arrived)| Refresh {
            gap_from,
            gap_to,
            asked,
            rounds_count,
            until,
            arrived,
        })
        .boxed()
}

fn freshness() -> impl Strategy<Value = Freshness> {
    prop_oneof![Just(Freshness::Fresh), Just(Freshness::Stale), at().prop_map(|until| Freshness::Probed { until })]
}

fn refresh_quota() -> impl Strategy<Value = RefreshQuota> {
    (at().prop_map(Month::of), count(), option::of(at())).prop_map(|(month, count, refused_until)| RefreshQuota {
        month,
        count,
        refused_until,
    })
}

fn waiting_link() -> impl Strategy<Value = WaitingLink> {
    let repair = (count(), cause()).prop_map(|(number, cause)| Need::Repair { episode: EpisodeNumber(number), cause });
    let need = prop_oneof![repair, at().prop_map(|due_at| Need::Renewal { due_at })];
    (link_id(), option::of(text()), need).prop_map(|(id, institution, need)| WaitingLink { id, institution, need })
}

fn messaged() -> impl Strategy<Value = Messaged> {
    (at(), vec(waiting_link(), 0..3)).prop_map(|(at, mentioned)| Messaged { at, mentioned })
}

fn creation() -> impl Strategy<Value = Creation> {
    prop_oneof![
        Just(Creation::NotReported),
        Just(Creation::Announced),
        at().prop_map(|since| Creation::Unfinished { since }),
        at().prop_map(|until| Creation::Probed { until }),
    ]
}

fn link() -> BoxedStrategy<Link> {
    let version = prop_oneof![Just(0), Just(u64::MAX), any::<u64>()];
    let times = (at(), at(), option::of(at()), option::of(at()));
    let more_times = (option::of(at()), option::of(at()), option::of(at()), option::of(at()));
    let recent = vec((any::<u64>(), at()).prop_map(|(key, at)| RecentFact { key: DedupKey(key), at }), 0..4);
    let work = (option::of(refresh()), freshness(), any::<bool>(), refresh_quota(), any::<bool>());
    let outage = (at(), option::of(at())).prop_map(|(began_at, check_at)| InstitutionOutage { began_at, check_at });
    let notified = (option::of(outage), option::of(messaged()), creation());
    let more = (recent, vec(link_id(), 0..NOT_SUPERSEDED_BY_MAX), notified);
    ((link_id(), version, profile(), state()), times, count(), work, more_times, more)
        .prop_map(|((id, version, profile, state), times, episodes_count, work, more_times, more)| {
            let (recent, not_superseded_by, (institution_outage, messaged, creation)) = more;
            let (since, updated_at, data_at, recovered_at) = times;
            let (refresh, freshness, refresh_needs_token, refresh_quota, muted) = work;
            let (snoozed_until, verify_asked_at, claimed_at, widget_until) = more_times;
            Link {
                id,
                version,
                profile,
                state,
                since,
                updated_at,
                creation,
                episodes_count,
                data_at,
                recovered_at,
                refresh,
                freshness,
                refresh_needs_token,
                refresh_quota,
                muted,
                not_superseded_by,
                snoozed_until,
                messaged,
                verify_asked_at,
                claimed_at,
                widget_until,
                institution_outage,
                recent,
            }
        })
        .boxed()
}

fn because(at: Timestamp) -> Because {
    let origin = Origin {
        kind: OriginKind::Webhook,
        input_sequence: Some(u64::MAX),
        message_id: Some(String::new()),
        ..Origin::timer(at)
    };
    let (from, to) = (StateWord::Valid, StateWord::Invalid);
    let event = "credentials_rejected".to_owned();
    let successor_id = Some("other".to_owned());
    let need = NeedRecord { episode: None, cause: None, due_at: Some(At(at)) };
    let last_message = LastMessageRecord { at: At(at), link_id: "other".to_owned(), mentioned: Some(need) };
    let waiting = vec![WaitingLinkRecord { link_id: "third".to_owned(), institution: None, need }];
    let (due, held) = (Some(DueWord::Reminder), Some(HeldWord::Pause));
    let undecided = Some(UndecidedLinkRecord { link_id: "fourth".to_owned(), asked_at: At(at) });
    let person = Some(PersonRecord { last_message: Some(last_message), in_widget: None, undecided, waiting });
    Because {
        event,
        from,
        to,
        at: At(at),
        incident: true,
        successor_id,
        person,
        times_corrected: true,
        due,
        held,
        outage_notice_at: None,
        origin,
    }
}

proptest! {
    #[test]
    fn every_record_reads_back_as_it_was_written(link in link(), at in at(), partition in any::<u16>()) {
        let record = Record::of(&link, partition, because(at), vec!["x".to_owned()]);
        let json = serde_json::to_vec(&record).unwrap();
        let read = Record::parse(&json).unwrap();
        prop_assert_eq!(&read, &record);
        prop_assert_eq!(read.link().unwrap(), link);
        prop_assert_eq!(Record::repair(&json).unwrap(), Repaired { record, dropped: Vec::new() });
    }

    #[test]
    fn no_unreadable_time_makes_a_link_unreadable(link in link(), at in at(), which in any::<proptest::sample::Index>()) {
        let whole = serde_json::to_value(Record::of(&link, 7, because(at), Vec::new())).unwrap();
        let mut paths = Vec::new();
        times(&whole, String::new(), &mut paths);
        let path = which.get(&paths);
        let mut damaged = whole.clone();
        *damaged.pointer_mut(path).unwrap() = "-0001-12-31T23:00:00.000Z".into();
        let json = serde_json::to_vec(&damaged).unwrap();
        prop_assert!(Record::parse(&json).is_err(), "{}", path);
        let Repaired { record, dropped } = Record::repair(&json).unwrap();
        prop_assert_eq!(dropped.len(), 1);
        let read = record.link().unwrap();
        prop_assert_eq!((read.id, read.version, read.state.name()), (link.id, link.version, link.state.name()));
    }
}

/// The paths of all times of a record.
fn times(value: &serde_json::Value, path: String, found: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) if text.ends_with('Z') && text.len() == 24 => found.push(path),
        serde_json::Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| times(value, format!("{path}/{name}"), found));
        }
        serde_json::Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| times(value, format!("{path}/{index}"), found));
        }
        _ => {}
    }
}

#[test]
fn a_record_without_a_state_or_of_a_newer_version_is_not_repaired() {
    let link = Link::unknown("a".parse().unwrap(), Timestamp::default());
    let mut record = serde_json::to_value(Record::of(&link, 7, because(Timestamp::default()), Vec::new())).unwrap();
    record["schema_version"] = 7_777.into();
    let repaired = |record: &serde_json::Value| Record::repair(record.to_string().as_bytes());
    assert!(matches!(repaired(&record), Err(BadRecord::FutureVersion { found: 7_777, .. })));
    record["schema_version"] = 1.into();
    for (field, value) in [("state", "gone"), ("link_id", "no id"), ("version", "one")] {
        let mut damaged = record.clone();
        damaged[field] = value.into();
        assert!(repaired(&damaged).is_err(), "{field}");
    }
    for bytes in [&b""[..], b"{", b"[]", b"7", b"{}", b"\xff"] {
        assert!(Record::repair(bytes).is_err());
    }
}

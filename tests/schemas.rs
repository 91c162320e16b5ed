//! The files of `schemas/` are current, the examples are valid, and all messages of the machine are valid by the
//! schemas.

#[path = "schemas/documents.rs"]
mod documents;
#[path = "schemas/json_schema.rs"]
mod json_schema;
#[path = "schemas/released.rs"]
mod released;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use jsonschema::Validator;
use proptest::prelude::*;
use relink::contract::{
    Because, InputKind, JobBody, JobName, NoticeBody, NoticeName, Origin, OriginKind, Record, RefusedBody,
};
use relink::link::{
    AccessMode, Breakage, Cause, Command, Consent, ConsentObservation, ConsentStatus, Data, DataKind, DedupKey, Due,
    Effect, EpisodeNumber, Event, Input, LastMessage, Link, LinkId, LinkObservation, Need, OtherWidget, Person, Policy,
    PolicySettings, Profile, Prompt, Session, StateName, Status, SuccessorObservation, Timestamp, UndecidedLink,
    WaitingLink, step,
};
use relink::schemas::{documents, examples, schemas, write};
use serde_json::Value;
use strum::VariantArray;

const HOW: &str = "run `cargo run -- schemas --write schemas` and review the difference";

fn directory() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/schemas"))
}

fn files_below(directory: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).expect("schemas/ is there") {
        let entry = entry.expect("it can be read");
        let name = entry.file_name().into_string().expect("a plain name");
        if entry.path().is_dir() {
            names.extend(files_below(&entry.path()).into_iter().map(|below| format!("{name}/{below}")));
        } else {
            names.push(name);
        }
    }
    names.sort();
    names
}

fn validators() -> BTreeMap<String, Validator> {
    let compile = |schema: &Value| {
        jsonschema::options().should_validate_formats(true).build(schema).expect("the generated schema is valid")
    };
    schemas().into_iter().map(|schema| (schema.name.clone(), compile(&schema.schema))).collect()
}

fn check(validator: &Validator, body: &Value) {
    let errors: Vec<String> =
        validator.iter_errors(body).map(|error| format!("{}: {error}", error.instance_path)).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{body:#}");
}

#[test]
fn the_files_are_current() {
    let documents = documents();
    for (name, contents) in &documents {
        let file = std::fs::read_to_string(directory().join(name)).unwrap_or_default();
        assert_eq!(&file, contents, "schemas/{name} differs from the types: {HOW}");
    }
    let mut expected: Vec<String> = documents.into_iter().map(|(name, _)| name).collect();
    expected.push("README.md".to_owned());
    expected.sort();
    assert_eq!(files_below(directory()), expected, "the files in schemas/ are not the expected ones: {HOW}");
}

#[test]
fn write_creates_all_files() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let written = write(&dir.path().join("deep/er")).expect("it can be written");
    assert_eq!(written.len(), documents().len());
    for (path, (name, contents)) in written.iter().zip(documents()) {
        assert!(path.ends_with(&name), "{path:?} {name}");
        assert_eq!(std::fs::read_to_string(path).expect("a file"), contents);
    }
}

#[test]
fn every_example_is_valid_and_names_its_schema() {
    let validators = validators();
    for example in examples::examples() {
        check(&validators[&example.name], &example.body);
        let header = |name: &str| example.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let schema = schemas().into_iter().find(|schema| schema.name == example.name).expect("a schema");
        assert_eq!(header("ce-dataschema"), Some(schema.urn().as_str()));
        assert_eq!(schema.schema["$id"], schema.urn());
        // A state is the value of a key; the name of its schema is from before 0.3.
        let is_state = example.name == "link.state";
        let start = if is_state { "$KV.links.".to_owned() } else { format!("{}.", example.name) };
        assert!(example.subject.starts_with(&start), "{}", example.subject);
    }
    for &kind in InputKind::VARIANTS {
        check(&validators[&format!("belvo.{kind}")], &kind.example());
    }
}

#[test]
fn every_variant_has_an_example() {
    let all = examples::examples();
    let has = |name: &str, variant: Option<&str>| {
        let found = all.iter().any(|example| example.name == name && example.variant.as_deref() == variant);
        assert!(found, "no example of {name} {variant:?}");
    };
    for &name in NoticeName::VARIANTS {
        has("link.notice", Some(name.as_str()));
    }
    for &name in JobName::VARIANTS {
        has("link.job", Some(name.as_str()));
    }
    for &name in StateName::VARIANTS {
        has("link.state", Some(name.as_str()));
    }
    for reason in ["repeated", "not_about_the_link", "unknown"] {
        has("link.refused", Some(reason));
    }
    for change in ["began", "ended"] {
        has("link.incident", Some(change));
    }
    has("link.offset", None);
    has("link.fence", None);
    for &kind in InputKind::VARIANTS {
        assert!(all.iter().any(|example| example.name == format!("belvo.{kind}")), "no example of {kind}");
    }
    // The MFA session of an input must not be in any message of relink.
    for example in all.iter().filter(|example| example.name.starts_with("link.")) {
        assert!(!example.body.to_string().contains("2675b703b9d4451f8d4861a3eee54449"), "{example:?}");
    }
}

#[test]
fn the_schemas_refuse_wrong_messages() {
    for (name, validator) in validators() {
        for wrong in [Value::Null, serde_json::json!([]), serde_json::json!({}), serde_json::json!({"type": "healed"})]
        {
            assert!(!validator.is_valid(&wrong), "{name} accepts {wrong}");
        }
    }
}

/// Every `$ref` below `value`.
fn refs(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => {
            let here = map.get("$ref").and_then(Value::as_str).map(str::to_owned);
            here.into_iter().chain(map.values().flat_map(refs)).collect()
        }
        Value::Array(items) => items.iter().flat_map(refs).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

#[test]
fn every_reference_has_a_target() {
    let documents: BTreeMap<String, Value> = documents()
        .into_iter()
        .map(|(name, contents)| (name, serde_json::from_str(&contents).expect("a document is JSON")))
        .collect();
    for (name, document) in &documents {
        for reference in refs(document) {
            let (file, pointer) = reference.split_once('#').unwrap_or((&reference, ""));
            let file = if file.is_empty() { name } else { file.trim_start_matches("./") };
            let target = documents.get(file).and_then(|document| document.pointer(pointer));
            assert!(target.is_some(), "{name} refers to {reference}, which does not exist");
        }
    }
}

#[test]
fn the_asyncapi_document_has_the_required_members() {
    let (_, text) = documents().into_iter().find(|(name, _)| name == "asyncapi.json").expect("it is written");
    let document: Value = serde_json::from_str(&text).expect("it is JSON");
    assert_eq!(document["asyncapi"], "3.1.0");
    for needed in ["/info/title", "/info/version", "/servers/nats/host", "/servers/nats/protocol"] {
        assert!(document.pointer(needed).is_some_and(Value::is_string), "{needed}");
    }
    let channels = document["channels"].as_object().expect("channels");
    let operations = document["operations"].as_object().expect("operations");
    // A notice has a second channel, for observe mode.
    let count = schemas().len() + 1;
    assert_eq!((channels.len(), operations.len()), (count, count));
    for (name, channel) in channels {
        let address = channel["address"].as_str().expect("an address");
        let tokens: Vec<&str> =
            address.split('.').filter_map(|token| token.strip_prefix('{')?.strip_suffix('}')).collect();
        let parameters: Vec<&String> = channel["parameters"].as_object().expect("parameters").keys().collect();
        assert_eq!(tokens.len(), parameters.len(), "{name}");
        assert!(tokens.iter().all(|token| parameters.iter().any(|parameter| parameter == token)), "{name}");
        assert!(channel["messages"].as_object().is_some_and(|messages| messages.len() == 1), "{name}");
    }
    for (id, operation) in operations {
        let input =
            operation["channel"]["$ref"].as_str().is_some_and(|channel| channel.starts_with("#/channels/belvo."));
        assert_eq!(operation["action"], if input { "receive" } else { "send" }, "{id}");
        let guarantee = operation["description"].as_str().expect("a guarantee");
        assert!(
            input || guarantee.contains("exactly once") && guarantee.contains("at least once"),
            "{id}: {guarantee}"
        );
    }
    for (name, message) in document["components"]["messages"].as_object().expect("messages") {
        assert_eq!(message["contentType"], "application/json", "{name}");
        assert!(message["examples"].as_array().is_some_and(|examples| !examples.is_empty()), "{name}");
    }
}

const DAY_MS: i64 = 86_400_000;

fn some_time() -> impl Strategy<Value = Timestamp> {
    (0..40 * DAY_MS).prop_map(|ms| Timestamp::from_millis(1_790_000_000_000 + ms))
}

fn some_event() -> impl Strategy<Value = Event> {
    let cause = prop::sample::select(vec![
        Cause::Credentials,
        Cause::Token,
        Cause::AccountBlocked,
        Cause::ConsentEnded,
        Cause::Unsupported,
    ]);
    let session = prop::option::of(some_time().prop_map(|expires_at| Session { expires_at }));
    let broken = (cause, session, any::<bool>()).prop_map(|(cause, session, during_update)| {
        let session = session.filter(|_| cause == Cause::Token);
        Event::Broken(Breakage { session, during_update, refused_login: !during_update, ..Breakage::of(cause) })
    });
    let status = prop::sample::select(vec![Status::Valid, Status::Invalid, Status::TokenRequired, Status::Unconfirmed]);
    let observed =
        (some_time(), status, prop::option::of(some_time())).prop_map(|(observed_at, status, last_accessed_at)| {
            Event::Observed(LinkObservation { observed_at, status, last_accessed_at })
        });
    let kind = prop::sample::select(vec![DataKind::Historical, DataKind::New, DataKind::Changed]);
    let data = ("[A-Z_]{1,12}", kind, prop::option::of(any::<u64>()), any::<bool>()).prop_map(
        |(resource, kind, items_count, has_errors)| {
            Event::DataArrived(Data { resource, kind, items_count, has_errors })
        },
    );
    let status = prop::sample::select(vec![ConsentStatus::Authorised, ConsentStatus::Ended]);
    let consent = (some_time(), status)
        .prop_map(|(observed_at, status)| Event::ConsentObserved(ConsentObservation { observed_at, status }));
    let command = prop_oneof![
        Just(Command::Mute),
        Just(Command::Unmute),
        some_time().prop_map(Command::Snooze),
        Just(Command::Verify),
        Just(Command::Unsupersede),
        Just(Command::Release),
    ];
    let successor = (some_time(), other_link())
        .prop_map(|(observed_at, by)| Event::Superseded(SuccessorObservation { observed_at, by }));
    prop_oneof![
        5 => broken,
        5 => observed,
        3 => data,
        1 => consent,
        2 => successor,
        1 => other_link().prop_map(|link| Event::SuccessorNamed { link }),
        1 => command.prop_map(Event::Command),
        3 => some_time().prop_map(|until| Event::UpdateStarted { until }),
        2 => Just(Event::UpdateClaimed),
        1 => Just(Event::UpdateAbandoned),
        5 => Just(Event::DeadlinePassed),
        1 => prop::sample::select(vec![
            Event::CreationUnfinished, Event::SessionExpired, Event::MissingReported, Event::RefreshAccepted,
            Event::ConsentEnding, Event::ConsentChanged, Event::QuotaReached { of_refresh: true },
        ]),
    ]
}

fn other_link() -> impl Strategy<Value = LinkId> {
    "[a-z]{1,3}".prop_map(|id| id.parse().expect("a safe token"))
}

fn some_consent() -> impl Strategy<Value = Consent> {
    let due = prop_oneof![Just(Due::Unknown), Just(Due::Never), some_time().prop_map(Due::At)];
    (prop::option::of(".{0,8}"), due).prop_map(|(text, due)| Consent {
        id: text.clone(),
        due,
        institution_display_name: text.clone(),
        institution_icon_logo: text,
        ..Consent::default()
    })
}

fn some_person() -> impl Strategy<Value = Person> {
    let need = || {
        prop_oneof![
            (0..3_u32).prop_map(|number| Need::Repair { episode: EpisodeNumber(number), cause: Cause::Token }),
            some_time().prop_map(|due_at| Need::Renewal { due_at }),
        ]
    };
    let last_message = (some_time(), other_link(), prop::option::of(need()));
    let last_message = last_message.prop_map(|(at, about, mentioned)| LastMessage { at, about, mentioned });
    let waiting = (other_link(), prop::option::of(".{0,8}"), need());
    let waiting = waiting.prop_map(|(id, institution, need)| WaitingLink { id, institution, need });
    let in_widget = (some_time(), other_link()).prop_map(|(until, about)| OtherWidget { until, about });
    let undecided = (some_time(), other_link()).prop_map(|(asked_at, id)| UndecidedLink { asked_at, id });
    let (last_message, in_widget, undecided) =
        (prop::option::of(last_message), prop::option::of(in_widget), prop::option::of(undecided));
    (last_message, in_widget, undecided, prop::collection::vec(waiting, 0..3)).prop_map(
        |(last_message, in_widget, undecided, waiting)| Person { last_message, in_widget, undecided, waiting },
    )
}

fn some_input() -> impl Strategy<Value = Input> {
    let mode = prop::option::of(prop::sample::select(vec![AccessMode::Single, AccessMode::Recurrent]));
    let profile =
        (prop::option::of(".{0,8}"), mode, prop::option::of(0_u64..1_000_000), prop::option::of(some_consent()));
    let profile = profile.prop_map(|(text, mode, every, consent)| Profile {
        external_id: text.clone(),
        institution_user_id: text.clone(),
        institution: text,
        created_at: every.map(|_| Timestamp::from_millis(1_700_000_000_000)),
        access_mode: mode,
        refresh_every: every.map(Duration::from_secs),
        fetch_resources: if every.is_some() { vec!["ACCOUNTS".to_owned(), "OWNERS".to_owned()] } else { Vec::new() },
        consent: consent.map(Box::new),
    });
    let successor = prop_oneof![5 => Just(None), 1 => other_link().prop_map(Some)];
    let circumstances = (any::<bool>(), successor, prop::option::of(some_person().prop_map(Box::new)));
    (some_event(), prop::option::of(any::<u64>()), profile, circumstances).prop_map(
        |(event, key, profile, (incident, successor, person))| Input {
            event,
            key: key.map(DedupKey),
            profile,
            incident: incident.then_some(Timestamp::from_millis(1_700_000_000_000)),
            successor,
            person,
        },
    )
}

fn origin(kind: OriginKind, now: Timestamp) -> Origin {
    Origin { kind, input_sequence: Some(u64::MAX), ..Origin::timer(now) }
}

/// Steps through the inputs and checks every message. The last event deletes the link, so that a tombstone is checked
/// too.
fn check_messages_of(inputs: Vec<(Input, u32)>, can_verify: bool) {
    let validators = validators();
    let policy =
        Policy::new(PolicySettings { can_verify, ..PolicySettings::default() }).expect("the defaults are in range");
    let mut now = Timestamp::from_millis(1_790_000_000_000);
    let mut link = Link::unknown("16f68516-bcbc-4cf7-b815-c500d4204e28".parse().expect("an id"), now);
    let deletion = (Input::from(Event::LinkDeleted), 1);
    for (input, seconds) in inputs.into_iter().chain([deletion]) {
        now = now.after(Duration::from_secs(seconds.into()));
        let event = input.event.name();
        match step(&link, &input, now, &policy) {
            Ok(step) => {
                let because = Because::of(&step, &input, origin(OriginKind::Timer, now));
                for effect in &step.effects {
                    let (name, body) = match effect {
                        Effect::Notice { notice, episode } => {
                            let body = NoticeBody::of(&step, notice, episode.as_ref(), because.clone());
                            ("link.notice", serde_json::to_value(body))
                        }
                        Effect::Job(job) => {
                            ("link.job", serde_json::to_value(JobBody::of(&step, job, because.clone())))
                        }
                    };
                    check(&validators[name], &body.expect("a body is JSON"));
                }
                link = step.link;
                let record = Record::of(&link, 7, because, vec!["a.1.1".to_owned()]);
                let json = serde_json::to_vec(&record).expect("a record is JSON");
                check(&validators["link.state"], &serde_json::from_slice(&json).expect("it is JSON"));
                let read = Record::parse(&json).expect("it can be read");
                assert_eq!(read, record);
                assert_eq!(read.link().expect("it is a link"), link);
            }
            Err(refusal) => {
                let body = RefusedBody::refusal(&link, event, refusal, origin(OriginKind::Webhook, now));
                check(&validators["link.refused"], &serde_json::to_value(body).expect("a body is JSON"));
            }
        }
    }
}

#[test]
fn records_with_older_fields_of_the_prompt_are_read() {
    let all = examples::examples();
    let invalid =
        |example: &&examples::Example| example.name == "link.state" && example.variant.as_deref() == Some("invalid");
    let record = &all.iter().find(invalid).expect("an example of a broken link").body;
    let prompt = |sent: bool, prompt: Option<&str>| {
        let mut record = record.clone();
        record["episode"]["prompt_sent"] = sent.into();
        let episode = record["episode"].as_object_mut().expect("an episode");
        episode.remove("prompt");
        episode.extend(prompt.map(|prompt| ("prompt".to_owned(), prompt.into())));
        let link = Record::parse(record.to_string().as_bytes()).expect("a record").link();
        link.map(|link| link.state.episode().expect("an episode").prompt).map_err(|error| error.to_string())
    };
    assert_eq!((prompt(true, None), prompt(false, None)), (Ok(Prompt::Sent), Ok(Prompt::Muted)));
    assert_eq!(prompt(false, Some("held")), Ok(Prompt::Muted));
    let impossible = "link record with impossible field `episode.prompt_deferred_until`";
    assert_eq!(prompt(false, Some("waiting")), Err(impossible.to_owned()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn all_messages_of_the_machine_are_valid_by_the_schemas(
        inputs in prop::collection::vec((some_input(), prop_oneof![0_u32..600, 0_u32..10 * 86_400]), 1..24),
        can_verify: bool,
    ) {
        check_messages_of(inputs, can_verify);
    }
}

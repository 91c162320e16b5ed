//! The checks of the ledger find every violation that they are for: before the first round, made-up streams with one mistake each are
//! given to them.

use anyhow::{Result, ensure};
use relink::contract::{At, JOURNAL_HEADER};
use relink::link::Timestamp;
use serde_json::{Value, json};

use super::ledger::Ledger;
use super::load::Accepted;
use super::promised::Damage;
use super::streams::{News, Stored};

const STATE: &str = include_str!("../../schemas/examples/link.state.token_required.json");
const REFUSED: &str = include_str!("../../schemas/examples/link.refused.repeated.json");
const BELVO: &str = "BELVO@7";

/// A made-up history of the link `l`, and of the link `m`, whose inputs come from a journal.
struct Story {
    inputs: Vec<Stored>,
    outputs: Vec<Stored>,
    dead_letters: Vec<Stored>,
    accepted: Vec<Accepted>,
    damage: Option<Damage>,
}

/// A change that makes a true story false.
type Mistake = (&'static str, fn(&mut Story));

fn message(sequence: u64, subject: &str, id: Option<String>, body: &Value) -> Stored {
    let headers = id.into_iter().map(|id| ("ce-id".to_owned(), id)).collect();
    let body = body.to_string().into_bytes();
    Stored { sequence, subject: subject.to_owned(), headers, body, stored_ms: stored_ms(sequence) }
}

fn stored_ms(input: u64) -> i64 {
    i64::try_from(input).unwrap_or_default() * 1_000
}

fn input(sequence: u64) -> Stored {
    message(sequence, "belvo.0.webhook.l", None, &json!({"webhook_id": format!("w{sequence}")}))
}

/// An input that was published from a journal.
fn published(sequence: u64, record: &str) -> Stored {
    let mut input = input(sequence);
    "belvo.0.webhook.m".clone_into(&mut input.subject);
    input.headers.push((JOURNAL_HEADER.to_owned(), record.to_owned()));
    input
}

fn refused(sequence: u64, input: u64) -> Stored {
    let mut body: Value = serde_json::from_str(REFUSED).unwrap_or_default();
    (body["link_id"], body["reason"]) = ("m".into(), "repeated".into());
    body["origin"]["input_sequence"] = input.into();
    body["origin"]["received_at"] = json!(At(Timestamp::from_millis(stored_ms(input))));
    message(sequence, "link.refused.m", Some(format!("m.refused.{sequence}")), &body)
}

/// A dead letter that was no input.
fn letter(sequence: u64, reason: &str, body: &str) -> Stored {
    let mut letter = message(sequence, &format!("relink.dead.{reason}"), None, &Value::Null);
    letter.headers = vec![("Relink-Dead-Reason".to_owned(), reason.to_owned())];
    letter.body = body.as_bytes().to_vec();
    letter
}

fn state(sequence: u64, version: u64, input: u64, from: &str) -> Stored {
    state_of("l", sequence, version, input, from)
}

fn state_of(link: &str, sequence: u64, version: u64, input: u64, from: &str) -> Stored {
    let mut body: Value = serde_json::from_str(STATE).unwrap_or_default();
    (body["link_id"], body["version"], body["because"]["from"]) = (link.into(), version.into(), from.into());
    body["because"]["origin"]["input_sequence"] = input.into();
    body["because"]["origin"]["received_at"] = json!(At(Timestamp::from_millis(stored_ms(input))));
    body["because"]["at"] = body["because"]["origin"]["received_at"].clone();
    body["episode"]["id"] = format!("{link}-e1").into();
    message(sequence, &format!("$KV.links.{link}"), Some(format!("{link}.{version}.0")), &body)
}

fn prompt(sequence: u64, id: &str) -> Stored {
    message(sequence, "link.notice.update_required.l", Some(id.to_owned()), &json!({"episode": {"id": "l-e1"}}))
}

fn offset(sequence: u64, input: u64) -> Stored {
    let body = json!({"stream_created_ns": 7, "sequence": input, "stored_at_ns": stored_ms(input) * 1_000_000});
    message(sequence, "link.offset.0", Some(format!("offset.0.{sequence}")), &body)
}

fn story() -> Story {
    let marker =
        |sequence: u64| Accepted::Input { marker: format!("w{sequence}"), sequence: Some(sequence), sent_ms: 0 };
    let in_journal = |marker: &str| Accepted::Input { marker: marker.to_owned(), sequence: None, sent_ms: 0 };
    let cut = |sequence| Accepted::DeadLetter { body: "cut".to_owned(), sequence, sent_ms: 0 };
    // The input 11 is the record of the input 10 once more, and the record of w12 is damaged.
    let mut inputs: Vec<Stored> = (1..=3).map(input).collect();
    inputs.extend([published(10, "5a17c0de-1"), published(11, "5a17c0de-1")]);
    let mut accepted: Vec<Accepted> = (1..=3).map(marker).collect();
    accepted.extend([in_journal("w10"), in_journal("w12"), cut(None), cut(Some(2))]);
    let mut dead = message(1, "relink.dead.malformed", None, &json!("not json"));
    dead.headers =
        vec![("Relink-Dead-Stream".to_owned(), BELVO.to_owned()), ("Relink-Dead-Sequence".to_owned(), "3".to_owned())];
    Story {
        inputs,
        outputs: vec![
            prompt(1, "l.1.1"),
            state(2, 1, 1, "valid"),
            offset(3, 1),
            state(4, 2, 2, "token_required"),
            offset(5, 3),
            state_of("m", 6, 1, 10, "token_required"),
            refused(7, 11),
        ],
        dead_letters: vec![dead, letter(2, "malformed", "cut"), letter(3, "damaged_journal", "RLJ? w12")],
        accepted,
        damage: Some(Damage { payload: b"w12".to_vec(), bytes: b"RLJ? w12".to_vec() }),
    }
}

const MISTAKES: [Mistake; 22] = [
    ("an answer from the journal whose input is not stored", |story| {
        story.accepted.push(Accepted::Input { marker: "w9".to_owned(), sequence: None, sent_ms: 0 });
    }),
    ("an answer from the journal without its dead letter", |story| drop(story.dead_letters.remove(1))),
    ("a dead letter with the body of another webhook", |story| story.dead_letters[1].body.push(b'!')),
    ("a record that is published again and changes its link", |story| {
        story.outputs[6] = state_of("m", 7, 2, 11, "token_required");
    }),
    ("a record that changes its link after its first copy was refused", |story| {
        (story.outputs[5], story.outputs[6]) = (refused(6, 10), state_of("m", 7, 1, 11, "token_required"));
    }),
    ("a damaged record without its dead letter", |story| drop(story.dead_letters.pop())),
    ("a damaged record that the harness did not damage", |story| {
        story.dead_letters.push(letter(4, "damaged_journal", "w10"));
    }),
    ("an answer with the sequence of a damaged record", |story| {
        story.accepted.push(Accepted::Input { marker: "w12".to_owned(), sequence: Some(12), sent_ms: 0 });
    }),
    ("a 2xx whose input is not stored", |story| {
        story.accepted.push(Accepted::Input { marker: "w9".to_owned(), sequence: Some(9), sent_ms: 0 });
    }),
    ("a 2xx with the sequence of another input", |story| {
        story.accepted.push(Accepted::Input { marker: "w1".to_owned(), sequence: Some(2), sent_ms: 0 });
    }),
    ("a dead letter that does not exist", |story| {
        story.accepted.push(Accepted::DeadLetter { body: "cut".to_owned(), sequence: Some(9), sent_ms: 0 });
    }),
    ("an input without an outcome", |story| story.inputs.push(input(4))),
    ("an outcome of an input that is not stored", |story| story.outputs.push(state(6, 3, 9, "token_required"))),
    ("an input with two outcomes", |story| story.outputs.push(state(6, 3, 2, "token_required"))),
    ("an input with a state and a dead letter", |story| {
        story.outputs.push(state(6, 3, 3, "token_required"));
    }),
    ("an id that comes twice", |story| story.outputs.push(prompt(6, "l.2.0"))),
    ("a version that is left out", |story| {
        story.inputs.push(input(4));
        story.outputs.push(state(6, 4, 4, "token_required"));
    }),
    ("two prompts of one episode", |story| story.outputs.push(prompt(6, "l.2.1"))),
    ("an episode without a prompt", |story| drop(story.outputs.remove(0))),
    ("inputs of a link in the wrong order", |story| {
        story.outputs[1] = state(2, 1, 2, "valid");
        story.outputs[3] = state(4, 2, 1, "token_required");
    }),
    ("a step with the time of a wrong clock", |story| story.outputs[1].stored_ms += 600_000),
    ("an offset that goes back", |story| story.outputs.push(offset(6, 2))),
];

fn judge(story: Story) -> Result<()> {
    let mut ledger = Ledger::default();
    ledger.damage = story.damage;
    let news = |identity: &str, messages| News { is_new: true, identity: identity.to_owned(), messages };
    ledger.take_inputs(news(BELVO, story.inputs))?;
    ledger.take_dead_letters(news("RELINK_DEAD@1", story.dead_letters))?;
    ledger.take_outputs(news("KV_links@1", story.outputs))?;
    ledger.check(&story.accepted)
}

/// Runs the checks on a true story, and on one false story for each mistake. Returns the number of mistakes.
///
/// # Errors
/// The true story was found false, or a false one true.
pub(crate) fn run() -> Result<usize> {
    judge(story())?;
    for (name, make) in MISTAKES {
        let mut wrong = story();
        make(&mut wrong);
        ensure!(judge(wrong).is_err(), "the checks do not find {name}");
    }
    Ok(MISTAKES.len())
}

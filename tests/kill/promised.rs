//! What relink's answers have promised: an accepted webhook is stored, as an input or as a dead letter.
//!
//! With `stream` the answer has the sequence. With `journal` the input is known by its marker only, and a crash may store it twice.

use anyhow::{Result, bail, ensure};

use super::ledger::{Deletion, Ledger};
use super::load::Accepted;

/// A record of a journal that the harness has damaged. Its input may be lost, and its bytes must be a dead letter.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    /// The body of the input.
    pub(crate) payload: Vec<u8>,
    /// The record as it is now.
    pub(crate) bytes: Vec<u8>,
}

impl Ledger {
    pub(super) fn check_accepted(&mut self, answer: &Accepted) -> Result<()> {
        let is_before =
            |sent_ms: i64| self.deletion.filter(|(_, deleted_ms)| sent_ms <= *deleted_ms).map(|(kind, _)| kind);
        let (is_stored, is_deleted, text, sequence) = match answer {
            Accepted::Input { marker, sequence, sent_ms } => {
                let mut keys = self.by_marker.get(marker).into_iter().flatten();
                let is_stored = keys.any(|key| sequence.is_none_or(|sequence| key.1 == sequence));
                (is_stored, is_before(*sent_ms) == Some(Deletion::Inputs), marker, sequence)
            }
            Accepted::DeadLetter { body, sequence, sent_ms } => {
                let is_it = |letter: &Vec<u8>| letter == body.as_bytes();
                let is_stored = match sequence {
                    Some(sequence) => self.http_dead_letters.get(sequence).is_some_and(is_it),
                    None => self.http_dead_letters.values().any(is_it),
                };
                (is_stored, is_before(*sent_ms) == Some(Deletion::DeadLetters), body, sequence)
            }
        };
        // An answer with a sequence promises that the journal is not needed any more.
        let is_damaged = |damage: &Damage| sequence.is_none() && contains(&damage.payload, text.as_bytes());
        if !is_stored && !is_deleted {
            ensure!(
                self.damage.as_ref().is_some_and(is_damaged),
                "the answer {answer:?} was given, but it is not stored"
            );
            self.figures.lost_by_damage += 1;
        }
        Ok(())
    }

    /// A damaged record is a dead letter, and nothing else is one with this reason.
    pub(super) fn check_damage(&mut self) -> Result<()> {
        if let Some(damage) = self.damage.take() {
            ensure!(self.damaged_letters.contains(&damage.bytes), "no dead letter has the damaged record {damage:?}");
            self.damages.push(damage);
        }
        let is_known = |letter: &Vec<u8>| self.damages.iter().any(|damage| damage.bytes == *letter);
        match self.damaged_letters.iter().find(|letter| !is_known(letter)) {
            Some(letter) => bail!("nobody has damaged {:?}", String::from_utf8_lossy(letter)),
            None => Ok(()),
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

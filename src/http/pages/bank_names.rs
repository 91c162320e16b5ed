//! The names of banks. A link has the code of its institution only, and a link that relink knows from webhooks alone has
//! not even that. So both are read from Belvo, and kept for a day.
//!
//! A page waits at most a second for a name, and is then drawn with a readable form of the code, or without a name. The read
//! goes on for the next page. A failed read is not repeated for a minute. What is read changes nothing in relink.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::belvo::{Client, LinkRead};
use crate::clock::Clock;
use crate::link::{Link, LinkId};
use crate::repair::{readable_bank, shown_bank};

/// How long a page waits for a name.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// How long a name or a code is kept.
const KEPT: Duration = Duration::from_secs(86_400);

/// After which time a read that failed, or found nothing, is repeated.
const REPEAT_AFTER: Duration = Duration::from_secs(60);

/// The most texts that are kept of each kind. If there are more, the memory begins anew.
const TEXTS_MAX: usize = 10_000;

/// The longest code that is kept, in bytes.
const CODE_LENGTH_MAX: usize = 100;

#[derive(Clone, Debug)]
struct Known {
    text: Option<String>,
    /// When it is read again, by [`Clock::elapsed`].
    until: Duration,
}

/// Texts by a key.
#[derive(Clone)]
struct Memory {
    clock: Clock,
    texts: Arc<Mutex<HashMap<String, Known>>>,
}

/// The names that are known.
#[derive(Clone)]
pub(super) struct BankNames {
    /// The name of an institution, by its code.
    names: Memory,
    /// The code of an institution, by the id of a link.
    codes: Memory,
}

/// The bank of a link.
#[derive(Clone, Debug, Default)]
pub(super) struct Bank {
    /// The name for people.
    pub(super) name: Option<String>,
    /// Belvo's code.
    pub(super) code: Option<String>,
}

impl BankNames {
    /// None yet.
    pub(super) fn new(clock: Clock) -> Self {
        let memory = || Memory { clock: clock.clone(), texts: Arc::default() };
        Self { names: memory(), codes: memory() }
    }

    /// The bank of the link.
    pub(super) async fn of(&self, belvo: Option<&Client>, link: &Link) -> Bank {
        let code = link.profile.institution.clone();
        let of_consent = link.profile.consent.as_ref().and_then(|consent| consent.institution_display_name.as_deref());
        if let Some(name) = of_consent.and_then(shown_bank) {
            return Bank { name: Some(name), code };
        }
        let unread = Bank { name: code.as_deref().and_then(readable_bank), code: code.clone() };
        let Some(belvo) = belvo.cloned() else { return unread };
        let (names, id) = (self.clone(), link.id.clone());
        let reading = tokio::spawn(async move {
            let code = match code {
                Some(code) => Some(code),
                None => names.code_of(&belvo, &id).await,
            };
            let name = match &code {
                Some(code) => names.name_of(&belvo, code).await.or_else(|| readable_bank(code)),
                None => None,
            };
            Bank { name, code }
        });
        match tokio::time::timeout(WAIT_MAX, reading).await {
            Ok(Ok(bank)) => bank,
            Ok(Err(_)) | Err(_) => unread,
        }
    }

    async fn code_of(&self, belvo: &Client, id: &LinkId) -> Option<String> {
        remembered(&self.codes, id.as_str(), async {
            let LinkRead::Found(link) = belvo.get_link(id).await.ok()? else { return None };
            let code = link.get("institution").and_then(Value::as_str)?;
            (code.len() <= CODE_LENGTH_MAX).then(|| code.to_owned())
        })
        .await
    }

    async fn name_of(&self, belvo: &Client, code: &str) -> Option<String> {
        let read = async { belvo.institution_name(code).await.ok().flatten().as_deref().and_then(shown_bank) };
        remembered(&self.names, code, read).await
    }
}

/// The text in the memory, or else the result of `read`. While one page reads a text, other pages do without it.
async fn remembered(memory: &Memory, key: &str, read: impl Future<Output = Option<String>>) -> Option<String> {
    let known = lock(memory).get(key).cloned();
    let earlier = match known {
        Some(Known { text, until }) if until > memory.clock.elapsed() => return text,
        known => known.and_then(|known| known.text),
    };
    keep(memory, key, earlier.clone(), REPEAT_AFTER);
    let text = read.await;
    let kept = if text.is_some() { KEPT } else { REPEAT_AFTER };
    let text = text.or(earlier);
    keep(memory, key, text.clone(), kept);
    text
}

fn keep(memory: &Memory, key: &str, text: Option<String>, kept: Duration) {
    let mut known = lock(memory);
    if known.len() >= TEXTS_MAX && !known.contains_key(key) {
        known.clear();
    }
    known.insert(key.to_owned(), Known { text, until: memory.clock.elapsed() + kept });
}

fn lock(memory: &Memory) -> std::sync::MutexGuard<'_, HashMap<String, Known>> {
    memory.texts.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The names of banks. A link has the code of its institution only, so the name is read from Belvo and kept for a day.
//!
//! A page waits at most a second for a name, and is then drawn with a readable form of the code. A failed read is not
//! repeated for some minutes. The codes come from records of relink, not from visitors.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::belvo::Client;
use crate::clock;
use crate::link::Profile;
use crate::repair::{readable_bank, shown_bank};

/// How long a page waits for a name.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// How long a name is kept.
const KEPT: Duration = Duration::from_secs(86_400);

/// After which time a read that failed, or found no name, is repeated.
const REPEAT_AFTER: Duration = Duration::from_secs(600);

/// The most names. Belvo has some hundreds of institutions.
const NAMES_MAX: usize = 2_000;

type Names = Arc<Mutex<HashMap<String, Known>>>;

#[derive(Clone, Debug)]
struct Known {
    name: Option<String>,
    /// When the name is read again.
    until: Instant,
}

/// The names that are known, by code.
#[derive(Clone, Default)]
pub(super) struct BankNames(Names);

impl BankNames {
    /// The name of the link's bank.
    pub(super) async fn of(&self, belvo: Option<&Client>, profile: &Profile) -> Option<String> {
        let of_consent = profile.consent.as_ref().and_then(|consent| consent.institution_display_name.as_deref());
        if let Some(name) = of_consent.and_then(shown_bank) {
            return Some(name);
        }
        let code = profile.institution.as_deref()?;
        let name = match (self.known(code), belvo) {
            (Some(known), _) if known.until > clock::instant() => known.name,
            (known, None) => known.and_then(|known| known.name),
            (known, Some(belvo)) => {
                let earlier = known.and_then(|known| known.name);
                self.read(belvo, code, earlier.clone()).await.or(earlier)
            }
        };
        name.or_else(|| readable_bank(code))
    }

    fn known(&self, code: &str) -> Option<Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(code).cloned()
    }

    /// Reads the name from Belvo. If that takes too long, it goes on for the next page.
    async fn read(&self, belvo: &Client, code: &str, earlier: Option<String>) -> Option<String> {
        // Other pages do not read the same name meanwhile.
        self.keep(code, earlier.clone(), REPEAT_AFTER);
        let (names, belvo, code) = (self.clone(), belvo.clone(), code.to_owned());
        let reading = tokio::spawn(async move {
            match belvo.institution_name(&code).await {
                Ok(name) => {
                    let name = name.as_deref().and_then(shown_bank);
                    let kept = if name.is_some() { KEPT } else { REPEAT_AFTER };
                    names.keep(&code, name.clone().or(earlier), kept);
                    name
                }
                Err(error) => {
                    tracing::debug!(institution = code, %error, "the name of an institution cannot be read");
                    None
                }
            }
        });
        tokio::time::timeout(WAIT_MAX, reading).await.ok()?.ok()?
    }

    fn keep(&self, code: &str, name: Option<String>, kept: Duration) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= NAMES_MAX && !names.contains_key(code) {
            names.clear();
        }
        names.insert(code.to_owned(), Known { name, until: clock::instant() + kept });
    }
}

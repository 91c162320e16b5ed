//! The creation of a link, the resumption of an MFA session, and new credentials.
//!
//! Each of these is one login at the bank. A success makes the link `valid`; a failure may change its status, and
//! returns one of Belvo's errors.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use uuid::Uuid;

use super::registration::NewLink;
use crate::bank_answer::BankAnswer;
use crate::error::ControlError;
use crate::institution::Access;
use crate::link::{AccessMode, Link, LinkStatus, Storage};
use crate::login::LoginFailure;
use crate::problem::Problem;
use crate::quota::Quota;
use crate::world::World;

/// A password or token with this prefix is wrong; any other is correct, as in Belvo's own sandbox.
const WRONG: &str = "wrong";

/// Belvo's key of a user at an institution: 44 characters. The same user has the same key, also after a restart of the sandbox.
fn institution_user_id(institution: &str, user: &str) -> String {
    let mut hasher = DefaultHasher::new();
    (institution, user).hash(&mut hasher);
    key_drawn_from(&mut fastrand::Rng::with_seed(hasher.finish()))
}

fn key_drawn_from(rng: &mut fastrand::Rng) -> String {
    let mut drawn = [0_u8; 32];
    rng.fill(&mut drawn);
    base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE, drawn)
}

impl World {
    /// Adds a valid link without a webhook, as if it had been connected earlier.
    pub(crate) fn add_link(&mut self, now: i64, new: NewLink) -> Uuid {
        let id = self.uuid();
        self.add_link_with_id(now, id, new);
        id
    }

    /// [`Self::add_link`] with an id that is known.
    pub(crate) fn add_link_with_id(&mut self, now: i64, id: Uuid, new: NewLink) {
        let recurrent = new.access_mode == AccessMode::Recurrent;
        let created_at = new.created_at.unwrap_or(now);
        // Drawn also if it is not used, so that a seed leads to the same ids.
        let drawn = key_drawn_from(&mut self.rng);
        let of_user = new.user.map(|user| institution_user_id(new.institution.name, &user));
        let link = Link {
            id,
            seq: self.seq(),
            institution: new.institution,
            access_mode: new.access_mode,
            status: LinkStatus::Valid,
            refresh_rate: recurrent.then(|| new.refresh_rate.unwrap_or_default()),
            created_at,
            last_accessed_at: Some(created_at),
            external_id: new.external_id,
            institution_user_id: new.institution_user_id.or(of_user).unwrap_or(drawn),
            storage: if recurrent { Storage::Store } else { new.storage.unwrap_or(Storage::Days(365)) },
            stored_at: created_at,
            stale_in: new.stale_in.unwrap_or_else(|| "365d".into()),
            fetch_resources: new
                .fetch_resources
                .unwrap_or_else(|| new.institution.resources.iter().map(|&name| name.to_owned()).collect()),
            login: BankAnswer::Works,
            fresh_data: true,
            failed_logins: 0,
            refreshed_at: None,
            collected: BTreeSet::new(),
            quota: Quota::default(),
            session: None,
            planned_refresh: None,
            planned_history: None,
        };
        self.links.insert(id, link);
        if new.institution.access == Access::Consent {
            self.give_consent(created_at, id, new.consent_ends_at);
        }
        self.plan_refresh(now, id, created_at);
    }

    /// Adds a valid link of the user of another link, created after it.
    pub(crate) fn connect_anew(&mut self, now: i64, link: Uuid) -> Result<Uuid, ControlError> {
        let old = self.links.get(&link).ok_or(ControlError::NoSuchLink(link))?;
        let new = NewLink {
            institution_user_id: Some(old.institution_user_id.clone()),
            created_at: Some(now.max(old.created_at + 1_000)),
            fetch_resources: Some(old.fetch_resources.clone()),
            ..NewLink::plain(old.institution, old.access_mode, old.external_id.clone())
        };
        Ok(self.add_link(now, new))
    }

    /// `POST /api/links/`: registers a link. Heimdall requires a token first, so the link is unconfirmed.
    pub(crate) fn create(
        &mut self,
        now: i64,
        new: NewLink,
        password: &str,
        token: Option<&str>,
    ) -> Result<Uuid, Problem> {
        if password.starts_with(WRONG) {
            return Err(Problem::login_error(LoginFailure::InvalidCredentials));
        }
        let asks = new.institution.access == Access::Token && token.is_none_or(|token| token.starts_with(WRONG));
        let id = self.add_link(now, new);
        if asks {
            if let Some(link) = self.links.get_mut(&id) {
                link.status = LinkStatus::Unconfirmed;
                link.last_accessed_at = None;
            }
            return Err(self.ask_for_token(now, id));
        }
        self.collect(now, id);
        Ok(id)
    }

    /// `PATCH /api/links/` and similar calls: the user entered the token of a 428, or confirmed if no token is expected.
    pub(crate) fn resume(
        &mut self,
        now: i64,
        session: &str,
        link: Option<Uuid>,
        token: Option<&str>,
    ) -> Result<Uuid, Problem> {
        let found = self.sessions.get(session).filter(|found| link.is_none_or(|id| id == found.link)).cloned();
        let Some(found) = found.filter(|found| self.links.contains_key(&found.link)) else {
            return Err(Problem::of("not_found"));
        };
        if found.expects_token && token.is_none() {
            return Err(Problem::field("token", "required", "This field is required."));
        }
        self.sessions.remove(session);
        if now >= found.expires_at {
            return Err(Problem::of("session_expired"));
        }
        self.has_update_mode(found.link)?;
        if found.expects_token && token.is_none_or(|token| token.starts_with(WRONG)) {
            // Belvo's response to a wrong token is not documented; its widget asks again.
            return Err(self.ask_for_token(now, found.link));
        }
        self.repair(now, found.link);
        Ok(found.link)
    }

    /// `PUT /api/links/{id}/`: new credentials. A success repairs the link under the same id.
    pub(crate) fn update(
        &mut self,
        now: i64,
        id: Uuid,
        password: Option<&str>,
        token: Option<&str>,
    ) -> Result<(), Problem> {
        self.has_update_mode(id)?;
        let link = self.links.get_mut(&id).ok_or_else(|| Problem::of("not_found"))?;
        let login = link.login.clone();
        if password.is_some_and(|password| password.starts_with(WRONG)) {
            link.failed_logins += 1;
            return Err(Problem::login_error(LoginFailure::InvalidCredentials));
        }
        match &login {
            // A new password does not resolve these errors.
            BankAnswer::Fails(failure @ (LoginFailure::Locked | LoginFailure::Forbidden))
            | BankAnswer::Fails(failure @ (LoginFailure::Unexpected | LoginFailure::MfaUnsupported)) => {
                return Err(Problem::login_error(*failure));
            }
            BankAnswer::Answers(problem) => return Err(problem.clone()),
            BankAnswer::Works | BankAnswer::TokenRequired | BankAnswer::QrRequired | BankAnswer::Fails(_) => {}
        }
        let asks = link.institution.access == Access::Token || matches!(login, BankAnswer::TokenRequired);
        let shows_qr = matches!(login, BankAnswer::QrRequired);
        if shows_qr || asks && token.is_none_or(|token| token.starts_with(WRONG)) {
            if !shows_qr {
                link.login = BankAnswer::TokenRequired;
            }
            if link.status != LinkStatus::Unconfirmed {
                link.status = LinkStatus::TokenRequired;
            }
            return Err(self.ask_for_token(now, id));
        }
        self.repair(now, id);
        Ok(())
    }

    /// Refuses new credentials for a link with a consent, which the user renews in the portal.
    pub(crate) fn has_update_mode(&self, id: Uuid) -> Result<(), Problem> {
        let is_consent = self.links.get(&id).is_some_and(|link| link.institution.access == Access::Consent);
        if is_consent { Err(Problem::of("unsupported_operation")) } else { Ok(()) }
    }
}

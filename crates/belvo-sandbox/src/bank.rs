//! What happens at a login: creating, resuming, repairing, refreshing and reading a link.
//!
//! Each of these is one attempt at the bank. A success makes the link `valid`; a failure may change its status, and
//! answers with one of Belvo's errors. Nothing here sends an answer or sleeps. Next: [`super::schedule`] for what
//! Belvo does unasked, [`super::api`] for the calls.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::institution::{Access, Institution};
use super::link::{AccessMode, Link, LinkStatus, LoginFailure, RefreshRate, Storage};
use super::problem::Problem;
use super::quota::Quota;
use super::verdict::Verdict;
use super::webhook::Webhook;
use super::world::{Rules, Session, World};

/// A password or token that starts like this is wrong; every other one is right, as in Belvo's own sandbox.
const WRONG: &str = "wrong";

/// What is needed to make a link.
#[derive(Clone, Debug)]
pub(crate) struct NewLink {
    pub(crate) institution: &'static Institution,
    pub(crate) access_mode: AccessMode,
    pub(crate) external_id: Option<String>,
    pub(crate) storage: Option<Storage>,
    pub(crate) stale_in: Option<String>,
    pub(crate) fetch_resources: Option<Vec<String>>,
    pub(crate) refresh_rate: Option<RefreshRate>,
    /// When it was connected; now, if nothing is said.
    pub(crate) created_at: Option<i64>,
    /// When its consent ends; after its usual life, if nothing is said.
    pub(crate) consent_ends_at: Option<i64>,
}

impl NewLink {
    pub(crate) fn plain(
        institution: &'static Institution,
        access_mode: AccessMode,
        external_id: Option<String>,
    ) -> Self {
        Self {
            institution,
            access_mode,
            external_id,
            storage: None,
            stale_in: None,
            fetch_resources: None,
            refresh_rate: None,
            created_at: None,
            consent_ends_at: None,
        }
    }
}

impl World {
    /// Puts a link in the world, valid and silent: as if it had been there for long.
    pub(crate) fn add_link(&mut self, now: i64, new: NewLink) -> Uuid {
        let id = self.uuid();
        let recurrent = new.access_mode == AccessMode::Recurrent;
        let created_at = new.created_at.unwrap_or(now);
        let mut user = [0_u8; 32];
        self.rng.fill(&mut user);
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
            institution_user_id: base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE, user),
            storage: if recurrent { Storage::Store } else { new.storage.unwrap_or(Storage::Days(365)) },
            stored_at: created_at,
            stale_in: new.stale_in.unwrap_or_else(|| "365d".into()),
            fetch_resources: new
                .fetch_resources
                .unwrap_or_else(|| new.institution.resources.iter().map(|&name| name.to_owned()).collect()),
            login: Verdict::Works,
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
        id
    }

    /// `POST /api/links/`: registers a user. Heimdall asks for a token first, and leaves the link unconfirmed.
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

    /// `PATCH /api/links/` and its like: the user typed the token of a 428, or confirmed without one if none is expected.
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
            // What Belvo says to a wrong token is not documented; asking again is what its widget does.
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
            // A new password is no cure for these.
            Verdict::Fails(failure @ (LoginFailure::Locked | LoginFailure::Forbidden))
            | Verdict::Fails(failure @ (LoginFailure::Unexpected | LoginFailure::MfaUnsupported)) => {
                return Err(Problem::login_error(*failure));
            }
            Verdict::Answers(problem) => return Err(problem.clone()),
            Verdict::Works | Verdict::TokenRequired | Verdict::QrRequired | Verdict::Fails(_) => {}
        }
        let asks = link.institution.access == Access::Token || matches!(login, Verdict::TokenRequired);
        let shows_qr = matches!(login, Verdict::QrRequired);
        if shows_qr || asks && token.is_none_or(|token| token.starts_with(WRONG)) {
            if !shows_qr {
                link.login = Verdict::TokenRequired;
            }
            if link.status != LinkStatus::Unconfirmed {
                link.status = LinkStatus::TokenRequired;
            }
            return Err(self.ask_for_token(now, id));
        }
        self.repair(now, id);
        Ok(())
    }

    /// A consent has no credentials: no new ones can be given, and its user renews it in the portal.
    pub(crate) fn has_update_mode(&self, id: Uuid) -> Result<(), Problem> {
        let is_consent = self.links.get(&id).is_some_and(|link| link.institution.access == Access::Consent);
        if is_consent { Err(Problem::of("unsupported_operation")) } else { Ok(()) }
    }

    /// One login to read these resources, within the limits of a consent.
    pub(crate) fn log_in_for(&mut self, now: i64, id: Uuid, resources: &[String]) -> Result<(), Problem> {
        let limited = |link: &&Link| link.institution.access == Access::Consent && link.status == LinkStatus::Valid;
        if self.links.get(&id).filter(limited).is_some_and(|link| !link.quota.allows(now, resources)) {
            return Err(Problem::of("operational_limits_reached"));
        }
        self.log_in(now, id)?;
        if let Some(link) = self.links.get_mut(&id) {
            link.quota.spend(now, resources);
        }
        Ok(())
    }

    /// One login with the stored credentials, for reading data. This is where links break.
    fn log_in(&mut self, now: i64, id: Uuid) -> Result<(), Problem> {
        let limit = self.rules.logins_until_invalid;
        let link = self.links.get_mut(&id).ok_or_else(|| Problem::of("not_found"))?;
        match link.status {
            LinkStatus::Invalid => return Err(Problem::of("invalid_link")),
            LinkStatus::Unconfirmed => return Err(Problem::of("unconfirmed_link")),
            LinkStatus::TokenRequired => return Err(self.ask_for_token(now, id)),
            LinkStatus::Valid => {}
        }
        if !link.has_credentials(now) {
            return Err(Problem::of("expired_credentials"));
        }
        match link.login.clone() {
            Verdict::Works if link.institution.access != Access::Token => {
                link.failed_logins = 0;
                link.last_accessed_at = Some(now);
                Ok(())
            }
            Verdict::Works | Verdict::TokenRequired | Verdict::QrRequired => {
                link.status = LinkStatus::TokenRequired;
                Err(self.ask_for_token(now, id))
            }
            Verdict::Fails(failure) => {
                // One failed login is not yet an invalid link: Belvo's error reference says six.
                link.failed_logins += u32::from(failure != LoginFailure::Unexpected);
                if link.failed_logins >= limit {
                    link.status = LinkStatus::Invalid;
                }
                Err(Problem::login_error(failure))
            }
            Verdict::Answers(problem) => Err(problem),
        }
    }

    /// `POST /api/links/{id}/refresh/`: answers at once, webhooks follow.
    pub(crate) fn refresh(&mut self, now: i64, id: Uuid, resources: Option<Vec<String>>) -> Result<Uuid, Problem> {
        let link = self.links.get(&id).ok_or_else(|| Problem::of("not_found"))?;
        let resources = resources.unwrap_or_else(|| link.fetch_resources.clone());
        if resources.iter().any(|name| !link.institution.resources.contains(&name.as_str())) {
            return Err(Problem::of("unsupported_operation"));
        }
        if let Some(since) = link.refreshed_at.map(|at| now - at).filter(|since| *since < Rules::REFRESH_EVERY_MS) {
            let minutes = (Rules::REFRESH_EVERY_MS - since + 59_999) / 60_000;
            return Err(Problem::link_refreshed(minutes));
        }
        self.log_in_for(now, id, &resources)?;
        let request_id = self.uuid();
        if let Some(link) = self.links.get_mut(&id) {
            link.refreshed_at = Some(now);
        }
        self.post_historical(now, id, resources, request_id);
        Ok(request_id)
    }

    /// The link works again: whatever was wrong with it is over, and open sessions are void.
    pub(crate) fn heal(&mut self, now: i64, id: Uuid) {
        self.close_session(id);
        let Some(link) = self.links.get_mut(&id) else { return };
        link.status = LinkStatus::Valid;
        link.login = Verdict::Works;
        link.failed_logins = 0;
        link.last_accessed_at = Some(now);
        link.stored_at = now;
    }

    /// The user got through the widget: the link works, and what follows a creation or a repair follows.
    pub(crate) fn repair(&mut self, now: i64, id: Uuid) {
        let first = self.links.get(&id).is_some_and(|link| link.status == LinkStatus::Unconfirmed);
        self.heal(now, id);
        if first {
            self.collect(now, id);
        } else {
            self.refresh_if_recurrent(now, id);
        }
    }

    /// After a repair Belvo refreshes a recurrent link by itself, and says so only if it finds something.
    pub(crate) fn refresh_if_recurrent(&mut self, now: i64, id: Uuid) {
        let recurrent =
            self.links.get(&id).is_some_and(|link| link.access_mode == AccessMode::Recurrent && link.fresh_data);
        if recurrent {
            self.collect(now, id);
        }
    }

    /// Posts the `historical_update` webhooks of all the link's resources; answers the refresh's request id.
    pub(crate) fn collect(&mut self, now: i64, id: Uuid) -> Uuid {
        let request_id = self.uuid();
        let resources = self.links.get(&id).map(|link| link.fetch_resources.clone()).unwrap_or_default();
        self.post_historical(now, id, resources, request_id);
        request_id
    }

    /// Posts one `historical_update` webhook per resource; from then on the data can be listed.
    pub(crate) fn post_historical(&mut self, now: i64, id: Uuid, resources: Vec<String>, request_id: Uuid) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let webhooks = Webhook::historical(link, &resources, request_id, now);
        link.collected.extend(resources);
        let due_at = now + self.rules.data_delay_ms;
        for webhook in webhooks {
            self.post(due_at, now, webhook);
        }
    }

    /// The 428: opens an MFA session, which voids the link's earlier ones.
    pub(crate) fn ask_for_token(&mut self, now: i64, id: Uuid) -> Problem {
        self.close_session(id);
        let session = self.uuid().simple().to_string();
        let expires_at = now + Rules::SESSION_LIFE_MS;
        let mut expects_token = true;
        if let Some(link) = self.links.get_mut(&id) {
            link.session = Some(session.clone());
            expects_token = !matches!(link.login, Verdict::QrRequired);
        }
        self.sessions.insert(session.clone(), Session { link: id, expires_at, expects_token });
        Problem::token_required(id, &session, Rules::SESSION_LIFE_MS / 1_000, expects_token)
    }

    /// Voids the MFA session of a link, if one is open.
    fn close_session(&mut self, id: Uuid) {
        let session = self.links.get_mut(&id).and_then(|link| link.session.take());
        if let Some(session) = session {
            self.sessions.remove(&session);
        }
    }
}

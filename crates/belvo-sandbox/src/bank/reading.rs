//! A login with the stored credentials, to read or refresh data. A failed login can break a link.

use uuid::Uuid;

use crate::bank_answer::BankAnswer;
use crate::institution::Access;
use crate::link::{Link, LinkStatus};
use crate::login::LoginFailure;
use crate::problem::Problem;
use crate::world::{Rules, Session, World};

impl World {
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

    /// One login with the stored credentials, for reading data. A failure can break the link.
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
            BankAnswer::Works if link.institution.access != Access::Token => {
                link.failed_logins = 0;
                link.last_accessed_at = Some(now);
                Ok(())
            }
            BankAnswer::Works | BankAnswer::TokenRequired | BankAnswer::QrRequired => {
                link.status = LinkStatus::TokenRequired;
                Err(self.ask_for_token(now, id))
            }
            BankAnswer::Fails(failure) => {
                // A link becomes invalid after several failed logins: Belvo's error reference says six.
                link.failed_logins += u32::from(failure != LoginFailure::Unexpected);
                if link.failed_logins >= limit {
                    link.status = LinkStatus::Invalid;
                }
                Err(Problem::login_error(failure))
            }
            BankAnswer::Answers(problem) => Err(problem),
        }
    }

    /// `POST /api/links/{id}/refresh/`: responds immediately; webhooks follow.
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

    /// The 428: opens an MFA session, which voids the link's earlier ones.
    pub(crate) fn ask_for_token(&mut self, now: i64, id: Uuid) -> Problem {
        self.close_session(id);
        let session = self.uuid().simple().to_string();
        let expires_at = now + Rules::SESSION_LIFE_MS;
        let mut expects_token = true;
        if let Some(link) = self.links.get_mut(&id) {
            link.session = Some(session.clone());
            expects_token = !matches!(link.login, BankAnswer::QrRequired);
        }
        self.sessions.insert(session.clone(), Session { link: id, expires_at, expects_token });
        Problem::token_required(id, &session, Rules::SESSION_LIFE_MS / 1_000, expects_token)
    }

    /// Voids the MFA session of a link, if one is open.
    pub(super) fn close_session(&mut self, id: Uuid) {
        let session = self.links.get_mut(&id).and_then(|link| link.session.take());
        if let Some(session) = session {
            self.sessions.remove(&session);
        }
    }
}

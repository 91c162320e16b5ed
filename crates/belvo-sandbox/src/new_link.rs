//! Links that already exist at the start of a simulation.
//!
//! Next: [`super::drive`], which moves the time.

use serde_json::Value;
use uuid::Uuid;

use crate::bank::NewLink;
use crate::bank_answer::BankAnswer;
use crate::clock::{LATEST_MS, parse_time};
use crate::consent::Consent;
use crate::control::Control;
use crate::error::ControlError;
use crate::institution::Institution;
use crate::link::{AccessMode, LinkStatus, RefreshRate};
use crate::login::LoginFailure;
use crate::world::World;

/// A link to add. A field that is `None` has Belvo's default.
#[derive(Clone, Debug)]
pub struct NewFleetLink {
    /// The institution, by name.
    pub institution: String,
    /// Whether Belvo refreshes it on a schedule.
    pub access_mode: AccessMode,
    /// The customer's id of the user.
    pub external_id: Option<String>,
    /// The name with which the user logs in at the bank. Links with one institution and one name have the same `institution_user_id`.
    pub username: Option<String>,
    /// The refresh rate of a recurrent link; by default `7d`.
    pub refresh_rate: Option<RefreshRate>,
    /// The fetched resources; by default all of the institution.
    pub fetch_resources: Option<Vec<String>>,
    /// The time of its creation, in milliseconds since the Unix epoch; by default now. The scheduled refreshes are
    /// counted from this time.
    pub created_at_ms: Option<i64>,
    /// The end of its consent, if its institution needs one; by default 366 days after its start.
    pub consent_ends_at_ms: Option<i64>,
    /// Whether its first `historical_update` webhooks are sent now.
    pub is_announced: bool,
}

impl Default for NewFleetLink {
    fn default() -> Self {
        Self {
            institution: "erebor_mx_retail".into(),
            access_mode: AccessMode::Recurrent,
            external_id: None,
            username: None,
            refresh_rate: None,
            fetch_resources: None,
            created_at_ms: None,
            consent_ends_at_ms: None,
            is_announced: false,
        }
    }
}

/// The time or, if RFC 3339 cannot express it, the nearest time that RFC 3339 can express.
fn written(at_ms: i64) -> i64 {
    at_ms.clamp(0, LATEST_MS)
}

impl Control {
    /// Adds a link of an earlier sandbox, as [`Self::kept_links`] showed it: with its id, its times, its status and its consent, and without a
    /// webhook. A consent that has ended meanwhile ends at once.
    ///
    /// # Errors
    /// If the institution does not exist, or a field cannot be read.
    pub fn restore_link(&self, link: &Value) -> Result<(), ControlError> {
        let text = |name: &str| link[name].as_str().unwrap_or_default();
        let unreadable = |name: &str| ControlError::NotALink(format!("the field {name} of the link cannot be read"));
        let id: Uuid = text("id").parse().map_err(|_| unreadable("id"))?;
        let status: LinkStatus = text("status").parse().map_err(|_| unreadable("status"))?;
        let access_mode = text("access_mode").parse().map_err(|_| unreadable("access_mode"))?;
        let name = text("institution");
        let institution = Institution::find(name).ok_or_else(|| ControlError::NoSuchInstitution(name.to_owned()))?;
        let time =
            |name: &str| link[name].as_str().map(|at| parse_time(at).ok_or_else(|| unreadable(name))).transpose();
        let last_accessed_at = time("last_accessed_at")?;
        let kept = link.get("consent").map(|kept| Consent::of_kept(id, kept).ok_or_else(|| unreadable("consent")));
        let consent = kept.transpose()?;
        let new = NewLink {
            created_at: time("created_at")?,
            institution_user_id: link["institution_user_id"].as_str().map(str::to_owned),
            refresh_rate: text("refresh_rate").parse().ok(),
            ..NewLink::plain(institution, access_mode, link["external_id"].as_str().map(str::to_owned))
        };
        self.shared.change(|world, now| {
            world.add_link_with_id(now, id, new);
            if let Some(consent) = consent {
                world.restore_consent(consent);
            }
            if let Some(link) = world.links.get_mut(&id) {
                link.status = status;
                link.last_accessed_at = last_accessed_at;
                link.collected = link.fetch_resources.iter().cloned().collect();
                link.login = match status {
                    LinkStatus::Invalid => BankAnswer::Fails(LoginFailure::InvalidCredentials),
                    LinkStatus::TokenRequired => BankAnswer::TokenRequired,
                    LinkStatus::Valid | LinkStatus::Unconfirmed => BankAnswer::Works,
                };
            }
        });
        Ok(())
    }

    /// Adds a valid link.
    ///
    /// # Errors
    /// If the institution does not exist, or lacks one of the resources.
    pub fn add_fleet_link(&self, new: NewFleetLink) -> Result<Uuid, ControlError> {
        let institution =
            Institution::find(&new.institution).ok_or(ControlError::NoSuchInstitution(new.institution))?;
        let lacks = |name: &&String| !institution.resources.contains(&name.as_str());
        if let Some(name) = new.fetch_resources.iter().flatten().find(lacks) {
            return Err(ControlError::NoSuchResource(name.clone()));
        }
        let link = NewLink {
            user: new.username,
            refresh_rate: new.refresh_rate,
            fetch_resources: new.fetch_resources,
            created_at: new.created_at_ms.map(written),
            consent_ends_at: new.consent_ends_at_ms.map(written),
            ..NewLink::plain(institution, new.access_mode, new.external_id)
        };
        Ok(self.shared.change(|world, now| {
            let id = world.add_link(now, link);
            world.has_been_refreshed(now, id);
            if new.is_announced {
                world.collect(now, id);
            }
            id
        }))
    }
}

impl World {
    /// The last refresh of an existing link: one interval before its next refresh.
    fn has_been_refreshed(&mut self, now: i64, id: Uuid) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let last = link.planned_refresh.zip(link.refresh_rate).map(|((next, _), rate)| next - rate.span_ms());
        link.last_accessed_at = link.last_accessed_at.max(last.filter(|&last| (link.created_at..now).contains(&last)));
    }
}

//! Links with a past: a program that simulates a customer adds thousands of them.
//!
//! Next: [`super::drive`], which lets them live.

use uuid::Uuid;

use crate::bank::NewLink;
use crate::clock::LATEST_MS;
use crate::control::Control;
use crate::error::ControlError;
use crate::institution::Institution;
use crate::link::{AccessMode, RefreshRate};
use crate::world::World;

/// A link to add. A field that is `None` has Belvo's default.
#[derive(Clone, Debug)]
pub struct NewFleetLink {
    /// Its institution, by name.
    pub institution: String,
    /// Whether Belvo refreshes it by itself.
    pub access_mode: AccessMode,
    /// What the customer calls the user.
    pub external_id: Option<String>,
    /// How often it is refreshed, if it is recurrent; else `7d`.
    pub refresh_rate: Option<RefreshRate>,
    /// What is fetched; else all that the institution has.
    pub fetch_resources: Option<Vec<String>>,
    /// When its user connected it, in milliseconds since the Unix epoch; else now. Its scheduled refreshes are counted
    /// from there.
    pub created_at_ms: Option<i64>,
    /// When its consent ends, if its institution wants one; else 366 days after it was given.
    pub consent_ends_at_ms: Option<i64>,
    /// Whether its first `historical_update` webhooks are sent now; else it has been there for long, and nothing is.
    pub is_announced: bool,
}

impl Default for NewFleetLink {
    fn default() -> Self {
        Self {
            institution: "erebor_mx_retail".into(),
            access_mode: AccessMode::Recurrent,
            external_id: None,
            refresh_rate: None,
            fetch_resources: None,
            created_at_ms: None,
            consent_ends_at_ms: None,
            is_announced: false,
        }
    }
}

/// The nearest time that can be written.
fn written(at_ms: i64) -> i64 {
    at_ms.clamp(0, LATEST_MS)
}

impl Control {
    /// Puts a link into the world, valid.
    ///
    /// # Errors
    /// If there is no such institution, or it lacks one of the resources.
    pub fn add_fleet_link(&self, new: NewFleetLink) -> Result<Uuid, ControlError> {
        let institution =
            Institution::find(&new.institution).ok_or(ControlError::NoSuchInstitution(new.institution))?;
        let lacks = |name: &&String| !institution.resources.contains(&name.as_str());
        if let Some(name) = new.fetch_resources.iter().flatten().find(lacks) {
            return Err(ControlError::NoSuchResource(name.clone()));
        }
        let link = NewLink {
            refresh_rate: new.refresh_rate,
            fetch_resources: new.fetch_resources,
            created_at: new.created_at_ms.map(written),
            consent_ends_at: new.consent_ends_at_ms.map(written),
            ..NewLink::plain(institution, new.access_mode, new.external_id)
        };
        Ok(self.shared.change(|world, now| {
            let id = world.add_link(now, link);
            world.has_been_refreshed(id);
            if new.is_announced {
                world.collect(now, id);
            }
            id
        }))
    }
}

impl World {
    /// A link that was connected long ago has been refreshed since: one interval before its next refresh.
    fn has_been_refreshed(&mut self, id: Uuid) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let last = link.planned_refresh.zip(link.refresh_rate).map(|((next, _), rate)| next - rate.span_ms());
        link.last_accessed_at = link.last_accessed_at.max(last.filter(|&last| last > link.created_at));
    }
}

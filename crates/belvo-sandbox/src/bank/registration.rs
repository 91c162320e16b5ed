//! The data of a new link.

use crate::institution::Institution;
use crate::link::{AccessMode, RefreshRate, Storage};

/// The data of a new link.
#[derive(Clone, Debug)]
pub(crate) struct NewLink {
    pub(crate) institution: &'static Institution,
    pub(crate) access_mode: AccessMode,
    pub(crate) external_id: Option<String>,
    /// The user's name at the institution. Links of one institution and one name are of the same user.
    pub(crate) user: Option<String>,
    /// The key of its user at the institution; by default that of `user`, or of a new user.
    pub(crate) institution_user_id: Option<String>,
    pub(crate) storage: Option<Storage>,
    pub(crate) stale_in: Option<String>,
    pub(crate) fetch_resources: Option<Vec<String>>,
    pub(crate) refresh_rate: Option<RefreshRate>,
    /// The time of its creation; by default now.
    pub(crate) created_at: Option<i64>,
    /// The end of its consent; by default after the default duration.
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
            user: None,
            institution_user_id: None,
            storage: None,
            stale_in: None,
            fetch_resources: None,
            refresh_rate: None,
            created_at: None,
            consent_ends_at: None,
        }
    }
}

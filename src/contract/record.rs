//! A link's whole state as JSON: the body of `link.state.<link>` and, byte for byte, what the store keeps.
//!
//! One form for both, so that a rebuild of the store is a copy of the stream and "what does the disk say" has one answer. It must be lossless:
//! `Record::link` of `Record::of` is the same link, and a test holds that.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::output::Because;
use super::words::{AccessModeWord, At, StateWord, is_false};
use crate::link::{Episode, Link, LinkId, Profile, Quiet, Session, State};

mod parts;

use parts::{AsksRecord, ConsentRecord, EpisodeRecord, RefreshRecord, SeenRecord, SuspicionRecord, UpdateRecord};

/// Body of `link.state.<link>`: everything relink knows of one link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Link state")]
pub struct Record {
    /// The schema version of this body.
    pub schema_version: u16,
    /// Belvo's link id.
    pub link_id: String,
    /// The partition of the input stream that the link belongs to.
    pub lane: u16,
    /// How many events have changed the link; the first part of every message id after the link id.
    pub version: u64,
    /// relink's word on the link.
    pub state: StateWord,
    /// When it entered that state.
    pub since: At,
    /// When its last event was taken in.
    pub updated_at: At,
    /// The customer's own id for it.
    pub external_id: Option<String>,
    /// Belvo's name of the institution.
    pub institution: Option<String>,
    /// Whether Belvo refreshes it by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_mode: Option<AccessModeWord>,
    /// How often Belvo refreshes it, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_every_secs: Option<u64>,
    /// The resources Belvo fetches for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fetch_resources: Vec<String>,
    /// The outage, while there is one.
    pub episode: Option<EpisodeRecord>,
    /// How many outages it has had.
    pub episodes_count: u32,
    /// When the institution's MFA session ends, if one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_expires_at: Option<At>,
    /// The attempt to repair it, while it is `updating`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdateRecord>,
    /// Evidence against it that is being checked, while it is `valid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspicion: Option<SuspicionRecord>,
    /// The last time data was proven to flow.
    pub data_at: Option<At>,
    /// When it last recovered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered_at: Option<At>,
    /// The historical refresh that is owed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<RefreshRecord>,
    /// A recurrent link's missing refresh is being looked for until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence_probed_until: Option<At>,
    /// Its silence has been reported.
    #[serde(default, skip_serializing_if = "is_false")]
    pub silence_reported: bool,
    /// The open-finance consent behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent: Option<ConsentRecord>,
    /// A refresh that relink asked for was answered with a request for an MFA token: it asks for none any more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub refresh_needs_token: bool,
    /// How often relink asked for a refresh lately, if it did and the link has a consent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asks: Option<AsksRecord>,
    /// An operator wants no prompts for it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub muted: bool,
    /// An operator wants no reminders before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snoozed_until: Option<At>,
    /// Belvo was asked then and has not answered yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_asked_at: Option<At>,
    /// Somebody said then that it was repaired although no outage was known: a report of it may be late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_at: Option<At>,
    /// Its user holds a widget token until then that no attempt in `update` accounts for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub widget_until: Option<At>,
    /// Facts taken in lately, by which a repeat is recognised. For relink's own use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recent: Vec<SeenRecord>,
    /// The transition that led here.
    pub because: Because,
    /// The ids of the messages that were sent with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sent: Vec<String>,
}

/// A record that cannot be turned back into a link: written by a newer relink, or damaged.
#[derive(Debug, thiserror::Error)]
pub enum BadRecord {
    /// Not the JSON of a record.
    #[error("not a link record: {0}")]
    NotARecord(#[from] serde_json::Error),
    /// A newer relink wrote it.
    #[error(
        "schema version {found} of a link record was written by a newer relink (this one reads up to {known}); upgrade this node"
    )]
    FutureVersion {
        /// The record's version.
        found: u16,
        /// The newest version this program reads.
        known: u16,
    },
    /// A field contradicts another.
    #[error("link record with impossible field `{0}`")]
    Impossible(&'static str),
}

impl Record {
    /// The record of a link.
    pub fn of(link: &Link, lane: u16, because: Because, sent: Vec<String>) -> Self {
        let (mut session_expires_at, mut update, mut suspicion) = (None, None, None);
        match &link.state {
            State::Unconfirmed | State::Invalid { .. } | State::Removed => {}
            State::Valid { suspicion: held } => suspicion = held.as_ref().map(SuspicionRecord::of),
            State::TokenRequired { episode } => {
                session_expires_at = episode.session.map(|session| At(session.expires_at));
            }
            State::Updating { phase, .. } => update = Some(UpdateRecord::of(*phase)),
        }
        let (silence_probed_until, silence_reported) = match link.quiet {
            Quiet::Listening => (None, false),
            Quiet::Probed { until } => (Some(At(until)), false),
            Quiet::Reported => (None, true),
        };
        let profile = &link.profile;
        Self {
            schema_version: super::SCHEMA_VERSION,
            link_id: link.id.to_string(),
            lane,
            version: link.version,
            state: link.state.name().into(),
            since: At(link.since),
            updated_at: At(link.updated_at),
            external_id: profile.external_id.clone(),
            institution: profile.institution.clone(),
            access_mode: profile.access_mode.map(AccessModeWord::from),
            refresh_every_secs: profile.refresh_every.map(|every| every.as_secs()),
            fetch_resources: profile.fetch_resources.clone(),
            episode: link.state.episode().map(|episode| EpisodeRecord::of(&link.id, episode)),
            episodes_count: link.episodes_count,
            session_expires_at,
            update,
            suspicion,
            data_at: link.data_at.map(At),
            recovered_at: link.recovered_at.map(At),
            refresh: link.refresh.as_ref().map(RefreshRecord::of),
            silence_probed_until,
            silence_reported,
            consent: profile.consent.as_deref().map(ConsentRecord::of),
            refresh_needs_token: link.refresh_needs_token,
            asks: AsksRecord::of(link.asks),
            muted: link.muted,
            snoozed_until: link.snoozed_until.map(At),
            verify_asked_at: link.verify_asked_at.map(At),
            claimed_at: link.claimed_at.map(At),
            widget_until: link.widget_until.map(At),
            recent: link.recent.iter().map(SeenRecord::of).collect(),
            because,
            sent,
        }
    }

    /// Reads a record's JSON.
    ///
    /// # Errors
    /// [`BadRecord`] if it is none, or of a newer schema version.
    pub fn parse(json: &[u8]) -> Result<Self, BadRecord> {
        let record: Self = match serde_json::from_slice(json) {
            Ok(record) => record,
            Err(error) => {
                // A newer version may well have another shape: say the more useful thing.
                #[derive(Deserialize)]
                struct Version {
                    schema_version: u16,
                }
                let known = super::SCHEMA_VERSION;
                return match serde_json::from_slice::<Version>(json) {
                    Ok(Version { schema_version: found }) if found > known => {
                        Err(BadRecord::FutureVersion { found, known })
                    }
                    Ok(_) | Err(_) => Err(error.into()),
                };
            }
        };
        if record.schema_version > super::SCHEMA_VERSION {
            return Err(BadRecord::FutureVersion { found: record.schema_version, known: super::SCHEMA_VERSION });
        }
        Ok(record)
    }

    /// The link it describes.
    ///
    /// # Errors
    /// [`BadRecord::Impossible`] if its fields contradict each other.
    pub fn link(&self) -> Result<Link, BadRecord> {
        let id: LinkId = self.link_id.parse().map_err(|_| BadRecord::Impossible("link_id"))?;
        let quiet = match (self.silence_probed_until, self.silence_reported) {
            (None, false) => Quiet::Listening,
            (Some(At(until)), _) => Quiet::Probed { until },
            (None, true) => Quiet::Reported,
        };
        Ok(Link {
            id,
            version: self.version,
            profile: Profile {
                external_id: self.external_id.clone(),
                institution: self.institution.clone(),
                access_mode: self.access_mode.map(Into::into),
                refresh_every: self.refresh_every_secs.map(Duration::from_secs),
                fetch_resources: self.fetch_resources.clone(),
                consent: self.consent.as_ref().map(|consent| Box::new(consent.parse())),
            },
            state: self.parse_state()?,
            since: self.since.0,
            updated_at: self.updated_at.0,
            episodes_count: self.episodes_count,
            data_at: self.data_at.map(|at| at.0),
            recovered_at: self.recovered_at.map(|at| at.0),
            refresh: self.refresh.as_ref().map(RefreshRecord::parse),
            quiet,
            refresh_needs_token: self.refresh_needs_token,
            asks: self.asks.as_ref().map(AsksRecord::parse).transpose()?.unwrap_or_default(),
            muted: self.muted,
            snoozed_until: self.snoozed_until.map(|at| at.0),
            verify_asked_at: self.verify_asked_at.map(|at| at.0),
            claimed_at: self.claimed_at.map(|at| at.0),
            widget_until: self.widget_until.map(|at| at.0),
            recent: self.recent.iter().map(SeenRecord::parse).collect::<Result<_, _>>()?,
        })
    }

    fn parse_state(&self) -> Result<State, BadRecord> {
        let episode = || self.episode.as_ref().ok_or(BadRecord::Impossible("episode"))?.parse();
        Ok(match self.state {
            StateWord::Unconfirmed => State::Unconfirmed,
            StateWord::Valid => State::Valid { suspicion: self.suspicion.as_ref().map(SuspicionRecord::parse) },
            StateWord::Invalid => State::Invalid { episode: episode()? },
            StateWord::TokenRequired => {
                let session = self.session_expires_at.map(|At(expires_at)| Session { expires_at });
                State::TokenRequired { episode: Episode { session, ..episode()? } }
            }
            StateWord::Updating => {
                let update = self.update.as_ref().ok_or(BadRecord::Impossible("update"))?;
                State::Updating { episode: episode()?, phase: update.parse_phase(self.since)? }
            }
            StateWord::Removed => State::Removed,
        })
    }
}

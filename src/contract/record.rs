//! The record: the complete state of a link as JSON. It is the body of `$KV.links.<link>`, and the store keeps the
//! same bytes.
//!
//! Because the bytes are the same, a rebuild of the store is a copy of the stream. A record loses nothing:
//! `Record::link` of `Record::of` gives the same link, also with the extreme values of every field: a test checks that.
//! If one field of a record cannot be read, [`Record::repair`] keeps the others.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::output::Because;
use super::person::MessagedRecord;
use super::rfc3339::At;
use super::trace::TraceContext;
use super::words::{AccessModeWord, StateWord, is_false};
use crate::link::{Creation, Episode, Freshness, Link, LinkId, NOT_SUPERSEDED_BY_MAX, Profile, Session, State};

mod facts;
mod parts;
mod repair;

pub use parts::{EpisodeRecord, PromptWord, UpdatePhaseWord};
pub use repair::Repaired;

use facts::RecentFacts;
use parts::{ConsentRecord, OutageRecord, RefreshQuotaRecord, RefreshRecord, SuspicionRecord, UpdateRecord};

/// Body of `$KV.links.<link>`: the complete state of one link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Link state")]
pub struct Record {
    /// The schema version of this body.
    pub schema_version: u16,
    /// Belvo's id of the link.
    pub link_id: String,
    /// The partition of the input stream that the link belongs to.
    #[serde(alias = "lane")]
    pub partition: u16,
    /// How many events have changed the link. In message ids it follows the link id.
    pub version: u64,
    /// The state of the link.
    pub state: StateWord,
    /// When the link entered this state.
    pub since: At,
    /// When the last event was accepted.
    pub updated_at: At,
    /// The customer's own id of the link or of its user.
    pub external_id: Option<String>,
    /// Belvo's name of the institution.
    pub institution: Option<String>,
    /// Belvo's key of the user at the institution: the same for every link that the user makes with the same login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub institution_user_id: Option<String>,
    /// When the link was created at Belvo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<At>,
    /// Whether Belvo refreshes the link on a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_mode: Option<AccessModeWord>,
    /// The interval of Belvo's scheduled refreshes, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_every_secs: Option<u64>,
    /// The resources that Belvo fetches for the link.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fetch_resources: Vec<String>,
    /// When Belvo first reported that the creation of the link is not finished. Only until the notice about it, or the question to Belvo
    /// before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished_since: Option<At>,
    /// The creation of the link is not finished for long, and Belvo is being asked: if it does not answer, `creation_unfinished` is published
    /// at this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished_probed_until: Option<At>,
    /// `creation_unfinished` was published.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unfinished_announced: bool,
    /// The open episode, if there is one.
    pub episode: Option<EpisodeRecord>,
    /// How many episodes the link has had, including an open one.
    pub episodes_count: u32,
    /// When the open MFA session expires, if one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_expires_at: Option<At>,
    /// The attempt to repair the link, while its state is `updating`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdateRecord>,
    /// Evidence that the link is broken, while it is being verified. Only in the state `valid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspicion: Option<SuspicionRecord>,
    /// When data last arrived, as far as is proven.
    pub data_at: Option<At>,
    /// When the link last recovered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered_at: Option<At>,
    /// The historical refresh after the last recovery, while it is not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<RefreshRecord>,
    /// A refresh is overdue: if no data has arrived at this time, the link is reported as stale.
    #[serde(default, alias = "silence_probed_until", skip_serializing_if = "Option::is_none")]
    pub stale_probed_until: Option<At>,
    /// The link has been reported as stale.
    #[serde(default, alias = "silence_reported", skip_serializing_if = "is_false")]
    pub stale_reported: bool,
    /// The open-finance consent behind the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent: Option<ConsentRecord>,
    /// The institution answered a refresh of relink with a request for an MFA token, so relink asks for no refresh any
    /// more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub refresh_needs_token: bool,
    /// How many refreshes relink has asked for in a month, if the link has a consent.
    #[serde(default, alias = "asks", skip_serializing_if = "Option::is_none")]
    pub refresh_quota: Option<RefreshQuotaRecord>,
    /// An operator has muted the link: its user is neither prompted nor reminded.
    #[serde(default, skip_serializing_if = "is_false")]
    pub muted: bool,
    /// Links that do not supersede this one, by an operator's command `unsupersede`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_superseded_by: Vec<String>,
    /// Before this time the user is not reminded, by an operator's command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snoozed_until: Option<At>,
    /// The last message to the user about this link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messaged: Option<MessagedRecord>,
    /// When the open verify request was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_asked_at: Option<At>,
    /// When a repair was claimed although no outage was known; the message about the outage may be late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_at: Option<At>,
    /// Until when the user holds a widget token outside of an attempt in `update`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub widget_until: Option<At>,
    /// The outage of the institution that was announced by `institution_down`, until it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub institution_outage: Option<OutageRecord>,
    /// The dedup keys of recently accepted messages, by which a repeat is recognised. For relink's own use.
    #[serde(default, skip_serializing_if = "RecentFacts::is_empty")]
    #[schemars(with = "String")]
    pub recent: RecentFacts,
    /// The transition that led to this state.
    pub because: Because,
    /// The ids of the notices and jobs of the same step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sent: Vec<String>,
}

/// A record that cannot be converted to a link: a newer relink wrote it, or it is damaged.
#[derive(Debug, thiserror::Error)]
pub enum BadRecord {
    /// The bytes are not the JSON of a record.
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
    /// A field contradicts another field.
    #[error("link record with impossible field `{0}`")]
    Impossible(&'static str),
}

impl Record {
    /// The record of a link.
    pub fn of(link: &Link, partition: u16, because: Because, sent: Vec<String>) -> Self {
        let (mut session_expires_at, mut update, mut suspicion) = (None, None, None);
        match &link.state {
            State::Unconfirmed | State::Invalid { .. } | State::Removed => {}
            State::Valid { suspicion: evidence } => suspicion = evidence.as_ref().map(SuspicionRecord::of),
            State::TokenRequired { episode } => {
                session_expires_at = episode.session.map(|session| At(session.expires_at));
            }
            State::Updating { phase, .. } => update = Some(UpdateRecord::of(*phase)),
        }
        let (stale_probed_until, stale_reported) = match link.freshness {
            Freshness::Fresh => (None, false),
            Freshness::Probed { until } => (Some(At(until)), false),
            Freshness::Stale => (None, true),
        };
        let (mut unfinished_since, mut unfinished_probed_until) = (None, None);
        match link.creation {
            Creation::Unfinished { since } => unfinished_since = Some(At(since)),
            Creation::Probed { until } => unfinished_probed_until = Some(At(until)),
            Creation::NotReported | Creation::Announced => {}
        }
        let profile = &link.profile;
        Self {
            schema_version: super::SCHEMA_VERSION,
            link_id: link.id.to_string(),
            partition,
            version: link.version,
            state: link.state.name().into(),
            since: At(link.since),
            updated_at: At(link.updated_at),
            external_id: profile.external_id.clone(),
            institution: profile.institution.clone(),
            institution_user_id: profile.institution_user_id.clone(),
            created_at: profile.created_at.map(At),
            access_mode: profile.access_mode.map(AccessModeWord::from),
            refresh_every_secs: profile.refresh_every.map(|every| every.as_secs()),
            fetch_resources: profile.fetch_resources.clone(),
            unfinished_since,
            unfinished_probed_until,
            unfinished_announced: link.creation == Creation::Announced,
            episode: link.state.episode().map(|episode| EpisodeRecord::of(&link.id, episode)),
            episodes_count: link.episodes_count,
            session_expires_at,
            update,
            suspicion,
            data_at: link.data_at.map(At),
            recovered_at: link.recovered_at.map(At),
            refresh: link.refresh.as_ref().map(RefreshRecord::of),
            stale_probed_until,
            stale_reported,
            consent: profile.consent.as_deref().map(ConsentRecord::of),
            refresh_needs_token: link.refresh_needs_token,
            refresh_quota: RefreshQuotaRecord::of(link.refresh_quota),
            muted: link.muted,
            not_superseded_by: link.not_superseded_by.iter().map(ToString::to_string).collect(),
            snoozed_until: link.snoozed_until.map(At),
            messaged: link.messaged.as_ref().map(MessagedRecord::of),
            verify_asked_at: link.verify_asked_at.map(At),
            claimed_at: link.claimed_at.map(At),
            widget_until: link.widget_until.map(At),
            institution_outage: link.institution_outage.map(OutageRecord::of),
            recent: RecentFacts(link.recent.clone()),
            because,
            sent,
        }
    }

    /// The same record with the trace of the input that began its episode. Without an open episode it keeps none.
    #[must_use]
    pub fn with_trace(mut self, began: Option<&TraceContext>) -> Self {
        if let (Some(episode), Some(began)) = (&mut self.episode, began) {
            episode.traceparent = Some(began.traceparent());
        }
        self
    }

    /// The trace of the input that began the open episode.
    pub fn trace(&self) -> Option<TraceContext> {
        TraceContext::parse(self.episode.as_ref()?.traceparent.as_deref()?)
    }

    /// Reads a record's JSON.
    ///
    /// # Errors
    /// [`BadRecord`]: the bytes are no record, or the record has a newer schema version.
    pub fn parse(json: &[u8]) -> Result<Self, BadRecord> {
        let record: Self = match serde_json::from_slice(json) {
            Ok(record) => record,
            Err(error) => {
                // A newer version may have another shape; then the version is the more helpful error.
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

    /// Converts the record to the link.
    ///
    /// # Errors
    /// [`BadRecord::Impossible`]: two fields contradict each other.
    pub fn link(&self) -> Result<Link, BadRecord> {
        let id: LinkId = self.link_id.parse().map_err(|_| BadRecord::Impossible("link_id"))?;
        let freshness = match (self.stale_probed_until, self.stale_reported) {
            (None, false) => Freshness::Fresh,
            (Some(At(until)), _) => Freshness::Probed { until },
            (None, true) => Freshness::Stale,
        };
        let creation = match (self.unfinished_since, self.unfinished_probed_until, self.unfinished_announced) {
            (_, _, true) => Creation::Announced,
            (_, Some(At(until)), false) => Creation::Probed { until },
            (Some(At(since)), None, false) => Creation::Unfinished { since },
            (None, None, false) => Creation::NotReported,
        };
        Ok(Link {
            id,
            version: self.version,
            profile: Profile {
                external_id: self.external_id.clone(),
                institution: self.institution.clone(),
                institution_user_id: self.institution_user_id.clone(),
                created_at: self.created_at.map(|at| at.0),
                access_mode: self.access_mode.map(Into::into),
                refresh_every: self.refresh_every_secs.map(Duration::from_secs),
                fetch_resources: self.fetch_resources.clone(),
                consent: self.consent.as_ref().map(|consent| Box::new(consent.parse())),
            },
            state: self.parse_state()?,
            since: self.since.0,
            updated_at: self.updated_at.0,
            creation,
            episodes_count: self.episodes_count,
            data_at: self.data_at.map(|at| at.0),
            recovered_at: self.recovered_at.map(|at| at.0),
            refresh: self.refresh.as_ref().map(RefreshRecord::parse),
            freshness,
            refresh_needs_token: self.refresh_needs_token,
            refresh_quota: self.refresh_quota.as_ref().map(RefreshQuotaRecord::parse).transpose()?.unwrap_or_default(),
            muted: self.muted,
            not_superseded_by: parse_links(&self.not_superseded_by)?,
            snoozed_until: self.snoozed_until.map(|at| at.0),
            messaged: self.messaged.as_ref().map(MessagedRecord::parse).transpose()?,
            verify_asked_at: self.verify_asked_at.map(|at| at.0),
            claimed_at: self.claimed_at.map(|at| at.0),
            widget_until: self.widget_until.map(|at| at.0),
            institution_outage: self.institution_outage.map(OutageRecord::parse),
            recent: self.recent.0.clone(),
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

fn parse_links(ids: &[String]) -> Result<Vec<LinkId>, BadRecord> {
    let parse = |id: &String| id.parse().map_err(|_| BadRecord::Impossible("not_superseded_by"));
    let oldest = ids.len().saturating_sub(NOT_SUPERSEDED_BY_MAX);
    ids[oldest..].iter().map(parse).collect()
}

#[cfg(test)]
mod tests;

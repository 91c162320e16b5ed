//! Corrects the times of a link after a clock had been ahead.
//!
//! The time of a step is the time at which the NATS server stored the message. If the clock of that server is ahead for
//! some seconds, the steps of these seconds lie in the future, and so do the deadlines that they set; later steps never
//! have an earlier time. So the link would do nothing until that future has come: no reminder, no end of an attempt.
//! When the clock is right again, the caller asks for the correction ([`correct_times`]). It changes nothing but times:
//! a time that has passed becomes at most now, and a wait ends at most as late as one that begins now.

use std::time::Duration;

use super::{
    Creation, Episode, Freshness, InstitutionOutage, Link, Messaged, Month, Policy, Prompt, Refresh, RefreshQuota,
    Session, State, Step, Suspicion, Timestamp, UpdatePhase,
};

/// A link whose last step lies at most this far in the future is not corrected: two clocks always differ a little.
pub const CLOCK_AHEAD_MAX: Duration = Duration::from_secs(5 * 60);

/// The longest MFA session of Belvo that has been seen is 9 600 seconds.
const SESSION_MAX: Duration = Duration::from_secs(4 * 3600);

/// The longest wait for the end of quiet hours. They may be those of several time zones.
const POSTPONED_MAX: Duration = Duration::from_secs(24 * 3600);

/// The step that corrects the times of a link; `None` if its last step lies at most [`CLOCK_AHEAD_MAX`] after `now`, or
/// if the link is removed. The caller must be sure that `now` is not too early.
pub fn correct_times(link: &Link, now: Timestamp, policy: &Policy) -> Option<Step> {
    if link.updated_at <= now.after(CLOCK_AHEAD_MAX) || link.state == State::Removed {
        return None;
    }
    let mut corrected = Corrector { now, policy }.link(link.clone());
    corrected.version += 1;
    Some(Step {
        from: link.state.name(),
        link: corrected,
        at: now,
        effects: Vec::new(),
        times_corrected: true,
        due: None,
        held: None,
        outage_notice_at: None,
    })
}

struct Corrector<'a> {
    now: Timestamp,
    policy: &'a Policy,
}

impl Corrector<'_> {
    /// A time that has passed.
    fn past(&self, at: Timestamp) -> Timestamp {
        at.min(self.now)
    }

    fn past_or_none(&self, at: Option<Timestamp>) -> Option<Timestamp> {
        at.map(|at| self.past(at))
    }

    /// The end of a wait that lasts at most `span`.
    fn wait(&self, until: Timestamp, span: Duration) -> Timestamp {
        until.min(self.now.after(span))
    }

    /// How long a message to the user may be postponed: quiet hours may follow the reminder pause.
    fn postponed_max(&self) -> Duration {
        self.policy.reminder_pause() + POSTPONED_MAX
    }

    /// How long Belvo's answer is waited for at most, after all kinds of requests.
    fn answer_wait(&self) -> Duration {
        let settings = self.policy.settings();
        settings.incident_wait.max(settings.verify_wait) * settings.verify_attempts_max
    }

    // Every field is named, so that a new one does not compile before it is decided whether it is corrected.
    fn link(&self, link: Link) -> Link {
        let settings = self.policy.settings();
        let Link {
            id,
            version,
            profile,
            state,
            since,
            updated_at: _,
            creation,
            episodes_count,
            data_at,
            recovered_at,
            refresh,
            freshness,
            refresh_needs_token,
            refresh_quota,
            muted,
            not_superseded_by,
            // An operator chose this time.
            snoozed_until,
            messaged,
            verify_asked_at,
            claimed_at,
            widget_until,
            institution_outage,
            mut recent,
        } = link;
        let mut profile = profile;
        if let Some(consent) = &mut profile.consent {
            consent.postponed_until = consent.postponed_until.map(|until| self.wait(until, self.postponed_max()));
        }
        recent.iter_mut().for_each(|seen| seen.at = self.past(seen.at));
        Link {
            id,
            version,
            // All other times of a consent, and the creation of the link, are Belvo's.
            profile,
            state: self.state(state),
            since: self.past(since),
            updated_at: self.now,
            creation: match creation {
                Creation::Unfinished { since } => Creation::Unfinished { since: self.past(since) },
                Creation::Probed { until } => Creation::Probed { until: self.wait(until, self.answer_wait()) },
                Creation::NotReported | Creation::Announced => creation,
            },
            episodes_count,
            data_at: self.past_or_none(data_at),
            recovered_at: self.past_or_none(recovered_at),
            refresh: refresh.map(|refresh| self.refresh(refresh)),
            freshness: match freshness {
                Freshness::Probed { until } => Freshness::Probed { until: self.wait(until, self.answer_wait()) },
                Freshness::Fresh | Freshness::Stale => freshness,
            },
            refresh_needs_token,
            refresh_quota: RefreshQuota {
                month: refresh_quota.month.min(Month::of(self.now)),
                count: refresh_quota.count,
                refused_until: refresh_quota.refused_until.map(|until| until.min(Month::of(self.now).end())),
            },
            muted,
            not_superseded_by,
            snoozed_until,
            messaged: messaged.map(|message| Messaged { at: self.past(message.at), ..message }),
            verify_asked_at: self.past_or_none(verify_asked_at),
            claimed_at: self.past_or_none(claimed_at),
            widget_until: widget_until.map(|until| self.wait(until, settings.update_wait_max)),
            // The beginning of the outage identifies it.
            institution_outage: institution_outage.map(|outage| InstitutionOutage {
                check_at: outage.check_at.map(|at| self.wait(at, POSTPONED_MAX.max(settings.incident_wait))),
                ..outage
            }),
            recent,
        }
    }

    fn state(&self, state: State) -> State {
        let settings = self.policy.settings();
        match state {
            State::Unconfirmed | State::Removed => state,
            State::Valid { suspicion } => {
                let wait = self.answer_wait().max(settings.settle_window);
                let suspicion = suspicion.map(|Suspicion { breakage, at, until }| Suspicion {
                    breakage,
                    at: self.past(at),
                    until: self.wait(until, wait),
                });
                State::Valid { suspicion }
            }
            State::Invalid { episode } => State::Invalid { episode: self.episode(episode) },
            State::TokenRequired { episode } => State::TokenRequired { episode: self.episode(episode) },
            State::Updating { episode, phase } => {
                let phase = match phase {
                    UpdatePhase::WithUser { started_at, until } => UpdatePhase::WithUser {
                        started_at: self.past(started_at),
                        until: self.wait(until, settings.update_wait_max),
                    },
                    UpdatePhase::Verifying { after, asked_count, until } => {
                        UpdatePhase::Verifying { after, asked_count, until: self.wait(until, settings.verify_wait) }
                    }
                };
                State::Updating { episode: self.episode(episode), phase }
            }
        }
    }

    fn episode(&self, episode: Episode) -> Episode {
        let Episode {
            number,
            cause,
            session,
            opened_at,
            observed_at,
            refused_at,
            prompt,
            reminders_count,
            next_reminder_at,
            remind_by,
            reminder_waits_since,
            mention_counted_at,
            tried_at,
            attempts_count,
            arrived,
            superseded_by,
            successor_named,
            is_released,
        } = episode;
        let opened_at = self.past(opened_at);
        let pause = self.policy.reminder_pause();
        // The next reminder as if the last message to the user had been sent now, and not before the policy's time after the opening.
        let step = self.policy.settings().reminders.get(reminders_count as usize);
        let distance = self.policy.reminder_distance(reminders_count);
        let latest =
            step.zip(distance).map(|(&step, distance)| opened_at.after(step).max(self.now.after(distance.max(pause))));
        let next_reminder_at = next_reminder_at.map(|at| latest.map_or(at, |latest| at.min(latest)));
        Episode {
            number,
            cause,
            session: session.map(|Session { expires_at }| Session { expires_at: self.wait(expires_at, SESSION_MAX) }),
            opened_at,
            observed_at: self.past_or_none(observed_at),
            refused_at: self.past_or_none(refused_at),
            prompt: match prompt {
                Prompt::Deferred { until, asked_at } => Prompt::Deferred {
                    until: self.wait(until, self.answer_wait()),
                    asked_at: self.past_or_none(asked_at),
                },
                Prompt::Postponed { until } => Prompt::Postponed { until: self.wait(until, self.postponed_max()) },
                Prompt::Unidentified { until } => {
                    Prompt::Unidentified { until: self.wait(until, self.policy.settings().verify_wait) }
                }
                Prompt::Sent | Prompt::Muted => prompt,
            },
            reminders_count,
            next_reminder_at,
            remind_by: remind_by.and_then(|at| next_reminder_at.map(|next| at.min(next.after(pause)))),
            reminder_waits_since: self.past_or_none(reminder_waits_since),
            mention_counted_at: mention_counted_at.map(|at| self.past(at)),
            tried_at: self.past_or_none(tried_at),
            attempts_count,
            arrived,
            superseded_by,
            successor_named,
            is_released,
        }
    }

    fn refresh(&self, refresh: Refresh) -> Refresh {
        let Refresh { gap_from, gap_to, asked, rounds_count, until, arrived } = refresh;
        // Belvo's monthly quota may have postponed the refresh to the next month.
        let latest = self.now.after(self.policy.settings().refresh_wait).max(Month::of(self.now).end());
        Refresh {
            gap_from: self.past_or_none(gap_from),
            gap_to: self.past(gap_to),
            asked,
            rounds_count,
            until: until.min(latest),
            arrived,
        }
    }
}

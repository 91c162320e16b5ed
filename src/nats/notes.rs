//! Writes the notes of the node to the log and the metrics.

use crate::activity::ActivityLog;
use crate::contract::{IncidentBody, IncidentChange};
use crate::engine::{Activity, Creations};
use crate::link::LinkId;
use crate::metric;
use crate::nats::step_spans;
use crate::nats::subject::Subjects;
use crate::node::{Limit, Note};

/// Logs and counts a note. `log` gets what the steps of a commit did.
pub(super) fn publish(note: Note, log: &ActivityLog, subjects: &Subjects) {
    match note {
        Note::Planned { counts } => {
            for ((kind, outcome), count) in counts {
                metrics::counter!(metric::INPUTS.name, "kind" => kind, "outcome" => outcome).increment(count);
            }
        }
        Note::Stored { messages_count, took, spans, planned_ago } => {
            metrics::histogram!(metric::COMMIT_MESSAGES.name).record(messages_count as f64);
            metrics::histogram!(metric::COMMIT_SECONDS.name).record(took);
            step_spans::publish(spans, planned_ago, subjects);
        }
        Note::Committed { incidents, activity, incidents_count, unreadable_fields } => {
            metrics::gauge!(metric::INCIDENTS.name).set(incidents_count as f64);
            count(&activity);
            log.add(&activity);
            incidents.iter().for_each(publish_incident);
            for (link, field) in unreadable_fields {
                metrics::counter!(metric::UNREADABLE_FIELDS.name, "field" => field).increment(1);
                tracing::warn!(
                    link.id = %link,
                    input.field = field,
                    "a field of an input cannot be read; the input was handled without it"
                );
            }
        }
        Note::CaughtUp { states_count, rebuilt } => {
            tracing::info!(states_count, rebuilt, "caught up with the output stream");
        }
        Note::InputsRemoved { partition, at_least, before } => {
            metrics::counter!(metric::INPUTS_REMOVED.name).increment(at_least);
            tracing::error!(
                partition,
                at_least,
                input.sequence = before,
                "inputs were removed from the input stream before relink has read them: somebody purged the stream or deleted messages, or a \
                 limit of its size or age removed them"
            );
        }
        Note::StatesLost { links_count, expected_links_count, link } => {
            metrics::counter!(metric::STATES_LOST.name).increment(1);
            publish_lost(links_count, expected_links_count, link);
        }
        Note::StoreRestarted { store_sequence, stream_last_sequence, stream_is_another, kept_at } => tracing::error!(
            store.sequence = store_sequence,
            stream.last_sequence = stream_last_sequence,
            stream.is_another = stream_is_another,
            store.kept_at = kept_at.unwrap_or_else(|| "nowhere".to_owned()),
            "the store does not belong to the output stream as it is now: the stream lost messages or was created again, or the store is a copy of \
             an earlier time; relink keeps the store aside and builds a new one from the stream"
        ),
        Note::InputStreamMoved { partition, behind } => tracing::info!(
            partition,
            resumed_after = behind,
            "the input stream was restored or moved: it has the last handled message, so the partition continues after it"
        ),
        Note::InputStreamIsAnother { partition } => {
            tracing::warn!(partition, "the input stream was created again; the partition starts at its beginning");
        }
        Note::InputTailLost { partition, committed, stream_last_sequence, behind } => tracing::error!(
            partition,
            committed.sequence = committed,
            stream.last_sequence = stream_last_sequence,
            resumed_after = behind,
            "the input stream lost acknowledged messages; the partition resumes with the first message after the loss"
        ),
        Note::TimersHeldTooLong { held } => tracing::warn!(
            waited_seconds = held.as_secs(),
            "deadlines have waited for inputs that relink has accepted and could not handle, for example because the input stream is full; \
             they are handled now, without these inputs"
        ),
        Note::ClockJumped { by_ms, is_confirmed: false } => {
            metrics::counter!(metric::CLOCK_JUMPS.name, "clock" => "nats").increment(1);
            tracing::warn!(
                clock.ahead_seconds = by_ms as f64 / 1_000.0,
                "the clock of the NATS server does not have the expected time; until it is clear which clock is wrong, timers use the earlier one"
            );
        }
        Note::ClockJumped { by_ms, is_confirmed: true } => tracing::warn!(
            clock.ahead_seconds = by_ms as f64 / 1_000.0,
            "the other time of the NATS server has stayed for a minute; timers use it now"
        ),
        Note::HostClockJumped { by_ms } => {
            metrics::counter!(metric::CLOCK_JUMPS.name, "clock" => "host").increment(1);
            tracing::warn!(clock.changed_seconds = by_ms as f64 / 1_000.0, "the clock of this host was changed");
        }
        Note::ClockRight => tracing::info!("the clock of the NATS server has the expected time again"),
        Note::OutputTailLost { store_sequence, commit_sequence } => tracing::error!(
            store.sequence = store_sequence,
            commit.sequence = commit_sequence,
            "the output stream lost its last messages; the store is rebuilt from the messages that are left"
        ),
        Note::Skipped { sequence, problem } => tracing::error!(
            nats.sequence = sequence,
            error = problem,
            "a message on the output stream cannot be read and was skipped"
        ),
        Note::TooLarge { items_count, limit } => {
            let limit = match limit {
                Limit::Messages => "jetstream.limits.batch.max_msgs",
                Limit::MessageBytes => "max_payload, or the stream's max_msg_size",
            };
            tracing::warn!(items_count, limit, "NATS refused a commit that is too large; the next commits are smaller");
        }
        Note::LinkUnreadable { link } => {
            metrics::counter!(metric::LINKS_UNREADABLE.name).increment(1);
            tracing::error!(
                link.id = %link,
                "the record of a link cannot be read, so its inputs become dead letters: stop relink, move the store's directory away, \
                 start relink again, then replay the dead letters"
            );
        }
        Note::TimerSetAside { of } => {
            metrics::counter!(metric::TIMERS_SET_ASIDE.name).increment(1);
            tracing::error!(of, "a timer cannot be handled; it will not fire again until the next start");
        }
        Note::StartingOver { problem, pause_ms } => {
            tracing::warn!(
                error = problem,
                pause_ms,
                "partitions stopped; they will start again after their committed offsets"
            );
        }
    }
}

fn publish_lost(links_count: u64, expected_links_count: u64, link: Option<(LinkId, u64)>) {
    match link {
        Some((link, version)) => tracing::error!(
            link.id = %link,
            link.version = version,
            "the output stream has lost the last state of a link, probably because a file of NATS is damaged: relink continues with an \
             older state, under this version. Check the disk of NATS, and send the command `verify` for the link"
        ),
        None => tracing::error!(
            links_count,
            expected_links_count,
            "the output stream has lost states of links, probably because a file of NATS is damaged: relink continues with older states, \
             so some prompts may be repeated or missing, and ids (ce-id) may be given out again. Check the disk of NATS, and restore the \
             stream from a backup if you have one"
        ),
    }
}

fn count(activity: &Activity) {
    for ((from, to), count) in &activity.transitions {
        let (from, to) = (from.as_str(), to.as_str());
        metrics::counter!(metric::TRANSITIONS.name, "from" => from, "to" => to).increment(*count);
    }
    for (name, count) in &activity.notices {
        metrics::counter!(metric::NOTICES.name, "type" => name.as_str()).increment(*count);
    }
    for (number, count) in &activity.prompts {
        // The policy may have any number of reminders, and each label is a time series.
        let number = if *number < 10 { number.to_string() } else { "10+".to_owned() };
        metrics::counter!(metric::PROMPTS.name, "reminder" => number).increment(*count);
    }
    for time in &activity.detected_after {
        metrics::histogram!(metric::DETECT_SECONDS.name).record(*time);
    }
    for time in &activity.data_age {
        metrics::histogram!(metric::DATA_AGE_SECONDS.name).record(*time);
    }
    for time in &activity.prompted_after {
        metrics::histogram!(metric::PROMPT_SECONDS.name).record(*time);
    }
    for time in &activity.repaired_after {
        metrics::histogram!(metric::REPAIR_SECONDS.name).record(*time);
    }
    metrics::counter!(metric::PROMPTS_DEFERRED.name).increment(activity.prompts_deferred_count);
    let Creations { begun, finished, unfinished, removed } = activity.creations;
    for (outcome, count) in [("begun", begun), ("finished", finished), ("unfinished", unfinished), ("removed", removed)]
    {
        metrics::counter!(metric::CREATIONS.name, "outcome" => outcome).increment(count);
    }
}

/// Logs an incident, so that operators see it without a subscription.
fn publish_incident(incident: &IncidentBody) {
    let IncidentBody { institution, links_count, deferred_count, .. } = incident;
    let cause = incident.cause.as_str();
    match incident.change {
        IncidentChange::Began => tracing::warn!(
            institution,
            cause,
            links_count,
            "an institution is down: the prompts of its links are deferred until the incident ends"
        ),
        IncidentChange::Ended => tracing::info!(
            institution,
            cause,
            links_count,
            deferred_count,
            "the incident has ended: the institution is no longer down; relink verifies the links with deferred prompts"
        ),
        IncidentChange::Degraded => {
            tracing::warn!(institution, cause, "something does not work at an institution; prompts are still sent");
        }
        IncidentChange::Recovered => tracing::info!(institution, cause, "the institution works again"),
    }
}

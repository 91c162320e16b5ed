//! What the node has to say, for the log and the metrics.

use crate::contract::{IncidentBody, IncidentNews};
use crate::metric;
use crate::node::{Limit, Note};

/// Logs and counts a note.
pub(super) fn publish(note: Note) {
    match note {
        Note::Planned { counts } => {
            for ((kind, outcome), count) in counts {
                metrics::counter!(metric::INPUTS.name, "kind" => kind, "outcome" => outcome).increment(count);
            }
        }
        Note::Committing { messages_count } => {
            metrics::histogram!(metric::COMMIT_MESSAGES.name).record(messages_count as f64);
        }
        Note::Committed { incidents, prompts_held_count, incidents_count, unread } => {
            metrics::gauge!(metric::INCIDENTS.name).set(incidents_count as f64);
            metrics::counter!(metric::PROMPTS_DEFERRED.name).increment(prompts_held_count);
            incidents.iter().for_each(publish_incident);
            for (link, field) in unread {
                metrics::counter!(metric::UNREADABLE_FIELDS.name, "field" => field).increment(1);
                tracing::warn!(link.id = %link, input.field = field, "a field of an input cannot be read; it is taken for unknown");
            }
        }
        Note::CaughtUp { states_count, rebuilt } => {
            tracing::info!(states_count, rebuilt, "caught up with the stream of states");
        }
        Note::StoreRestarted { store_sequence, stream_last_sequence, stream_is_another, kept_at } => tracing::error!(
            store.sequence = store_sequence,
            stream.last_sequence = stream_last_sequence,
            stream.is_another = stream_is_another,
            store.kept_at = kept_at.unwrap_or_else(|| "nowhere".to_owned()),
            "the store knew more than the stream of states, which lost its tail or was created anew; the store is rebuilt from the stream"
        ),
        Note::InputStreamIsAnother { partition } => {
            tracing::warn!(partition, "the input stream was created anew; the partition starts at its beginning");
        }
        Note::InputTailLost { partition, committed, stream_last_sequence, behind } => tracing::error!(
            partition,
            committed.sequence = committed,
            stream.last_sequence = stream_last_sequence,
            resumed_behind = behind,
            "the input stream lost its tail and with it messages that it had acknowledged; the partition goes on with what was stored since"
        ),
        Note::OutputTailLost { store_sequence, commit_sequence } => tracing::error!(
            store.sequence = store_sequence,
            commit.sequence = commit_sequence,
            "the stream of states lost its tail; the store is rebuilt from what is left"
        ),
        Note::Skipped { sequence, problem } => tracing::error!(
            nats.sequence = sequence,
            error = problem,
            "skipped a message on the stream of states that is not ours"
        ),
        Note::TooLarge { items_count, limit } => {
            let limit = match limit {
                Limit::Messages => "jetstream.limits.batch.max_msgs",
                Limit::MessageBytes => "max_payload, or the stream's max_msg_size",
            };
            tracing::warn!(items_count, limit, "NATS refused a commit that is too large; the next ones are smaller");
        }
        Note::LinkUnreadable { link } => {
            metrics::counter!(metric::LINKS_UNREADABLE.name).increment(1);
            tracing::error!(
                link.id = %link,
                "the record of a link cannot be read, and its inputs are set aside: stop relink, move the store's directory away, \
                 start it again, then replay the dead letters"
            );
        }
        Note::TimerSetAside { of } => {
            metrics::counter!(metric::TIMERS_SET_ASIDE.name).increment(1);
            tracing::error!(of, "a timer cannot be handled; it is left alone until the next start");
        }
        Note::StartingOver { problem, pause_ms } => {
            tracing::warn!(error = problem, pause_ms, "partitions stopped and will start again behind the last commit");
        }
    }
}

/// Says of incidents what operations should see without subscribing.
fn publish_incident(incident: &IncidentBody) {
    let IncidentBody { institution, links_count, held_count, .. } = incident;
    match incident.news {
        IncidentNews::Began => tracing::warn!(
            institution,
            links_count,
            "many links of one institution failed together: its links' prompts wait until that is over"
        ),
        IncidentNews::Ended => tracing::info!(
            institution,
            links_count,
            held_count,
            "the institution's links fail no more than usual; Belvo is asked about those whose prompts waited"
        ),
    }
}

//! The resume point of a partition: the message after its committed offset, if the offset is still valid for the input stream.
//!
//! A sequence number alone does not show that. A stream that was created again starts at 1, and a server that lost its last messages in a
//! host crash assigns their sequence numbers a second time. In both cases new inputs would count as handled, and would be skipped without notice.
//! So a committed offset ([`CommittedOffset`]) also has the creation time of the stream and the time at which its message was stored, in
//! nanoseconds, and this file compares both.
//!
//! A stream that was restored from a backup, or copied to another account or server, has another creation time, but the same messages with
//! the same sequences and storing times. So if the message at the offset has the storing time of the offset, it is the same stream. If it
//! has not, the backup may be older than the offset; then the stream has messages that are older than its own creation.

use super::input::StreamFacts;
use super::output::Note;
use crate::contract::CommittedOffset;

/// The next step to find the resume point.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// The partition resumes after this sequence.
    ResumeAfter(u64, Option<Note>),
    /// Look up when the message at the committed offset was stored.
    LookUp { sequence: u64 },
    /// Look up when this message was stored: the last one that is not newer than the committed offset. The stream has another creation time.
    LookUpOlder { sequence: u64 },
    /// Find the first message that was stored after this time; the partition resumes with it.
    Find { after_ns: i64 },
}

/// The first step, from the committed offset and the facts of the input stream.
pub(super) fn first_step(offset: Option<&CommittedOffset>, input: StreamFacts) -> Step {
    let Some(offset) = offset else { return Step::ResumeAfter(0, None) };
    if offset.sequence <= input.last_sequence {
        Step::LookUp { sequence: offset.sequence }
    } else {
        Step::Find { after_ns: offset.stored_at_ns }
    }
}

/// The step after the look-up of the message at the offset: it was stored at this time, or the stream no longer has it (`None`).
pub(super) fn looked_up(
    partition: u16,
    offset: &CommittedOffset,
    input: StreamFacts,
    stored_at_ns: Option<i64>,
) -> Step {
    let has_same_creation = offset.stream_created_ns == input.created_ns;
    match stored_at_ns {
        Some(at) if at == offset.stored_at_ns => {
            let moved = Note::InputStreamMoved { partition, behind: offset.sequence };
            Step::ResumeAfter(offset.sequence, (!has_same_creation).then_some(moved))
        }
        // The stream has deleted the message because of its age, so every remaining message is newer.
        None if has_same_creation => Step::ResumeAfter(offset.sequence, None),
        Some(_) | None => Step::Find { after_ns: offset.stored_at_ns },
    }
}

/// The step after the search for the first message that was stored later; `None` if there is none.
pub(super) fn found(partition: u16, offset: &CommittedOffset, input: StreamFacts, first: Option<u64>) -> Step {
    let after = first.map_or(input.last_sequence, |first| first.saturating_sub(1));
    if offset.stream_created_ns == input.created_ns {
        return resume_after_loss(partition, offset, input, after);
    }
    match after {
        0 => Step::ResumeAfter(0, Some(Note::InputStreamIsAnother { partition })),
        sequence => Step::LookUpOlder { sequence },
    }
}

/// The step after the look-up of the message `sequence`, which is older than the committed offset, in a stream with another creation time.
/// The stream itself stored the messages that are not older than its creation, so they have not been handled, even if a clock that was set
/// back makes them older than the offset. An older message was restored from a backup.
pub(super) fn looked_up_older(
    partition: u16,
    offset: &CommittedOffset,
    input: StreamFacts,
    sequence: u64,
    stored_at_ns: Option<i64>,
) -> Step {
    if stored_at_ns.is_some_and(|at| at >= input.created_ns) {
        return Step::ResumeAfter(0, Some(Note::InputStreamIsAnother { partition }));
    }
    resume_after_loss(partition, offset, input, sequence)
}

fn resume_after_loss(partition: u16, offset: &CommittedOffset, input: StreamFacts, after: u64) -> Step {
    let note = Note::InputTailLost {
        partition,
        committed: offset.sequence,
        stream_last_sequence: input.last_sequence,
        behind: after,
    };
    Step::ResumeAfter(after, Some(note))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUT: StreamFacts = StreamFacts { created_ns: 5_000, last_sequence: 100 };

    /// A committed offset of a message that was stored at 1 000 ns.
    fn committed(stream_created_ns: i64, sequence: u64) -> CommittedOffset {
        CommittedOffset { stream_created_ns, sequence, stored_at_ns: 1_000, journals: Vec::new() }
    }

    fn resumed_after_loss(step: Step) -> u64 {
        match step {
            Step::ResumeAfter(after, Some(Note::InputTailLost { .. })) => after,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_partition_without_an_offset_starts_at_the_beginning() {
        assert_eq!(first_step(None, INPUT), Step::ResumeAfter(0, None));
    }

    #[test]
    fn a_stream_that_was_created_again_is_read_from_its_beginning() {
        let another = Step::ResumeAfter(0, Some(Note::InputStreamIsAnother { partition: 3 }));
        let offset = committed(4, 50);
        assert_eq!(first_step(Some(&offset), INPUT), Step::LookUp { sequence: 50 });
        assert_eq!(looked_up(3, &offset, INPUT, Some(6_000)), Step::Find { after_ns: 1_000 });
        assert_eq!(found(3, &offset, INPUT, Some(1)), another);
        assert_eq!(found(3, &offset, StreamFacts { last_sequence: 0, ..INPUT }, None), another);
        // The clock of the server was set back: the new stream has messages that are older than the offset.
        let set_back = StreamFacts { created_ns: 500, ..INPUT };
        assert_eq!(found(3, &offset, set_back, None), Step::LookUpOlder { sequence: 100 });
        assert_eq!(looked_up_older(3, &offset, set_back, 100, Some(900)), another);
    }

    #[test]
    fn a_restored_stream_is_the_same_stream() {
        let offset = committed(4, 50);
        let moved = Note::InputStreamMoved { partition: 3, behind: 50 };
        assert_eq!(looked_up(3, &offset, INPUT, Some(1_000)), Step::ResumeAfter(50, Some(moved)));
        // The message at the offset was too old for the backup.
        assert_eq!(looked_up(3, &offset, INPUT, None), Step::Find { after_ns: 1_000 });
        assert_eq!(found(3, &offset, INPUT, Some(61)), Step::LookUpOlder { sequence: 60 });
        assert_eq!(resumed_after_loss(looked_up_older(3, &offset, INPUT, 60, None)), 60);
        // The backup is older than the offset.
        let offset = committed(4, 101);
        assert_eq!(first_step(Some(&offset), INPUT), Step::Find { after_ns: 1_000 });
        assert_eq!(found(3, &offset, INPUT, Some(98)), Step::LookUpOlder { sequence: 97 });
        assert_eq!(resumed_after_loss(looked_up_older(3, &offset, INPUT, 97, Some(999))), 97);
    }

    #[test]
    fn an_offset_is_valid_if_the_stream_has_its_message_or_has_deleted_it() {
        let offset = committed(5_000, 100);
        assert_eq!(first_step(Some(&offset), INPUT), Step::LookUp { sequence: 100 });
        assert_eq!(looked_up(3, &offset, INPUT, Some(1_000)), Step::ResumeAfter(100, None));
        assert_eq!(looked_up(3, &offset, INPUT, None), Step::ResumeAfter(100, None));
    }

    #[test]
    fn after_a_lost_tail_a_partition_resumes_with_the_first_later_message() {
        assert_eq!(first_step(Some(&committed(5_000, 101)), INPUT), Step::Find { after_ns: 1_000 });
        let offset = committed(5_000, 90);
        assert_eq!(looked_up(3, &offset, INPUT, Some(1_001)), Step::Find { after_ns: 1_000 });
        let resumed_after = |first| resumed_after_loss(found(3, &offset, INPUT, first));
        assert_eq!((resumed_after(Some(88)), resumed_after(Some(1)), resumed_after(None)), (87, 0, 100));
    }
}

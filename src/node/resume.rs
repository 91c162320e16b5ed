//! The resume point of a partition: the message after its committed offset, if the offset is still valid for the input stream.
//!
//! A sequence number alone does not show that. A stream that was created again starts at 1, and a server that lost its last messages in a
//! host crash assigns their sequence numbers a second time. In both cases new inputs would look old, and would be skipped without notice.
//! So a committed offset ([`CommittedOffset`]) also has the creation time of the stream and the time at which its message was stored, and
//! this file compares both.

use super::input::StreamFacts;
use super::output::Note;
use crate::contract::CommittedOffset;

/// The next step to find the resume point.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// The partition resumes after this sequence.
    ResumeAfter(u64, Option<Note>),
    /// Look up when this message was stored.
    LookUp { sequence: u64 },
    /// Find the first message that was stored after this time; the partition resumes with it.
    Find { after_ns: i64 },
}

/// The first step, from the committed offset and the facts of the input stream.
pub(super) fn first_step(partition: u16, offset: Option<&CommittedOffset>, input: StreamFacts) -> Step {
    let Some(offset) = offset else { return Step::ResumeAfter(0, None) };
    if offset.stream_created_ns != input.created_ns {
        return Step::ResumeAfter(0, Some(Note::InputStreamIsAnother { partition }));
    }
    if offset.sequence <= input.last_sequence {
        Step::LookUp { sequence: offset.sequence }
    } else {
        Step::Find { after_ns: offset.stored_at_ns }
    }
}

/// The step after the look-up of the message at the offset: it was stored at this time, or the stream no longer has it (`None`).
pub(super) fn looked_up(offset: &CommittedOffset, stored_at_ns: Option<i64>) -> Step {
    match stored_at_ns {
        Some(at) if at != offset.stored_at_ns => Step::Find { after_ns: offset.stored_at_ns },
        // The stream has deleted the message because of its age, so every remaining message is newer.
        Some(_) | None => Step::ResumeAfter(offset.sequence, None),
    }
}

/// The step after the search for the first message that was stored later; `None` if there is none.
pub(super) fn found(partition: u16, offset: &CommittedOffset, input: StreamFacts, first: Option<u64>) -> Step {
    let after = first.map_or(input.last_sequence, |first| first.saturating_sub(1));
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

    const INPUT: StreamFacts = StreamFacts { created_ns: 5, last_sequence: 100 };

    fn committed(stream_created_ns: i64, sequence: u64) -> CommittedOffset {
        CommittedOffset { stream_created_ns, sequence, stored_at_ns: 1_000 }
    }

    #[test]
    fn a_partition_without_an_offset_starts_at_the_beginning() {
        assert_eq!(first_step(3, None, INPUT), Step::ResumeAfter(0, None));
    }

    #[test]
    fn a_stream_that_was_created_again_is_read_from_its_beginning() {
        let note = Note::InputStreamIsAnother { partition: 3 };
        assert_eq!(first_step(3, Some(&committed(4, 50)), INPUT), Step::ResumeAfter(0, Some(note)));
    }

    #[test]
    fn an_offset_is_valid_if_the_stream_has_its_message_or_has_deleted_it() {
        let offset = committed(5, 100);
        assert_eq!(first_step(3, Some(&offset), INPUT), Step::LookUp { sequence: 100 });
        assert_eq!(looked_up(&offset, Some(1_000)), Step::ResumeAfter(100, None));
        assert_eq!(looked_up(&offset, None), Step::ResumeAfter(100, None));
    }

    #[test]
    fn after_a_lost_tail_a_partition_resumes_with_the_first_later_message() {
        assert_eq!(first_step(3, Some(&committed(5, 101)), INPUT), Step::Find { after_ns: 1_000 });
        let offset = committed(5, 90);
        assert_eq!(looked_up(&offset, Some(1_001)), Step::Find { after_ns: 1_000 });
        let resumed_after = |first| match found(3, &offset, INPUT, first) {
            Step::ResumeAfter(after, Some(Note::InputTailLost { .. })) => after,
            other => panic!("{other:?}"),
        };
        assert_eq!((resumed_after(Some(88)), resumed_after(Some(1)), resumed_after(None)), (87, 0, 100));
    }
}

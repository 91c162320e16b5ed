//! Where a partition goes on: behind its committed offset, if that still speaks of this input stream.
//!
//! A sequence number alone is not enough. A stream that was created anew starts at 1 again, and a server that lost its tail in a host
//! crash gives sequence numbers out a second time; either way new input would look old and be dropped in silence. So a committed offset
//! ([`CommittedOffset`]) names the stream's creation and the time at which its message was stored, and both are compared here.

use super::input::StreamFacts;
use super::output::Note;
use crate::contract::CommittedOffset;

/// The next step on the way to where a partition goes on.
#[derive(Debug, PartialEq)]
pub(super) enum Place {
    /// It goes on behind this sequence.
    Behind(u64, Option<Note>),
    /// It depends on when this message was stored.
    LookUp { sequence: u64 },
    /// It goes on with the first message stored after this time.
    Find { after_ns: i64 },
}

/// The first step.
pub(super) fn place(partition: u16, offset: Option<&CommittedOffset>, input: StreamFacts) -> Place {
    let Some(offset) = offset else { return Place::Behind(0, None) };
    if offset.stream_created_ns != input.created_ns {
        return Place::Behind(0, Some(Note::InputStreamIsAnother { partition }));
    }
    if offset.sequence <= input.last_sequence {
        Place::LookUp { sequence: offset.sequence }
    } else {
        Place::Find { after_ns: offset.stored_at_ns }
    }
}

/// The step after the message at the offset was looked up: it was stored at this time, or is no longer there.
pub(super) fn looked_up(offset: &CommittedOffset, stored_at_ns: Option<i64>) -> Place {
    match stored_at_ns {
        Some(at) if at != offset.stored_at_ns => Place::Find { after_ns: offset.stored_at_ns },
        // One that is not there has aged out of the stream: whatever is there is newer.
        Some(_) | None => Place::Behind(offset.sequence, None),
    }
}

/// The step after the first message stored later was found, or none.
pub(super) fn found(partition: u16, offset: &CommittedOffset, input: StreamFacts, first: Option<u64>) -> Place {
    let behind = first.map_or(input.last_sequence, |first| first.saturating_sub(1));
    let note = Note::InputTailLost {
        partition,
        committed: offset.sequence,
        stream_last_sequence: input.last_sequence,
        behind,
    };
    Place::Behind(behind, Some(note))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUT: StreamFacts = StreamFacts { created_ns: 5, last_sequence: 100 };

    fn committed(stream_created_ns: i64, sequence: u64) -> CommittedOffset {
        CommittedOffset { stream_created_ns, sequence, stored_at_ns: 1_000 }
    }

    #[test]
    fn a_partition_that_has_handled_nothing_starts_at_the_beginning() {
        assert_eq!(place(3, None, INPUT), Place::Behind(0, None));
    }

    #[test]
    fn a_stream_made_anew_is_read_from_its_beginning() {
        let note = Note::InputStreamIsAnother { partition: 3 };
        assert_eq!(place(3, Some(&committed(4, 50)), INPUT), Place::Behind(0, Some(note)));
    }

    #[test]
    fn the_offset_counts_if_its_message_is_the_one_that_was_handled() {
        let offset = committed(5, 100);
        assert_eq!(place(3, Some(&offset), INPUT), Place::LookUp { sequence: 100 });
        assert_eq!(looked_up(&offset, Some(1_000)), Place::Behind(100, None));
        assert_eq!(looked_up(&offset, None), Place::Behind(100, None));
    }

    #[test]
    fn a_stream_that_lost_its_tail_goes_on_with_what_was_stored_since() {
        assert_eq!(place(3, Some(&committed(5, 101)), INPUT), Place::Find { after_ns: 1_000 });
        let offset = committed(5, 90);
        assert_eq!(looked_up(&offset, Some(1_001)), Place::Find { after_ns: 1_000 });
        let behind = |first| match found(3, &offset, INPUT, first) {
            Place::Behind(behind, Some(Note::InputTailLost { .. })) => behind,
            other => panic!("{other:?}"),
        };
        assert_eq!((behind(Some(88)), behind(Some(1)), behind(None)), (87, 0, 100));
    }
}

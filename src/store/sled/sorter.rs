//! Sorts entries that do not fit into memory by their keys: sorted runs in a temporary file, and a merge of the runs.
//!
//! The crates for this sort an iterator, so the caller would have to be one; here the entries arrive in many calls. The file has no name, so
//! nothing is left after a crash.
//!
//! ```text
//! run:    entry, entry, …; the runs follow each other
//! entry:  length of the key:u32 │ length of the value:u32 │ key │ value
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// The bytes that a merge reads of a run at once. A hundred runs, of some five million links, take 6 MB.
const READ_BYTES: usize = 64 << 10;

const LENGTHS_BYTES: usize = 8;

/// A key and a value.
pub(super) type Entry = (Vec<u8>, Vec<u8>);

/// Collects entries.
#[derive(Debug)]
pub(super) struct Sorter {
    file: File,
    /// Where each run ends in the file.
    ends: Vec<u64>,
    run_bytes: usize,
    /// The entries of the next run, in the form of the file.
    pending: Vec<u8>,
    /// Where each of them begins.
    starts: Vec<usize>,
}

impl Sorter {
    /// A sorter with a temporary file in this directory.
    ///
    /// # Errors
    /// The failure of the disk.
    pub(super) fn new(directory: &Path, run_bytes: usize) -> io::Result<Self> {
        let file = tempfile::tempfile_in(directory)?;
        Ok(Self { file, ends: Vec::new(), run_bytes, pending: Vec::new(), starts: Vec::new() })
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// The failure of the disk.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.starts.push(self.pending.len());
        encode(key, value, &mut self.pending)?;
        if self.pending.len() >= self.run_bytes { self.write_run() } else { Ok(()) }
    }

    fn write_run(&mut self) -> io::Result<()> {
        let Self { file, ends, pending, starts, .. } = self;
        // Entries with the same key stay in the order of their pushes.
        starts.sort_by(|one, other| decoded(&pending[*one..]).0.cmp(decoded(&pending[*other..]).0));
        let mut writer = BufWriter::with_capacity(READ_BYTES, &*file);
        for start in starts.drain(..) {
            let (key, value) = decoded(&pending[start..]);
            writer.write_all(&pending[start..start + LENGTHS_BYTES + key.len() + value.len()])?;
        }
        writer.flush()?;
        drop(writer);
        ends.push(file.stream_position()?);
        pending.clear();
        Ok(())
    }

    /// The entries in the order of their keys; those with the same key in the order of their pushes.
    ///
    /// # Errors
    /// The failure of the disk.
    pub(super) fn merge(self) -> io::Result<Merge> {
        Merge::of_all(vec![self])
    }
}

/// Entries in order.
#[derive(Debug)]
pub(super) struct Merge {
    files: Vec<File>,
    runs: Vec<Run>,
    /// The next entry of each run. Of the same keys, the first run has the first one.
    next: BinaryHeap<Reverse<NextEntry>>,
}

/// A key, the number of its run, and the value.
type NextEntry = (Vec<u8>, usize, Vec<u8>);

#[derive(Debug)]
struct Run {
    /// The place of its file among the files.
    file: usize,
    /// The next byte of the file that is not in the buffer.
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    /// The bytes of the buffer that were taken.
    read: usize,
}

impl Merge {
    /// The entries of several sorters. Of the same keys, those of the first sorter come first.
    ///
    /// # Errors
    /// The failure of the disk.
    pub(super) fn of_all(sorters: Vec<Sorter>) -> io::Result<Self> {
        let mut merge = Self { files: Vec::new(), runs: Vec::new(), next: BinaryHeap::new() };
        for (number, mut sorter) in sorters.into_iter().enumerate() {
            sorter.write_run()?;
            let Sorter { file, ends, .. } = sorter;
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let runs = starts.zip(&ends).map(|(at, &end)| Run { file: number, at, end, buffer: Vec::new(), read: 0 });
            merge.runs.extend(runs);
            merge.files.push(file);
        }
        for run in 0..merge.runs.len() {
            merge.advance(run)?;
        }
        Ok(merge)
    }

    /// The next entry.
    ///
    /// # Errors
    /// The failure of the disk.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        let Some(Reverse((key, run, value))) = self.next.pop() else { return Ok(None) };
        self.advance(run)?;
        Ok(Some((key, value)))
    }

    fn advance(&mut self, run: usize) -> io::Result<()> {
        let Self { files, runs, next } = self;
        let entry = runs.get_mut(run).map(|run| run.next(&mut files[run.file])).transpose()?.flatten();
        next.extend(entry.map(|(key, value)| Reverse((key, run, value))));
        Ok(())
    }
}

impl Run {
    fn next(&mut self, file: &mut File) -> io::Result<Option<Entry>> {
        if !self.fill(file, LENGTHS_BYTES)? {
            return Ok(None);
        }
        let (key_length, value_length) = lengths(&self.buffer[self.read..]);
        let length = LENGTHS_BYTES + key_length + value_length;
        if !self.fill(file, length)? {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let (key, value) = decoded(&self.buffer[self.read..]);
        let entry = (key.to_vec(), value.to_vec());
        self.read += length;
        Ok(Some(entry))
    }

    /// Reads until the buffer has `count` bytes that were not taken. Returns `false` at the end of the run.
    fn fill(&mut self, file: &mut File, count: usize) -> io::Result<bool> {
        if self.buffer.len() - self.read >= count {
            return Ok(true);
        }
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let length = left.min(READ_BYTES.max(count));
        self.buffer.drain(..self.read);
        self.read = 0;
        let kept = self.buffer.len();
        self.buffer.resize(kept + length, 0);
        file.seek(SeekFrom::Start(self.at))?;
        file.read_exact(&mut self.buffer[kept..])?;
        self.at += length as u64;
        Ok(self.buffer.len() >= count)
    }
}

fn encode(key: &[u8], value: &[u8], bytes: &mut Vec<u8>) -> io::Result<()> {
    let length = |part: &[u8]| u32::try_from(part.len()).map_err(|_| io::Error::from(ErrorKind::FileTooLarge));
    bytes.extend_from_slice(&length(key)?.to_be_bytes());
    bytes.extend_from_slice(&length(value)?.to_be_bytes());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value);
    Ok(())
}

/// The lengths at the beginning of an entry.
fn lengths(entry: &[u8]) -> (usize, usize) {
    let length = |at: usize| {
        let bytes = entry.get(at..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes) as usize)
    };
    (length(0), length(4))
}

/// The entry at the beginning of some bytes, which have all of it.
fn decoded(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (key_length, value_length) = lengths(bytes);
    let (key, rest) = bytes[LENGTHS_BYTES..].split_at(key_length);
    (key, &rest[..value_length])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entries_come_in_order_whatever_the_size_of_the_runs(
            entries in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..4), prop::collection::vec(any::<u8>(), 0..40)), 0..200),
            run_bytes in 1_usize..2_000,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut sorter = Sorter::new(directory.path(), run_bytes).unwrap();
            entries.iter().for_each(|(key, value)| sorter.push(key, value).unwrap());
            let mut merge = sorter.merge().unwrap();
            let mut expected = entries;
            expected.sort_by(|(one, _), (other, _)| one.cmp(other));
            for entry in expected {
                prop_assert_eq!(merge.next().unwrap(), Some(entry));
            }
            prop_assert_eq!(merge.next().unwrap(), None);
        }
    }

    #[test]
    fn an_entry_may_be_larger_than_what_is_read_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::new(directory.path(), 1).unwrap();
        let large = vec![7; 3 * READ_BYTES];
        [b"b", b"a", b"c"].into_iter().for_each(|key| sorter.push(key, &large).unwrap());
        let mut merge = sorter.merge().unwrap();
        for key in [b"a", b"b", b"c"] {
            assert_eq!(merge.next().unwrap(), Some((key.to_vec(), large.clone())));
        }
    }
}

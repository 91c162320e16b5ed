//! The segments of the journal and their names.

use std::collections::VecDeque;
use std::io;

use super::disk::Disk;
use super::format::{self, Salt, Start};

/// The end of the names of segment files.
const EXTENSION: &str = ".rlj";

/// No journal has as many records, so a name with a larger number is not one of relink's.
const NUMBER_MAX: u64 = 1 << 56;

/// The segments that are not removed.
#[derive(Default)]
pub(super) struct Segments {
    /// Oldest first; the last one is appended to, if `is_open`.
    pub(super) files: VecDeque<Segment>,
    /// The number of the last published record.
    pub(super) published: u64,
}

/// One segment.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) salt: Salt,
    pub(super) first: u64,
    /// The number of its last synced record; `first - 1` if it has none.
    pub(super) last: u64,
    /// The length of its synced part, in bytes.
    pub(super) length: u64,
}

impl Segments {
    /// The first segment whose name is `name` or larger.
    pub(super) fn at_or_after(&self, name: &str) -> Option<&Segment> {
        self.files.iter().find(|segment| segment.name.as_str() >= name)
    }

    /// Whether there is a segment with a larger name.
    pub(super) fn has_after(&self, name: &str) -> bool {
        self.files.back().is_some_and(|segment| segment.name.as_str() > name)
    }
}

impl Segment {
    /// A new, empty segment.
    pub(super) fn new(first: u64, salt: Salt) -> Self {
        Self { name: format!("{first:020}-{:08x}{EXTENSION}", salt.0), salt, first, last: first - 1, length: 0 }
    }

    /// `None` if the name is not one of a segment.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        let (first, salt) = name.strip_suffix(EXTENSION)?.split_once('-')?;
        let segment = Self::new(
            first.parse().ok().filter(|first| (1..NUMBER_MAX).contains(first))?,
            Salt(u32::from_str_radix(salt, 16).ok()?),
        );
        (segment.name == name).then_some(segment)
    }

    /// Cuts what a crash has left of a write that was not synced; returns how many bytes. Other bytes after the last whole record were
    /// synced and are damaged now: they stay, and the forwarder sets them aside.
    ///
    /// The file is synced in any case: the records of a process that was killed may be in the memory of the system only.
    pub(super) fn open_end<D: Disk>(&mut self, disk: &D) -> io::Result<u64> {
        let end = self.scan(disk)?;
        let tail = disk.read(&self.name, end, usize::try_from(self.length - end).unwrap_or(usize::MAX))?;
        if !format::is_torn(&tail, self.salt) {
            // How many records the bytes were is not known. Their numbers must not be used again.
            self.last += 1 + (tail.len() / format::HEADER_BYTES) as u64;
            disk.cut(&self.name, self.length)?;
            return Ok(0);
        }
        let cut = self.length - end;
        disk.cut(&self.name, end)?;
        self.length = end;
        Ok(cut)
    }

    /// Finds the end of the last whole record, and its number.
    fn scan<D: Disk>(&mut self, disk: &D) -> io::Result<u64> {
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        let bytes = disk.read(&self.name, 0, length)?;
        let mut at = 0;
        let mut end = 0;
        while at < bytes.len() {
            match format::read(&bytes[at..], self.salt) {
                Start::Record(found) if found.number > self.last => {
                    at += found.length;
                    (end, self.last) = (at, found.number);
                }
                Start::Record(_) | Start::Incomplete | Start::Damaged => {
                    match format::find(&bytes[at + 1..], self.salt, self.last) {
                        Some(next) => at += 1 + next,
                        None => break,
                    }
                }
            }
        }
        Ok(end as u64)
    }
}

//! The writer of the journal: appends records to the last segment.

use std::io;

use super::disk::Disk;
use super::format;
use super::log::Log;
use super::segment::Segment;

/// Appends records; there is one per log.
pub(super) struct Writer<D: Disk> {
    pub(super) log: Log<D>,
    /// A segment of this size is closed, and a new one begins.
    pub(super) segment_bytes: u64,
    /// The file of the last segment; `None` before the first append, and after an error.
    pub(super) file: Option<D::File>,
    pub(super) next: u64,
    pub(super) buffer: Vec<u8>,
    /// The last segment has bytes after its synced part.
    pub(super) must_cut: bool,
}

impl<D: Disk> Writer<D> {
    /// Appends records and waits until they are on the disk. Returns the number of the first one; the others follow.
    ///
    /// # Errors
    /// The disk fails. Then the records may be published or not.
    pub(super) fn append<'a>(&mut self, bodies: impl ExactSizeIterator<Item = &'a Body>) -> io::Result<u64> {
        let appended = self.try_append(bodies);
        if appended.is_err() {
            self.abandon_file();
        }
        appended
    }

    fn try_append<'a>(&mut self, bodies: impl ExactSizeIterator<Item = &'a Body>) -> io::Result<u64> {
        let is_full = self.log.lock().files.back().is_none_or(|segment| segment.length >= self.segment_bytes);
        let file = match self.file.take() {
            Some(file) if !is_full => file,
            Some(_) | None => self.begin_segment()?,
        };
        let file = self.file.insert(file);
        let first = self.next;
        self.buffer.clear();
        let count = bodies.len() as u64;
        for (body, number) in bodies.zip(first..) {
            format::write(&mut self.buffer, self.log.salt(), number, &body.bytes, body.check);
        }
        // Whatever happens now, these numbers are used: a part of the records may be in the file.
        self.next += count;
        self.log.disk.append(file, &self.buffer)?;
        self.log.disk.sync(file)?;
        let mut segments = self.log.lock();
        let segment = segments.files.back_mut().expect("begin_segment has added one");
        segment.length += self.buffer.len() as u64;
        segment.last = self.next - 1;
        Ok(first)
    }

    fn begin_segment(&mut self) -> io::Result<D::File> {
        self.cut()?;
        let segment = Segment::new(self.next, self.log.salt());
        let created = self.log.disk.create(&segment.name).and_then(|file| self.log.disk.sync_names().map(|()| file));
        // After an error, a file with this name may exist, so the next attempt takes another name.
        let file = created.inspect_err(|_| self.next += 1)?;
        self.log.lock().files.push_back(segment);
        self.log.remove_published();
        Ok(file)
    }

    /// After an error nobody knows what is in the file after its synced part, and the senders got an error. The next
    /// append begins a new segment.
    fn abandon_file(&mut self) {
        if self.file.take().is_some() {
            self.must_cut = true;
            let _again_before_the_next_segment = self.cut();
        }
    }

    /// Removes what follows the synced part of the abandoned file.
    fn cut(&mut self) -> io::Result<()> {
        if self.must_cut {
            let last = self.log.lock().files.back().cloned();
            let cut = last.map_or(Ok(()), |segment| self.log.disk.cut(&segment.name, segment.length));
            cut.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
            self.must_cut = false;
        }
        Ok(())
    }
}

/// The body of a record, and its check.
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    pub(super) check: u32,
}

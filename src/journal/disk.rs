//! The files of the journal: a trait, so that a simulation can lose, cut and change what was not synced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crate::os;

/// A directory with append-only files. Only one process uses it.
pub trait Disk: Send + Sync + 'static {
    /// A file that is open for appending.
    type File: Send + Sync;

    /// The names of all files.
    ///
    /// # Errors
    /// The disk fails. This holds for every method.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Creates an empty file. Its name survives a host crash after [`Disk::sync_names`].
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Appends bytes. They survive a host crash after [`Disk::sync`].
    fn append(&self, file: &Self::File, bytes: &[u8]) -> io::Result<()>;

    /// Returns when all appended bytes are on the disk.
    fn sync(&self, file: &Self::File) -> io::Result<()>;

    /// Returns when the names of all created and removed files are on the disk.
    fn sync_names(&self) -> io::Result<()>;

    /// The length of a file in bytes.
    fn length(&self, name: &str) -> io::Result<u64>;

    /// Reads `length` bytes from `offset`. Fewer bytes if the file ends before.
    fn read(&self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>>;

    /// Cuts a file, and returns when its new length and all its bytes are on the disk.
    fn cut(&self, name: &str, length: u64) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Writes a whole small file, without a sync: after a host crash it may be old, or damaged.
    fn write_small(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
}

/// A directory of the file system.
#[derive(Debug)]
pub struct FileDisk {
    directory: PathBuf,
}

impl FileDisk {
    /// Uses this directory, and creates it if it is missing. Only the user of this process can enter it.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn new(directory: &Path) -> io::Result<Self> {
        os::create_private_directory(directory)?;
        Ok(Self { directory: directory.to_owned() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Disk for FileDisk {
    type File = File;

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<File> {
        // Somebody may have deleted the directory while relink ran.
        os::create_private_directory(&self.directory)?;
        OpenOptions::new().append(true).create_new(true).open(self.path(name))
    }

    fn append(&self, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        // The new length is synced too: a file could not be read without it.
        file.sync_data()?;
        if os::is_deleted(file)? {
            return Err(io::Error::other("somebody has deleted its file while relink ran"));
        }
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        fs::metadata(self.path(name)).map(|metadata| metadata.len())
    }

    fn read(&self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.path(name))?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::with_capacity(length);
        file.take(length as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn cut(&self, name: &str, length: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path(name))?;
        file.set_len(length)?;
        file.sync_all()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn write_small(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        fs::write(self.path(name), bytes)
    }
}

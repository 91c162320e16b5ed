//! Files in memory, which lose at a crash what was not synced.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, PoisonError};

use super::disk::Disk;

/// A disk in memory. Clones show the same files.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Clone, Debug, Default)]
struct State {
    files: BTreeMap<String, MemoryFile>,
    fails: bool,
    /// Writes succeed, and nothing reaches the disk any more.
    stalls: bool,
}

#[derive(Clone, Debug, Default)]
struct MemoryFile {
    bytes: Vec<u8>,
    synced: usize,
    /// Whether its name is synced.
    is_named: bool,
}

impl MemoryDisk {
    /// The files after a crash of the host. For each unsynced part, `chance(n)` returns a number below `n`, which decides what is left.
    #[must_use]
    pub fn after_host_crash(&self, mut chance: impl FnMut(usize) -> usize) -> Self {
        let mut state = self.lock().clone();
        state.files.retain(|_, file| file.is_named || chance(2) == 0);
        for file in state.files.values_mut() {
            let unsynced = file.bytes.len() - file.synced;
            file.bytes.truncate(file.synced + chance(unsynced + 1));
            // The file system may have written the length and not the content.
            if file.bytes.len() > file.synced && chance(3) == 0 {
                let from = file.synced + chance(file.bytes.len() - file.synced);
                file.bytes[from..].fill(0);
            }
            file.synced = file.bytes.len();
            file.is_named = true;
        }
        (state.fails, state.stalls) = (false, false);
        Self(Arc::new(Mutex::new(state)))
    }

    /// The files after a crash of the process, which loses nothing.
    #[must_use]
    pub fn after_crash(&self) -> Self {
        let mut state = self.lock().clone();
        (state.fails, state.stalls) = (false, false);
        Self(Arc::new(Mutex::new(state)))
    }

    /// Changes a byte of a segment. `chance` chooses it. Returns whether there was one.
    pub fn damage(&self, mut chance: impl FnMut(usize) -> usize) -> bool {
        let mut state = self.lock();
        let mut files: Vec<_> = state.files.values_mut().filter(|file| file.synced > 0).collect();
        if files.is_empty() {
            return false;
        }
        let index = chance(files.len());
        let file = &mut files[index];
        let at = chance(file.synced);
        file.bytes[at] ^= 1 << chance(8);
        true
    }

    /// From now on every write and sync fails, or none.
    pub fn fail(&self, fails: bool) {
        self.lock().fails = fails;
    }

    /// From now on appended bytes stay in the cache of the file system, and every sync fails; or not. So a host crash can follow in the
    /// middle of a write.
    pub fn stall(&self, stalls: bool) {
        self.lock().stalls = stalls;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<T>(&self, write: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.lock();
        if state.fails { Err(ErrorKind::StorageFull.into()) } else { write(&mut state) }
    }

    /// As `write`, for what waits for the disk.
    fn write_through<T>(&self, write: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.write(|state| if state.stalls { Err(ErrorKind::TimedOut.into()) } else { write(state) })
    }
}

fn missing() -> io::Error {
    ErrorKind::NotFound.into()
}

impl Disk for MemoryDisk {
    /// The name.
    type File = String;

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().files.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<String> {
        self.write(|state| {
            if state.files.contains_key(name) {
                return Err(ErrorKind::AlreadyExists.into());
            }
            state.files.insert(name.to_owned(), MemoryFile::default());
            Ok(name.to_owned())
        })
    }

    fn append(&self, file: &String, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let fails = state.fails;
        let file = state.files.get_mut(file).ok_or_else(missing)?;
        // A write that fails may have written a part.
        let count = if fails { bytes.len() / 2 } else { bytes.len() };
        file.bytes.extend_from_slice(&bytes[..count]);
        if fails { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&self, file: &String) -> io::Result<()> {
        self.write_through(|state| {
            let file = state.files.get_mut(file).ok_or_else(missing)?;
            file.synced = file.bytes.len();
            Ok(())
        })
    }

    fn sync_names(&self) -> io::Result<()> {
        self.write_through(|state| {
            state.files.values_mut().for_each(|file| file.is_named = true);
            Ok(())
        })
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        self.lock().files.get(name).map(|file| file.bytes.len() as u64).ok_or_else(missing)
    }

    fn read(&self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let state = self.lock();
        let bytes = &state.files.get(name).ok_or_else(missing)?.bytes;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        Ok(bytes[from..bytes.len().min(from.saturating_add(length))].to_vec())
    }

    fn cut(&self, name: &str, length: u64) -> io::Result<()> {
        self.write_through(|state| {
            let file = state.files.get_mut(name).ok_or_else(missing)?;
            file.bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
            file.synced = file.bytes.len();
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.write(|state| state.files.remove(name).map(drop).ok_or_else(missing))
    }

    fn write_small(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.write(|state| {
            let file = MemoryFile { bytes: bytes.to_vec(), synced: 0, is_named: true };
            state.files.insert(name.to_owned(), file);
            Ok(())
        })
    }
}

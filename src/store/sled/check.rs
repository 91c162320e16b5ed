//! The check of a whole database when it is opened: several threads scan one range of keys after the other.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::database::{Failure, caught};
use crate::store::StoreError;
use crate::store::content::Content;
use crate::store::format::{DEADLINE_PREFIX, GROUP_PREFIX, INCIDENT_PREFIX, LINK_PREFIX, STATE_PREFIX};
use crate::store::scan::Scan;

/// The most threads of a check. More of them would wait for the disk.
const THREADS_MAX: usize = 8;

/// Reads every entry, and compares them with the store's own record of its content.
///
/// # Errors
/// [`StoreError::Damaged`], or the failure of the disk.
pub(super) fn check(db: &sled::Db, directory: &Path, recorded: &Content) -> Result<(), StoreError> {
    let (starts, next) = (starts(), AtomicUsize::new(0));
    let work = || {
        caught(directory, || {
            let mut scan = Scan::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(start) = starts.get(number) else { return Ok(scan) };
                scan_range(db, start, starts.get(number + 1), &mut scan)?;
            }
        })
    };
    let threads_count = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let scans = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads_count).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Vec<_>>()
    });
    let mut whole = Scan::default();
    for scan in scans {
        whole.join(scan?)?;
    }
    whole.end(recorded)
}

fn scan_range(db: &sled::Db, start: &[u8], end: Option<&Vec<u8>>, scan: &mut Scan) -> Result<(), Failure> {
    let entries = match end {
        Some(end) => db.range(start..&end[..]),
        None => db.range(start..),
    };
    for entry in entries {
        let (key, value) = entry?;
        scan.take(&key, &value)?;
    }
    Ok(())
}

/// The first key of each range, in order. Most link ids are UUIDs, so ranges of ids are cut at hexadecimal digits.
fn starts() -> Vec<Vec<u8>> {
    let mut starts = vec![Vec::new()];
    let mut cut = |prefix: &[u8], bytes: &mut dyn Iterator<Item = u8>| {
        starts.push(prefix.to_vec());
        starts.extend(bytes.map(|byte| [prefix, &[byte]].concat()));
    };
    cut(DEADLINE_PREFIX, &mut std::iter::empty());
    cut(GROUP_PREFIX, &mut (0..=255).step_by(16).skip(1));
    cut(INCIDENT_PREFIX, &mut std::iter::empty());
    cut(LINK_PREFIX, &mut b"123456789abcdef".iter().copied());
    // The next byte is the state.
    cut(STATE_PREFIX, &mut (1..8));
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_follow_each_other() {
        let starts = starts();
        assert!(starts.is_sorted() && starts[0].is_empty(), "{starts:?}");
    }
}

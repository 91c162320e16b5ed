//! Faults of the journal: nats-server is away while webhooks go on, and meanwhile relink is killed, or its journal is changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::time::sleep;

use super::load::Load;
use super::promised::Damage;
use super::round::Run;
use super::support::binary::{signal, try_signal};
use super::world::{Acknowledge, Kind, has_ended, until};

/// The layout of a record is in `src/journal/format.rs`.
const MARKER: [u8; 4] = *b"RLJ1";
const HEADER_BYTES: usize = 24;

/// A damaged record needs others around it.
const RECORDS_MIN: usize = 5;

/// The longest random end of a journal, in bytes.
const END_MAX: usize = 300;

/// A nats-server that is away.
struct Away {
    /// The stopped process of relink's own nats-server; `None`: the one of the harness has ended.
    paused: Option<String>,
}

/// nats-server is away for some seconds.
pub(crate) async fn nats_away(run: &mut Run, load: &mut Vec<Load>) -> Result<()> {
    let away = go_away(run, load).await?;
    sleep(Duration::from_millis(run.random.u64(..3_000))).await;
    run.world.check_running()?;
    match away.paused {
        Some(pid) => signal("CONT", &pid).await,
        None => run.world.start_nats().await?,
    }
    Ok(())
}

/// relink is killed while nats-server is away, so the next process publishes the journal.
pub(crate) async fn killed_while_away(run: &mut Run, load: &mut Vec<Load>) -> Result<()> {
    let away = go_away(run, load).await?;
    run.world.kill_relink().await?;
    come_back(run, load, away).await
}

/// A kill has cut the last write to the journal; or other bytes are behind it, which no interrupted write leaves.
pub(crate) async fn torn_end(run: &mut Run, load: &mut Vec<Load>) -> Result<()> {
    let away = go_away(run, load).await?;
    run.world.kill_relink().await?;
    let segments = segments(&run.world.seen("journal"))?;
    let path = segments.last().context("a journal that waits has a segment")?;
    let mut bytes = fs::read(path)?;
    let last = records(&bytes).pop().context("a record")?;
    let salt = salt(path).context("a salt in the name")?;
    let body = &bytes[last.start + HEADER_BYTES..last.end];
    let torn = if run.random.bool() {
        let bytes = foreign_bytes(&mut run.random);
        run.ledger.damage = Some(Damage { payload: Vec::new(), bytes: bytes.clone() });
        bytes
    } else {
        torn(last.number + 1, body, salt, &mut run.random)
    };
    run.note(format!("{} bytes after {}", torn.len(), bytes.len()));
    bytes.extend(torn);
    fs::write(path, bytes)?;
    come_back(run, load, away).await
}

/// The disk changes a bit of a record that is not published.
pub(crate) async fn damage(run: &mut Run, load: &mut Vec<Load>) -> Result<()> {
    let away = go_away(run, load).await?;
    // relink would wait for its own nats-server, which is paused.
    if away.paused.is_none() && run.random.bool() {
        run.world.stop_relink().await?;
    } else {
        run.world.kill_relink().await?;
    }
    let directory = run.world.seen("journal");
    let published = published(&directory);
    let mut candidates: Vec<(PathBuf, Place)> = Vec::new();
    for path in segments(&directory)? {
        let found = records(&fs::read(&path)?);
        candidates.extend(found.into_iter().map(|place| (path.clone(), place)));
    }
    // The end of the journal is what a crash cuts, so a change of the last record looks like one.
    candidates.pop();
    candidates.retain(|(_, place)| place.number > published);
    ensure!(!candidates.is_empty(), "no record waits");
    let (path, place) = candidates.swap_remove(run.random.usize(..candidates.len()));
    let mut bytes = fs::read(&path)?;
    let body = &bytes[place.start + HEADER_BYTES..place.end];
    let line = body.iter().position(|byte| *byte == b'\n').context("a line before the payload")?;
    let payload = body[line + 1..].to_vec();
    let (at, bit) = (run.random.usize(place.start..place.end), run.random.u8(..8));
    bytes[at] ^= 1 << bit;
    let damaged = bytes[place.start..place.end].to_vec();
    fs::write(&path, bytes)?;
    run.note(format!("bit {bit} of byte {at} in record {} at {}..{}", place.number, place.start, place.end));
    run.ledger.damage = Some(Damage { payload, bytes: damaged });
    come_back(run, load, away).await
}

/// Stops nats-server, and sends webhooks. With `journal` relink must answer each one with success, and with `stream` none. Returns when
/// some records wait in the journal.
async fn go_away(run: &mut Run, load: &mut Vec<Load>) -> Result<Away> {
    let (world, http) = (&run.world, &run.http);
    // Before that, relink may not know that an earlier fault is over.
    until("relink is ready", async || Ok(world.is_ready(http).await)).await?;
    let paused = match run.world.nats.take() {
        Some(server) => {
            server.kill().await?;
            None
        }
        None => {
            let pid = run.world.nats_pid()?;
            signal("STOP", &pid).await;
            until("nats-server is stopped", async || Ok(is_stopped(&pid))).await?;
            Some(pid)
        }
    };
    let refused_before = run.world.shared.refused.load(Ordering::Relaxed);
    let webhooks = run.requests.webhooks(run.links, &mut run.random);
    let webhooks = Load::start(webhooks, &run.world.shared, &run.http);
    let (world, http) = (&mut run.world, &run.http);
    let refused = || world.shared.refused.load(Ordering::Relaxed) - refused_before;
    match world.acknowledge {
        Acknowledge::Journal => {
            until("relink takes webhooks while NATS is away", async || {
                ensure!(refused() == 0, "relink refused a webhook while NATS was away");
                Ok(webhooks.is_done())
            })
            .await?;
            let answer = http.get(format!("{}/readyz/inputs", world.relink.url)).send().await?;
            ensure!(answer.status() == 200, "relink takes webhooks, and /readyz/inputs is {}", answer.status());
        }
        Acknowledge::Stream => {
            let what = "relink refuses webhooks while NATS is away";
            until(what, async || Ok(refused() > 0 && world.waiting(http).await? >= RECORDS_MIN as u64)).await?;
            ensure!(webhooks.accepted().is_empty(), "relink has answered with success while NATS was away");
        }
    }
    world.check_running()?;
    load.push(webhooks);
    Ok(Away { paused })
}

/// Starts relink and nats-server in any order; relink has ended.
async fn come_back(run: &mut Run, load: &mut Vec<Load>, away: Away) -> Result<()> {
    if let Some(pid) = away.paused {
        try_signal("KILL", &pid).await;
        has_ended(&pid).await?;
    }
    if run.world.kind == Kind::Own || run.random.bool() {
        run.world.start_nats().await?;
        return run.world.start_relink().await;
    }
    run.note("relink starts before nats-server".to_owned());
    run.world.start_relink().await?;
    if run.world.acknowledge == Acknowledge::Journal {
        let webhooks = run.requests.webhooks(run.links, &mut run.random);
        let webhooks = Load::start(webhooks, &run.world.shared, &run.http);
        until("relink takes webhooks before NATS starts", async || Ok(webhooks.is_done())).await?;
        load.push(webhooks);
    }
    run.world.start_nats().await
}

/// Whether a process was stopped by a signal; `true` where there is no `/proc`.
fn is_stopped(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    status.map_or(true, |status| status.lines().any(|line| line.starts_with("State:\tT")))
}

/// A whole record in a segment.
#[derive(Clone, Copy, Debug)]
struct Place {
    number: u64,
    start: usize,
    end: usize,
}

/// The segments of a journal, in order.
fn segments(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?.map(|entry| Ok(entry?.path()));
    let mut paths: Vec<PathBuf> = entries.collect::<Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "rlj"));
    paths.sort();
    Ok(paths)
}

/// The records of a segment. Its end may be cut.
fn records(bytes: &[u8]) -> Vec<Place> {
    let mut places = Vec::new();
    let mut start = 0;
    while let Some(header) = bytes.get(start..start + HEADER_BYTES).filter(|header| header[..4] == MARKER) {
        let end =
            start + HEADER_BYTES + header[4..8].iter().rev().fold(0, |length, byte| length << 8 | usize::from(*byte));
        let number = header[8..16].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
        if end > bytes.len() {
            break;
        }
        places.push(Place { number, start, end });
        start = end;
    }
    places
}

/// The number of the last record that is noted as published.
fn published(directory: &Path) -> u64 {
    let text = fs::read_to_string(directory.join("published")).unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// How many records of a journal are not noted as published.
pub(crate) fn unpublished(directory: &Path) -> Result<usize> {
    let published = published(directory);
    let mut count = 0;
    for path in segments(directory)? {
        count += records(&fs::read(path)?).iter().filter(|place| place.number > published).count();
    }
    Ok(count)
}

/// The salt of a segment's checks, from its name.
fn salt(path: &Path) -> Option<u32> {
    u32::from_str_radix(path.file_stem()?.to_str()?.split_once('-')?.1, 16).ok()
}

/// A record with this number whose last bytes were not written, or are zero.
fn torn(number: u64, body: &[u8], salt: u32, random: &mut fastrand::Rng) -> Vec<u8> {
    let check = |bytes: &[u8]| {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&salt.to_le_bytes());
        hasher.update(bytes);
        hasher.finalize().to_le_bytes()
    };
    let length = u32::try_from(body.len()).unwrap_or_default();
    let mut record = [&MARKER[..], &length.to_le_bytes(), &number.to_le_bytes(), &check(body)].concat();
    record.extend(check(&record));
    record.extend(body);
    let end = random.usize(1..record.len());
    if random.bool() {
        record.truncate(end);
    } else {
        record[end..].fill(0);
    }
    record
}

/// Random bytes that are not the start of a record.
fn foreign_bytes(random: &mut fastrand::Rng) -> Vec<u8> {
    let rest = random.usize(..END_MAX);
    std::iter::once(b'!').chain(std::iter::repeat_with(|| random.u8(..)).take(rest)).collect()
}

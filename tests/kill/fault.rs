//! The faults, one of which hits each round.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::jetstream::{self, stream::DiscardPolicy};
use strum::VariantArray;
use tokio::time::sleep;

use super::journal;
use super::ledger::Deletion;
use super::load::{Load, Requests};
use super::round::Run;
use super::support::binary::signal;
use super::world::{Acknowledge, Kind, OWN_RESTARTS_MAX, World, has_ended, until};

/// How many poison messages make a burst.
const POISON: usize = 60;

/// By how many seconds a clock is wrong: ten minutes, and 400 days.
const WRONG_SECONDS: [i64; 4] = [-600, 600, -400 * 86_400, 400 * 86_400];

/// A fault, named in the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, VariantArray, strum::Display)]
pub(crate) enum Fault {
    #[strum(serialize = "kill -9 of relink")]
    KillRelink,
    #[strum(serialize = "kill -9 of nats-server")]
    KillNats,
    #[strum(serialize = "kill -9 of both")]
    KillBoth,
    #[strum(serialize = "SIGSTOP and SIGCONT of relink")]
    PauseRelink,
    #[strum(serialize = "SIGSTOP and SIGCONT of nats-server")]
    PauseNats,
    #[strum(serialize = "SIGSTOP of relink, a second relink takes over, SIGCONT")]
    Takeover,
    #[strum(serialize = "SIGTERM of relink")]
    Stop,
    #[strum(serialize = "deletion of BELVO")]
    DeleteInputs,
    #[strum(serialize = "deletion of KV_links")]
    DeleteOutputs,
    #[strum(serialize = "deletion of RELINK_DEAD")]
    DeleteDeadLetters,
    #[strum(serialize = "deletion of a consumer")]
    DeleteConsumer,
    #[strum(serialize = "damage of the store")]
    DamageStore,
    #[strum(serialize = "removal of the store")]
    RemoveStore,
    #[strum(serialize = "full disk of nats-server")]
    FullDisk,
    #[strum(serialize = "full stream")]
    FullStream,
    #[strum(serialize = "burst of poison messages")]
    Poison,
    #[strum(serialize = "wrong clock of relink for a while")]
    WrongClock,
    #[strum(serialize = "nats-server away for some seconds")]
    NatsAway,
    #[strum(serialize = "kill -9 of relink while nats-server is away")]
    KillWhileNatsAway,
    #[strum(serialize = "torn end of the journal")]
    TornJournal,
    #[strum(serialize = "damage of the journal")]
    DamageJournal,
}

impl Fault {
    /// The faults that are possible in this world.
    pub(crate) fn possible(world: &World) -> Vec<Self> {
        let is_possible = |fault: &Self| match fault {
            Self::Takeover | Self::FullStream => world.kind == Kind::External,
            Self::FullDisk => world.has_small_disk(),
            _ => true,
        };
        Self::VARIANTS.iter().copied().filter(is_possible).collect()
    }
}

/// Causes the fault, and returns when it is over and the processes run again.
pub(crate) async fn cause(fault: Fault, run: &mut Run, load: &mut Vec<Load>) -> Result<()> {
    match fault {
        Fault::KillRelink => {
            run.world.kill_relink().await?;
            run.world.start_relink().await
        }
        Fault::KillNats => kill_nats(run).await,
        Fault::KillBoth => kill_both(run).await,
        Fault::PauseRelink => {
            let pid = run.world.relink.pid.clone();
            pause(&pid, &mut run.random).await
        }
        Fault::PauseNats => {
            let pid = run.world.nats_pid()?;
            pause(&pid, &mut run.random).await
        }
        Fault::Takeover => take_over(run).await,
        Fault::Stop => {
            run.world.stop_relink().await?;
            run.world.start_relink().await
        }
        Fault::DeleteInputs => delete_stream(run, "BELVO", Some(Deletion::Inputs)).await,
        Fault::DeleteOutputs => delete_stream(run, "KV_links", Some(Deletion::Outputs)).await,
        Fault::DeleteDeadLetters => delete_stream(run, "RELINK_DEAD", Some(Deletion::DeadLetters)).await,
        Fault::DeleteConsumer => delete_consumer(run).await,
        Fault::DamageStore => {
            end_relink(run).await?;
            let what = damage(&run.world.seen("store"), &mut run.random)?;
            run.note(what);
            run.world.start_relink().await
        }
        Fault::RemoveStore => {
            end_relink(run).await?;
            fs::remove_dir_all(run.world.seen("store"))?;
            run.world.start_relink().await
        }
        Fault::FullDisk => fill_disk(run, load).await,
        Fault::FullStream => fill_stream(run, load).await,
        Fault::WrongClock => wrong_clock(run, load).await,
        Fault::NatsAway => journal::nats_away(run, load).await,
        Fault::KillWhileNatsAway => journal::killed_while_away(run, load).await,
        Fault::TornJournal => journal::torn_end(run, load).await,
        Fault::DamageJournal => journal::damage(run, load).await,
        Fault::Poison => {
            let links = run.links;
            let poison = (0..POISON).map(|_| run.requests.poison(links, &mut run.random)).collect();
            load.push(Load::start(poison, &run.world.shared, &run.http));
            Ok(())
        }
    }
}

/// relink runs with a wrong clock until it has decided about some load, and then with the right one.
async fn wrong_clock(run: &mut Run, load: &mut Vec<Load>) -> Result<()> {
    let offset = WRONG_SECONDS[run.random.usize(..WRONG_SECONDS.len())];
    run.note(format!("by {offset} s"));
    end_relink(run).await?;
    run.world.clock_offset = offset;
    run.world.start_relink().await?;
    load.push(more_load(run));
    let (world, http) = (&mut run.world, &run.http);
    until("relink decides with a wrong clock", async || {
        world.check_running()?;
        Ok(load.iter().all(Load::is_done) && world.is_ready(http).await)
    })
    .await?;
    end_relink(run).await?;
    run.world.clock_offset = 0;
    run.world.start_relink().await
}

/// The store is closed after a stop, and has its last checkpoint after a kill.
async fn end_relink(run: &mut Run) -> Result<()> {
    if run.random.bool() { run.world.stop_relink().await } else { run.world.kill_relink().await }
}

/// A process does nothing for up to three seconds.
async fn pause(pid: &str, random: &mut fastrand::Rng) -> Result<()> {
    let duration = Duration::from_millis(random.u64(50..3_000));
    signal("STOP", pid).await;
    sleep(duration).await;
    signal("CONT", pid).await;
    Ok(())
}

/// relink restarts its own nats-server a few times within ten minutes, so it gets a new count before that.
async fn allow_own_restart(run: &mut Run) -> Result<()> {
    if run.world.kind == Kind::Own && run.world.own_restarts >= OWN_RESTARTS_MAX {
        run.world.stop_relink().await?;
        run.world.start_relink().await?;
    }
    run.world.own_restarts += 1;
    Ok(())
}

async fn kill_nats(run: &mut Run) -> Result<()> {
    allow_own_restart(run).await?;
    if let Some(server) = run.world.nats.take() {
        server.kill().await?;
        return run.world.start_nats().await;
    }
    let pid = run.world.nats_pid()?;
    signal("KILL", &pid).await;
    let world = &mut run.world;
    until("relink restarts its nats-server", async || {
        world.check_running()?;
        Ok(world.nats_pid().is_ok_and(|present| !present.is_empty() && present != pid))
    })
    .await
}

async fn kill_both(run: &mut Run) -> Result<()> {
    let world = &mut run.world;
    let pid = world.nats_pid()?;
    world.kill_relink().await?;
    match world.nats.take() {
        Some(server) => server.kill().await?,
        None => {
            // The server of a killed relink goes on, until somebody kills it.
            super::support::binary::try_signal("KILL", &pid).await;
            has_ended(&pid).await?;
        }
    }
    world.start_nats().await?;
    world.start_relink().await
}

async fn take_over(run: &mut Run) -> Result<()> {
    let world = &mut run.world;
    signal("STOP", &world.relink.pid).await;
    let before = world.data.clone();
    world.data = world.dir.join(format!("data-of-{}", world.relink.pid));
    let second = world.spawn_relink().await?;
    let mut first = std::mem::replace(&mut world.relink, second);
    world.publish_endpoints()?;
    let http = &run.http;
    until("the second relink is ready", async || Ok(world.is_ready(http).await)).await?;
    signal("CONT", &first.pid).await;
    let status = first.ended().await.context("the replaced relink")?;
    ensure!(status.code() == Some(1), "the replaced relink ended with {status}");
    // Only a process with its data directory publishes what the first one has left in its journal.
    run.world.stop_relink().await?;
    let after = std::mem::replace(&mut run.world.data, before);
    let left = journal::unpublished(&after.join("journal"))?;
    ensure!(left == 0, "relink has stopped while NATS was there, and {left} records of its journal are not published");
    fs::remove_dir_all(after)?;
    run.world.start_relink().await
}

async fn delete_stream(run: &mut Run, name: &'static str, deletion: Option<Deletion>) -> Result<()> {
    run.read().await?;
    let client = run.world.client().await?;
    jetstream::new(client.clone()).delete_stream(name).await?;
    run.ledger.deletion = deletion.map(|deletion| (deletion, relink::clock::now().as_millis()));
    let context = jetstream::new(client);
    let world = &mut run.world;
    until("relink creates the stream again", async || {
        world.check_running()?;
        Ok(context.get_stream(name).await.is_ok())
    })
    .await
}

async fn delete_consumer(run: &mut Run) -> Result<()> {
    let name = format!("relink-{}", run.random.u8(..4));
    let context = jetstream::new(run.world.client().await?);
    let stream = context.get_stream("BELVO").await?;
    stream.delete_consumer(&name).await?;
    let world = &mut run.world;
    until("relink creates the consumer again", async || {
        world.check_running()?;
        Ok(stream.consumer_info(&name).await.is_ok())
    })
    .await
}

/// The files below a directory that are not empty, with their sizes.
fn files(directory: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let size = fs::metadata(&path)?.len();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if size > 0 {
            found.push((size, path));
        }
    }
    Ok(found)
}

/// Overwrites bytes of one file of a closed store.
fn damage(store: &Path, random: &mut fastrand::Rng) -> Result<String> {
    let mut files = files(store)?;
    files.sort();
    let (Some((_, largest)), Some((_, any))) = (files.last(), files.get(random.usize(..files.len().max(1)))) else {
        bail!("the store has no files")
    };
    let file = if random.bool() { largest } else { any };
    let mut bytes = fs::read(file)?;
    let length = [1, 64, 512, 4096, bytes.len()][random.usize(..5)].min(bytes.len());
    let start = random.usize(..=bytes.len() - length);
    let is_random = random.bool();
    bytes[start..start + length].iter_mut().for_each(|byte| *byte = if is_random { random.u8(..) } else { 0 });
    fs::write(file, bytes)?;
    let name = file.file_name().unwrap_or_default().display();
    Ok(format!("{length} bytes at {start} of {name} are {}", if is_random { "random" } else { "zero" }))
}

/// How often an answer has shown that NATS stores nothing. With `journal`, webhooks do not need NATS.
fn refusals(world: &World) -> u64 {
    let count = match world.acknowledge {
        Acknowledge::Journal => &world.shared.refused_by_nats,
        Acknowledge::Stream => &world.shared.refused,
    };
    count.load(Ordering::Relaxed)
}

/// Waits until a message is refused, or until the load has ended without that.
async fn refused(run: &mut Run, load: &[Load], before: u64) -> Result<()> {
    let world = &mut run.world;
    until("a message is refused", async || {
        world.check_running()?;
        Ok(refusals(world) > before || load.iter().all(Load::is_done))
    })
    .await
}

/// More load, because the fault has to meet some.
fn more_load(run: &mut Run) -> Load {
    let requests = Requests::round(&mut run.requests, run.links, 2, &mut run.random);
    Load::start(requests, &run.world.shared, &run.http)
}

async fn fill_disk(run: &mut Run, load: &mut Vec<Load>) -> Result<()> {
    allow_own_restart(run).await?;
    let path = run.world.seen("nats/fill");
    let before = refusals(&run.world);
    let mut file = fs::File::create(&path)?;
    while file.write_all(&[0; 1024]).is_ok() {}
    drop(file);
    load.push(more_load(run));
    let met = refused(run, load, before).await;
    fs::remove_file(&path)?;
    met
}

async fn fill_stream(run: &mut Run, load: &mut Vec<Load>) -> Result<()> {
    let context = jetstream::new(run.world.client().await?);
    let info = context.get_stream("BELVO").await?.cached_info().clone();
    let before = refusals(&run.world);
    let mut config = info.config;
    config.max_messages = i64::try_from(info.state.messages)?.max(1);
    config.discard = DiscardPolicy::New;
    // NATS would refuse a limit that is below the number of messages that have arrived meanwhile, or delete some.
    config.max_messages += 8;
    context.update_stream(&config).await?;
    load.push(more_load(run));
    let met = refused(run, load, before).await;
    config.max_messages = -1;
    context.update_stream(&config).await?;
    met
}

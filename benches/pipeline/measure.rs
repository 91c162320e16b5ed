//! The measured values, and a description of the machine.

use std::fmt;
use std::io::Write;
use std::time::Duration;

use crate::support::TestNats;

/// One measurement: the number of inputs, the time, and the CPU time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) inputs: usize,
    pub(crate) messages: usize,
    pub(crate) batches: usize,
    pub(crate) took: Duration,
    /// The CPU time of this process and of nats-server, in seconds, if the system reports it.
    pub(crate) cpu: Option<(f64, f64)>,
}

impl Run {
    pub(crate) fn per_second(&self) -> f64 {
        self.inputs as f64 / self.took.as_secs_f64()
    }

    pub(crate) fn rates(runs: &[Self]) -> Vec<f64> {
        runs.iter().map(Self::per_second).collect()
    }

    /// The CPU time per input over all runs, in microseconds: of this process, and of nats-server. Other load of the
    /// machine changes it only a little.
    pub(crate) fn cpu_micros(runs: &[Self]) -> Option<(f64, f64)> {
        let inputs: usize = runs.iter().map(|run| run.inputs).sum();
        let cpus: Option<Vec<(f64, f64)>> = runs.iter().map(|run| run.cpu).collect();
        let (ours, server) = cpus?.into_iter().fold((0.0, 0.0), |sum, cpu| (sum.0 + cpu.0, sum.1 + cpu.1));
        Some((ours * 1e6 / inputs as f64, server * 1e6 / inputs as f64))
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inputs, messages, batches, took, cpu } = self;
        let rate = self.per_second();
        write!(
            f,
            "{rate:>7.0} inputs/s  ({inputs} in {:.2} s, {messages} messages in {batches} commits",
            took.as_secs_f64()
        )?;
        if let Some((ours, server)) = cpu {
            write!(f, "; CPU {ours:.2} s here, {server:.2} s nats-server")?;
        }
        f.write_str(")")
    }
}

/// The CPU time that a process has used, in seconds, from `/proc`.
pub(crate) fn cpu_seconds(process: &str) -> Option<f64> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The process name may contain any character, so parsing starts after it: state is field 3, utime 14, stime 15.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

/// The memory of a process in bytes (`VmRSS`), if the system reports it.
pub(crate) fn resident_bytes(process: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// The bytes of the files below a directory.
pub(crate) fn disk_bytes(directory: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let bytes = |entry: std::fs::DirEntry| {
        if entry.path().is_dir() { disk_bytes(&entry.path()) } else { entry.metadata().map_or(0, |file| file.len()) }
    };
    entries.map(bytes).sum()
}

/// The CPU time of both processes so far.
pub(crate) fn cpu(nats: &TestNats) -> Option<(f64, f64)> {
    Some((cpu_seconds("self")?, cpu_seconds(&nats.server.pid().to_string())?))
}

/// The difference of two values of [`cpu`].
pub(crate) fn cpu_between(before: Option<(f64, f64)>, after: Option<(f64, f64)>) -> Option<(f64, f64)> {
    let (before, after) = (before?, after?);
    Some((after.0 - before.0, after.1 - before.1))
}

/// The machine, which is printed with every result.
pub(crate) struct Machine {
    cores: usize,
    model: String,
    server: String,
    fsync: Duration,
}

impl Machine {
    pub(crate) async fn look() -> Self {
        let nats = TestNats::start().await;
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let model = model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.to_owned());
        let server = nats.client.server_info().version;
        Self { cores, model, server, fsync: fsync_p50(nats.dir.path()) }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, model, server, fsync } = self;
        let fsync_ms = fsync.as_secs_f64() * 1e3;
        write!(f, "{cores} cores, {model}; nats-server {server}, sync_interval always; fdatasync p50 {fsync_ms:.2} ms")
    }
}

fn fsync_p50(directory: &std::path::Path) -> Duration {
    let mut file = std::fs::File::create(directory.join("fsync")).expect("a file in a temporary directory");
    let mut took: Vec<Duration> = (0..200)
        .map(|_| {
            let began = relink::clock::instant();
            file.write_all(&[7; 4096]).and_then(|()| file.sync_data()).expect("a temporary directory can be written");
            began.elapsed()
        })
        .collect();
    took.sort();
    took[took.len() / 2]
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    percentile(values, 0.5)
}

pub(crate) fn best(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::max)
}

pub(crate) fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

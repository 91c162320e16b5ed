//! `relink backup`, `restore` and `rebuild`: the streams in files, and the store from the streams.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::output::{line, print};
use super::progress::Progress;
use crate::config::{Config, Sources};
use crate::nats::backup::Extent;
use crate::nats::server_binary::ServerSource;
use crate::os;
use crate::printable::{counted, printable};
use crate::service::maintenance::{self, Step};

pub(super) const BACKUP_EXAMPLES: &str = "\
Examples:
  relink backup /backup/2026-11-27     the streams BELVO, KV_links and RELINK_DEAD, each in a directory of its own
It uses the settings of the service (--config, RELINK_*), and may run while relink does. The store needs no backup, because relink \
rebuilds it from KV_links. The files are those of `nats stream backup`, so each program restores what the other has saved.";

pub(super) const RESTORE_EXAMPLES: &str = "\
Examples:
  relink restore /backup/2026-11-27               on a new NATS
  relink restore /backup/2026-11-27 --replace     deletes the streams that exist, and restores them
relink must be stopped. If relink runs its own nats-server, this program starts it, and stops it at the end.";

pub(super) const REBUILD_EXAMPLES: &str = "\
Examples:
  relink rebuild                       the next `relink serve` makes a new store from KV_links
relink must be stopped. Nothing is deleted: the old store is moved beside the new one.";

#[derive(Args, Debug)]
pub(super) struct BackupArgs {
    /// Directory for the backup; it may be new
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// TOML file of the service
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct RestoreArgs {
    /// Directory of the backup
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Delete the streams that exist; without it, nothing is restored if one exists
    #[arg(long)]
    replace: bool,
    /// TOML file of the service
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct RebuildArgs {
    /// TOML file of the service
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the store (RELINK_DATA_DIR)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
}

pub(super) async fn back_up(args: BackupArgs) -> anyhow::Result<ExitCode> {
    os::keep_new_files_private();
    let (config, source) = load(args.config)?;
    let mut report = Report::new("saved");
    let saved = maintenance::back_up(&config, source, &args.directory, |step| report.note(step)).await;
    let printed = report.print()?;
    saved.map(|()| printed)
}

pub(super) async fn restore(args: RestoreArgs) -> anyhow::Result<ExitCode> {
    os::keep_new_files_private();
    let (config, source) = load(args.config)?;
    let mut report = Report::new("restored");
    let note = |step| report.note(step);
    let restored = maintenance::restore(&config, source, &args.directory, args.replace, note).await;
    if restored.is_ok() {
        line(
            &mut report.text,
            format_args!(
                "Start relink: it rebuilds its store. If it has an old one, it logs as an error that the output stream is another one.\n\
                 Then see \"After a restore\" in docs/operations.md, for example about your subscribers."
            ),
        );
    }
    let printed = report.print()?;
    restored.map(|()| printed)
}

pub(super) fn rebuild(args: RebuildArgs) -> anyhow::Result<ExitCode> {
    os::keep_new_files_private();
    let flags = args.data_dir.map(|directory| ("--data-dir", directory)).into_iter().collect();
    let config = Config::load(&Sources::of_process(args.config, flags))?.config;
    match maintenance::set_store_aside(&config)? {
        Some(aside) => {
            let aside = printable(&aside.display().to_string());
            print(&format!(
                "The store is moved to {aside}. The next `relink serve` makes a new one from KV_links.\n\
                 When the links have the states that you expect, delete {aside}.\n"
            ))
        }
        None => print("There is no store, so the next `relink serve` makes one.\n"),
    }
}

fn load(file: Option<PathBuf>) -> anyhow::Result<(Config, ServerSource)> {
    let sources = Sources::of_process(file, Vec::new());
    let config = Config::load(&sources)?.config;
    let source = sources.server_source(config.nats.server.clone(), false);
    Ok((config, source))
}

/// What is finished, as text, and the rest as a line that replaces itself.
struct Report {
    done: &'static str,
    text: String,
    progress: Progress,
}

impl Report {
    fn new(done: &'static str) -> Self {
        Self { done, text: String::new(), progress: Progress::new() }
    }

    fn note(&mut self, step: Step) {
        match step {
            Step::Going { stream, bytes, of } => self.progress.show(|| {
                let of = of.map_or_else(String::new, |of| format!(" of {}", size(of)));
                format!("{stream}: {}{of}", size(bytes))
            }),
            Step::Done { stream, extent: Extent { messages, bytes } } => {
                let messages = counted(usize::try_from(messages).unwrap_or(usize::MAX), "message");
                line(&mut self.text, format_args!("{} {stream}: {messages}, {}", self.done, size(bytes)));
            }
        }
    }

    fn print(self) -> anyhow::Result<ExitCode> {
        drop(self.progress);
        print(&self.text)
    }
}

fn size(bytes: u64) -> String {
    if bytes < 1 << 20 {
        return format!("{} KiB", bytes.div_ceil(1 << 10));
    }
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

//! `relink backup`, `restore` and `rebuild`: the streams in files, and the store from the streams.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::output::{line, print, print_json};
use super::progress::Progress;
use crate::config::{Config, Sources};
use crate::nats::backup::Extent;
use crate::nats::server_binary::ServerSource;
use crate::os;
use crate::printable::{counted, printable};
use crate::service::maintenance::{self, Existing, Step};

pub(super) const BACKUP_EXAMPLES: &str = "\
Examples:
  relink backup /backup/2026-11-27     the streams BELVO, KV_links and RELINK_DEAD, each in a directory of its own
It uses the settings of the service (--config, RELINK_*), and may run while relink does. The store needs no backup, because relink \
rebuilds it from KV_links. The files are those of `nats stream backup`, so each program restores what the other has saved.";

pub(super) const RESTORE_EXAMPLES: &str = "\
Examples:
  relink restore /backup/2026-11-27               on a new NATS
  relink restore /backup/2026-11-27 --replace     replaces the streams that exist; they are saved in the data directory before
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
    /// Print what is finished as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct RestoreArgs {
    /// Directory of the backup
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Replace the streams that exist; they are saved in the data directory before, and come back if the backup cannot be restored
    #[arg(long)]
    replace: bool,
    /// Delete the streams that exist without saving them, for streams that cannot be read any more
    #[arg(long, conflicts_with = "replace")]
    discard: bool,
    /// TOML file of the service
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print what is finished as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct RebuildArgs {
    /// TOML file of the service
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the store (RELINK_DATA_DIR)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Print the directory of the old store as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn back_up(args: BackupArgs) -> anyhow::Result<ExitCode> {
    os::keep_new_files_private();
    let (config, source) = load(args.config)?;
    let mut report = Report::new("saved");
    let saved = maintenance::back_up(&config, source, &args.directory, |step| report.note(step)).await;
    if args.json {
        report.print_json(json!({}))?;
    } else {
        report.print("")?;
    }
    saved.map(|()| ExitCode::SUCCESS)
}

pub(super) async fn restore(args: RestoreArgs) -> anyhow::Result<ExitCode> {
    os::keep_new_files_private();
    let (config, source) = load(args.config)?;
    let existing = match (args.replace, args.discard) {
        (true, _) => Existing::Replace,
        (false, true) => Existing::Discard,
        (false, false) => Existing::Refuse,
    };
    let mut report = Report::new("restored");
    let note = |step| report.note(step);
    let restored = maintenance::restore(&config, source, &args.directory, existing, note).await;
    let replaced_in = restored.as_ref().ok().and_then(Option::as_ref).map(|kept| kept.display().to_string());
    if args.json {
        report.print_json(json!({"is_restored": restored.is_ok(), "replaced_in": replaced_in}))?;
    } else {
        let mut end = String::new();
        if let Some(kept) = replaced_in.as_deref().map(printable) {
            line(
                &mut end,
                format_args!("The streams of before are saved in {kept}; delete it when you do not need them."),
            );
        }
        if restored.is_ok() {
            line(
                &mut end,
                format_args!(
                    "Start relink: it rebuilds its store. If it has an old one, it logs as an error that the output stream is another one.\n\
                     Then see \"After a restore\" in docs/operations.md, for example about your subscribers."
                ),
            );
        }
        report.print(&end)?;
    }
    restored.map(|_kept| ExitCode::SUCCESS)
}

pub(super) fn rebuild(args: RebuildArgs) -> anyhow::Result<ExitCode> {
    os::keep_new_files_private();
    let flags = args.data_dir.map(|directory| ("--data-dir", directory)).into_iter().collect();
    let config = Config::load(&Sources::of_process(args.config, flags))?.config;
    let aside = maintenance::set_store_aside(&config)?.map(|aside| aside.display().to_string());
    if args.json {
        return print_json(&json!({"moved_to": aside}));
    }
    match aside.as_deref().map(printable) {
        Some(aside) => print(&format!(
            "The store is moved to {aside}. The next `relink serve` makes a new one from KV_links.\n\
             When the links have the states that you expect, delete {aside}.\n"
        )),
        None => print("There is no store, so the next `relink serve` makes one.\n"),
    }
}

fn load(file: Option<PathBuf>) -> anyhow::Result<(Config, ServerSource)> {
    let sources = Sources::of_process(file, Vec::new());
    let config = Config::load(&sources)?.config;
    let source = sources.server_source(config.nats.server.clone(), false);
    Ok((config, source))
}

/// What is finished, and the rest as a line that replaces itself.
struct Report {
    done: &'static str,
    finished: Vec<Finished>,
    progress: Progress,
}

struct Finished {
    what: &'static str,
    stream: String,
    extent: Extent,
}

impl Report {
    fn new(done: &'static str) -> Self {
        Self { done, finished: Vec::new(), progress: Progress::new() }
    }

    fn note(&mut self, step: Step) {
        let mut finish = |what, stream, extent| self.finished.push(Finished { what, stream, extent });
        match step {
            Step::Going { stream, bytes, of } => self.progress.show(|| {
                let of = of.map_or_else(String::new, |of| format!(" of {}", size(of)));
                format!("{stream}: {}{of}", size(bytes))
            }),
            Step::Kept { stream, extent } => finish("saved the present", stream, extent),
            Step::Done { stream, extent } => finish(self.done, stream, extent),
        }
    }

    fn print(self, end: &str) -> anyhow::Result<ExitCode> {
        drop(self.progress);
        let mut text = String::new();
        for Finished { what, stream, extent: Extent { messages, bytes } } in self.finished {
            let messages = counted(usize::try_from(messages).unwrap_or(usize::MAX), "message");
            line(&mut text, format_args!("{what} {stream}: {messages}, {}", size(bytes)));
        }
        print(&(text + end))
    }

    fn print_json(self, mut value: Value) -> anyhow::Result<ExitCode> {
        drop(self.progress);
        let of = |wanted: &str| -> Vec<Value> {
            let rows = self.finished.iter().filter(|finished| finished.what == wanted);
            rows.map(|Finished { stream, extent: Extent { messages, bytes }, .. }| {
                json!({"stream": stream, "messages": messages, "bytes": bytes})
            })
            .collect()
        };
        value["streams"] = of(self.done).into();
        print_json(&value)
    }
}

fn size(bytes: u64) -> String {
    if bytes < 1 << 20 {
        return format!("{} KiB", bytes.div_ceil(1 << 10));
    }
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

//! `relink completions` and `relink man`: made from the definition of the command line, so they never differ from it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;

use super::output::{print, wrong_argument};

pub(super) const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  source <(relink completions bash)    for this shell
  relink completions zsh > ~/.zfunc/_relink
  relink completions fish > ~/.config/fish/completions/relink.fish";

pub(super) const MAN_EXAMPLES: &str = "\
Examples:
  relink man | man -l -                the page of relink
  relink man why | man -l -            the page of `relink why`
  relink man --write man/man1          all pages as files";

#[derive(Args, Debug)]
pub(super) struct ManArgs {
    /// The subcommand, such as `why` or `dead-letters replay`; without one, the page of relink
    #[arg(value_name = "SUBCOMMAND", conflicts_with = "write")]
    subcommand: Vec<String>,
    /// Directory to write all pages to
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
}

pub(super) fn completions(mut command: Command, shell: Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "relink", &mut script);
    print(&String::from_utf8(script).context("the completions are not UTF-8")?)
}

pub(super) fn man(mut command: Command, args: ManArgs) -> anyhow::Result<ExitCode> {
    command.build();
    if let Some(directory) = args.write {
        std::fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
        write_pages(&command, &directory, "relink")?;
        return Ok(ExitCode::SUCCESS);
    }
    let found = args.subcommand.iter().try_fold(&command, |above, name| above.find_subcommand(name));
    let Some(found) = found else {
        wrong_argument(format_args!(
            "error: there is no subcommand `{}`: `relink --help` lists them",
            args.subcommand.join(" ")
        ))
    };
    print(&page(found)?)
}

/// Writes the page of a command and of each command below it.
fn write_pages(command: &Command, directory: &Path, name: &str) -> anyhow::Result<()> {
    let file = directory.join(format!("{name}.1"));
    std::fs::write(&file, page(command)?).with_context(|| format!("writing {}", file.display()))?;
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        write_pages(below, directory, &format!("{name}-{}", below.get_name()))?;
    }
    Ok(())
}

/// The page of a command of a definition that is built, so that it has its whole name.
fn page(command: &Command) -> anyhow::Result<String> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page).context("making a manual page")?;
    String::from_utf8(page).context("the manual page is not UTF-8")
}

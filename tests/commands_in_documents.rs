//! Runs the commands that `README.md` and `docs/quickstart.md` print, as they are printed: with a real nats-server, a
//! real `relink serve`, and the simulated Belvo.
//!
//! All `sh` blocks of a document form one script, as if a reader pasted them into one terminal. The script runs in a
//! directory that looks like a checkout. Two things are replaced to save time: `cargo` links the program under test
//! instead of building it, and a directory of wheels replaces PyPI.
//!
//! The documents use fixed ports. On Linux the script gets its own network namespace, so that it cannot reach other
//! servers.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a failing test should name the line")]

mod foreign;
mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use foreign::{installed, run};

/// A script that takes longer counts as hung. Each takes about ten seconds on an idle machine.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(240);

/// Serialises the scripts where they share the machine's ports.
static PORTS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(document: &str) -> String {
    fs::read_to_string(root().join(document)).unwrap()
}

/// The code blocks of a document in one language, each with the number of its first line.
fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    let mut is_in_another = false;
    for (number, line) in (1..).zip(text.lines()) {
        match (&mut open, line.strip_prefix("```")) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some((_, block)), None) => *block += &format!("{line}\n"),
            (None, Some(info)) if !is_in_another && info == language => open = Some((number + 1, String::new())),
            (None, Some(_)) => is_in_another = !is_in_another,
            (None, None) => {}
        }
    }
    assert!(!blocks.is_empty(), "no block of {language}");
    blocks
}

/// A directory with the packages that the documents install from PyPI, downloaded once.
async fn wheels() -> PathBuf {
    let quickstart = read("docs/quickstart.md");
    let commands = blocks(&quickstart, "sh").into_iter().map(|(_, block)| block).collect::<String>();
    let packages: Vec<_> = commands.split_whitespace().filter(|word| word.contains("==")).collect();
    assert!(!packages.is_empty(), "the quickstart must install packages with their versions");
    let name = format!("wheels {}", packages.join(" "));
    let folder = installed(&name, async |folder| {
        let pip = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest"];
        run(Command::new("python3").args(pip).arg(folder).args(&packages)).await.map(drop)
    });
    folder.await
}

/// A directory that looks like a checkout of this repository.
fn checkout() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root().join("examples"), folder.path().join("examples")).unwrap();
    let relink = env!("CARGO_BIN_EXE_relink");
    let cargo = format!(
        "#!/bin/sh\ncase \"$*\" in\n\
         'build --release') mkdir -p target/release && ln -s '{relink}' target/release/relink ;;\n\
         'run --release -- demo') exec '{relink}' demo --once ;;\n\
         'test') echo 'this is it' ;;\n\
         *) echo \"there is no replacement for cargo $*\" >&2; exit 1 ;;\nesac\n"
    );
    fs::create_dir(folder.path().join("bin")).unwrap();
    fs::write(folder.path().join("bin/cargo"), cargo).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path().join("bin/cargo"), executable).unwrap();
    folder
}

/// A command prefix that runs a program in its own network namespace, with only loopback; `None` if the system does
/// not allow it.
async fn alone() -> Option<Vec<&'static str>> {
    for unshare in [&["unshare", "--net"][..], &["unshare", "--map-root-user", "--net"]] {
        let with_loopback = [unshare, &["sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]].concat();
        if run(Command::new(with_loopback[0]).args(&with_loopback[1..]).arg("true")).await.is_ok() {
            return Some(with_loopback);
        }
    }
    None
}

/// Prints to standard error also when the tests pass: `eprintln!` is captured then.
fn notice(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Kills all processes that a script has started, also when the test fails.
struct Group(u32);

impl Drop for Group {
    fn drop(&mut self) {
        let mut kill = std::process::Command::new("kill");
        kill.args(["-s", "KILL", "--", &format!("-{}", self.0)]).stderr(Stdio::null());
        let _ = kill.status();
    }
}

/// Runs all `sh` blocks of a document in this shell, as one script that stops at the first failure. Returns its
/// output.
///
/// `before` returns commands to insert before a block.
async fn run_all(document: &str, shell: &[&str], before: impl Fn(&str) -> &'static str) -> String {
    let (text, wheels, folder) = (read(document), wheels().await, checkout());
    let script = blocks(&text, "sh").iter().fold(String::new(), |script, (number, block)| {
        format!("{script}{}\nprintf '%s\\n' '=== {document}:{number}'\n{block}", before(block))
    });
    fs::write(folder.path().join("commands"), script).unwrap();

    let alone = alone().await;
    let _ports = match alone {
        Some(_) => None,
        None => {
            notice(&format!(
                "{document}: network namespaces are not available, so the ports of the documents must be free"
            ));
            Some(PORTS.lock().await)
        }
    };
    let all = [&alone.unwrap_or_default()[..], shell, &["commands"]].concat();
    let path =
        [folder.path().join("bin").to_str().unwrap(), &support::variable("PATH").unwrap().to_string_lossy()].join(":");
    let mut command = Command::new(all[0]);
    command.args(&all[1..]).current_dir(folder.path()).env_clear().envs(support::binary::inherited());
    command.env("PATH", path).env("no_proxy", "*").env("PIP_NO_INDEX", "1").env("PIP_FIND_LINKS", wheels);
    // Output goes to files: a background process would keep a pipe open.
    let file = |name: &str| fs::File::create(folder.path().join(name)).unwrap();
    command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr")).process_group(0);
    let mut child = command.spawn().unwrap();
    let _group = Group(child.id().unwrap());
    let status = tokio::time::timeout(SCRIPT_TIMEOUT, child.wait()).await;

    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    let (stdout, stderr) = (read("stdout"), read("stderr"));
    let output = || format!("{}\n{stdout}\n{stderr}\n{}", shell.join(" "), read("target/quickstart/dev.log"));
    let status = status.unwrap_or_else(|_| panic!("{document}: a command did not end\n{}", output())).unwrap();
    assert!(status.success(), "{document}: a command failed ({status})\n{}", output());
    stdout
}

const BASH: &[&str] = &["bash", "--noprofile", "--norc", "-eu", "-o", "pipefail"];
const ZSH: &[&str] = &["zsh", "-f", "-eu", "-o", "pipefail"];

async fn run_quickstart(shell: &[&str]) {
    // `relink dev` would install a nats-server, but it has no network here; this call installs one before.
    relink::nats::server_binary::locate(support::server_source()).await.expect("the tests need a nats-server");
    // relink needs a moment to verify the repair; a reader takes longer than that, a script does not.
    let printed = run_all("docs/quickstart.md", shell, |block| match block.contains("relink why") {
        true => {
            "until curl --silent http://127.0.0.1:8480/v1/links/$LINK -H 'Authorization: Bearer relink-dev' \
             | grep --quiet '\"state\":\"valid\"'; do true; done"
        }
        false => "",
    });
    let printed = printed.await;
    // One line is printed by the example and one by `relink why`: there was one prompt.
    assert_eq!(printed.matches("\"action\": \"update_credentials\"").count(), 1, "{printed}");
    assert_eq!(
        printed.matches("relink prompted the user: give the current credentials in the widget").count(),
        1,
        "{printed}"
    );
    assert!(printed.contains("the link works again: Belvo's status of the link shows it"), "{printed}");
    assert!(printed.contains("\"state\": \"valid\""), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quickstart_works_as_printed_in_bash() {
    run_quickstart(BASH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quickstart_works_as_printed_in_zsh() {
    if run(Command::new("zsh").arg("--version")).await.is_err() {
        notice("SKIPPED: zsh is not installed, so the quickstart was not tested with it");
        return;
    }
    run_quickstart(ZSH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_works_as_printed() {
    // The demo would install a nats-server, but it has no network here; this call installs one before.
    relink::nats::server_binary::locate(support::server_source()).await.expect("the tests need a nats-server");
    let printed = run_all("README.md", BASH, |_| "").await;
    assert!(printed.contains("webhook_secrets = [\"[set]\"]"), "{printed}");
    // The documents show parts of the demo's output.
    let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<_> = printed.lines().map(squeezed).collect();
    for document in ["README.md", "docs/rehearsal.md"] {
        let text = read(document);
        let shown =
            text.split("```text\n1. ").nth(1).and_then(|rest| rest.split("```").next()).expect("a part of the demo");
        for line in shown.lines().filter(|line| *line != "...") {
            assert!(
                lines.iter().any(|printed| printed.contains(&squeezed(line))),
                "{document} shows `{line}`:\n{printed}"
            );
        }
    }
}

/// A pasted block is read by an interactive shell: zsh has no comments there, and bash and zsh replace `!`.
#[test]
fn blocks_can_be_pasted_into_an_interactive_shell() {
    for document in ["README.md", "docs/quickstart.md"] {
        for (number, block) in blocks(&read(document), "sh") {
            let is_comment = |line: &str| line.starts_with('#') || line.contains(" #");
            assert!(
                !block.lines().any(is_comment),
                "{document}:{number} has a comment, which an interactive zsh would run"
            );
            // A `!` at the end of a line is not replaced, as in `pid=$!`.
            let is_replaced = |line: &str| line.trim_end_matches("$!").contains('!');
            assert!(!block.lines().any(is_replaced), "{document}:{number} has a `!`, which shells replace");
            assert!(!block.starts_with("$ "), "{document}:{number} shows a prompt");
        }
    }
}

#[test]
fn the_quickstart_shows_the_current_example() {
    let example = read("examples/python/subscribe_notices.py");
    for (number, block) in blocks(&read("docs/quickstart.md"), "python") {
        assert!(example.contains(&block), "docs/quickstart.md:{number} shows lines that the example does not have");
    }
}

//! The demo and `relink dev`, end to end, on real parts, as a user runs them.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

#[test]
fn every_link_ends_in_its_expected_state() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_relink")).args(["demo", "--once"]).output().expect("the program starts");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    for (notice, count) in
        [("update_required", 4), ("update_started", 4), ("recovered", 3), ("refreshed", 3), ("update_failed", 1)]
    {
        assert_eq!(printed.matches(&format!("link.notice.{notice}.")).count(), count, "{notice}:\n{printed}");
    }
    assert!(!printed.contains('\u{1b}'), "there are no colours without a terminal");
}

/// Whether a process exists, and whether this signal was sent to it.
fn signal(name: &str, pid: &str) -> bool {
    let mut kill = Command::new("kill");
    kill.args(["-s", name, pid]).stderr(Stdio::null()).status().expect("a kill command").success()
}

fn within(what: &str, mut is_so: impl FnMut() -> bool) {
    #[expect(clippy::disallowed_methods, reason = "a test may measure time")]
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what} took longer than 30 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn data_of_demo(temporary: &Path) -> Option<std::path::PathBuf> {
    let entries = std::fs::read_dir(temporary).expect("a directory");
    entries.map(|entry| entry.expect("an entry").path()).find(|path| path.is_dir())
}

/// A closed terminal is SIGHUP, and errors of every write.
#[cfg(unix)]
#[test]
fn a_closed_terminal_leaves_no_server_and_no_directory() {
    let temporary = tempfile::tempdir().expect("a directory");
    let mut demo = Command::new(env!("CARGO_BIN_EXE_relink"));
    demo.arg("demo").env("TMPDIR", temporary.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut demo = demo.spawn().expect("the program starts");
    let stdout = BufReader::new(demo.stdout.take().expect("a pipe"));
    let mut lines = stdout.lines().map(|line| line.expect("UTF-8"));
    assert!(lines.any(|line| line.contains("link.notice.update_required.")), "the demo runs");
    let pid_file = data_of_demo(temporary.path()).expect("the data of the demo").join("nats/nats-server.pid");
    let server = std::fs::read_to_string(pid_file).expect("a process id").trim().to_owned();
    assert!(signal("0", &server));
    drop((lines, demo.stderr.take()));
    signal("HUP", &demo.id().to_string());
    within("the end of the demo", || demo.try_wait().expect("a status").is_some());
    assert_eq!(data_of_demo(temporary.path()), None);
    within("the end of nats-server", || !signal("0", &server));
}

/// A running program, whose output is read line by line. It is killed with the test.
struct Program {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Program {
    fn start(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relink"));
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stdin = child.stdin.take().expect("a pipe");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, stdin, lines, seen: Vec::new() }
    }

    /// Reads on to the first line that contains all words. Fails if the program prints nothing for a minute.
    fn line(&mut self, words: &[&str]) -> String {
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(60)) {
            self.seen.push(line.clone());
            if words.iter().all(|word| line.contains(word)) {
                return line;
            }
        }
        panic!("no line with {words:?} in\n{}", self.seen.join("\n"));
    }

    fn type_line(&mut self, text: &str) {
        writeln!(self.stdin, "{text}").expect("the program reads its input");
    }

    /// Interrupts the program, and waits for its successful end.
    fn interrupt(mut self) {
        signal("INT", &self.child.id().to_string());
        within("the end", || self.child.try_wait().expect("a status").is_some());
        assert!(self.child.wait().expect("a status").success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The output of a command, in each installed shell.
fn in_shells(command: &str) -> Vec<String> {
    let mut outputs = Vec::new();
    for shell in ["sh", "zsh"] {
        let Ok(output) = Command::new(shell).args(["-c", command]).env("no_proxy", "*").output() else { continue };
        assert!(output.status.success(), "{shell}: {command}\n{}", String::from_utf8_lossy(&output.stderr));
        outputs.push(String::from_utf8(output.stdout).expect("UTF-8"));
    }
    outputs
}

/// What a user sees who copies the printed commands, and that the demo prints what follows from them.
#[cfg(unix)]
#[test]
fn the_printed_commands_of_the_demo_work_as_printed() {
    let mut demo = Program::start(&["demo"]);
    let command = |demo: &mut Program, about: &str| {
        demo.line(&["# ", about]);
        demo.line(&[""]).trim().to_owned()
    };
    let lists = command(&mut demo, "all links that need their user");
    let why = command(&mut demo, "why this link");
    let history = command(&mut demo, "all transitions");
    let breaks = command(&mut demo, "break a link");
    for output in in_shells(&lists) {
        // One list of each state; pedro's link is in the first.
        assert_eq!(output.matches("\"links\"").count(), 2, "{output}");
        assert!(output.contains("pedro"), "{output}");
    }
    for output in in_shells(&why) {
        assert!(output.contains("update_required"), "{output}");
    }
    for output in in_shells(&history) {
        assert!(output.contains("\"entries\""), "{output}");
    }
    let output = Command::new("sh").args(["-c", &breaks]).env("no_proxy", "*").output().expect("sh runs");
    assert!(output.status.success(), "{breaks}");
    demo.line(&["belvo", "LINK/token_required", "is answered 200"]);
    demo.line(&["link.notice.update_required.", "valid -> token_required"]);
    demo.interrupt();
}

/// The first start, a broken and a repaired link, and a second start with the same directory.
#[cfg(unix)]
#[test]
fn dev_breaks_and_repairs_links_and_keeps_them() {
    let temporary = tempfile::tempdir().expect("a directory");
    let directory = temporary.path().join("it's here");
    let directory = directory.to_str().expect("UTF-8");
    let file = temporary.path().join("relink.toml");
    // The repair page and the proxy need a Belvo: it is the sandbox.
    let settings = "[http]\nwebhook_secrets = [\"Bearer mine\", \"Bearer old\"]\n[proxy]\nlisten = \"127.0.0.1:0\"\n[repair]\n\
                    base_url = \"http://127.0.0.1:8480\"\nkeys = [\"the-key-of-these-tests-is-long-enough-for-it\"]\n";
    std::fs::write(&file, settings).expect("a file");
    let file = file.to_str().expect("UTF-8");
    let addresses = ["--listen", "127.0.0.1:0", "--sandbox-listen", "127.0.0.1:0"];
    let flags = [&["dev", "--data-dir", directory, "--config", file][..], &addresses].concat();
    let start = || {
        let mut dev = Program::start(&flags);
        let nats = dev.line(&["export NATS_URL="]);
        let source = dev.line(&["or, from the file"]).split_once(":  ").expect("a command").1.to_owned();
        (dev, nats, source)
    };
    let (mut dev, nats, source) = start();
    // The links are in different partitions, so they arrive in any order.
    for _link in 0..3 {
        dev.line(&["$KV.links.", ": a new link, valid"]);
    }
    dev.type_line("b maria");
    // relink may not have read the new link yet; then it reads the link before the prompt.
    let notice = dev.line(&["link.notice.update_required.", "maria: ", "-> invalid"]);
    let link = notice.split("update_required.").nth(1).and_then(|rest| rest.split(' ').next()).expect("a link");
    let relink = env!("CARGO_BIN_EXE_relink");
    for output in in_shells(&format!("{source} && '{relink}' why {link} && printenv NATS_URL")) {
        assert!(output.contains("relink prompted the user: give the current credentials in the widget"), "{output}");
        assert!(nats.contains(output.lines().last().expect("an address")), "{output}");
    }
    // Another program of relink gets the settings of this one.
    for output in in_shells(&format!("{source} && '{relink}' check-config && printenv RELINK_WEBHOOK_SECRETS")) {
        let value = |key: &str| output.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        assert!(value("reminder_pause = ").contains("1s"), "{output}");
        assert!(value("data_dir = ").contains("it's here/relink"), "{output}");
        assert!(value("url = \"http://127.0.0.1:").contains("RELINK_BELVO_URL"), "{output}");
        assert!(output.ends_with("Bearer mine\n"), "the sandbox sends the first value of the file: {output}");
    }
    dev.type_line("r");
    dev.line(&["link.notice.recovered.", link, "maria: invalid -> valid"]);
    dev.type_line("t joao");
    dev.line(&["link.notice.update_required.", "joao: ", "-> token_required"]);
    dev.type_line("what?");
    dev.line(&["q quits"]);
    dev.interrupt();

    let (mut dev, nats_again, _) = start();
    assert_eq!(nats, nats_again, "programs keep the address");
    dev.type_line("l");
    dev.line(&["joao", "token_required"]);
    dev.type_line("b maria");
    // A person gets at most one message in a second, so the prompt may wait for the end of that second.
    let notice = dev.line(&["link.notice.update_required.", "maria: ", "-> invalid"]);
    assert!(notice.contains(link), "{notice}");
    dev.type_line("q");
    within("the end", || dev.child.try_wait().expect("a status").is_some());
    assert!(dev.child.wait().expect("a status").success());
    assert!(!dev.seen.iter().any(|line| line.contains("link.notice.removed")), "{}", dev.seen.join("\n"));

    // A pause of the file stays, although it is the default of `relink serve`.
    std::fs::write(file, format!("{settings}[policy]\nreminder_pause = \"1d\"\n")).expect("a file");
    let (mut dev, _, source) = start();
    for output in in_shells(&format!("{source} && '{relink}' check-config")) {
        assert!(output.contains("reminder_pause = \"1day\""), "{output}");
    }
    dev.type_line("q");
    within("the end", || dev.child.try_wait().expect("a status").is_some());
}

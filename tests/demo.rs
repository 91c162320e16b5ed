//! The demo, end to end, on real parts, as a user runs it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
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

//! The demo end to end, run as a user runs it: all its scenarios on real parts.

use std::process::Command;

#[test]
fn the_demo_publishes_the_expected_notices() {
    let output = Command::new(env!("CARGO_BIN_EXE_relink")).args(["demo", "--once"]).output().expect("it runs");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    for (notice, count) in
        [("update_required", 4), ("update_started", 4), ("recovered", 3), ("refreshed", 3), ("update_failed", 1)]
    {
        assert_eq!(printed.matches(&format!("link.notice.{notice}.")).count(), count, "{notice}:\n{printed}");
    }
    assert!(!printed.contains('\u{1b}'), "no colours without a terminal");
}

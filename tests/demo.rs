//! The demo, end to end, on real parts, as a user runs it.

use std::process::Command;

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

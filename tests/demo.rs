//! The main job, end to end: the demo as a user runs it, every road of it on real parts.

use std::process::Command;

#[test]
fn every_link_ends_where_it_should() {
    let output = Command::new(env!("CARGO_BIN_EXE_relink")).args(["demo", "--once"]).output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    for (notice, count) in
        [("update_required", 4), ("update_started", 4), ("recovered", 3), ("refreshed", 3), ("update_failed", 1)]
    {
        assert_eq!(told.matches(&format!("link.notice.{notice}.")).count(), count, "{notice}:\n{told}");
    }
    assert!(!told.contains('\u{1b}'), "no colours where nobody can see them");
}

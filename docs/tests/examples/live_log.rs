//! The following of a log by live events and polled pages, which the page for Supabase does in the browser.

use crate::folder;
use crate::program::missing;
use std::process::Command;

#[test]
fn events_that_are_lost_doubled_or_out_of_order_never_change_what_a_reader_is_shown() {
    let test = folder().join("supabase/live-log.test.mjs");
    let done = match Command::new("node").arg("--test").arg(test).output() {
        Ok(done) => done,
        Err(_) => return missing("live log", "node is not on the PATH"),
    };
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}

#[test]
fn the_scripts_of_the_page_parse() {
    for script in ["live-log.mjs", "log-merge.mjs"] {
        let done = match Command::new("node").arg("--check").arg(folder().join("supabase").join(script)).output() {
            Ok(done) => done,
            Err(_) => return missing("live log", "node is not on the PATH"),
        };
        assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

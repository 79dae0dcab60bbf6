//! The kernel's table of processes, in which each has put its own name.

use std::hint::black_box;
use tendril_runner::supervise::{Process, process_of_stat};

/// A process's name does not change what is read of it, and nothing makes the reader fall.
pub fn process(data: &[u8]) {
    let name = String::from_utf8_lossy(data);
    let _ = black_box(process_of_stat(&name));
    let line = format!("42 ({name}) S 41 42 40 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 5 4096 77 184\n");
    let expected = Process { pid: 42, parent: 41, session: 40, zombie: false, resident_pages: 77 };
    assert_eq!(process_of_stat(&line), Some(expected));
}

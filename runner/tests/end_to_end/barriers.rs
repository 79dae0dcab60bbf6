//! What a test holds others up with, until it lets them go.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use tokio_postgres::Client;

/// A session that holds locks.
pub struct Locks(pub Client);

impl Locks {
    pub async fn release(self) {
        self.0.batch_execute("rollback").await.expect("a rollback");
    }
}

/// A fifo that somebody waits at.
pub struct Gate(pub PathBuf);

impl Gate {
    pub fn path(&self) -> std::path::Display<'_> {
        self.0.display()
    }

    pub fn open(&self) {
        let mut file = File::options().write(true).open(&self.0).expect("the fifo");
        file.write_all(b"go\n").expect("a line");
    }
}

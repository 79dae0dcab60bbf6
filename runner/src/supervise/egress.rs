//! The command's proxy, as its supervisor has it.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::egress::{Ledger, Listener, Refusal, Traffic};
use crate::sandbox::Ports;

use super::start::StartFailure;
use super::step::Step;

/// A proxy that is served.
#[derive(Debug)]
pub(super) struct Egress {
    ledger: Arc<Ledger>,
    bell: PipeReader,
}

/// Opens the proxy that the step asks for, and makes it the step's own: its variables, and the one port to connect to.
pub(super) fn open(step: &mut Step) -> Result<Option<Listener>, StartFailure> {
    let Some(rules) = step.sandbox.egress.clone() else { return Ok(None) };
    let listener = Listener::open(rules).map_err(|e| failure(&e))?;
    listener.tell(&mut step.env);
    if let Ports::Only(ports) = &mut step.sandbox.connect {
        ports.push(listener.port());
    }
    Ok(Some(listener))
}

impl Egress {
    /// Serves it. To be called when the command has been forked.
    pub(super) fn begin(listener: Listener) -> Result<Self, StartFailure> {
        let begin = || -> io::Result<Self> {
            let (ledger, bell) = Ledger::new()?;
            fcntl(&bell, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            let ledger = Arc::new(ledger);
            listener.serve_apart(ledger.clone())?;
            Ok(Self { ledger, bell })
        };
        begin().map_err(|e| failure(&e))
    }

    /// Readable when there is news.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// What it has refused since the last time.
    pub(super) fn news(&mut self) -> Vec<Refusal> {
        match self.bell.read(&mut [0; 64]) {
            Ok(1..) => self.ledger.take(),
            Ok(0) | Err(_) => Vec::new(),
        }
    }

    /// What went through.
    pub(super) fn traffic(&self) -> Traffic {
        self.ledger.traffic()
    }
}

fn failure(error: &io::Error) -> StartFailure {
    StartFailure::System { during: "open the proxy for egress".to_owned(), detail: error.to_string() }
}

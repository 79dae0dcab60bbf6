//! What the supervisor does on which event: all branching is here, and no I/O.
//!
//! ```text
//! Running --stop asked, timeout, runner gone (reading)--> Interrupted --grace over, kill asked--> Ending
//!    \------------------main process ended, kill asked-----------\---main process ended-------------/
//! Ending --nothing left--> Over
//! ```
//! The one SIGINT is an edge of this machine, `Running -> Interrupted`, which no event can walk twice.

use super::exit::{Ended, StopReason};
use super::step::Class;

/// How hard somebody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Force {
    /// One SIGINT, and the grace.
    Interrupt,
    /// SIGKILL for the tree at once.
    Kill,
}

/// What the supervisor notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The runner wants the command to stop.
    Asked(Force, StopReason),
    /// The control socket is closed.
    RunnerGone,
    /// The main process is dead.
    MainEnded(Ended),
    /// No descendant is left.
    TreeEmpty,
    /// Time has passed.
    Time,
}

/// What the supervisor has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Send the one SIGINT to the main process.
    Interrupt,
    /// Kill the tree, in rounds, until it is empty.
    KillTree,
    /// Read the command's output in the runner's place from now on.
    Drain,
    /// The command is over: keep and send the record.
    Report,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Interrupted { kill_at_ms: u64 },
    Ending,
    Over,
}

/// The state of one command.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    class: Class,
    kill_grace_ms: u64,
    timeout_at_ms: u64,
    phase: Phase,
    stop: Option<StopReason>,
    interrupted: bool,
    forced: bool,
    runner_gone: bool,
    ended: Option<Ended>,
}

impl Flow {
    /// A command that has just been started at `now_ms` (boot time).
    pub(super) fn new(class: Class, timeout_ms: u64, kill_grace_ms: u64, now_ms: u64) -> Self {
        Self {
            class,
            kill_grace_ms,
            timeout_at_ms: now_ms.saturating_add(timeout_ms),
            phase: Phase::Running,
            stop: None,
            interrupted: false,
            forced: false,
            runner_gone: false,
            ended: None,
        }
    }

    /// Takes one event at `now_ms` and says what to do, in order.
    pub(super) fn next(&mut self, event: Event, now_ms: u64) -> Vec<Action> {
        match event {
            Event::Asked(Force::Interrupt, reason) => self.interrupt(reason, now_ms),
            Event::Asked(Force::Kill, reason) => self.kill(Some(reason)),
            Event::RunnerGone => self.runner_gone(now_ms),
            Event::MainEnded(ended) => self.main_ended(ended),
            Event::TreeEmpty => self.tree_empty(),
            Event::Time => self.time(now_ms),
        }
    }

    fn interrupt(&mut self, reason: StopReason, now_ms: u64) -> Vec<Action> {
        match self.phase {
            Phase::Running => {
                self.stop = Some(reason);
                self.interrupted = true;
                let kill_at_ms = now_ms.saturating_add(self.kill_grace_ms);
                self.phase = Phase::Interrupted { kill_at_ms };
                vec![Action::Interrupt]
            }
            // The first reason counts, and its grace runs on.
            Phase::Interrupted { .. } | Phase::Ending | Phase::Over => Vec::new(),
        }
    }

    fn kill(&mut self, reason: Option<StopReason>) -> Vec<Action> {
        match self.phase {
            Phase::Running | Phase::Interrupted { .. } => {
                self.stop = self.stop.or(reason);
                self.forced = true;
                self.phase = Phase::Ending;
                vec![Action::KillTree]
            }
            Phase::Ending | Phase::Over => Vec::new(),
        }
    }

    /// Draining comes first: a full pipe would keep the command from obeying its interrupt.
    fn runner_gone(&mut self, now_ms: u64) -> Vec<Action> {
        if self.runner_gone {
            return Vec::new();
        }
        self.runner_gone = true;
        let mut actions = vec![Action::Drain];
        if self.class == Class::Reading {
            actions.extend(self.interrupt(StopReason::RunnerGone, now_ms));
        }
        actions
    }

    fn main_ended(&mut self, ended: Ended) -> Vec<Action> {
        self.ended.get_or_insert(ended);
        match self.phase {
            Phase::Running | Phase::Interrupted { .. } => {
                self.phase = Phase::Ending;
                vec![Action::KillTree]
            }
            Phase::Ending | Phase::Over => Vec::new(),
        }
    }

    fn tree_empty(&mut self) -> Vec<Action> {
        match self.phase {
            Phase::Ending if self.ended.is_some() => {
                self.phase = Phase::Over;
                vec![Action::Report]
            }
            Phase::Ending | Phase::Running | Phase::Interrupted { .. } | Phase::Over => Vec::new(),
        }
    }

    fn time(&mut self, now_ms: u64) -> Vec<Action> {
        match self.phase {
            Phase::Running if now_ms >= self.timeout_at_ms => self.interrupt(StopReason::Timeout, now_ms),
            Phase::Interrupted { kill_at_ms } if now_ms >= kill_at_ms => self.kill(None),
            Phase::Running | Phase::Interrupted { .. } | Phase::Ending | Phase::Over => Vec::new(),
        }
    }

    /// When `Event::Time` matters next, in boot time.
    pub(super) fn deadline_ms(&self) -> Option<u64> {
        match self.phase {
            Phase::Running => Some(self.timeout_at_ms),
            Phase::Interrupted { kill_at_ms } => Some(kill_at_ms),
            Phase::Ending | Phase::Over => None,
        }
    }

    /// The tree is being killed, or what is left of it.
    pub(super) fn is_ending(&self) -> bool {
        self.phase == Phase::Ending
    }

    /// The main process is dead and nothing descends from it any more.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether the runner has vanished.
    pub(super) fn is_orphaned(&self) -> bool {
        self.runner_gone
    }

    /// Whether the one SIGINT was sent.
    pub(super) fn was_interrupted(&self) -> bool {
        self.interrupted
    }

    /// Whether SIGKILL came before the main process had ended.
    pub(super) fn was_forced(&self) -> bool {
        self.forced
    }

    /// The first reason to stop.
    pub(super) fn stop(&self) -> Option<StopReason> {
        self.stop
    }

    /// How the main process ended.
    pub(super) fn ended(&self) -> Option<Ended> {
        self.ended
    }
}

#[cfg(test)]
#[path = "flow_test.rs"]
mod tests;

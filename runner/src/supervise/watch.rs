//! The supervisor's loop: notices, asks `flow`, acts, rests.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use time::OffsetDateTime;

use crate::clock::wall;
use crate::sandbox::Level;

use super::channel::Channel;
use super::clock::boot_ms;
use super::egress::Egress;
use super::exit::{Exit, judge};
use super::flow::{Action, Event, Flow, Force};
use super::memory::Peak;
use super::message::{Final, Lines, Reply, Request};
use super::oom::OomKills;
use super::orphan::Drain;
use super::record::{ExitRecord, OrphanOutput, RecordFolder};
use super::start::StartFailure;
use super::step::{Class, STDERR_FILE, STDOUT_FILE, Step};
use super::tree::Tree;

/// Longest rest of the loop, so that deadlines in boot time are met soon after the machine has slept.
const LONGEST_REST_MS: u64 = 1_000;

/// One step and all that belongs to it, whether its command was started or not.
pub(super) struct Assignment {
    pub(super) step: Step,
    pub(super) channel: Channel,
    pub(super) folder: Option<RecordFolder>,
    /// stdout, stderr
    pub(super) drains: [Drain; 2],
    pub(super) started_at: OffsetDateTime,
    pub(super) started_ms: u64,
    pub(super) oom: OomKills,
    /// Where requests come from when the runner has gone.
    pub(super) control: Option<Control>,
    /// How far the command is confined.
    pub(super) sandbox: Option<Level>,
    /// Its proxy, if it has one.
    pub(super) egress: Option<Egress>,
}

/// The pipe in the record folder, and what has come in.
pub(super) struct Control {
    pipe: File,
    lines: Lines,
}

impl Control {
    /// The next request. What is none is of no use to anybody, and must not end the watch.
    fn next(&mut self) -> Option<Request> {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = self.pipe.read(&mut buffer) {
            self.lines.push(&buffer[..count]);
        }
        match self.lines.next() {
            Ok(request) => request,
            Err(_) => {
                self.lines = Lines::default();
                None
            }
        }
    }
}

impl Assignment {
    /// Reads the command's output in the runner's place from now on, and listens to whoever comes next.
    fn drain(&mut self) {
        let pipe = self.folder.as_ref().and_then(|folder| folder.control().ok());
        self.control = pipe.map(|pipe| Control { pipe, lines: Lines::default() });
        for (drain, name) in self.drains.iter_mut().zip([STDOUT_FILE, STDERR_FILE]) {
            drain.keep_in(self.folder.as_ref().and_then(|folder| folder.create(name).ok()));
        }
    }

    fn finish_drains(&mut self) -> OrphanOutput {
        let [stdout, stderr] = &mut self.drains;
        OrphanOutput { stdout: stdout.finish(), stderr: stderr.finish() }
    }

    /// The record of a command that did not run.
    pub(super) fn conclude_unstarted(mut self, reason: StartFailure) {
        let exit = Exit::NotStarted { reason };
        let record = self.record(exit);
        self.conclude(record);
    }

    fn record(&self, exit: Exit) -> ExitRecord {
        ExitRecord {
            name: self.step.name.clone(),
            exit,
            ended: None,
            requested: None,
            interrupted: false,
            forced: false,
            started_at: self.started_at,
            ended_at: wall(),
            duration_ms: boot_ms().saturating_sub(self.started_ms),
            peak_memory_bytes: 0,
            oom_kills: OomKills::now().since(self.oom),
            killed_descendants: 0,
            child_dead: true,
            orphan_output: None,
            sandbox: self.sandbox.clone(),
            egress: self.egress.as_ref().map(Egress::traffic),
        }
    }

    /// Keeps the record, tells the runner, and stays until it has taken leave or vanished: up to then the last output
    /// may still be in the pipes, and nowhere else.
    fn conclude(&mut self, mut record: ExitRecord) {
        self.tell_refusals();
        let unkept = self.keep(&record);
        let last = Final { record: record.clone(), unkept };
        self.channel.tell(&Reply::Ended(Box::new(last)));
        while !self.channel.is_gone() {
            match self.channel.next() {
                Some(Request::Dismiss) => return,
                // Sent before the runner knew that it was too late.
                Some(Request::Prepare(_) | Request::Go(_) | Request::Interrupt(_) | Request::Kill(_)) => {}
                None => {
                    let mut fds = [PollFd::new(self.channel.as_fd(), PollFlags::POLLIN)];
                    let _ = poll(&mut fds, PollTimeout::NONE);
                }
            }
        }
        if record.orphan_output.is_none() && self.drains.iter().any(Drain::holds_output) {
            self.drain();
            record.orphan_output = Some(self.finish_drains());
            let _ = self.keep(&record);
        }
    }

    /// Tells the runner what the command's proxy has refused.
    fn tell_refusals(&mut self) {
        for refusal in self.egress.iter_mut().flat_map(Egress::news) {
            self.channel.tell(&Reply::Refused(refusal));
        }
    }

    fn keep(&self, record: &ExitRecord) -> Option<String> {
        let folder = self.folder.as_ref()?;
        // What only reads is done again after a crash of the machine, whatever its record says: no disk is waited for.
        folder.keep(record, self.step.class == Class::Mutating).err().map(|e| e.to_string())
    }
}

/// A running command under watch.
pub(super) struct Watch {
    assignment: Assignment,
    flow: Flow,
    tree: Tree,
    peak: Peak,
    signals: SignalFd,
}

impl Watch {
    /// Begins to watch the command that was just started as `main`.
    pub(super) fn new(mut assignment: Assignment, main: Pid, signals: SignalFd) -> Self {
        let now = boot_ms();
        assignment.channel.tell(&Reply::Started(main.as_raw()));
        let step = &assignment.step;
        Self {
            flow: Flow::new(step.class, step.timeout_ms, step.kill_grace_ms, now),
            tree: Tree::new(main),
            peak: Peak::new(now),
            assignment,
            signals,
        }
    }

    /// Returns when nothing of the command is left and the record is kept and told.
    pub(super) fn run(mut self) {
        while !self.flow.is_over() {
            self.turn();
        }
        let record = self.record();
        self.assignment.conclude(record);
    }

    fn turn(&mut self) {
        let now = boot_ms();
        // The dead come first: who has ended by itself is not interrupted any more.
        let deaths = match self.flow.is_ending() {
            true => self.tree.reap(),
            false => self.tree.watch(),
        };
        if !deaths.is_empty() {
            deaths.into_iter().for_each(|event| self.handle(event, now));
            return;
        }
        self.listen(now);
        self.assignment.tell_refusals();
        self.handle(Event::Time, now);
        if self.flow.is_ending() {
            if now >= self.tree.next_round_ms() {
                let deaths = self.tree.kill_round(now);
                deaths.into_iter().for_each(|event| self.handle(event, now));
            }
        } else {
            self.peak.sample(now);
        }
        let busy = self.flow.is_orphaned() && {
            // Both get their turn, however busy one is.
            let [stdout, stderr] = &mut self.assignment.drains;
            stdout.turn() | stderr.turn()
        };
        if !busy {
            self.rest();
        }
    }

    fn listen(&mut self, now: u64) {
        let Assignment { channel, control, .. } = &mut self.assignment;
        let requests: Vec<Request> = std::iter::from_fn(|| channel.next())
            .chain(std::iter::from_fn(|| control.as_mut().and_then(Control::next)))
            .collect();
        for request in requests {
            match request {
                Request::Interrupt(reason) => {
                    self.handle(Event::Asked(Force::Interrupt, reason), now);
                }
                Request::Kill(reason) => self.handle(Event::Asked(Force::Kill, reason), now),
                // The runner sends neither while a command runs.
                Request::Prepare(_) | Request::Go(_) | Request::Dismiss => {}
            }
        }
        if self.assignment.channel.is_gone() {
            self.handle(Event::RunnerGone, now);
        }
    }

    fn handle(&mut self, event: Event, now: u64) {
        for action in self.flow.next(event, now) {
            match action {
                Action::Interrupt => self.tree.interrupt(),
                Action::KillTree => {
                    self.peak.sample_now();
                    self.tree.kill_group();
                }
                Action::Drain => self.assignment.drain(),
                // The loop ends, and what follows it reports.
                Action::Report => {}
            }
        }
    }

    /// Until something happens or is due.
    fn rest(&self) {
        let due = match self.flow.is_ending() {
            true => self.tree.next_round_ms(),
            false => self.peak.due_ms(),
        };
        let due = self.flow.deadline_ms().map_or(due, |deadline| due.min(deadline));
        let rest_ms = due.saturating_sub(boot_ms()).min(LONGEST_REST_MS);
        let timeout = u16::try_from(rest_ms).map_or(PollTimeout::ZERO, PollTimeout::from);
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.assignment.egress.iter().map(|egress| PollFd::new(egress.bell(), PollFlags::POLLIN)));
        match self.flow.is_orphaned() {
            true => {
                let outputs = self.assignment.drains.iter().filter_map(Drain::pipe);
                let control = self.assignment.control.iter().map(|control| control.pipe.as_fd());
                fds.extend(outputs.chain(control).map(|pipe| PollFd::new(pipe, PollFlags::POLLIN)));
            }
            false => fds.push(PollFd::new(self.assignment.channel.as_fd(), PollFlags::POLLIN)),
        }
        let _ = poll(&mut fds, timeout);
        while let Ok(Some(_)) = self.signals.read_signal() {}
    }

    fn record(&mut self) -> ExitRecord {
        let orphan_output = self.flow.is_orphaned().then(|| self.assignment.finish_drains());
        let oom = OomKills::now().since(self.assignment.oom);
        // `ended` is known whenever the flow is over.
        let exit = match self.flow.ended() {
            Some(ended) => judge(ended, self.flow.stop(), oom),
            None => Exit::NotStarted { reason: StartFailure::RunnerGone },
        };
        ExitRecord {
            ended: self.flow.ended(),
            requested: self.flow.stop(),
            interrupted: self.flow.was_interrupted(),
            forced: self.flow.was_forced(),
            peak_memory_bytes: self.peak.bytes(),
            oom_kills: oom,
            killed_descendants: self.tree.killed(),
            orphan_output,
            ..self.assignment.record(exit)
        }
    }
}

//! Attempts whose runner was lost in the middle of a command that changes the world. The command lives on under its
//! supervisor; this process of the same place reads what it prints, hears for it of requests to stop, and reports its end.

use crate::attempt_log::AttemptLog;
use crate::clock::BootTime;
use crate::command::{Finished, STDERR_HEAD_BYTES, Stdout};
use crate::complete::{self, Kept};
use crate::config::Config;
use crate::handover::Handover;
use crate::holdings::Held;
use crate::job;
use crate::logs::{Dialect, Stream};
use crate::off_loop::beside;
use crate::run::Run;
use crate::runner::Runner;
use crate::secrets::Handed;
use crate::spool::Spool;
use crate::stop::Stop;
use crate::supervise::{self, ExitRecord, Inherited, Orphan};
use crate::work::Work;
use futures_util::FutureExt;
use serde_json::Value;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tendril_broker::runner::{Adoption, Lease};
use tokio_util::task::TaskTracker;

/// How often it is looked what an orphan has printed, and whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A supervisor that has begun a moment ago has not locked its folder yet: without one for so long it is lost.
const LOST_AFTER: Duration = Duration::from_secs(2);
/// The log's connection is waited for at most this long.
const LOG_WITHIN: Duration = Duration::from_secs(30);
/// Read at one go of each stream.
const READ_BYTES: usize = 64 * 1024;

/// An attempt that an earlier process of this place has left.
pub struct Left {
    work: Work,
    what: What,
}

enum What {
    /// A command that may live on.
    Command(Box<Handover>),
    /// All was over, and only the broker's answer to the report was missing.
    Report(Box<Kept>),
}

impl What {
    fn lease(&self) -> &Lease {
        match self {
            Self::Command(handover) => &handover.job.lease,
            Self::Report(kept) => &kept.lease,
        }
    }
}

impl Left {
    /// Tells the spool how the attempt's log goes on. To be called before anything is sent.
    pub fn tell(&self, spool: &Spool) {
        match &self.what {
            What::Command(handover) => spool.reopen(handover.job.lease.attempt_id),
            What::Report(kept) => spool.end_at(kept.lease.attempt_id, kept.report.log_end),
        }
    }
}

/// What earlier processes of this place have left and can be gone on with. All else is named, and kept as it is.
pub fn find(config: &Config) -> Vec<Left> {
    let Ok(folders) = std::fs::read_dir(config.state_dir.join("work")) else { return Vec::new() };
    folders.flatten().filter_map(|folder| found(folder.path())).collect()
}

fn found(folder: PathBuf) -> Option<Left> {
    let shown = folder.display().to_string();
    let report = complete::kept_report(&folder).map(|kept| kept.map(|kept| What::Report(Box::new(kept))));
    let command = || Handover::read(&folder).map(|handover| handover.map(|handover| What::Command(Box::new(handover))));
    // A job that ended between its start and its command has a report, and nothing else.
    match report.and_then(|report| report.map_or_else(command, |report| Ok(Some(report)))) {
        Ok(Some(what)) if folder.ends_with(what.lease().attempt_id.simple().to_string()) => {
            Some(Left { what, work: Work::found(folder) })
        }
        // A copy, whose command nobody watches there.
        Ok(Some(_)) => {
            tracing::warn!(folder = shown, "not the folder of the attempt that it names; kept as it is");
            None
        }
        Ok(None) => {
            tracing::warn!(folder = shown, "left by an earlier process of this place; kept as it is");
            None
        }
        Err(error) => {
            tracing::error!(%error, folder = shown, "left by an earlier process of this place; what it did cannot be read");
            None
        }
    }
}

/// Goes on with all of them.
pub fn all(runner: &Arc<Runner>, left: Vec<Left>, jobs: &TaskTracker) {
    for Left { work, what } in left {
        match what {
            What::Report(kept) => drop(jobs.spawn(send(runner.clone(), work, kept))),
            What::Command(handover) => {
                // Held before the broker is asked: from then on a heartbeat without it gives it up.
                let Some(held) = runner.holdings.hold(&handover.job) else { continue };
                held.inherit_start();
                held.hand_over(true);
                jobs.spawn(adopt(runner.clone(), (work, handover), held));
            }
        }
    }
}

async fn send(runner: Arc<Runner>, work: Work, kept: Box<Kept>) {
    tracing::info!(attempt.id = %kept.lease.attempt_id, "an earlier process has left a report; it is sent now");
    let reported = complete::finish_change(&runner, &kept).await;
    complete::tidy(&work, &kept, &reported).await;
}

async fn adopt(runner: Arc<Runner>, (work, handover): (Work, Box<Handover>), held: Held) {
    let begun = BootTime::now();
    let Handover { job, number, command, stdout, notes } = *handover;
    let lease = job.lease;
    if !is_to_be_reported(&runner, &lease, &work).await {
        runner.collector.leave(&lease).await;
        return;
    }
    // What a lost process has sent may still be arriving. Who is never told goes on all the same: the result counts more, and the
    // log's numbers leap, see `Spool::go_on`.
    drop(tokio::time::timeout(LOG_WITHIN, runner.collector.taken_over()).await);
    let (collector, kind) = (runner.collector.clone(), job.kind.clone());
    let (job, log) = beside(move || {
        let log = collector.go_on(&job);
        (job, log)
    })
    .await;
    runner.metrics.adopted(&kind);
    let (keyring, to_guard, snapshot) = (runner.keyring.clone(), log.clone(), job.snapshot.clone());
    // What it prints may have secrets in it that only their references tell of.
    let values = Handed::all(&keyring, &snapshot, &job.job).await;
    let guarded = match values {
        Ok(values) => beside(move || keyring.guard_with(&to_guard, &snapshot, &values)).await,
        Err(stop) => Err(stop),
    };
    let orphan = Orphan::of(&work.record(number, &command));
    let is_first = Handover::is_taken_first(&work);
    let mut run = Run::inherited(job::means(&runner), job, work, log.clone(), held);
    run.say("tendril: the runner was lost; the next process of its place goes on");
    if !is_first {
        run.say("tendril: it was lost before: what the command has printed since the first time may stand here twice");
    }
    // What it prints is shown only where its secrets are known, and its end is waited for all the same.
    let ended = attend(&mut run, orphan, guarded.is_ok().then_some(stdout)).await;
    run.hand_over(false);
    let finished = guarded.and(ended);
    let verdict = conclude(&runner, &mut run, (&kind, notes), finished).await;
    job::end(&runner, (&kind, lease, begun), (&log, verdict), Some(run)).await;
}

/// Whether this process has to tell how the attempt ends: asks the broker, and says what it answers.
async fn is_to_be_reported(runner: &Runner, lease: &Lease, work: &Work) -> bool {
    let (attempt, folder) = (lease.attempt_id, work.file(""));
    match complete::until_answered(runner, ("adopt", lease), || runner.broker.adopt(lease).boxed()).await {
        Ok(Adoption::Adopted) => {
            tracing::info!(attempt.id = %attempt, "goes on with a command of an earlier process");
            true
        }
        Ok(Adoption::Superseded) => {
            tracing::warn!(attempt.id = %attempt, "goes on with a command of an earlier process, although its job has gone on without it");
            true
        }
        Ok(Adoption::Ended) => {
            tracing::warn!(folder = %folder.display(), "left by an earlier process that has reported its end; look at it, then remove it");
            false
        }
        Err(error) => {
            tracing::error!(attempt.id = %attempt, error, folder = %folder.display(), "an earlier process's command stays without a holder");
            false
        }
    }
}

async fn conclude(
    runner: &Runner,
    run: &mut Run,
    (kind, notes): (&str, Value),
    finished: Result<Finished, Stop>,
) -> Result<Value, Stop> {
    match runner.kinds.get(kind) {
        Some(kind) => kind.clone().conclude(run, notes, finished).await,
        None => {
            run.keep_folder();
            Err(Stop::refused(format!(
                "the runner was lost, and the next one of its place does not know jobs of kind {kind}"
            )))
        }
    }
}

/// Waits for the command's end, with what it prints in the log meanwhile if it is to be `shown`.
async fn attend(run: &mut Run, mut orphan: Orphan, shown: Option<Stdout>) -> Result<Finished, Stop> {
    run.log().begin_child(if shown == Some(Stdout::Events) { Dialect::Events } else { Dialect::Text });
    let unreadable =
        |error: io::Error| Stop::refused(format!("what the lost runner's command left cannot be read: {error}"));
    let (mut asked, mut lost_since) = (false, None::<BootTime>);
    let mut reader = Reader { torn: [true; 2], events: shown == Some(Stdout::Events), stderr: Vec::new() };
    loop {
        let (back, standing) = beside(move || {
            let standing = orphan.look();
            (orphan, standing)
        })
        .await;
        // What is read after its end is all that it has printed.
        orphan = match shown {
            Some(_) => reader.read(run.log(), back).await.map_err(unreadable)?,
            None => back,
        };
        match standing.map_err(unreadable)? {
            Inherited::Running => lost_since = None,
            Inherited::Ended(record) => return Ok(ended(run, *record, reader.stderr)),
            Inherited::Lost | Inherited::NeverBegun
                if lost_since.get_or_insert_with(BootTime::now).elapsed() < LOST_AFTER => {}
            Inherited::NeverBegun => {
                return Err(Stop::failed("the runner was lost before it began anything that changes the world"));
            }
            Inherited::Lost => {
                run.doubt_children();
                return Err(Stop::refused(
                    "the runner was lost together with the supervisor of its command; what that has changed is not known, its state lock may be left behind",
                ));
            }
        }
        if let Some(reason) = run.stop_reason().filter(|_| !asked) {
            // Where its supervisor has not noticed yet that the runner is gone, or is gone itself, the next look tells.
            asked = orphan
                .interrupt(reason)
                .inspect_err(
                    |error| tracing::debug!(%error, "a request to stop did not reach a command of an earlier process"),
                )
                .is_ok();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Reads what an orphan prints.
struct Reader {
    /// Of these streams not even a first line was read: it may be the end of one that the lost runner had begun to read, and
    /// in it of a secret, which nobody could tell by its end alone.
    torn: [bool; 2],
    /// Standard output has the engine's events: a whole one is known by its form.
    events: bool,
    /// The beginning of standard error.
    stderr: Vec<u8>,
}

impl Reader {
    /// Brings all that it has printed so far into the log.
    async fn read(&mut self, log: &AttemptLog, mut orphan: Orphan) -> io::Result<Orphan> {
        loop {
            let (back, taken) = beside(move || {
                let mut taken = [Vec::new(), Vec::new()];
                let mut buffer = vec![0; READ_BYTES];
                let count = orphan.output(&mut buffer, |stream, bytes| taken[stream].extend_from_slice(bytes));
                (orphan, count.map(|count| (count, taken)))
            })
            .await;
            orphan = back;
            let (count, [out, err]) = taken?;
            if count == 0 {
                return Ok(orphan);
            }
            let let_in = if log.has_room() { None } else { Some(log.room(BootTime::now()).await) };
            log.push(Stream::Stdout, self.whole(0, &out));
            let err = self.whole(1, &err);
            log.push(Stream::Stderr, err);
            drop(let_in);
            self.stderr.extend(err.iter().take(STDERR_HEAD_BYTES - self.stderr.len()));
        }
    }

    /// The bytes without what may be the rest of a line.
    fn whole<'a>(&mut self, stream: usize, bytes: &'a [u8]) -> &'a [u8] {
        if !self.torn[stream] {
            return bytes;
        }
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return &[] };
        self.torn[stream] = false;
        let is_event = || serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes[..end]).is_ok();
        if stream == 0 && self.events && is_event() { bytes } else { &bytes[end + 1..] }
    }
}

fn ended(run: &mut Run, record: ExitRecord, stderr: Vec<u8>) -> Finished {
    let kept = record.orphan_output.unwrap_or_default();
    for (stream, supervise::Kept { dropped_bytes, .. }) in
        [(Stream::Stdout, kept.stdout), (Stream::Stderr, kept.stderr)]
    {
        if dropped_bytes > 0 {
            run.log().missed(stream, dropped_bytes);
        }
        run.log().end(stream);
    }
    run.record(record.clone());
    Finished { record, stdout: Vec::new(), cut: false, stderr, overfull: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(events: bool, reads: &[&str]) -> String {
        let mut reader = Reader { torn: [true; 2], events, stderr: Vec::new() };
        reads.iter().map(|read| String::from_utf8_lossy(reader.whole(0, read.as_bytes())).into_owned()).collect()
    }

    #[test]
    fn the_rest_of_a_line_that_a_lost_runner_began_to_read_is_not_shown() {
        assert_eq!(shown(false, &["battery staple\nnext\n", "and so on\n"]), "next\nand so on\n");
        assert_eq!(shown(false, &["horse ", "battery", " staple\nnext\n"]), "next\n");
        assert_eq!(shown(false, &["no end"]), "");
        // Whole events lose nothing; tried as well: the end of one, with an object in it.
        assert_eq!(shown(true, &["{\"type\":\"outputs\"}\n{}\n"]), "{\"type\":\"outputs\"}\n{}\n");
        assert_eq!(shown(true, &["{\"a\":\"staple\"}}\n{}\n"]), "{}\n");
    }
}

//! Runs: submit, break, wait, read, judge; one after the other in one world.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;
use tendril_broker::portal::deployments::LogState;
use tendril_broker::portal::submission::{self, Submission};
use tokio::time::Instant;
use uuid::Uuid;

use super::archive::{self, Fault};
use super::check::{Verdict, check};
use super::done::Done;
use super::evidence::{Attempt, Evidence};
use super::op::LogOp;
use super::options::Options;
use super::perform;
use super::reading::{Logs, Reading};
use super::script::{Script, name};
use super::slow;
use super::witness;
use super::world::{Desk, LogWorld, can_mount};
use crate::chance::Chance;

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// All children have started by then.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Of these compressed, S3 gets more than one part.
const NOISE_BYTES: u64 = 14_000_000;
const NEEDS_ROOT: &str = "it takes root, and a private mount namespace: unshare --mount ./dev chaos logs ...";

/// Carries out what was asked for; whether everything held.
///
/// # Errors
/// The world cannot be built or does not do as it is told.
pub async fn carry_out(folder: &Path, options: &Options) -> anyhow::Result<bool> {
    let mut world = LogWorld::start(folder).await?;
    let held = tokio::select! {
        held = all(&mut world, folder, options) => held,
        stopped = crate::run::asked_to_stop() => stopped.and_then(|()| bail!("interrupted")),
    };
    world.stop().await;
    held
}

async fn all(world: &mut LogWorld, folder: &Path, options: &Options) -> anyhow::Result<bool> {
    let mut all_held = true;
    for op in &options.ops {
        if let Some(why) = cannot(world, *op, folder).await? {
            eprintln!("SKIPPED {op}: {why}");
            continue;
        }
        let (mut runs, mut held, mut begun) = (0, 0, Instant::now());
        for seed in options.seeds.0.clone() {
            let evidence = one(world, *op, seed).await.with_context(|| format!("{op}, seed {seed}"))?;
            let verdict = check(&evidence);
            let holds = verdict.violations.is_empty();
            (runs, held) = (runs + 1, held + u32::from(holds));
            if !holds {
                evidence.write(&folder.join(format!("{op}-{seed}.json")))?;
            }
            tell(&evidence, &verdict, options.json, begun.elapsed());
            begun = Instant::now();
        }
        eprintln!("{op}: {held} of {runs} seeds held");
        all_held &= runs == held;
    }
    world.drain().await?;
    Ok(all_held)
}

async fn cannot(world: &mut LogWorld, op: LogOp, folder: &Path) -> anyhow::Result<Option<&'static str>> {
    Ok(match op {
        LogOp::RunnerDiskFull if !can_mount(folder).await => {
            Some("no disk can be mounted here, not even in a user namespace")
        }
        LogOp::S3Down => {
            world.keep_logs_in_a_bucket().await?;
            None
        }
        LogOp::PostgresDiskFull if !world.keep_logs_on_a_small_disk().await? => Some(NEEDS_ROOT),
        LogOp::PostgresWalFull if !world.keep_journal_on_a_small_disk().await? => Some(NEEDS_ROOT),
        _ => None,
    })
}

fn tell(evidence: &Evidence, verdict: &Verdict, as_json: bool, took: Duration) {
    if as_json {
        let value = json!({
            "op": evidence.op, "seed": evidence.seed, "holds": verdict.violations.is_empty(), "acts": evidence.acts,
            "attempts": evidence.attempts.len(), "lines": verdict.lines, "bytes": verdict.bytes, "gaps": verdict.gaps,
            "violations": verdict.violations, "ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        });
        println!("{value}");
    } else {
        print!("{}", words(evidence, verdict));
    }
}

/// In words.
pub fn words(evidence: &Evidence, verdict: &Verdict) -> String {
    let Evidence { op, seed, attempts, .. } = evidence;
    let (attempts, lines, bytes) = (attempts.len(), verdict.lines, verdict.bytes);
    let mut text =
        format!("{op} seed {seed}: {attempts} logs, {lines} lines, {bytes} bytes, {} gaps", verdict.gaps.len());
    let _ = writeln!(text, "{}", if verdict.violations.is_empty() { "" } else { "; DOES NOT HOLD" });
    for act in evidence.acts.iter().filter(|_| !verdict.violations.is_empty()) {
        let _ = writeln!(text, "  broken: {act}");
    }
    for gap in verdict.gaps.iter().filter(|_| !verdict.violations.is_empty()) {
        let _ = writeln!(text, "  gap: {gap}");
    }
    for violation in &verdict.violations {
        let _ = writeln!(text, "  VIOLATION {violation}");
    }
    if !verdict.violations.is_empty() {
        let _ = writeln!(text, "  judge it again: ./dev chaos logs --check FOLDER/{op}-{seed}.json");
        let _ = writeln!(text, "  run it again:   ./dev chaos logs --ops {op} --seeds {seed}..{seed}");
    }
    text
}

/// The children of a run.
pub fn scripts(op: LogOp, seed: u64) -> Vec<Script> {
    let (children, bytes, ms, slower) = op.load(seed);
    // Half of them take their time: they live when something is broken late.
    let usual = |number| Script { seed, number, bytes, ms: ms * (1 + slower * (number % 2)), noise: false };
    let mut scripts: Vec<Script> = (0..children).map(usual).collect();
    if op == LogOp::S3Down && Fault::of(seed) == Fault::Cuts {
        // An object of several parts.
        scripts[0] = Script { bytes: NOISE_BYTES, noise: true, ..scripts[0] };
    }
    scripts
}

async fn one(world: &mut LogWorld, op: LogOp, seed: u64) -> anyhow::Result<Evidence> {
    if op == LogOp::RunnerDiskFull {
        // On a disk where the run before has left something no job may be able to start.
        world.drain().await?;
    }
    world.set(op.settings(seed)).await?;
    let desk = world.desk.clone();
    fs::remove_dir_all(&desk.witness)?;
    fs::create_dir_all(&desk.witness)?;
    if let (LogOp::PostgresDiskFull, Some(room)) = (op, &world.room) {
        room.take()?;
    }
    let before = perform::before(world, op).await?;
    let scripts = scripts(op, seed);
    let id = Chance::new(seed, &op.typed()).id(seed);
    desk.submit(id, &scripts, op).await?;
    desk.all_started(scripts.len()).await?;
    let done = perform::perform(world, op, seed, before).await?;
    let was_slow = done.slow;
    let mut evidence = desk.evidence(id, &scripts, (op, seed), done).await?;
    if let Some(slow) = was_slow {
        evidence.slow = Some(slow::fared(slow, world.figures().await?));
    }
    if op == LogOp::S3Down {
        archive::bring_back(world, (seed, id), &mut evidence).await?;
    }
    Ok(evidence)
}

impl Desk {
    /// Submits a deployment with a job for each script.
    ///
    /// # Errors
    /// What the broker refuses.
    pub async fn submit(&self, id: Uuid, scripts: &[Script], op: LogOp) -> anyhow::Result<()> {
        let job = |script: &Script| {
            // Some go on without their runner, others die with it.
            let reading = !op.outlives(script.number);
            let mut argv = vec![self.chaos.display().to_string(), "print".to_owned()];
            argv.extend(["--witness".to_owned(), self.witness.display().to_string()]);
            for (flag, value) in
                [("seed", script.seed), ("number", script.number), ("bytes", script.bytes), ("ms", script.ms)]
            {
                argv.extend([format!("--{flag}"), value.to_string()]);
            }
            if script.noise {
                argv.push("--noise".to_owned());
            }
            if op == LogOp::RunnerDiskFull {
                // On a disk that is full already no job could start.
                argv.extend(["--company".to_owned(), scripts.len().to_string()]);
            }
            let mut limits = json!({"timeout_s": 120, "kill_grace_s": 1});
            if reading {
                limits["max_attempts"] = 1.into();
            }
            json!({
                "name": name(script.number), "kind": "exec", "needs": [], "reading": reading, "argv": argv, "limits": limits,
            })
        };
        let jobs: Vec<_> = scripts.iter().map(job).collect();
        let submission = Submission { id, cluster: self.cluster, snapshot: json!({"jobs": jobs}) };
        loop {
            match submission::submit(&mut self.portal().await?, &submission).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_outage() => tokio::time::sleep(LOOK_EVERY).await,
                Err(error) => bail!("submit: {error}"),
            }
        }
    }

    async fn all_started(&self, children: usize) -> anyhow::Result<()> {
        let begun = Instant::now();
        while witness::lengths(&self.witness)?.len() < children {
            if begun.elapsed() > START_PATIENCE {
                bail!("not all children have started within {} s", START_PATIENCE.as_secs());
            }
            tokio::time::sleep(LOOK_EVERY / 5).await;
        }
        Ok(())
    }

    /// Waits for all logs, reads them anew, and puts together what is known of them.
    ///
    /// # Errors
    /// What asking again does not mend.
    pub async fn evidence(
        &self,
        id: Uuid,
        scripts: &[Script],
        of: (LogOp, u64),
        done: Done,
    ) -> anyhow::Result<Evidence> {
        let mut first = Reading::new(id);
        first.until_rest(self, scripts.len(), (of.0, done.allowed.cut_off)).await?;
        let mut again = Reading::new(id);
        again.read(self).await?;
        let mut attempts = Vec::new();
        for log in &again.logs {
            let mut attempt = self.attempt(log, scripts, (&first, &again), &done).await?;
            attempt.outlives = of.0.outlives(attempt.script.number);
            attempts.push(attempt);
        }
        let without_attempt = scripts.len().saturating_sub(attempts.len());
        Ok(Evidence {
            op: of.0,
            seed: of.1,
            acts: done.acts,
            allowed: done.allowed,
            attempts,
            without_attempt,
            slow: None,
        })
    }

    async fn attempt(
        &self,
        log: &LogState,
        scripts: &[Script],
        (first, again): (&Reading, &Reading),
        done: &Done,
    ) -> anyhow::Result<Attempt> {
        let id = log.attempt_id;
        let printed = witness::read(&self.witness, id)?;
        let number = printed.number.or(again.numbers.get(&id).copied()).unwrap_or(0);
        let script = *scripts.iter().find(|script| script.number == number).context("a job that nobody submitted")?;
        let owed = match done.owed.iter().find(|(attempt, ..)| *attempt == id) {
            None => None,
            Some((_, stdout, stderr)) => {
                let part =
                    |bytes: &[u8], length: u64| bytes[..bytes.len().min(usize::try_from(length).unwrap_or(0))].to_vec();
                let stdout = self.stored_text(&part(&printed.stdout, *stdout)).await?;
                let stderr = self.stored_text(&part(&printed.stderr, *stderr)).await?;
                Some((stdout.len() as u64, stderr.len() as u64))
            }
        };
        let ended = printed.ended;
        let printed = printed.with_doubt(script);
        let rows = |logs: &Logs| logs.get(&id).cloned().unwrap_or_default();
        Ok(Attempt {
            id,
            script,
            stdout: self.stored_text(&printed.stdout).await?,
            stderr: self.stored_text(&printed.stderr).await?,
            ended,
            outlives: false,
            owed,
            destroyed: done.destroyed.get(&id).cloned(),
            log_end: log.log_end,
            log_state: log.log_state.clone(),
            rows: rows(&again.rows),
            seen_before: rows(&first.rows),
            archived: None,
        })
    }
}

//! The short form that every build runs: a few seeds of every operation, and two hundred jobs through the worst of it.
//!
//! The real program is started, which starts all the others; they are looked for beside it. `./dev test` builds them.

#![expect(clippy::unwrap_used, reason = "a test that cannot start its run has nothing to go on with")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

static MACHINE: RwLock<()> = RwLock::new(());

/// Most of a run is waiting: as many share the machine as it has cores.
fn beside_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Leases last for seconds: what works for all it is worth would lose them without a fault beside another.
fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Disks take root. Where CI has that, nothing is to be left out in silence.
fn may_skip_disks() -> bool {
    std::env::var("CI").as_deref() != Ok("true") || !nix::unistd::geteuid().is_root()
}

fn chaos(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tendril-chaos"));
    command.args(arguments.split_whitespace()).stdin(Stdio::null());
    command
}

/// Runs it to its end; everything has to hold. Returns what it says of each seed.
fn holds(arguments: &str) -> Vec<Value> {
    let output = chaos(arguments).arg("--json").stderr(Stdio::inherit()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let seeds: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for seed in &seeds {
        eprintln!("seed {}: {}, notes {}", seed["seed"], seed["states"], seed["notes"]);
        assert_eq!(seed["holds"], true, "violations: {:#}\nrun it again: {}", seed["violations"], seed["replay"]);
    }
    assert!(output.status.success(), "{}", output.status);
    assert!(!seeds.is_empty());
    seeds
}

#[test]
fn without_a_fault_every_job_ends_as_its_work_says() {
    let _shared = beside_others();
    let seeds = holds("--seed 901 --steps 0 --jobs 20");
    assert_eq!(seeds[0]["acts"], Value::Array(vec![]));
    assert_eq!(seeds[0]["unknown"], 0);
}

#[test]
fn everything_holds_through_every_operation_with_a_few_seeds() {
    let _shared = beside_others();
    for seed in holds("--seeds 911..913 --jobs 40") {
        assert_eq!(seed["acts"].as_array().map(Vec::len), Some(8), "one of each");
    }
}

/// Other operations than the usual ones, by what they hit.
fn holds_through(seed: u64, arguments: &str, ops: &[&str]) {
    for seed in holds(&format!("--seed {seed} {arguments} --ops {}", ops.join(","))) {
        let acts = seed["acts"].as_array().map(Vec::len).unwrap();
        assert!(acts >= ops.len(), "one of each: {}", seed["acts"]);
    }
}

#[test]
fn everything_holds_when_the_server_moves_splits_or_forgets() {
    let _shared = beside_others();
    holds_through(941, "--jobs 30", &["failover-elsewhere", "failover-split"]);
    holds_through(942, "--jobs 30", &["failover-lossy", "failover-elsewhere"]);
}

#[test]
fn everything_holds_when_lines_fail_and_runners_stop_in_any_order() {
    let _shared = beside_others();
    holds_through(943, "--jobs 40 --runners 3", &["partition", "slow-line", "cut-calls", "swizzle", "evict-runner"]);
}

#[test]
fn everything_holds_when_a_tenant_misbehaves_and_a_disk_is_full() {
    let _shared = beside_others();
    let tenants = ["use-up-connections", "hold-transaction", "pin-xmin", "flood-doorbell", "rotate-credential"];
    holds_through(944, "--jobs 40", &tenants);
    holds_through(945, "--jobs 30 --serves 2", &["disk-full", "kill-child", "sigkill-serve"]);
}

#[test]
fn two_runners_end_two_hundred_mixed_jobs_through_a_crash_of_postgres_and_a_killed_runner() {
    let _alone = alone();
    let ops = "--ops restart-postgres-immediate,sigkill-runner";
    let [seed] = &holds(&format!("--seed 907 --jobs 200 --runners 2 --slots 8 {ops}"))[..] else {
        panic!("one seed was asked for")
    };
    let states = seed["states"].as_object().unwrap();
    assert_eq!(states.values().filter_map(Value::as_u64).sum::<u64>(), 200);
    for state in ["SUCCESS", "FAILED", "CANCELLED", "SKIPPED"] {
        assert!(states.contains_key(state), "the workload has jobs that end as {state}: {states:?}");
    }
    assert_eq!(seed["acts"].as_array().map(Vec::len), Some(2));

    // All of it was there: what is mixed is not left to the seed's luck.
    let history = std::fs::read_to_string(seed["history"].as_str().unwrap()).unwrap();
    let history: Value = serde_json::from_str(&history).unwrap();
    let list = |value: &Value| value.as_array().unwrap().clone();
    let all = list(&history["workload"]["deployments"]);
    let submitted: Vec<_> = all.iter().filter(|one| one["manner"] != "taken-back").collect();
    for when in ["at-once", "after-start"] {
        assert!(submitted.iter().filter(|one| one["cancel"] == when).count() >= 3, "cancelled {when}");
    }
    let jobs: Vec<Value> = submitted.iter().flat_map(|one| list(&one["jobs"])).collect();
    let count = |what: &dyn Fn(&Value) -> bool| jobs.iter().filter(|job| what(job)).count();
    assert!(count(&|job| job["work"]["kind"] == "plan") >= 10, "is there a terraform or tofu to test with?");
    assert!(count(&|job| job["work"]["kind"] == "apply") >= 10);
    assert!(count(&|job| job["work"]["reading"] == false) >= 20);
    assert!(count(&|job| job["work"]["child"]["exit"].as_u64().is_some_and(|exit| exit > 0)) >= 10);
    assert!(count(&|job| job["work"]["child"]["ms"].as_u64().is_some_and(|ms| ms >= 1000)) >= 10);
    assert!(count(&|job| job["needs"].as_array().is_some_and(|needs| !needs.is_empty())) >= 30);
    let ended = list(&history["dump"]["jobs"]);
    let succeeded = |kind: &str| ended.iter().any(|job| job["kind"] == kind && job["state"] == "SUCCESS");
    assert!(succeeded("terraform.plan") && succeeded("terraform.apply"));
}

/// Looks through a few seeds for one that breaks one of these promises with this mistake in the broker's functions.
fn is_found(mutant: &str, arguments: &str, promises: &[&str]) -> bool {
    (1..=8).any(|seed| {
        // Another mistake is looked for with the same seeds meanwhile.
        let mut run = chaos(&format!("--json --seed {seed} --mutant {mutant} {arguments}"));
        let output = run.arg("--into").arg(state_folder().join(mutant)).stderr(Stdio::null()).output();
        let verdict: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
        let violations = verdict["violations"].as_array().unwrap();
        let broken: BTreeSet<&str> = violations.iter().filter_map(|one| one["promise"].as_str()).collect();
        eprintln!("{mutant}, seed {seed}: {broken:?}");
        promises.iter().any(|promise| broken.contains(promise))
    })
}

#[test]
fn a_start_and_a_finish_without_a_fence_check_are_found() {
    let _shared = beside_others();
    assert!(is_found("no-fence-check", "--ops sigstop-runner --steps 6 --jobs 80 --no-terraform", &["I3"]));
}

#[test]
fn a_check_that_takes_no_lock_is_found_and_the_same_wait_under_its_locks_is_not() {
    let _shared = beside_others();
    let arguments = "--ops sigstop-runner --steps 4 --jobs 60 --no-terraform";
    assert!(is_found("check-without-lock", arguments, &["I1", "I3", "I4"]));
    holds(&format!("--seed 5 --mutant slow-checks {arguments}"));
}

#[test]
fn a_timer_that_frees_the_key_of_a_started_job_is_found() {
    let _shared = beside_others();
    let arguments = "--ops sigstop-runner --steps 8 --jobs 150 --slots 8 --states 1";
    // That a key was handed out too early, or an apply that met the state's own lock.
    assert!(is_found("timer-frees-started-key", arguments, &["I10", "End"]));
}

/// Breaks what logs depend on, in a world of its own.
fn logs(world: &str, arguments: &str) -> Output {
    let folder = state_folder().join(format!("logs-{world}"));
    chaos(&format!("logs {arguments}")).arg("--into").arg(folder).stderr(Stdio::inherit()).output().unwrap()
}

/// Each operation with each seed; every log has to be as it was printed.
fn logs_hold(world: &str, seeds: &str, ops: &[&str]) {
    let output = logs(world, &format!("--json --seeds {seeds} --ops {}", ops.join(",")));
    let text = String::from_utf8(output.stdout).unwrap();
    let seeds: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for seed in &seeds {
        eprintln!("{} seed {}: {} lines in {} ms", seed["op"], seed["seed"], seed["lines"], seed["ms"]);
        assert_eq!(seed["holds"], true, "{seed:#}");
        let full = || seed["acts"][0].as_str().unwrap().starts_with("the spool holds");
        assert!(seed["op"] != "spool-full" || full(), "these seeds print enough to fill it: {seed:#}");
        // How much a file holds when its runner is killed is a matter of time, and what is damaged of it may be all.
        assert!(seed["op"] == "corrupt-spool" || seed["lines"].as_u64().unwrap() > 100, "{seed:#}");
    }
    assert!(output.status.success(), "{}", output.status);
    for op in ops {
        let tried = seeds.iter().any(|seed| seed["op"] == *op);
        assert!(tried || op.contains("disk") && may_skip_disks(), "{op} was not tried");
    }
}

#[test]
fn every_log_is_byte_for_byte_what_was_printed_when_its_way_to_the_database_breaks() {
    let _shared = beside_others();
    let ops = [
        "none",
        "crash-postgres",
        "end-log-session",
        "kill-log-backend",
        "end-log-session-at-the-cap",
        "cut-at-commit",
        "cut-in-copy",
    ];
    logs_hold("sessions", "931..933", &ops);
}

#[test]
fn every_log_is_byte_for_byte_what_was_printed_when_its_runner_or_its_spool_breaks() {
    let _shared = beside_others();
    let ops = ["kill-runner", "kill-runner-full-spool", "corrupt-spool", "spool-full", "runner-disk-full"];
    logs_hold("spool", "931..932", &ops);
}

#[test]
fn every_log_is_byte_for_byte_what_was_printed_when_its_line_is_slow_or_its_store_is_full_or_away() {
    let _shared = beside_others();
    logs_hold("store", "931..932", &["slow-line", "postgres-disk-full", "s3-down"]);
}

#[test]
fn no_acknowledged_line_is_lost_when_postgres_crashes_again_and_again_under_load() {
    let _alone = alone();
    let output = logs("crashes", "--crashes 3");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("3 crashes") && said.contains(" 0 logs that are not"), "{said}");
}

#[test]
fn nothing_is_lost_when_the_disk_of_the_databases_journal_is_full() {
    let _shared = beside_others();
    // Where nothing can be mounted it is skipped, and says so.
    let output = logs("journal", "--ops postgres-wal-full --seeds 931..931");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !said.contains("DOES NOT HOLD"), "{said}");
    assert!(said.contains("postgres-wal-full seed 931") || may_skip_disks(), "it was skipped: {said}");
}

#[test]
fn an_outage_loses_no_line_and_makes_nobody_who_prints_wait() {
    let _shared = beside_others();
    let output = logs("outage", "--outage 0.1 --streams 200 --rate 10");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("in another place 0, gaps 0"), "{said}");
}

#[test]
fn a_run_that_is_stopped_in_the_middle_leaves_nothing_running() {
    let _shared = beside_others();
    // Tried: Ctrl-C, and what `./dev` sends when it is stopped itself.
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut run = chaos("--seed 921 --jobs 60 --ops sigstop-runner").stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(run.stderr.take().unwrap()).lines().map(Result::unwrap);
        // Children run then, and one runner is stopped or about to be.
        assert!(said.any(|line| line.contains("SIGSTOP")), "the run ended before it had broken anything");
        kill(Pid::from_raw(i32::try_from(run.id()).unwrap()), signal).unwrap();
        let rest: Vec<String> = said.collect();
        assert_eq!(run.wait().unwrap().code(), Some(2));
        assert!(rest.iter().any(|line| line.contains("interrupted")), "{rest:?}");
        assert_eq!(who_works_for(&state_folder().join("seed-921")), Vec::<String>::new());
    }
}

fn state_folder() -> PathBuf {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../dev");
    let dev = std::env::var_os("TENDRIL_DEV").map_or_else(own, PathBuf::from);
    dev.with_file_name(".state").join("chaos")
}

/// Processes that have the folder in their command line: runners, children; none is ours.
fn who_works_for(folder: &Path) -> Vec<String> {
    let folder = folder.canonicalize().unwrap().display().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
    lines.filter(|line| line.contains(&folder)).collect()
}

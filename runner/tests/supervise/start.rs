//! What the command finds when it starts, and what is said when it cannot.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tendril_runner::supervise::{
    EXIT_FILE, Ended, Exit, Launched, Launcher, StartFailure, Step, SuperviseError, Supervisors,
};

use super::support::{BINARY, Bed, apart, finish, launched, run, spawn, spawn_by, within};

#[tokio::test]
async fn arguments_arrive_byte_for_byte_and_no_shell_looks_at_them() {
    let bed = Bed::new();
    let given = ["a b", "", "$HOME", "*", "\"'\\", "ü\n\t", "-n", "; exit 3"];
    let argv = [&["/usr/bin/printf", "%s\\0"], &given[..]].concat();
    let outcome = run(bed.step(&argv)).await;
    let expected: String = given.iter().flat_map(|arg| [*arg, "\0"]).collect();
    assert_eq!(outcome.text(), expected);
    assert_eq!(outcome.record.exit, Exit::Success);
}

#[tokio::test]
async fn the_environment_is_exactly_what_the_step_says() {
    let bed = Bed::new();
    let mut step = bed.step(&["/usr/bin/env", "-0"]);
    step.env =
        [("A", "1 2"), ("EMPTY", ""), ("WITH", "a=b\nc")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    assert_eq!(run(step).await.text(), "A=1 2\0EMPTY=\0WITH=a=b\nc\0");

    let bed = Bed::new();
    let mut step = bed.step(&["/usr/bin/env", "-0"]);
    step.env.clear();
    assert_eq!(run(step).await.text(), "", "nothing comes from the runner");
}

#[tokio::test]
async fn an_environment_larger_than_a_socket_buffer_arrives_whole() {
    let bed = Bed::new();
    let mut step = bed.step(&["/usr/bin/env", "-0"]);
    step.env = (0..15).map(|i| (format!("V{i:02}"), "x".repeat(100_000))).collect();
    let expected: String = step.env.iter().map(|(k, v)| format!("{k}={v}\0")).collect();
    assert_eq!(run(step).await.text(), expected);
}

#[tokio::test]
async fn no_descriptor_of_runner_or_supervisor_reaches_the_command() {
    // Opened without close-on-exec, as a careless library would.
    let leak =
        nix::fcntl::open("/etc/passwd", nix::fcntl::OFlag::O_RDONLY, nix::sys::stat::Mode::empty()).expect("a file");
    let bed = Bed::new();
    let outcome = run(bed.step(&["/bin/ls", "/proc/self/fd"])).await;
    // Nor the supervisor, where we may look: only root reads its descriptors.
    let held = Bed::new();
    held.gate("gate");
    let running = spawn(held.bash("read < gate")).await;
    if let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", running.control.supervisor_pid())) {
        let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let links: Vec<_> = links.collect();
        assert!(!links.is_empty() && !links.contains(&"/etc/passwd".into()), "{links:?}");
    }
    held.release("gate").await;
    finish(running).await;
    drop(leak);
    // The fourth is the folder that ls reads.
    assert_eq!(outcome.text(), "0\n1\n2\n3\n");

    let bed = Bed::new();
    let links = run(bed.bash("readlink /proc/self/fd/0; readlink /proc/self/fd/1; readlink /proc/self/fd/2")).await;
    let links: Vec<&str> = links.text().lines().collect();
    assert_eq!(links[0], "/dev/null");
    assert!(links[1].starts_with("pipe:") && links[2].starts_with("pipe:") && links[1] != links[2]);
}

#[tokio::test]
async fn the_command_starts_with_plain_signals_its_own_group_and_the_given_umask() {
    let bed = Bed::new();
    let mut step = bed.bash("umask; cut -d' ' -f1,5 /proc/$$/stat");
    step.umask = 0o027;
    let outcome = run(step).await;
    let lines: Vec<&str> = outcome.text().lines().collect();
    assert_eq!(lines[0], "0027");
    let (pid, group) = lines[1].split_once(' ').expect("two numbers");
    assert_eq!(pid, group);

    let bed = Bed::new();
    let signals = run(bed.step(&["/bin/grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"])).await;
    let none = "0".repeat(16);
    let expected = format!("SigBlk:\t{none}\nSigIgn:\t{none}\n");
    assert_eq!(signals.text(), expected, "whatever the runner ignores");
}

#[tokio::test]
async fn the_supervisor_is_known_by_its_name_and_holds_no_environment() {
    let bed = Bed::new();
    bed.gate("gate");
    let running = spawn(bed.bash("read < gate")).await;
    let folder = format!("/proc/{}", running.control.supervisor_pid());
    let read = |file: &str| fs::read_to_string(format!("{folder}/{file}"));
    assert_eq!(read("cmdline").expect("it lives"), "tendril-runner\0supervise\0");
    assert_eq!(read("comm").expect("it lives"), "tendril-superv\n");
    match nix::unistd::geteuid().is_root() {
        true => assert_eq!(read("environ").expect("root reads all"), ""),
        false => {
            let refused = read("environ").expect_err("the same user reads nothing");
            assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
        }
    }
    bed.release("gate").await;
    assert_eq!(finish(running).await.record.exit, Exit::Success);
}

#[tokio::test]
async fn the_kernel_would_end_the_command_before_its_supervisor() {
    let score = |text: &str| text.trim().parse::<i32>().expect("a number");
    let own = fs::read_to_string("/proc/self/oom_score_adj").expect("a score");
    let bed = Bed::new();
    let outcome = run(bed.step(&["/bin/cat", "/proc/self/oom_score_adj"])).await;
    assert_eq!(score(outcome.text()), (score(&own) + 300).min(1000));
}

#[tokio::test]
async fn code_and_signal_of_the_command_are_told() {
    for (script, exit, ended) in [
        ("exit 0", Exit::Success, Ended::Code { code: 0 }),
        ("exit 7", Exit::Failure { code: 7 }, Ended::Code { code: 7 }),
        ("kill -SEGV $$", Exit::Signalled { signal: 11 }, Ended::Signal { signal: 11 }),
        // A real-time signal, which has no name.
        ("kill -40 $$", Exit::Signalled { signal: 40 }, Ended::Signal { signal: 40 }),
    ] {
        let bed = Bed::new();
        let outcome = run(bed.bash(script)).await;
        assert_eq!(outcome.record.exit, exit, "{script}");
        assert_eq!(outcome.record.ended, Some(ended), "{script}");
        assert!(outcome.record.child_dead && !outcome.record.interrupted);
        assert_eq!(outcome.record.orphan_output, None);
        assert_eq!(bed.record(), Some(outcome.record), "the same on disk");
    }
}

async fn refusal(step: Step) -> StartFailure {
    let outcome = run(step).await;
    assert_eq!((outcome.stdout.len(), outcome.stderr.len()), (0, 0));
    assert_eq!(outcome.record.ended, None);
    match outcome.record.exit {
        Exit::NotStarted { reason } => reason,
        other => panic!("it ran: {other:?}"),
    }
}

#[tokio::test]
async fn a_program_that_cannot_run_is_named_with_a_remedy() {
    let bed = Bed::new();
    let file = |name: &str, content: &str, mode: u32| {
        let path = bed.path(name);
        fs::write(&path, content).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        path.to_str().expect("text").to_owned()
    };
    let missing = bed.path("nowhere/terraform").to_str().expect("text").to_owned();
    let plain = file("plain", "#!/bin/sh\n", 0o600);
    let garbage = file("garbage", "neither ELF nor script", 0o700);
    let orphaned = file("orphaned", "#!/nowhere/python\n", 0o700);
    let folder = bed.path("work").to_str().expect("text").to_owned();
    for (program, expected, remedy) in [
        (&missing, StartFailure::ProgramMissing { program: missing.clone() }, "install it"),
        (&plain, StartFailure::NotExecutable { program: plain.clone() }, "chmod +x"),
        (&folder, StartFailure::NotExecutable { program: folder.clone() }, "chmod +x"),
        (&garbage, StartFailure::WrongFormat { program: garbage.clone() }, "`#!` line"),
        (&orphaned, StartFailure::InterpreterMissing { program: orphaned.clone() }, "first line"),
    ] {
        let mut step = Bed::new().step(&[program]);
        step.cwd = "/".into();
        let reason = refusal(step).await;
        assert_eq!(reason, expected);
        let message = reason.to_string();
        assert!(message.contains(program.as_str()) && message.contains(remedy), "{message}");
    }
}

#[tokio::test]
async fn other_obstacles_are_named_and_nothing_runs() {
    let bed = Bed::new();
    let mut step = bed.bash("touch /proc/self/cwd/ran");
    step.cwd = bed.path("absent");
    assert!(matches!(refusal(step).await, StartFailure::WorkFolder { path, .. } if path.ends_with("absent")));
    assert!(matches!(bed.record().expect("kept too").exit, Exit::NotStarted { .. }));

    let used = bed.bash("touch ran");
    let reason = refusal(used).await.to_string();
    assert!(reason.contains("exit.json of an earlier step"), "{reason}");
    assert!(!bed.path("work/ran").exists());

    let bed = Bed::new();
    let relative = bed.step(&["terraform", "plan"]);
    assert!(refusal(relative).await.to_string().contains("absolute path"));

    let bed = Bed::new();
    let huge = bed.step(&["/bin/true".to_owned(), "x".repeat(200_000)]);
    assert!(matches!(refusal(huge).await, StartFailure::TooLong { .. }));

    let bed = Bed::new();
    let mut closed = bed.bash("touch ran");
    closed.record_dir = "/proc/nowhere".into();
    assert!(matches!(refusal(closed).await, StartFailure::RecordFolder { .. }));
    assert!(!bed.path("work/ran").exists());
}

#[tokio::test]
async fn a_record_folder_in_use_is_refused_and_its_owner_undisturbed() {
    let bed = Bed::new();
    bed.gate("gate");
    let owner = spawn(bed.bash("read < gate; exit 5")).await;
    let reason = refusal(bed.bash("touch ran")).await.to_string();
    assert!(reason.contains("another supervisor"), "{reason}");
    bed.release("gate").await;
    assert_eq!(finish(owner).await.record.exit, Exit::Failure { code: 5 });
    assert_eq!(bed.record().expect("kept").exit, Exit::Failure { code: 5 });
}

#[tokio::test]
async fn a_binary_that_is_no_runner_is_told_apart_from_a_failed_command() {
    let bed = Bed::new();
    let fail = |binary: &'static str| {
        let step = bed.bash("true");
        async move { within(spawn_by(binary, step)).await.expect_err("no supervisor") }
    };
    assert!(matches!(fail("/bin/true").await, SuperviseError::Unopened { .. }));
    assert!(matches!(fail("/nowhere/tendril-runner").await, SuperviseError::Launch { .. }));
}

#[tokio::test]
async fn a_supervisor_that_came_early_starts_nothing_by_itself_and_goes_when_it_is_not_needed() {
    let bed = Bed::new();
    let early = launched();
    let pid = early.pid().expect("it lives");
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it lives"), "");
    let running = within(early.start(bed.bash("echo here"))).await.expect("a command");
    assert_eq!(running.control.supervisor_pid(), pid);
    assert_eq!(finish(running).await.text(), "here\n");

    let unneeded = launched();
    let pid = Pid::from_raw(unneeded.pid().expect("it lives"));
    drop(unneeded);
    let ended = move || waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
    apart(ended).await.expect("it is ours");
    // The next one that comes has it reaped.
    drop(launched());
    assert_eq!(waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT), Err(Errno::ECHILD));
    let nowhere = Launched::by(&Launcher::of("/nowhere/tendril-runner"));
    assert!(matches!(nowhere, Err(SuperviseError::Launch { .. })));
}

#[tokio::test]
async fn a_launcher_that_was_killed_is_replaced_and_its_supervisors_go_on() {
    let bed = Bed::new();
    let launcher = Launcher::of(BINARY);
    let first = Launched::by(&launcher).expect("a supervisor");
    // Tried: it is killed between two supervisors.
    let killed = launcher.pid().expect("it lives");
    kill(Pid::from_raw(killed), Signal::SIGKILL).expect("it is there");
    let second = Launched::by(&launcher).expect("a supervisor of another launcher");
    assert_ne!(launcher.pid(), Some(killed));
    let elsewhere = Bed::new();
    let running = within(first.start(bed.bash("echo first"))).await.expect("a command");
    assert_eq!(finish(running).await.text(), "first\n");
    let running = within(second.start(elsewhere.bash("echo second"))).await.expect("a command");
    assert_eq!(finish(running).await.text(), "second\n");
}

#[tokio::test]
async fn a_command_that_was_made_ready_runs_nothing_without_the_word() {
    // Its record folder shows that the supervisor has the step.
    let comes = |file: PathBuf| {
        apart(move || {
            while !file.exists() {
                std::thread::yield_now();
            }
        })
    };
    // Tried: the runner takes it back, drops it as if it had died, and gives the word.
    let bed = Bed::new();
    let ready = within(launched().prepare(bed.bash("touch run"))).await.expect("a command");
    comes(bed.path("record")).await;
    within(ready.call_off()).await;
    assert!(!bed.path("work").join("run").exists());
    let record = bed.record().expect("it says so");
    assert_eq!(record.exit, Exit::NotStarted { reason: StartFailure::RunnerGone });
    assert!(record.child_dead);

    let bed = Bed::new();
    let ready = within(launched().prepare(bed.bash("touch run"))).await.expect("a command");
    comes(bed.path("record")).await;
    drop(ready);
    comes(bed.path("record").join(EXIT_FILE)).await;
    assert_eq!(bed.record().expect("it says so").exit, Exit::NotStarted { reason: StartFailure::RunnerGone });
    assert!(!bed.path("work").join("run").exists());

    let bed = Bed::new();
    let ready = within(launched().prepare(bed.bash("touch run"))).await.expect("a command");
    let outcome = finish(within(ready.run()).await.expect("a command")).await;
    assert_eq!(outcome.record.exit, Exit::Success);
    assert!(bed.path("work").join("run").exists());
}

#[tokio::test]
async fn a_supervisor_that_stands_by_takes_the_next_command_and_one_that_was_killed_is_passed_over() {
    let bed = Bed::new();
    let supervisors = Supervisors::of(BINARY);
    supervisors.call();
    let first = standing_by(&supervisors).await;
    let running = within(supervisors.start(bed.bash("echo first"))).await.expect("a command");
    assert_eq!(running.control.supervisor_pid(), first);
    assert_eq!(finish(running).await.text(), "first\n");

    // The next one comes by itself. Tried: it is killed while it waits.
    let second = standing_by(&supervisors).await;
    assert_ne!(second, first);
    kill(Pid::from_raw(second), Signal::SIGKILL).expect("it is there");
    let dead = move || waitid(Id::Pid(Pid::from_raw(second)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
    apart(dead).await.expect("it is ours");
    let bed = Bed::new();
    let running = within(supervisors.start(bed.bash("echo second"))).await.expect("a command");
    assert_ne!(running.control.supervisor_pid(), second);
    assert_eq!(finish(running).await.text(), "second\n");
}

async fn standing_by(supervisors: &Arc<Supervisors>) -> i32 {
    let supervisors = supervisors.clone();
    apart(move || {
        loop {
            match supervisors.standing_by() {
                Some(pid) => return pid,
                None => std::thread::yield_now(),
            }
        }
    })
    .await
}

#[test]
fn started_by_hand_the_supervisor_says_that_it_is_not_for_that() {
    let output = std::process::Command::new(BINARY)
        .arg("supervise")
        .stdin(std::process::Stdio::null())
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("only a runner starts its supervisors"), "{said}");
}

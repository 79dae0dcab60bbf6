use crate::bed::{Bed, Gate, Stopper, job};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tendril_broker::runner::{BrokerError, Claimed, Outcome};
use tendril_runner::attempt_log::Look;
use tendril_runner::command::{Command, Room};
use tendril_runner::sandbox::Mode;
use tendril_runner::stop::Stop;
use tendril_runner::supervise::Exit;
use uuid::Uuid;

pub fn exec(argv: &[&str]) -> Claimed {
    job("exec", json!({}), json!({ "argv": argv }))
}

#[tokio::test]
async fn a_program_that_succeeds_is_a_success_and_starts_once() {
    let bed = Bed::new();
    let done = bed.run(exec(&["echo", "hello", "$HOME; rm -rf /"])).await;
    done.result();
    assert_eq!(done.stream("stdout"), "hello $HOME; rm -rf /\n", "no shell looks at it");
    assert_eq!(*bed.desk.started.lock().unwrap(), [done.attempt]);
}

#[tokio::test]
async fn a_program_that_fails_says_how() {
    let bed = Bed::new();
    let done = bed.run(exec(&["sh", "-c", "echo no >&2; exit 7"])).await;
    assert_eq!(done.reason(), "sh exited with code 7");
    assert_eq!(done.stream("stderr"), "no\n");
    let killed = bed.run(exec(&["sh", "-c", "kill -9 $$"])).await;
    assert!(killed.reason().contains("signal 9"), "{}", killed.reason());
}

#[tokio::test]
async fn a_missing_program_is_named_with_the_path_that_was_searched() {
    let mut bed = Bed::new();
    bed.config.tools.path = "/nowhere:/usr/bin".into();
    for (name, words) in [
        ("no-such-program", vec!["no-such-program", "/nowhere:/usr/bin"]),
        ("/no/such/program", vec!["/no/such/program", "does not exist"]),
        ("./run.sh", vec!["./run.sh", "does not exist"]),
        ("../../../bin/sh", vec!["argv[0]", ".."]),
        ("/etc/passwd", vec!["/etc/passwd", "interpreter"]),
    ] {
        let done = bed.run(exec(&[name])).await;
        let Stop::Failed { reason, permanent: true, .. } = done.stop() else { panic!("{name}: {:?}", done.verdict) };
        assert!(words.iter().all(|word| reason.contains(word)), "{name}: {reason}");
    }
    assert!(bed.desk.started.lock().unwrap().is_empty(), "what cannot be run is not started");
}

#[tokio::test]
async fn a_job_that_only_reads_needs_no_start() {
    let bed = Bed::new();
    let done = bed.run(Claimed { mutating: false, ..exec(&["true"]) }).await;
    done.result();
    assert!(bed.desk.started.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_log_that_nobody_takes_holds_a_command_up_for_a_while_and_then_has_a_gap() {
    // The spool has no room: 2 MB, and memory for a quarter of one.
    let mut bed = Bed::new();
    bed.config.logs.attempt_buffer_bytes = 262_144;
    bed.config.logs.stall_s = 1;
    let open = bed.open(exec(&["sh", "-c", "yes 0123456789 | head -c 20000000; echo end >&2"])).await;
    let log = open.log();
    let without_room = async {
        loop {
            log.collect(0, Look::AtAll);
            tokio::task::yield_now().await;
        }
    };
    let done = tokio::select! {
        done = open.run() => done,
        () = without_room => unreachable!(),
    };
    done.result();
    for stream in ["stdout", "stderr"] {
        assert!(done.stream(stream).contains("bytes of output are missing here"), "{stream}");
    }
    assert!(done.text().len() < 8 << 20, "it stays bounded: {}", done.text().len());
}

#[tokio::test]
async fn a_supervisor_that_dies_under_its_command_leaves_a_doubt_and_its_folder() {
    for mutating in [true, false] {
        let mut bed = Bed::new();
        // It kills its own supervisor, as the kernel does when memory runs out; the sandbox would not let it.
        bed.config.sandbox.mode = Mode::Off;
        let open = bed
            .open(Claimed {
                mutating,
                kill_grace: Duration::from_millis(100),
                ..exec(&["sh", "-c", "kill -9 $PPID; exec sleep 600"])
            })
            .await;
        let (verdict, children_dead, keeps_folder) = open.doubtful().await;
        let Err(Stop::Failed { reason, permanent, .. }) = verdict else { panic!("{verdict:?}") };
        assert!(reason.contains("was killed"), "{reason}");
        assert!(!children_dead, "nobody has seen all of it dead");
        assert_eq!((permanent, keeps_folder), (mutating, mutating), "what only reads is tried again");
    }
}

#[tokio::test]
async fn a_machine_that_is_short_of_disk_is_tried_again() {
    let bed = Bed::new();
    let open = bed.open(Claimed { mutating: false, ..exec(&["true"]) }).await;
    let records = bed.config.state_dir.join("work").join(open.attempt().simple().to_string()).join("records");
    std::fs::remove_dir(&records).unwrap();
    std::fs::write(&records, "no folder can be made here").unwrap();
    let done = open.run().await;
    let Stop::Failed { reason, permanent: false, .. } = done.stop() else { panic!("{:?}", done.verdict) };
    assert!(reason.contains("record folder"), "{reason}");
}

#[tokio::test]
async fn a_stranger_that_keeps_a_commands_output_open_does_not_keep_the_job() {
    let bed = Bed::new();
    let (tells, goes) = (Gate::new(&bed.dir(), "tells"), Gate::new(&bed.dir(), "goes"));
    let script = format!("echo $$ > {}; read x < {}; echo last", tells.path().display(), goes.path().display());
    let open = bed.open(exec(&["sh", "-c", &script])).await;
    let (done, stranger) = tokio::join!(open.run(), async {
        let (tells, goes) = (tells.path().to_owned(), goes.path().to_owned());
        let opened = tokio::task::spawn_blocking(move || {
            let pid = std::fs::read_to_string(tells).unwrap();
            // Somebody of the same user, and no descendant of the command: this test itself.
            let stdout = format!("/proc/{}/fd/1", pid.trim());
            let stranger = std::fs::File::options().write(true).open(stdout).unwrap();
            std::fs::write(goes, "go\n").unwrap();
            stranger
        });
        opened.await.unwrap()
    });
    done.result();
    assert_eq!(done.stream("stdout"), "last\n", "all that the command itself has printed is there");
    drop(stranger);
}

#[tokio::test]
async fn what_a_detached_descendant_prints_behind_the_commands_end_is_in_the_log_until_the_tree_is_killed() {
    let mut bed = Bed::new();
    // The command's shell tells its supervisor's number; the test holds that up, so that the tree lives on for a while.
    bed.config.sandbox.mode = Mode::Off;
    let pipes = ["tells", "goes", "ends", "behind"].map(|name| Gate::new(&bed.dir(), name));
    let [tells, goes, ends, behind] = pipes.each_ref().map(|gate| gate.path().display());
    // Tried: a session of its own that lives as long as the command does and then prints on both streams, then a flood
    // without an end. It learns of the command's end by a pipe that nobody else holds open.
    let flood = "yes the flood";
    let late = format!("cat {ends}; echo late; echo later >&2; echo here > {behind}; exec {flood}");
    let script = format!("setsid sh -c '{late}' & exec 3> {ends}; echo $PPID > {tells}; read x < {goes}; echo last");
    let open = bed.open(exec(&["sh", "-c", &script])).await;
    let (done, ()) = tokio::join!(open.run(), async {
        let (tells, goes) = (pipes[0].path().to_owned(), pipes[1].path().to_owned());
        let held_up = tokio::task::spawn_blocking(move || {
            let supervisor = Pid::from_raw(std::fs::read_to_string(tells).unwrap().trim().parse().unwrap());
            kill(supervisor, Signal::SIGSTOP).unwrap();
            std::fs::write(goes, "go\n").unwrap();
            supervisor
        });
        let supervisor = held_up.await.unwrap();
        pipes[3].reached().await;
        kill(supervisor, Signal::SIGCONT).unwrap();
    });
    done.result();
    let printed = done.stream("stdout");
    assert!(printed.starts_with("last\nlate\n"), "{}", &printed[..printed.len().min(100)]);
    assert_eq!(done.stream("stderr"), "later\n");
    assert!(done.records[0].killed_descendants >= 1, "{:?}", done.records);
}

#[tokio::test]
async fn streams_that_take_turns_are_stored_in_their_order_of_arrival_with_times_that_do_not_go_back() {
    let bed = Bed::new();
    // Tried: one line to each stream in turn, each after the one before has been read, so that the order is one that was.
    const TURNS: u64 = 12;
    let (begins, gate) = (Gate::new(&bed.dir(), "begins"), Gate::new(&bed.dir(), "gate"));
    let fifo = gate.path().display();
    // Whoever opens it before the last writer has closed it finds nothing but an end, and has to come again.
    let go = format!("until read x < {fifo}; do :; done");
    let turn = format!("echo out $n; {go}; echo err $n >&2; {go}");
    let script = format!("{}; {go}; n=0; while [ $n -lt {TURNS} ]; do {turn}; n=$((n+1)); done", begins.pass());
    let open = bed.open(exec(&["sh", "-c", &script])).await;
    let log = open.log();
    let (done, ()) = tokio::join!(open.run(), async {
        begins.reached().await;
        let before = log.counters().records;
        for line in 0..=2 * TURNS {
            while log.counters().records < before + line {
                tokio::task::yield_now().await;
            }
            let fifo = gate.path().to_owned();
            tokio::task::spawn_blocking(move || std::fs::write(fifo, "go\n").unwrap()).await.unwrap();
        }
    });
    done.result();
    let printed = done.log.iter().filter(|(stream, _)| stream != "system");
    let lines: Vec<(&str, &str)> = printed.map(|(stream, text)| (stream.as_str(), text.as_str())).collect();
    let expected: Vec<_> =
        (0..TURNS).flat_map(|n| [("stdout", format!("out {n}\n")), ("stderr", format!("err {n}\n"))]).collect();
    assert_eq!(lines, expected.iter().map(|(stream, text)| (*stream, text.as_str())).collect::<Vec<_>>());
    for (before, after) in done.chunks.iter().zip(&done.chunks[1..]) {
        assert_eq!(before.seq_to + 1, after.seq, "{before:?} {after:?}");
        assert!(before.ts <= after.ts, "{before:?} {after:?}");
    }
    assert_eq!(done.chunks[0].seq, 0);
}

#[tokio::test]
async fn it_runs_in_the_files_of_the_template_or_in_an_empty_folder() {
    let bed = Bed::new();
    let inline =
        json!({"template": {"inline": {"a.txt": "A", "deep/b.sh": "#!/bin/sh\ncat a.txt\n"}}, "stateless": true});
    let done = bed.run(job("exec", inline, json!({"argv": ["sh", "deep/b.sh"]}))).await;
    done.result();
    assert_eq!(done.stream("stdout"), "A");
    let empty = bed.run(exec(&["ls", "-A"])).await;
    assert_eq!(empty.stream("stdout"), "");
}

#[tokio::test]
async fn its_environment_is_exactly_the_allow_list() {
    let mut bed = Bed::new();
    bed.own_env.extend(
        [("AWS_REGION", "eu"), ("SECRET", "no"), ("TENDRIL_AGENT_TOKEN", "no"), ("HOME", "/root")]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    bed.config.tools.pass_env = vec!["AWS_*".into(), "T*".into()];
    bed.config.tools.env = [("GREETING".to_owned(), "hi there".to_owned())].into();
    let done = bed.run(exec(&["env", "-0"])).await;
    done.result();
    let printed = done.stream("stdout");
    // The log shows NUL as a symbol.
    let seen: BTreeMap<&str, &str> = printed.split(['\0', '␀']).filter_map(|pair| pair.split_once('=')).collect();
    let work = done.work.to_str().unwrap().trim_end_matches('/');
    let (home, tmp) = (format!("{work}/home"), format!("{work}/tmp"));
    let expected = [
        ("AWS_REGION", "eu"),
        ("GREETING", "hi there"),
        ("HOME", &home),
        ("TMPDIR", &tmp),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
    ];
    assert_eq!(seen, expected.into_iter().collect());
}

#[tokio::test]
async fn without_a_committed_start_nothing_is_run() {
    let refused = |code: &str| BrokerError::Refused { code: code.into(), message: "no".into(), detail: None };
    for (answer, expected) in [
        (BrokerError::LeaseLost("gone".into()), Stop::Superseded("gone".into())),
        (BrokerError::CancelRequested, Stop::Cancelled("cancelled before it started".into())),
        (BrokerError::LeaseExpired("late".into()), Stop::Released(String::new())),
        (BrokerError::NotActive("drained".into()), Stop::Released(String::new())),
        (BrokerError::Version("old".into()), Stop::Released(String::new())),
        (refused("TD001"), Stop::Barred(String::new())),
    ] {
        let bed = Bed::new();
        let marker = bed.dir().join("marker");
        let said = answer.to_string();
        bed.desk.refusals.lock().unwrap().push_back(answer);
        let done = bed.run(exec(&["touch", marker.to_str().unwrap()])).await;
        match (&expected, done.stop()) {
            (Stop::Released(_), Stop::Released(reason)) | (Stop::Barred(_), Stop::Barred(reason)) => {
                assert!(reason.contains(&said), "{reason}")
            }
            (expected, stop) => assert_eq!(expected, stop),
        }
        assert!(!marker.exists() && done.records.is_empty(), "{said}");
        // What is refused for good counts, so that it ends.
        assert_eq!(done.report.permanent, matches!(expected, Stop::Barred(_)), "{said}");
    }
}

#[tokio::test]
async fn an_unclear_reply_to_the_start_is_asked_again_and_nothing_runs_before() {
    let bed = Bed::new();
    let unclear = || BrokerError::Unavailable("the connection was cut".into());
    bed.desk.refusals.lock().unwrap().extend([unclear(), unclear()]);
    let done = bed.run(exec(&["true"])).await;
    done.result();
    assert_eq!(done.records.len(), 1);
    assert_eq!(done.records[0].exit, Exit::Success);
}

#[tokio::test]
async fn a_command_that_fills_its_room_is_killed() {
    let bed = Bed::new();
    let mut open = bed.open(exec(&["true"])).await;
    for (script, overfull) in [
        ("head -c 2000000 /dev/zero > big; exec sleep 600", true),
        ("head -c 2000000 /dev/zero > big; true", true),
        ("head -c 1000 /dev/zero > small; mkdir sub; head -c 1000 /dev/zero > sub/small", false),
    ] {
        let dir = bed.dir().join(script.len().to_string());
        std::fs::create_dir(&dir).unwrap();
        let mut command = Command::new("fill", Path::new("/bin/sh"), dir.clone()).args(["-c", script]);
        command.env.insert("PATH".into(), "/usr/bin:/bin".into());
        command.room = Some(Room { dir, bytes: 1_000_000 });
        assert_eq!(open.command(command).await.overfull, overfull, "{script}");
    }
}

#[tokio::test]
async fn a_start_that_may_be_committed_is_neither_handed_back_nor_failed_by_what_comes_meanwhile() {
    // Tried: a first SIGTERM, and the end of the lease, each while the reply to the start is still out; the reply then
    // comes, or is lost and asked for again.
    let lost = || BrokerError::Unavailable("the connection broke".into());
    let events: [&[fn(&Stopper)]; 2] = [&[Stopper::begin_shutdown], &[Stopper::cut_off, Stopper::heard]];
    for replies in [0, 1] {
        for happens in events {
            let bed = Bed::new();
            let open = bed.open(exec(&["true"])).await;
            for event in happens {
                let stopper = open.stopper.clone();
                bed.desk.meanwhile.lock().unwrap().push_back(Box::new(move || event(&stopper)));
            }
            *bed.desk.refusals.lock().unwrap() = (0..replies).map(|_| lost()).collect();
            let done = open.run().await;
            done.result();
        }
    }
}

#[tokio::test]
async fn a_start_whose_reply_outlived_the_lease_is_asked_for_again() {
    // Tried: the job is given up, and its key freed, while the reply is under way.
    let bed = Bed::new();
    let open = bed.open(exec(&["true"])).await;
    let (stopper, desk) = (open.stopper.clone(), bed.desk.clone());
    let superseded = || BrokerError::LeaseLost("it was superseded".into());
    bed.desk.meanwhile.lock().unwrap().extend::<[Box<dyn FnOnce() + Send>; 2]>([
        Box::new(move || stopper.cut_off()),
        Box::new(move || desk.refusals.lock().unwrap().push_back(superseded())),
    ]);
    let done = open.run().await;
    assert_eq!(done.stop(), &Stop::Superseded("it was superseded".into()));
    assert!(done.records.is_empty(), "nothing was run");
}

#[tokio::test]
async fn a_start_that_was_told_as_not_answered_is_asked_for_again_before_anything_runs() {
    // Tried: the reply is that of a server which was replaced, and the new one, told that nothing has started, gives the job up.
    let bed = Bed::new();
    let open = bed.open(exec(&["true"])).await;
    let (stopper, desk) = (open.stopper.clone(), bed.desk.clone());
    let superseded = || BrokerError::LeaseLost("it was superseded".into());
    bed.desk.meanwhile.lock().unwrap().extend::<[Box<dyn FnOnce() + Send>; 2]>([
        Box::new(move || stopper.tell()),
        Box::new(move || desk.refusals.lock().unwrap().push_back(superseded())),
    ]);
    let done = open.run().await;
    assert_eq!(done.stop(), &Stop::Superseded("it was superseded".into()));
    assert!(done.records.is_empty(), "nothing was run");
}

#[tokio::test]
async fn a_start_whose_reply_was_lost_is_not_handed_back_because_the_lease_ran_out_meanwhile() {
    // Tried: the reply is lost and the lease runs out, so that the job waits to hear of its runner; then a heartbeat comes through.
    let bed = Bed::new();
    let open = bed.open(exec(&["true"])).await;
    let (cut_off, heard) = (open.stopper.clone(), open.stopper.clone());
    bed.desk.meanwhile.lock().unwrap().extend::<[Box<dyn FnOnce() + Send>; 3]>([
        Box::new(move || cut_off.cut_off()),
        Box::new(|| {}),
        Box::new(move || heard.heard()),
    ]);
    bed.desk.refusals.lock().unwrap().extend([
        BrokerError::Unavailable("the reply was lost".into()),
        BrokerError::LeaseExpired("the lease has run out".into()),
    ]);
    open.run().await.result();
}

#[tokio::test]
async fn a_start_that_is_refused_by_a_broker_that_hears_us_is_handed_back() {
    // Tried: a lost reply, and then a refusal although the lease holds: the credential is being drained.
    let bed = Bed::new();
    bed.desk.refusals.lock().unwrap().extend([
        BrokerError::Unavailable("the reply was lost".into()),
        BrokerError::LeaseExpired("the credential is being drained".into()),
    ]);
    let done = bed.run(exec(&["true"])).await;
    assert!(matches!(done.stop(), Stop::Released(_)) && done.records.is_empty(), "{:?}", done.stop());
}

#[tokio::test]
async fn what_may_not_be_started_is_handed_back_and_not_called_failed() {
    // Tried: the database was set back in time, and people have to say whether this is to be done again.
    let bed = Bed::new();
    bed.desk.refusals.lock().unwrap().push_back(BrokerError::LeaseLost("it may have been done already".into()));
    let done = bed.run(exec(&["true"])).await;
    assert_eq!(done.stop().outcome(), Outcome::Released);
}

#[tokio::test]
async fn what_the_next_process_must_know_is_in_force_after_the_start_and_before_the_command_runs() {
    let bed = Bed::new();
    let in_force = |bed: &Bed, attempt: Uuid| {
        bed.config.state_dir.join("work").join(attempt.simple().to_string()).join("handover.json")
    };
    let open = bed.open(exec(&["test", "-s", "../handover.json"])).await;
    let handover = in_force(&bed, open.attempt());
    bed.desk
        .meanwhile
        .lock()
        .unwrap()
        .push_back(Box::new(move || assert!(!handover.exists(), "the start is not committed")));
    open.run().await.result();

    // Tried: a start that is refused. Nobody is to go on with what may not run.
    bed.desk.refusals.lock().unwrap().push_back(BrokerError::LeaseLost("gone".into()));
    let done = bed.run(exec(&["true"])).await;
    assert_eq!(done.stop(), &Stop::Superseded("gone".into()));
    assert!(!in_force(&bed, done.attempt).exists());
}

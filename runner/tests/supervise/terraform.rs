//! A real terraform under a real supervisor.

use std::env;
use std::fs;
use std::path::PathBuf;

use tendril_runner::supervise::{Class, Ended, Exit, Step, StopReason};
use tokio::io::AsyncReadExt;

use super::support::{Bed, StandIn, alive, appears, finish, marker, run, spawn, within};

/// Two resources, one after the other: the second blocks until it is let go or stopped.
fn configuration(mark: &str) -> String {
    format!(
        r#"
        resource "terraform_data" "first" {{ input = "kept" }}
        resource "terraform_data" "second" {{
          depends_on = [terraform_data.first]
          provisioner "local-exec" {{ command = "echo at-the-barrier; touch barrier; read line < gate; : {mark}" }}
        }}
        output "first" {{ value = terraform_data.first.output }}
        "#
    )
}

fn terraform() -> Option<PathBuf> {
    let named = env::var_os("TENDRIL_TEST_TERRAFORM").map(PathBuf::from);
    let found = || {
        let path = env::var_os("PATH")?;
        env::split_paths(&path).map(|dir| dir.join("terraform")).find(|file| file.is_file())
    };
    let program = named.or_else(found);
    if program.is_none() {
        eprintln!("skipped: needs terraform on PATH or its path in TENDRIL_TEST_TERRAFORM");
    }
    program
}

fn command(bed: &Bed, program: &std::path::Path, record: &str, arguments: &[&str]) -> Step {
    let program = program.to_str().expect("text");
    let mut step = bed.step(&[&[program], arguments].concat());
    step.class = Class::Mutating;
    step.record_dir = bed.path(record);
    let more = [("HOME", bed.path("work")), ("TMPDIR", bed.path("work"))];
    step.env.extend(more.map(|(key, path)| (key.to_owned(), path.to_str().expect("text").to_owned())));
    step.env.insert("CHECKPOINT_DISABLE".to_owned(), "1".to_owned());
    step
}

/// A folder that is initialised, and the step that applies it.
async fn applying(mark: &str) -> Option<(Bed, Step)> {
    let program = terraform()?;
    let bed = Bed::new();
    fs::write(bed.path("work/main.tf"), configuration(mark)).expect("a file");
    bed.gate("gate");
    let init = run(command(&bed, &program, "record-init", &["init", "-input=false"])).await;
    assert_eq!(init.record.exit, Exit::Success, "{}", String::from_utf8_lossy(&init.stderr));
    let arguments = ["apply", "-input=false", "-auto-approve", "-no-color"];
    let apply = command(&bed, &program, "record", &arguments);
    Some((bed, apply))
}

fn state(bed: &Bed) -> String {
    fs::read_to_string(bed.path("work/terraform.tfstate")).expect("a state")
}

#[tokio::test]
async fn one_interrupt_stops_an_apply_with_its_state_saved_and_its_lock_freed() {
    let mark = marker();
    let Some((bed, apply)) = applying(&mark).await else {
        return;
    };
    let mut running = spawn(apply).await;
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("(local-exec): at-the-barrier") {
        let count = within(running.stdout.read_buf(&mut said)).await.expect("output");
        assert!(count > 0, "{}", String::from_utf8_lossy(&said));
    }
    assert!(bed.path("work/.terraform.tfstate.lock.info").exists());
    for _ in 0..3 {
        running.control.interrupt(StopReason::Cancelled).await.expect("asked");
    }
    let outcome = finish(running).await;
    let record = outcome.record;
    assert_eq!(record.exit, Exit::Interrupted { reason: StopReason::Cancelled });
    assert_eq!(record.ended, Some(Ended::Code { code: 1 }));
    assert!(record.interrupted && !record.forced, "{record:?}");
    let rest = String::from_utf8_lossy(&outcome.stdout);
    assert!(rest.contains("Interrupt received"), "{rest}");
    assert!(!rest.contains("Two interrupts"), "{rest}");
    assert!(state(&bed).contains("\"first\""), "the finished resource is in the state");
    assert!(!bed.path("work/.terraform.tfstate.lock.info").exists(), "the lock is free");
    assert!(!bed.path("work/errored.tfstate").exists());
    assert_eq!(alive(&mark), Vec::<String>::new(), "the local-exec is dead too");
}

#[tokio::test]
async fn an_apply_outlives_its_runner_and_ends_well() {
    let mark = marker();
    let Some((bed, apply)) = applying(&mark).await else {
        return;
    };
    let runner = StandIn::start(&bed, &apply, None);
    appears(bed.path("work/barrier")).await;
    runner.kill();
    bed.release("gate").await;
    bed.supervisor_gone().await;
    let record = bed.record().expect("kept");
    assert_eq!(record.exit, Exit::Success);
    let kept = fs::read_to_string(bed.path("record/orphan.stdout")).expect("kept");
    assert!(kept.contains("Apply complete! Resources: 2 added"), "{kept}");
    assert!(state(&bed).contains("\"second\""));
    assert!(!bed.path("work/.terraform.tfstate.lock.info").exists());
}

//! Jobs that are asked to stop, and what they leave.

use crate::bed::{Bed, Gate, apply, job, local, plan, script};
use crate::terraform::{engine, nothing_locked, resources, state_file, terraform_bed};
use serde_json::{Value, json};
use std::time::Duration;
use tendril_broker::runner::Claimed;
use tendril_runner::stop::Stop;
use tendril_runner::supervise::{Exit, StopReason};

/// Two resources, one after the other; the second waits at the gate and then for ever.
fn slow(bed: &Bed, gate: &Gate) -> Value {
    let main = format!(
        r#"
        resource "terraform_data" "first" {{ input = "x" }}
        resource "terraform_data" "second" {{
          depends_on = [terraform_data.first]
          provisioner "local-exec" {{ command = "{}; exec sleep 600" }}
        }}
        output "first" {{ value = terraform_data.first.output }}
        "#,
        gate.pass()
    );
    assert!(bed.dir().exists());
    local("x", &main)
}

#[tokio::test]
async fn an_interrupted_apply_leaves_a_usable_state_and_no_lock() {
    let bed = terraform_bed();
    let gate = Gate::new(&bed.dir(), "gate");
    let snapshot = slow(&bed, &gate);
    let planned = bed.run(plan(&snapshot)).await;
    let open = bed.open(apply(&snapshot, &planned)).await;
    let stopper = open.stopper.clone();
    let (done, ()) = tokio::join!(open.run(), async {
        gate.reached().await;
        stopper.stop(StopReason::Cancelled);
    });
    let Stop::Cancelled(reason) = done.stop() else { panic!("{:?}\n{}", done.verdict, done.text()) };
    assert!(reason.contains("1 of 2 resources that were begun are complete"), "{reason}");
    let record = done.records.last().unwrap();
    assert!(record.interrupted && !record.forced, "one SIGINT was enough: {record:?}");
    assert_eq!(record.exit, Exit::Interrupted { reason: StopReason::Cancelled });
    let file = state_file(&bed, "x", "default");
    assert!(resources(&file).contains(&"first".to_owned()));
    nothing_locked(&bed, "x");

    // Usable: the next deployment goes on from there.
    let next = local("x", "resource \"terraform_data\" \"first\" { input = \"x\" }\n");
    let planned = bed.run(plan(&next)).await;
    assert_eq!(planned.result()["summary"]["add"], json!(0), "{}", planned.text());
    bed.run(apply(&next, &planned)).await.result();
    assert_eq!(resources(&file), ["first"]);
}

/// A second resource that prints two megabytes, then waits at the gate and for ever.
fn loud(gate: &Gate) -> Value {
    let main = format!(
        r#"
        resource "terraform_data" "first" {{ input = "x" }}
        resource "terraform_data" "second" {{
          depends_on = [terraform_data.first]
          provisioner "local-exec" {{ command = "{}; yes 0123456789012345678901234567890123456789 | head -c 2000000; exec sleep 600" }}
        }}
        "#,
        gate.pass()
    );
    local("x", &main)
}

#[tokio::test]
async fn an_apply_whose_log_finds_no_room_still_obeys_its_interrupt_and_saves_its_state() {
    // The broker is away: nothing of the log is ever stored, and nobody gives up waiting for it.
    let mut bed = terraform_bed();
    let gate = Gate::new(&bed.dir(), "gate");
    let snapshot = loud(&gate);
    let planned = bed.run(plan(&snapshot)).await;
    bed.config.logs.attempt_buffer_bytes = 262_144;
    bed.config.logs.stall_s = 3600;
    let job = Claimed { kill_grace: Duration::from_secs(20), ..apply(&snapshot, &planned) };
    let open = bed.open(job).await;
    let (stopper, log) = (open.stopper.clone(), open.log());
    let (done, ()) = tokio::join!(open.run(), async {
        gate.reached().await;
        while log.has_room() {
            tokio::task::yield_now().await;
        }
        stopper.stop(StopReason::Cancelled);
    });
    let record = done.records.last().unwrap();
    assert!(record.interrupted && !record.forced, "it was held up by its own output: {record:?}");
    assert!(resources(&state_file(&bed, "x", "default")).contains(&"first".to_owned()));
    nothing_locked(&bed, "x");
}

#[tokio::test]
async fn an_apply_that_outlives_its_grace_is_killed_and_says_what_may_be_left() {
    let mut bed = terraform_bed();
    let gate = Gate::new(&bed.dir(), "gate");
    let snapshot = local("x", "");
    let planned = bed.run(plan(&snapshot)).await;
    let body = format!(
        "[ \"$1\" != apply ] && exec {} \"$@\"\ntrap '' INT\n{}\nwhile :; do sleep 600; done",
        engine("terraform").unwrap().display(),
        gate.pass()
    );
    bed.config.tools.terraform = Some(vec![script(&bed.dir().join("deaf"), &body)]);
    let hurried = Claimed { kill_grace: Duration::from_millis(200), ..apply(&snapshot, &planned) };
    let open = bed.open(hurried).await;
    let stopper = open.stopper.clone();
    let (done, ()) = tokio::join!(open.run(), async {
        gate.reached().await;
        stopper.stop(StopReason::Shutdown);
    });
    let reason = done.reason();
    assert!(matches!(done.stop(), Stop::Failed { .. }), "what has started is not handed back: {:?}", done.verdict);
    assert!(reason.contains("the runner was shut down") && reason.contains("the state's lock is free"), "{reason}");
    assert!(done.records.last().unwrap().forced);
}

#[tokio::test]
async fn an_apply_that_was_complete_when_it_was_asked_to_stop_is_a_success() {
    // A stand-in for the last phase: it has told that all is done, and then leaves with 0 on an interrupt.
    let bed = terraform_bed();
    let gate = Gate::new(&bed.dir(), "gate");
    let snapshot = local("x", "resource \"terraform_data\" \"a\" {}\noutput \"o\" { value = 1 }\n");
    let planned = bed.run(plan(&snapshot)).await;
    planned.result();
    let mut late = bed.neighbour();
    let real = engine("terraform").unwrap();
    let body = format!(
        "if [ \"$1\" != apply ]; then exec {real} \"$@\"; fi\ntrap 'exit 0' INT\n{real} \"$@\"\n{}\nwhile :; do read x < {}/gate; done",
        gate.pass(),
        bed.dir().display(),
        real = real.display(),
    );
    late.config.sandbox.write.push(bed.dir());
    late.config.tools.terraform = Some(vec![script(&bed.dir().join("late"), &body)]);
    let open = late.open(apply(&snapshot, &planned)).await;
    let stopper = open.stopper.clone();
    let (done, ()) = tokio::join!(open.run(), async {
        gate.reached().await;
        stopper.stop(StopReason::Cancelled);
    });
    assert_eq!(done.result()["outputs"], json!({"o": 1}));
    assert_eq!(done.records.last().unwrap().exit, Exit::Interrupted { reason: StopReason::Cancelled });
    assert!(done.text().contains("the request to stop came when the apply was complete"), "{}", done.text());
}

#[tokio::test]
async fn a_plan_that_waits_for_the_lock_names_its_holder_and_can_be_cancelled() {
    let mut bed = terraform_bed();
    let gate = Gate::new(&bed.dir(), "gate");
    let snapshot = slow(&bed, &gate);
    let planned = bed.run(plan(&snapshot)).await;
    let holder = bed.open(apply(&snapshot, &planned)).await;
    let holding = holder.stopper.clone();
    let at_plan = Gate::new(&bed.dir(), "at-plan");
    let real = engine("terraform").unwrap();
    let body = format!("[ \"$1\" = plan ] && {}\nexec {} \"$@\"", at_plan.pass(), real.display());
    let watched = script(&bed.dir().join("watched"), &body);
    let (held, ()) = tokio::join!(holder.run(), async {
        gate.reached().await;
        let refused = bed.run(plan(&local("x", ""))).await;
        let reason = refused.reason();
        assert!(reason.starts_with("terraform plan: Error acquiring the state lock: held by "), "{reason}");
        assert!(reason.contains("OperationTypeApply"), "{reason}");

        bed.config.tools.lock_timeout_s = 600;
        bed.config.tools.terraform = Some(vec![watched]);
        let waiting = bed.open(plan(&local("x", ""))).await;
        let stopper = waiting.stopper.clone();
        let (waited, ()) = tokio::join!(waiting.run(), async {
            at_plan.reached().await;
            stopper.stop(StopReason::Cancelled);
        });
        assert_eq!(waited.stop(), &Stop::Cancelled("cancelled".into()));
        holding.stop(StopReason::Cancelled);
    });
    assert!(matches!(held.stop(), Stop::Cancelled(_)));
}

#[tokio::test]
async fn a_job_that_was_asked_to_stop_before_its_start_starts_nothing() {
    let bed = terraform_bed();
    let snapshot = local("x", "");
    let planned = bed.run(plan(&snapshot)).await;
    for (reason, expected) in [
        (StopReason::Cancelled, Stop::Cancelled("cancelled".into())),
        (StopReason::Shutdown, Stop::Released("the runner was shut down".into())),
        (StopReason::LeaseLost, Stop::Released("the runner was cut off from the broker".into())),
    ] {
        for job in [apply(&snapshot, &planned), job("exec", json!({}), json!({"argv": ["true"]}))] {
            let open = bed.open(job).await;
            open.stopper.stop(reason);
            let done = open.run().await;
            assert_eq!(done.stop(), &expected);
            assert!(done.records.is_empty());
        }
    }
    assert!(bed.desk.started.lock().unwrap().is_empty());
}

//! What people read is what the engine printed.

use crate::bed::{Outcome, apply, local, plan, script};
use crate::terraform::{engine, terraform_bed};
use std::path::Path;
use tendril_runner::logs::{stored_event_text, stored_text};

/// A program that runs the real engine and keeps what it printed, in a folder for each of its commands.
fn tee(dir: &Path, real: &Path) -> std::path::PathBuf {
    let body = format!(
        r#"
        [ "$1" = version ] && exec {real} "$@"
        d={dir}/$1; [ "$1 $3" = "show -json" ] && d={dir}/show-json
        mkdir "$d" && mkfifo "$d/o" "$d/e"
        tee "$d/stdout" < "$d/o" & tee "$d/stderr" < "$d/e" >&2 &
        {real} "$@" > "$d/o" 2> "$d/e"; code=$?
        wait; exit $code
        "#,
        real = real.display(),
        dir = dir.display(),
    );
    script(&dir.join("engine"), &body)
}

fn printed(dir: &Path, command: &str, stream: &str) -> Vec<u8> {
    std::fs::read(dir.join(command).join(stream)).unwrap()
}

/// What the log shows of a command's standard output.
type Shown = fn(&[u8]) -> String;

fn compare(outcome: &Outcome, dir: &Path, commands: &[(&str, Shown)]) {
    for stream in ["stdout", "stderr"] {
        let expected: String = commands
            .iter()
            .map(|(command, text)| {
                let bytes = printed(dir, command, stream);
                if stream == "stdout" { text(&bytes) } else { stored_text(&bytes) }
            })
            .collect();
        assert_eq!(outcome.stream(stream), expected, "{stream}");
    }
}

#[tokio::test]
async fn the_log_is_byte_for_byte_the_documented_function_of_what_was_printed() {
    let mut bed = terraform_bed();
    let (plans, applies, failures) = (bed.dir().join("plans"), bed.dir().join("applies"), bed.dir().join("failures"));
    for dir in [&plans, &applies, &failures] {
        std::fs::create_dir(dir).unwrap();
    }
    let real = engine("terraform").unwrap();
    let main = r#"
        resource "terraform_data" "noisy" {
          provisioner "local-exec" {
            command = "printf 'a\\033[31mred\\033[0m\\033]0;title\\007\\r\\nb\\000c\\n'; echo grumble >&2; seq 1 500"
          }
        }
        output "o" { value = { a = [1, 2], b = null } }
        output "s" {
          value     = "hidden"
          sensitive = true
        }
    "#;
    let snapshot = local("x", main);
    bed.config.tools.terraform = Some(vec![tee(&plans, &real)]);
    let planned = bed.run(plan(&snapshot)).await;
    planned.result();
    compare(&planned, &plans, &[("init", stored_text), ("plan", stored_text)]);
    assert_eq!(bed.artifact(planned.attempt, "plan-json").unwrap(), printed(&plans, "show-json", "stdout"));

    bed.config.tools.terraform = Some(vec![tee(&applies, &real)]);
    let done = bed.run(apply(&snapshot, &planned)).await;
    done.result();
    compare(&done, &applies, &[("apply", stored_event_text)]);
    assert!(done.stream("stdout").contains("terraform_data.noisy (local-exec): 500\n"));

    bed.config.tools.terraform = Some(vec![tee(&failures, &real)]);
    let failed = bed.run(plan(&local("x", "output \"a\" { value = nope }"))).await;
    assert!(failed.verdict.is_err());
    compare(&failed, &failures, &[("init", stored_text), ("plan", stored_text)]);
}

//! What is stored of a job shows none of its secrets.

use crate::bed::{Bed, Outcome, apply, job, plan, script};
use crate::terraform::terraform_bed;
use serde_json::{Value, json};

const SECRET: &str = "co\"rrect <horse> & b@ttery/st+ple ü";
const MANIFEST: &str = "name: vault
version: 1.0.0
description: Keeps a secret.
kind: terraform
engine:
  terraform: \">=1.4\"
inputs:
  type: object
  additionalProperties: false
  required: [password]
  properties:
    password:
      type: string
      sensitive: true
";
/// Prints it in every form, on both streams, in pieces, as a key of a resource, as an output.
const MAIN: &str = r#"
locals {
  s = {{ inputs.password }}
}
resource "terraform_data" "each" {
  for_each = toset([local.s])
  provisioner "local-exec" {
    environment = { S = local.s, J = jsonencode({ a = [local.s] }), U = urlencode(local.s), B = base64encode("x:${local.s}") }
    command     = "echo \"$S\"; echo \"$S\" >&2; echo \"$J\"; echo \"$U\"; echo \"$B\"; printf '%s' \"$S\" | base64 -w0; echo; printf '%s' \"$S\" | head -c 9; printf '%s\\n' \"$S\" | tail -c +10"
  }
}
output "plain" {
  value = "it is ${local.s}"
}
"#;
const FAILING: &str = r#"
locals {
  s = {{ inputs.password }}
}
resource "terraform_data" "a" {
  lifecycle {
    precondition {
      condition     = local.s == "other"
      error_message = "the password ${local.s} is not good"
    }
  }
}
"#;

fn bed(main: &str) -> (Bed, Value) {
    let mut bed = terraform_bed();
    let dir = bed.dir().join("templates/vault");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("template.yaml"), MANIFEST).unwrap();
    std::fs::write(dir.join("main.tf.j2"), main).unwrap();
    bed.config.templates_dir = Some(bed.dir().join("templates"));
    (bed, json!({"template": {"name": "vault"}, "inputs": {"password": SECRET}, "stateless": true}))
}

/// All that the broker would hold of it in clear.
fn stored(bed: &Bed, outcome: &Outcome) -> String {
    let report = &outcome.report;
    let progress = bed.desk.progress.lock().unwrap();
    let told = json!([report.error, report.result, report.commands, *progress]);
    format!("{}\n{told}", outcome.text())
}

fn shows_nothing(stored: &str) {
    for part in ["rrect", "horse", "ttery", "st+ple", "aG9yc2", "hvcnNl", "ob3JzZ"] {
        assert!(!stored.contains(part), "{part} in {stored}");
    }
}

#[tokio::test]
async fn a_sensitive_input_is_in_no_form_in_what_is_stored_of_a_job() {
    let (bed, snapshot) = bed(MAIN);
    let planned = bed.run(plan(&snapshot)).await;
    planned.result();
    shows_nothing(&stored(&bed, &planned));
    let done = bed.run(apply(&snapshot, &planned)).await;
    done.result();
    let stored = stored(&bed, &done);
    shows_nothing(&stored);
    assert!(stored.matches("(local-exec): [redacted]\n").count() >= 4, "{stored}");
    assert_eq!(done.report.result["outputs"]["plain"], "it is [redacted]");
    assert!(!bed.desk.progress.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_reason_of_a_failure_shows_no_secret() {
    let (bed, snapshot) = bed(FAILING);
    let failed = bed.run(plan(&snapshot)).await;
    assert!(failed.reason().contains("horse"), "the engine has told it: {}", failed.reason());
    assert!(failed.report.error.as_deref().unwrap().contains("the password [redacted] is not good"));
    shows_nothing(&stored(&bed, &failed));
}

#[tokio::test]
async fn a_variable_that_jobs_see_is_kept_out_and_half_of_it_at_the_end_too() {
    let mut bed = Bed::new();
    bed.config.tools.pass_env = vec!["DEPLOY_TOKEN".into()];
    bed.own_env.insert("DEPLOY_TOKEN".into(), "glitter-and-gold".into());
    let program = script(
        &bed.dir().join("leak"),
        r#"printf 'now glitter-'; printf 'and-gold.\n'; echo "$DEPLOY_TOKEN" >&2; printf 'and glitter-and'; kill -9 $$"#,
    );
    let done = bed.run(job("exec", json!({}), json!({"argv": [program]}))).await;
    assert_eq!(done.stream("stdout"), "now [redacted].\nand [redacted]");
    assert_eq!(done.stream("stderr"), "[redacted]\n");
}

#[tokio::test]
async fn a_job_that_prints_without_end_is_capped_and_ends_well() {
    let mut bed = Bed::new();
    (bed.config.logs.cap_bytes, bed.config.logs.cap_tail_bytes) = (65_536, 4096);
    let done = bed.run(job("exec", json!({}), json!({"argv": ["sh", "-c", "seq 1 400000; echo the end"]}))).await;
    done.result();
    let stdout = done.stream("stdout");
    assert!(stdout.starts_with("1\n2\n") && stdout.ends_with("400000\nthe end\n"), "{}", &stdout[stdout.len() - 99..]);
    assert!(stdout.len() < 65_536 + 2 * 4096 && stdout.contains("bytes of output are missing here"));
    assert_eq!(done.stream("system").matches("The job goes on").count(), 1);
}

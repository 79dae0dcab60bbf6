//! Shipped templates: found, checked, rendered.

use crate::bed::{Bed, apply, job, plan};
use crate::terraform::terraform_bed;
use serde_json::{Value, json};
use std::path::Path;
use tendril_runner::stop::Stop;

const MANIFEST: &str = "name: greet
version: 1.2.0
description: Greets.
kind: terraform
engine:
  terraform: \">=1.4\"
inputs:
  type: object
  additionalProperties: false
  required: [who]
  properties:
    who:
      type: string
      maxLength: 5
    often:
      type: integer
";

/// A machine with one template of this `main.tf.j2`.
fn bed(main: &str) -> Bed {
    let mut bed = terraform_bed();
    let dir = bed.dir().join("templates/greet");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("template.yaml"), MANIFEST).unwrap();
    std::fs::write(dir.join("main.tf.j2"), main).unwrap();
    bed.config.templates_dir = Some(bed.dir().join("templates"));
    bed
}

fn snapshot(template: Value, inputs: Value) -> Value {
    json!({"template": template, "inputs": inputs, "stateless": true})
}

async fn refusal(bed: &Bed, template: Value, inputs: Value) -> String {
    let done = bed.run(plan(&snapshot(template, inputs))).await;
    let Stop::Failed { reason, permanent: true, .. } = done.stop() else { panic!("{:?}", done.verdict) };
    assert!(done.records.is_empty(), "nothing was run");
    reason.clone()
}

#[tokio::test]
async fn a_template_is_rendered_with_its_inputs_and_applied() {
    let bed = bed(
        "output \"greeting\" {\n  value = {{ inputs.who }}\n}\noutput \"id\" {\n  value = {{ deployment.id }}\n}\n",
    );
    let snapshot = snapshot(json!({"name": "greet", "version": "1.2.0"}), json!({"who": "${x}"}));
    let planned = bed.run(plan(&snapshot)).await;
    assert_eq!(planned.result()["source"], json!({"template": {"name": "greet", "version": "1.2.0"}}));
    let done = bed.run(apply(&snapshot, &planned)).await;
    assert_eq!(done.result()["outputs"], json!({"greeting": "${x}", "id": crate::bed::DEPLOYMENT.to_string()}));
}

#[tokio::test]
async fn an_undefined_variable_names_file_and_line() {
    let undefined = bed("# {{ inputs.who }}\n\n# {{ inputs.nobody }}\n");
    let reason = refusal(&undefined, json!({"name": "greet"}), json!({"who": "me"})).await;
    assert!(reason.contains("main.tf.j2") && reason.contains("line 3") && reason.contains("inputs.nobody"), "{reason}");
    // One that the schema knows, and that was not sent.
    let unsent = bed("# {{ inputs.who }}\n# {{ inputs.often }}\n");
    let reason = refusal(&unsent, json!({"name": "greet"}), json!({"who": "me"})).await;
    assert!(reason.starts_with("template greet: main.tf.j2:2:"), "{reason}");
}

#[tokio::test]
async fn inputs_templates_and_versions_that_do_not_fit_are_named() {
    let bed = bed("# {{ inputs.who }}\n");
    let greet = || json!({"name": "greet"});
    for (template, inputs, words) in [
        (greet(), json!({}), "inputs.who: "),
        (greet(), json!({"who": "much too long"}), "inputs.who: "),
        (greet(), json!({"who": "a", "more": 1}), "inputs.more: "),
        (
            json!({"name": "greet", "version": "1.1.0"}),
            json!({"who": "a"}),
            "template.version: this runner has version 1.2.0",
        ),
        (json!({"name": "other"}), json!({}), "template.name: there is no template other"),
    ] {
        let reason = refusal(&bed, template, inputs).await;
        assert!(reason.starts_with(words), "{reason}");
    }
    let mut none = terraform_bed();
    none.config.templates_dir = None;
    assert!(refusal(&none, greet(), json!({})).await.contains("templates_dir"));
}

#[tokio::test]
async fn an_engine_that_the_template_does_not_name_is_refused() {
    let mut bed = bed("# {{ inputs.who }}\n");
    let version = std::fs::read_to_string(bed.dir().join("templates/greet/template.yaml")).unwrap();
    std::fs::write(bed.dir().join("templates/greet/template.yaml"), version.replace(">=1.4", ">=99")).unwrap();
    let reason = refusal(&bed, json!({"name": "greet"}), json!({"who": "a"})).await;
    assert!(reason.contains("the template needs terraform >=99"), "{reason}");
    bed.config.tools.terraform = Some(vec!["/no/such/terraform".into()]);
    let toolbox = tendril_runner::toolbox::Toolbox::find(&bed.config, &bed.own_env).await;
    assert!(toolbox.engines.is_empty());
    let kinds = tendril_runner::kinds::all(&std::sync::Arc::new(toolbox));
    let plan = kinds.iter().find(|kind| kind.name() == "terraform.plan").unwrap();
    assert!(plan.available().unwrap_err().contains("tools.terraform"));
}

#[tokio::test]
async fn the_template_hello_is_applied() {
    let mut bed = terraform_bed();
    bed.config.templates_dir = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../templates"));
    let inputs = json!({"name": "Ada", "lines": 2, "seconds": 0, "passphrase": "correct horse"});
    let snapshot = snapshot(json!({"name": "hello"}), inputs);
    let planned = bed.run(plan(&snapshot)).await;
    planned.result();
    let done = bed.run(apply(&snapshot, &planned)).await;
    let expected = json!({"greeting": "Hello, Ada!", "lines": 2, "fingerprint": "(sensitive)"});
    assert_eq!(done.result()["outputs"], expected);
    assert!(done.stream("stdout").contains("line 2 of 2: Hello, Ada!"));
    assert!(!done.text().contains("correct horse") && !planned.text().contains("correct horse"));
}

#[tokio::test]
async fn an_exec_runs_in_a_rendered_template_too() {
    let bed = bed("# {{ inputs.who }}\n");
    let snapshot = snapshot(json!({"name": "greet"}), json!({"who": "you"}));
    let done = bed.run(job("exec", snapshot, json!({"argv": ["cat", "main.tf"]}))).await;
    done.result();
    assert_eq!(done.stream("stdout"), "# \"you\"\n");
}

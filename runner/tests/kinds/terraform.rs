use crate::bed::{Bed, Outcome, PLACE, apply, job, local, plan, script};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tendril_broker::runner::Claimed;
use tendril_runner::programs::lookup;
use tendril_runner::stop::Stop;

/// An engine to test with, or the reason why not.
pub fn engine(name: &str) -> Option<PathBuf> {
    let variable = format!("TENDRIL_TEST_{}", name.to_uppercase());
    let path = std::env::var("PATH").unwrap_or_default();
    let found = std::env::var_os(&variable).map(PathBuf::from).or_else(|| lookup(name, &path));
    if found.is_none() {
        eprintln!("skipped: {name} is not on PATH, and {variable} is not set");
    }
    found
}

/// A machine with terraform. These tests are what the project is for: there is no skipping them.
pub fn terraform_bed() -> Bed {
    let mut bed = Bed::new();
    bed.config.tools.terraform = Some(vec![engine("terraform").expect("terraform, to test with")]);
    bed
}

pub fn state_file(bed: &Bed, path: &str, workspace: &str) -> PathBuf {
    bed.config.state_dir.join("states").join(path).join(workspace).join("terraform.tfstate")
}

fn state(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub fn resources(path: &Path) -> Vec<String> {
    let state = state(path);
    state["resources"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

pub fn nothing_locked(bed: &Bed, path: &str) {
    let folder = state_file(bed, path, "default").parent().unwrap().to_owned();
    let names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().contains("lock")), "{names:?}");
}

const ONE: &str = r#"
variable "word" { default = "hello" }
resource "terraform_data" "one" { input = "${var.word} in ${terraform.workspace}" }
output "word" { value = terraform_data.one.output }
"#;

async fn applied(bed: &Bed, snapshot: &Value) -> Outcome {
    let planned = bed.run(plan(snapshot)).await;
    planned.result();
    let done = bed.run(apply(snapshot, &planned)).await;
    done.result();
    done
}

#[tokio::test]
async fn a_plan_is_applied_and_destroyed_and_the_state_shows_it() {
    for name in ["terraform", "tofu"] {
        let Some(program) = engine(name) else { continue };
        let mut bed = Bed::new();
        (bed.config.tools.terraform, bed.config.tools.tofu) = match name {
            "tofu" => (Some(vec![]), Some(vec![program])),
            _ => (Some(vec![program]), Some(vec![])),
        };
        let mut snapshot = local("team/app", ONE);
        snapshot["inputs"] = json!({"word": "salve"});

        let planned = bed.run(plan(&snapshot)).await;
        let result = planned.result();
        assert_eq!(result["engine"], json!(name));
        assert_eq!(result["summary"], json!({"add": 1, "change": 0, "destroy": 0, "import": 0}));
        assert_eq!(result["artifacts"], json!(["plan", "plan-json"]));
        assert!(planned.stream("stdout").contains("+ input  = \"salve in default\""), "{}", planned.text());
        assert!(bed.desk.started.lock().unwrap().is_empty(), "a plan changes nothing");

        let done = bed.run(apply(&snapshot, &planned)).await;
        let result = done.result();
        assert_eq!(result["outputs"], json!({"word": "salve in default"}));
        assert_eq!(result["summary"], json!({"add": 1, "change": 0, "destroy": 0, "import": 0}));
        assert_eq!(*bed.desk.started.lock().unwrap(), [done.attempt]);
        assert!(done.stream("stdout").contains("terraform_data.one: Creation complete"), "{}", done.text());
        let file = state_file(&bed, "team/app", "default");
        assert_eq!(resources(&file), ["one"]);
        nothing_locked(&bed, "team/app");

        let destroying = bed.run(job("terraform.plan", snapshot.clone(), json!({"destroy": true}))).await;
        assert_eq!(destroying.result()["summary"]["destroy"], json!(1));
        let as_apply = bed.run(apply(&snapshot, &destroying)).await;
        assert!(as_apply.reason().contains("it plans a destruction"), "{}", as_apply.reason());
        let gone = bed.run(Claimed { kind: "terraform.destroy".into(), ..apply(&snapshot, &destroying) }).await;
        assert_eq!(gone.result()["outputs"], json!({}));
        assert_eq!(resources(&file), [""; 0]);
    }
}

#[tokio::test]
async fn the_snapshot_says_which_of_several_engines_runs() {
    let mut bed = Bed::new();
    let real = engine("terraform").expect("terraform, to test with");
    let posing = |version: &str| {
        let body = format!(
            "[ \"$1\" = version ] && echo '{{\"terraform_version\": \"{version}\"}}' && exit\nexec {} \"$@\"",
            real.display()
        );
        script(&bed.dir().join(version), &body)
    };
    let (terraforms, tofu) = (vec![posing("1.0.1"), posing("1.0.2")], posing("1.6.2"));
    (bed.config.tools.terraform, bed.config.tools.tofu) = (Some(terraforms), Some(vec![tofu]));
    for (asked, engine, version) in [
        (json!({}), "terraform", "1.0.1"),
        (json!({"engine": "tofu"}), "tofu", "1.6.2"),
        (json!({"engine": "terraform", "engine_version": "1.0.2"}), "terraform", "1.0.2"),
    ] {
        let mut snapshot = json!({"template": {"inline": {"main.tf": ""}}, "stateless": true});
        snapshot.as_object_mut().unwrap().extend(asked.as_object().unwrap().clone());
        let planned = bed.run(plan(&snapshot)).await;
        let result = planned.result();
        assert_eq!((&result["engine"], &result["engine_version"]), (&json!(engine), &json!(version)), "{asked}");
        assert!(planned.stream("system").contains(&format!("{engine} {version}\n")), "{}", planned.text());
    }
    let mut absent = json!({"template": {"inline": {"main.tf": ""}}, "stateless": true, "engine": "tofu"});
    absent["engine_version"] = json!("1.6.3");
    let reason = bed.run(plan(&absent)).await.reason().to_owned();
    assert!(reason.contains("no tofu 1.6.3") && reason.contains("tofu 1.6.2"), "{reason}");
}

#[tokio::test]
async fn a_plan_without_json_knows_its_figures_from_its_text() {
    let bed = terraform_bed();
    let snapshot = local("x", ONE);
    let planned = bed.run(Claimed { spec: json!({"plan_json": false}), ..plan(&snapshot) }).await;
    assert_eq!(planned.result()["summary"], json!({"add": 1, "change": 0, "destroy": 0, "import": 0}));
    assert_eq!(planned.result()["artifacts"], json!(["plan"]));
    assert_eq!(planned.records.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["init", "plan"]);
    let done = bed.run(apply(&snapshot, &planned)).await;
    done.result();
    assert_eq!(done.records.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["apply"]);
}

#[tokio::test]
async fn another_runner_of_the_same_place_applies_the_plan() {
    let first = terraform_bed();
    let mut second = first.neighbour();
    second.config.tools.terraform = first.config.tools.terraform.clone();
    // One disk, seen by two machines under different names.
    std::fs::create_dir_all(first.config.state_dir.join("states")).unwrap();
    std::fs::create_dir_all(&second.config.state_dir).unwrap();
    std::os::unix::fs::symlink(first.config.state_dir.join("states"), second.config.state_dir.join("states")).unwrap();
    for workspace in ["default", "blue"] {
        let mut snapshot = local("x", ONE);
        snapshot["workspace"] = json!(workspace);
        let planned = first.run(plan(&snapshot)).await;
        planned.result();
        let done = second.run(apply(&snapshot, &planned)).await;
        assert_eq!(done.result()["outputs"], json!({"word": format!("hello in {workspace}")}));
        assert_eq!(resources(&state_file(&first, "x", workspace)), ["one"]);
        assert_eq!(done.work.parent(), second.config.state_dir.join("work").canonicalize().ok().as_deref());
    }
}

#[tokio::test]
async fn a_sensitive_value_is_masked_wherever_people_look() {
    let bed = terraform_bed();
    let main = r#"
        variable "password" { sensitive = true }
        resource "terraform_data" "one" { input = var.password }
        output "open" { value = "visible" }
        output "password" {
          value     = terraform_data.one.output
          sensitive = true
        }
    "#;
    let mut snapshot = local("x", main);
    snapshot["inputs"] = json!({"password": "correct-horse"});
    let planned = bed.run(plan(&snapshot)).await;
    planned.result();
    let done = bed.run(apply(&snapshot, &planned)).await;
    assert_eq!(done.result()["outputs"], json!({"open": "visible", "password": "(sensitive)"}));
    for outcome in [&planned, &done] {
        assert!(!outcome.text().contains("correct-horse"), "{}", outcome.text());
        assert!(!outcome.result().to_string().contains("correct-horse"));
    }
    let stored = bed.desk.artifacts.lock().unwrap();
    assert!(stored.values().all(|one| !one.data.windows(13).any(|bytes| bytes == b"correct-horse")));
}

#[tokio::test]
async fn a_state_of_another_place_is_refused() {
    let bed = terraform_bed();
    let mut snapshot = local("x", ONE);
    snapshot["backend"]["place"] = json!("elsewhere");
    let done = bed.run(plan(&snapshot)).await;
    let reason = done.reason();
    assert!(reason.contains("elsewhere") && reason.contains(PLACE), "{reason}");
    assert!(done.records.is_empty());
}

#[tokio::test]
async fn a_tree_with_a_backend_of_its_own_is_refused_with_file_and_line() {
    let bed = terraform_bed();
    let done = bed.run(plan(&local("x", "terraform {\n  backend \"s3\" {}\n}\n"))).await;
    assert!(done.reason().starts_with("main.tf:2: remove the backend block"), "{}", done.reason());
    let mut snapshot = local("x", ONE);
    snapshot["backend"] = json!({"type": "own"});
    assert!(bed.run(plan(&snapshot)).await.reason().contains("no backend block"));
}

#[tokio::test]
async fn a_state_that_is_thrown_away_leaves_nothing_on_the_place() {
    let bed = terraform_bed();
    let snapshot = json!({"template": {"inline": {"main.tf": ONE}}, "stateless": true});
    let done = applied(&bed, &snapshot).await;
    assert_eq!(done.result()["outputs"], json!({"word": "hello in default"}));
    assert!(!bed.config.state_dir.join("states").exists());
}

#[tokio::test]
async fn a_plan_that_fails_gives_the_engines_first_error_as_its_reason() {
    let bed = terraform_bed();
    let done = bed.run(plan(&local("x", "output \"a\" {\n  value = var.nope\n}\n"))).await;
    let reason = done.reason();
    assert!(reason.starts_with("terraform plan: Reference to undeclared input variable (main.tf line 2)"), "{reason}");
    let done = bed.run(plan(&local("x", "resource {\n"))).await;
    assert!(done.reason().starts_with("terraform init: "), "{}", done.reason());
}

#[tokio::test]
async fn a_stale_plan_fails_with_terraforms_words() {
    let bed = terraform_bed();
    let snapshot = local("x", ONE);
    let planned = bed.run(plan(&snapshot)).await;
    bed.run(apply(&snapshot, &planned)).await.result();
    let again = bed.run(apply(&snapshot, &planned)).await;
    assert!(again.reason().starts_with("terraform apply: Saved plan is stale"), "{}", again.reason());
    nothing_locked(&bed, "x");
}

#[tokio::test]
async fn a_plan_that_was_tampered_with_or_belongs_elsewhere_is_refused() {
    let bed = terraform_bed();
    let snapshot = local("x", ONE);
    let planned = bed.run(plan(&snapshot)).await;
    planned.result();

    let elsewhere = Claimed { deployment_id: uuid::Uuid::from_u128(9), ..apply(&snapshot, &planned) };
    assert!(bed.run(elsewhere).await.reason().contains("another deployment"));
    let mut moved = snapshot.clone();
    moved["backend"]["path"] = json!("y");
    assert!(bed.run(apply(&moved, &planned)).await.reason().contains("another backend"));
    assert!(bed.run(job("terraform.apply", snapshot.clone(), json!({}))).await.reason().contains("no plan"));

    let good = bed.artifact(planned.attempt, "plan").unwrap();
    bed.replace_artifact(planned.attempt, "plan", &good[..good.len() / 2]);
    assert!(bed.run(apply(&snapshot, &planned)).await.reason().contains("cannot be unpacked"));
    bed.desk.artifacts.lock().unwrap().values_mut().for_each(|one| one.data[40] ^= 1);
    let flipped = bed.run(apply(&snapshot, &planned)).await;
    let Stop::Failed { reason, permanent: true, .. } = flipped.stop() else { panic!("{:?}", flipped.verdict) };
    assert!(reason.contains("it was changed"), "{reason}");
    assert!(bed.desk.started.lock().unwrap().is_empty(), "none of them was started");
}

#[tokio::test]
async fn outputs_that_are_too_long_are_said_to_be_missing_and_show_nothing_sensitive() {
    let bed = terraform_bed();
    let main = r#"
        output "long" { value = join("", [for n in range(300) : join("", [for m in range(1000) : "0123456789"])]) }
        output "hidden" {
          value     = "hunter2"
          sensitive = true
        }
    "#;
    let planned = bed.run(plan(&local("x", main))).await;
    let done = bed.run(apply(&local("x", main), &planned)).await;
    assert_eq!(done.result().get("outputs"), None, "an empty object would say that there are none");
    assert!(done.stream("system").contains("the outputs have more than"), "{}", done.stream("system"));
    assert!(!done.text().contains("hunter2"));
}

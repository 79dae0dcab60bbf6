//! Where states lie, and what happens to one that cannot be saved.

use crate::bed::{Bed, Gate, Outcome, apply, job, local, plan, script};
use crate::http::serve;
use crate::terraform::{engine, resources, state_file, terraform_bed};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use tendril_broker::runner::BrokerError;
use tendril_runner::stop::Stop;
use tendril_runner::supervise::StopReason;

const ONE: &str =
    "resource \"terraform_data\" \"one\" { input = \"x\" }\noutput \"o\" { value = terraform_data.one.output }\n";

/// A backend of type `http` that keeps one state, or refuses to.
struct HttpBackend {
    port: u16,
    state: Arc<Mutex<Vec<u8>>>,
    refuses: Arc<Mutex<bool>>,
    /// Who holds the lock, as they said.
    lock: Arc<Mutex<Option<Vec<u8>>>>,
}

impl HttpBackend {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (state, refuses) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(false)));
        let lock = Arc::new(Mutex::new(None));
        let backend = Self { port, state: state.clone(), refuses: refuses.clone(), lock: lock.clone() };
        serve(listener, move |method, _, body| {
            let (mut state, mut lock) = (state.lock().unwrap(), lock.lock().unwrap());
            match method {
                "LOCK" => match lock.clone() {
                    Some(holder) => ("423 Locked", holder),
                    None => {
                        *lock = Some(body);
                        ("200 OK", Vec::new())
                    }
                },
                // With no look at whose it is, as common servers do.
                "UNLOCK" => {
                    *lock = None;
                    ("200 OK", Vec::new())
                }
                "GET" if state.is_empty() => ("404 Not Found", Vec::new()),
                "GET" => ("200 OK", state.clone()),
                "POST" if *refuses.lock().unwrap() => ("507 Insufficient Storage", Vec::new()),
                _ => {
                    *state = body;
                    ("200 OK", Vec::new())
                }
            }
        });
        backend
    }

    fn snapshot(&self) -> Value {
        let address = format!("http://127.0.0.1:{}/state", self.port);
        let config = json!({"address": address, "retry_max": 0});
        json!({"template": {"inline": {"main.tf": ONE}}, "backend": {"type": "http", "config": config}})
    }
}

impl HttpBackend {
    /// The same with its lock.
    fn locking(&self) -> Value {
        let mut snapshot = self.snapshot();
        let config = &mut snapshot["backend"]["config"];
        let address = config["address"].clone();
        config["lock_address"] = address.clone();
        config["unlock_address"] = address;
        snapshot
    }
}

#[tokio::test]
async fn a_lock_that_was_left_behind_is_shown_and_released_by_its_id_alone() {
    let (bed, backend) = (terraform_bed(), HttpBackend::start());
    let snapshot = backend.locking();
    let look = || bed.run(job("terraform.lock", snapshot.clone(), json!({})));
    let unlock = |id: &str| bed.run(job("terraform.unlock", snapshot.clone(), json!({"lock_id": id})));
    assert_eq!(look().await.result(), &json!({"locked": false}));

    let left = json!({"ID": "5f1c", "Operation": "OperationTypeApply", "Who": "somebody@elsewhere", "Created": "2026-11-21T00:00:00Z"});
    *backend.lock.lock().unwrap() = Some(left.to_string().into_bytes());
    let seen = look().await;
    assert_eq!(seen.result()["lock"]["id"], json!("5f1c"), "{}", seen.text());
    let plan = bed.run(plan(&snapshot)).await;
    assert!(plan.reason().contains("does not name (lock 5f1c)"), "{}", plan.reason());

    // Another one has taken it in the meantime: a server that does not look would release that one's.
    let wrong = unlock("0000").await;
    assert!(
        wrong.reason().starts_with("nothing was unlocked") && wrong.reason().contains("5f1c"),
        "{}",
        wrong.reason()
    );
    assert!(backend.lock.lock().unwrap().is_some() && bed.desk.started.lock().unwrap().is_empty());

    assert_eq!(unlock("5f1c").await.result()["unlocked"]["id"], json!("5f1c"));
    assert!(backend.lock.lock().unwrap().is_none());
    assert_eq!(look().await.result(), &json!({"locked": false}));
    // Nothing to release is no failure.
    assert_eq!(unlock("5f1c").await.result(), &json!({"locked": false}));
}

#[tokio::test]
async fn the_holder_of_a_local_lock_is_named() {
    let bed = terraform_bed();
    let (begun, gate) = (Gate::new(&bed.dir(), "begun"), Gate::new(&bed.dir(), "gate"));
    let main = format!(
        "resource \"terraform_data\" \"slow\" {{\n  provisioner \"local-exec\" {{ command = \"{} && {}\" }}\n}}\n",
        begun.pass(),
        gate.pass()
    );
    let snapshot = local("held", &main);
    let planned = bed.run(plan(&snapshot)).await;
    planned.result();
    let holder = bed.open(apply(&snapshot, &planned)).await;
    let (held, ()) = tokio::join!(holder.run(), async {
        begun.reached().await;
        let seen = bed.run(job("terraform.lock", snapshot.clone(), json!({}))).await;
        let lock = &seen.result()["lock"];
        assert_eq!(lock["operation"], json!("OperationTypeApply"), "{}", seen.text());
        assert!(lock["who"].as_str().unwrap().contains('@') && !lock["created"].as_str().unwrap().is_empty());
        gate.reached().await;
    });
    held.result();
    assert_eq!(bed.run(job("terraform.lock", snapshot, json!({}))).await.result(), &json!({"locked": false}));
    let thrown = json!({"template": {"inline": {"main.tf": ONE}}, "stateless": true});
    let refused = bed.run(job("terraform.lock", thrown, json!({}))).await;
    assert!(refused.reason().contains("stateless"), "{}", refused.reason());
}

#[tokio::test]
async fn an_apply_that_had_to_be_killed_says_which_lock_it_has_left() {
    let (mut bed, backend) = (terraform_bed(), HttpBackend::start());
    let snapshot = backend.locking();
    let planned = bed.run(plan(&snapshot)).await;
    planned.result();
    // It takes the lock, and dies with it: no signal lets an engine clean up.
    let real = engine("terraform").unwrap();
    let body = format!("[ \"$1\" = apply ] && kill -9 $$\nexec {} \"$@\"", real.display());
    bed.config.tools.terraform = Some(vec![script(&bed.dir().join("dies"), &body)]);
    *backend.lock.lock().unwrap() =
        Some(json!({"ID": "5f1c", "Operation": "OperationTypeApply"}).to_string().into_bytes());
    let killed = bed.run(apply(&snapshot, &planned)).await;
    let reason = killed.reason();
    assert!(reason.contains("may lack what was made last"), "{reason}");
    assert!(
        reason.contains("(lock 5f1c)") && reason.contains("state unlock") && reason.contains("--lock-id 5f1c"),
        "{reason}"
    );
    assert_eq!(killed.records.last().unwrap().name, "apply", "the look leaves no record");

    // With no lock left, and without an answer.
    *backend.lock.lock().unwrap() = None;
    let free = bed.run(apply(&snapshot, &planned)).await;
    assert!(free.reason().contains("the state's lock is free"), "{}", free.reason());
    let body = format!("[ \"$1\" = apply ] && kill -9 $$\n[ \"$1\" = plan ] && exit 1\nexec {} \"$@\"", real.display());
    bed.config.tools.terraform = Some(vec![script(&bed.dir().join("silent"), &body)]);
    let silent = bed.run(apply(&snapshot, &planned)).await;
    assert!(silent.reason().contains("tendril-broker state lock"), "{}", silent.reason());
}

#[tokio::test]
async fn a_remote_state_is_applied_by_another_runner_with_nothing_in_common() {
    let backend = HttpBackend::start();
    let first = terraform_bed();
    let mut second = first.neighbour();
    second.config.tools.terraform = first.config.tools.terraform.clone();
    second.config.place = None;
    let planned = first.run(plan(&backend.snapshot())).await;
    planned.result();
    let done = second.run(apply(&backend.snapshot(), &planned)).await;
    assert_eq!(done.result()["outputs"], json!({"o": "x"}));
    let state: Value = serde_json::from_slice(&backend.state.lock().unwrap()).unwrap();
    assert_eq!(state["resources"][0]["name"], json!("one"));
}

async fn unsaved(bed: &Bed, backend: &HttpBackend) -> Outcome {
    let planned = bed.run(plan(&backend.snapshot())).await;
    planned.result();
    *backend.refuses.lock().unwrap() = true;
    bed.run(apply(&backend.snapshot(), &planned)).await
}

#[tokio::test]
async fn a_state_that_cannot_be_saved_is_kept_as_an_artifact() {
    let bed = terraform_bed();
    let done = unsaved(&bed, &HttpBackend::start()).await;
    let Stop::Failed { reason, result, .. } = done.stop() else { panic!("{:?}", done.verdict) };
    assert!(reason.contains("Failed to save state"), "{reason}");
    assert_eq!(result["artifacts"], json!(["errored-state"]));
    let state: Value = serde_json::from_slice(&bed.artifact(done.attempt, "errored-state").unwrap()).unwrap();
    assert_eq!(state["resources"][0]["name"], json!("one"));
    assert!(done.stream("system").contains("terraform state push errored.tfstate"), "{}", done.text());
    assert_eq!(std::fs::read_dir(bed.config.state_dir.join("rescued")).unwrap().count(), 0, "the broker has it");
}

#[tokio::test]
async fn a_state_that_the_broker_refuses_stays_on_the_place() {
    let bed = terraform_bed();
    let backend = HttpBackend::start();
    let refusal = BrokerError::Refused { code: "TD011".into(), message: "too large".into(), detail: None };
    let planned = bed.run(plan(&backend.snapshot())).await;
    planned.result();
    *backend.refuses.lock().unwrap() = true;
    bed.desk.put_refusals.lock().unwrap().push_back(refusal);
    let done = bed.run(apply(&backend.snapshot(), &planned)).await;
    assert!(bed.artifact(done.attempt, "errored-state").is_none());
    let kept = bed.config.state_dir.join("rescued").join(done.attempt.simple().to_string()).join("errored.tfstate");
    let state: Value = serde_json::from_slice(&std::fs::read(&kept).unwrap()).unwrap();
    assert_eq!(state["resources"][0]["name"], json!("one"));
    let said = done.stream("system");
    assert!(said.contains(kept.to_str().unwrap()) && said.contains("too large"), "{said}");
}

#[tokio::test]
async fn a_state_that_can_be_neither_set_aside_nor_stored_keeps_its_work_folder() {
    let bed = terraform_bed();
    let backend = HttpBackend::start();
    let planned = bed.run(plan(&backend.snapshot())).await;
    planned.result();
    assert!(!planned.keeps_folder);
    *backend.refuses.lock().unwrap() = true;
    // As on a full disk: no folder can be made.
    std::fs::write(bed.config.state_dir.join("rescued"), "").unwrap();
    let refusal = BrokerError::Refused { code: "TD011".into(), message: "too large".into(), detail: None };
    bed.desk.put_refusals.lock().unwrap().push_back(refusal);
    let done = bed.run(apply(&backend.snapshot(), &planned)).await;
    assert!(done.keeps_folder, "else its last copy is removed with it");
    let kept = done.work.join("tree/errored.tfstate");
    assert!(done.reason().contains(kept.to_str().unwrap()), "{}", done.reason());
    let state: Value = serde_json::from_slice(&std::fs::read(&kept).unwrap()).unwrap();
    assert_eq!(state["resources"][0]["name"], json!("one"));
}

#[tokio::test]
async fn a_cancelled_apply_that_could_not_save_its_state_says_where_it_is() {
    let bed = terraform_bed();
    let backend = HttpBackend::start();
    let gate = Gate::new(&bed.dir(), "gate");
    let mut snapshot = backend.snapshot();
    let second = format!(
        "resource \"terraform_data\" \"two\" {{\n  depends_on = [terraform_data.one]\n  provisioner \"local-exec\" {{\n    command = \"{}; exec sleep 600\"\n  }}\n}}\n",
        gate.pass()
    );
    snapshot["template"]["inline"]["two.tf"] = json!(second);
    let planned = bed.run(plan(&snapshot)).await;
    planned.result();
    *backend.refuses.lock().unwrap() = true;
    let open = bed.open(apply(&snapshot, &planned)).await;
    let stopper = open.stopper.clone();
    let (done, ()) = tokio::join!(open.run(), async {
        gate.reached().await;
        stopper.stop(StopReason::Cancelled);
    });
    let Stop::Cancelled(reason) = done.stop() else { panic!("{:?}", done.verdict) };
    assert!(reason.contains("artifact errored-state holds it") && !reason.contains("the state holds them"), "{reason}");
    assert_eq!(done.known["artifacts"], json!(["errored-state"]), "the report of a cancelled job names it too");
    assert!(bed.artifact(done.attempt, "errored-state").is_some());
}

#[tokio::test]
async fn a_broker_that_is_away_for_a_moment_still_gets_the_artifacts() {
    let bed = terraform_bed();
    let away = || BrokerError::Unavailable("the connection was cut".into());
    bed.desk.put_refusals.lock().unwrap().extend([away(), away()]);
    let planned = bed.run(plan(&local("x", ONE))).await;
    planned.result();
    assert!(bed.artifact(planned.attempt, "plan").is_some());
}

#[tokio::test]
async fn a_backend_of_the_trees_own_is_used_as_it_is() {
    let bed = terraform_bed();
    let file = bed.dir().join("own.tfstate");
    let main = format!("terraform {{\n  backend \"local\" {{\n    path = \"{}\"\n  }}\n}}\n{ONE}", file.display());
    let snapshot = json!({
        "template": {"inline": {"main.tf": main}}, "backend": {"type": "own"}, "state_key": "mine",
    });
    let planned = bed.run(plan(&snapshot)).await;
    planned.result();
    bed.run(apply(&snapshot, &planned)).await.result();
    assert_eq!(resources(&file), ["one"]);
}

#[tokio::test]
async fn a_backend_block_that_only_the_engine_finds_is_refused_before_anything_is_planned() {
    let bed = terraform_bed();
    let stolen = bed.dir().join("stolen.tfstate");
    let block = json!({"terraform": {"backend": {"local": {"path": stolen}}}});
    let backend = block["terraform"].to_string();
    for file in [
        // All valid to the engine: a list of bodies, a key twice, half a surrogate pair.
        format!("[{block}]"),
        format!("{{\"terraform\": {backend}, \"terraform\": {{}}}}"),
        format!("{{\"//\": \"\\ud800\", \"terraform\": {backend}}}"),
    ] {
        for state in [json!({"type": "local", "place": crate::bed::PLACE, "path": "x"}), Value::Null] {
            let mut snapshot = json!({"template": {"inline": {"main.tf": ONE, "zz_override.tf.json": file}}});
            if !state.is_null() {
                snapshot["backend"] = state;
            }
            let done = bed.run(plan(&snapshot)).await;
            let Stop::Failed { reason, permanent: true, .. } = done.stop() else {
                panic!("{file}: {:?}", done.verdict)
            };
            assert!(reason.contains("elsewhere") || reason.contains("remove the backend block"), "{file}: {reason}");
            assert_eq!(done.records.len(), 1, "only init ran");
        }
    }
    assert!(!stolen.exists());
}

#[tokio::test]
async fn workspaces_have_a_state_each_and_are_made_when_they_are_new() {
    for name in ["terraform", "tofu"] {
        let Some(program) = engine(name) else { continue };
        let mut bed = Bed::new();
        (bed.config.tools.terraform, bed.config.tools.tofu) = match name {
            "tofu" => (Some(vec![]), Some(vec![program])),
            _ => (Some(vec![program]), Some(vec![])),
        };
        for (workspace, expected) in [("blue", 1), ("green", 1), ("default", 1), ("blue", 0)] {
            let mut snapshot = local("x", ONE);
            snapshot["workspace"] = json!(workspace);
            let planned = bed.run(plan(&snapshot)).await;
            assert_eq!(planned.result()["summary"]["add"], json!(expected), "{workspace}");
            bed.run(apply(&snapshot, &planned)).await.result();
            assert_eq!(resources(&state_file(&bed, "x", workspace)), ["one"]);
        }
    }
}

#[tokio::test]
async fn an_engine_sees_the_allow_list_and_what_the_runner_sets_and_nothing_else() {
    let mut bed = terraform_bed();
    let real = engine("terraform").unwrap();
    let body = format!("[ \"$1\" = plan ] && env -0 > {}/env\nexec {} \"$@\"", bed.dir().display(), real.display());
    bed.config.tools.terraform = Some(vec![script(&bed.dir().join("nosy"), &body)]);
    bed.own_env.extend(
        [("AWS_REGION", "eu"), ("SECRET", "no"), ("TENDRIL_AGENT_TOKEN", "no"), ("TF_WORKSPACE", "no")]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    bed.config.tools.pass_env = vec!["AWS_*".into(), "TF_*".into(), "TENDRIL_*".into()];
    bed.config.tools.env = [("TF_VAR_a".to_owned(), "b".to_owned())].into();
    let mut snapshot = local("x", "variable \"a\" {}");
    snapshot["workspace"] = json!("blue");
    let done = bed.run(plan(&snapshot)).await;
    done.result();
    let env = std::fs::read_to_string(bed.dir().join("env")).unwrap();
    let seen: BTreeMap<&str, &str> = env.split('\0').filter_map(|pair| pair.split_once('=')).collect();
    let work = done.work.to_str().unwrap().trim_end_matches('/');
    let places = ["home", "tmp", "data", "engine.tfrc"].map(|name| format!("{work}/{name}"));
    let mut expected = BTreeMap::from([
        ("AWS_REGION", "eu"),
        ("CHECKPOINT_DISABLE", "1"),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("TF_IN_AUTOMATION", "1"),
        ("TF_INPUT", "0"),
        ("TF_VAR_a", "b"),
        ("TF_WORKSPACE", "blue"),
    ]);
    let names = ["HOME", "TMPDIR", "TF_DATA_DIR", "TF_CLI_CONFIG_FILE"];
    expected.extend(names.into_iter().zip(&places).map(|(name, path)| (name, path.as_str())));
    // The shell that stands in for the engine adds its own.
    let seen: BTreeMap<_, _> =
        seen.into_iter().filter(|(name, _)| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name)).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn files_that_a_plan_writes_are_there_for_the_apply() {
    let mut bed = terraform_bed();
    let real = engine("terraform").unwrap();
    let body = format!(
        "[ \"$1\" = plan ] && echo made > made.txt\n[ \"$1\" = apply ] && cat made.txt >&2\nexec {} \"$@\"",
        real.display()
    );
    bed.config.tools.terraform = Some(vec![script(&bed.dir().join("maker"), &body)]);
    let planned = bed.run(plan(&local("x", ONE))).await;
    let done = bed.run(apply(&local("x", ONE), &planned)).await;
    done.result();
    assert_eq!(done.stream("stderr"), "made\n");
}

/// Needs a provider: a folder in the form of `filesystem_mirror` with hashicorp/random.
#[tokio::test]
async fn providers_come_from_the_mirror_and_are_the_same_for_the_apply() {
    let Some(mirror) = std::env::var_os("TENDRIL_TEST_PROVIDER_MIRROR") else {
        eprintln!("skipped: TENDRIL_TEST_PROVIDER_MIRROR names no folder with hashicorp/random");
        return;
    };
    let mut bed = terraform_bed();
    bed.config.tools.provider_mirror = Some(mirror.into());
    let main = "terraform {\n  required_providers {\n    random = { source = \"hashicorp/random\" }\n  }\n}\nresource \"random_pet\" \"p\" { length = 2 }\noutput \"p\" { value = random_pet.p.length }\n";
    let snapshot = local("x", main);
    let planned = bed.run(plan(&snapshot)).await;
    planned.result();
    let mut other = bed.neighbour();
    other.config.tools = bed.config.tools.clone();
    std::fs::create_dir_all(&other.config.state_dir).unwrap();
    std::os::unix::fs::symlink(bed.config.state_dir.join("states"), other.config.state_dir.join("states")).unwrap();
    let done = other.run(apply(&snapshot, &planned)).await;
    assert_eq!(done.result()["outputs"], json!({"p": 2}));
    assert_eq!(done.records.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["init", "apply"]);
    // Any number of jobs share one binary, while it runs.
    let others: Vec<_> = (0..4).map(|number| plan(&local(&format!("p{number}"), main))).collect();
    let planned = futures_util::future::join_all(others.into_iter().map(|job| bed.run(job))).await;
    for one in &planned {
        one.result();
    }
}

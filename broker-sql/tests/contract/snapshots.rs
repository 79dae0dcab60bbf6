//! Bad snapshots, each with the path that its refusal names.

use serde_json::{Value, json};

use crate::fleet::{Fleet, exec, id, refused, run};

/// A template that is fine, with keys that replace or join its own.
fn with(keys: Value) -> Value {
    let mut snapshot = json!({"template": {"name": "t"}, "stateless": true});
    merge(&mut snapshot, keys);
    snapshot
}

/// The same with a template of its own.
fn template(template: Value) -> Value {
    json!({"template": template, "stateless": true})
}

/// The same with a backend.
fn backend(backend: Value) -> Value {
    json!({"template": {"name": "t"}, "backend": backend})
}

fn jobs(jobs: Value) -> Value {
    json!({"jobs": jobs})
}

fn job(keys: Value) -> Value {
    let mut job = exec("a");
    merge(&mut job, keys);
    jobs(json!([job]))
}

fn merge(into: &mut Value, keys: Value) {
    for (key, value) in keys.as_object().unwrap() {
        into[key] = value.clone();
    }
}

#[tokio::test]
async fn a_secret_is_submitted_as_a_reference_and_never_as_a_value() {
    let mut fleet = Fleet::new().await;
    let with_secrets = |secrets: Value| with(json!({ "secrets": secrets }));
    let good = with_secrets(json!([
        {"variable": "A", "from": "env", "name": "B"},
        {"variable": "C", "from": "file", "path": "d/e", "as": "file", "commands": ["init", "plan"], "jobs": ["plan"]},
        {"variable": "F", "from": "vault", "path": "g/h", "key": "i"},
    ]));
    fleet.deploy(good).await;
    for (path, secret) in [
        ("secrets[0].value", json!({"variable": "A", "from": "env", "name": "B", "value": "in clear"})),
        ("secrets[0].from", json!({"variable": "A", "from": "clear", "name": "B"})),
        ("secrets[0].name", json!({"variable": "A", "from": "env"})),
        ("secrets[0].path", json!({"variable": "A", "from": "env", "name": "B", "path": "c"})),
        ("secrets[0].key", json!({"variable": "A", "from": "vault", "path": "c"})),
        ("secrets[0].path", json!({"variable": "A", "from": "file", "path": "a/../b"})),
        ("secrets[0].path", json!({"variable": "A", "from": "file", "path": "/etc/shadow"})),
        ("secrets[0].variable", json!({"variable": "LD_PRELOAD", "from": "env", "name": "B"})),
        ("secrets[0].variable", json!({"variable": "https_proxy", "from": "env", "name": "B"})),
        ("secrets[0].variable", json!({"variable": "A B", "from": "env", "name": "B"})),
        ("secrets[0].commands[0]", json!({"variable": "A", "from": "env", "name": "B", "commands": ["git"]})),
    ] {
        let sql = fleet.insert(id(), &with_secrets(json!([secret])));
        let refusal = refused(&mut fleet.portal, &sql).await;
        assert_eq!(refusal.sqlstate, "TD001", "{secret}");
        assert!(refusal.message.contains(path), "{secret}: {}", refusal.message);
    }
    let nobody =
        json!({"jobs": [exec("a")], "secrets": [{"variable": "A", "from": "env", "name": "B", "jobs": ["b"]}]});
    let sql = fleet.insert(id(), &nobody);
    assert!(refused(&mut fleet.portal, &sql).await.message.contains("there is no job b"));
}

type Bad = (&'static str, Value);

fn bad_envelopes() -> Vec<Bad> {
    vec![
        // Not an object at all.
        ("config_snapshot", json!([])),
        ("config_snapshot", json!("x")),
        ("config_snapshot", json!(null)),
        ("config_snapshot", json!({})),
        // The envelope.
        ("config_snapshot.tempalte", json!({"tempalte": {}})),
        ("config_snapshot[\"a b\"]", with(json!({"a b": 1}))),
        ("config_snapshot.action", with(json!({"action": "explode"}))),
        ("config_snapshot.action", with(json!({"action": 1}))),
        ("config_snapshot.inputs", with(json!({"inputs": []}))),
        ("config_snapshot.engine", with(json!({"engine": "pulumi"}))),
        ("config_snapshot.engine_version", with(json!({"engine": "tofu", "engine_version": "latest"}))),
        ("config_snapshot.engine_version", with(json!({"engine_version": "1.6.2"}))),
        ("config_snapshot.labels", with(json!({"labels": "gpu"}))),
        ("config_snapshot.labels[1]", with(json!({"labels": ["gpu", "a b"]}))),
        ("config_snapshot.labels", with(json!({"labels": ["gpu", "gpu"]}))),
        ("config_snapshot.limits.timeout_s", with(json!({"limits": {"timeout_s": 0}}))),
        ("config_snapshot.limits.timeout_s", with(json!({"limits": {"timeout_s": 1.5}}))),
        ("config_snapshot.limits.timeout_s", with(json!({"limits": {"timeout_s": 604801}}))),
        ("config_snapshot.limits.max_attempts", with(json!({"limits": {"max_attempts": 21}}))),
        ("config_snapshot.limits.retries", with(json!({"limits": {"retries": 1}}))),
        ("config_snapshot.approval", with(json!({"approval": true}))),
        ("config_snapshot.cost", with(json!({"cost": "free"}))),
        (
            "config_snapshot.workspace",
            json!({"template": {"name": "t"}, "backend": {"type": "local", "place": "p", "path": "x"}, "workspace": "../x"}),
        ),
    ]
}

fn bad_templates_and_backends() -> Vec<Bad> {
    vec![
        // Where the files come from.
        ("config_snapshot.template", template(json!({}))),
        ("config_snapshot.template", template(json!({"name": "t", "git": "https://h/r"}))),
        ("config_snapshot.template.name", template(json!({"name": "../t"}))),
        ("config_snapshot.template.version", template(json!({"name": "t", "version": "1"}))),
        ("config_snapshot.template.version", template(json!({"git": "https://h/r", "version": "1.0.0"}))),
        ("config_snapshot.template.ref", template(json!({"name": "t", "ref": "main"}))),
        ("config_snapshot.template.git", template(json!({"git": "ext::sh -c x"}))),
        ("config_snapshot.template.git", template(json!({"git": "--upload-pack=x"}))),
        ("config_snapshot.template.git", template(json!({"git": "http://h/repository"}))),
        ("config_snapshot.template.git", template(json!({"git": "https://user:secret@h/r"}))),
        ("config_snapshot.template.git", template(json!({"git": "file:///etc"}))),
        ("config_snapshot.template.ref", template(json!({"git": "https://h/r", "ref": "--x"}))),
        ("config_snapshot.template.ref", template(json!({"git": "https://h/r", "ref": "a..b"}))),
        ("config_snapshot.template.path", template(json!({"git": "https://h/r", "path": "a/../b"}))),
        ("config_snapshot.template.path", template(json!({"git": "https://h/r", "path": "/etc"}))),
        ("config_snapshot.template.inline", template(json!({"inline": {}}))),
        ("config_snapshot.template.inline.main.tf", template(json!({"inline": {"main.tf": 1}}))),
        ("config_snapshot.template.inline.../x", template(json!({"inline": {"../x": ""}}))),
        ("config_snapshot.template.inline./etc/x", template(json!({"inline": {"/etc/x": ""}}))),
        ("config_snapshot.template.inline..git/config", template(json!({"inline": {".git/config": ""}}))),
        // Where the state lies.
        ("config_snapshot.backend", json!({"template": {"name": "t"}})),
        (
            "config_snapshot.stateless",
            json!({"template": {"name": "t"}, "stateless": true, "backend": {"type": "own"}, "state_key": "k"}),
        ),
        ("config_snapshot.stateless", with(json!({"workspace": "w"}))),
        ("config_snapshot.backend.type", backend(json!({}))),
        ("config_snapshot.backend.type", backend(json!({"type": "ftp"}))),
        ("config_snapshot.backend.place", backend(json!({"type": "local", "path": "x"}))),
        ("config_snapshot.backend.path", backend(json!({"type": "local", "place": "p", "path": "a/../../b"}))),
        ("config_snapshot.backend.config", backend(json!({"type": "local", "place": "p", "path": "x", "config": {}}))),
        (
            "config_snapshot.backend.place",
            backend(json!({"type": "s3", "place": "p", "config": {"bucket": "b", "key": "k"}})),
        ),
        ("config_snapshot.backend.config.key", backend(json!({"type": "s3", "config": {"bucket": "b"}}))),
        (
            "config_snapshot.backend.config.secret_key",
            backend(json!({"type": "s3", "config": {"bucket": "b", "key": "k", "secret_key": "s"}})),
        ),
        (
            "config_snapshot.backend.config.address",
            backend(json!({"type": "http", "config": {"address": "https://u:p@h/x"}})),
        ),
        ("config_snapshot.state_key", backend(json!({"type": "pg", "config": {}}))),
        (
            "config_snapshot.state_key",
            json!({"template": {"name": "t"}, "backend": {"type": "gcs", "config": {"bucket": "b"}}, "state_key": "k"}),
        ),
    ]
}

fn bad_jobs() -> Vec<Bad> {
    let plan = json!({"name": "plan", "kind": "terraform.plan"});
    let apply = json!({"name": "apply", "kind": "terraform.apply"});
    let two_stage = |jobs: Value| with(json!({"jobs": jobs}));
    vec![
        // Jobs.
        ("config_snapshot.jobs", jobs(json!([]))),
        ("config_snapshot.jobs", jobs(json!({}))),
        ("config_snapshot.jobs[0].name", jobs(json!([{"kind": "exec", "argv": ["x"]}]))),
        ("config_snapshot.jobs[0].name", job(json!({"name": "A b"}))),
        ("config_snapshot.jobs[0].kind", job(json!({"kind": "bash"}))),
        ("config_snapshot.jobs[0].argv", job(json!({"argv": "rm -rf /"}))),
        ("config_snapshot.jobs[0].argv", job(json!({"argv": []}))),
        ("config_snapshot.jobs[0].argv[1]", job(json!({"argv": ["x", 1]}))),
        ("config_snapshot.jobs[0].argv", jobs(json!([{"name": "a", "kind": "exec"}]))),
        ("config_snapshot.jobs[0].argv", two_stage(json!([{"name": "plan", "kind": "terraform.plan", "argv": ["x"]}]))),
        (
            "config_snapshot.jobs[0].reading",
            two_stage(json!([{"name": "plan", "kind": "terraform.plan", "reading": true}])),
        ),
        ("config_snapshot.jobs[0].destroy", job(json!({"destroy": true}))),
        ("config_snapshot.jobs[0].limits.max_attempts", job(json!({"limits": {"max_attempts": 2}}))),
        ("config_snapshot.jobs[0].limits.timeout_s", job(json!({"limits": {"timeout_s": -1}}))),
        ("config_snapshot.jobs[0].shell", job(json!({"shell": true}))),
        ("config_snapshot.jobs[0].needs[0]", job(json!({"needs": ["nobody"]}))),
        ("config_snapshot.jobs", job(json!({"needs": ["a"]}))),
        (
            "config_snapshot.jobs",
            jobs(json!([
                {"name": "a", "kind": "exec", "argv": ["x"], "needs": ["c"]},
                {"name": "b", "kind": "exec", "argv": ["x"], "needs": ["a"]},
                {"name": "c", "kind": "exec", "argv": ["x"], "needs": ["b"]},
            ])),
        ),
        ("config_snapshot.jobs[1].name", jobs(json!([exec("a"), exec("a")]))),
        ("config_snapshot.jobs[0].kind", jobs(json!([plan]))),
        ("config_snapshot.jobs[0].needs", two_stage(json!([apply]))),
        (
            "config_snapshot.jobs[1].needs",
            two_stage(json!([plan, {"name": "d", "kind": "terraform.destroy", "needs": ["plan"]}])),
        ),
        ("config_snapshot.action", json!({"jobs": [exec("a")], "action": "plan"})),
        ("config_snapshot.engine", json!({"jobs": [exec("a")], "engine": "tofu"})),
        ("config_snapshot.inputs", json!({"jobs": [exec("a")], "inputs": {}})),
        // What would have no effect.
        ("config_snapshot.approval", json!({"jobs": [exec("a")], "approval": "required"})),
        ("config_snapshot.cost", json!({"jobs": [exec("a")], "cost": "on"})),
        ("config_snapshot.workspace", json!({"jobs": [exec("a")], "workspace": "w"})),
        ("config_snapshot.stateless", json!({"jobs": [exec("a")], "stateless": true})),
        ("config_snapshot.state_key", json!({"jobs": [exec("a")], "state_key": "k"})),
        ("config_snapshot.backend", json!({"jobs": [exec("a")], "backend": {"type": "own"}})),
        ("config_snapshot.template.path", template(json!({"inline": {"a": "b"}, "path": "x"}))),
        ("config_snapshot.template.submodules", template(json!({"name": "t", "submodules": true}))),
    ]
}

#[tokio::test]
async fn every_bad_snapshot_is_refused_with_the_path_of_the_wrong_key() {
    let mut fleet = Fleet::new().await;
    let table = [bad_envelopes(), bad_templates_and_backends(), bad_jobs()].concat();
    assert!(table.len() >= 40);
    for (path, snapshot) in table {
        let insert = fleet.insert(id(), &snapshot);
        let refusal = refused(&mut fleet.portal, &insert).await;
        assert_eq!(refusal.sqlstate, "TD001", "{snapshot}: {refusal:?}");
        let problems = refusal.problems();
        assert!(problems.iter().any(|p| p.path == path), "{snapshot}: wanted {path}, got {problems:?}");
        assert!(refusal.message.starts_with(&problems[0].path), "{}", refusal.message);
    }
}

#[tokio::test]
async fn all_mistakes_of_one_kind_are_listed_at_once() {
    let mut fleet = Fleet::new().await;
    let snapshot =
        json!({"jobs": [{"name": "A", "kind": "exec", "argv": [1]}], "x": 1, "limits": {"timeout_s": "long"}});
    let insert = fleet.insert(id(), &snapshot);
    let paths: Vec<String> = refused(&mut fleet.portal, &insert).await.problems().into_iter().map(|p| p.path).collect();
    assert_eq!(
        paths,
        [
            "config_snapshot.jobs[0].argv[0]",
            "config_snapshot.jobs[0].name",
            "config_snapshot.limits.timeout_s",
            "config_snapshot.x"
        ]
    );
}

#[tokio::test]
async fn a_snapshot_that_is_too_large_is_refused_by_its_size() {
    let mut fleet = Fleet::new().await;
    let snapshot = json!({"template": {"inline": {"main.tf": "x".repeat(1_100_000)}}, "stateless": true});
    let insert = fleet.insert(id(), &snapshot);
    let refusal = refused(&mut fleet.portal, &insert).await;
    assert_eq!(refusal.message, "config_snapshot: has more than 1048576 bytes");
}

#[tokio::test]
async fn inputs_are_checked_against_a_registered_version() {
    let mut fleet = Fleet::new().await;
    let record = json!({
        "name": "web", "version": "1.2.0", "engine": {"tofu": ">=1.6"},
        "inputs": {
            "type": "object", "additionalProperties": false, "required": ["region"],
            "properties": {"region": {"type": "string", "pattern": "^[a-z]+$"}, "size": {"type": "integer", "maximum": 3}},
        },
    });
    let register = |record: &Value| format!("select tendril.template_register('{record}')");
    assert!(crate::fleet::one::<bool>(&mut fleet.operator, &register(&record)).await);
    assert!(!crate::fleet::one::<bool>(&mut fleet.operator, &register(&record)).await, "again is harmless");
    let mut changed = record.clone();
    changed["engine"] = json!({"terraform": "*"});
    assert_eq!(refused(&mut fleet.operator, &register(&changed)).await.sqlstate, "TD003");
    for bad in [
        json!({}),
        json!({"name": "x", "version": "1.0.0"}),
        json!({"name": "x", "version": "1.0.0", "inputs": []}),
        json!({"name": "x", "version": "1.0.0", "inputs": {}, "engine": {"tofu": 1}}),
        json!({"name": "x", "version": "1.0.0", "inputs": {}, "engine": {"tofu": ">>1"}}),
        json!([]),
    ] {
        assert_eq!(refused(&mut fleet.operator, &register(&bad)).await.sqlstate, "TD001", "{bad}");
    }
    let snapshot = |version: &str, inputs: Value| json!({"template": {"name": "web", "version": version}, "stateless": true, "inputs": inputs});
    for (path, inputs) in [
        ("config_snapshot.inputs.region", json!({})),
        ("config_snapshot.inputs.region", json!({"region": "EU"})),
        ("config_snapshot.inputs.size", json!({"region": "eu", "size": 4})),
        ("config_snapshot.inputs.colour", json!({"region": "eu", "colour": "red"})),
    ] {
        let insert = fleet.insert(id(), &snapshot("1.2.0", inputs.clone()));
        let problems = refused(&mut fleet.portal, &insert).await.problems();
        assert_eq!(problems.iter().map(|p| p.path.as_str()).collect::<Vec<_>>(), [path], "{inputs}");
    }
    let mut engine = snapshot("1.2.0", json!({"region": "eu"}));
    engine["engine"] = json!("terraform");
    let insert = fleet.insert(id(), &engine);
    assert_eq!(
        refused(&mut fleet.portal, &insert).await.message,
        "config_snapshot.engine: the template works with tofu, not terraform"
    );
    let fine = fleet.insert(id(), &snapshot("1.2.0", json!({"region": "eu"})));
    run(&mut fleet.portal, &fine).await;
    // What is not registered is checked by the runner.
    let unknown = fleet.insert(id(), &snapshot("9.9.9", json!({"x": 1})));
    run(&mut fleet.portal, &unknown).await;
}

//! Templates that say where their state lies.

use serde_json::{Value, json};
use tendril_templates::{Template, TemplateError, Tree};

use crate::fleet::{Fleet, id, one, refused, run};

/// A template with these keys beside its own.
fn template(keys: &Value) -> Result<Template, TemplateError> {
    let mut manifest = json!({
        "name": "web", "version": "1.2.0", "description": "For a test.", "kind": "terraform", "engine": {"tofu": "*"},
        "inputs": {"type": "object", "additionalProperties": false},
    });
    manifest.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    // JSON is YAML.
    let files = json!({"template.yaml": manifest.to_string()});
    Template::from_tree(&Tree::from_inline(&files, "test").unwrap())
}

async fn register(fleet: &mut Fleet, keys: &Value) {
    let record = template(keys).unwrap().register_record();
    run(&mut fleet.operator, "delete from tendril_core.templates").await;
    run(&mut fleet.operator, &format!("select tendril.template_register('{record}')")).await;
}

/// A submit of the template, with these keys beside it.
fn submit(keys: &Value) -> Value {
    let mut snapshot = json!({"template": {"name": "web", "version": "1.2.0"}});
    snapshot.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    snapshot
}

fn s3(key: &str) -> Value {
    json!({"type": "s3", "config": {"bucket": "acme", "key": key}})
}

/// What the template says, what the snapshot says, and the state location that comes of it; or the path of the refusal.
type Case = (Value, Value, Result<Option<&'static str>, &'static str>);

fn cases() -> Vec<Case> {
    let stateless = json!({"stateless": true});
    let backend = json!({"backend": s3("web")});
    vec![
        (stateless.clone(), json!({}), Ok(None)),
        (backend.clone(), json!({}), Ok(Some("s3://acme/web#default"))),
        // Deployments are told apart by their workspace.
        (backend.clone(), json!({"workspace": "w"}), Ok(Some("s3://acme/web#w"))),
        (json!({"backend": {"type": "pg"}}), json!({"state_key": "mine"}), Ok(Some("mine"))),
        // The snapshot's own word wins, whole.
        (stateless.clone(), json!({"backend": s3("own")}), Ok(Some("s3://acme/own#default"))),
        (backend.clone(), json!({"backend": s3("own")}), Ok(Some("s3://acme/own#default"))),
        (backend.clone(), json!({"stateless": true}), Ok(None)),
        (backend.clone(), json!({"stateless": false}), Ok(Some("s3://acme/web#default"))),
        (stateless.clone(), json!({"stateless": false}), Err("backend")),
        (stateless.clone(), json!({"workspace": "w"}), Err("backend")),
        (stateless.clone(), json!({"state_key": "k"}), Err("backend")),
        (stateless, json!({"backend": null}), Err("backend")),
        (backend.clone(), json!({"state_key": "k"}), Err("state_key")),
        (backend, json!({"backend": {"type": "s3", "config": {"bucket": "b"}}}), Err("backend.config.key")),
        (json!({"backend": {"type": "pg"}}), json!({}), Err("state_key")),
        (json!({}), json!({}), Err("backend")),
    ]
}

#[tokio::test]
async fn a_templates_word_on_the_state_counts_where_the_snapshot_says_nothing() {
    let mut fleet = Fleet::new().await;
    for (stated, said, expected) in cases() {
        register(&mut fleet, &stated).await;
        let snapshot = submit(&said);
        match expected {
            Ok(location) => {
                let deployment = fleet.deploy(snapshot).await;
                assert_eq!(fleet.state(deployment).await.state_location.as_deref(), location, "{stated} and {said}");
            }
            Err(path) => {
                let insert = fleet.insert(id(), &snapshot);
                let problems = refused(&mut fleet.portal, &insert).await.problems();
                let paths: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
                assert_eq!(paths, [format!("config_snapshot.{path}")], "{stated} and {said}");
            }
        }
    }
    // Of a version that is not registered nobody knows what it says.
    register(&mut fleet, &json!({"stateless": true})).await;
    for template in [json!({"name": "web"}), json!({"name": "web", "version": "9.9.9"})] {
        let insert = fleet.insert(id(), &json!({ "template": template }));
        assert_eq!(refused(&mut fleet.portal, &insert).await.problems()[0].path, "config_snapshot.backend");
    }
}

#[tokio::test]
async fn what_the_template_says_is_written_into_the_snapshot() {
    let mut fleet = Fleet::new().await;
    let local = json!({"type": "local", "place": "p", "path": "web"});
    register(&mut fleet, &json!({ "backend": local })).await;
    let deployment = fleet.deploy(submit(&json!({}))).await;
    let stored = format!("select config_snapshot from tendril.deployments where id = '{deployment}'");
    assert_eq!(one::<Value>(&mut fleet.portal, &stored).await, submit(&json!({ "backend": local })));
    // The jobs have all that they would have had by the snapshot's own word: the place as a label, and the key.
    let elsewhere = fleet.runner_of(&fleet.cluster, &["kind=terraform.plan", "engine=tofu", "place=q"]).await;
    let mut there = fleet
        .runner_of(&fleet.cluster, &["kind=terraform.plan", "kind=terraform.apply", "engine=tofu", "place=p"])
        .await;
    drop(elsewhere);
    there.perform("success").await;
    assert_eq!(there.claim_one().await.state_key.as_deref(), Some("local://p/web#default"));
    // A retry does what was done, whatever is registered now.
    let other = fleet.deploy(submit(&json!({}))).await;
    run(&mut fleet.portal, &format!("select tendril.cancel('{other}')")).await;
    run(&mut fleet.operator, "delete from tendril_core.templates").await;
    let retry: uuid::Uuid = one(&mut fleet.portal, &format!("select tendril.retry('{other}')")).await;
    assert_eq!(fleet.state(retry).await.state_location.as_deref(), Some("local://p/web#default"));
}

/// Keys that are wrong in a template.
fn wrong() -> Vec<Value> {
    let backend = |backend: Value| json!({ "backend": backend });
    vec![
        json!({"stateless": false}),
        json!({"stateless": "yes"}),
        json!({"stateless": null}),
        json!({"stateless": true, "backend": s3("k")}),
        json!({"stateless": false, "backend": {"type": "ftp"}}),
        backend(json!(null)),
        backend(json!([])),
        backend(json!({})),
        backend(json!({"type": "ftp"})),
        backend(json!({"type": "own"})),
        backend(json!({"type": "local"})),
        backend(json!({"type": "local", "place": "P", "path": "/x"})),
        backend(json!({"type": "local", "place": "p", "path": "a/../b", "config": {"token": "t"}})),
        backend(json!({"type": "local", "place": "p", "path": "a/"})),
        backend(json!({"type": "s3", "region": "r"})),
        backend(json!({"type": "s3", "place": "p", "path": "x"})),
        backend(json!({"type": "s3", "config": {"bucket": 1, "key": "k", "secret_key": "s", "access_key": "a"}})),
        backend(json!({"type": "gcs", "config": {"prefix": "/a//b"}})),
        backend(json!({"type": "gcs", "config": {"bucket": "b", "prefix": "a/."}})),
        backend(json!({"type": "azurerm", "config": {"sas_token": "s"}})),
        backend(json!({"type": "http", "config": {}})),
        backend(json!({"type": "http", "config": {"address": "https://user:x@h/s"}})),
        backend(json!({"type": "http", "config": {"address": "ftp://h"}})),
        backend(json!({"type": "http", "config": {"address": "https://"}})),
        backend(json!({"type": "pg", "config": {"conn_str": "postgres://"}})),
    ]
}

#[tokio::test]
async fn a_template_that_says_it_wrongly_gets_the_same_errors_in_rust_and_postgres() {
    let mut fleet = Fleet::new().await;
    let right = [
        json!({}),
        json!({"stateless": true}),
        json!({"backend": s3("k")}),
        json!({"backend": {"type": "pg"}}),
        json!({"backend": {"type": "gcs", "config": {"bucket": "b", "prefix": ""}}}),
        json!({"backend": {"type": "http", "config": {"address": "http://h/s"}}}),
        json!({"backend": {"type": "local", "place": "p", "path": "a.b/c"}}),
    ];
    for (keys, fits) in right.into_iter().map(|keys| (keys, true)).chain(wrong().into_iter().map(|keys| (keys, false)))
    {
        let mut ours: Vec<(String, String)> = match template(&keys) {
            Ok(_) => Vec::new(),
            Err(TemplateError::Findings(found)) => found.into_iter().map(|f| (f.path, f.message)).collect(),
            Err(error) => panic!("{keys}: {error}"),
        };
        let theirs = format!(
            "select coalesce(jsonb_agg(jsonb_build_array(e.path, e.message)), '[]') from tendril_core.template_state_errors('{keys}') e"
        );
        let theirs: Value = one(&mut fleet.operator, &theirs).await;
        let mut theirs: Vec<(String, String)> = serde_json::from_value(theirs).unwrap();
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs, "{keys}");
        assert_eq!(ours.is_empty(), fits, "{keys}");
        if let Some((path, _)) = theirs.first() {
            let mut record = template(&json!({})).unwrap().register_record();
            record.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
            let refusal = refused(&mut fleet.operator, &format!("select tendril.template_register('{record}')")).await;
            assert_eq!(refusal.sqlstate, "TD001");
            assert!(refusal.message.starts_with("template record: "), "{path}: {}", refusal.message);
        }
    }
}

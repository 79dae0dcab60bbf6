//! Engines and versions that a registered template does not work with.

use serde_json::{Value, json};
use tendril_templates::{Engine, InputError, Template, Tree};

use crate::fleet::{Fleet, id, one, refused, run};

/// A template that needs these engines.
fn template(engines: &Value) -> Template {
    let manifest = json!({
        "name": "web", "version": "1.2.0", "description": "For a test.", "kind": "terraform", "engine": engines,
        "inputs": {"type": "object", "additionalProperties": false},
    });
    // JSON is YAML.
    let files = json!({"template.yaml": manifest.to_string()});
    Template::from_tree(&Tree::from_inline(&files, "test").unwrap()).unwrap()
}

#[tokio::test]
async fn an_engine_outside_what_the_template_states_is_refused_at_the_insert() {
    let mut fleet = Fleet::new().await;
    let web = template(&json!({"tofu": ">=1.6, <2"}));
    run(&mut fleet.operator, &format!("select tendril.template_register('{}')", web.register_record())).await;
    let snapshot = |engine: &str, version: Option<&str>| {
        let mut snapshot =
            json!({"template": {"name": "web", "version": "1.2.0"}, "stateless": true, "engine": engine});
        if let Some(version) = version {
            snapshot["engine_version"] = json!(version);
        }
        snapshot
    };
    for (engine, version, path) in [
        (Engine::Terraform, None, "engine"),
        (Engine::Terraform, Some("1.9.0"), "engine"),
        (Engine::Tofu, Some("1.5.7"), "engine_version"),
        (Engine::Tofu, Some("2.0.0"), "engine_version"),
        (Engine::Tofu, Some("1.7.0-rc.1"), "engine_version"),
        // What the snapshot's own form lets pass and no engine has as its version.
        (Engine::Tofu, Some("1.07.0"), "engine_version"),
    ] {
        let insert = fleet.insert(id(), &snapshot(engine.name(), version));
        let refusal = refused(&mut fleet.portal, &insert).await;
        let expected = web.engines().check(engine, version).unwrap();
        assert_eq!(expected.path, path);
        assert_eq!(refusal.sqlstate, "TD001");
        assert_eq!(refusal.message, format!("config_snapshot.{path}: {}", expected.message));
        assert_eq!(refusal.problems().len(), 1, "{refusal:?}");
    }
    for (engine, version) in [("tofu", None), ("tofu", Some("1.6.0")), ("tofu", Some("1.11.4"))] {
        let insert = fleet.insert(id(), &snapshot(engine, version));
        run(&mut fleet.portal, &insert).await;
    }
    // What is not registered is for the runner to judge.
    let mut elsewhere = snapshot("terraform", Some("0.1.0"));
    elsewhere["template"]["version"] = json!("9.9.9");
    let insert = fleet.insert(id(), &elsewhere);
    run(&mut fleet.portal, &insert).await;
}

/// Every requirement of one comparator over small numbers, and some of two.
fn requirements() -> Vec<String> {
    let numbers = ["0", "1"];
    let mut versions = Vec::new();
    for major in numbers {
        versions.push(major.to_owned());
        for minor in numbers {
            versions.push(format!("{major}.{minor}"));
            for patch in numbers {
                versions.push(format!("{major}.{minor}.{patch}"));
            }
            versions.extend(["0-rc.2", "1-rc.10", "1-2"].map(|patch| format!("{major}.{minor}.{patch}")));
        }
    }
    let wild = versions.iter().filter(|version| version.split('.').count() < 3).map(|version| format!("{version}.*"));
    let mut all: Vec<String> = wild.chain(["*".to_owned()]).collect();
    for operator in ["", "=", ">", ">=", "<", "<=", "~", "^"] {
        all.extend(versions.iter().map(|version| format!("{operator}{version}")));
    }
    let some = [
        ">=1.0.1, <2",
        ">=0.1, ^0.1.1-rc.2",
        "~1, >1.0.1-rc.1",
        "^1.1, <=1.1.1-rc.10, >0",
        "=1.1, >=1.1.0-rc.1",
        ">=2.2",
    ];
    all.extend(some.map(str::to_owned));
    all.push(format!("<={}", u64::MAX));
    all
}

/// Versions around them, and what is none.
fn versions() -> Vec<String> {
    let mut all = Vec::new();
    for (major, minor, patch) in [
        (0, 0, 0),
        (0, 0, 1),
        (0, 1, 0),
        (0, 1, 1),
        (0, 2, 1),
        (1, 0, 0),
        (1, 0, 2),
        (1, 1, 1),
        (1, 2, 0),
        (2, 0, 0),
        (2, 1, 1),
    ] {
        for pre in ["", "-rc.1", "-rc.2", "-rc.10", "-rc.2.0", "-2", "-2a"] {
            all.push(format!("{major}.{minor}.{patch}{pre}"));
        }
    }
    let odd = [
        "01.0.0",
        "1.0",
        "1.0.0-",
        "1.0.0-01",
        "1.0.0-a..b",
        "1.0.0-0a",
        "1.0.0--",
        "1.0.0+b",
        "v1.0.0",
        "1.0.0\n",
        "",
        "x",
    ];
    all.extend(odd.map(str::to_owned));
    all.extend([
        format!("{}.0.0", u64::MAX),
        "18446744073709551616.0.0".to_owned(),
        "100000000000000000000.0.0".to_owned(),
    ]);
    all
}

#[tokio::test]
async fn requirements_and_versions_get_the_same_errors_in_rust_and_postgres() {
    let mut fleet = Fleet::new().await;
    let versions = versions();
    let mut fitting = 0;
    for requirement in requirements() {
        let template = template(&json!({"tofu": requirement}));
        let record = template.register_record();
        let theirs: Value = one(
            &mut fleet.operator,
            &format!(
                "select jsonb_agg((select jsonb_agg(jsonb_build_array(e.path, e.message))
                     from tendril_core.engine_errors('{}', 'tofu', v.version) e) order by v.ord)
                   from jsonb_array_elements_text('{}') with ordinality v(version, ord)",
                record["engine"],
                json!(versions)
            ),
        )
        .await;
        for (version, theirs) in versions.iter().zip(theirs.as_array().unwrap()) {
            let ours = template.engines().check(Engine::Tofu, Some(version));
            let ours = ours.map_or(Value::Null, |InputError { path, message }| json!([[path, message]]));
            assert_eq!(&ours, theirs, "{requirement} and {version}");
            fitting += usize::from(ours.is_null());
        }
    }
    // The comparison means something only if both verdicts occur often.
    let all = requirements().len() * versions.len();
    assert!(fitting > 500 && fitting < all / 2, "{fitting} of {all} fit");
}

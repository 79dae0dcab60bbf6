//! Loading and linting templates.

#![expect(clippy::expect_used, reason = "a test ends where its own set-up fails")]

use std::path::Path;

use serde_json::{Value, json};
use tendril_templates::{Engine, Finding, State, Template, TemplateError, Tree, lint};

const MANIFEST: &str = r#"
name: sample
version: 1.2.3
description: A sample.
kind: terraform
engine: {terraform: ">=1.4"}
inputs:
  type: object
  additionalProperties: false
  properties:
    region: {type: string}
"#;

fn tree(files: &[(&str, &str)]) -> Tree {
    let files: serde_json::Map<String, Value> =
        files.iter().map(|(path, text)| ((*path).to_owned(), json!(text))).collect();
    Tree::from_inline(&Value::Object(files), "tree").expect("safe files")
}

fn findings(files: &[(&str, &str)]) -> Vec<Finding> {
    match Template::from_tree(&tree(files)) {
        Ok(_) => Vec::new(),
        Err(TemplateError::Findings(findings)) => findings,
        Err(error) => panic!("{error}"),
    }
}

fn places(manifest: &str) -> Vec<String> {
    findings(&[("template.yaml", manifest)]).into_iter().map(|finding| finding.path).collect()
}

fn shipped(name: &str) -> Template {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    Template::load(&dir).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn the_shipped_templates_have_no_findings() {
    for name in ["hello", "aws-s3-bucket"] {
        assert_eq!(lint(&Path::new(env!("CARGO_MANIFEST_DIR")).join(name)), []);
        assert_eq!(shipped(name).name(), name);
    }
}

#[test]
fn a_sound_manifest_is_taken() {
    assert_eq!(findings(&[("template.yaml", MANIFEST)]), []);
}

#[test]
fn a_folder_without_a_manifest_is_no_template() {
    let dir = tempfile::tempdir().expect("a folder");
    let found = lint(dir.path());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].file, "template.yaml");
    let found = lint(&dir.path().join("absent"));
    assert!(found[0].message.contains("absent"), "{found:?}");
}

#[test]
fn everything_wrong_is_told_at_once_with_its_path() {
    let manifest = r#"
name: Bad_Name
version: "1.0"
kind: helm
engine: {terraform: ">>1", pulumi: "*"}
extra: true
inputs:
  type: object
  properties:
    region: {type: string, minimum: 3, pattern: "\\d+", oneOf: []}
    size: {type: integr}
"#;
    assert_eq!(
        places(manifest),
        [
            "extra",
            "name",
            "version",
            "description",
            "kind",
            "engine.pulumi",
            "engine.terraform",
            "inputs.properties.region.oneOf",
            "inputs.properties.region.pattern",
            "inputs.properties.region.minimum",
            "inputs.properties.size.type",
            "inputs.additionalProperties",
        ]
    );
}

#[test]
fn every_key_is_required_and_of_its_type() {
    assert_eq!(places("{}"), ["name", "version", "description", "kind", "engine", "inputs"]);
    let wrong = "name: 1\nversion: 1.0\ndescription: []\nkind: null\nengine: terraform\ninputs: []\n";
    assert_eq!(places(wrong), ["name", "version", "description", "kind", "engine", "inputs"]);
}

#[test]
fn a_version_is_semantic_and_tells_versions_apart() {
    for version in ["1.0", "01.0.0", "v1.0.0", "1.0.0+build", "1.0.0-", ""] {
        let manifest = MANIFEST.replace("1.2.3", &format!("\"{version}\""));
        assert_eq!(places(&manifest), ["version"], "{version:?}");
    }
    assert_eq!(places(&MANIFEST.replace("1.2.3", "1.2.3-rc.1")), [""; 0]);
}

#[test]
fn what_yaml_adds_to_plain_data_is_refused() {
    for (why, text) in [
        ("a key given twice", "name: a\nname: b\n"),
        ("an alias", "name: &x a\nversion: *x\n"),
        ("a merge key", "<<: {name: a}\n"),
        ("a tag", "name: !mine a\n"),
        ("two documents", "name: a\n---\nname: b\n"),
        ("not a number", "name: .nan\n"),
        ("a list", "- a\n"),
        ("nothing", ""),
        ("half a list", "name: [\n"),
    ] {
        let found = findings(&[("template.yaml", text)]);
        assert_eq!(found.len(), 1, "{why}: {found:?}");
        assert!(found[0].message.contains("YAML") || found[0].message.contains("mapping"), "{why}: {found:?}");
    }
    let found = findings(&[("template.yaml", &format!("name: {}", "a".repeat(70_000)))]);
    assert!(found[0].message.contains("larger than"), "{found:?}");
    let found = findings(&[("template.yaml", &"[".repeat(5_000))]);
    assert_eq!(found.len(), 1);
}

#[test]
fn only_true_and_false_are_booleans() {
    let manifest = MANIFEST.replace("{type: string}", "{type: string, default: no}");
    assert_eq!(findings(&[("template.yaml", &manifest)]), [], "`no` is text");
}

fn schema_places(schema: Value) -> Vec<String> {
    let schema = json!({"type": "object", "additionalProperties": false, "properties": {"v": schema}});
    match tendril_templates::Schema::parse(&schema, "inputs") {
        Ok(_) => Vec::new(),
        Err(faults) => faults
            .into_iter()
            .map(|fault| fault.path.trim_start_matches("inputs.properties.v").trim_start_matches('.').to_owned())
            .collect(),
    }
}

#[test]
fn a_schema_that_cannot_mean_what_it_says_is_refused() {
    for (why, schema, place) in [
        ("a schema that is true", json!(true), ""),
        ("a reference", json!({"$ref": "#/a"}), "[\"$ref\"]"),
        ("a format", json!({"type": "string", "format": "email"}), "format"),
        ("no types", json!({"type": []}), "type"),
        ("a type twice", json!({"type": ["string", "string"]}), "type"),
        ("an empty enum", json!({"enum": []}), "enum"),
        ("an enum with 1 and 1.0", json!({"enum": [1, 1.0]}), "enum"),
        ("a length below zero", json!({"type": "string", "minLength": -1}), "minLength"),
        ("half a length", json!({"type": "string", "maxLength": 1.5}), "maxLength"),
        ("a bound that no double holds", json!({"type": "number", "maximum": 1e300}), "maximum"),
        ("a list of item schemas", json!({"type": "array", "items": [{}]}), "items"),
        (
            "a schema for additional properties",
            json!({"type": "object", "additionalProperties": {}}),
            "additionalProperties",
        ),
        ("a required name that is not described", json!({"type": "object", "required": ["a"]}), "required"),
        (
            "a required name twice",
            json!({"type": "object", "properties": {"a": {}}, "required": ["a", "a"]}),
            "required",
        ),
        (
            "a default that is never used",
            json!({"type": "object", "properties": {"a": {"default": 1}}, "required": ["a"]}),
            "required",
        ),
        ("a length of a number", json!({"type": "integer", "minLength": 1}), "minLength"),
        ("a default of another type", json!({"type": "string", "default": 1}), "default"),
        (
            "a default inside a wrong default",
            json!({"type": "array", "items": {"type": "string"}, "default": ["a", 1]}),
            "default[1]",
        ),
        (
            "an example that does not fit",
            json!({"type": "string", "maxLength": 1, "examples": ["a", "bc"]}),
            "examples[1]",
        ),
        ("an enum that does not fit", json!({"type": "string", "enum": ["a", 1]}), "enum[1]"),
        ("a secret written down", json!({"type": "string", "sensitive": true, "default": "hunter2"}), "default"),
        (
            "a secret written down further out",
            json!({"type": "object", "properties": {"p": {"sensitive": true}}, "default": {"p": "x"}}),
            "default",
        ),
        ("sensitive that is text", json!({"sensitive": "yes"}), "sensitive"),
        ("a title that is no text", json!({"title": 1}), "title"),
        ("NUL in a default", json!({"default": "a\u{0}"}), "default"),
    ] {
        assert_eq!(schema_places(schema), [place], "{why}");
    }
}

#[test]
fn a_schema_nested_too_deeply_is_refused() {
    let nest = |levels: usize| (0..levels).fold(json!({}), |inner, _| json!({"type": "array", "items": inner}));
    assert_eq!(schema_places(nest(31)), [""; 0]);
    assert_eq!(schema_places(nest(32)).len(), 1);
    assert_eq!(schema_places(nest(100)).len(), 1);
}

#[test]
fn a_backend_or_cloud_block_is_refused_wherever_it_hides() {
    for (file, text, place) in [
        ("main.tf", "terraform {\n  backend \"s3\" {}\n}\n", "line 2"),
        ("modules/a/main.tf", "terraform {\n  cloud {\n  }\n}\n", "line 2"),
        ("main.tofu", "terraform {\n  backend \"s3\" {}\n}\n", "line 2"),
        ("main.tf.json", r#"{"terraform": {"backend": {"s3": {}}}}"#, ""),
        (
            "main.tf.j2",
            "{% if inputs.region %}\nterraform {\n  backend {{ inputs.region }} {}\n}\n{% endif %}",
            "line 3",
        ),
    ] {
        let found = findings(&[("template.yaml", MANIFEST), (file, text)]);
        assert_eq!(found.len(), 1, "{file}: {found:?}");
        assert_eq!((found[0].file.as_str(), found[0].path.as_str()), (file, place));
    }
}

#[test]
fn files_that_cannot_be_used_are_found() {
    for (why, file, text) in [
        ("a state", "terraform.tfstate", "{}"),
        ("a state made by rendering", "x.tfstate.j2", "{}"),
        ("two files that become one", "b.tf.j2", ""),
        ("a file whose name would vanish", "folder/.j2", ""),
        ("a template that is too large", "c.txt.j2", "x".repeat(300_000).leak()),
        ("a template that does not parse", "c.txt.j2", "{% if %}"),
        ("an include, which there is not", "c.txt.j2", "{% include 'a.tf' %}"),
        ("a name that nobody defines", "c.txt.j2", "{{ deploymnt.id }}"),
        ("an input that the schema does not describe", "c.txt.j2", "a\n{{ inputs.regoin }}"),
    ] {
        let found = findings(&[("template.yaml", MANIFEST), ("b.tf", ""), (file, text)]);
        assert_eq!(found.len(), 1, "{why}: {found:?}");
        assert_eq!(found[0].file, file, "{why}");
    }
    let found = findings(&[("template.yaml", MANIFEST), ("c.txt.j2", "a\n{{ inputs.regoin }}")]);
    assert_eq!(found[0].path, "line 2");
    assert!(found[0].message.contains("inputs.regoin"), "{found:?}");
}

#[test]
fn defaults_fill_what_is_missing_and_nothing_else() {
    let hello = shipped("hello");
    let inputs = hello.inputs_with_defaults(&json!({"lines": 3}));
    assert_eq!(inputs, json!({"name": "world", "lines": 3, "seconds": 2}));
    let bucket = shipped("aws-s3-bucket");
    assert_eq!(bucket.inputs_with_defaults(&json!({}))["tags"], json!([]));
}

#[test]
fn inputs_are_checked_as_they_were_sent() {
    let bucket = shipped("aws-s3-bucket");
    let inputs = json!({"region": "eu-central-1", "tags": [{"key": "a"}], "acl": "public-read"});
    let paths: Vec<_> = bucket.check_inputs(&inputs).into_iter().map(|error| error.path).collect();
    assert_eq!(paths, ["inputs.bucket_name", "inputs.acl", "inputs.tags[0].value"]);
}

#[test]
fn sensitive_inputs_and_their_values_are_known() {
    let hello = shipped("hello");
    assert_eq!(hello.sensitive_inputs(), ["inputs.passphrase"]);
    let inputs = json!({"name": "Ada", "passphrase": "open sesame"});
    assert_eq!(hello.sensitive_values(&inputs), ["open sesame"]);
}

#[test]
fn the_record_for_the_register_holds_what_the_broker_needs() {
    let hello = shipped("hello");
    let record = hello.register_record();
    assert_eq!(record["name"], "hello");
    assert_eq!(record["version"], "1.0.0");
    assert_eq!(record["kind"], "terraform");
    assert_eq!(record["engine"], json!({"terraform": ">=1.4.0", "tofu": ">=1.6.0"}));
    assert_eq!(record["inputs"]["properties"]["lines"]["maximum"], 1000);
    assert_eq!(record["digest"], hello.digest().to_string());
}

#[test]
fn a_template_may_say_where_its_state_lies() {
    let read = |line: &str| {
        Template::from_tree(&tree(&[("template.yaml", &format!("{MANIFEST}{line}\n"))])).map(|template| {
            let record = template.register_record();
            (template.state().cloned(), record["stateless"].clone(), record["backend"].clone())
        })
    };
    assert_eq!(read("").expect("sound"), (None, Value::Null, Value::Null));
    assert_eq!(read("stateless: true").expect("sound"), (Some(State::Stateless), json!(true), Value::Null));
    let backend = json!({"type": "s3", "config": {"bucket": "b", "key": "k"}});
    let said = read("backend: {type: s3, config: {bucket: b, key: k}}").expect("sound");
    assert_eq!(said, (Some(State::Backend(backend.clone())), Value::Null, backend));
}

#[test]
fn a_state_that_cannot_lie_there_is_found() {
    for (line, path) in [
        ("stateless: false", "stateless"),
        ("stateless: true\nbackend: {type: pg}", "stateless"),
        ("backend: s3", "backend"),
        ("backend: {type: own}", "backend.type"),
        ("backend: {type: s3, config: {bucket: b}}", "backend.config.key"),
        ("backend: {type: pg, config: {conn_str: x}}", "backend.config.conn_str"),
        ("backend: {type: local, place: p, path: ../x}", "backend.path"),
    ] {
        assert_eq!(places(&format!("{MANIFEST}{line}\n")), [path], "{line}");
    }
}

#[test]
fn a_template_may_say_what_it_reaches() {
    let said = |line: &str| {
        let template =
            Template::from_tree(&tree(&[("template.yaml", &format!("{MANIFEST}{line}\n")), ("main.tf", "")]));
        template.map(|template| template.egress().map(<[String]>::to_vec)).map_err(|error| error.to_string())
    };
    assert_eq!(said(""), Ok(None));
    assert_eq!(said("egress: []"), Ok(Some(vec![])));
    assert_eq!(said("egress: [\"*.example.com:443\"]"), Ok(Some(vec!["*.example.com:443".to_owned()])));
    // Tried: an address with its path, no list, no text, something that is no host.
    for line in ["egress: [\"https://a/\"]", "egress: a", "egress: [1]", "egress: [\"a b\"]", "egress: [\"\"]"] {
        assert_eq!(places(&format!("{MANIFEST}{line}\n")), ["egress"], "{line}");
    }
}

#[test]
fn an_engine_is_accepted_by_name_and_version() {
    let hello = shipped("hello");
    assert!(hello.engines().accept(Engine::Terraform, &"1.11.4".parse().expect("a version")).is_ok());
    assert!(hello.engines().accept(Engine::Tofu, &"1.5.0".parse().expect("a version")).is_err());
}

#[test]
fn the_readmes_of_shipped_templates_list_every_input() {
    for name in ["hello", "aws-s3-bucket"] {
        let template = shipped(name);
        let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join(name).join("README.md");
        let readme = std::fs::read_to_string(readme).expect("a README");
        let properties = template.inputs().source()["properties"].as_object().expect("properties").clone();
        for (input, schema) in properties {
            let row = readme.lines().find(|line| line.starts_with(&format!("| `{input}` |")));
            let row = row.unwrap_or_else(|| panic!("{name}: no row for {input}"));
            for part in [&schema["type"], &schema["description"]] {
                assert!(row.contains(part.as_str().expect("text")), "{name}: {row}");
            }
            if let Some(default) = schema.get("default") {
                assert!(row.contains(&format!("`{default}`")), "{name}: {row}");
            }
            assert_eq!(row.contains("sensitive"), schema.get("sensitive").is_some(), "{name}: {row}");
        }
    }
}

//! What the shipped templates render to. `UPDATE_GOLDEN=1` writes it anew.

#![expect(clippy::expect_used, reason = "a test ends where its own set-up fails")]

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use tendril_templates::{Scope, Template, Tree};

fn check(name: &str, inputs: &Value) {
    let crate_dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let template = Template::load(&crate_dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let scope = Scope {
        inputs,
        deployment_id: "01930000-0000-7000-8000-000000000001",
        cluster_id: "01930000-0000-7000-8000-000000000002",
    };
    let rendered = template.render(&scope).unwrap_or_else(|error| panic!("{name}: {error}"));
    let golden_dir = crate_dir.join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        if golden_dir.exists() {
            fs::remove_dir_all(&golden_dir).expect("removed");
        }
        rendered.write_to(&golden_dir).expect("written");
    }
    let golden = Tree::read_dir(&golden_dir).unwrap_or_else(|error| panic!("{name}: {error}, try UPDATE_GOLDEN=1"));
    let names = |tree: &Tree| tree.iter().map(|(path, _)| path.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&rendered), names(&golden), "{name}: other files, try UPDATE_GOLDEN=1");
    for (path, file) in rendered.iter() {
        let golden = golden.get(path.as_str()).expect("the names are equal");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(text(&file.bytes), text(&golden.bytes), "{name}/{path}: changed, try UPDATE_GOLDEN=1");
        assert_eq!(file.executable, golden.executable, "{name}/{path}");
    }
}

#[test]
fn hello_renders_as_before() {
    check("hello", &json!({"name": "Ada \"${x}\" %{y}", "passphrase": "not a secret"}));
}

#[test]
fn aws_s3_bucket_renders_as_before() {
    check(
        "aws-s3-bucket",
        &json!({
            "region": "eu-central-1",
            "bucket_name": "acme-prod-reports",
            "kms_key_arn": "arn:aws:kms:eu-central-1:123456789012:key/0a1b2c3d",
            "tags": [{"key": "team", "value": "data & \"reports\""}],
        }),
    );
}

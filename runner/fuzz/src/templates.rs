//! Templates: their manifest, their patterns, and what inputs become in the files of a job.

use serde_json::{Value, json};
use std::hint::black_box;
use std::sync::LazyLock;
use tendril_templates::{
    File, MAX_PATTERN_CHARS, Pattern, RenderError, Scope, Template, Tree, TreePath, backend_blocks,
};

const MANIFEST: &str = "name: a\nversion: 1.0.0\ndescription: a\nkind: terraform\nengine: {tofu: \"*\"}\n";

fn files<const N: usize>(files: [(&str, &[u8]); N]) -> Tree {
    let mut tree = Tree::new();
    for (path, bytes) in files {
        let path = TreePath::new(path).expect("a path");
        tree.insert(path, File { bytes: bytes.to_vec(), executable: false }).expect("a file");
    }
    tree
}

/// A manifest that is taken has a name that can be a folder's, keeps to its bounds, and judges any input.
pub fn manifest(data: &[u8]) {
    let whole = [MANIFEST.as_bytes(), data].concat();
    for yaml in [data, &whole] {
        let template = match Template::from_tree(&files([("template.yaml", yaml)])) {
            Ok(template) => template,
            Err(error) => {
                drop(error.to_string());
                continue;
            }
        };
        let name = template.name();
        assert!((1..=63).contains(&name.len()) && !name.contains(['/', '.', ' ']) && !name.starts_with('-'), "{name}");
        assert!(template.version().build.is_empty() && template.egress().is_none_or(|hosts| hosts.len() <= 200));
        let inputs = template.inputs_with_defaults(&json!({}));
        assert_eq!(template.inputs_with_defaults(&inputs), inputs, "defaults are put in once");
        drop((template.check_inputs(&inputs), template.sensitive_inputs(), template.register_record()));
    }
}

/// A pattern that is taken is within the dialect, and is tried on any text.
pub fn pattern(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (source, tried) = text.split_once('\n').unwrap_or((&text, ""));
    match Pattern::parse(source) {
        Ok(pattern) => {
            assert!(source.chars().count() <= MAX_PATTERN_CHARS && pattern.as_str() == source);
            // What the two engines read differently: classes by letter, and groups of special kinds.
            let mut chars = source.chars();
            while let Some(c) = chars.next() {
                assert!(c != '\\' || chars.next().is_some_and(|next| !next.is_alphanumeric()), "{source}");
            }
            assert!(
                source.match_indices("(?").all(|(at, _)| source[at..].starts_with("(?:") || is_escaped(source, at)),
                "{source}"
            );
            let _ = black_box(pattern.is_match(tried));
        }
        Err(fault) => assert!((1..=source.chars().count() + 1).contains(&fault.at), "{source}: {fault}"),
    }
}

/// Whether it may be no group: a backslash stands before it, or a class.
fn is_escaped(source: &str, at: usize) -> bool {
    source[..at].ends_with('\\') || source[..at].contains('[')
}

static PROBE: LazyLock<Template> = LazyLock::new(|| {
    let inputs = "inputs: {type: object, additionalProperties: false, properties: {x: {}}}\n";
    let manifest = [MANIFEST, inputs].concat();
    // Behind the value stands a block that is found at its place only if nothing of the value is read as more than a value. (Hidden from
    // the look at the template itself.)
    let main = "a = {{ inputs.x }}\nterraform {\n  {{ (\"back\" ~ \"end\") | safe }} \"x\" {}\n}\n";
    let json = "{\"a\": {{ inputs.x }}, \"b\": 1}";
    let tree = files([
        ("template.yaml", manifest.as_bytes()),
        ("main.tf.j2", main.as_bytes()),
        ("z.json.j2", json.as_bytes()),
    ]);
    Template::from_tree(&tree).expect("a template")
});

/// No input leaves its place in a rendered file, and the scan for blocks comes to an end of any text.
pub fn literals(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let blocks = backend_blocks(&files([("main.tf", data), ("main.tf.json", data)]));
    assert!(blocks.iter().all(|block| block.line <= text.matches('\n').count() + 1));
    let key = text.lines().next().unwrap_or_default();
    for value in [json!(text), json!({ key: [text, key] }), serde_json::from_str::<Value>(&text).unwrap_or_default()] {
        let inputs = json!({"x": value});
        match PROBE.render(&Scope { inputs: &inputs, deployment_id: "d", cluster_id: "c" }) {
            Err(RenderError::Backend(block)) => assert_eq!((block.line, block.block), (3, "backend"), "{text:?}"),
            // Too deep, too much of it, or with what Postgres cannot hold.
            Err(RenderError::Inputs(_)) => {}
            other => panic!("{other:?} of {text:?}"),
        }
    }
}

//! Rendering templates.

#![expect(clippy::expect_used, reason = "a test ends where its own set-up fails")]

use serde_json::{Value, json};
use tendril_templates::{MAX_FILE_BYTES, RenderError, Scope, Template, Tree};

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
    text: {type: string}
    zones: {type: array, items: {type: string}}
    secret: {type: string, sensitive: true}
    size: {type: integer, default: 3}
"#;

fn render(file: &str, text: &str, inputs: &Value) -> Result<Tree, RenderError> {
    let files = json!({"template.yaml": MANIFEST, file: text});
    let tree = Tree::from_inline(&files, "tree").expect("safe files");
    let template = Template::from_tree(&tree).unwrap_or_else(|error| panic!("{error}"));
    template.render(&Scope { inputs, deployment_id: "d-1", cluster_id: "c-1" })
}

fn rendered(file: &str, text: &str, inputs: &Value) -> String {
    let tree = render(file, text, inputs).unwrap_or_else(|error| panic!("{error}"));
    let file = tree.get(file.trim_end_matches(".j2")).expect("the file without .j2");
    String::from_utf8(file.bytes.clone()).expect("UTF-8")
}

fn refused(text: &str, inputs: &Value) -> (usize, String) {
    match render("f.txt.j2", text, inputs) {
        Err(RenderError::File { file, line, message }) => {
            assert_eq!(file, "f.txt.j2");
            (line, message)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn files_are_rendered_only_by_their_ending_and_lose_it() {
    let source = "{{ inputs.size }}\n\n";
    assert_eq!(rendered("a/f.txt.j2", source, &json!({})), "3\n\n");
    assert_eq!(rendered("a/f.txt", source, &json!({})), source);
    let tree = render("f.txt", "", &json!({})).expect("renders");
    assert!(tree.get("template.yaml").is_none(), "the manifest is no file of the job");
}

#[test]
fn files_that_are_not_rendered_keep_every_byte_and_the_executable_bit() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).expect("written");
    write("template.yaml", MANIFEST.as_bytes());
    write("data.bin", &[0xff, 0x00, b'\r', b'\n', b'{', b'{']);
    write("run.sh.j2", b"echo {{ inputs.size }}\n");
    let run = dir.path().join("run.sh.j2");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(run, mode).expect("made executable");
    let template = Template::load(dir.path()).expect("a template");
    let tree = template.render(&Scope { inputs: &json!({}), deployment_id: "d", cluster_id: "c" }).expect("renders");
    assert_eq!(tree.get("data.bin").expect("a file").bytes, [0xff, 0x00, b'\r', b'\n', b'{', b'{']);
    assert!(tree.get("run.sh").expect("a file").executable);
}

#[test]
fn the_whole_context_is_there() {
    let source = "{{ deployment.id }} {{ cluster.id }} {{ template.name }} {{ template.version }}";
    assert_eq!(rendered("f.txt.j2", source, &json!({})), "d-1 c-1 sample 1.2.3");
}

#[test]
fn a_tag_on_a_line_of_its_own_leaves_no_line() {
    let source = "a\n  {% if inputs.size > 2 %}\nb\n  {% endif %}\nc\n";
    assert_eq!(rendered("f.txt.j2", source, &json!({})), "a\nb\nc\n");
}

#[test]
fn an_undefined_name_is_told_with_file_and_line() {
    for (source, line, name) in [
        ("a\nb {{ inputs.text }}\n", 2, "inputs.text"),
        ("\n\n{% for zone in inputs.zones %}{% endfor %}", 3, "inputs.zones"),
        ("{% if inputs.text == 'a' %}x{% endif %}{{ inputs['text'] }}", 1, "inputs"),
        ("{{ inputs.text | upper }}", 1, "inputs.text"),
        ("{% for z in [1] %}\n{{ z.name }}\n{% endfor %}", 2, "z.name"),
    ] {
        let (at, message) = refused(source, &json!({}));
        assert_eq!(at, line, "{source}: {message}");
        assert!(message.contains(name), "{source}: {message}");
    }
}

#[test]
fn what_may_be_absent_can_be_tested_for() {
    let source =
        "{% if inputs.text is defined %}{{ inputs.text }}{% else %}none{% endif %} {{ inputs.text | default('x') }}";
    assert_eq!(rendered("f.txt.j2", source, &json!({})), "none x");
}

#[test]
fn inputs_cannot_break_out_of_the_languages_that_are_known() {
    let inputs = json!({"text": "a\"b\n${file(\"/etc/passwd\")}", "zones": ["x", "y"]});
    assert_eq!(
        rendered("main.tf.j2", "a = {{ inputs.text }}\nb = {{ inputs.zones }}\n", &inputs),
        "a = \"a\\\"b\\n$${file(\\\"/etc/passwd\\\")}\"\nb = [\"x\", \"y\"]\n"
    );
    let json = rendered("v.tfvars.json.j2", "{\"a\": {{ inputs.text }}, \"b\": {{ inputs.zones }}}", &inputs);
    let read: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(read, json!({"a": inputs["text"], "b": ["x", "y"]}));
    assert_eq!(rendered("v.yaml.j2", "a: {{ inputs.zones }}", &inputs), "a: [\"x\",\"y\"]");
    assert_eq!(rendered("main.tf.j2", "{{ inputs.zones | join(' ') | safe }}", &inputs), "x y");
}

#[test]
fn work_and_output_are_bounded() {
    let (_, message) =
        refused("{% for a in range(9000) %}{% for b in range(9000) %}{% endfor %}{% endfor %}", &json!({}));
    assert!(message.contains("steps"), "{message}");
    let big = format!("{{% for a in range(100) %}}{}{{% endfor %}}", "x".repeat(MAX_FILE_BYTES / 50));
    let (_, message) = refused(&big, &json!({}));
    assert!(message.contains("bytes"), "{message}");
}

#[test]
fn an_error_about_a_sensitive_input_does_not_quote_it() {
    for source in [
        "{{ inputs.secret | int }}",
        "{{ inputs.secret + 1 }}",
        "{{ inputs.secret | float }}",
        "{{ [1][inputs.secret] }}",
        "{{ inputs[inputs.secret] }}",
    ] {
        match render("f.txt.j2", source, &json!({"secret": "hunter2!"})) {
            Err(error) => assert!(!format!("{error} {error:?}").contains("hunter2"), "{source}: {error}"),
            Ok(tree) => panic!("{source} rendered {tree:?}"),
        }
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused_before_anything_is_rendered() {
    match render("f.txt.j2", "{{ inputs.text }}", &json!({"text": 1, "other": 2})) {
        Err(RenderError::Inputs(errors)) => {
            let paths: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
            assert_eq!(paths, ["inputs.other", "inputs.text"]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_backend_that_appears_only_by_rendering_is_refused() {
    let source = "terraform {\n  {{ ('back' ~ 'end \"s3\" {}') | safe }}\n}\n";
    assert!(matches!(render("main.tf.j2", source, &json!({})), Err(RenderError::Backend(block)) if block.line == 2));
}

//! The crate's README: its example is a template, its numbers are the code's.

use serde_json::json;
use tendril_templates::{self as templates, Pattern, Scope, Template, Tree};

const README: &str = include_str!("../README.md");

/// The fenced blocks of a language, in order.
fn blocks(language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    README.split(fence.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_example_is_a_template_that_renders() {
    let files = json!({
        "template.yaml": blocks("yaml")[0],
        "main.tf": blocks("hcl")[0],
        "terraform.tfvars.json.j2": blocks("jinja")[0],
    });
    let tree = Tree::from_inline(&files, "tree").expect("safe files");
    let template = Template::from_tree(&tree).unwrap_or_else(|error| panic!("{error}"));
    let inputs = json!({"region": "eu-central-1", "zones": ["a", "b"]});
    let scope = Scope { inputs: &inputs, deployment_id: "d-1", cluster_id: "c-1" };
    let rendered = template.render(&scope).unwrap_or_else(|error| panic!("{error}"));
    let values = &rendered.get("terraform.tfvars.json").expect("rendered").bytes;
    let values: serde_json::Value = serde_json::from_slice(values).expect("JSON");
    assert_eq!(values, json!({"deployment_id": "d-1", "region": "eu-central-1", "zones": ["a", "b"], "size": 2}));
}

#[test]
fn the_patterns_shown_are_in_the_dialect_or_not_as_it_says() {
    let rows = README.lines().filter(|line| line.starts_with("| `") && line.contains("| pattern "));
    let mut seen = 0;
    for row in rows {
        let cells: Vec<_> = row.split(" | ").collect();
        let pattern = cells[0].trim_start_matches("| `").trim_end_matches('`').replace("\\|", "|");
        let taken = Pattern::parse(&pattern).is_ok();
        assert_eq!(taken, cells[1].contains("pattern taken"), "{row}");
        seen += 1;
    }
    assert!(seen >= 6, "{seen} patterns found");
}

#[test]
fn the_limits_told_are_those_of_the_code() {
    let limits = [
        ("files in a tree", templates::MAX_FILES),
        ("bytes of a file", templates::MAX_FILE_BYTES),
        ("bytes of a tree", templates::MAX_TREE_BYTES),
        ("bytes of a path", templates::MAX_PATH_BYTES),
        ("bytes of a name in a path", templates::MAX_SEGMENT_BYTES),
        ("names in a path", templates::MAX_PATH_SEGMENTS),
        ("bytes of `template.yaml`", templates::MAX_MANIFEST_BYTES),
        ("characters of a template's name", templates::MAX_NAME_CHARS),
        ("characters of its version", templates::MAX_VERSION_CHARS),
        ("characters of its description", templates::MAX_DESCRIPTION_CHARS),
        ("levels of a schema and of inputs", templates::MAX_DEPTH),
        ("values in all inputs together", templates::MAX_VALUES),
        ("errors that are listed", templates::MAX_ERRORS),
        ("values in an `enum`", templates::MAX_ENUM_VALUES),
        ("bytes of a `.j2` file", templates::MAX_TEMPLATE_BYTES),
        ("characters of a pattern", templates::MAX_PATTERN_CHARS),
        ("characters that a pattern stands for", templates::MAX_PATTERN_ATOMS),
        ("characters of a text that is matched", usize::try_from(templates::MAX_MATCHED_CHARS).expect("small")),
        ("steps to render a file", usize::try_from(templates::MAX_RENDER_STEPS).expect("small")),
    ];
    for (what, limit) in limits {
        let row = format!("| {what} | {limit} |");
        assert!(README.contains(&row), "the README should have the row {row}");
    }
}

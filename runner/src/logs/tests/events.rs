use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::json;

use super::super::{
    Action, Events, MAX_ADDRESS_BYTES, MAX_EVENT_BYTES, MAX_PROBLEMS, MAX_RESOURCES, Problem, Progress, State, Totals,
    stored_event_text,
};

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/events")
}

fn sample(name: &str) -> String {
    fs::read_to_string(samples().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn events_of(lines: &str) -> Events {
    let mut events = Events::default();
    for line in lines.lines() {
        assert!(events.push(line).is_some(), "a real event was not read: {line}");
    }
    events
}

fn shown(event: &serde_json::Value) -> String {
    Events::default().push(&event.to_string()).expect("an event").text
}

#[test]
fn real_runs_of_both_engines_read_like_the_engines_own_text() {
    let mut seen = 0;
    for entry in fs::read_dir(samples()).expect("the folder of samples") {
        let path = entry.expect("a sample").path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            let printed = fs::read(&path).expect("a sample");
            let expected = fs::read_to_string(path.with_extension("txt")).expect("its text");
            assert_eq!(stored_event_text(&printed), expected, "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 16, "only {seen} samples");
}

#[test]
fn a_sensitive_output_is_masked_even_when_an_engine_would_send_its_value() {
    let event = json!({
        "@message": "Outputs: 2", "@module": "tofu.ui", "type": "outputs",
        "outputs": {
            "password": {"sensitive": true, "type": "string", "value": "hunter2"},
            "unsaid": {"type": "string", "value": "hunter3"},
            "url": {"sensitive": false, "type": "string", "value": "https://x/?a=1&b=<2>"},
        },
    });
    let line = event.to_string().replace('&', "\\u0026").replace('<', "\\u003c");
    let text = Events::default().push(&line).expect("an event").text;
    assert_eq!(text, "\nOutputs:\n\npassword = <sensitive>\nunsaid = <sensitive>\nurl = \"https://x/?a=1&b=<2>\"\n");
}

#[test]
fn numbers_keep_their_digits_and_empty_collections_stay_on_one_line() {
    let line = r#"{"@message":"m","@module":"terraform.ui","type":"outputs","outputs":{
        "big":{"sensitive":false,"value":123456789012345678901234567890.10},
        "empty":{"sensitive":false,"value":[ [] , {} ]},
        "nothing":{"sensitive":false,"value":null}}}"#
        .replace('\n', "");
    let text = Events::default().push(&line).expect("an event").text;
    let expected = "big = 123456789012345678901234567890.10\nempty = [\n  [],\n  {},\n]\nnothing = null\n";
    assert_eq!(text, format!("\nOutputs:\n\n{expected}"));
}

#[test]
fn what_is_no_event_is_left_to_be_shown_as_it_is() {
    let no_events = [
        "",
        "plain text",
        "{",
        "{}",
        "null",
        "[1]",
        " {\"@message\":\"x\"}",
        "{\"@message\":1,\"@module\":\"terraform.ui\",\"type\":\"log\"}",
        "{\"@message\":\"a provider's own JSON\",\"@module\":\"provider\",\"type\":\"log\"}",
        "{\"level\":\"info\",\"msg\":\"other\"}",
        "{\"@message\":\"two\",\"@message\":\"messages\",\"@module\":\"terraform.ui\",\"type\":\"log\"}",
    ];
    for line in no_events {
        assert_eq!(Events::default().push(line), None, "{line}");
        let printed = format!("{line}\n");
        assert_eq!(stored_event_text(printed.as_bytes()), printed);
    }
}

#[test]
fn an_event_of_an_unknown_type_or_form_is_shown_by_its_message() {
    for kind in [
        "something_new",
        "planned_change",
        "apply_start",
        "diagnostic",
        "outputs",
        "change_summary",
        "provision_progress",
    ] {
        for extra in
            [json!(null), json!({}), json!([[]]), json!("text"), json!({"resource": 1, "action": {}, "severity": []})]
        {
            let event = json!({
                "@message": "what people read", "@module": "terraform.ui", "type": kind, "change": extra, "hook": extra,
                "diagnostic": extra, "outputs": [extra], "changes": extra,
            });
            let rendered = Events::default().push(&event.to_string()).expect("an event");
            assert_eq!((rendered.text.as_str(), rendered.progress), ("what people read\n", None), "{event}");
        }
    }
}

#[test]
fn a_childs_output_within_an_event_is_sanitised_too() {
    let event = json!({
        "@message": "m", "@module": "terraform.ui", "type": "provision_progress",
        "hook": {"resource": {"addr": "a.b"}, "provisioner": "local-exec", "output": "\u{1b}]0;t\u{7}x\u{1b}[2J\u{202e}\u{0}\u{1b}[31m"},
    });
    let stored = stored_event_text(format!("{event}\n").as_bytes());
    assert_eq!(stored, "a.b (local-exec): x\u{fffd}␀\x1b[31m\n");
}

#[test]
fn progress_follows_a_real_apply_from_plan_to_end() {
    let lines = sample("terraform-replace.jsonl");
    let mut events = Events::default();
    let mut states = Vec::new();
    for line in lines.lines() {
        events.push(line);
        if let Some(resource) = events.progress().resources.get("terraform_data.hello") {
            assert_eq!(resource.action, Action::Replace);
            if states.last() != Some(&(resource.state, resource.elapsed_s)) {
                states.push((resource.state, resource.elapsed_s));
            }
        }
    }
    let expected =
        [(State::Planned, 0), (State::Deleting, 0), (State::Creating, 0), (State::Creating, 10), (State::Complete, 11)];
    assert_eq!(states, expected);
    let totals = Totals { add: 1, change: 2, remove: 1, import: 0 };
    let progress = events.progress();
    assert_eq!((progress.planned, progress.done), (Some(totals), Some(totals)));
    let complete = progress.resources.values().filter(|resource| resource.state == State::Complete).count();
    assert_eq!((progress.resources.len(), complete), (3, 3));
}

#[test]
fn every_real_run_that_ended_well_leaves_all_its_resources_complete() {
    for name in [
        "terraform-apply",
        "tofu-apply",
        "terraform-destroy",
        "terraform-moves",
        "terraform-create-first",
        "tofu-replace",
    ] {
        let events = events_of(&sample(&format!("{name}.jsonl")));
        let progress = events.progress();
        assert!(progress.done.is_some() && !progress.resources.is_empty(), "{name}");
        assert!(progress.resources.values().all(|resource| resource.state == State::Complete), "{name}: {progress:?}");
        assert_eq!(events.problems(), [], "{name}");
    }
}

#[test]
fn a_failed_run_tells_which_resource_failed_and_why() {
    for engine in ["terraform", "tofu"] {
        let events = events_of(&sample(&format!("{engine}-error.jsonl")));
        let progress = events.progress();
        assert_eq!(progress.resources["terraform_data.broken"].state, State::Errored);
        assert_eq!(progress.resources["terraform_data.before"].state, State::Complete);
        assert_eq!(progress.done, None);
        let problems: Vec<String> = events.problems().iter().map(ToString::to_string).collect();
        assert_eq!(problems[0], "Resource postcondition failed (mod/main.tf line 5): a must be 2,");
        let reason = "local-exec provisioner error (terraform_data.broken, main.tf line 18): Error running command";
        assert!(problems[1].starts_with(reason), "{}", problems[1]);
    }
}

#[test]
fn progress_survives_the_way_through_json() {
    let events = events_of(&sample("terraform-plan.jsonl"));
    let json = serde_json::to_value(events.progress()).expect("progress is JSON");
    let hello = json!({"action": "create", "state": "planned", "elapsed_s": 0});
    assert_eq!(json["resources"]["terraform_data.hello"], hello);
    assert_eq!(json["planned"], json!({"add": 4, "change": 0, "remove": 0, "import": 0}));
    let back: Progress = serde_json::from_value(json.clone()).expect("and back");
    assert_eq!(serde_json::to_value(back).expect("again"), json);
}

#[test]
fn progress_and_problems_are_bounded() {
    let mut events = Events::default();
    let extra = 7;
    for nth in 0..MAX_RESOURCES + extra {
        let addr = format!("{}[{nth}]", "ż".repeat(MAX_ADDRESS_BYTES).split_at(200).0);
        let event = json!({
            "@message": "m", "@module": "terraform.ui", "type": "planned_change",
            "change": {"resource": {"addr": addr}, "action": "create"},
        });
        events.push(&event.to_string());
    }
    let far = json!({
        "@message": "m", "@module": "terraform.ui", "type": "planned_change",
        "change": {"resource": {"addr": "ż".repeat(MAX_ADDRESS_BYTES)}, "action": "create"},
    });
    events.push(&far.to_string());
    let error = json!({
        "@message": "m", "@module": "terraform.ui", "type": "diagnostic",
        "diagnostic": {"severity": "error", "summary": "x".repeat(10_000), "detail": "y".repeat(10_000)},
    });
    for _ in 0..MAX_PROBLEMS + 1 {
        events.push(&error.to_string());
    }
    assert_eq!(events.progress().resources.len(), MAX_RESOURCES);
    assert_eq!(events.progress().unlisted, extra as u64 + 1);
    assert_eq!(events.problems().len(), MAX_PROBLEMS);
    assert!(events.problems()[0].to_string().len() <= 2 * MAX_ADDRESS_BYTES + 2);
}

#[test]
fn a_long_address_is_cut_at_a_character() {
    let addr = "ż".repeat(MAX_ADDRESS_BYTES);
    let event = json!({
        "@message": "m", "@module": "terraform.ui", "type": "planned_change",
        "change": {"resource": {"addr": addr}, "action": "create"},
    });
    let mut events = Events::default();
    events.push(&event.to_string());
    let kept = events.progress().resources.keys().next().expect("a resource");
    assert!(kept.len() <= MAX_ADDRESS_BYTES && kept.ends_with("ż…"), "{kept}");
}

#[test]
fn huge_and_deep_events_end_in_text_of_bounded_size() {
    let outputs = |value: &str| {
        format!(
            r#"{{"@message":"m","@module":"terraform.ui","type":"outputs","outputs":{{"deep":{{"sensitive":false,"value":{value}}}}}}}"#
        )
    };
    let deep = "[".repeat(MAX_EVENT_BYTES / 3) + &"]".repeat(MAX_EVENT_BYTES / 3);
    let objects = r#"{"":"#.repeat(100_000) + "1" + &"}".repeat(100_000);
    let wide = format!("[{}1]", "[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]],".repeat(20_000));
    let many = |nth: usize| format!(r#""o{nth}":{{"sensitive":false,"value":[[[[[[[[[[[[1,1,1]]]]]]]]]]]]}}"#);
    let many: Vec<String> = (0..14_000).map(many).collect();
    let many =
        format!(r#"{{"@message":"m","@module":"terraform.ui","type":"outputs","outputs":{{{}}}}}"#, many.join(","));
    let code = "\\n".repeat(MAX_EVENT_BYTES / 3);
    let lines = format!(
        r#"{{"@message":"m","@module":"terraform.ui","type":"diagnostic","diagnostic":{{"severity":"error","summary":"s",
        "range":{{"filename":"f","start":{{"line":1}}}},"snippet":{{"code":"{code}","start_line":18446744073709551615}}}}}}"#
    )
    .replace('\n', "");
    for line in [outputs(&deep), outputs(&objects), outputs(&wide), many, lines] {
        assert!(line.len() <= MAX_EVENT_BYTES);
        let text = Events::default().push(&line).expect("an event").text;
        assert!(text.len() <= 3 * MAX_EVENT_BYTES, "{} bytes became {}", line.len(), text.len());
    }
}

#[test]
fn a_warning_is_shown_and_is_no_problem() {
    let event = json!({
        "@message": "m", "@module": "terraform.ui", "type": "diagnostic",
        "diagnostic": {"severity": "warning", "summary": "Old", "detail": "", "range": {"filename": "a.tf", "start": {"line": 3}}},
    });
    assert_eq!(shown(&event), "\nWarning: Old\n\n  on a.tf line 3:\n  (source code not available)\n");
    let mut events = Events::default();
    events.push(&event.to_string());
    assert_eq!(events.problems(), []);
}

/// Lines of real runs with parts overwritten by what JSON readers stumble over.
fn broken_lines() -> impl Strategy<Value = String> {
    let lines: Vec<String> = ["terraform-replace.jsonl", "terraform-error.jsonl", "terraform-moves.jsonl"]
        .iter()
        .flat_map(|name| sample(name).lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let junk = prop::sample::select(vec![
        "null",
        "-1",
        "1e999",
        "\"\"",
        "{}",
        "[]",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\ud800",
        "\\u0000",
        "é",
        "18446744073709551616",
        "\"type\":\"outputs\"",
        "\"action\":{\"create\":1}",
        "\"@message\":\"\"",
    ]);
    let edits = prop::collection::vec((any::<usize>(), 0..12_usize, junk), 0..4);
    (prop::sample::select(lines), edits).prop_map(|(mut line, edits)| {
        for (at, len, junk) in edits {
            let from = line.floor_char_boundary(at % (line.len() + 1));
            let to = line.floor_char_boundary((from + len).min(line.len())).max(from);
            line.replace_range(from..to, junk);
        }
        line
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_line_makes_it_panic_and_shown_text_is_whole_lines(lines in prop::collection::vec(broken_lines(), 0..6), other in ".{0,60}") {
        let mut events = Events::default();
        for line in lines.iter().chain([&other]) {
            if let Some(rendered) = events.push(line) {
                prop_assert!(rendered.text.is_empty() || rendered.text.ends_with('\n'));
            }
        }
        prop_assert!(serde_json::to_string(events.progress()).is_ok());
    }
}

#[test]
fn a_state_lock_is_told_with_its_holder_in_events_and_in_text() {
    let events = events_of(&sample("terraform-locked.jsonl"));
    let text = sample("terraform-locked.txt");
    for problem in [events.problems()[0].clone(), Problem::in_text(&text).expect("an error")] {
        let holder = problem.lock.as_ref().expect("a holder");
        assert_eq!((holder.who.as_str(), &holder.id[..8]), ("runner@pod", "88c04eff"));
        let said = problem.to_string();
        let expected = "Error acquiring the state lock: held by runner@pod since 2026-11-21 06:34:36";
        assert!(said.starts_with(expected) && said.contains("OperationTypeApply"), "{said}");
    }
}

#[test]
fn who_asks_for_a_lock_is_not_taken_for_its_holder() {
    // As both engines print it: the block is about the plan that did not get the lock.
    let own = "Lock Info:\n  ID:        719be945\n  Path:      \n  Operation: OperationTypePlan\n  Who:       me@here\n  \
               Created:   2026-11-21 19:55:49\n";
    let said = |why: &str| {
        let text = format!("\nError: Error acquiring the state lock\n\nError message: {why}\n{own}");
        Problem::in_text(&text).expect("an error").to_string()
    };
    for why in ["HTTP remote state already locked:\nID=545f9037", "HTTP remote state already locked: ID=545f9037"] {
        let http = said(why);
        assert!(http.ends_with(": held by somebody whom the backend does not name (lock 545f9037)"), "{http}");
    }
    for why in ["Already locked for workspace creation: default", "Workspace is already locked: default"] {
        let pg = said(why);
        assert!(pg.ends_with(why) && !pg.contains("me@here"), "{pg}");
    }
}

#[test]
fn the_first_error_of_a_text_is_found_with_its_place() {
    let text = "\nError: Invalid reference\n\n  with terraform_data.x,\n  on main.tf line 3, in resource \"terraform_data\" \"x\":\n   3:   \
                input = nope\n\nA reference must name an attribute.\nMore.\n\nError: Another\n\nLater.\n";
    let problem = Problem::in_text(text).expect("an error");
    let expected = "Invalid reference (terraform_data.x, main.tf line 3): A reference must name an attribute.";
    assert_eq!(problem.to_string(), expected);
    assert_eq!(Problem::in_text("Warning: Error in the middle\n"), None);
    assert_eq!(Problem::in_text("Error: Only this").map(|problem| problem.to_string()), Some("Only this".to_owned()));
}

#[test]
fn outputs_of_an_apply_are_kept_with_sensitive_values_masked() {
    let outputs = events_of(&sample("terraform-apply.jsonl")).outputs().cloned().expect("outputs");
    assert_eq!((&outputs["greeting"], &outputs["password"]), (&json!("hello"), &json!("(sensitive)")));
    assert_eq!(outputs["shape"]["keys"], json!(["a-hello", "b-hello"]));
    // A plan only announces them.
    assert_eq!(events_of(&sample("terraform-plan.jsonl")).outputs(), None);
    let mut events = Events::default();
    let line = json!({"@message": "m", "@module": "tofu.ui", "type": "outputs", "outputs": {
        "unsaid": {"value": "secret"}, "nul\u{0}": {"sensitive": false, "value": ["a\u{0}b", {"k\u{0}": 1}]}}});
    events.push(&line.to_string());
    let expected = json!({"unsaid": "(sensitive)", "nul␀": ["a␀b", {"k␀": 1}]});
    assert_eq!(json!(events.outputs()), expected, "what does not say so is sensitive, and Postgres takes no U+0000");
}

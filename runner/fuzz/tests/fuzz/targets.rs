//! Each check, and that there is all that belongs to one.

use checks::{CHECKS, FORMS, covered, left_of};
use std::collections::BTreeSet;

use crate::inputs::{crate_folder, printed, run, spliced};

#[test]
fn any_bytes_in_any_reads_become_their_documented_text() {
    run("framing", printed);
}

#[test]
fn any_text_in_any_pieces_is_redacted_alike_and_no_value_is_left() {
    run("redaction", printed);
}

#[test]
fn each_form_of_a_value_is_known_to_the_check_and_covered() {
    for form in FORMS {
        let text = format!("before {} after", form.text);
        assert!(left_of(&text).is_some(), "the check does not see {} of {}", form.by, form.of);
        assert_eq!(covered(&text), "before [redacted] after", "{} of {}", form.by, form.of);
    }
}

#[test]
fn no_request_to_the_proxy_is_understood_in_two_ways() {
    run("request", spliced("request"));
}

#[test]
fn an_entry_of_a_list_of_hosts_has_one_meaning_and_opens_nothing_that_is_closed() {
    run("rules", spliced("rules"));
}

#[test]
fn any_bytes_in_a_segment_are_passed_over_and_take_no_record_with_them() {
    run("spool", spliced("spool"));
}

#[test]
fn any_event_of_an_engine_ends_in_bounded_text_without_a_sensitive_output() {
    run("events", spliced("events"));
}

#[test]
fn what_infracost_does_not_know_is_never_a_figure() {
    run("estimate", spliced("estimate"));
}

#[test]
fn a_bundle_with_anything_more_in_it_is_refused_or_the_same() {
    run("bundle", spliced("bundle"));
}

#[test]
fn an_address_a_path_or_a_credential_is_taken_by_its_rules_and_shows_no_password() {
    run("addresses", spliced("addresses"));
}

#[test]
fn a_snapshot_that_is_taken_leads_nowhere_outside_its_folders() {
    run("snapshot", spliced("snapshot"));
}

#[test]
fn a_manifest_that_is_taken_keeps_its_rules_and_judges_any_input() {
    run("manifest", spliced("manifest"));
}

#[test]
fn a_pattern_that_is_taken_is_within_the_dialect() {
    run("pattern", spliced("pattern"));
}

#[test]
fn no_input_leaves_its_place_in_a_rendered_file() {
    run("literals", spliced("literals"));
}

#[test]
fn an_archived_frame_holds_exactly_what_its_index_promises_or_is_refused() {
    run("archive", spliced("archive"));
}

#[test]
fn what_callers_of_the_api_send_means_what_is_written_back() {
    run("api", spliced("api"));
}

#[test]
fn a_name_of_a_process_changes_nothing_of_what_is_read_of_it() {
    run("process", spliced("process"));
}

#[test]
fn every_check_has_a_program_a_test_and_a_line_in_the_readme() {
    let read = |name: &str| std::fs::read_to_string(crate_folder().join(name)).expect(name);
    let (manifest, tests, readme) = (read("Cargo.toml"), read("tests/fuzz/targets.rs"), read("README.md"));
    for name in CHECKS.map(|check| check.name) {
        assert!(read(&format!("fuzz_targets/{name}.rs")).contains(&format!("run(\"{name}\"")), "{name}");
        assert!(manifest.contains(&format!("[[bin]]\nname = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"")), "{name}");
        assert!(tests.contains(&format!("run(\"{name}\", ")), "{name} has no test");
        assert!(readme.contains(&format!("| `{name}` |")), "{name} is not in the table of README.md");
    }
    let programs = std::fs::read_dir(crate_folder().join("fuzz_targets")).expect("programs").count();
    assert_eq!((programs, manifest.matches("[[bin]]").count()), (CHECKS.len(), CHECKS.len()));
    assert_eq!(CHECKS.iter().map(|check| check.name).collect::<BTreeSet<_>>().len(), CHECKS.len());
}

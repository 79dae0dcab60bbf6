//! What engines and Infracost write, which carries words of templates, providers and clouds.

use serde_json::Value;
use tendril_runner::kinds::infracost::{Estimate, MAX_UNKNOWN};
use tendril_runner::kinds::terraform::{MAX_DRIFTED, Summary, of_json};
use tendril_runner::logs::{Events, LockHolder, MASKED, MAX_ADDRESS_BYTES, MAX_PROBLEMS, MAX_RESOURCES, Problem};

/// Any lines end in text of a size that follows theirs, in few problems and resources with short names, and no sensitive output
/// is kept.
pub fn events(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut events = Events::default();
    for line in text.split('\n') {
        if let Some(rendered) = events.push(line) {
            assert!(rendered.text.is_empty() || rendered.text.ends_with('\n'), "{:?}", rendered.text);
            assert!(rendered.text.len() <= 64 * line.len() + 1024, "{} bytes of {}", rendered.text.len(), line.len());
        }
        masked(line);
    }
    assert!(events.problems().len() <= MAX_PROBLEMS && events.problems().iter().all(is_short));
    let resources = &events.progress().resources;
    assert!(resources.len() <= MAX_RESOURCES && resources.keys().all(|address| address.len() <= MAX_ADDRESS_BYTES));
    assert!(Problem::in_text(&text).is_none_or(|problem| is_short(&problem)));
    drop(LockHolder::find(&text));
    if let Some(summary) = Summary::in_text(&text) {
        assert!(summary == Summary::default() || text.contains("Plan: "));
    }
    if let Some((summary, Some(drift))) = of_json(data) {
        assert!(drift.resources.len() == drift.count.min(MAX_DRIFTED) && summary.add <= data.len() as u64);
    }
}

fn is_short(problem: &Problem) -> bool {
    let words = [problem.address.as_ref(), problem.detail.as_ref(), Some(&problem.summary)];
    words.into_iter().flatten().all(|text| text.len() <= MAX_ADDRESS_BYTES)
        && problem.place.as_ref().is_none_or(|place| place.len() <= MAX_ADDRESS_BYTES + 64)
}

/// Only what the line itself calls harmless is kept in clear.
fn masked(line: &str) {
    let mut events = Events::default();
    events.push(line);
    let Some(kept) = events.outputs() else { return };
    // A number that no float holds is understood as text, and is none here.
    let Ok(told) = serde_json::from_str::<Value>(line) else { return };
    for (name, output) in told["outputs"].as_object().expect("outputs have names") {
        if output["sensitive"] != false {
            assert_eq!(kept.get(&name.replace('\0', "\u{2400}")), Some(&MASKED.into()), "{name}");
        }
    }
}

/// What is not known is never a figure, and what is said of it has a bound.
pub fn estimate(data: &[u8]) {
    let (said, json) = data.iter().position(|byte| *byte == b'\n').map_or((&[][..], data), |at| data.split_at(at));
    let Ok(estimate) = Estimate::read(json, said) else { return };
    let Estimate { total_monthly_cost, diff, unknown, unknown_count, .. } = &estimate;
    assert!(total_monthly_cost.is_none() || *unknown_count == 0, "{estimate:?}");
    assert!(diff.is_none() || total_monthly_cost.is_some(), "{estimate:?}");
    assert_eq!(unknown.len(), (*unknown_count).min(MAX_UNKNOWN));
    let is_short = |words: &str| words.chars().count() <= 401 && !words.contains('\n');
    assert!(unknown.iter().all(|one| is_short(&one.what) && is_short(&one.reason)), "{estimate:?}");
}

//! What a plan or an apply comes to, in figures.

use crate::logs::Totals;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Resources with drift that are named; more are only counted.
pub const MAX_DRIFTED: usize = 100;

/// Changes by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Made; a replacement counts here and in `destroy`.
    pub add: u64,
    /// Changed in place.
    pub change: u64,
    /// Destroyed.
    pub destroy: u64,
    /// Taken into the state.
    pub import: u64,
}

/// What was changed outside of Terraform since the last run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// How many resources.
    pub count: usize,
    /// Their addresses, at most [`MAX_DRIFTED`].
    pub resources: Vec<String>,
}

/// The part of a plan's JSON that is counted.
#[derive(Deserialize)]
struct PlanJson {
    #[serde(rename = "format_version")]
    _format_version: String,
    #[serde(default)]
    resource_changes: Vec<ResourceChange>,
    #[serde(default)]
    resource_drift: Vec<ResourceChange>,
}

#[derive(Deserialize)]
struct ResourceChange {
    address: String,
    change: Change,
}

#[derive(Deserialize)]
struct Change {
    actions: Vec<String>,
    #[serde(default)]
    importing: Option<serde::de::IgnoredAny>,
}

impl From<Totals> for Summary {
    fn from(totals: Totals) -> Self {
        Self { add: totals.add, change: totals.change, destroy: totals.remove, import: totals.import }
    }
}

impl Summary {
    /// Reads the first line that sums a plan up, as in `Plan: 1 to add, 0 to change, 2 to destroy.`. None when there is no
    /// such line, or when it says anything that is not known here: a figure is never guessed. What comes after it are
    /// warnings, whose words are those of whoever wrote a check or a provider.
    pub fn in_text(text: &str) -> Option<Self> {
        for line in text.lines() {
            // A plan that changes outputs only has no figures, and no resource.
            if line.starts_with("No changes.") || line == "Changes to Outputs:" {
                return Some(Self::default());
            } else if let Some(parts) = line.strip_prefix("Plan: ") {
                return Self::parts(parts.strip_suffix('.')?);
            }
        }
        None
    }

    fn parts(parts: &str) -> Option<Self> {
        let mut summary = Self::default();
        for part in parts.split(", ") {
            let (count, what) = part.split_once(' ')?;
            let place = match what {
                "to add" => &mut summary.add,
                "to change" => &mut summary.change,
                "to destroy" => &mut summary.destroy,
                "to import" => &mut summary.import,
                _ => return None,
            };
            *place = count.parse().ok()?;
        }
        Some(summary)
    }
}

/// Counts a plan's JSON; none when it is no such.
pub fn of_json(json: &[u8]) -> Option<(Summary, Option<Drift>)> {
    let plan: PlanJson = serde_json::from_slice(json).ok()?;
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for resource in &plan.resource_changes {
        for action in &resource.change.actions {
            *counts.entry(action).or_default() += 1;
        }
        if resource.change.importing.is_some() {
            *counts.entry("import").or_default() += 1;
        }
    }
    let count = |action| counts.get(action).copied().unwrap_or(0);
    let summary =
        Summary { add: count("create"), change: count("update"), destroy: count("delete"), import: count("import") };
    let drifted: Vec<String> = plan.resource_drift.into_iter().map(|resource| resource.address).collect();
    let drift = (!drifted.is_empty())
        .then(|| Drift { count: drifted.len(), resources: drifted.into_iter().take(MAX_DRIFTED).collect() });
    Some((summary, drift))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn figures_are_read_from_the_line_that_sums_a_plan_up_and_never_guessed() {
        let of = |text: &str| Summary::in_text(text);
        let told = |add, change, destroy, import| Some(Summary { add, change, destroy, import });
        assert_eq!(
            of("  + x\n\nPlan: 2 to add, 1 to change, 3 to destroy.\n\nChanges to Outputs:\n"),
            told(2, 1, 3, 0)
        );
        assert_eq!(of("Plan: 4 to import, 1 to add, 0 to change, 0 to destroy.\n"), told(1, 0, 0, 4));
        assert_eq!(of("No changes. Your infrastructure matches the configuration.\n"), told(0, 0, 0, 0));
        assert_eq!(of("\nChanges to Outputs:\n  + a = 1\n"), told(0, 0, 0, 0));
        let warned = "Plan: 1 to add, 0 to change, 3 to destroy.\n\nWarning: Check block assertion failed\n\nPlan: 0 to add, 0 to change, 0 to destroy.\n";
        assert_eq!(of(warned), told(1, 0, 3, 0), "a check's own words are no plan");
        for unknown in ["", "Plan: many to add.", "Plan: 1 to add, 2 to forget.", "Plan: 1 to add", "plan: 1 to add."] {
            assert_eq!(of(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_replacement_counts_twice_and_reading_not_at_all() {
        let change = |actions: &[&str]| json!({"address": "a.b", "change": {"actions": actions}});
        let plan = json!({
            "format_version": "1.2",
            "resource_changes": [
                change(&["create"]), change(&["delete", "create"]), change(&["update"]), change(&["no-op"]), change(&["read"]),
                {"address": "i", "change": {"actions": ["no-op"], "importing": {"id": "x"}}},
            ],
            "resource_drift": [change(&["update"])],
        });
        let (summary, drift) = of_json(plan.to_string().as_bytes()).unwrap();
        assert_eq!(summary, Summary { add: 2, change: 1, destroy: 1, import: 1 });
        assert_eq!(drift, Some(Drift { count: 1, resources: vec!["a.b".into()] }));
        for other in ["[]", "{}", "null", "{\"format_version\": \"1.2\""] {
            assert_eq!(of_json(other.as_bytes()), None, "{other}");
        }
    }
}

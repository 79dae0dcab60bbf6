//! Reads what Infracost writes. It leaves with 0 and a total of 0 also when it could not read the files or had no
//! prices: what is not known has to be found in the content, and is never 0 here.

use crate::command::STDERR_HEAD_BYTES;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Unknown parts that are listed; more are only counted.
pub const MAX_UNKNOWN: usize = 100;
/// Longest name or reason, in characters.
const MAX_WORDS_CHARS: usize = 400;
/// The type of a project that was read from a plan: only then is there a cost before.
const FROM_PLAN: &str = "terraform_plan_json";
/// It says so when a price came in no form that it can read, such as in another currency, and goes on with 0.
const NO_NUMBER: &str = "Error converting price";
/// Part of the names that it makes up for values that only an apply would know.
const MADE_UP: &str = "-infracost-mock-";

/// What a deployment will cost, as far as it is known. Figures are decimals as Infracost wrote them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// ISO 4217.
    pub currency: String,
    /// Per month; none when any part of it is unknown.
    pub total_monthly_cost: Option<String>,
    /// Per month, of the parts that are known: the total is at least this. None when nothing is.
    pub known_monthly_cost: Option<String>,
    /// How much more than now, per month; none when either is unknown.
    pub diff: Option<String>,
    /// What is unknown, and why; at most 100 entries.
    pub unknown: Vec<Unknown>,
    /// How many parts are unknown.
    pub unknown_count: usize,
}

/// A part of the cost that is not known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Unknown {
    /// Which resource, or which kind of resources.
    pub what: String,
    /// Why, for people.
    pub reason: String,
}

/// Infracost's output tells of a failure, or is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EstimateError {
    /// It is not what Infracost writes.
    #[error("infracost wrote something that is no breakdown: {0}; is its version supported?")]
    Form(String),
    /// It could not do its work, whatever its exit code.
    #[error("infracost could not estimate: {0}")]
    Failed(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Breakdown {
    currency: String,
    projects: Vec<Project>,
    total_monthly_cost: Option<String>,
    diff_total_monthly_cost: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Project {
    name: String,
    #[serde(default)]
    metadata: Metadata,
    past_breakdown: Option<Resources>,
    breakdown: Option<Resources>,
    #[serde(default)]
    summary: Summary,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    errors: Vec<Diagnostic>,
    #[serde(default)]
    warnings: Vec<Diagnostic>,
}

#[derive(Deserialize)]
struct Diagnostic {
    message: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    #[serde(default)]
    unsupported_resource_counts: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Resources {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    name: String,
    #[serde(default)]
    cost_components: Vec<Component>,
    #[serde(default)]
    subresources: Vec<Resource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Component {
    name: String,
    price: Option<String>,
    monthly_cost: Option<String>,
    /// One that does not say so has a price.
    #[serde(default)]
    price_not_found: bool,
}

/// What was found out about resources.
#[derive(Default)]
struct Findings {
    /// The first [`MAX_UNKNOWN`].
    unknown: Vec<Unknown>,
    unknown_count: usize,
    /// Parts that have a cost.
    priced: usize,
    /// A price of 0 may stand for one that could not be read.
    doubts_0: bool,
}

impl Estimate {
    /// Reads the output of `infracost breakdown --format json`. `said` is the beginning of its standard error, at most
    /// [`STDERR_HEAD_BYTES`]: only there does it tell a price of 0 from one that it could not read.
    ///
    /// # Errors
    /// [`EstimateError`] when it is no such output, or when Infracost says in it that it failed.
    pub fn read(json: &[u8], said: &[u8]) -> Result<Self, EstimateError> {
        let breakdown: Breakdown = serde_json::from_slice(json).map_err(|e| EstimateError::Form(e.to_string()))?;
        if breakdown.projects.is_empty() {
            return Err(EstimateError::Form("it has no projects".to_owned()));
        }
        let errors = breakdown.projects.iter().flat_map(|project| &project.metadata.errors);
        let errors: Vec<String> = errors.map(|error| bounded(&error.message)).collect();
        if let Some(first) = errors.first() {
            let more = if errors.len() > 1 { format!(" (and {} more)", errors.len() - 1) } else { String::new() };
            return Err(EstimateError::Failed(format!("{first}{more}")));
        }
        let doubts_0 = said.len() >= STDERR_HEAD_BYTES || String::from_utf8_lossy(said).contains(NO_NUMBER);
        let findings = || Findings { doubts_0, ..Findings::default() };
        let (mut now, mut past) = (findings(), findings());
        for project in &breakdown.projects {
            now.project(project);
            past.resources(project.past_breakdown.as_ref());
        }
        let is_known = now.unknown_count == 0 && breakdown.total_monthly_cost.is_some();
        let anything = is_known || now.priced > 0;
        let from_plans = breakdown.projects.iter().all(|project| project.metadata.kind == FROM_PLAN);
        let has_diff = is_known && past.unknown_count == 0 && from_plans;
        Ok(Self {
            currency: breakdown.currency,
            known_monthly_cost: breakdown.total_monthly_cost.clone().filter(|_| anything),
            total_monthly_cost: breakdown.total_monthly_cost.filter(|_| is_known),
            diff: breakdown.diff_total_monthly_cost.filter(|_| has_diff),
            unknown: now.unknown,
            unknown_count: now.unknown_count,
        })
    }
}

impl Findings {
    fn project(&mut self, project: &Project) {
        if project.breakdown.is_none() {
            self.add(&project.name, "infracost says nothing about it");
        }
        self.resources(project.breakdown.as_ref());
        for (kind, count) in &project.summary.unsupported_resource_counts {
            self.add(kind, &format!("infracost does not know this kind of resource ({count} of them)"));
        }
        for warning in &project.metadata.warnings {
            self.add(&project.name, &warning.message);
        }
    }

    /// Names are cut before they are handed down: one of a megabyte stands before each of its parts.
    fn resources(&mut self, resources: Option<&Resources>) {
        let mut left: Vec<(Name, &Resource)> = Vec::new();
        let all = resources.map(|resources| resources.resources.as_slice()).unwrap_or_default();
        left.extend(all.iter().rev().map(|resource| (Name::default().and(&resource.name), resource)));
        while let Some((name, resource)) = left.pop() {
            for component in &resource.cost_components {
                let is_doubtful = self.doubts_0 && component.price.as_deref().is_none_or(is_0);
                let is_made_up = name.is_made_up || component.name.contains(MADE_UP);
                let reason = match component.monthly_cost {
                    _ if component.price_not_found => "no price was found",
                    _ if is_doubtful => "its price could not be read",
                    _ if is_made_up => "it depends on a value that is not known yet",
                    None => "it depends on usage, which is not known",
                    Some(_) => {
                        self.priced += 1;
                        continue;
                    }
                };
                self.add(&format!("{}: {}", name.shown, bounded(&component.name)), reason);
            }
            let below = resource.subresources.iter().rev();
            left.extend(below.map(|sub| (name.and(&sub.name), sub)));
        }
    }

    fn add(&mut self, what: &str, reason: &str) {
        self.unknown_count += 1;
        if self.unknown.len() < MAX_UNKNOWN {
            self.unknown.push(Unknown { what: bounded(what), reason: bounded(reason) });
        }
    }
}

/// The name of a resource, with those that it is a part of.
#[derive(Default)]
struct Name {
    shown: String,
    is_made_up: bool,
}

impl Name {
    fn and(&self, below: &str) -> Self {
        let dot = if self.shown.is_empty() { "" } else { "." };
        let shown = bounded(&format!("{}{dot}{}", self.shown, bounded(below)));
        Self { shown, is_made_up: self.is_made_up || below.contains(MADE_UP) }
    }
}

fn is_0(decimal: &str) -> bool {
    decimal.bytes().all(|byte| matches!(byte, b'0' | b'.' | b'-'))
}

/// The first line of what people are to read, and of that not more than they will.
fn bounded(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(MAX_WORDS_CHARS) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn sample(name: &str) -> Vec<u8> {
        let path = format!("{}/tests/samples/infracost/{name}.json", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).unwrap()
    }

    /// The good sample, changed.
    fn changed(change: impl FnOnce(&mut Value)) -> Result<Estimate, EstimateError> {
        let mut json: Value = serde_json::from_slice(&sample("ok")).unwrap();
        change(&mut json);
        Estimate::read(json.to_string().as_bytes(), b"")
    }

    #[test]
    fn a_priced_breakdown_has_its_total() {
        let estimate = Estimate::read(&sample("ok"), b"").unwrap();
        assert_eq!(estimate.total_monthly_cost.as_deref(), Some("74.88"));
        assert_eq!((estimate.currency.as_str(), estimate.unknown_count), ("USD", 0));
        assert_eq!(estimate.diff, None, "a folder has no past to compare with");
    }

    #[test]
    fn a_missing_price_is_unknown_and_never_0() {
        let estimate = Estimate::read(&sample("prices-missing"), b"").unwrap();
        assert_eq!((estimate.total_monthly_cost, estimate.known_monthly_cost, estimate.diff), (None, None, None));
        assert_eq!(estimate.unknown_count, 2);
        assert_eq!(estimate.unknown[0].what, "aws_instance.web: Instance usage (Linux/UNIX, on-demand, m5.large)");
        assert_eq!(estimate.unknown[1].what, "aws_instance.web.root_block_device: Storage (general purpose SSD, gp2)");
        assert!(estimate.unknown.iter().all(|one| one.reason == "no price was found"));
    }

    #[test]
    fn a_folder_that_does_not_parse_and_a_server_that_is_down_are_failures() {
        let parse = Estimate::read(&sample("parse-error"), b"").unwrap_err().to_string();
        assert!(parse.contains("No valid terraform files found"), "{parse}");
        let down = Estimate::read(&sample("pricing-down"), b"").unwrap_err().to_string();
        assert!(down.contains("connection refused"), "{down}");
    }

    #[test]
    fn one_missing_price_among_others_leaves_the_known_part() {
        let estimate = changed(|json| {
            json["projects"][0]["breakdown"]["resources"][0]["subresources"][0]["costComponents"][0]["priceNotFound"] =
                json!(true);
            json["totalMonthlyCost"] = json!("70.08");
        });
        let estimate = estimate.unwrap();
        assert_eq!((estimate.total_monthly_cost, estimate.known_monthly_cost.as_deref()), (None, Some("70.08")));
    }

    #[test]
    fn usage_and_strange_kinds_make_a_total_unknown() {
        let usage = changed(|json| {
            let component = &mut json["projects"][0]["breakdown"]["resources"][0]["costComponents"][0];
            component["monthlyCost"] = Value::Null;
            component["monthlyQuantity"] = Value::Null;
        });
        let usage = usage.unwrap();
        assert_eq!(usage.total_monthly_cost, None);
        assert!(usage.unknown[0].reason.contains("usage"), "{:?}", usage.unknown);
        let strange = changed(|json| {
            json["projects"][0]["summary"]["unsupportedResourceCounts"] = json!({"aws_strange": 2});
        });
        let strange = strange.unwrap();
        assert_eq!((strange.total_monthly_cost, strange.known_monthly_cost.as_deref()), (None, Some("74.88")));
        assert_eq!(strange.unknown[0].what, "aws_strange");
    }

    #[test]
    fn a_price_of_0_is_doubted_when_infracost_says_so_or_says_too_much() {
        let free = || {
            let mut json: Value = serde_json::from_slice(&sample("ok")).unwrap();
            let component = &mut json["projects"][0]["breakdown"]["resources"][0]["costComponents"][0];
            (component["price"], component["monthlyCost"]) = (json!("0.00"), json!("0"));
            json["totalMonthlyCost"] = json!("4.8");
            json.to_string()
        };
        let total = |said: &[u8]| Estimate::read(free().as_bytes(), said).unwrap().total_monthly_cost;
        assert_eq!(total(b"INFO Found Terraform project").as_deref(), Some("4.8"), "0 can be a price");
        assert_eq!(total(b"WARN Error converting price to 'EUR' (using 0.00)  ''"), None);
        assert_eq!(total(&[b' '; STDERR_HEAD_BYTES]), None, "it may have been said further on");
    }

    #[test]
    fn what_hangs_on_a_made_up_value_is_unknown() {
        let guessed = changed(|json| {
            let resource = &mut json["projects"][0]["breakdown"]["resources"][0];
            resource["name"] = json!("aws_instance.web[\"for_each-infracost-mock-44956be29f34\"]");
        });
        let guessed = guessed.unwrap();
        assert_eq!((guessed.total_monthly_cost, guessed.unknown_count), (None, 2));
    }

    #[test]
    fn a_plan_tells_what_it_adds_to_the_cost_and_0_can_be_true() {
        let plan = changed(|json| {
            json["projects"][0]["metadata"]["type"] = json!(FROM_PLAN);
            json["diffTotalMonthlyCost"] = json!("-4.8");
        });
        assert_eq!(plan.unwrap().diff.as_deref(), Some("-4.8"));
        let free = changed(|json| {
            json["projects"][0]["breakdown"]["resources"] = json!([]);
            json["totalMonthlyCost"] = json!("0");
        });
        assert_eq!(free.unwrap().total_monthly_cost.as_deref(), Some("0"), "nothing that costs, and nothing unknown");
    }

    #[test]
    fn a_name_of_a_megabyte_with_many_parts_takes_no_more_memory_than_it_has() {
        let estimate = changed(|json| {
            let resource = &mut json["projects"][0]["breakdown"]["resources"][0];
            resource["name"] = json!("n".repeat(1 << 20));
            // As many gigabytes, if each part had the name for itself.
            resource["subresources"] = vec![json!({"name": "s", "costComponents": [{"name": "c"}]}); 20_000].into();
        });
        let estimate = estimate.unwrap();
        assert_eq!((estimate.unknown.len(), estimate.unknown_count), (MAX_UNKNOWN, 20_000));
        assert!(estimate.unknown.iter().all(|one| one.what.chars().count() <= MAX_WORDS_CHARS + 1));
    }

    #[test]
    fn what_is_no_breakdown_is_refused() {
        for text in ["", "null", "{}", "[]", r#"{"currency":"USD","projects":[]}"#] {
            assert!(matches!(Estimate::read(text.as_bytes(), b""), Err(EstimateError::Form(_))), "{text}");
        }
        let silent = changed(|json| json["projects"][0]["breakdown"] = Value::Null).unwrap();
        assert_eq!((silent.total_monthly_cost, silent.unknown_count), (None, 1));
        let nothing = changed(|json| json["totalMonthlyCost"] = Value::Null).unwrap();
        assert_eq!(nothing.total_monthly_cost, None);
    }
}

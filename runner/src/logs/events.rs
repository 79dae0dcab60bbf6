//! Reads the event lines of `terraform` and `tofu` with `-json`: text for people, progress for machines.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::diagnostic::{Diagnostic, Problem};
use super::outputs::{self, Output};
use super::progress::{Action, Progress, ProgressUpdate, State, Totals};

/// Longest line that is read as an event, in bytes; a longer one is shown as it is.
pub const MAX_EVENT_BYTES: usize = 1024 * 1024;
/// Errors that are kept for the reason why a run failed; more are only shown.
pub const MAX_PROBLEMS: usize = 20;

/// What an event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// What people read: whole lines, or nothing. The engine's events carry its children's output, so this is not
    /// sanitised yet.
    pub text: String,
    /// What it tells about the run's progress; already part of [`Events::progress`].
    pub progress: Option<ProgressUpdate>,
}

/// Reads events and keeps what a run's result needs of them.
#[derive(Debug, Default)]
pub struct Events {
    progress: Progress,
    problems: Vec<Problem>,
    outputs: Option<Map<String, Value>>,
    missed: bool,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "@message", borrow)]
    message: Cow<'a, str>,
    #[serde(rename = "@module", borrow)]
    module: Cow<'a, str>,
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Resource {
    addr: String,
}

#[derive(Deserialize)]
struct ChangeBody {
    change: Change,
}

#[derive(Deserialize)]
struct Change {
    resource: Resource,
    #[serde(default)]
    previous_resource: Option<Resource>,
    action: Action,
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Deserialize)]
struct HookBody {
    hook: Hook,
}

#[derive(Deserialize)]
struct Hook {
    resource: Resource,
    #[serde(default)]
    action: Option<Action>,
    #[serde(default)]
    elapsed_seconds: f64,
}

#[derive(Deserialize)]
struct ProvisionBody {
    hook: Provision,
}

#[derive(Deserialize)]
struct Provision {
    resource: Resource,
    provisioner: String,
    output: String,
}

#[derive(Deserialize)]
struct SummaryBody {
    changes: Summary,
}

#[derive(Deserialize)]
struct Summary {
    operation: String,
}

/// Beside [`SummaryBody`] and not flattened into it, because that would buffer whatever else the object holds.
#[derive(Deserialize)]
struct TotalsBody {
    changes: Totals,
}

#[derive(Deserialize)]
struct OutputsBody {
    outputs: BTreeMap<String, Output>,
}

#[derive(Deserialize)]
struct DiagnosticBody {
    diagnostic: Diagnostic,
}

impl Events {
    /// Reads one line. `None`: it is no event and is to be shown as it is.
    ///
    /// An event of a type or form that is not known here is shown by its message, as its makers intend.
    pub fn push(&mut self, line: &str) -> Option<Rendered> {
        if line.len() > MAX_EVENT_BYTES || !line.starts_with('{') {
            return None;
        }
        let event: Envelope<'_> = serde_json::from_str(line).ok()?;
        if !event.module.ends_with(".ui") {
            return None;
        }
        let rendered = self.render(&event, line);
        if let Some(update) = &rendered.progress {
            self.progress.update(update);
        }
        Some(rendered)
    }

    /// How far the run has come.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The first errors of the run, at most [`MAX_PROBLEMS`], in the order they were reported.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The output values that an apply has told last, sensitive ones masked.
    pub fn outputs(&self) -> Option<&Map<String, Value>> {
        self.outputs.as_ref()
    }

    /// An event was longer than [`MAX_EVENT_BYTES`]: only outputs are.
    pub fn missed_one(&mut self) {
        self.missed = true;
    }

    /// Whether there was such an event.
    pub fn has_missed(&self) -> bool {
        self.missed
    }

    fn render(&mut self, event: &Envelope<'_>, line: &str) -> Rendered {
        let known = match event.kind.as_ref() {
            "planned_change" | "resource_drift" => change(event, line),
            "apply_start" | "apply_progress" | "apply_complete" | "apply_errored" => step(event, line),
            // The engine's own text is silent about it, and every resource has one.
            "refresh_complete" => Some(text_only(String::new())),
            "provision_progress" => provision(line),
            "change_summary" => summary(event, line),
            "outputs" => body::<OutputsBody>(line).map(|body| self.outputs_of(&body.outputs)),
            "diagnostic" => body::<DiagnosticBody>(line).map(|body| self.diagnostic(&body.diagnostic)),
            _ => None,
        };
        known.unwrap_or_else(|| text_only(format!("{}\n", event.message)))
    }

    fn outputs_of(&mut self, told: &BTreeMap<String, Output>) -> Rendered {
        self.outputs = outputs::values(told).or(self.outputs.take());
        text_only(outputs::render(told))
    }

    fn diagnostic(&mut self, diagnostic: &Diagnostic) -> Rendered {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.extend(diagnostic.problem());
        }
        text_only(diagnostic.render())
    }
}

fn body<'a, T: Deserialize<'a>>(line: &'a str) -> Option<T> {
    serde_json::from_str(line).ok()
}

fn text_only(text: String) -> Rendered {
    Rendered { text, progress: None }
}

fn change(event: &Envelope<'_>, line: &str) -> Option<Rendered> {
    let Change { resource, previous_resource, action, reason } = body::<ChangeBody>(line)?.change;
    let moved = previous_resource.map(|previous| format!("moved from {}", previous.addr));
    let remarks: Vec<String> = moved.into_iter().chain(reason.map(|reason| reason.replace('_', " "))).collect();
    let text = match remarks.as_slice() {
        [] => format!("{}\n", event.message),
        _ => format!("{} ({})\n", event.message, remarks.join("; ")),
    };
    let progress = (event.kind == "planned_change").then_some(ProgressUpdate::Resource {
        address: resource.addr,
        action,
        state: State::Planned,
        elapsed_s: 0,
    });
    Some(Rendered { text, progress })
}

fn step(event: &Envelope<'_>, line: &str) -> Option<Rendered> {
    let Hook { resource, action, elapsed_seconds } = body::<HookBody>(line)?.hook;
    let action = action.unwrap_or(Action::Other);
    let state = match event.kind.as_ref() {
        "apply_complete" => State::Complete,
        "apply_errored" => State::Errored,
        _ => State::during(action),
    };
    // A cast from float saturates.
    let elapsed_s = elapsed_seconds as u64;
    let progress = Some(ProgressUpdate::Resource { address: resource.addr, action, state, elapsed_s });
    Some(Rendered { text: format!("{}\n", event.message), progress })
}

fn provision(line: &str) -> Option<Rendered> {
    let Provision { resource, provisioner, output } = body::<ProvisionBody>(line)?.hook;
    Some(text_only(format!("{} ({provisioner}): {output}\n", resource.addr)))
}

fn summary(event: &Envelope<'_>, line: &str) -> Option<Rendered> {
    let Summary { operation } = body::<SummaryBody>(line)?.changes;
    let totals = body::<TotalsBody>(line)?.changes;
    let progress = match operation.as_str() {
        "plan" => ProgressUpdate::Planned(totals),
        _ => ProgressUpdate::Done(totals),
    };
    Some(Rendered { text: format!("\n{}\n", event.message), progress: Some(progress) })
}

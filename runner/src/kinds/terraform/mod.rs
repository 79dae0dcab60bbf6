//! `terraform.plan`, `terraform.apply`, `terraform.destroy`, `terraform.lock` and `terraform.unlock`, with Terraform or
//! OpenTofu.
//!
//! A plan is a job of its own, and what it leaves is one sealed artifact: plan file, lock file, files and what they were
//! made with (`bundle`). An apply takes exactly that, on whatever runner of the cluster and in whatever folder.
//!
//! Each run of an engine costs a good part of a small job, so there are no more than needed: a plan prints its own
//! diff, an apply initialises only where plugins or remote modules are to be installed, and outputs come from its
//! events, which hold no sensitive value.
//!
//! Providers: with `tools.provider_mirror` engines link them from there, read-only, so that any number of jobs share
//! them. Without, each attempt downloads its own: the engines' plugin cache is not made for several inits at once, and
//! one that replaces a binary while another runs it fails with "text file busy".

mod apply;
mod bundle;
mod ending;
pub mod failure;
mod kept;
mod plan;
mod rescue;
mod site;
mod state_lock;
mod summary;

pub use apply::Apply;
pub use bundle::{Bundle, BundleError, Manifest};
pub use plan::Plan;
pub use state_lock::StateLock;
pub use summary::{Drift, MAX_DRIFTED, Summary, of_json};

use crate::toolbox::Toolbox;

/// Artifact of a plan: everything that its apply needs.
const PLAN_ARTIFACT: &str = "plan";
/// Artifact of a plan, in the engine's JSON: for cost and policies.
pub const PLAN_JSON_ARTIFACT: &str = "plan-json";
/// The plan file beside the tree.
const PLAN_FILE: &str = "out/plan";
/// Artifact of an apply: state that the engine could not save.
const ERRORED_STATE_ARTIFACT: &str = "errored-state";

fn labels(kind: &str, toolbox: &Toolbox) -> Vec<String> {
    [vec![format!("kind={kind}")], toolbox.engines.labels()].concat()
}

fn available(toolbox: &Toolbox) -> Result<(), String> {
    match toolbox.engines.is_empty() {
        true => {
            Err("there is neither terraform nor tofu; install one, or set tools.terraform or tools.tofu".to_owned())
        }
        false => Ok(()),
    }
}

//! What this machine has for jobs: programs and environment, looked up once at the start.

use crate::config::Config;
use crate::engines::Engines;
use crate::prepare::environment;
use crate::programs::{is_program, lookup};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Programs and environment of this machine.
#[derive(Clone, Debug, Default)]
pub struct Toolbox {
    /// Terraform and OpenTofu.
    pub engines: Engines,
    /// Git, for git sources.
    pub git: Option<PathBuf>,
    /// Infracost.
    pub infracost: Option<PathBuf>,
    /// Whether Infracost has somewhere to ask for prices.
    pub has_prices: bool,
    /// Variables that every job sees: what `tools.pass_env` and `tools.env` allow, and PATH.
    pub env: BTreeMap<String, String>,
}

impl Toolbox {
    /// Looks for everything that the settings name, else on the runner's own PATH. `own` is the runner's environment.
    pub async fn find(config: &Config, own: &BTreeMap<String, String>) -> Self {
        let search_path = own.get("PATH").map_or("", String::as_str);
        let infracost = match &config.infracost.path {
            Some(path) => Some(path.clone()).filter(|path| is_program(path)),
            None => lookup("infracost", search_path),
        };
        Self {
            engines: Engines::detect(&config.tools, search_path).await,
            git: lookup("git", search_path),
            infracost,
            has_prices: config.infracost.api_key_file.is_some() || config.infracost.pricing_endpoint.is_some(),
            env: environment::allowed(&config.tools, own),
        }
    }
}

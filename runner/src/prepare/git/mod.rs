//! Git sources.
use crate::prepare::snapshot::GitSource;
use crate::run::Run;
use crate::stop::Stop;
use crate::toolbox::Toolbox;
use tendril_templates::Tree;

/// Fetches.
///
/// # Errors
/// None yet.
pub async fn fetch(_run: &mut Run, _toolbox: &Toolbox, _source: &GitSource) -> Result<(Tree, String), Stop> {
    Err(Stop::refused("template.git: not yet"))
}

//! What a runner grants its commands.

use super::rule::Rule;
use super::rules::Rules;
use super::settings::closed;
use super::target::Target;
use crate::chance;
use crate::config::Config;
use crate::stop::Stop;
use crate::variables;
use std::collections::BTreeMap;

/// What the proxy of one command goes by; none where jobs are not held to a list. `env` is the command's.
///
/// # Errors
/// A refusal that names the setting.
pub fn confined_egress(
    config: &Config,
    env: &BTreeMap<String, String>,
    template: Option<&[Rule]>,
) -> Result<Option<Rules>, Stop> {
    if !config.egress.is_enforced() {
        return Ok(None);
    }
    let broker = config.address().map_err(|e| Stop::refused(e.to_string()))?.endpoints();
    let closed = closed(&broker, &variables::own());
    let token = token().map_err(|e| Stop::failed(format!("the system has no randomness: {e}")))?;
    config.egress.rules(env, template, closed, token).map_err(Stop::refused)
}

/// Whether a command that knows no proxy may connect to this host past it.
///
/// # Errors
/// A refusal that names the setting.
pub fn check_past_proxy(config: &Config, host: &str, port: u16) -> Result<(), Stop> {
    let Some(rules) = confined_egress(config, &BTreeMap::new(), None)? else { return Ok(()) };
    let target =
        Target::parse(&format!("{host}:{port}"), None).map_err(|why| Stop::refused(format!("{host} {why}")))?;
    // By its name alone: what it resolves to is the command's own business, and proves nothing.
    rules
        .first_look(&target)
        .and_then(|()| rules.check(&target, &[], &[]))
        .map_err(|refusal| Stop::refused(refusal.line()))
}

/// Its form is one of those that are kept out of logs.
fn token() -> Result<String, String> {
    let hex: String = chance::bytes::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("tpx1_{hex}"))
}

impl Rules {
    /// The line in a job's log about where its commands may go. `held`: whether the kernel holds them to it.
    #[must_use]
    pub fn notice(&self, held: bool) -> String {
        let listed = match self.allow.len() {
            0 => "nothing: egress.allow is empty".to_owned(),
            1 => "1 entry of egress.allow".to_owned(),
            count => format!("{count} entries of egress.allow"),
        };
        let template =
            self.template.as_ref().map(|list| format!(", of these what {} of the template's allow", list.len()));
        let held =
            if held { "" } else { "; programs that pass the proxy by are not held back here, see the sandbox's tcp" };
        format!("egress: through a proxy to {listed}{}{held}", template.unwrap_or_default())
    }
}

//! The kinds of jobs. A kind is one file with one type that implements [`Kind`], and one line in [`all`].

pub mod exec;
pub mod infracost;
pub mod kind;
pub mod names;
pub mod policy;
pub mod terraform;

pub use kind::Kind;

use crate::config::Config;
use crate::toolbox::Toolbox;
use crate::variables;
use std::sync::Arc;

/// All kinds, in the order of their names' list, with the tools of this machine.
pub fn all(toolbox: &Arc<Toolbox>) -> Vec<Arc<dyn Kind>> {
    vec![
        Arc::new(exec::Exec::new(toolbox)),
        Arc::new(infracost::Infracost::new(toolbox)),
        Arc::new(policy::Policy::new(toolbox)),
        Arc::new(terraform::Plan::new(toolbox)),
        Arc::new(terraform::Apply::new(toolbox)),
        Arc::new(terraform::Apply::destroying(toolbox)),
        Arc::new(terraform::StateLock::new(toolbox)),
        Arc::new(terraform::StateLock::releasing(toolbox)),
    ]
}

/// The kinds that the settings ask for and this machine can do. What it cannot do is said once.
///
/// # Errors
/// It can do none of them: such a runner would be seen online, and take nothing.
pub async fn available(config: &Config) -> anyhow::Result<Vec<Arc<dyn Kind>>> {
    let toolbox = Arc::new(Toolbox::find(config, &variables::own()).await);
    let wanted = |name: &str| config.kinds.as_ref().is_none_or(|kinds| kinds.iter().any(|kind| kind == name));
    let (mut kinds, mut lacking) = (Vec::new(), Vec::new());
    for kind in all(&toolbox).into_iter().filter(|kind| wanted(kind.name())) {
        match kind.available() {
            Ok(()) => kinds.push(kind),
            Err(reason) => {
                tracing::warn!(kind = kind.name(), reason, "jobs of this kind are not taken");
                lacking.push(format!("{}: {reason}", kind.name()));
            }
        }
    }
    anyhow::ensure!(!kinds.is_empty(), "kinds: this machine can do none of them; {}", lacking.join("; "));
    Ok(kinds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_name_in_the_list() {
        let names: Vec<_> = all(&Arc::default()).iter().map(|kind| kind.name()).collect();
        assert_eq!(names, names::NAMES);
    }

    #[tokio::test]
    async fn a_runner_that_can_do_nothing_says_what_is_missing() {
        let mut config = Config::load(None, &|name| match name {
            "TENDRIL_DATABASE_URL" => Some("postgres://127.0.0.1/none".into()),
            _ => Some("/nowhere".into()).filter(|_| ["TENDRIL_STATE_DIR", "TENDRIL_ARTIFACT_KEY_FILE"].contains(&name)),
        })
        .unwrap();
        config.infracost.path = Some("/no/such/infracost".into());
        config.kinds = Some(vec!["infracost.breakdown".into()]);
        let said = available(&config).await.err().unwrap().to_string();
        assert!(said.starts_with("kinds: ") && said.contains("infracost.path"), "{said}");
        // An empty list asks for nothing at all.
        config.kinds = Some(vec![]);
        assert!(available(&config).await.is_err());
        config.kinds = Some(vec!["infracost.breakdown".into(), "exec".into()]);
        assert_eq!(available(&config).await.unwrap().len(), 1);
    }
}

//! The programs that carry a template out.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use semver::{Version, VersionReq};
use serde::Serialize;
use thiserror::Error;

/// A program that applies Terraform configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// HashiCorp Terraform.
    Terraform,
    /// OpenTofu.
    Tofu,
}

/// The engines that a template works with, each with the versions that it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Engines(pub(crate) BTreeMap<Engine, VersionReq>);

/// Why an engine cannot carry out a template.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EngineError {
    /// The name of no engine.
    #[error("`{0}` is no engine, use `terraform` or `tofu`")]
    Unknown(String),
    /// The template does not name the engine.
    #[error("the template does not work with {0}, choose another engine")]
    NotSupported(Engine),
    /// The template needs another version.
    #[error("the template needs {engine} {needed}, but {found} is there")]
    Version {
        /// The engine that was asked for.
        engine: Engine,
        /// What the template asks for.
        needed: VersionReq,
        /// The version that is there.
        found: Version,
    },
}

impl Engine {
    /// The engine's name, which is also that of its program.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Engine::Terraform => "terraform",
            Engine::Tofu => "tofu",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Engine {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Engine, EngineError> {
        [Engine::Terraform, Engine::Tofu]
            .into_iter()
            .find(|engine| engine.name() == name)
            .ok_or_else(|| EngineError::Unknown(name.to_owned()))
    }
}

impl Engines {
    /// Whether the template works with this version of an engine.
    ///
    /// # Errors
    /// [`EngineError`] with what would do instead.
    pub fn accept(&self, engine: Engine, version: &Version) -> Result<(), EngineError> {
        let needed = self.0.get(&engine).ok_or(EngineError::NotSupported(engine))?;
        if needed.matches(version) {
            return Ok(());
        }
        Err(EngineError::Version { engine, needed: needed.clone(), found: version.clone() })
    }

    /// The engines by name, with their requirements.
    pub fn iter(&self) -> impl Iterator<Item = (Engine, &VersionReq)> {
        self.0.iter().map(|(engine, needed)| (*engine, needed))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use semver::{Version, VersionReq};

    use super::{Engine, EngineError, Engines};

    #[test]
    fn an_engine_that_is_too_old_or_not_named_is_refused() {
        let engines = Engines(BTreeMap::from([(Engine::Tofu, VersionReq::parse(">=1.6, <2").unwrap())]));
        assert_eq!(engines.accept(Engine::Tofu, &Version::new(1, 6, 2)), Ok(()));
        let old = engines.accept(Engine::Tofu, &Version::new(1, 5, 7)).unwrap_err();
        assert_eq!(old.to_string(), "the template needs tofu >=1.6, <2, but 1.5.7 is there");
        let other = engines.accept(Engine::Terraform, &Version::new(1, 9, 0));
        assert_eq!(other, Err(EngineError::NotSupported(Engine::Terraform)));
        assert!("Terraform".parse::<Engine>().is_err());
    }
}

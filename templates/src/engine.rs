//! The programs that carry a template out.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use semver::{Version, VersionReq};
use serde::Serialize;
use thiserror::Error;

use crate::schema::InputError;

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
    #[error("the template works with {works_with}, not {engine}")]
    NotSupported {
        /// The engine that was asked for.
        engine: Engine,
        /// The names of those that would do.
        works_with: String,
    },
    /// The template needs another version.
    #[error("the template needs {engine} {needed}, not {found}")]
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
        let needed = self.0.get(&engine).ok_or_else(|| self.not_supported(engine))?;
        if needed.matches(version) {
            return Ok(());
        }
        Err(EngineError::Version { engine, needed: needed.clone(), found: version.clone() })
    }

    /// What is wrong with the engine and version that a deployment asks for; paths are `engine` and `engine_version`.
    /// Same as in the broker.
    #[must_use]
    pub fn check(&self, engine: Engine, version: Option<&str>) -> Option<InputError> {
        let error = |path: &str, message: String| Some(InputError { path: path.to_owned(), message });
        if !self.0.contains_key(&engine) {
            return error("engine", self.not_supported(engine).to_string());
        }
        match version.map(Version::parse) {
            None => None,
            Some(Ok(version)) if version.build.is_empty() => {
                self.accept(engine, &version).err().and_then(|why| error("engine_version", why.to_string()))
            }
            Some(_) => error("engine_version", "must be a semantic version such as 1.6.2".to_owned()),
        }
    }

    fn not_supported(&self, engine: Engine) -> EngineError {
        let names: Vec<_> = self.0.keys().map(|engine| engine.name()).collect();
        EngineError::NotSupported { engine, works_with: names.join(" and ") }
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

    use super::{Engine, Engines};

    #[test]
    fn an_engine_that_is_too_old_or_not_named_is_refused() {
        let engines = Engines(BTreeMap::from([(Engine::Tofu, VersionReq::parse(">=1.6, <2").unwrap())]));
        assert_eq!(engines.accept(Engine::Tofu, &Version::new(1, 6, 2)), Ok(()));
        let old = engines.accept(Engine::Tofu, &Version::new(1, 5, 7)).unwrap_err();
        assert_eq!(old.to_string(), "the template needs tofu >=1.6, <2, not 1.5.7");
        let other = engines.accept(Engine::Terraform, &Version::new(1, 9, 0)).unwrap_err();
        assert_eq!(other.to_string(), "the template works with tofu, not terraform");
        assert!("Terraform".parse::<Engine>().is_err());
    }

    #[test]
    fn what_a_deployment_asks_for_is_refused_by_the_key_that_is_wrong() {
        let engines = Engines(BTreeMap::from([(Engine::Tofu, VersionReq::parse(">=1.6, <2").unwrap())]));
        let path = |engine, version| engines.check(engine, version).map(|error| error.path);
        assert_eq!(path(Engine::Tofu, None), None);
        assert_eq!(path(Engine::Tofu, Some("1.10.0")), None);
        assert_eq!(path(Engine::Terraform, Some("1.10.0")).as_deref(), Some("engine"));
        for wrong in ["2.0.0", "1.6", "v1.6.2", "1.6.2+build", "1.7.0-rc.1"] {
            assert_eq!(path(Engine::Tofu, Some(wrong)).as_deref(), Some("engine_version"), "{wrong}");
        }
    }
}

//! The Terraform and OpenTofu binaries of this machine, asked once for their versions.

use crate::config::Tools;
use crate::programs::lookup;
use semver::Version;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tendril_templates::{Engine, Engines as Accepted};
use tokio::process::Command;

/// A binary that does not say its version within this time is left out.
const VERSION_TIMEOUT: Duration = Duration::from_secs(30);

/// A binary that works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Which engine it is.
    pub engine: Engine,
    /// As it says itself.
    pub version: Version,
    /// Its absolute path.
    pub program: PathBuf,
}

/// All of them, in the order of the settings: the first that fits a job is taken.
#[derive(Clone, Debug, Default)]
pub struct Engines(Vec<Installed>);

/// What a job asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Only this engine.
    pub engine: Option<Engine>,
    /// Only this version, exactly.
    pub version: Option<Version>,
}

impl Engines {
    /// Finds the binaries that the settings name, else `terraform` and `tofu` on `search_path`. What is missing or broken
    /// is said once and left out.
    pub async fn detect(tools: &Tools, search_path: &str) -> Self {
        let mut found: Vec<Installed> = Vec::new();
        for (engine, listed) in [(Engine::Terraform, &tools.terraform), (Engine::Tofu, &tools.tofu)] {
            let programs = match listed {
                Some(programs) => programs.clone(),
                None => lookup(engine.name(), search_path).into_iter().collect(),
            };
            for program in programs {
                let path = program.display().to_string();
                match version_of(&program, &tools.path).await {
                    Ok(version) if found.iter().any(|other| (other.engine, &other.version) == (engine, &version)) => {
                        tracing::warn!(path, %engine, %version, "is not used: tools.{engine} has that version already");
                    }
                    Ok(version) => found.push(Installed { engine, version, program }),
                    Err(reason) => {
                        tracing::warn!(path, reason, "is not used; mend or remove it in tools.{engine} and restart");
                    }
                }
            }
        }
        Self(found)
    }

    /// What a runner with these advertises: `engine=terraform`, `engine=terraform@1.11.4`.
    pub fn labels(&self) -> Vec<String> {
        let both =
            |one: &Installed| [format!("engine={}", one.engine), format!("engine={}@{}", one.engine, one.version)];
        self.0.iter().flat_map(both).collect()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first that is what the job wants and, where a template says so, what the template accepts.
    ///
    /// # Errors
    /// What is missing, and what is there instead.
    pub fn pick(&self, wanted: &Wanted, accepted: Option<&Accepted>) -> Result<&Installed, String> {
        let mut refusal = None;
        for one in self.0.iter().filter(|one| wanted.fits(one)) {
            match accepted.map_or(Ok(()), |accepted| accepted.accept(one.engine, &one.version)) {
                Ok(()) => return Ok(one),
                Err(error) => refusal = refusal.or(Some(error.to_string())),
            }
        }
        Err(refusal.unwrap_or_else(|| {
            format!(
                "this runner has no {wanted}, only {}; install it, or ask for another engine or version",
                self.listed()
            )
        }))
    }

    fn listed(&self) -> String {
        let names: Vec<_> = self.0.iter().map(|one| format!("{} {}", one.engine, one.version)).collect();
        if names.is_empty() { "none at all".to_owned() } else { names.join(", ") }
    }
}

impl FromIterator<Installed> for Engines {
    fn from_iter<I: IntoIterator<Item = Installed>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}

impl Wanted {
    fn fits(&self, one: &Installed) -> bool {
        self.engine.is_none_or(|engine| engine == one.engine)
            && self.version.as_ref().is_none_or(|version| *version == one.version)
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.engine.map_or("terraform or tofu", Engine::name))?;
        self.version.as_ref().map_or(Ok(()), |version| write!(f, " {version}"))
    }
}

#[derive(Deserialize)]
struct Said {
    /// OpenTofu has kept this name.
    terraform_version: Version,
}

/// Asks a binary for its version, with nothing of the runner's environment.
async fn version_of(program: &Path, path: &str) -> Result<Version, String> {
    if !program.is_absolute() {
        return Err("is not an absolute path".to_owned());
    }
    let mut command = Command::new(program);
    command
        .args(["version", "-json"])
        .env_clear()
        .env("PATH", path)
        .env("CHECKPOINT_DISABLE", "1")
        .current_dir("/")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = match tokio::time::timeout(VERSION_TIMEOUT, command.output()).await {
        Ok(output) => output.map_err(|error| format!("cannot be run: {error}"))?,
        Err(_) => return Err(format!("did not say its version within {} s", VERSION_TIMEOUT.as_secs())),
    };
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let first = words.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        return Err(format!("`version -json` ended with {}: {first}", output.status));
    }
    let said: Said = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("`version -json` did not print a version ({error}); is it an engine?"))?;
    Ok(said.terraform_version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn installed(engine: Engine, version: &str) -> Installed {
        Installed { engine, version: version.parse().unwrap(), program: format!("/opt/{engine}-{version}").into() }
    }

    fn some() -> Engines {
        [(Engine::Terraform, "1.9.8"), (Engine::Terraform, "1.11.4"), (Engine::Tofu, "1.6.2")]
            .map(|(engine, version)| installed(engine, version))
            .into_iter()
            .collect()
    }

    fn wanted(engine: Option<Engine>, version: Option<&str>) -> Wanted {
        Wanted { engine, version: version.map(|version| version.parse().unwrap()) }
    }

    #[test]
    fn the_first_that_fits_is_taken_and_a_version_is_exact() {
        let engines = some();
        let pick = |wanted: &Wanted| engines.pick(wanted, None).map(|one| one.version.to_string());
        assert_eq!(pick(&wanted(None, None)).unwrap(), "1.9.8");
        assert_eq!(pick(&wanted(Some(Engine::Tofu), None)).unwrap(), "1.6.2");
        assert_eq!(pick(&wanted(Some(Engine::Terraform), Some("1.11.4"))).unwrap(), "1.11.4");
        let said = pick(&wanted(Some(Engine::Tofu), Some("1.6.3"))).unwrap_err();
        assert!(said.contains("no tofu 1.6.3") && said.contains("terraform 1.11.4, tofu 1.6.2"), "{said}");
        assert!(Engines::default().pick(&wanted(None, None), None).unwrap_err().contains("terraform or tofu"));
    }

    #[test]
    fn labels_name_engines_with_and_without_version() {
        let labels = some().labels();
        assert!(labels.contains(&"engine=tofu".to_owned()) && labels.contains(&"engine=terraform@1.11.4".to_owned()));
    }

    #[tokio::test]
    async fn a_binary_that_is_missing_broken_or_no_engine_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let script = |name: &str, body: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let good = script("good", r#"echo "{\"terraform_version\":\"1.2.3\"}""#);
        let twin = script("twin", r#"echo "{\"terraform_version\":\"1.2.3\"}""#);
        let broken = script("broken", "echo no memory >&2; exit 3");
        let other = script("other", "echo hello");
        // A marker in the runner's environment must not reach it.
        let nosy = script("nosy", r#"[ -z "$CARGO_MANIFEST_DIR" ] && echo "{\"terraform_version\":\"1.2.4\"}""#);
        let missing = dir.path().join("missing");
        let listed = vec![missing, broken, other, "relative".into(), good.clone(), twin, nosy];
        let tools = Tools { terraform: Some(listed), tofu: Some(vec![]), ..Tools::default() };
        let found = Engines::detect(&tools, "").await;
        assert_eq!(found.0.iter().map(|one| one.version.to_string()).collect::<Vec<_>>(), ["1.2.3", "1.2.4"]);
        assert_eq!(found.0[0].program, good);
    }
}

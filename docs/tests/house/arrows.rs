//! Arrows: which crate of the workspace may know which.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use crate::finding::Finding;

/// What each crate may depend on, tests and build scripts included. Nothing but its own fuzzing may depend on the runner.
const ARROWS: [(&str, &[&str]); 9] = [
    ("tendril-api", &["tendril-broker"]),
    ("tendril-bench", &["tendril-broker"]),
    ("tendril-broker", &["tendril-templates"]),
    ("tendril-chaos", &["tendril-broker"]),
    ("tendril-docs", &["tendril-broker"]),
    ("tendril-helm", &[]),
    ("tendril-runner", &["tendril-broker", "tendril-templates"]),
    ("tendril-runner-fuzz", &["tendril-api", "tendril-broker", "tendril-runner", "tendril-templates"]),
    ("tendril-templates", &[]),
];

#[derive(Deserialize)]
pub struct Workspace {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// Only dependencies inside the workspace have one.
    path: Option<String>,
}

/// Asks cargo for the workspace's own packages.
pub fn read(root: &Path) -> Result<Workspace, Box<dyn Error>> {
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root)
        .output()?;
    if !cargo.status.success() {
        return Err(String::from_utf8_lossy(&cargo.stderr).into());
    }
    Ok(serde_json::from_slice(&cargo.stdout)?)
}

pub fn check(workspace: &Workspace) -> Vec<Finding> {
    workspace.packages.iter().flat_map(check_package).collect()
}

fn check_package(package: &Package) -> Vec<Finding> {
    let finding = |message: String| Finding::new("arrows", &package.name, message);
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == package.name) else {
        return vec![finding("the crate has no place in the arrows; give it one, and never call it common".to_owned())];
    };
    let known: BTreeSet<&str> =
        package.dependencies.iter().filter(|other| other.path.is_some()).map(|other| other.name.as_str()).collect();
    // A crate may name itself, to test with a feature that its users do not get.
    let wrong = known.into_iter().filter(|name| *name != package.name && !allowed.contains(name));
    wrong.map(|name| finding(format!("the crate must not depend on {name}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(name: &str, dependency: &str) -> Vec<String> {
        let json = serde_json::json!({"packages": [{
            "name": name,
            "dependencies": [{"name": dependency, "path": "/a"}, {"name": "serde", "path": null}],
        }]});
        let workspace: Workspace = serde_json::from_value(json).expect("the example is a workspace");
        check(&workspace).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn arrows_point_towards_the_broker() {
        assert!(findings("tendril-runner", "tendril-broker").is_empty());
        assert_eq!(
            findings("tendril-broker", "tendril-runner"),
            ["tendril-broker: the crate must not depend on tendril-runner [arrows]"]
        );
    }

    #[test]
    fn nothing_but_its_own_fuzzing_may_depend_on_the_runner() {
        let known_to = ARROWS.iter().filter(|(_, allowed)| allowed.contains(&"tendril-runner")).map(|(name, _)| *name);
        assert_eq!(known_to.collect::<Vec<_>>(), ["tendril-runner-fuzz"]);
        assert_eq!(findings("tendril-bench", "tendril-runner").len(), 1);
    }

    #[test]
    fn a_crate_without_a_place_is_refused() {
        assert!(findings("tendril-common", "tendril-broker")[0].contains("no place"));
    }
}

//! Renders are compared with files below `tests/golden`; `UPDATE_HELM_GOLDEN=1` writes them anew.

use crate::chart::{Helm, KUBERNETES, SETS, folder, values};
use std::process::Command;

#[test]
fn charts_render_as_they_did_for_every_version_of_kubernetes() {
    let Some(helm) = Helm::find() else { return };
    for (set, _) in SETS {
        let path = folder().join("tests/golden").join(format!("{set}.yaml"));
        for version in KUBERNETES {
            let rendered = helm.template(set, version, &[]).unwrap_or_else(|error| panic!("{set}: {error}"));
            if std::env::var_os("UPDATE_HELM_GOLDEN").is_some() && version == KUBERNETES[0] {
                std::fs::write(&path, &rendered).unwrap();
            }
            let golden = std::fs::read_to_string(&path).unwrap_or_default();
            let differs = golden.lines().zip(rendered.lines()).find(|(old, new)| old != new);
            assert!(
                golden == rendered,
                "{set} on {version} differs from {}, first at {differs:?}; look at it by UPDATE_HELM_GOLDEN=1 and git diff",
                path.display()
            );
        }
    }
}

#[test]
fn helm_lint_finds_nothing_with_and_without_values() {
    let Some(helm) = Helm::find() else { return };
    for (set, chart) in SETS {
        let (chart, values) = (folder().join(chart).display().to_string(), values(set));
        for arguments in [vec!["lint", "--strict", &chart], vec!["lint", "--strict", &chart, "--values", &values]] {
            let output = helm.run(&[&arguments[..], &["--kube-version", KUBERNETES[2]]].concat());
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{set}: {said}{}", String::from_utf8_lossy(&output.stderr));
            assert!(!said.contains("[WARNING]") && !said.contains("[ERROR]"), "{set}: {said}");
        }
    }
}

/// Helm shows notes only where it can ask a cluster for its version. So a copy of the chart shows them as a ConfigMap.
fn notes(helm: &Helm, set: &str, more: &[&str]) -> String {
    let (_, chart) = SETS.iter().find(|(name, _)| *name == set).unwrap();
    let copy = tempfile::tempdir().unwrap();
    let to = copy.path().join(chart);
    let cp = Command::new("cp").arg("-r").arg(folder().join(chart)).arg(&to).status().unwrap();
    assert!(cp.success());
    std::fs::rename(to.join("templates/NOTES.txt"), to.join("notes.txt")).unwrap();
    let shown =
        "apiVersion: v1\nkind: ConfigMap\ndata:\n  notes: |\n{{ tpl (.Files.Get \"notes.txt\") . | indent 4 }}\n";
    std::fs::write(to.join("templates/notes.yaml"), shown).unwrap();
    let (to, values) = (to.display().to_string(), values(set));
    let fixed =
        ["template", "acme", &to, "--namespace", "tendril", "--values", &values, "--show-only", "templates/notes.yaml"];
    let output = helm.run(&[&fixed, ["--kube-version", KUBERNETES[2]].as_slice(), more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_notes_say_where_a_wrong_token_shows_and_warn_of_what_is_weak() {
    let Some(helm) = Helm::find() else { return };
    let small = notes(&helm, "runner-small", &[]);
    for word in ["lastState.terminated.message", "agent_token: not an agent token", "3735", "Linux 6.12"] {
        assert!(small.contains(word), "{word}: {small}");
    }
    assert!(!small.contains("WARNING"), "{small}");
    let weak = notes(&helm, "runner-gke", &["--set", "settings.sandbox.mode=off"]);
    assert!(weak.contains("confined not at all") && weak.contains("Helm's history"), "{weak}");
    let broker = notes(&helm, "broker-small", &[]);
    assert!(broker.contains("cluster create") && broker.contains("terminated.message"), "{broker}");
    assert!(notes(&helm, "broker-everything", &[]).contains("Helm's history"));
}

//! A deployment of the workload as the `config_snapshot` that a portal sends.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::options::{Engine, PLACE};
use crate::workload::{Child, Deployment, Job, Work};

/// Between the one SIGINT and SIGKILL. Children leave at once.
const KILL_GRACE_S: u64 = 1;

/// What snapshots need to know of this run.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The program of children: this one.
    pub program: PathBuf,
    /// Where children tell facts.
    pub facts: PathBuf,
    /// Where children lock files.
    pub locks: PathBuf,
    /// The engine of plans and applies.
    pub engine: Option<Engine>,
}

impl Stage {
    /// The snapshot.
    pub fn snapshot(&self, deployment: &Deployment) -> Value {
        match deployment.jobs.as_slice() {
            [
                Job { work: Work::Plan { fails }, .. },
                Job { work: Work::Apply { path, child }, name, timeout_s, .. },
            ] => {
                let argv = self.argv(
                    &deployment.label(name),
                    child,
                    &[format!("state-key-{path}"), label_lock(deployment, name)],
                );
                self.terraform(deployment, &argv, (path, *timeout_s), *fails)
            }
            jobs => json!({"jobs": jobs.iter().map(|job| self.exec(deployment, job)).collect::<Vec<_>>()}),
        }
    }

    fn exec(&self, deployment: &Deployment, job: &Job) -> Value {
        let Some(child) = job.child() else { return Value::Null };
        let locks = if job.is_mutating() { vec![label_lock(deployment, &job.name)] } else { Vec::new() };
        let mut limits = json!({"timeout_s": job.timeout_s, "kill_grace_s": KILL_GRACE_S});
        if let Some(attempts) = job.max_attempts {
            limits["max_attempts"] = attempts.into();
        }
        json!({
            "name": job.name, "kind": "exec", "needs": job.needs, "reading": !job.is_mutating(), "limits": limits,
            "argv": self.argv(&deployment.label(&job.name), child, &locks),
        })
    }

    fn argv(&self, label: &str, child: &Child, locks: &[String]) -> Vec<String> {
        let text = |path: &PathBuf| path.display().to_string();
        let mut argv = vec![text(&self.program), "child".into(), "--facts".into(), text(&self.facts)];
        for (flag, value) in [
            ("--job", label.to_owned()),
            ("--ms", child.ms.to_string()),
            ("--exit", child.exit.to_string()),
            ("--lines", child.lines.to_string()),
        ] {
            argv.extend([flag.to_owned(), value]);
        }
        argv.extend(locks.iter().flat_map(|lock| ["--lock".to_owned(), text(&self.locks.join(lock))]));
        argv
    }

    fn terraform(
        &self,
        deployment: &Deployment,
        argv: &[String],
        (path, timeout_s): (&str, u64),
        fails: bool,
    ) -> Value {
        let mut resource = json!({
            "triggers_replace": [deployment.id],
            "provisioner": [{"local-exec": {"command": argv.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")}}],
        });
        if fails {
            resource["input"] = "${var.nobody_declared_this}".into();
        }
        let main = json!({"resource": {"terraform_data": {"work": resource}}});
        json!({
            "template": {"inline": {"main.tf.json": main.to_string()}},
            "action": "apply", "cost": "off",
            "engine": self.engine.as_ref().map(|engine| engine.name.clone()),
            "backend": {"type": "local", "place": PLACE, "path": path},
            "limits": {"timeout_s": timeout_s, "kill_grace_s": KILL_GRACE_S},
        })
    }
}

/// A job that changes the world locks this: two children of it at once would meet here.
fn label_lock(deployment: &Deployment, job: &str) -> String {
    format!("job-{}-{job}", deployment.id)
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::workload::Manner;

    fn stage() -> Stage {
        Stage {
            program: "/bin/chaos".into(),
            facts: "/tmp/it's/facts".into(),
            locks: "/tmp/locks".into(),
            engine: Some(Engine { name: "tofu".into(), program: "/bin/tofu".into() }),
        }
    }

    fn deployment(jobs: Vec<Job>) -> Deployment {
        Deployment { id: Uuid::from_u128(1), manner: Manner::Once, cancel: None, pause_ms: 0, jobs }
    }

    fn job(name: &str, work: Work) -> Job {
        Job { name: name.into(), work, needs: vec![], timeout_s: 5, max_attempts: None }
    }

    #[test]
    fn a_command_job_says_all_that_its_child_has_to_know() {
        let child = Child { ms: 10, exit: 3, lines: 7 };
        let mutating =
            stage().snapshot(&deployment(vec![job("a", Work::Exec { reading: false, child: child.clone() })]));
        let argv = mutating["jobs"][0]["argv"].to_string();
        assert!(argv.contains("00000001/a") && argv.contains("/tmp/locks/job-") && argv.contains("\"7\""), "{argv}");
        let reading = stage().snapshot(&deployment(vec![job("a", Work::Exec { reading: true, child })]));
        assert!(!reading.to_string().contains("--lock"), "children of a reading job may overlap");
    }

    #[test]
    fn the_provisioner_gets_its_words_whole() {
        let child = Child { ms: 10, exit: 0, lines: 7 };
        let jobs =
            vec![job("plan", Work::Plan { fails: false }), job("apply", Work::Apply { path: "p".into(), child })];
        let snapshot = stage().snapshot(&deployment(jobs));
        let main = snapshot["template"]["inline"]["main.tf.json"].as_str().unwrap();
        let main: Value = serde_json::from_str(main).unwrap();
        let command =
            main["resource"]["terraform_data"]["work"]["provisioner"][0]["local-exec"]["command"].as_str().unwrap();
        assert!(command.starts_with(r"'/bin/chaos' 'child' '--facts' '/tmp/it'\''s/facts'"), "{command}");
        assert!(command.contains("state-key-p"));
    }
}

//! Jobs in the sandbox as it is without any settings: the hardest that there is.

use crate::bed::{Bed, apply, local, plan};
use crate::exec::exec;
use crate::terraform::{resources, state_file, terraform_bed};
use serde_json::json;
use std::path::PathBuf;
use tendril_runner::sandbox::{Layer, Mode, Profile, Settings};
use tendril_runner::stop::Stop;

fn hardest(mut bed: Bed) -> Bed {
    bed.config.sandbox = Settings::default();
    bed
}

#[tokio::test]
async fn a_real_engine_with_a_real_provider_plans_and_applies_under_the_hardest_profile() {
    let mut bed = hardest(terraform_bed());
    let mut main = "resource \"terraform_data\" \"one\" { input = 1 }\n".to_owned();
    match std::env::var_os("TENDRIL_TEST_PROVIDER_MIRROR") {
        Some(mirror) => {
            bed.config.tools.provider_mirror = Some(mirror.into());
            main += "terraform {\n  required_providers {\n    random = { source = \"hashicorp/random\" }\n  }\n}\n\
                     resource \"random_pet\" \"two\" { length = 2 }\n";
        }
        None => eprintln!("without a provider: TENDRIL_TEST_PROVIDER_MIRROR names no folder with hashicorp/random"),
    }
    let snapshot = local("x", &main);
    let planned = bed.run(plan(&snapshot)).await;
    planned.result();
    let done = bed.run(apply(&snapshot, &planned)).await;
    done.result();
    assert!(resources(&state_file(&bed, "x", "default")).contains(&"one".to_owned()));
    assert!(done.stream("system").contains("sandbox: profile terraform, Landlock ABI "), "{}", done.text());
    assert!(done.stream("system").contains("sandbox.programs is empty"), "{}", done.text());
    for record in planned.records.iter().chain(&done.records) {
        let level = record.sandbox.as_ref().expect("a level");
        assert_eq!((level.mode, level.profile), (Mode::Require, Profile::Terraform));
        assert!(Layer::ALL.iter().all(|layer| !layer.is_needed() || level.held.contains(layer)), "{level:?}");
    }
    assert_eq!(done.report.commands[0]["sandbox"]["profile"], json!("terraform"), "it is in the report");
}

#[tokio::test]
async fn terraform_runs_no_program_that_is_not_listed_nor_by_the_loader_nor_one_that_came_with_the_files() {
    let bed = hardest(terraform_bed());
    let loader = "/lib64/ld-linux-x86-64.so.2";
    for interpreter in [
        json!(["/bin/sh", "-c"]),
        json!([loader, "./tool"]),
        json!(["./tool"]),
        json!([bed.config.tools.terraform.as_ref().unwrap()[0], "version", "-json", "--"]),
    ] {
        // The last is the one program that may be run: itself.
        let may = interpreter[1] == json!("version");
        let main = format!(
            "resource \"terraform_data\" \"one\" {{\n  provisioner \"local-exec\" {{\n    command = \"true\"\n    interpreter = {interpreter}\n  }}\n}}\n"
        );
        let mut snapshot = local(&format!("x{}", interpreter[0].to_string().len()), &main);
        snapshot["template"]["inline"]["tool"] = json!("#!/bin/sh\ntrue\n");
        let planned = bed.run(plan(&snapshot)).await;
        planned.result();
        let done = bed.run(apply(&snapshot, &planned)).await;
        let text = done.text();
        assert_eq!(text.contains("permission denied"), !may, "{interpreter}: {text}");
    }
}

#[tokio::test]
async fn a_listed_shell_is_run_and_what_it_calls_only_if_it_is_listed_too() {
    for (more, word) in [(vec![], "ermission denied"), (vec![PathBuf::from("/bin/uname")], "Linux")] {
        let mut bed = hardest(terraform_bed());
        bed.config.sandbox.programs = [vec!["/bin/sh".into()], more].concat();
        let main = "resource \"terraform_data\" \"one\" {\n  provisioner \"local-exec\" { command = \"echo by the shell; uname\" }\n}\n";
        let planned = bed.run(plan(&local("x", main))).await;
        planned.result();
        let done = bed.run(apply(&local("x", main), &planned)).await;
        let text = done.text();
        assert!(text.contains("by the shell") && text.contains(word), "{text}");
    }
}

#[tokio::test]
async fn a_job_of_kind_exec_runs_only_what_the_settings_list() {
    let mut bed = hardest(Bed::new());
    bed.config.sandbox.exec_programs = Some(vec!["/bin/sh".into(), "/bin/true".into()]);
    let refused = bed.run(exec(&["/usr/bin/env"])).await;
    assert!(matches!(refused.stop(), Stop::Failed { permanent: true, .. }), "{:?}", refused.verdict);
    assert!(refused.reason().contains("sandbox.exec_programs"), "{}", refused.reason());
    bed.run(exec(&["/bin/sh", "-c", "/bin/true"])).await.result();
    let outcome = bed.run(exec(&["/bin/sh", "-c", "/usr/bin/env"])).await;
    assert!(outcome.text().contains("ermission denied"), "{}", outcome.text());
}

#[tokio::test]
async fn a_job_reads_nothing_of_the_runner_nor_of_another_attempt() {
    let bed = hardest(Bed::new());
    let other = bed.open(exec(&["true"])).await;
    let attempt = other.attempt().simple().to_string();
    let state = bed.config.state_dir.display().to_string();
    let script = format!(
        "ls {state}; ls {state}/work; ls {state}/work/{attempt}; echo x > {state}/work/{attempt}/tmp/x; \
         ls ..; ls ../records; cat ../handover.json; echo mine > here && cat here"
    );
    let done = bed.run(exec(&["sh", "-c", &script])).await;
    done.result();
    assert_eq!(done.stream("stdout"), "mine\n");
    assert_eq!(done.stream("stderr").matches("ermission denied").count(), 7, "{}", done.stream("stderr"));
}

//! Costs, with a stand-in that writes what a real Infracost wrote. The tests beside these run a real one.

use crate::bed::{Bed, job, local, plan, script};
use crate::terraform::terraform_bed;
use serde_json::{Value, json};
use tendril_broker::runner::Claimed;
use tendril_runner::kinds::{Kind, infracost::Infracost};
use tendril_runner::stop::Stop;
use tendril_runner::toolbox::Toolbox;

const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples/infracost");

/// Writes this sample, and notes what it was called with.
fn stand_in(bed: &mut Bed, sample: &str) {
    let dir = bed.dir();
    let body = format!(
        "echo \"$@\" > {dir}/args; env | sort > {dir}/env; ls -A > {dir}/cwd\ncat {SAMPLES}/{sample}.json",
        dir = dir.display()
    );
    let path = script(&dir.join("infracost"), &body);
    let key = dir.join("infracost-key");
    std::fs::write(&key, "ico-secret\n").unwrap();
    bed.config.sandbox.read = vec![SAMPLES.into()];
    bed.config.infracost.path = Some(path);
    bed.config.infracost.api_key_file = Some(key);
    bed.config.infracost.currency = Some("EUR".into());
}

fn cost(snapshot: &Value) -> Claimed {
    job("infracost.breakdown", snapshot.clone(), json!({}))
}

fn noted(bed: &Bed, what: &str) -> String {
    std::fs::read_to_string(bed.dir().join(what)).unwrap()
}

#[tokio::test]
async fn a_cost_is_figures_and_an_artifact() {
    let mut bed = Bed::new();
    stand_in(&mut bed, "ok");
    let done = bed.run(cost(&local("x", "resource \"aws_instance\" \"web\" {}\n"))).await;
    let result = done.result();
    assert_eq!((&result["total_monthly_cost"], &result["unknown"]), (&json!("74.88"), &json!([])));
    assert!(done.stream("system").contains("monthly cost: 74.88 USD"));
    let kept: Value = serde_json::from_slice(&bed.artifact(done.attempt, "cost").unwrap()).unwrap();
    assert_eq!(kept["totalMonthlyCost"], json!("74.88"));
    assert_eq!(done.stream("stdout"), "", "the JSON is not for people");

    let env = noted(&bed, "env");
    for line in ["INFRACOST_API_KEY=ico-secret", "INFRACOST_CURRENCY=EUR", "INFRACOST_DISABLE_ENVFILE=true"] {
        assert!(env.lines().any(|one| one == line), "{env}");
    }
    assert!(!env.contains("TENDRIL") && !noted(&bed, "args").contains("ico-secret"));
    assert_eq!(noted(&bed, "cwd"), "", "it runs in a folder of its own");
}

#[tokio::test]
async fn an_unknown_cost_is_never_0() {
    let mut bed = Bed::new();
    stand_in(&mut bed, "prices-missing");
    let done = bed.run(cost(&local("x", ""))).await;
    assert_eq!(done.result()["total_monthly_cost"], Value::Null);
    assert_eq!(done.result()["unknown_count"], json!(2));
    assert!(done.stream("system").contains("monthly cost: unknown\n"), "{}", done.text());
    for (sample, word) in [("parse-error", "No valid terraform files"), ("pricing-down", "connection refused")] {
        stand_in(&mut bed, sample);
        let done = bed.run(cost(&local("x", ""))).await;
        let Stop::Failed { reason, result, .. } = done.stop() else { panic!("{:?}", done.verdict) };
        assert!(reason.contains(word), "{reason}");
        assert_eq!((&result["total_monthly_cost"], &result["unknown_count"]), (&Value::Null, &json!(1)));
        assert!(bed.artifact(done.attempt, "cost").is_some(), "what it wrote is kept to look at");
    }
}

#[tokio::test]
async fn a_kept_plan_is_read_rather_than_the_files() {
    let mut bed = terraform_bed();
    stand_in(&mut bed, "ok");
    let mut snapshot = local("x", "variable \"a\" {}\n");
    snapshot["inputs"] = json!({"a": "b"});
    let planned = bed.run(plan(&snapshot)).await;
    planned.result();
    let done = bed.run(Claimed { plan_attempt: Some(planned.attempt), ..cost(&snapshot) }).await;
    assert_eq!(done.result()["subject"], json!("plan"));
    assert!(noted(&bed, "args").contains("/plan.json"), "{}", noted(&bed, "args"));

    let lean = bed.run(Claimed { spec: json!({"plan_json": false}), ..plan(&snapshot) }).await;
    let done = bed.run(Claimed { plan_attempt: Some(lean.attempt), ..cost(&snapshot) }).await;
    assert_eq!(done.result()["subject"], json!("files"));
    let args = noted(&bed, "args");
    assert!(args.contains("/tree --terraform-var-file ") && args.contains("inputs.tfvars.json"), "{args}");
}

#[tokio::test]
async fn without_prices_or_program_it_is_not_offered() {
    let mut bed = Bed::new();
    stand_in(&mut bed, "ok");
    let offered = |bed: &Bed| {
        let (config, env) = (bed.config.clone(), bed.own_env.clone());
        async move { Infracost::new(&std::sync::Arc::new(Toolbox::find(&config, &env).await)).available() }
    };
    offered(&bed).await.unwrap();
    bed.config.infracost.api_key_file = None;
    assert!(offered(&bed).await.unwrap_err().contains("infracost.api_key_file"));
    bed.config.infracost.pricing_endpoint = Some("http://127.0.0.1:1".into());
    offered(&bed).await.unwrap();
    bed.config.infracost.path = Some("/no/such/infracost".into());
    assert!(offered(&bed).await.unwrap_err().contains("infracost.path"));
}

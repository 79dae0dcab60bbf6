//! Policies: a command reads a real plan, and its end decides what follows.

use crate::bed::{job, local, plan};
use crate::terraform::terraform_bed;
use serde_json::{Value, json};
use tendril_broker::runner::Claimed;
use tendril_runner::stop::Stop;

fn policy(snapshot: &Value, script: &str) -> Claimed {
    job("policy", snapshot.clone(), json!({"argv": ["sh", "-c", script]}))
}

#[tokio::test]
async fn a_policy_reads_the_plan_and_passes_asks_or_refuses() {
    let bed = terraform_bed();
    let snapshot = local("x", "resource \"terraform_data\" \"a\" { input = \"marked\" }\n");
    let planned = bed.run(plan(&snapshot)).await;
    planned.result();
    let with_plan = |script: &str| Claimed { plan_attempt: Some(planned.attempt), ..policy(&snapshot, script) };
    let passed = bed.run(with_plan("grep -q marked \"$TENDRIL_PLAN_JSON\" && test -f main.tf")).await;
    assert_eq!(passed.result(), &json!({"verdict": "pass"}));
    let asks = bed.run(with_plan("echo more; echo 'opens port 22' >&2; exit 3")).await;
    assert_eq!(asks.result(), &json!({"verdict": "approval", "reason": "opens port 22"}));
    assert!(asks.stream("system").contains("what follows needs an approval: opens port 22"), "{}", asks.text());
    let refuses = bed.run(with_plan("echo 'no public buckets' >&2; exit 1")).await;
    let Stop::Failed { reason, permanent, .. } = refuses.stop() else { panic!("{:?}", refuses.verdict) };
    assert_eq!((reason.as_str(), *permanent), ("refused by policy: no public buckets", true));
    // Tried: no plan, a plan that was not kept in JSON, a program that is not there, no program.
    let without = bed.run(policy(&snapshot, "true")).await;
    assert!(without.reason().contains("there is no plan to read"), "{}", without.reason());
    let lean = bed.run(Claimed { spec: json!({"plan_json": false}), ..plan(&snapshot) }).await;
    let blind = bed.run(Claimed { plan_attempt: Some(lean.attempt), ..policy(&snapshot, "true") }).await;
    assert!(blind.reason().contains("was not kept in JSON"), "{}", blind.reason());
    let absent = Claimed { spec: json!({"argv": ["no-such-policy"]}), ..with_plan("") };
    assert!(bed.run(absent).await.reason().contains("is not on this runner's PATH"));
    let empty = Claimed { spec: json!({"argv": []}), ..with_plan("") };
    assert!(bed.run(empty).await.reason().contains("argv: has no program"));
}

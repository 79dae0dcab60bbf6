//! Policies and budgets: what reads a plan, or its cost, may demand an approval of what follows, or refuse it.

use serde_json::{Value, json};

use crate::fleet::{Fleet, Runner, apply_at, id, refused, run};

async fn judge(fleet: &Fleet) -> Runner {
    let labels = ["kind=terraform.plan", "kind=infracost.breakdown", "kind=policy", "kind=terraform.apply", "place=p"];
    fleet.runner_of(&fleet.cluster, &labels).await
}

fn judged() -> Value {
    let mut snapshot = apply_at("s");
    snapshot["jobs"] = json!([
        {"name": "plan", "kind": "terraform.plan"},
        {"name": "rules", "kind": "policy", "argv": ["./rules"], "needs": ["plan"]},
        {"name": "apply", "kind": "terraform.apply", "needs": ["plan", "rules"]}]);
    snapshot
}

#[tokio::test]
async fn a_policy_passes_demands_an_approval_or_refuses() {
    let mut fleet = Fleet::new().await;
    let mut runner = judge(&fleet).await;
    for (report, apply, status) in [
        (json!({"outcome": "success", "log_end": -1, "result": {"verdict": "pass"}}), "QUEUED", "PROCESSING"),
        (
            json!({"outcome": "success", "log_end": -1, "result": {"verdict": "approval", "reason": "opens port 22"}}),
            "AWAITING_APPROVAL",
            "AWAITING_APPROVAL",
        ),
        (
            json!({"outcome": "failure", "log_end": -1, "permanent": true, "error": "refused by policy: no public buckets"}),
            "SKIPPED",
            "FAILED",
        ),
    ] {
        let deployment = fleet.deploy(judged()).await;
        let plan = runner.perform("success").await;
        let rules = runner.claim_one().await;
        assert_eq!(
            (rules.kind.as_str(), rules.mutating, rules.plan_attempt_id),
            ("policy", false, Some(plan.attempt_id))
        );
        runner.report(&rules, report).await;
        assert_eq!(
            (fleet.job(deployment, "apply").await.as_str(), fleet.status(deployment).await.as_str()),
            (apply, status)
        );
        if apply == "AWAITING_APPROVAL" {
            let waits = fleet.waiting_for(deployment).await.unwrap();
            assert!(waits.starts_with("approval of job apply (policy: opens port 22): "), "{waits}");
            run(&mut fleet.portal, &format!("select tendril.approve('{deployment}')")).await;
        }
        if status != "FAILED" {
            runner.perform("success").await;
            assert_eq!(fleet.status(deployment).await, "SUCCESS");
        }
    }
    // Tried: no plan to read, no program, a program where none belongs.
    let policy = |needs: Value| json!({"name": "rules", "kind": "policy", "argv": ["x"], "needs": needs});
    for (job, words) in [
        (policy(json!([])), "policy needs exactly one terraform.plan job"),
        (json!({"name": "rules", "kind": "policy", "needs": ["plan"]}), "jobs[1].argv: is required for kind policy"),
    ] {
        let mut snapshot = apply_at("s");
        snapshot["jobs"] = json!([{"name": "plan", "kind": "terraform.plan"}, job]);
        let sql = fleet.insert(id(), &snapshot);
        let refusal = refused(&mut fleet.portal, &sql).await;
        assert_eq!(refusal.sqlstate, "TD001");
        assert!(refusal.message.contains(words), "{}", refusal.message);
    }
}

fn within(budget: Value) -> Value {
    let mut snapshot = apply_at("s");
    snapshot["budget"] = budget;
    snapshot
}

#[tokio::test]
async fn a_budget_demands_an_approval_or_refuses_what_costs_more_or_is_not_known() {
    let mut fleet = Fleet::new().await;
    let mut runner = judge(&fleet).await;
    let (ask, refuse) = (json!({"monthly": 100}), json!({"monthly": 100, "over": "refuse"}));
    let cost = |total: Value, known: Value| json!({"total_monthly_cost": total, "known_monthly_cost": known});
    for (budget, result, apply, why) in [
        (&ask, cost(json!("100"), json!("100")), "QUEUED", ""),
        (&ask, cost(json!("100.01"), json!("100.01")), "AWAITING_APPROVAL", "budget: 100.01 a month is over 100"),
        (&ask, cost(Value::Null, json!("120")), "AWAITING_APPROVAL", "budget: at least 120 a month is over 100"),
        (
            &ask,
            cost(Value::Null, json!("80")),
            "AWAITING_APPROVAL",
            "budget: the cost is not wholly known, at least 80 a month",
        ),
        (&ask, json!({}), "AWAITING_APPROVAL", "budget: the cost is not wholly known"),
        (&ask, cost(json!("NaN"), Value::Null), "AWAITING_APPROVAL", "budget: the cost is not wholly known"),
        (&refuse, cost(json!("99.99"), json!("99.99")), "QUEUED", ""),
        (&refuse, cost(json!("1e9"), json!("101")), "SKIPPED", "budget: at least 101 a month is over 100"),
        (&refuse, cost(json!("250"), json!("250")), "SKIPPED", "budget: 250 a month is over 100"),
        (&refuse, cost(Value::Null, Value::Null), "AWAITING_APPROVAL", "budget: the cost is not wholly known"),
    ] {
        let deployment = fleet.deploy(within(budget.clone())).await;
        runner.perform("success").await;
        let estimate = runner.claim_one().await;
        assert_eq!(estimate.kind, "infracost.breakdown");
        runner.report(&estimate, json!({"outcome": "success", "log_end": -1, "result": result})).await;
        let state = fleet.state(deployment).await;
        let jobs: Vec<_> = state.jobs.iter().map(|job| (job.name.as_str(), job.state.as_str())).collect();
        assert_eq!(jobs[2], ("apply", apply), "{budget} {result}");
        match apply {
            "SKIPPED" => assert_eq!(state.error_message, Some(format!("cost: {why}"))),
            "AWAITING_APPROVAL" => assert_eq!(state.jobs[2].reason.as_deref(), Some(why), "{budget} {result}"),
            _ => assert_eq!(runner.claim_one().await.kind, "terraform.apply"),
        }
        run(
            &mut fleet.portal,
            &format!(
                "select tendril.cancel(id) from tendril.deployments where ended_at is null and id = '{deployment}'"
            ),
        )
        .await;
        run(&mut fleet.operator, "delete from tendril_core.held_keys").await;
    }
    // An estimate that fails is no proof of anything.
    let deployment = fleet.deploy(within(ask)).await;
    runner.perform("success").await;
    runner.perform("failure").await;
    assert_eq!(
        (fleet.job(deployment, "apply").await.as_str(), fleet.status(deployment).await.as_str()),
        ("SKIPPED", "FAILED")
    );
}

#[tokio::test]
async fn a_wrong_budget_is_named() {
    let mut fleet = Fleet::new().await;
    for (key, value, words) in [
        ("budget", json!({}), "config_snapshot.budget"),
        ("budget", json!({"monthly": -1}), "config_snapshot.budget.monthly: "),
        ("budget", json!({"monthly": 1, "over": "shrug"}), "config_snapshot.budget.over: "),
        ("cost", json!("off"), "config_snapshot.cost: contradicts budget"),
        ("action", json!("destroy"), "config_snapshot.budget: is for action apply"),
        (
            "jobs",
            json!([{"name": "plan", "kind": "terraform.plan"}]),
            "config_snapshot.budget: belongs to the default jobs",
        ),
    ] {
        let mut snapshot = within(json!({"monthly": 1}));
        snapshot[key] = value;
        let sql = fleet.insert(id(), &snapshot);
        let refusal = refused(&mut fleet.portal, &sql).await;
        assert_eq!(refusal.sqlstate, "TD001", "{snapshot}");
        assert!(refusal.message.starts_with(words), "{words}: {}", refusal.message);
    }
}

//! The engines' own lock of a state: who may have it looked at, and who may have it released.

use serde_json::{Value, json};

use crate::fleet::{Fleet, Runner, apply_at, exec, id, one, refused};
use crate::program::broker;

const LABELS: [&str; 5] =
    ["kind=terraform.plan", "kind=terraform.apply", "kind=terraform.lock", "kind=terraform.unlock", "place=p"];

fn unlock(deployment: uuid::Uuid, lock: &str, reason: &str) -> String {
    format!("select tendril.state_unlock('{deployment}', '{lock}', '{reason}')::text")
}

async fn applying(fleet: &mut Fleet) -> (uuid::Uuid, Runner, crate::fleet::Claimed) {
    let mut snapshot = apply_at("s");
    snapshot["unique_key"] = json!("once");
    let deployment = fleet.deploy(snapshot).await;
    let mut runner = fleet.runner_of(&fleet.cluster, &LABELS).await;
    runner.perform("success").await;
    let apply = runner.claim_one().await;
    runner.start(&apply).await;
    (deployment, runner, apply)
}

#[tokio::test]
async fn a_lock_is_looked_at_while_its_state_is_in_use_and_released_only_when_nobody_can_have_it() {
    let mut fleet = Fleet::new().await;
    let (deployment, mut runner, apply) = applying(&mut fleet).await;
    one::<String>(&mut fleet.portal, &format!("select tendril.state_lock('{deployment}')::text")).await;
    let look = runner.claim_one().await;
    assert_eq!((look.kind.as_str(), look.mutating, look.state_key.as_deref()), ("terraform.lock", false, None));
    runner.finish(&look, "success").await;

    let alive = refused(&mut fleet.operator, &unlock(deployment, "5f1c", "stuck")).await;
    assert!(alive.sqlstate == "TD003" && alive.message.contains("on runner test, which is alive"), "{}", alive.message);
    fleet.lose(&runner).await;
    let unknown = refused(&mut fleet.operator, &unlock(deployment, "5f1c", "stuck")).await;
    assert!(
        unknown.sqlstate == "TD003" && unknown.message.contains("nobody has said that it is dead"),
        "{}",
        unknown.message
    );
    // Its end is told after all, and the key is free with it.
    assert_eq!(runner.finish(&apply, "failure").await, "accepted");

    let released: String = one(&mut fleet.operator, &unlock(deployment, "5f1c", "stuck")).await;
    let mut next = fleet.runner_of(&fleet.cluster, &LABELS).await;
    let claimed = next.claim_one().await;
    assert_eq!(
        (claimed.kind.as_str(), claimed.mutating, claimed.state_key.as_deref()),
        ("terraform.unlock", true, Some("local://p/s#default"))
    );
    let spec: Value =
        one(&mut fleet.operator, &format!("select spec from tendril_core.jobs where deployment_id = '{released}'"))
            .await;
    assert_eq!((&spec["lock_id"], &spec["reason"]), (&json!("5f1c"), &json!("stuck")));
    next.start(&claimed).await;
    assert_eq!(next.finish(&claimed, "success").await, "accepted");
}

#[tokio::test]
async fn an_unlock_names_one_lock_and_a_reason_and_is_not_to_be_had_by_a_plain_submit() {
    let mut fleet = Fleet::new().await;
    let (deployment, mut runner, apply) = applying(&mut fleet).await;
    runner.finish(&apply, "success").await;
    for (lock, reason, says) in [
        ("", "x", "is no lock"),
        ("a b", "x", "is no lock"),
        ("-force", "x", "is no lock"),
        ("a", " ", "reason: is required"),
    ] {
        let refusal = refused(&mut fleet.operator, &unlock(deployment, lock, reason)).await;
        assert!(refusal.sqlstate == "TD001" && refusal.message.contains(says), "{lock}: {}", refusal.message);
    }
    let stranger = refused(&mut fleet.portal, &unlock(deployment, "5f1c", "mine")).await;
    assert_eq!(stranger.sqlstate, "42501", "a portal may look, not release");
    let stateless = fleet.deploy_jobs(&[exec("a")]).await;
    for sql in [unlock(stateless, "a", "x"), format!("select tendril.state_lock('{stateless}')")] {
        let refusal = refused(&mut fleet.operator, &sql).await;
        assert!(refusal.sqlstate == "TD003" && refusal.message.contains("keeps no state"), "{}", refusal.message);
    }
    // Sent again with its id it is submitted once; the id of something else is refused.
    let own = id();
    let again = format!("select tendril.state_unlock('{deployment}', '5f1c', 'stuck', '{own}')::text");
    for _ in 0..2 {
        assert_eq!(one::<String>(&mut fleet.operator, &again).await, own.to_string());
    }
    let other = refused(&mut fleet.operator, &format!("select tendril.state_lock('{deployment}', '{own}')")).await;
    assert_eq!(other.sqlstate, "TD002");

    // What belongs to the deployment's own jobs is no matter of its lock.
    let mut rich = apply_at("t");
    for (key, value) in [("budget", json!({"monthly": 100})), ("approval", json!("required")), ("priority", json!(3))] {
        rich[key] = value;
    }
    let rich = fleet.deploy(rich).await;
    let look: String = one(&mut fleet.portal, &format!("select tendril.state_lock('{rich}')::text")).await;
    let snapshot: Value =
        one(&mut fleet.operator, &format!("select config_snapshot from tendril.deployments where id = '{look}'")).await;
    let keys: Vec<_> = snapshot.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["backend", "jobs", "template"]);

    let mut by_hand = apply_at("s");
    by_hand["jobs"] = json!([{"name": "unlock", "kind": "terraform.unlock"}]);
    let by_hand = fleet.deploy(by_hand).await;
    let spec: Value =
        one(&mut fleet.operator, &format!("select spec from tendril_core.jobs where deployment_id = '{by_hand}'"))
            .await;
    assert_eq!(spec.get("lock_id"), None, "it is shown the lock, and releases nothing");
}

#[tokio::test]
async fn locks_are_shown_and_released_by_commands() {
    let mut fleet = Fleet::new().await;
    let (deployment, mut runner, apply) = applying(&mut fleet).await;
    let (url, deployment) = (fleet.database.url(), deployment.to_string());
    let release = ["state", "unlock", &deployment, "--lock-id", "5f1c", "--reason", "checked by hand", "--json"];
    let alive = broker(&url, &release).await;
    assert!(alive.code == 1 && alive.err.contains("is alive") && alive.err.contains("cancel it"), "{}", alive.err);
    runner.finish(&apply, "success").await;
    for arguments in [&["state", "lock", &deployment, "--json"][..], &release] {
        let made = broker(&url, arguments).await.json();
        assert_eq!(made["state_of"], json!(deployment));
        assert_eq!(fleet.status(made["id"].as_str().unwrap().parse().unwrap()).await, "QUEUED");
    }
    let text = broker(&url, &["state", "lock", &deployment]).await.out;
    assert!(text.contains("looks who holds the lock") && text.contains("tendril-broker watch"), "{text}");
}

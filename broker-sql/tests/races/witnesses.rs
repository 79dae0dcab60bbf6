//! A witness of a forgotten start beside claims: neither waits for what the other has while it has what the other waits for.

use serde_json::{Value, json};

use crate::fleet::{Fleet, one, run, sqlstate, start_sql};
use crate::keys::planned;
use crate::queue::until_waiting;

const GATE: &str = "the gate";

#[tokio::test]
async fn a_claim_that_wants_the_key_of_a_forgotten_start_and_its_witness_go_one_after_the_other() {
    let mut fleet = Fleet::new().await;
    planned(&mut fleet, &["s", "s"]).await;
    let (mut forgotten, mut other) = (fleet.runner().await, fleet.runner().await);
    let started = forgotten.claim_one().await;
    // The start is forgotten, the claim given up: its key is free, and the next job of that state stands in the queue.
    run(&mut fleet.operator, "update tendril.clusters set origin = 'before'").await;
    assert_eq!(fleet.lose(&forgotten).await, 1);
    let next = format!(
        "update tendril_core.queue set concurrency_key = '{GATE}';
         update tendril_core.jobs set concurrency_key = '{GATE}', concurrency_limit = 1 where id = (select job_id from tendril_core.queue)"
    );
    run(&mut fleet.operator, &next).await;
    // The claim stands between its job, which it has locked, and the key.
    let mut gate = fleet.database.operator().await;
    let shut = "begin; insert into tendril_core.concurrency_keys (cluster_id, concurrency_key) select id, '{GATE}' from tendril.clusters";
    run(&mut gate, &shut.replace("{GATE}", GATE)).await;
    let claiming = tokio::spawn(async move {
        other.claim_no += 1;
        let claimed = other.try_claim(8).await;
        (other, claimed)
    });
    until_waiting(&mut fleet, "%tendril.runner_claim%").await;
    let open = json!([{"attempt_id": started.attempt_id, "fence": started.fence, "started": true}]);
    let witness = json!({"incarnation": 1, "fence": 0, "runners": [], "open": open, "ended": []});
    let sql = format!("select tendril.runner_witness('{}', '{witness}')", forgotten.id);
    let telling = tokio::spawn(async move {
        let told: Result<Value, _> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut forgotten.session).await;
        told.map_err(|error| error.to_string())
    });
    until_waiting(&mut fleet, "select tendril.runner_witness%").await;
    run(&mut gate, "rollback").await;

    let (mut other, claimed) = claiming.await.unwrap();
    let claimed = claimed.expect("the claim is nobody's victim").remove(0);
    let told = telling.await.unwrap().expect("nor is the witness");
    assert_eq!(told["lost"], json!([started.attempt_id]));
    let holder = "select attempt_id from tendril_core.held_keys";
    assert_eq!(one::<uuid::Uuid>(&mut fleet.operator, holder).await, started.attempt_id, "who has started has the key");
    assert_eq!(sqlstate(&mut other.session, &start_sql(&claimed)).await, "TD005");
}

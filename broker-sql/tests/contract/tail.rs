//! Reading many logs at once.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, FromRow};
use tendril_broker::operator::grants::Scope;
use uuid::Uuid;

use crate::fleet::{Claimed, Fleet, Runner, connect, id, one, reading, refused, row, run};

#[derive(Clone, Debug, FromRow)]
struct Line {
    deployment_id: Uuid,
    attempt_id: Option<Uuid>,
    seq_to: Option<i64>,
    log_chunk: Option<String>,
    at_end: Option<String>,
}

/// A reader as a portal has one: deployments that are not done, and one position for all of them.
struct Reader {
    open: Vec<Uuid>,
    position: BTreeMap<Uuid, i64>,
    text: BTreeMap<Uuid, String>,
    done: BTreeMap<Uuid, String>,
}

impl Reader {
    fn new(open: &[Uuid]) -> Self {
        Self { open: open.to_vec(), position: BTreeMap::new(), text: BTreeMap::new(), done: BTreeMap::new() }
    }

    async fn page(&mut self, fleet: &mut Fleet, limit: i32, bytes: i32) -> Vec<Line> {
        let sql = "select deployment_id, attempt_id, seq_to, log_chunk, at_end from tendril.tail($1, $2, $3, $4)";
        let lines: Vec<Line> = sqlx::query_as(sql)
            .bind(self.open.clone())
            .bind(json!(self.position))
            .bind(limit)
            .bind(bytes)
            .fetch_all(&mut fleet.portal)
            .await
            .unwrap();
        for line in &lines {
            match (line.attempt_id, &line.log_chunk) {
                (Some(attempt), Some(text)) => {
                    self.position.insert(attempt, line.seq_to.unwrap());
                    self.text.entry(attempt).or_default().push_str(text);
                }
                (Some(_), None) => assert!(line.at_end.is_some()),
                (None, _) => {
                    self.open.retain(|open| *open != line.deployment_id);
                    self.done.insert(line.deployment_id, line.at_end.clone().unwrap());
                }
            }
        }
        lines
    }
}

/// Deployments of one reading job each, all claimed by one runner.
async fn claimed(fleet: &mut Fleet, count: i32) -> (Runner, Vec<Claimed>) {
    for _ in 0..count {
        fleet.deploy_jobs(&[reading("a")]).await;
    }
    let mut runner = fleet.runner().await;
    let claimed = runner.claim(count).await;
    runner.take_over().await;
    (runner, claimed)
}

#[tokio::test]
async fn many_logs_are_read_by_one_position_and_each_ends_where_it_ends() {
    let mut fleet = Fleet::new().await;
    let (mut runner, all) = claimed(&mut fleet, 3).await;
    let [a, b, c] = all.as_slice() else { panic!("{all:?}") };
    runner.copy(&[row(a, 0, 1, "one\ntwo\n"), row(b, 0, 0, "other\n")]).await.unwrap();
    let mut reader = Reader::new(&[a.deployment_id, b.deployment_id, c.deployment_id]);
    assert_eq!(reader.page(&mut fleet, 1000, 1_000_000).await.len(), 2);
    assert_eq!(reader.page(&mut fleet, 1000, 1_000_000).await.len(), 0, "nothing twice");
    // The finish comes before the last row, after it, and without any.
    runner.report(a, json!({"outcome": "success", "log_end": 2})).await;
    runner.report(c, json!({"outcome": "success", "log_end": -1})).await;
    runner.append(b, 1, 1, "last\n").await.unwrap();
    reader.page(&mut fleet, 1000, 1_000_000).await;
    assert_eq!(reader.done, BTreeMap::from([(c.deployment_id, "complete".into())]));
    runner.append(a, 2, 2, "three\n").await.unwrap();
    runner.report(b, json!({"outcome": "success", "log_end": 1})).await;
    reader.page(&mut fleet, 1000, 1_000_000).await;
    assert_eq!((reader.done.len(), reader.open.len()), (3, 0));
    let text: Vec<&String> = [a, b].map(|claimed| &reader.text[&claimed.attempt_id]).into();
    assert_eq!(text, ["one\ntwo\nthree\n", "other\nlast\n"]);
}

#[tokio::test]
async fn a_log_that_ends_before_its_deployment_says_so_and_one_that_closed_early_too() {
    let mut fleet = Fleet::new().await;
    let id = fleet.deploy_jobs(&[reading("a"), reading("b"), reading("c")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim(3).await;
    runner.take_over().await;
    let [a, b, c] = claimed.as_slice() else { panic!("{claimed:?}") };
    runner.copy(&[row(a, 0, 0, "a\n"), row(b, 0, 0, "b\n")]).await.unwrap();
    runner.report(a, json!({"outcome": "success", "log_end": 0})).await;
    runner.report(b, json!({"outcome": "success", "log_end": 5})).await;
    let close = format!("update tendril_core.attempts set log_state = 'incomplete' where id = '{}'", b.attempt_id);
    run(&mut fleet.operator, &close).await;
    let mut reader = Reader::new(&[id]);
    // Closed early is told only when all that is there was read.
    let first = reader.page(&mut fleet, 1, 1_000_000).await;
    let told = |lines: &[Line]| -> BTreeMap<Option<Uuid>, String> {
        let ends = lines.iter().filter_map(|line| Some((line.attempt_id, line.at_end.clone()?)));
        ends.collect()
    };
    assert_eq!(told(&first), BTreeMap::from([(Some(a.attempt_id), "complete".into())]));
    let second = reader.page(&mut fleet, 1000, 1_000_000).await;
    let both = [(Some(a.attempt_id), "complete".into()), (Some(b.attempt_id), "incomplete".into())];
    assert_eq!(told(&second), BTreeMap::from(both));
    runner.report(c, json!({"outcome": "success", "log_end": -1})).await;
    assert_eq!(told(&reader.page(&mut fleet, 1000, 1_000_000).await), BTreeMap::from([(None, "incomplete".into())]));
}

#[tokio::test]
async fn a_loud_log_starves_nobody_and_a_page_is_bounded_in_rows_and_bytes() {
    let mut fleet = Fleet::new().await;
    let (mut runner, all) = claimed(&mut fleet, 11).await;
    let (loud, quiet) = all.split_first().unwrap();
    let mut rows: Vec<String> = (0..500).map(|seq| row(loud, seq, seq, &"x".repeat(9_999))).collect();
    rows.extend(quiet.iter().map(|claimed| row(claimed, 0, 0, "quiet\n")));
    runner.copy(&rows).await.unwrap();
    let ids: Vec<Uuid> = all.iter().map(|claimed| claimed.deployment_id).collect();
    let mut reader = Reader::new(&ids);
    let page = reader.page(&mut fleet, 22, 1_000_000).await;
    assert!(page.len() <= 22);
    assert_eq!(reader.text.len(), 11, "each has a part of the page");
    // Who has nothing new leaves its part to the others; then bytes are the bound.
    assert_eq!(reader.page(&mut fleet, 22, 1_000_000).await.len(), 22);
    assert_eq!(reader.page(&mut fleet, 1000, 100_000).await.len(), 10);
    assert_eq!(reader.page(&mut fleet, 1000, 1).await.len(), 1, "a row that is larger than the bound comes alone");
    while !reader.page(&mut fleet, 1000, 1_000_000).await.is_empty() {}
    assert_eq!(reader.text[&loud.attempt_id].len(), 500 * 9_999);
    // The function for one deployment has the same bound.
    let sql = format!("select count(*) from tendril.logs_after('{}')", loud.deployment_id);
    assert_eq!(one::<i64>(&mut fleet.portal, &sql).await, 104);
}

#[tokio::test]
async fn where_bytes_run_out_everybody_gets_a_turn() {
    let mut fleet = Fleet::new().await;
    let (mut runner, all) = claimed(&mut fleet, 8).await;
    let text = "x".repeat(10_000);
    let rows: Vec<String> = all.iter().flat_map(|one| (0..60).map(|seq| row(one, seq, seq, &text))).collect();
    runner.copy(&rows).await.unwrap();
    let ids: Vec<Uuid> = all.iter().map(|claimed| claimed.deployment_id).collect();
    let mut reader = Reader::new(&ids);
    // Room for two rows of eight logs at each call: the chance that one of them has none after 60 calls is 3e-7.
    for _ in 0..60 {
        assert_eq!(reader.page(&mut fleet, 1000, 20_000).await.len(), 2);
    }
    assert_eq!(reader.text.len(), 8);
}

#[tokio::test]
async fn a_position_that_names_something_else_is_refused_by_name() {
    let mut fleet = Fleet::new().await;
    let (_runner, all) = claimed(&mut fleet, 2).await;
    let [a, b] = all.as_slice() else { panic!("{all:?}") };
    let nobody = id();
    let tail =
        |position: &Value| format!("select * from tendril.tail(array['{}']::uuid[], '{position}')", a.deployment_id);
    let after = |position: &Value| format!("select * from tendril.logs_after('{}', '{position}')", a.deployment_id);
    let upper = a.attempt_id.to_string().to_uppercase();
    for (key, value, message) in [
        (nobody.to_string(), json!(1), "is no attempt of the deployments asked for"),
        (b.attempt_id.to_string(), json!(1), "is no attempt of the deployments asked for"),
        ("".to_owned(), json!(1), "is no attempt's id"),
        ("attempt".to_owned(), json!(1), "is no attempt's id"),
        (if upper == a.attempt_id.to_string() { "X".into() } else { upper }, json!(1), "is no attempt's id"),
        (a.attempt_id.to_string(), json!("1"), "must be the number of a record"),
        (a.attempt_id.to_string(), json!(-2), "must be the number of a record"),
        (a.attempt_id.to_string(), json!(1.5), "must be the number of a record"),
        (a.attempt_id.to_string(), json!(1e30), "must be the number of a record"),
        (a.attempt_id.to_string(), json!(null), "must be the number of a record"),
    ] {
        let position = json!({key.clone(): value});
        for sql in [tail(&position), after(&position)] {
            let refusal = refused(&mut fleet.portal, &sql).await;
            assert_eq!(refusal.sqlstate, "TD001", "{position}");
            assert!(refusal.message.starts_with(&format!("position.{key}: {message}")), "{}", refusal.message);
            assert!(refusal.detail.unwrap().contains(&format!("position.{key}")));
        }
    }
    for position in [json!([]), json!("x"), json!(1)] {
        assert_eq!(refused(&mut fleet.portal, &tail(&position)).await.sqlstate, "TD001");
    }
    run(&mut fleet.portal, &tail(&json!({a.attempt_id.to_string(): -1}))).await;
}

#[tokio::test]
async fn only_what_the_caller_may_see_is_read_and_absent_and_foreign_look_the_same() {
    let mut fleet = Fleet::new().await;
    let (mut runner, all) = claimed(&mut fleet, 1).await;
    runner.append(&all[0], 0, 0, "ours\n").await.unwrap();
    let mine = all[0].deployment_id;
    let two = fleet.database.cluster("two").await;
    let mut stranger = connect(&fleet.database.portal(Scope::Cluster(two.id)).await.url).await;
    let theirs = id();
    let insert = format!(
        "insert into tendril.deployments (id, cluster_id, config_snapshot) values ('{theirs}', '{}', '{}')",
        two.id,
        json!({"jobs": [reading("a")]})
    );
    run(&mut stranger, &insert).await;
    let sql = |ids: &[Uuid]| {
        format!(
            "select * from tendril.tail(array[{}]::uuid[])",
            ids.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(",")
        )
    };
    run(&mut stranger, &sql(&[theirs])).await;
    run(&mut stranger, &sql(&[])).await;
    let absent = id();
    let mut messages = Vec::new();
    for other in [mine, absent] {
        let refusal = refused(&mut stranger, &sql(&[theirs, other])).await;
        assert_eq!(refusal.sqlstate, "TD002");
        messages.push(refusal.message.replace(&other.to_string(), "ID"));
    }
    assert_eq!(messages[0], messages[1]);
    assert_eq!(refused(&mut stranger, "select * from tendril.tail(null)").await.sqlstate, "TD002");
    assert_eq!(refused(&mut stranger, "select * from tendril.tail(array[null::uuid])").await.sqlstate, "TD002");
    let many = "select * from tendril.tail(array(select gen_random_uuid() from generate_series(1, 1001)))";
    assert_eq!(refused(&mut stranger, many).await.sqlstate, "TD011");
    let ours: i64 = sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from ({}) t", sql(&[mine]))))
        .fetch_one(&mut fleet.portal)
        .await
        .unwrap();
    assert_eq!(ours, 1);
}

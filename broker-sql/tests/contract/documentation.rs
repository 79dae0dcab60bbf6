//! The pages and the catalogue say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};
use tendril_broker::testing::TestDatabase;

use crate::fleet::{Fleet, one};
use crate::program::broker;

fn file(path: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn sql_page() -> String {
    file("docs/SQL.md")
}

async fn column(session: &mut PgConnection, sql: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(session).await.unwrap()
}

/// The cells of all rows of the page's tables whose first cell is code.
fn rows(page: &str) -> Vec<Vec<String>> {
    let row = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    page.lines().filter(|line| line.starts_with("| `")).map(row).collect()
}

fn code(cell: &str) -> String {
    cell.trim_matches('`').to_owned()
}

/// Rows of functions by signature.
fn functions(page: &str) -> BTreeMap<String, Vec<String>> {
    let rows = rows(page).into_iter().filter(|row| row[0].starts_with("`tendril.") && row[0].contains('('));
    rows.map(|row| (code(&row[0]).replace(", ", ","), row)).collect()
}

#[tokio::test]
async fn every_function_is_documented_and_nothing_else() {
    let database = TestDatabase::create().await;
    let catalogue = "select oid::regprocedure::text from pg_proc where pronamespace = 'tendril'::regnamespace";
    let there: BTreeSet<String> = column(&mut database.operator().await, catalogue).await.into_iter().collect();
    let documented: BTreeSet<String> = functions(&sql_page()).into_keys().collect();
    assert_eq!(documented, there);
}

#[tokio::test]
async fn every_example_runs() {
    let mut fleet = Fleet::new().await;
    let mut runner = fleet.runner().await;
    for (name, row) in functions(&sql_page()) {
        let example = code(&row[2]);
        let called = name.split('(').next().unwrap();
        assert!(example.contains(&format!("{called}(")), "{name}: its example calls something else: {example}");
        let session = match called {
            "tendril.log_archives" => &mut fleet.operator,
            name if name.contains("runner_") || name.contains("log_") => &mut runner.session,
            _ => &mut fleet.operator,
        };
        let done = sqlx::raw_sql(AssertSqlSafe(format!("begin; {example}"))).execute(&mut *session).await;
        if let Err(error) = done {
            // The ids of the page are nobody's: such a refusal is ours, anything else is a mistake in the page.
            let refusal = crate::fleet::refusal(error);
            assert!(refusal.sqlstate.starts_with("TD"), "{example}: {refusal:?}");
            assert!(row[3].contains(&refusal.sqlstate), "{name} does not name {}", refusal.sqlstate);
        }
        sqlx::raw_sql("rollback").execute(session).await.unwrap();
    }
}

#[tokio::test]
async fn every_test_that_is_named_exists() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/contract");
    let sources: String = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    for (name, row) in functions(&sql_page()) {
        let tests: Vec<String> = row[4].split(", ").map(code).collect();
        assert!(!tests.is_empty(), "{name} has no test");
        for test in tests {
            assert!(sources.contains(&format!("async fn {test}()")), "{name}: there is no test {test}");
        }
    }
}

#[tokio::test]
async fn every_sqlstate_is_documented_and_raised() {
    let database = TestDatabase::create().await;
    let mut operator = database.operator().await;
    let page = sql_page();
    let documented: BTreeSet<String> =
        page.lines().filter_map(|line| line.strip_prefix("| TD")).map(|rest| format!("TD{}", &rest[..3])).collect();
    let raised = "select distinct (regexp_matches(prosrc, 'TD[0-9]{3}', 'g'))[1] from pg_proc
                   where pronamespace in ('tendril'::regnamespace, 'tendril_core'::regnamespace)";
    let raised: BTreeSet<String> = column(&mut operator, raised).await.into_iter().collect();
    assert_eq!(documented, raised);
    assert_eq!(documented.len(), 15);
    let of_functions = "select oid::regprocedure::text as name, array(select distinct m[1] from regexp_matches(prosrc, 'TD[0-9]{3}', 'g') m) as codes
                          from pg_proc where pronamespace = 'tendril'::regnamespace";
    let functions = functions(&page);
    for row in sqlx::raw_sql(of_functions).fetch_all(&mut operator).await.unwrap() {
        let (name, codes): (String, Vec<String>) = (row.get(0), row.get(1));
        for code in codes {
            assert!(functions[&name][3].contains(&code), "{name} raises {code}, which its row does not name");
        }
    }
}

#[tokio::test]
async fn every_column_of_the_surface_is_documented_in_the_words_of_its_comment() {
    let database = TestDatabase::create().await;
    let page = sql_page();
    let columns = "select format('| `%s` | %s | %s |', attname, format_type(atttypid, atttypmod), col_description(c.oid, attnum))
                     from pg_class c join pg_attribute a on a.attrelid = c.oid
                    where relnamespace = 'tendril'::regnamespace and relkind in ('r', 'p', 'v') and relname <> 'log_inbox' and attnum > 0 and not attisdropped";
    for line in column(&mut database.operator().await, columns).await {
        assert!(page.contains(&line), "docs/SQL.md lacks this line:\n{line}");
    }
    for relation in [
        "clusters",
        "deployments",
        "deployment_logs",
        "live_logs",
        "jobs",
        "queue",
        "runners",
        "limits",
        "schedules",
        "dead_letters",
    ] {
        assert!(page.contains(&format!("### tendril.{relation}\n")), "{relation}");
    }
}

#[tokio::test]
async fn everything_in_the_catalogue_has_a_comment() {
    let database = TestDatabase::create().await;
    let mut operator = database.operator().await;
    for (what, sql) in [
        (
            "columns",
            "select c.oid::regclass || '.' || attname from pg_class c join pg_attribute a on a.attrelid = c.oid
              where relnamespace in ('tendril'::regnamespace, 'tendril_core'::regnamespace) and relkind in ('r', 'p', 'v')
                and attnum > 0 and not attisdropped and not c.relispartition and col_description(c.oid, attnum) is null",
        ),
        (
            "relations and types",
            "select oid::regclass::text from pg_class c
              where relnamespace in ('tendril'::regnamespace, 'tendril_core'::regnamespace) and (relkind in ('r', 'p', 'v') and not relispartition)
                and obj_description(oid, 'pg_class') is null",
        ),
        (
            "functions",
            "select oid::regprocedure::text from pg_proc where pronamespace in ('tendril'::regnamespace, 'tendril_core'::regnamespace)
                and obj_description(oid, 'pg_proc') is null",
        ),
    ] {
        assert_eq!(column(&mut operator, sql).await, Vec::<String>::new(), "{what} without a comment");
    }
}

#[tokio::test]
async fn the_doorbell_of_the_queue_is_all_that_notifies_so_no_log_row_does() {
    let database = TestDatabase::create().await;
    let mut operator = database.operator().await;
    let notifying = "select oid::regprocedure::text from pg_proc where pronamespace in ('tendril'::regnamespace, 'tendril_core'::regnamespace)
        and prosrc ~* '(pg_notify\\s*\\(|(^|;)\\s*notify\\s)'";
    assert_eq!(column(&mut operator, notifying).await, ["tendril_core.ring()"]);
    let rung_by = "select tgrelid::regclass::text from pg_trigger where tgfoid = 'tendril_core.ring'::regproc";
    assert_eq!(column(&mut operator, rung_by).await, ["tendril_core.queue_deltas"]);
}

#[tokio::test]
async fn functions_are_closed_to_public_and_pin_their_search_path() {
    let database = TestDatabase::create().await;
    let mut operator = database.operator().await;
    let open = "select oid::regprocedure::text from pg_proc where pronamespace in ('tendril'::regnamespace, 'tendril_core'::regnamespace)
                   and has_function_privilege('public', oid, 'EXECUTE')";
    assert_eq!(column(&mut operator, open).await, Vec::<String>::new());
    // portal_user() is the user's to replace and runs with the rights of whoever asks.
    let unpinned = "select oid::regprocedure::text from pg_proc where pronamespace in ('tendril'::regnamespace, 'tendril_core'::regnamespace)
                       and proname <> 'portal_user' and not coalesce(proconfig @> array['search_path=pg_catalog, pg_temp'], false)";
    assert_eq!(column(&mut operator, unpinned).await, Vec::<String>::new());
    let tables = "select c.oid::regclass::text from pg_class c where relnamespace in ('tendril'::regnamespace, 'tendril_core'::regnamespace)
                     and relkind in ('r', 'p', 'v', 'S') and has_table_privilege('public', c.oid, 'SELECT, INSERT, UPDATE, DELETE')";
    assert_eq!(column(&mut operator, tables).await, Vec::<String>::new());
}

#[tokio::test]
async fn the_published_schema_is_the_one_that_is_checked() {
    let database = TestDatabase::create().await;
    let checked: String =
        one(&mut database.operator().await, "select jsonb_pretty(tendril_core.snapshot_schema())").await;
    assert_eq!(
        file("docs/config-snapshot.schema.json").trim_end(),
        checked,
        "write it anew: psql -Atc 'select jsonb_pretty(tendril_core.snapshot_schema())' > docs/config-snapshot.schema.json"
    );
}

/// Each key that a snapshot may have, and the test that sees its effect.
const KEYS: &[(&str, &str)] = &[
    ("action", "cost_is_planned_when_a_runner_offers_it_or_the_snapshot_says_so"),
    ("approval", "approval_holds_a_job_back_until_somebody_gives_it"),
    ("backend", "a_tree_with_a_backend_of_its_own_is_refused_with_file_and_line"),
    ("backend.config", "a_remote_state_is_applied_by_another_runner_with_nothing_in_common"),
    ("backend.path", "a_plan_is_applied_and_destroyed_and_the_state_shows_it"),
    ("backend.place", "a_state_of_another_place_is_refused"),
    ("backend.type", "every_remote_backend_is_written_down_as_the_snapshot_has_it"),
    ("budget", "a_budget_demands_an_approval_or_refuses_what_costs_more_or_is_not_known"),
    ("budget.monthly", "a_budget_demands_an_approval_or_refuses_what_costs_more_or_is_not_known"),
    ("budget.over", "a_budget_demands_an_approval_or_refuses_what_costs_more_or_is_not_known"),
    ("concurrency", "at_most_so_many_with_one_key_run_at_once_and_the_others_stand_aside"),
    ("concurrency.key", "at_most_so_many_with_one_key_run_at_once_and_the_others_stand_aside"),
    ("concurrency.limit", "at_most_so_many_with_one_key_run_at_once_and_the_others_stand_aside"),
    ("jobs[].concurrency", "at_most_so_many_with_one_key_run_at_once_and_the_others_stand_aside"),
    ("jobs[].concurrency.key", "at_most_so_many_with_one_key_run_at_once_and_the_others_stand_aside"),
    ("jobs[].concurrency.limit", "at_most_so_many_with_one_key_run_at_once_and_the_others_stand_aside"),
    ("unique_key", "a_deployment_with_a_unique_key_lives_alone"),
    ("cost", "cost_is_planned_when_a_runner_offers_it_or_the_snapshot_says_so"),
    ("engine", "the_snapshot_says_which_of_several_engines_runs"),
    ("engine_version", "the_snapshot_says_which_of_several_engines_runs"),
    ("inputs", "a_template_is_rendered_with_its_inputs_and_applied"),
    ("jobs", "a_graph_runs_in_the_order_of_its_needs"),
    ("jobs[].approval", "a_deployment_whose_first_job_needs_approval_awaits_it_from_the_submit_on"),
    ("jobs[].argv", "a_job_that_runs_for_too_long_is_ended_and_says_so"),
    ("jobs[].destroy", "a_job_says_its_own_limits_and_adds_its_own_labels"),
    ("jobs[].if_failed", "what_a_job_does_when_a_need_fails_is_its_own_word"),
    ("jobs[].limits.plan_max_age_s", "a_plan_that_is_too_old_is_not_applied"),
    ("limits.plan_max_age_s", "a_plan_that_is_too_old_is_not_applied"),
    ("jobs[].kind", "only_a_runner_with_all_labels_gets_a_job"),
    ("jobs[].labels", "a_job_says_its_own_limits_and_adds_its_own_labels"),
    ("jobs[].limits", "a_job_says_its_own_limits_and_adds_its_own_labels"),
    ("jobs[].limits.kill_grace_s", "a_job_says_its_own_limits_and_adds_its_own_labels"),
    (
        "jobs[].limits.max_attempts",
        "a_failure_is_tried_again_only_for_reading_jobs_with_max_attempts_and_waits_longer_each_time",
    ),
    ("jobs[].limits.timeout_s", "a_job_says_its_own_limits_and_adds_its_own_labels"),
    ("jobs[].name", "a_failed_need_skips_what_waits_behind_it"),
    ("jobs[].needs", "a_graph_runs_in_the_order_of_its_needs"),
    ("jobs[].optional", "an_optional_job_that_fails_leaves_the_success_alone"),
    ("jobs[].reading", "what_was_claimed_or_only_reads_is_queued_again_and_the_old_attempt_is_stale"),
    ("labels", "only_a_runner_with_all_labels_gets_a_job"),
    ("limits", "limits_labels_and_engine_reach_the_jobs"),
    ("limits.kill_grace_s", "a_job_that_runs_for_too_long_is_ended_and_says_so"),
    ("limits.max_attempts", "limits_labels_and_engine_reach_the_jobs"),
    ("limits.timeout_s", "a_job_that_runs_for_too_long_is_ended_and_says_so"),
    ("jobs[].priority", "the_smaller_priority_goes_first_and_waiting_makes_up_for_it"),
    ("priority", "the_smaller_priority_goes_first_and_waiting_makes_up_for_it"),
    ("run_after", "nothing_runs_before_its_moment"),
    ("secrets", "a_secret_is_submitted_as_a_reference_and_never_as_a_value"),
    ("secrets[].as", "a_secret_of_each_source_reaches_its_command_and_no_log"),
    ("secrets[].commands", "a_secret_of_each_source_reaches_its_command_and_no_log"),
    ("secrets[].from", "a_secret_of_each_source_reaches_its_command_and_no_log"),
    ("secrets[].jobs", "a_secret_of_each_source_reaches_its_command_and_no_log"),
    ("secrets[].key", "a_secret_of_each_source_reaches_its_command_and_no_log"),
    ("secrets[].name", "a_secret_of_each_source_reaches_its_command_and_no_log"),
    ("secrets[].path", "a_secret_of_each_source_reaches_its_command_and_no_log"),
    ("secrets[].variable", "a_secret_of_each_source_reaches_its_command_and_no_log"),
    ("state_key", "a_backend_of_the_trees_own_is_used_as_it_is"),
    ("stateless", "a_state_that_is_thrown_away_leaves_nothing_on_the_place"),
    ("template", "it_runs_in_the_files_of_the_template_or_in_an_empty_folder"),
    ("template.git", "a_plan_runs_on_a_repository"),
    ("template.inline", "it_runs_in_the_files_of_the_template_or_in_an_empty_folder"),
    ("template.name", "the_template_hello_is_applied"),
    ("template.path", "branches_tags_commits_and_folders_are_fetched"),
    ("template.ref", "branches_tags_commits_and_folders_are_fetched"),
    ("template.submodules", "a_submodule_is_fetched_over_https_when_asked_for"),
    ("template.version", "inputs_templates_and_versions_that_do_not_fit_are_named"),
    ("workspace", "workspaces_have_a_state_each_and_are_made_when_they_are_new"),
];

/// The paths of all properties below a schema.
fn keys_of(schema: &serde_json::Value, path: &str) -> Vec<String> {
    let properties = schema["properties"].as_object().into_iter().flatten();
    let below = properties.flat_map(|(name, property)| {
        let path = format!("{path}{name}");
        let inner = [keys_of(property, &format!("{path}.")), keys_of(&property["items"], &format!("{path}[]."))];
        std::iter::once(path).chain(inner.into_iter().flatten())
    });
    below.collect()
}

/// All text of Rust files below a folder, but for what was built.
fn sources(folder: &std::path::Path) -> String {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: PathBuf| match path {
        path if path.is_dir() && !path.ends_with("target") && !path.ends_with("node_modules") => sources(&path),
        path if path.extension().is_some_and(|extension| extension == "rs") => std::fs::read_to_string(path).unwrap(),
        _ => String::new(),
    };
    entries.map(read).collect()
}

#[test]
fn every_key_of_a_snapshot_has_a_test_that_sees_its_effect() {
    let schema = serde_json::from_str(&file("docs/config-snapshot.schema.json")).unwrap();
    let there: BTreeSet<String> = keys_of(&schema, "").into_iter().collect();
    assert_eq!(KEYS.iter().map(|(key, _)| (*key).to_owned()).collect::<BTreeSet<_>>(), there);
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    let sources: String = ["broker-sql", "runner"].map(|folder| sources(&root.join(folder))).concat();
    for (key, test) in KEYS {
        assert!(sources.contains(&format!("fn {test}()")), "{key}: there is no test {test}");
    }
}

#[tokio::test]
async fn the_pages_snapshots_are_good_ones() {
    let database = TestDatabase::create().await;
    let mut operator = database.operator().await;
    let page = sql_page();
    let blocks: Vec<&str> = page.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        let snapshot: serde_json::Value = serde_json::from_str(block).unwrap();
        sqlx::query("select tendril_core.check_snapshot($1)").bind(snapshot).execute(&mut operator).await.unwrap();
    }
}

/// Commands that a help text lists.
fn listed(help: &str) -> Vec<String> {
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = commands.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.map(|line| line.split_whitespace().next().unwrap().to_owned()).filter(|name| name != "help").collect()
}

#[tokio::test]
async fn every_command_stands_in_the_page_of_the_program() {
    let page = file("docs/CLI.md");
    let mut commands = Vec::new();
    for name in listed(&broker("", &["--help"]).await.out) {
        let below = listed(&broker("", &[&name, "--help"]).await.out);
        match below.is_empty() {
            true => commands.push(name),
            false => commands.extend(below.iter().map(|sub| format!("{name} {sub}"))),
        }
    }
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands {
        assert!(page.contains(&format!("| `{command}")), "docs/CLI.md lacks {command}");
    }
}

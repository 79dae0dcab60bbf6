//! The same checker in Postgres.
//!
//! Runs through `psql` on the scratch database that `TENDRIL_TEST_SUPERUSER_URL` names; everything happens
//! in a transaction that is rolled back.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tendril_templates::InputError;

use super::cases::{self, check};
use super::generated::{Pair, pairs};

const MIGRATIONS: [&str; 2] = [
    include_str!("../../../broker-sql/migrations/0002_schema_check.sql"),
    include_str!("../../../broker-sql/migrations/0032_schema_fits.sql"),
];

/// What Postgres finds in each pair, or nothing (with a word on stderr) when there is no Postgres.
fn found_by_postgres(pairs: &[Pair]) -> Option<Vec<Vec<InputError>>> {
    let rows: Vec<Value> = pairs.iter().map(|pair| json!([pair.schema, pair.value])).collect();
    let query = format!(
        "select coalesce((select json_agg(json_build_array(e.path, e.message))
             from tendril_core.schema_errors((p.pair ->> 0)::jsonb, (p.pair ->> 1)::jsonb, 'inputs') as e), '[]')
         from json_array_elements($pairs${}$pairs$::json) with ordinality as p (pair, place) order by p.place;",
        Value::from(rows)
    );
    let lines = psql(&query)?;
    Some(lines.lines().map(errors).collect())
}

fn errors(line: &str) -> Vec<InputError> {
    let found: Vec<(String, String)> = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    found.into_iter().map(|(path, message)| InputError { path, message }).collect()
}

fn psql(query: &str) -> Option<String> {
    // In a transaction that is rolled back, in the maintenance database, where the tests' own role may create nothing.
    let Ok(url) = std::env::var("TENDRIL_TEST_SUPERUSER_URL") else {
        eprintln!("skipped: TENDRIL_TEST_SUPERUSER_URL is not set");
        return None;
    };
    let migrations = MIGRATIONS.concat();
    let script = format!(
        "begin; set client_min_messages = warning;
         drop schema if exists tendril_core cascade; create schema tendril_core;
         {migrations}
         {query}
         rollback;"
    );
    let mut psql = Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", &url])
        .env("PGCLIENTENCODING", "UTF8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql starts");
    let mut stdin = psql.stdin.take().expect("stdin is piped");
    let writer = std::thread::spawn(move || stdin.write_all(script.as_bytes()));
    let output = psql.wait_with_output().expect("psql ends");
    writer.join().expect("the writer does not panic").expect("psql reads its script");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).expect("psql writes UTF-8"))
}

/// Of how many pairs Postgres proves without a query that nothing is wrong; none of them may have an error.
fn proved_by_postgres(pairs: &[Pair]) -> Option<usize> {
    let rows: Vec<Value> = pairs.iter().map(|pair| json!([pair.schema, pair.value])).collect();
    let query = format!(
        "with proved as (
             select (p.pair ->> 0)::jsonb as s, (p.pair ->> 1)::jsonb as v
               from json_array_elements($pairs${}$pairs$::json) as p (pair)
              where tendril_core.schema_fits((p.pair ->> 0)::jsonb, (p.pair ->> 1)::jsonb))
         select json_build_array((select count(*) from proved), (select coalesce(json_agg(json_build_array(s, v, e.message)), '[]')
             from proved, tendril_core.schema_errors(s, v, 'inputs') as e));",
        Value::from(rows)
    );
    let (proved, wrong): (usize, Value) = serde_json::from_str(psql(&query)?.trim()).expect("two figures");
    assert_eq!(wrong, json!([]), "proved right, and wrong");
    Some(proved)
}

#[test]
fn what_is_proved_without_a_query_has_no_errors() {
    let cases = cases::all();
    let shared: Vec<_> =
        cases.iter().map(|case| Pair { schema: case.schema.to_string(), value: case.value.to_string() }).collect();
    // Tried: the shared cases, and generated pairs, most of which are wrong somewhere.
    for pairs in [shared, pairs(8_000)] {
        let Some(proved) = proved_by_postgres(&pairs) else { return };
        assert!(proved > 0, "none of {} was proved", pairs.len());
    }
}

#[test]
fn the_shared_cases_hold_in_postgres_word_for_word() {
    let cases = cases::all();
    let pairs: Vec<_> =
        cases.iter().map(|case| Pair { schema: case.schema.to_string(), value: case.value.to_string() }).collect();
    let Some(found) = found_by_postgres(&pairs) else {
        return;
    };
    assert_eq!(found.len(), cases.len());
    for (case, found) in cases.iter().zip(found) {
        let paths: Vec<_> = found.iter().map(|error| error.path.clone()).collect();
        assert_eq!(paths, case.errors, "{}: {found:?}", case.why);
        assert_eq!(found, check(&case.schema, &case.value), "{}", case.why);
    }
}

#[test]
fn generated_schemas_and_values_get_the_same_errors_in_rust_and_postgres() {
    let pairs = pairs(8_000);
    let Some(found) = found_by_postgres(&pairs) else {
        return;
    };
    assert_eq!(found.len(), pairs.len());
    for (pair, theirs) in pairs.iter().zip(found) {
        let schema = serde_json::from_str(&pair.schema).expect("generated JSON");
        let value = serde_json::from_str(&pair.value).expect("generated JSON");
        assert_eq!(theirs, check(&schema, &value), "{pair:?}");
    }
}

#[test]
fn decimals_that_no_double_tells_apart_are_equal_in_both() {
    let pairs: Vec<_> = [
        ("{\"const\": 0.1}", "0.1000000000000000000001"),
        ("{\"const\": {\"a\": [0.1000000000000000000001]}}", "{\"a\": [0.1]}"),
        ("{\"enum\": [1, 0.1]}", "0.1000000000000000000001"),
        ("{\"enum\": [1, [0.1]]}", "[0.1000000000000000000001]"),
        ("{\"const\": 0}", "1e-400"),
        ("{\"type\": \"integer\"}", "1.00000000000000000000001"),
        ("{\"minimum\": 0.1000000000000000000001}", "0.1"),
        ("{\"exclusiveMinimum\": 0.1}", "0.1000000000000000000001"),
        ("{\"uniqueItems\": true}", "[0.1, 0.1000000000000000000001]"),
    ]
    .into_iter()
    .map(|(schema, value)| Pair {
        schema: format!("{{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{{\"v\":{schema}}}}}"),
        value: format!("{{\"v\":{value}}}"),
    })
    .collect();
    let Some(found) = found_by_postgres(&pairs) else {
        return;
    };
    for (i, (pair, theirs)) in pairs.iter().zip(found).enumerate() {
        let schema = serde_json::from_str(&pair.schema).expect("JSON");
        let value = serde_json::from_str(&pair.value).expect("JSON");
        assert_eq!(theirs, check(&schema, &value), "{pair:?}");
        assert_eq!(theirs.is_empty(), i < 7, "{pair:?}");
    }
}

#[test]
fn a_value_of_too_many_parts_or_levels_is_refused_as_a_whole_by_both() {
    let schema = json!({"type": "object", "additionalProperties": false, "properties": {"v": {}}}).to_string();
    let values = [
        json!({"v": vec![0; 9_998]}).to_string(),
        json!({"v": vec![0; 9_999]}).to_string(),
        format!("{{\"v\":{}{}}}", "[".repeat(100), "]".repeat(100)),
    ];
    let expected = [None, Some("hold more than"), Some("nested deeper")];
    let pairs: Vec<_> = values.into_iter().map(|value| Pair { schema: schema.clone(), value }).collect();
    let theirs = found_by_postgres(&pairs);
    for (i, pair) in pairs.iter().enumerate() {
        let value = serde_json::from_str(&pair.value).expect("JSON");
        let ours = check(&serde_json::from_str(&schema).expect("JSON"), &value);
        assert_eq!(ours.first().is_some_and(|e| e.message.contains(expected[i].unwrap_or("?"))), expected[i].is_some());
        if let Some(theirs) = &theirs {
            assert_eq!(theirs[i], ours);
        }
    }
}

#[test]
fn postgres_refuses_a_schema_that_it_cannot_check() {
    for (schema, why) in [
        (r#"{"oneOf": []}"#, "an unknown keyword"),
        (r#"{"type": 5}"#, "a type that is no name"),
        (r#"{"minimum": "3"}"#, "a bound that is text"),
        ("true", "a schema that is no object"),
    ] {
        let query = format!(
            "do $do$ begin
                 perform tendril_core.schema_errors('{schema}', '3', 'inputs');
                 raise assert_failure using message = '{why} was taken';
             exception when invalid_parameter_value then null; end $do$;"
        );
        if psql(&query).is_none() {
            return;
        }
    }
}

#[test]
fn deeply_nested_json_ends_in_an_error_and_not_in_a_crash() {
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let query = format!("select path, message from tendril_core.schema_errors('{{}}', '{deep}', 'inputs');");
    let Some(answer) = psql(&query) else { return };
    assert!(answer.starts_with("inputs|must not be nested deeper"), "{answer}");
}

#[test]
fn the_functions_are_pinned_and_closed_to_the_public() {
    let query = "select p.proname || ': ' || p.provolatile::text || ' ' || coalesce(p.proconfig::text, '-')
             || ' ' || has_function_privilege('public', p.oid, 'execute')::text
             || ' ' || (obj_description(p.oid) is not null)::text
         from pg_proc as p where p.pronamespace = 'tendril_core'::regnamespace;";
    let Some(answer) = psql(query) else { return };
    assert!(answer.lines().count() >= 9, "{answer}");
    for line in answer.lines() {
        assert!(line.contains(": i {\"search_path=pg_catalog, pg_temp\""), "{line}");
        assert!(line.ends_with(" false true"), "{line}");
    }
}

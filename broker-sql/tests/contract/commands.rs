//! The commands: what they print, how they end, and what they say to bad input.

use std::time::Duration;

use serde_json::{Value, json};
use tendril_broker::operator::grants::Scope;

use crate::fleet::{Fleet, exec, limited, needing, one, reading, run};
use crate::program::{Running, broker, broker_fed};

const NOWHERE: &str = "01900000-0000-7000-8000-000000000000";

/// A command and words that its error must have. Names in braces stand for what the test has prepared.
type Wrong = (&'static [&'static str], &'static str);

const WRONG_USAGE: &[Wrong] = &[
    (&["frobnicate"], "unrecognized subcommand 'frobnicate'"),
    (&[], "Usage:"),
    (&["migrate", "--print", "--check"], "cannot be used with"),
    (&["cluster", "create"], "<NAME>"),
    (&["cluster", "create", "x", "--owner", "y"], "unexpected argument '--owner'"),
    (&["cluster", "limit", "one", "--max", "-1"], "unexpected argument '-1'"),
    (&["cluster", "limit", "one", "--max", "1", "--none"], "cannot be used with"),
    (&["runner", "pause", "x"], "invalid value 'x'"),
    (&["portal", "grant", "x"], "--scope"),
    (&["portal", "grant", "x", "--scope", "some"], "invalid value 'some'"),
    (&["portal", "grant", "x", "--scope", "cluster"], "--cluster"),
    (&["portal", "grant", "x", "--scope", "all", "--cluster", "one"], "--cluster belongs to --scope cluster"),
    (&["submit", "--cluster", "one"], "--file"),
    (&["submit", "--cluster", "one", "--file", "/nowhere/x.json"], "cannot read /nowhere/x.json"),
    (&["submit", "--cluster", "one", "--file", "{broken}"], "broken.json is not JSON: EOF while parsing"),
    (&["submit", "--cluster", "one", "--file", "{cyclic}", "--template", "t"], "cannot be used with"),
    (&["submit", "--cluster", "one", "--file", "{cyclic}", "--input", "a=b"], "cannot be used with"),
    (&["submit", "--cluster", "one", "--template", "t", "--input", "a"], "NAME=TEXT"),
    (&["submit", "--cluster", "one", "--template", "t", "--input", "a:={"], "the value of a is not JSON"),
    (&["submit", "--cluster", "one", "--template", "t", "--backend", "s3"], "it is not JSON"),
    (&["submit", "--cluster", "one", "--template", "t", "--backend", "[]"], "it is not a JSON object"),
    (&["submit", "--cluster", "one", "--template", "t", "--action", "explode"], "invalid value 'explode'"),
    (&["submit", "--cluster", "one", "--template", "t", "--id", "7"], "invalid value '7'"),
    (
        &["submit", "--cluster", "one", "--template", "t", "--inputs-file", "{cyclic}", "--timeout-s", "soon"],
        "invalid value 'soon'",
    ),
    (&["watch", "x"], "invalid value 'x'"),
    (&["logs"], "<ID>"),
    (&["status", "x"], "invalid value 'x'"),
    (&["list", "--status", "DONE"], "invalid value 'DONE'"),
    (&["list", "--limit", "0"], "invalid value '0'"),
    (&["snooze", "{queued}"], "--until"),
    (&["snooze", "{queued}", "--wake", "--for", "1 h"], "cannot be used with"),
    (&["schedule", "set", "n", "--cluster", "one", "--cron", "@daily"], "--file"),
    (
        &["schedule", "set", "n", "--cluster", "one", "--cron", "@daily", "--file", "x", "--missed", "some"],
        "invalid value 'some'",
    ),
    (&["dead-letters", "list", "--limit", "0"], "invalid value '0'"),
    (&["declare-lost", "{queued}"], "--job"),
    (&["key", "release", "k"], "--cluster"),
    (&["completions", "cmd"], "invalid value 'cmd'"),
];

const REFUSED: &[Wrong] = &[
    (&["cluster", "create", "one"], "there is a cluster one already"),
    (&["cluster", "create", "a/b"], "'a/b' is not a cluster's name"),
    (&["cluster", "rotate", "nobody"], "there is no cluster nobody"),
    (&["cluster", "rotate", "one", "--drain", "soon"], "invalid input syntax for type interval: \"soon\""),
    (&["cluster", "revoke", NOWHERE], "there is no cluster 01900000"),
    (&["cluster", "pause", "nobody"], "there is no cluster nobody"),
    (&["cluster", "resume", NOWHERE], "there is no cluster 01900000"),
    (&["cluster", "limit", "one", "--max", "1", "--kind", "bash"], "unknown kind bash"),
    (&["runner", "pause", NOWHERE], "there is no runner 01900000"),
    (&["runner", "resume", NOWHERE], "there is no runner 01900000"),
    (&["portal", "grant", "nobody_here", "--scope", "all"], "there is no role nobody_here"),
    (&["portal", "grant", "tendril_ops", "--scope", "cluster", "--cluster", "nobody"], "there is no cluster nobody"),
    (&["portal", "revoke", "nobody_here"], "role nobody_here has no grant"),
    (&["submit", "--cluster", "nobody", "--template", "t"], "there is no cluster nobody"),
    (&["submit", "--cluster", NOWHERE, "--template", "t", "--stateless"], "there is no cluster 01900000"),
    (&["submit", "--cluster", "one", "--template", "t"], "config_snapshot.backend: is required"),
    (&["submit", "--cluster", "one", "--file", "{cyclic}"], "config_snapshot.jobs: needs form a cycle: a, b"),
    (
        &["submit", "--cluster", "one", "--file", "{unknown_kind}"],
        "config_snapshot.jobs[0].kind: unknown kind bash; known are exec, infracost.breakdown",
    ),
    (&["watch", NOWHERE], "there is no deployment 01900000"),
    (&["logs", NOWHERE], "there is no deployment 01900000"),
    (&["status", NOWHERE], "there is no deployment 01900000"),
    (&["list", "--cluster", "nobody"], "there is no cluster nobody"),
    (&["cancel", NOWHERE], "there is no deployment 01900000"),
    (&["cancel", "{finished}"], "the deployment has ended already: CANCELLED"),
    (&["approve", NOWHERE], "there is no deployment 01900000"),
    (&["approve", "{queued}"], "no job of the deployment waits for approval"),
    (&["approve", "{queued}", "--job", "b"], "no job b of the deployment waits for approval"),
    (&["reject", NOWHERE], "there is no deployment 01900000"),
    (&["reject", "{queued}", "--job", "b"], "no job b of the deployment waits for approval"),
    (
        &["schedule", "set", "n", "--cluster", "one", "--cron", "often", "--file", "{cyclic}"],
        "config_snapshot.jobs: needs form a cycle",
    ),
    (&["schedule", "delete", NOWHERE], "there is no schedule 01900000"),
    (&["schedule", "times", "often"], "cron: 'often' has not five fields"),
    (&["dead-letters", "redrive", NOWHERE], "there is no deployment 01900000"),
    (&["dead-letters", "redrive", "{finished}"], "no job of the deployment has used up its attempts"),
    (&["retry", NOWHERE], "there is no deployment 01900000"),
    (&["retry", "{queued}"], "only FAILED and CANCELLED ones are done again"),
    (&["retry", "{finished}", "--new-id", "{queued}"], "is something else"),
    (&["snooze", NOWHERE, "--wake"], "there is no deployment 01900000"),
    (&["snooze", "{queued}", "--until", "soon"], "invalid input syntax for type timestamp with time zone: \"soon\""),
    (&["snooze", "{queued}", "--for", "soon"], "invalid input syntax for type interval: \"soon\""),
    (&["snooze", "{queued}", "--for", "2 years"], "lies more than a year ahead"),
    (&["snooze", "{queued}", "--wake", "--job", "b"], "no job b of the deployment waits"),
    (&["declare-lost", "{queued}", "--job", "b", "--reason", "r"], "has no job b"),
    (&["declare-lost", "{queued}", "--job", "a", "--reason", "r"], "only one that started can be declared lost"),
    (&["after-restore", "--cluster", "nobody"], "there is no cluster nobody"),
    (&["key", "release", "--cluster", "one", "k", "--reason", "r"], "key k is not held"),
    (&["key", "list", "--cluster", "nobody"], "there is no cluster nobody"),
    (&["template", "lint", "/nowhere"], "/nowhere"),
    (&["template", "register", "/nowhere"], "/nowhere"),
];

#[tokio::test]
async fn every_command_names_what_is_wrong_with_its_input() {
    let mut fleet = Fleet::new().await;
    let url = fleet.database.url();
    let finished = fleet.deploy_jobs(&[exec("a")]).await.to_string();
    run(&mut fleet.portal, &format!("select tendril.cancel('{finished}')")).await;
    let queued = fleet.deploy_jobs(&[exec("a")]).await.to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (broken, cyclic) = (
        file("broken.json", "{\"jobs\": ["),
        file("cyclic.json", &json!({"jobs": [needing(exec("a"), &["b"]), needing(exec("b"), &["a"])]}).to_string()),
    );
    let unknown_kind = file("kind.json", &json!({"jobs": [{"name": "a", "kind": "bash"}]}).to_string());
    let prepared = [
        ("{broken}", &broken),
        ("{cyclic}", &cyclic),
        ("{unknown_kind}", &unknown_kind),
        ("{finished}", &finished),
        ("{queued}", &queued),
    ];
    let fill = |text: &&str| prepared.iter().fold((*text).to_owned(), |text, (name, value)| text.replace(name, value));
    let table = WRONG_USAGE.iter().map(|wrong| (2, wrong)).chain(REFUSED.iter().map(|wrong| (1, wrong)));
    for (code, (arguments, words)) in table {
        let arguments: Vec<String> = arguments.iter().map(fill).collect();
        let ran = broker(&url, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let said = format!("{}{}", ran.out, ran.err);
        assert_eq!(ran.code, code, "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: wanted {words:?} in {said}");
    }
    // The whole error, for programs.
    let ran = broker(&url, &["submit", "--cluster", "one", "--file", &unknown_kind, "--json"]).await;
    let error: Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!(error["error"]["sqlstate"], "TD001");
    assert_eq!(error["error"]["problems"][0]["path"], "config_snapshot.jobs[0].kind");
    // What the server cannot know how to mend, the program does.
    let absent: Value = serde_json::from_str(&broker(&url, &["status", NOWHERE, "--json"]).await.err).unwrap();
    assert!(absent["error"]["hint"].as_str().unwrap().contains("cluster list"), "{absent}");
}

#[tokio::test]
async fn wrong_usage_is_an_object_too_when_json_is_asked_for() {
    for (arguments, words) in [
        (&["frobnicate", "--json"][..], "unrecognized subcommand 'frobnicate'"),
        (&["--json", "list", "--frob"], "unexpected argument '--frob' found"),
        (
            &["--json", "submit", "--cluster", "one"],
            "the following required arguments were not provided: <--file <FILE>",
        ),
        (&["watch", "x", "--json"], "invalid value 'x' for '<ID>'"),
        (&["list", "--json"], "no database is named"),
        (&["submit", "--json", "--cluster", "one", "--file", "/nowhere/x.json"], "cannot read /nowhere/x.json"),
    ] {
        let ran = broker("", arguments).await;
        let error: Value = serde_json::from_str(&ran.err).unwrap_or_else(|bad| panic!("{bad}: {:?}", ran.err));
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{arguments:?}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.starts_with(words) && !message.contains("Usage:"), "{arguments:?}: {message}");
    }
    let help = broker("", &["--json", "--help"]).await;
    assert!(help.code == 0 && help.out.contains("Commands:"), "{}", help.err);
}

#[tokio::test]
async fn a_portals_role_submits_watches_and_reads_by_the_commands() {
    let mut fleet = Fleet::new().await;
    let portal = fleet.database.portal(Scope::All).await;
    let url = portal.url.as_str();
    let snapshot =
        json!({"jobs": [limited(reading("hello"), json!({"timeout_s": 60})), needing(exec("it-is"), &["hello"])]});
    // From standard input, by name; what is printed with --print-sql is what is sent.
    let shown =
        broker_fed(url, &["submit", "--cluster", "one", "--file", "-", "--print-sql"], &snapshot.to_string()).await;
    assert_eq!(shown.code, 0, "{}", shown.err);
    run(&mut fleet.portal, &shown.out).await;
    let printed: Value = one(&mut fleet.portal, "select config_snapshot from tendril.deployments").await;
    assert_eq!(printed, snapshot);
    let id = "0190aaaa-0000-7000-8000-000000000001";
    let arguments = ["submit", "--cluster", "one", "--file", "-", "--id", id, "--json"];
    for queued in [true, false] {
        let ran = broker_fed(url, &arguments, &snapshot.to_string()).await;
        let expected = json!({"id": id, "cluster_id": fleet.cluster.id, "status": "QUEUED", "queued": queued});
        assert_eq!((ran.code, ran.json()), (0, expected), "{}", ran.err);
    }
    let listed = broker(url, &["list", "--cluster", "one", "--status", "queued", "--json"]).await.json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(listed[0]["id"], id);
    let status = broker(url, &["status", id]).await;
    assert!(status.out.contains("it-is  exec  BLOCKED  0         waits for job hello"), "{}", status.out);
    assert_eq!(
        broker(url, &["cancel", id, "--reason", "enough", "--json"]).await.json(),
        json!({"id": id, "status": "CANCELLED"})
    );
    let watched = broker(url, &["watch", id]).await;
    assert_eq!((watched.code, watched.out.as_str()), (3, "CANCELLED\n"));
    let retried = broker(url, &["retry", id, "--json"]).await.json();
    assert_eq!(retried["retry_of"], id);
}

#[tokio::test]
async fn watch_streams_logs_while_they_happen_and_ends_with_outputs_and_status() {
    let mut fleet = Fleet::new().await;
    let portal = fleet.database.portal(Scope::All).await;
    for (outcome, code, last) in
        [("success", 0, "SUCCESS"), ("failure", 1, "FAILED: a: failure"), ("cancelled", 3, "CANCELLED")]
    {
        let deployment = fleet.deploy_jobs(&[exec("a")]).await;
        let mut runner = fleet.runner().await;
        let mut watch = Running::start(&portal.url, &["watch", &deployment.to_string()]);
        watch.says("== QUEUED").await;
        let claimed = runner.claim_one().await;
        watch.says("-- a: CLAIMED").await;
        runner.start(&claimed).await;
        runner.take_over().await;
        // Each line is on the terminal before the next one is written.
        runner.append(&claimed, 0, 0, "first line\n").await.unwrap();
        assert_eq!(watch.prints("first").await, "a | first line");
        runner
            .append(&claimed, 1, 2, "second \u{1b}[31mred\u{1b}[0m \u{1b}]0;title\u{7}line\nthird line\n")
            .await
            .unwrap();
        assert_eq!(watch.prints("second").await, "a | second red line");
        let result = json!({"outputs": {"url": {"value": "http://x", "sensitive": false}, "n": {"value": 3}}});
        runner.report(&claimed, json!({"outcome": outcome, "log_end": 3, "result": result})).await;
        // The end waits for the last row.
        runner.append(&claimed, 3, 3, "last line\n").await.unwrap();
        assert_eq!(watch.prints("last").await, "a | last line");
        watch.says(last.split(':').next().unwrap()).await;
        if outcome == "success" {
            assert_eq!(watch.prints("=").await, "n = 3");
            assert_eq!(watch.prints("=").await, "url = http://x");
        }
        assert_eq!(watch.prints(last).await, last);
        assert_eq!(watch.end().await.code(), Some(code));
        let logs = broker(&portal.url, &["logs", &deployment.to_string()]).await;
        assert_eq!(logs.out, "a | first line\na | second red line\na | third line\na | last line\n");
        let logs = broker(&portal.url, &["logs", "--follow", "--json", &deployment.to_string()]).await;
        let lines: Vec<Value> = logs.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((logs.code, lines.len(), &lines[1]["seq_to"], &lines[1]["type"]), (0, 3, &json!(2), &json!("log")));
    }
}

#[tokio::test]
async fn watch_as_json_is_one_object_per_line() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    runner.perform("success").await;
    let ran = broker(&fleet.database.url(), &["watch", "--json", &deployment.to_string()]).await;
    let lines: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let types: Vec<_> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!((ran.code, types), (0, vec!["status", "job", "end"]));
    assert_eq!((&lines[2]["status"], &lines[2]["logs_complete"]), (&json!("SUCCESS"), &json!(true)));
}

#[tokio::test]
async fn ctrl_c_leaves_the_deployment_running_and_says_so() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    for signal in ["INT", "TERM"] {
        let mut watch = Running::start(&fleet.database.url(), &["watch", &deployment.to_string()]);
        watch.says("== QUEUED").await;
        watch.signal(signal).await;
        watch.says("the deployment goes on without us").await;
        assert_eq!(watch.end().await.code(), Some(130));
    }
    assert_eq!(fleet.status(deployment).await, "QUEUED");
}

#[tokio::test]
async fn a_watch_outlives_its_connection_and_tells_nothing_twice() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    runner.start(&claimed).await;
    runner.take_over().await;
    runner.append(&claimed, 0, 0, "before\n").await.unwrap();
    let mut watch = Running::start(&fleet.database.url(), &["watch", &deployment.to_string()]);
    watch.prints("before").await;
    run(
        &mut fleet.operator,
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'tendril-broker' and datname = current_database()",
    )
    .await;
    watch.says("trying again").await;
    runner.append(&claimed, 1, 1, "after\n").await.unwrap();
    assert_eq!(watch.out.next_line().await.unwrap().as_deref(), Some("a | after"));
    runner.report(&claimed, json!({"outcome": "success", "log_end": 1})).await;
    assert_eq!(watch.end().await.code(), Some(0));
}

#[tokio::test]
async fn a_lost_attempt_without_an_end_does_not_keep_a_watch_forever() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    runner.start(&claimed).await;
    fleet.lose(&runner).await;
    run(&mut fleet.operator, &format!("select tendril.declare_lost('{deployment}', 'a', 'gone')")).await;
    let url = fleet.database.url();
    let id = deployment.to_string();
    let arguments = ["watch", &id];
    let watched = tokio::time::timeout(Duration::from_secs(60), broker(&url, &arguments)).await.unwrap();
    assert_eq!((watched.code, watched.out.as_str()), (1, "FAILED: a: declared lost: gone\n"));
    assert!(watched.err.contains("not all of the log has arrived"), "{}", watched.err);
}

#[tokio::test]
async fn operators_commands_do_what_they_say() {
    let mut fleet = Fleet::new().await;
    let url = fleet.database.url();
    let made = broker(&url, &["cluster", "create", "two", "--user-id", "ann", "--json"]).await.json();
    let token = made["token"].as_str().unwrap();
    assert_eq!(one::<i32>(&mut fleet.database.runner(token).await, "select 1").await, 1);
    let text = broker(&url, &["cluster", "create", "three"]).await.out;
    assert!(text.contains("TENDRIL_AGENT_TOKEN") && text.contains("shown only now"), "{text}");
    let rotated = broker(&url, &["cluster", "rotate", "two", "--json"]).await.json();
    assert_eq!((&rotated["generation"], &rotated["id"]), (&json!(2), &made["id"]));
    let listed = broker(&url, &["cluster", "list", "--json"]).await.json();
    let two = listed.as_array().unwrap().iter().find(|c| c["name"] == "two").unwrap();
    assert_eq!((&two["credentials"], &two["user_id"]), (&json!(["1 draining", "2 active"]), &json!("ann")));
    assert_eq!(broker(&url, &["cluster", "revoke", "two", "--now", "--json"]).await.json()["ended"], json!(true));
    // A name that two users gave is no name.
    for user in ["ann", "bob"] {
        broker(&url, &["cluster", "create", "same", "--user-id", user]).await;
    }
    let ambiguous = broker(&url, &["cluster", "rotate", "same"]).await;
    assert!(ambiguous.code == 1 && ambiguous.err.contains("2 clusters are named same"), "{}", ambiguous.err);

    let role = fleet.database.login_role().await.role;
    let granted =
        broker(&url, &["portal", "grant", &role, "--scope", "cluster", "--cluster", "one", "--json"]).await.json();
    assert_eq!((&granted["role"], &granted["grants"][0]["cluster"]), (&json!(role), &json!("one")));
    assert!(broker(&url, &["portal", "list", "--json"]).await.json()[1]["scope"].is_string());
    assert_eq!(broker(&url, &["portal", "revoke", &role, "--json"]).await.json(), json!({"role": role, "grants": []}));

    let mut approved = exec("a");
    approved["approval"] = json!("required");
    let deployment = fleet.deploy_jobs(&[approved]).await.to_string();
    assert_eq!(broker(&url, &["approve", &deployment, "--reason", "ok", "--json"]).await.json()["approved"], json!(1));
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    runner.start(&claimed).await;
    fleet.lose(&runner).await;
    let lost = broker(&url, &["declare-lost", &deployment, "--job", "a", "--reason", "node died", "--json"]).await;
    assert_eq!((lost.code, &lost.json()["state"]), (0, &json!("FAILED")));
}

#[tokio::test]
async fn held_keys_are_shown_and_released() {
    let mut fleet = Fleet::new().await;
    let url = fleet.database.url();
    fleet.deploy(crate::fleet::apply_at("s")).await;
    let mut runner = fleet.runner().await;
    runner.perform("success").await;
    let apply = runner.claim_one().await;
    runner.start(&apply).await;
    let key = "local://p/s#default";
    let release = ["key", "release", "--cluster", "one", key, "--reason", "checked by hand", "--json"];
    let listed = broker(&url, &["key", "list", "--json"]).await.json();
    assert_eq!(
        (&listed[0]["key"], &listed[0]["holder_alive"], &listed[0]["job_state"]),
        (&json!(key), &json!(true), &json!("STARTED"))
    );
    let alive = broker(&url, &release).await;
    assert!(alive.code == 1 && alive.err.contains("the key's holder is alive"), "{}", alive.err);
    fleet.lose(&runner).await;
    assert_eq!(broker(&url, &release).await.json(), json!({"cluster_id": fleet.cluster.id, "key": key, "held": false}));
    assert_eq!(broker(&url, &["key", "list"]).await.out, "no key is held\n");
}

#[tokio::test]
async fn completions_and_closed_pipes_are_no_trouble() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let ran = broker("", &["completions", shell]).await;
        assert!(ran.code == 0 && ran.out.contains("declare-lost"), "{shell}");
    }
    let mut command = crate::program::command("", &["migrate", "--print"]);
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[tokio::test]
async fn a_template_is_checked_and_registered_and_then_submits_are_checked_against_it() {
    let fleet = Fleet::new().await;
    let url = fleet.database.url();
    let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../templates/hello");
    let shipped = shipped.to_str().unwrap();
    assert_eq!(broker("", &["template", "lint", shipped, "--json"]).await.json(), json!({"findings": []}));
    for registered in [true, false] {
        let ran = broker(&url, &["template", "register", shipped, "--json"]).await;
        assert_eq!((ran.code, &ran.json()["registered"]), (0, &json!(registered)), "{}", ran.err);
    }
    let version = broker(&url, &["template", "register", shipped, "--json"]).await.json()["version"].clone();
    let version = version.as_str().unwrap();
    let unknown_input = [
        "submit",
        "--cluster",
        "one",
        "--template",
        "hello",
        "--template-version",
        version,
        "--stateless",
        "--input",
        "no-such=1",
    ];
    let refused = broker(&url, &unknown_input).await;
    assert_eq!(refused.code, 1, "{}{}", refused.out, refused.err);
    assert!(refused.err.contains("config_snapshot.inputs"), "{}", refused.err);
    // A copy with a mistake in it: a version that is none.
    let folder = tempfile::tempdir().unwrap();
    let manifest = std::fs::read_to_string(format!("{shipped}/template.yaml")).unwrap().replace(version, "newest");
    std::fs::write(folder.path().join("template.yaml"), manifest).unwrap();
    let broken = folder.path().to_str().unwrap();
    let linted = broker("", &["template", "lint", broken, "--json"]).await;
    assert_eq!((linted.code, &linted.json()["findings"][0]["file"]), (1, &json!("template.yaml")));
    let registered = broker(&url, &["template", "register", broken]).await;
    assert!(registered.code == 1 && registered.err.contains("template.yaml: version"), "{}", registered.err);
}

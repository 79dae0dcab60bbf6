//! Secrets by reference: the broker sees where they lie, one command sees what they are, and nobody sees them in a log.

use crate::bed::{Bed, Outcome, apply, job, plan};
use crate::http::serve;
use crate::terraform::terraform_bed;
use crate::tls::Server;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tendril_runner::secrets::VaultSettings;
use tendril_runner::stop::Stop;

async fn sh(bed: &Bed, secrets: Value, script: &str) -> Outcome {
    bed.run(job("exec", json!({ "secrets": secrets }), json!({"argv": ["sh", "-c", script]}))).await
}

fn folder(bed: &mut Bed) -> PathBuf {
    let folder = bed.config.state_dir.parent().unwrap().join("mounted");
    std::fs::create_dir(&folder).unwrap();
    bed.config.secrets.folders = vec![folder.clone()];
    folder
}

/// A Vault: what it was asked, with which token.
fn vault(bed: &mut Bed) -> Arc<Mutex<Vec<String>>> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let token_file = bed.config.state_dir.parent().unwrap().join("vault-token");
    std::fs::write(&token_file, "hvs.a-token-of-thirty-characters\n").unwrap();
    bed.config.secrets.vault = Some(VaultSettings {
        address: format!("http://{}", listener.local_addr().unwrap()),
        token_file,
        paths: vec!["apps/*".into()],
        mount: "kv".into(),
        namespace: Some("team".into()),
        ca_file: None,
        timeout_s: 5,
    });
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = asked.clone();
    serve(listener, move |method, path, _| {
        noted.lock().unwrap().push(format!("{method} {path}"));
        let answer = |status, body: Value| (status, body.to_string().into_bytes());
        match path {
            "/v1/kv/data/apps/db" => answer(
                "200 OK",
                json!({"data": {"data": {"password": "vaulted-word", "port": 5432, "empty": ""}, "metadata": {"version": 3}}}),
            ),
            "/v1/kv/data/apps/denied" => answer("403 Forbidden", json!({"errors": ["permission denied"]})),
            "/v1/kv/data/apps/sealed" => answer("503 Service Unavailable", json!({"errors": ["Vault is sealed"]})),
            "/v1/kv/data/apps/nonsense" => ("200 OK", b"<html>".to_vec()),
            _ => answer("404 Not Found", json!({"errors": []})),
        }
    });
    asked
}

#[tokio::test]
async fn a_secret_of_each_source_reaches_its_command_and_no_log() {
    let mut bed = Bed::new();
    bed.config.secrets.env = vec!["APP_*".into()];
    bed.own_env.insert("APP_TOKEN".into(), "from-the-environment".into());
    let mounted = folder(&mut bed);
    std::fs::create_dir(mounted.join("db")).unwrap();
    std::fs::write(mounted.join("db/password"), "from-a-mounted-file\n").unwrap();
    std::fs::write(mounted.join("config"), "first-secret-line\nsecond-secret-line\n").unwrap();
    let asked = vault(&mut bed);
    let secrets = json!([
        {"variable": "A", "from": "env", "name": "APP_TOKEN"},
        {"variable": "B", "from": "file", "path": "db/password"},
        {"variable": "C", "from": "vault", "path": "apps/db", "key": "password"},
        {"variable": "D", "from": "file", "path": "config", "as": "file"},
        {"variable": "E", "from": "env", "name": "APP_TOKEN", "jobs": ["another"]},
        {"variable": "F", "from": "env", "name": "APP_TOKEN", "commands": ["init"]},
    ]);
    let script = "test $A$B$C = from-the-environmentfrom-a-mounted-filevaulted-word && echo right; stat -c %a $D; wc -l < $D; \
                  echo \"<$A> <$B> <$C> <$E> <$F>\"; cat $D >&2; printf %s $C | base64";
    let done = sh(&bed, secrets.clone(), script).await;
    done.result();
    assert_eq!(
        done.stream("stdout"),
        "right\n600\n2\n<[redacted]> <[redacted]> <[redacted]> <> <>\n[redacted]\n",
        "{}",
        done.text()
    );
    for part in ["environment", "mounted", "vaulted", "secret-line"] {
        assert!(
            !done.text().contains(part) && !json!(done.report.result).to_string().contains(part),
            "{part}: {}",
            done.text()
        );
    }
    assert_eq!(*asked.lock().unwrap(), ["GET /v1/kv/data/apps/db"]);
    assert!(!done.work.join("secrets").exists(), "its files have gone with the command");
    assert!(!json!(done.report.commands).to_string().contains("vaulted"), "nor is it in the record");
}

#[tokio::test]
async fn a_reference_that_leads_nowhere_names_what_is_missing_and_what_to_do() {
    let mut bed = Bed::new();
    let refused = sh(&bed, json!([{"variable": "A", "from": "file", "path": "p"}]), "true").await;
    assert!(refused.reason().contains("set secrets.folders"), "{}", refused.reason());
    let refused = sh(&bed, json!([{"variable": "A", "from": "vault", "path": "apps/db", "key": "k"}]), "true").await;
    assert!(refused.reason().contains("set [secrets.vault]"), "{}", refused.reason());
    bed.config.secrets.env = vec!["APP_*".into()];
    bed.own_env.extend([("APP_EMPTY", ""), ("OTHER", "x")].map(|(name, value)| (name.to_owned(), value.to_owned())));
    let mounted = folder(&mut bed);
    std::fs::create_dir(mounted.join("sub")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", mounted.join("out")).unwrap();
    vault(&mut bed);
    let vaulted = |path: &str, key: &str| json!({"from": "vault", "path": path, "key": key});
    for (reference, words) in [
        (json!({"from": "env", "name": "OTHER"}), "not among secrets.env of this runner's settings"),
        (json!({"from": "env", "name": "APP_NONE"}), "the runner has no variable APP_NONE"),
        (json!({"from": "env", "name": "APP_EMPTY"}), "variable APP_EMPTY of the runner is empty"),
        (json!({"from": "file", "path": "none"}), "there is no file none in secrets.folders"),
        (json!({"from": "file", "path": "sub"}), "is no file of at most"),
        (json!({"from": "file", "path": "out"}), "leads out of"),
        (vaulted("elsewhere/db", "password"), "elsewhere/db is not among secrets.vault.paths"),
        (vaulted("apps/denied", "password"), "Vault refuses kv/apps/denied (403)"),
        (vaulted("apps/none", "password"), "Vault has no kv/apps/none (404)"),
        (vaulted("apps/db", "nokey"), "Vault's kv/apps/db has no key nokey"),
        (vaulted("apps/db", "port"), "has no key port with text in it"),
        (vaulted("apps/db", "empty"), "key empty of apps/db in Vault is empty"),
        (vaulted("apps/sealed", "password"), "answered 503 Service Unavailable for kv/apps/sealed"),
        (vaulted("apps/nonsense", "password"), "did not answer as a Vault does"),
    ] {
        let mut secret = reference.clone();
        secret["variable"] = json!("WANTED");
        let stopped = sh(&bed, json!([secret]), "echo ran").await;
        let Stop::Failed { reason, permanent, .. } = stopped.stop() else { panic!("{:?}", stopped.verdict) };
        assert!(reason.starts_with("secret WANTED: ") && reason.contains(words), "{reference}: {reason}");
        assert_eq!(
            *permanent,
            !reason.starts_with("secret WANTED: Vault at "),
            "what may pass is tried again: {reason}"
        );
        assert!(
            stopped.stream("stdout").is_empty() && bed.desk.started.lock().unwrap().is_empty(),
            "nothing was started"
        );
    }
}

#[tokio::test]
async fn a_vault_that_does_not_answer_is_given_up_in_time() {
    let mut bed = Bed::new();
    vault(&mut bed);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = bed.config.secrets.vault.as_mut().unwrap();
    (settings.address, settings.timeout_s) = (format!("http://{}", silent.local_addr().unwrap()), 1);
    let stopped = sh(&bed, json!([{"variable": "A", "from": "vault", "path": "apps/db", "key": "k"}]), "true").await;
    let Stop::Failed { reason, permanent: false, .. } = stopped.stop() else { panic!("{:?}", stopped.verdict) };
    assert!(reason.contains("did not answer within 1 s") && reason.contains("secrets.vault.timeout_s"), "{reason}");
}

#[tokio::test]
async fn an_engine_gets_its_secret_for_plan_and_apply_only() {
    let mut bed = terraform_bed();
    let mounted = folder(&mut bed);
    std::fs::write(mounted.join("password"), "correct horse battery").unwrap();
    let main = "variable \"p\" {}\nresource \"terraform_data\" \"a\" {\n  input = sha256(var.p)\n  provisioner \"local-exec\" { command = \"echo it is $TF_VAR_p\" }\n}\n";
    let snapshot = json!({
        "template": {"inline": {"main.tf": main}}, "stateless": true,
        "secrets": [{"variable": "TF_VAR_p", "from": "file", "path": "password"}],
    });
    let planned = bed.run(plan(&snapshot)).await;
    planned.result();
    let done = bed.run(apply(&snapshot, &planned)).await;
    done.result();
    assert!(done.text().contains("(local-exec): it is [redacted]"), "{}", done.text());
    for text in [planned.text(), done.text()] {
        assert!(!text.contains("horse"), "{text}");
    }
}

#[tokio::test]
async fn a_vault_behind_tls_is_believed_by_its_certificate_only() {
    let mut bed = Bed::new();
    vault(&mut bed);
    let server = Server::start(&bed.dir(), |_, _, _| {
        ("200 OK", json!({"data": {"data": {"password": "vaulted-word"}}}).to_string().into_bytes())
    });
    let settings = bed.config.secrets.vault.as_mut().unwrap();
    settings.address = format!("https://{}", server.address);
    settings.ca_file = Some(server.certificate.clone());
    let secrets = json!([{"variable": "A", "from": "vault", "path": "apps/db", "key": "password"}]);
    let done = sh(&bed, secrets.clone(), "test $A = vaulted-word && echo right").await;
    assert_eq!(done.stream("stdout"), "right\n", "{}", done.text());
    // Another authority: not a byte of the token goes there.
    let other = Server::start(&bed.config.state_dir, |_, _, _| ("200 OK", Vec::new()));
    bed.config.secrets.vault.as_mut().unwrap().ca_file = Some(other.certificate);
    let stopped = sh(&bed, secrets, "true").await;
    assert!(stopped.reason().contains("has no good TLS"), "{}", stopped.reason());
}

//! Jobs that reach what is listed and nothing else: real programs, real TLS, the kernel's own rules.

use crate::bed::{Bed, Outcome, apply, job, plan};
use crate::exec::exec;
use crate::terraform::{engine, terraform_bed};
use crate::tls::{Server, own_address};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use tendril_runner::egress::{Mode, Rule, Upstream};
use tendril_runner::sandbox;

fn held(mut bed: Bed, allow: &[String]) -> Bed {
    let write = std::mem::take(&mut bed.config.sandbox.write);
    let programs = std::mem::take(&mut bed.config.sandbox.programs);
    // The kernel holds them to it: with any layer missing nothing would start.
    bed.config.sandbox = sandbox::Settings { write, programs, ..sandbox::Settings::default() };
    bed.config.egress.mode = Mode::Enforce;
    bed.config.egress.allow = allow.iter().map(|one| Rule::try_from(one.clone()).unwrap()).collect();
    bed
}

fn hello(bed: &Bed) -> Server {
    Server::start(&bed.dir(), |_, _, body| ("200 OK", [b"hello ", body.as_slice()].concat()))
}

fn curl(server: &Server, path: &str) -> Vec<String> {
    let url = format!("https://{}{path}", server.address);
    ["curl", "-sS", "--max-time", "60", "--cacert", &server.certificate.display().to_string(), &url]
        .map(str::to_owned)
        .into()
}

async fn run(bed: &Bed, argv: &[String]) -> Outcome {
    bed.run(exec(&argv.iter().map(String::as_str).collect::<Vec<_>>())).await
}

#[tokio::test]
async fn an_allowed_host_is_reached_by_tls_through_the_proxy_and_what_went_through_is_counted() {
    let bed = Bed::new();
    let server = hello(&bed);
    let bed = held(bed, &[server.address.to_string()]);
    let done = run(&bed, &curl(&server, "/")).await;
    done.result();
    assert_eq!(done.stream("stdout"), "hello ");
    assert!(done.stream("system").contains("egress: through a proxy to 1 entry of egress.allow\n"), "{}", done.text());
    let traffic = done.records[0].egress.as_ref().expect("figures");
    assert!(traffic.connections == 1 && traffic.sent_bytes > 300 && traffic.received_bytes > 500, "{traffic:?}");
    assert_eq!(done.report.commands[0]["egress"]["connections"], 1, "they are in the report");
    let metrics = bed.metrics.text().unwrap();
    assert!(metrics.contains("tendril_runner_egress_connections_total 1\n"), "{metrics}");
}

#[tokio::test]
async fn a_host_that_is_not_listed_is_refused_at_once_and_the_jobs_log_says_what_to_change() {
    let bed = Bed::new();
    let server = hello(&bed);
    let bed = held(bed, &["registry.terraform.io:443".to_owned()]);
    let done = run(&bed, &curl(&server, "/")).await;
    assert!(done.stream("stderr").contains("403"), "{}", done.text());
    let line = format!(
        "egress: {0} is not among the hosts that jobs may reach here; to allow it, add \"{0}\" to egress.allow",
        server.address
    );
    assert_eq!(done.stream("system").matches(&line).count(), 1, "{}", done.text());
    let metrics = bed.metrics.text().unwrap();
    assert!(metrics.contains("tendril_runner_egress_refused_total{reason=\"not_allowed\"} 1\n"), "{metrics}");
    for (url, what) in [
        ("http://169.254.169.254/latest/meta-data/", "link-local"),
        ("http://metadata.google.internal/", "metadata service"),
        ("http://[::ffff:169.254.169.254]/", "link-local"),
        ("http://[fd00:ec2::254]/", "metadata service"),
        ("http://localhost:9464/metrics", "the machine itself"),
    ] {
        let bed = held(Bed::new(), &["*:*".to_owned()]);
        let done = run(&bed, &["curl", "-sS", "--max-time", "60", url].map(str::to_owned)).await;
        assert!(done.stream("stdout").contains("no setting opens it"), "a plain request shows it: {}", done.text());
        assert!(done.stream("system").contains(what), "{url}: {}", done.text());
    }
}

#[tokio::test]
async fn a_job_cannot_go_past_the_proxy() {
    let bed = Bed::new();
    let server = hello(&bed);
    let bed = held(bed, &["*:*".to_owned()]);
    let loopback = TcpListener::bind("127.0.0.1:0").unwrap();
    let tried = |to: SocketAddr| {
        format!(
            "$s = IO::Socket::INET->new(PeerAddr => '{}', PeerPort => {}) and print 'in'; print $! + 0, ' ';",
            to.ip(),
            to.port()
        )
    };
    // Tried: the host itself, a service of this machine, DNS and UDP at all, the proxy's variables left out.
    let script = format!(
        "use IO::Socket::INET; {}{} $u = IO::Socket::INET->new(Proto => 'udp') and print 'udp'; print $! + 0, ' ';\
         $d = IO::Socket::INET->new(PeerAddr => '{}', PeerPort => 53) and print 'dns'; print $! + 0;",
        tried(server.address),
        tried(loopback.local_addr().unwrap()),
        own_address(),
    );
    let done = run(&bed, &["perl".to_owned(), "-e".to_owned(), script]).await;
    assert_eq!(done.stream("stdout"), "13 13 1 13", "{}", done.text());
    let without = [
        vec!["env".to_owned(), "-u".into(), "HTTPS_PROXY".into(), "-u".into(), "https_proxy".into()],
        curl(&server, "/"),
    ]
    .concat();
    let done = run(&bed, &without).await;
    assert!(done.verdict.is_err() && done.stream("stdout").is_empty(), "{}", done.text());
}

#[tokio::test]
async fn the_commands_credential_is_kept_out_of_its_log_and_is_of_no_use_to_others() {
    let bed = held(Bed::new(), &["*:*".to_owned()]);
    let done = run(
        &bed,
        &[
            "sh",
            "-c",
            "echo $HTTPS_PROXY; echo \"<$NO_PROXY>\"; curl -sS --proxy http://x:y@${HTTPS_PROXY#*@} http://a.example/",
        ]
        .map(str::to_owned),
    )
    .await;
    let text = done.stream("stdout");
    assert!(text.contains("http://tendril:[redacted]@127.0.0.1:") && text.contains("<>\n"), "{text}");
    assert!(text.contains("without the credential"), "{text}");
}

#[tokio::test]
async fn the_tokens_of_a_workload_identity_go_to_an_allowed_host() {
    let bed = Bed::new();
    let server = hello(&bed);
    let mut bed = held(bed, &[server.address.to_string()]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "a web identity").unwrap();
    bed.config.sandbox.read = vec![folder.path().to_owned()];
    bed.config.tools.pass_env = vec!["AWS_WEB_IDENTITY_TOKEN_FILE".into()];
    bed.own_env.insert("AWS_WEB_IDENTITY_TOKEN_FILE".into(), file.display().to_string());
    let script = format!("{} --data-binary @$AWS_WEB_IDENTITY_TOKEN_FILE", curl(&server, "/").join(" "));
    let done = run(&bed, &["sh".to_owned(), "-c".to_owned(), script]).await;
    assert_eq!(done.stream("stdout"), "hello a web identity", "{}", done.text());
}

/// A customer's proxy at loopback: what it was asked.
fn customers_proxy() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
    let noted = asked.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut head = String::new();
            let mut reader = BufReader::new(client.try_clone().unwrap());
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|count| count > 0) {}
            let server = TcpStream::connect(head.split(' ').nth(1).unwrap()).unwrap();
            noted.lock().unwrap().push(head);
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let (mut up, mut down) = (server.try_clone().unwrap(), server);
            let mut back = client.try_clone().unwrap();
            std::thread::spawn(move || std::io::copy(&mut reader, &mut up));
            std::thread::spawn(move || std::io::copy(&mut down, &mut back));
        }
    });
    (port, asked)
}

#[tokio::test]
async fn a_customers_proxy_is_gone_through_and_jobs_do_not_see_its_password() {
    let bed = Bed::new();
    let server = hello(&bed);
    let (port, asked) = customers_proxy();
    let url = format!("http://me:pr0xy-word@127.0.0.1:{port}");
    for by_settings in [true, false] {
        let mut bed = held(Bed::new(), &[server.address.to_string()]);
        let certificate =
            std::fs::copy(&server.certificate, bed.dir().join("ca.pem")).map(|_| bed.dir().join("ca.pem"));
        let server = Server { address: server.address, certificate: certificate.unwrap() };
        match by_settings {
            true => bed.config.egress.upstream = Some(Upstream::try_from(url.clone()).unwrap()),
            // As those set it who have no list of hosts.
            false => drop(bed.config.tools.env.insert("HTTPS_PROXY".to_owned(), url.clone())),
        }
        let done = run(
            &bed,
            &["sh".to_owned(), "-c".to_owned(), format!("env | grep -c pr0xy; {}", curl(&server, "/").join(" "))],
        )
        .await;
        assert_eq!(done.stream("stdout"), "0\nhello ", "{}", done.text());
        let head = asked.lock().unwrap().pop().expect("it was asked");
        assert!(
            head.starts_with(&format!("CONNECT {} ", server.address)) && head.contains("Basic bWU6cHIweHktd29yZA=="),
            "{head}"
        );
    }
}

/// A state behind TLS, as an engine's `http` backend wants it.
fn state_server(bed: &Bed) -> Server {
    let state = Mutex::new(Vec::new());
    Server::start(&bed.dir(), move |method, _, body| {
        let mut state = state.lock().unwrap();
        match method {
            "GET" if state.is_empty() => ("404 Not Found", Vec::new()),
            "GET" => ("200 OK", state.clone()),
            _ => {
                *state = body;
                ("200 OK", Vec::new())
            }
        }
    })
}

fn remote(server: &Server, template: Value) -> Value {
    json!({"template": template, "backend": {"type": "http", "config": {"address": format!("https://{}/state", server.address)}}})
}

const ONE: &str = "resource \"terraform_data\" \"one\" { input = 1 }\n";

async fn real_engine(bed: Bed) {
    let server = state_server(&bed);
    let trust = |bed: &mut Bed| {
        bed.config.tools.env.insert("SSL_CERT_FILE".to_owned(), server.certificate.display().to_string());
        bed.config.sandbox.read = vec![server.certificate.clone()];
    };
    let snapshot = remote(&server, json!({"inline": {"main.tf": ONE}}));
    let mut bed = held(bed, &[server.address.to_string()]);
    trust(&mut bed);
    let planned = bed.run(plan(&snapshot)).await;
    planned.result();
    let done = bed.run(apply(&snapshot, &planned)).await;
    done.result();
    assert!(done.records.last().unwrap().egress.as_ref().unwrap().connections > 0);
    // The same host, not listed: the engine's own error says why, and nothing hangs.
    bed.config.egress.allow.clear();
    let refused = bed.run(plan(&snapshot)).await;
    assert!(
        refused.reason().contains("egress.allow") || refused.text().contains("is not among the hosts"),
        "{}",
        refused.text()
    );
    assert!(refused.stream("stderr").contains("is not among the hosts"), "the engine tells it: {}", refused.text());
    assert!(refused.stream("system").contains("egress.allow of this runner's settings"), "{}", refused.text());
}

#[tokio::test]
async fn a_real_engine_keeps_its_state_behind_the_proxy_and_tells_a_refusal_in_its_own_error() {
    real_engine(terraform_bed()).await;
    if let Some(tofu) = engine("tofu") {
        let mut bed = Bed::new();
        (bed.config.tools.terraform, bed.config.tools.tofu) = (Some(vec![]), Some(vec![tofu]));
        real_engine(bed).await;
    }
}

#[tokio::test]
async fn a_template_reaches_no_more_than_it_says_also_in_its_apply() {
    let bed = terraform_bed();
    let server = state_server(&bed);
    let manifest = |egress: &str| {
        format!(
            "name: narrow\nversion: 1.0.0\ndescription: Says what it reaches.\nkind: terraform\nengine:\n  terraform: \">=1.4\"\n\
             inputs:\n  type: object\n  additionalProperties: false\n  properties: {{}}\negress: [{egress}]\n"
        )
    };
    let dir = bed.dir().join("templates/narrow");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("main.tf"), ONE).unwrap();
    let mut bed = held(bed, &["*:*".to_owned()]);
    bed.config.templates_dir = Some(bed.dir().join("templates"));
    bed.config.tools.env.insert("SSL_CERT_FILE".to_owned(), server.certificate.display().to_string());
    bed.config.sandbox.read = vec![server.certificate.clone()];
    let snapshot = remote(&server, json!({"name": "narrow"}));
    std::fs::write(dir.join("template.yaml"), manifest(&format!("\"{}\"", server.address))).unwrap();
    let planned = bed.run(plan(&snapshot)).await;
    planned.result();
    assert!(planned.stream("system").contains("of these what 1 of the template's allow"), "{}", planned.text());
    // The list of the plan holds, whatever became of the template.
    std::fs::write(dir.join("template.yaml"), manifest("\"other.example:443\"")).unwrap();
    bed.run(apply(&snapshot, &planned)).await.result();
    let refused = bed.run(plan(&snapshot)).await;
    assert!(refused.stream("system").contains("to egress in its template.yaml"), "{}", refused.text());
    std::fs::write(dir.join("template.yaml"), manifest("\"*other.example\"")).unwrap();
    let refused = bed.run(plan(&snapshot)).await;
    assert!(refused.reason().contains("template egress: \"*other.example\""), "{}", refused.reason());
}

#[tokio::test]
async fn a_git_source_by_ssh_goes_past_the_proxy_only_to_a_listed_host() {
    let mut bed = held(Bed::new(), &["git.example.com:443".to_owned()]);
    for name in ["key", "hosts"] {
        std::fs::write(bed.dir().join(name), "").unwrap();
    }
    bed.config.git.ssh_key_file = Some(bed.dir().join("key"));
    bed.config.git.ssh_known_hosts_file = Some(bed.dir().join("hosts"));
    let snapshot = json!({"template": {"git": "git@git.example.com:a/b"}});
    let refused = bed.run(job("exec", snapshot, json!({"argv": ["true"]}))).await;
    assert!(
        refused.reason().contains("git.example.com:22") && refused.reason().contains("egress.allow"),
        "{}",
        refused.reason()
    );
}

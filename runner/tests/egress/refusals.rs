//! Connections that do not, and what is said of them.

use crate::beyond::ADDRESS;
use crate::net::{Bed, accepted, head, listener, rest, rules};
use tendril_runner::egress::{Limits, Reason, Rules};

#[tokio::test]
async fn what_is_not_listed_is_refused_at_once_with_what_to_change_and_nobody_is_asked_for_it() {
    let bed = Bed::new(rules(&["server.example:443"])).await;
    for target in ["other.example:443", "server.example:22", "192.0.2.1:443", "server.example.evil.example:443"] {
        let (mut client, line) = bed.connect(target).await;
        assert!(line.starts_with("HTTP/1.1 403 ") && line.contains(target) && line.contains("egress.allow"), "{line}");
        assert!(rest(&mut client).await.contains(&format!("add \"{target}\" to egress.allow")));
    }
    assert!(bed.names.lookups.lock().unwrap().is_empty(), "not even its name is resolved");
    assert_eq!(bed.traffic().refused, [(Reason::NotAllowed, 4)].into());
    assert_eq!(bed.news().len(), 4);
}

#[tokio::test]
async fn what_is_closed_for_all_is_refused_in_every_spelling_although_everything_is_allowed() {
    let bed = Bed::new(rules(&["*:*"])).await;
    bed.names.name("alias.example", &[&["192.0.2.20"]]);
    bed.names.name("broker.example", &[&["192.0.2.20"]]);
    for target in [
        "169.254.169.254:80",
        "169.254.170.2:80",
        "[fd00:ec2::254]:80",
        "metadata.google.internal:80",
        "METADATA.google.internal.:80",
        "127.0.0.1:80",
        "localhost:80",
        "[::1]:80",
        "[::ffff:127.0.0.1]:80",
        "[::ffff:a9fe:a9fe]:80",
        "0.0.0.0:80",
        "[64:ff9b::7f00:1]:80",
        "[fe80::1]:80",
        "kubernetes.default.svc:443",
        "broker.example:5432",
        "alias.example:5432",
        "100.100.100.200:80",
    ] {
        let (_, line) = bed.connect(target).await;
        assert!(line.starts_with("HTTP/1.1 403 ") && line.contains("no setting opens it"), "{target}: {line}");
    }
    for target in ["2130706433:80", "0x7f000001:80", "0x7f.1:80", "127.1:80", "0177.0.0.1:80", "[fe80::1%1]:80"] {
        let (_, line) = bed.connect(target).await;
        assert!(line.starts_with("HTTP/1.1 400 "), "{target}: {line}");
    }
    assert!(bed.names.dialled.lock().unwrap().is_empty(), "nothing was connected to");
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_connected_to_where_it_was_looked_at() {
    let bed = Bed::new(rules(&["rebind.example:443"])).await;
    let (listener, server) = listener().await;
    // Each lookup has another answer: a good one, one with a bad one beside it, a bad one.
    bed.names.name("rebind.example", &[&[ADDRESS], &[ADDRESS, "169.254.169.254"], &["127.0.0.1"]]);
    bed.names.server(ADDRESS, server);
    let ((_client, line), _server) = tokio::join!(bed.connect("rebind.example:443"), accepted(&listener));
    assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
    assert_eq!(*bed.names.lookups.lock().unwrap(), ["rebind.example"], "one lookup for one connection");
    for what in ["link-local", "the machine itself"] {
        let (_, line) = bed.connect("rebind.example:443").await;
        assert!(line.starts_with("HTTP/1.1 403 ") && line.contains(what), "{line}");
    }
    let dialled: Vec<_> = bed.names.dialled.lock().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(dialled, [format!("{ADDRESS}:443")]);
}

#[tokio::test]
async fn who_does_not_bear_the_commands_credential_is_asked_for_it() {
    let bed = Bed::new(rules(&["*:*"])).await;
    for header in ["", "Proxy-Authorization: Basic dGVuZHJpbDp3cm9uZw==\r\n"] {
        let mut client = bed.says(&format!("CONNECT server.example:443 HTTP/1.1\r\n{header}\r\n")).await;
        let head = head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 407 ") && head.contains("\r\nProxy-Authenticate: Basic"), "{head}");
    }
}

#[tokio::test]
async fn a_name_without_an_address_and_a_host_that_does_not_answer_are_told_soon() {
    let limits = Limits { connect_ms: 50, ..rules(&[]).limits };
    let bed = Bed::new(Rules { limits, ..rules(&["*:*"]) }).await;
    bed.names.name("silent.example", &[&[ADDRESS]]);
    for (target, status, words) in [
        ("nowhere.example:443", 502, "cannot be resolved"),
        ("silent.example:443", 504, "did not answer within 0.05 s"),
    ] {
        let (_, line) = bed.connect(target).await;
        assert!(
            line.starts_with(&format!("HTTP/1.1 {status} ")) && line.contains(target) && line.contains(words),
            "{line}"
        );
    }
}

#[tokio::test]
async fn heads_that_are_huge_slow_or_no_heads_are_refused_and_cost_their_own_connection_only() {
    let limits = Limits { head_ms: 100, ..rules(&[]).limits };
    let bed = Bed::new(Rules { limits, ..rules(&[]) }).await;
    let huge = format!("CONNECT a:1 HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(100_000));
    let many = format!("CONNECT a:1 HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(1000));
    for (text, status) in [
        (huge.as_str(), 431),
        (&many, 400),
        ("CONNECT a:1 HT", 408),
        ("\0\u{1}\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 407),
    ] {
        let mut client = bed.says(text).await;
        let head = head(&mut client).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{text:.20}: {head}");
    }
    // One that says nothing at all is closed without a word.
    let mut silent = bed.says("").await;
    assert_eq!(rest(&mut silent).await, "");
    let (_, line) = bed.connect("a.example:1").await;
    assert!(line.starts_with("HTTP/1.1 403 "), "it still serves: {line}");
}

#[tokio::test]
async fn while_the_brokers_name_cannot_be_resolved_nothing_at_its_port_is_reached() {
    let bed = Bed::new(rules(&["*:*"])).await;
    // Tried: the broker's address itself, and another name for it, while nobody knows that they are.
    bed.names.name("alias.example", &[&["192.0.2.20"]]);
    for target in ["192.0.2.20:5432", "alias.example:5432"] {
        let (_, line) = bed.connect(target).await;
        assert!(!line.starts_with("HTTP/1.1 200 ") && line.contains("the broker"), "{target}: {line}");
    }
    assert!(bed.names.dialled.lock().unwrap().is_empty(), "nothing was connected to");
}

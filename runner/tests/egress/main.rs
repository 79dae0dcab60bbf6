//! The proxy of one command, with real sockets and names of the tests' own.
#![cfg(test)]

mod net;

use net::{Bed, CREDENTIAL, PATIENCE, accepted, head, listener, rest, rules, through};
use tendril_runner::egress::{Limits, Reason, Rules};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ADDRESS: &str = "192.0.2.10";

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways_and_counts_them() {
    let bed = Bed::new(rules(&["server.example:443"])).await;
    let (listener, server) = listener().await;
    bed.names.name("server.example", &[&[ADDRESS]]);
    bed.names.server(ADDRESS, server);
    // What comes right behind the head is the tunnel's too.
    let ask = async {
        let mut client = bed.says(&format!("CONNECT server.example:443 HTTP/1.1\r\n{CREDENTIAL}\r\nhello")).await;
        assert!(head(&mut client).await.starts_with("HTTP/1.1 200 "));
        client.write_all(b" world").await.unwrap();
        client.shutdown().await.unwrap();
        rest(&mut client).await
    };
    let serve = async {
        let mut stream = accepted(&listener).await;
        // Only once the client has closed its half: what is said after that arrives all the same.
        let said = rest(&mut stream).await;
        stream.write_all(said.to_uppercase().as_bytes()).await.unwrap();
    };
    let (heard, ()) = tokio::join!(ask, serve);
    assert_eq!(heard, "HELLO WORLD");
    let traffic = bed.traffic();
    assert_eq!((traffic.connections, traffic.sent_bytes, traffic.received_bytes), (1, 11, 11));
    assert!(traffic.refused.is_empty() && bed.news().is_empty());
}

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
async fn connections_are_bounded_and_one_that_ends_makes_room() {
    let limits = Limits { connections: 2, ..rules(&[]).limits };
    let bed = Bed::new(Rules { limits, ..rules(&["server.example:443"]) }).await;
    let (listener, server) = listener().await;
    bed.names.name("server.example", &[&[ADDRESS]]);
    bed.names.server(ADDRESS, server);
    let ((first, _), mut at_server) = tokio::join!(bed.connect("server.example:443"), accepted(&listener));
    let ((_second, line), _at_server) = tokio::join!(bed.connect("server.example:443"), accepted(&listener));
    assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
    let (_, line) = bed.connect("server.example:443").await;
    assert!(line.starts_with("HTTP/1.1 503 ") && line.contains("egress.max_connections"), "{line}");
    // The client goes: the server sees its end, and once that has gone as well there is room.
    drop(first);
    assert_eq!(rest(&mut at_server).await, "");
    drop(at_server);
    let again = async {
        loop {
            let (client, line) = bed.connect("server.example:443").await;
            if line.starts_with("HTTP/1.1 200 ") {
                break client;
            }
        }
    };
    let (_third, _at_server) =
        tokio::time::timeout(PATIENCE, async { tokio::join!(again, accepted(&listener)) }).await.unwrap();
}

#[tokio::test]
async fn a_client_that_goes_while_its_host_is_dialled_leaves_its_place() {
    let limits = Limits { connections: 1, ..rules(&[]).limits };
    let bed = Bed::new(Rules { limits, ..rules(&["*:*"]) }).await;
    bed.names.name("silent.example", &[&[ADDRESS]]);
    let client = bed.says(&format!("CONNECT silent.example:443 HTTP/1.1\r\n{CREDENTIAL}\r\n")).await;
    while bed.names.dialled.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    drop(client);
    let next = async { while bed.connect("nowhere.example:443").await.1.starts_with("HTTP/1.1 503 ") {} };
    tokio::time::timeout(PATIENCE, next).await.expect("its place is free");
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
async fn a_plain_request_is_passed_on_and_a_second_one_on_the_same_connection_is_not() {
    let bed = Bed::new(rules(&["server.example:80"])).await;
    let (listener, server) = listener().await;
    bed.names.name("server.example", &[&[ADDRESS]]);
    bed.names.server(ADDRESS, server);
    let ask = async {
        let first = format!(
            "POST http://server.example/a?b HTTP/1.1\r\nHost: fake.example\r\n{CREDENTIAL}Content-Length: 4\r\n\r\nbody"
        );
        let mut client = bed.says(&format!("{first}GET http://other.example/ HTTP/1.1\r\n\r\n")).await;
        rest(&mut client).await
    };
    let serve = async {
        let mut stream = accepted(&listener).await;
        let head = head(&mut stream).await;
        let mut body = [0; 4];
        stream.read_exact(&mut body).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfine").await.unwrap();
        (head, body)
    };
    let (answer, (head, body)) = tokio::join!(ask, serve);
    assert_eq!(head, "POST /a?b HTTP/1.1\r\nHost: server.example\r\nContent-Length: 4\r\nConnection: close\r\n\r\n");
    assert_eq!((&body, answer.ends_with("\r\n\r\nfine")), (b"body", true), "{answer}");
    let mut client = bed.says(&format!("GET http://other.example/ HTTP/1.1\r\n{CREDENTIAL}\r\n")).await;
    assert!(rest(&mut client).await.starts_with("HTTP/1.1 403 "));
}

#[tokio::test]
async fn the_proxy_beyond_is_asked_with_its_own_credential_and_its_refusal_is_told() {
    let (listener, proxy) = listener().await;
    let bed = Bed::new(through(proxy, &["*:443"])).await;
    bed.names.server("127.0.0.1", proxy);
    let serve = async |answer: &str| {
        let mut stream = accepted(&listener).await;
        let asked = head(&mut stream).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        (stream, asked)
    };
    let ((mut client, line), (mut beyond, asked)) =
        tokio::join!(bed.connect("server.example:443"), serve("HTTP/1.1 200 fine\r\n\r\nearly"));
    assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
    assert!(
        asked.starts_with("CONNECT server.example:443 HTTP/1.1\r\n") && asked.contains("Basic bWU6cGFzcw=="),
        "{asked}"
    );
    assert!(!asked.contains("dGVuZHJpbDp0MGtlbg"), "the command's own is none of its business");
    beyond.write_all(b" and late").await.unwrap();
    drop(beyond);
    assert_eq!(rest(&mut client).await, "early and late");
    let ((_, line), _) = tokio::join!(bed.connect("server.example:443"), serve("HTTP/1.1 403 go away\r\n\r\n"));
    assert!(line.starts_with("HTTP/1.1 502 ") && line.contains("403 go away"), "{line}");
    // What no job may reach is not asked for, also where only it could resolve names.
    bed.names.name("inside.example", &[&["169.254.169.254"]]);
    for target in ["169.254.169.254:443", "inside.example:443", "server.example:22"] {
        let (_, line) = bed.connect(target).await;
        assert!(line.starts_with("HTTP/1.1 403 "), "{line}");
    }
}

#[tokio::test]
async fn a_name_that_only_the_proxy_beyond_could_resolve_is_let_through_by_its_name_and_by_no_entry_of_addresses() {
    let (listener, proxy) = listener().await;
    let bed = Bed::new(through(proxy, &["10.0.0.0/8:443", "0.0.0.0/0:443", "[::]/0:443", "known.example:443"])).await;
    bed.names.server("127.0.0.1", proxy);
    // Tried: a name that nobody here can resolve, and one whose author gives it no address here.
    bed.names.name("empty.example", &[&[]]);
    for target in ["evil.example:443", "empty.example:443"] {
        let (_, line) = bed.connect(target).await;
        assert!(line.starts_with("HTTP/1.1 403 ") && line.contains("egress.allow"), "{target}: {line}");
    }
    assert!(bed.names.dialled.lock().unwrap().is_empty(), "the proxy beyond was not asked");
    let serve = async {
        let mut stream = accepted(&listener).await;
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 fine\r\n\r\n").await.unwrap();
    };
    let ((_, line), ()) = tokio::join!(bed.connect("known.example:443"), serve);
    assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
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

#[tokio::test]
async fn a_plain_request_without_a_length_does_not_go_to_the_proxy_beyond() {
    let (_listener, proxy) = listener().await;
    let bed = Bed::new(through(proxy, &["server.example:80"])).await;
    bed.names.server("127.0.0.1", proxy);
    // Tried: a second request, for another host, behind the end of a body that only the proxy beyond would see.
    let inner = "0\r\n\r\nGET http://other.example/ HTTP/1.1\r\nHost: other.example\r\n\r\n";
    let text = format!("POST http://server.example/ HTTP/1.1\r\n{CREDENTIAL}Transfer-Encoding: chunked\r\n\r\n{inner}");
    let mut client = bed.says(&text).await;
    assert!(head(&mut client).await.starts_with("HTTP/1.1 411 "));
    assert!(bed.names.dialled.lock().unwrap().is_empty(), "nothing was connected to");
}

#[tokio::test]
async fn two_hundred_tunnels_at_once_all_arrive() {
    let limits = Limits { connections: 256, ..rules(&[]).limits };
    let bed = Bed::new(Rules { limits, ..rules(&["server.example:443"]) }).await;
    let (listener, server) = listener().await;
    bed.names.name("server.example", &[&[ADDRESS]]);
    bed.names.server(ADDRESS, server);
    let echo = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                drop(tokio::io::copy(&mut from, &mut to).await);
            });
        }
    };
    let clients = async {
        let talks = (0..200).map(|number| {
            let bed = &bed;
            async move {
                let (mut client, line) = bed.connect("server.example:443").await;
                assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
                let text = format!("{number} ").repeat(1000);
                client.write_all(text.as_bytes()).await.unwrap();
                client.shutdown().await.unwrap();
                assert_eq!(rest(&mut client).await, text);
                text.len() as u64
            }
        });
        futures_util::future::join_all(talks).await.into_iter().sum::<u64>()
    };
    let talk = async {
        tokio::select! {
            bytes = clients => bytes,
            () = echo => unreachable!(),
        }
    };
    let bytes = tokio::time::timeout(PATIENCE * 2, talk).await.expect("they arrive in time");
    let traffic = bed.traffic();
    assert_eq!((traffic.connections, traffic.sent_bytes, traffic.received_bytes), (200, bytes, bytes));
}

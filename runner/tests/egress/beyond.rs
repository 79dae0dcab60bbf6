//! Plain requests, and a proxy beyond this one.

use crate::net::{Bed, CREDENTIAL, accepted, head, listener, rest, rules, through};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub const ADDRESS: &str = "192.0.2.10";

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

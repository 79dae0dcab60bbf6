//! Connections that pass.

use crate::beyond::ADDRESS;
use crate::net::{Bed, CREDENTIAL, PATIENCE, accepted, head, listener, rest, rules};
use tendril_runner::egress::{Limits, Rules};
use tokio::io::AsyncWriteExt;

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

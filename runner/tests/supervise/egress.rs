//! A command's proxy lives as long as the command.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use tendril_runner::egress::{Exceptions, Limits, Rule, Rules, Token};
use tendril_runner::supervise::{Class, Exit, Running};

use super::support::{Bed, StandIn, spawn, within};

/// A server at an address that is not loopback, which no command reaches.
fn server() -> SocketAddr {
    let way = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
    way.connect((Ipv4Addr::new(198, 51, 100, 1), 9)).expect("a machine with an address that is not loopback");
    let listener = TcpListener::bind((way.local_addr().expect("an address").ip(), 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.expect("a client"));
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).is_ok_and(|count| count > 0) {}
            drop(
                stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n"),
            );
        }
    });
    address
}

fn rules(allow: SocketAddr) -> Rules {
    Rules {
        allow: vec![Rule::try_from(allow.to_string()).expect("a rule")],
        template: None,
        closed: Vec::new(),
        upstream: None,
        upstream_except: Exceptions::default(),
        token: Token("t0ken".to_owned()),
        limits: Limits { connections: 8, head_ms: 10_000, connect_ms: 10_000 },
    }
}

#[tokio::test]
async fn a_command_that_outlives_its_runner_keeps_its_way_out_and_its_bounds() {
    let bed = Bed::new();
    bed.gate("gate");
    let server = server();
    let mut step =
        bed.bash(&format!("read < gate; curl -sS http://{server}/ > answer; curl -sS http://other.example/ > refused"));
    step.class = Class::Mutating;
    step.sandbox.egress = Some(rules(server));
    StandIn::start(&bed, &step, None).kill();
    bed.release("gate").await;
    let record = bed.recorded().await;
    assert_eq!(record.exit, Exit::Success);
    let read = |name: &str| std::fs::read_to_string(bed.path("work").join(name)).expect("it was asked");
    assert_eq!(read("answer"), "hello\n");
    assert!(read("refused").contains("egress.allow"), "{}", read("refused"));
    let traffic = record.egress.expect("figures");
    assert_eq!((traffic.connections, traffic.refused.values().sum::<u64>()), (1, 1));
}

#[tokio::test]
async fn what_the_proxy_refuses_is_told_while_the_command_runs() {
    let bed = Bed::new();
    bed.gate("gate");
    let mut step = bed.bash("curl -sS http://other.example/; curl -sS http://other.example/; read < gate");
    step.sandbox.egress = Some(rules(server()));
    // Its few words fit the pipes.
    let Running { stdout: _out, stderr: _err, mut control } = spawn(step).await;
    let mut refusals = control.refusals();
    let wait = async {
        let record = within(control.wait()).await.expect("a record");
        drop(control);
        record
    };
    let (record, told) = tokio::join!(wait, async {
        let told = refusals.recv().await.expect("told");
        // The command goes on only now.
        bed.release("gate").await;
        assert_eq!(refusals.recv().await, None, "once");
        told
    });
    assert_eq!(told.target, "other.example:80");
    assert_eq!(record.exit, Exit::Success);
}

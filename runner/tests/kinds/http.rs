//! A small HTTP server for what commands talk to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

/// Answers each request by its method, path and body, until the process of the tests ends.
pub fn serve(
    listener: TcpListener,
    answer: impl Fn(&str, &str, Vec<u8>) -> (&'static str, Vec<u8>) + Send + Sync + 'static,
) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).is_ok_and(|count| count > 0) {}
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            let mut words = head.split(' ');
            let (Some(method), Some(path), Ok(())) = (words.next(), words.next(), stream.read_exact(&mut body)) else {
                continue;
            };
            let (status, content) = answer(method, path, body);
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", content.len());
            // Whoever asked may have gone.
            drop(stream.get_mut().write_all(&[head.as_bytes(), &content].concat()));
        }
    });
}

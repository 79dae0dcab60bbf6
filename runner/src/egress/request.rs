//! The head of a request to the proxy: read with bounds, understood strictly.

use super::refusal::{Reason, Refusal};
use super::target::Target;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest head, in bytes.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Most lines in a head.
const MAX_HEADERS: usize = 64;
const END: &[u8] = b"\r\n\r\n";

/// The head, and what came right behind it.
#[derive(Debug)]
pub struct Head {
    /// Up to the empty line, which is in it.
    pub head: Vec<u8>,
    /// What came behind it in the same read.
    pub rest: Vec<u8>,
}

/// What a client wants.
#[derive(Debug)]
pub enum Wish {
    /// A tunnel.
    Connect(Target),
    /// One plain request, passed on.
    Plain(Target, Plain),
}

/// A plain request in parts.
#[derive(Debug)]
pub struct Plain {
    /// GET and so on.
    pub method: String,
    /// Path and query, as the server is to see them.
    pub path: String,
    /// The headers that go on, without those between client and proxy, and without Host.
    pub headers: Vec<(String, Vec<u8>)>,
    /// How long the body is; none where it tells that itself.
    pub length: Option<u64>,
}

/// Why there is no head.
#[derive(Debug)]
pub enum Unread {
    /// The client has gone, or said nothing.
    Gone,
    /// It is too long or too slow.
    Refused(Refusal),
}

/// Reads a head.
///
/// # Errors
/// [`Unread`].
pub async fn read_head(stream: &mut (impl AsyncRead + Unpin), within: Duration) -> Result<Head, Unread> {
    let mut bytes = Vec::new();
    let reading = async {
        loop {
            let from = bytes.len().saturating_sub(END.len() - 1);
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(at) = bytes[from..].windows(END.len()).position(|window| window == END) {
                return Ok(Some(from + at + END.len()));
            }
            if bytes.len() > MAX_HEAD_BYTES {
                return Ok(None);
            }
        }
    };
    let read: Result<io::Result<Option<usize>>, _> = tokio::time::timeout(within, reading).await;
    match read {
        Ok(Ok(Some(end))) if end <= MAX_HEAD_BYTES => {
            let rest = bytes.split_off(end);
            Ok(Head { head: bytes, rest })
        }
        Ok(Ok(_)) => Err(Unread::Refused(Refusal {
            status: 431,
            ..malformed(format!("a request's head has more than {MAX_HEAD_BYTES} bytes; send less"))
        })),
        Ok(Err(_)) => Err(Unread::Gone),
        // Who has said nothing at all keeps a connection for later.
        Err(_) if bytes.is_empty() => Err(Unread::Gone),
        Err(_) => Err(Unread::Refused(Refusal {
            status: 408,
            ..malformed(format!("a request's head was not there within {} ms", within.as_millis()))
        })),
    }
}

/// Understands a head. It must bear the token.
///
/// # Errors
/// The refusal.
pub fn understand(head: &[u8], token: &str) -> Result<Wish, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(malformed("a request has no end")),
        Err(error) => return Err(malformed(format!("a request cannot be read: {error}"))),
    }
    let (Some(method), Some(uri)) = (request.method, request.path) else {
        return Err(malformed("a request has no method or no address"));
    };
    if !is_authorised(request.headers, token) {
        let text = "a request came without the credential that stands in HTTPS_PROXY; use that address as it is";
        return Err(Refusal::new("", Reason::Unauthenticated, text));
    }
    let target = |text: &str, port: Option<u16>| {
        Target::parse(text, port).map_err(|why| {
            let shown: String = text.chars().take(100).collect();
            malformed(format!("{shown:?} {why}"))
        })
    };
    if method == "CONNECT" {
        return Ok(Wish::Connect(target(uri, None)?));
    }
    let Some((scheme, rest)) = uri.split_once("://").filter(|(scheme, _)| scheme.eq_ignore_ascii_case("http")) else {
        return Err(malformed(
            "only CONNECT and plain requests with an address http://host/path go through this proxy",
        ));
    };
    debug_assert_eq!(scheme.len(), 4);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    // A user in the address would be read as a part of the host by others.
    let target = target(authority, Some(80))?;
    Ok(Wish::Plain(target, plain(method, path, request.headers)?))
}

fn plain(method: &str, path: &str, headers: &[httparse::Header<'_>]) -> Result<Plain, Refusal> {
    let is = |header: &httparse::Header<'_>, name: &str| header.name.eq_ignore_ascii_case(name);
    let mut lengths = headers.iter().filter(|header| is(header, "Content-Length"));
    let chunked = headers.iter().any(|header| is(header, "Transfer-Encoding"));
    let length = match (lengths.next(), lengths.next(), chunked) {
        (None, _, false) => Some(0),
        (None, _, true) => None,
        (Some(one), None, false) => {
            let digits = std::str::from_utf8(one.value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
            Some(
                digits
                    .and_then(|text| text.parse().ok())
                    .ok_or_else(|| malformed("a request's length is no number"))?,
            )
        }
        // Two readers could take different parts of it for its body.
        _ => return Err(malformed("a request says twice how long it is")),
    };
    let between = |header: &&httparse::Header<'_>| {
        let names = ["Host", "Connection", "Keep-Alive", "Upgrade", "TE", "Trailer"];
        names.iter().any(|name| is(header, name))
            || header.name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("Proxy-"))
    };
    let headers = headers.iter().filter(|header| !between(header));
    let path = match path.split('#').next().unwrap_or_default() {
        "" => "/".to_owned(),
        path if path.starts_with('?') => format!("/{path}"),
        path => path.to_owned(),
    };
    let headers = headers.map(|header| (header.name.to_owned(), header.value.to_vec())).collect();
    Ok(Plain { method: method.to_owned(), path, headers, length })
}

fn is_authorised(headers: &[httparse::Header<'_>], token: &str) -> bool {
    let wanted = format!("tendril:{token}");
    let given = headers.iter().find(|header| header.name.eq_ignore_ascii_case("Proxy-Authorization"));
    let decoded = given.and_then(|header| {
        let (scheme, value) = std::str::from_utf8(header.value).ok()?.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("Basic").then(|| STANDARD.decode(value.trim()).ok()).flatten()
    });
    decoded.is_some_and(|given| same(&given, wanted.as_bytes()))
}

/// In a time that does not tell how much of it is right.
fn same(given: &[u8], wanted: &[u8]) -> bool {
    given.len() == wanted.len() && given.iter().zip(wanted).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

fn malformed(text: impl Into<String>) -> Refusal {
    Refusal::new("", Reason::Malformed, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str, more: &str) -> Result<Wish, Refusal> {
        let credential = STANDARD.encode("tendril:t0ken");
        understand(
            format!("{line} HTTP/1.1\r\nProxy-Authorization: Basic {credential}\r\n{more}\r\n").as_bytes(),
            "t0ken",
        )
    }

    #[test]
    fn a_connect_names_host_and_port() {
        let Ok(Wish::Connect(target)) = asked("CONNECT Example.com:443", "Host: other:1\r\n") else {
            panic!("no tunnel")
        };
        assert_eq!(target.to_string(), "example.com:443");
        for bad in [
            "CONNECT example.com",
            "CONNECT http://a:1",
            "CONNECT a:b@c:1",
            "GET /path",
            "GET https://a/",
            "GET http://u@a/",
            "CONNECT 0x7f.1:80",
        ] {
            assert_eq!(asked(bad, "").unwrap_err().reason, Reason::Malformed, "{bad}");
        }
    }

    #[test]
    fn a_plain_request_goes_on_without_what_is_between_client_and_proxy() {
        let more = "Host: fake\r\nProxy-Connection: x\r\nConnection: keep-alive\r\nX-A: b\r\nContent-Length: 3\r\n";
        let Ok(Wish::Plain(target, plain)) = asked("POST http://Example.com?q=1#f", more) else { panic!("no request") };
        assert_eq!(
            (target.to_string().as_str(), plain.path.as_str(), plain.length),
            ("example.com:80", "/?q=1", Some(3))
        );
        let names: Vec<_> = plain.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["X-A", "Content-Length"], "nor with the credential");
        for bad in [
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        ] {
            assert_eq!(asked("POST http://a/", bad).unwrap_err().reason, Reason::Malformed, "{bad}");
        }
    }

    #[test]
    fn without_the_commands_own_credential_nothing_is_even_looked_at() {
        for header in [
            "",
            "Proxy-Authorization: Basic eDp5\r\n",
            "Proxy-Authorization: Bearer t0ken\r\n",
            "Authorization: Basic eDp5\r\n",
        ] {
            let head = format!("CONNECT a:1 HTTP/1.1\r\n{header}\r\n");
            assert_eq!(understand(head.as_bytes(), "t0ken").unwrap_err().status, 407, "{header}");
        }
        assert!(!same(b"tendril:t0ke", b"tendril:t0ken") && same(b"a", b"a"));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let many = "A: b\r\n".repeat(MAX_HEADERS + 1);
        for bad in [
            "\0\0\0\0\r\n\r\n",
            "\x16\x03\x01\x02\0\r\n\r\n",
            "GET\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nA\0: b\r\n\r\n",
            &format!("GET http://a/ HTTP/1.1\r\n{many}\r\n"),
        ] {
            assert_eq!(understand(bad.as_bytes(), "t").unwrap_err().reason, Reason::Malformed, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_head_has_a_bound_and_a_time_and_what_follows_it_is_kept() {
        let read = async |bytes: Vec<u8>| read_head(&mut bytes.as_slice(), Duration::from_secs(60)).await;
        let Ok(Head { head, rest }) = read(b"CONNECT a:1 HTTP/1.1\r\n\r\nhello".to_vec()).await else {
            panic!("unread")
        };
        assert_eq!((head.ends_with(b"1.1\r\n\r\n"), rest.as_slice()), (true, b"hello".as_slice()));
        let Err(Unread::Refused(refusal)) = read(vec![b'a'; MAX_HEAD_BYTES * 2]).await else { panic!("taken") };
        assert_eq!(refusal.status, 431);
        assert!(matches!(read(b"CONNECT a".to_vec()).await, Err(Unread::Gone)));
        let (mut ours, theirs) = tokio::io::duplex(64);
        tokio::io::AsyncWriteExt::write_all(&mut ours, b"CONN").await.unwrap();
        let slow = read_head(&mut { theirs }, Duration::from_millis(1)).await;
        assert!(matches!(slow, Err(Unread::Refused(Refusal { status: 408, .. }))));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_understood_in_one_way_or_refused(
            head in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
            line in "(CONNECT|GET|POST) (http://)?[a-zA-Z0-9.:\\[\\]@/%_?#-]{0,60}",
        ) {
            // Whatever it is, it makes nothing fall; and what is understood reads the same once more.
            drop(understand(&head, "t0ken"));
            if let Ok(Wish::Connect(target) | Wish::Plain(target, _)) = asked(&line, "") {
                assert_eq!(Target::parse(&target.to_string(), None), Ok(target));
            }
        }
    }
}

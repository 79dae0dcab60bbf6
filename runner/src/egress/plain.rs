//! One plain HTTP request, passed on.

use super::request::Plain;
use super::target::Target;
use super::upstream::Upstream;

/// The head that goes on: to the server itself, or to the proxy beyond. One request for each connection: the next one on it
/// could be for another host, at which nobody would look.
pub fn head(target: &Target, plain: &Plain, through: Option<&Upstream>) -> Vec<u8> {
    let host = match target.port {
        80 => target.host.to_string(),
        _ => target.to_string(),
    };
    let (address, more) = match through {
        Some(upstream) => (format!("http://{host}{}", plain.path), upstream.authorization()),
        None => (plain.path.clone(), String::new()),
    };
    let mut head = format!("{} {address} HTTP/1.1\r\nHost: {host}\r\n{more}", plain.method).into_bytes();
    for (name, value) in &plain.headers {
        head.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    head.extend(b"Connection: close\r\n\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_goes_on_in_the_form_that_its_next_reader_wants() {
        let plain = Plain {
            method: "GET".into(),
            path: "/p?q".into(),
            headers: vec![("A".into(), b"b".to_vec())],
            length: Some(0),
        };
        let target = Target::parse("a.example:8080", None).unwrap();
        let text = |through: Option<&Upstream>| String::from_utf8(head(&target, &plain, through)).unwrap();
        assert_eq!(text(None), "GET /p?q HTTP/1.1\r\nHost: a.example:8080\r\nA: b\r\nConnection: close\r\n\r\n");
        let proxy = Upstream::try_from("http://u:p@proxy:1".to_owned()).unwrap();
        assert!(
            text(Some(&proxy))
                .starts_with("GET http://a.example:8080/p?q HTTP/1.1\r\nHost: a.example:8080\r\nProxy-Auth")
        );
    }
}

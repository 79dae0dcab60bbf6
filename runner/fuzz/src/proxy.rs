//! The proxy of a command: requests that a job writes, and the lists that decide.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;
use tendril_runner::egress::{
    Exceptions, Head, Host, Limits, MAX_HEAD_BYTES, Plain, Rule, Rules, Target, Token, Unread, Upstream, Wish,
    percent_decoded, plain_head, read_head, understand,
};
use tokio::io::AsyncReadExt;
use tokio::runtime::{Builder, Runtime};

const TOKEN: &str = "t0ken-of-this-command";

static CREDENTIAL: LazyLock<String> = LazyLock::new(|| STANDARD.encode(format!("tendril:{TOKEN}")));

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
}

/// A head is cut out alike however it arrives; without the credential nothing is understood; what goes on is one request, to the
/// host that was looked at, in the same words.
pub fn request(data: &[u8]) {
    let (cut, text) = data.split_first().map_or((0, data), |(cut, text)| (usize::from(*cut), text));
    head(text, cut.min(text.len()));
    if understand(text, TOKEN).is_ok() {
        let shown = |window: &[u8]| window == CREDENTIAL.as_bytes();
        assert!(text.windows(CREDENTIAL.len()).any(shown), "understood without a credential");
    }
    let line = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| at + 1);
    let (line, more) = text.split_at(line);
    let credential = format!("Proxy-Authorization: Basic {}\r\n", *CREDENTIAL);
    match understand(&[line, credential.as_bytes(), more].concat(), TOKEN) {
        Ok(Wish::Connect(target)) => one_spelling(&target),
        Ok(Wish::Plain(target, plain)) => goes_on(&target, &plain),
        Err(refusal) => assert!(refusal.text.chars().count() < 1500, "{refusal:?}"),
    }
}

fn head(bytes: &[u8], cut: usize) {
    let read = |(one, other): (&[u8], &[u8])| {
        let mut stream = one.chain(other);
        RUNTIME.with(|runtime| runtime.block_on(read_head(&mut stream, Duration::from_secs(3600))))
    };
    let (whole, parts) = (read((bytes, &[])), read(bytes.split_at(cut)));
    match (&whole, &parts) {
        (Ok(whole), Ok(parts)) => assert_eq!(whole.head, parts.head),
        (Err(Unread::Gone), Err(Unread::Gone)) | (Err(Unread::Refused(_)), Err(Unread::Refused(_))) => {}
        (whole, parts) => panic!("{whole:?} in one piece, {parts:?} in two"),
    }
    if let Ok(Head { head, rest }) = whole {
        assert!(head.len() <= MAX_HEAD_BYTES && bytes.starts_with(&[head.as_slice(), &rest].concat()));
        let end = head.windows(4).position(|window| window == b"\r\n\r\n");
        assert_eq!(end, Some(head.len() - 4), "it ends at the first empty line");
    }
}

fn goes_on(target: &Target, plain: &Plain) {
    one_spelling(target);
    let sent = plain_head(target, plain, None);
    let mut headers = [httparse::EMPTY_HEADER; 80];
    let mut request = httparse::Request::new(&mut headers);
    assert_eq!(request.parse(&sent), Ok(httparse::Status::Complete(sent.len())), "{}", sent.escape_ascii());
    assert_eq!((request.method, request.path), (Some(plain.method.as_str()), Some(plain.path.as_str())));
    assert!(plain.path.starts_with('/') || plain.path == "*", "{}", plain.path);
    assert_eq!(request.headers.len(), plain.headers.len() + 2);
    let count = |name: &str| request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name)).count();
    assert_eq!((count("Host"), count("Connection"), count("Proxy-Authorization")), (1, 1, 0));
    assert!(count("Content-Length") + usize::from(count("Transfer-Encoding") > 0) <= 1);
}

fn one_spelling(target: &Target) {
    let shown = target.to_string();
    assert_eq!(Target::parse(&shown, None).as_ref(), Ok(target));
    assert!(target.port > 0 && !shown.contains(|c: char| c.is_whitespace() || c.is_uppercase() || !c.is_ascii()));
}

/// Entries of lists have one meaning, lists let through what they name and nothing that is closed, passwords are not shown.
pub fn rules(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let (entry, wanted, exceptions, upstream, escaped) = (line(), line(), line(), line(), line());
    let rule = Rule::try_from(entry.to_owned()).ok();
    let target = Target::parse(wanted, Some(443)).ok();
    if let Some(rule) = &rule {
        assert_eq!(Rule::try_from(rule.to_string()).as_ref(), Ok(rule));
        assert!(!entry.contains(|c: char| c.is_whitespace() || "+@%\\".contains(c)), "{entry:?}");
    }
    if let Some(target) = &target {
        one_spelling(target);
        let all = Rule::try_from("*:*".to_owned()).expect("all hosts");
        let open = list(vec![all]).first_look(target);
        if let (Ok(()), Host::Address(address)) = (&open, &target.host) {
            assert!(!is_closed(*address), "{address} was let through");
        }
        if let Some(rule) = rule.as_ref().filter(|rule| list(vec![(*rule).clone()]).first_look(target).is_ok()) {
            assert!(open.is_ok(), "{rule} opens {target}, which is closed");
            named(&rule.to_string(), target);
        }
        assert!(Exceptions::read("*").has(target) && !Exceptions::read("").has(target));
        let _ = black_box(Exceptions::read(exceptions).has(target));
    }
    if let Ok(proxy) = Upstream::try_from(upstream.to_owned()) {
        // Without the type's own name, which may be anybody's password.
        let shown = format!("{proxy:?}").trim_start_matches("Upstream(").to_lowercase();
        let given = upstream.to_lowercase();
        let is_hidden = |word: String| word.len() < 10 || given.matches(&word).count() > 1 || !shown.contains(&word);
        assert!(proxy.password().map(str::to_lowercase).is_none_or(is_hidden), "{shown}");
    }
    let oracle: Vec<u8> = percent_encoding::percent_decode_str(escaped).collect();
    assert_eq!(percent_decoded(escaped), oracle);
}

fn list(allow: Vec<Rule>) -> Rules {
    Rules {
        allow,
        template: None,
        closed: Vec::new(),
        upstream: None,
        upstream_except: Exceptions::default(),
        token: Token(TOKEN.into()),
        limits: Limits { connections: 1, head_ms: 1, connect_ms: 1 },
    }
}

/// In the standard library's words, and not in those of the code under test.
fn is_closed(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            address.is_loopback()
                || address.is_link_local()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_broadcast()
        }
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_unspecified()
                || address.is_multicast()
        }
    }
}

/// An entry that lets a target through by its name names it, or a domain above it.
fn named(entry: &str, target: &Target) {
    let (hosts, port) = entry.rsplit_once(':').expect("entries are shown with a port");
    assert!(port == "*" || port == target.port.to_string(), "{entry} {target}");
    if let Host::Name(name) = &target.host {
        let below = hosts.strip_prefix('*').map_or(name == hosts, |domain| name.ends_with(domain));
        assert!(below || hosts.contains('/'), "{entry} {target}");
    }
}

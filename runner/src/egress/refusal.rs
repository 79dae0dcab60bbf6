//! Why a request did not get through, in words for logs, clients and figures.

use serde::{Deserialize, Serialize};

/// Why.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The settings do not list it.
    NotAllowed,
    /// The settings do, and the job's template does not.
    NotInTemplate,
    /// No setting opens it.
    Forbidden,
    /// Its name has no address.
    Unresolved,
    /// It does not answer, or refuses.
    Unreachable,
    /// The proxy beyond this one refuses, or cannot be reached.
    Upstream,
    /// The command has as many connections as it may.
    Busy,
    /// It was no request, too long, or too slow.
    Malformed,
    /// It came without the command's own credential.
    Unauthenticated,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::NotAllowed,
        Self::NotInTemplate,
        Self::Forbidden,
        Self::Unresolved,
        Self::Unreachable,
        Self::Upstream,
        Self::Busy,
        Self::Malformed,
        Self::Unauthenticated,
    ];

    /// As in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotAllowed => "not_allowed",
            Self::NotInTemplate => "not_in_template",
            Self::Forbidden => "forbidden",
            Self::Unresolved => "unresolved",
            Self::Unreachable => "unreachable",
            Self::Upstream => "upstream",
            Self::Busy => "busy",
            Self::Malformed => "malformed",
            Self::Unauthenticated => "unauthenticated",
        }
    }
}

/// A request that did not get through.
#[derive(Clone, Debug, Hash, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Host and port; empty where the request did not get so far.
    pub target: String,
    /// Why.
    pub reason: Reason,
    /// The HTTP status that the client gets.
    pub status: u16,
    /// What is wrong and what would help, in one sentence.
    pub text: String,
}

impl Refusal {
    /// One with its words. `text` names the target.
    pub(super) fn new(target: impl ToString, reason: Reason, text: impl Into<String>) -> Self {
        let status = match reason {
            Reason::NotAllowed | Reason::NotInTemplate | Reason::Forbidden => 403,
            Reason::Unresolved | Reason::Upstream => 502,
            Reason::Unreachable => 504,
            Reason::Busy => 503,
            Reason::Malformed => 400,
            Reason::Unauthenticated => 407,
        };
        Self { target: target.to_string(), reason, status, text: text.into() }
    }

    /// The line in the job's log.
    #[must_use]
    pub fn line(&self) -> String {
        format!("egress: {}", self.text)
    }

    /// The answer. Its first line bears the words too: of the answer to a CONNECT many clients show nothing else.
    pub(super) fn response(&self) -> Vec<u8> {
        let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
        let words: String = self.text.chars().map(plain).collect();
        let more = match self.reason {
            Reason::Unauthenticated => "Proxy-Authenticate: Basic realm=\"tendril\"\r\n",
            _ => "",
        };
        let body = format!("tendril: {words}\n");
        format!(
            "HTTP/1.1 {} {words}\r\n{more}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.status,
            body.len(),
        )
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_bears_its_words_in_the_first_line_and_no_line_of_the_clients_own() {
        let refusal = Refusal::new("a:1", Reason::NotAllowed, "a:1 is\r\nX-Evil: ü not allowed");
        let text = String::from_utf8(refusal.response()).unwrap();
        assert!(text.starts_with("HTTP/1.1 403 a:1 is??X-Evil: ? not allowed\r\nContent-Type"), "{text}");
        assert!(text.ends_with("\r\n\r\ntendril: a:1 is??X-Evil: ? not allowed\n"), "{text}");
        let text = String::from_utf8(Refusal::new("", Reason::Unauthenticated, "x").response()).unwrap();
        assert!(text.contains("\r\nProxy-Authenticate: Basic"), "{text}");
    }
}

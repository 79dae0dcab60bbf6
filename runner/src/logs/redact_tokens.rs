//! Tokens and keys that are known by their form, without knowing the value.

/// A kind of token: its first characters, and what follows them.
struct Format {
    prefix: &'static str,
    /// What it goes on with, to its end.
    has: fn(u8) -> bool,
    /// How many of these there are at least.
    min: usize,
}

const fn format(prefix: &'static str, has: fn(u8) -> bool, min: usize) -> Format {
    Format { prefix, has, min }
}

/// The first characters of each part of a JSON web token but the last: those of a JSON object.
const JWT: &str = "eyJ";
/// Shortest part of a JSON web token, in bytes.
const MIN_JWT_PART_BYTES: usize = 13;
/// Longest header of a JSON web token, in bytes.
pub const MAX_JWT_HEADER_BYTES: usize = 2048;

/// Longest private key from its first line to its last, in bytes.
pub const MAX_KEY_BYTES: usize = 16 * 1024;
/// A private key without its last line ends with the so manieth line that looks like nothing of a key.
pub const KEY_MISSES: u32 = 4;
/// What looks like a part of a key: so many characters of base64 in a row.
const KEY_RUN: u32 = 16;

const FORMATS: [Format; 30] = [
    // Amazon: key ids.
    format("AKIA", is_upper, 16),
    format("ASIA", is_upper, 16),
    // GitHub.
    format("ghp_", is_alphanumeric, 30),
    format("gho_", is_alphanumeric, 30),
    format("ghu_", is_alphanumeric, 30),
    format("ghs_", is_alphanumeric, 30),
    format("ghr_", is_alphanumeric, 30),
    format("github_pat_", is_word, 22),
    // GitLab.
    format("glpat-", is_dotted, 20),
    format("gldt-", is_dotted, 20),
    format("glrt-", is_dotted, 20),
    format("glcbt-", is_dotted, 20),
    // Slack.
    format("xoxb-", is_dashed, 10),
    format("xoxp-", is_dashed, 10),
    format("xoxa-", is_dashed, 10),
    format("xoxr-", is_dashed, 10),
    format("xoxs-", is_dashed, 10),
    format("xoxe-", is_dashed, 10),
    // Stripe.
    format("sk_live_", is_alphanumeric, 16),
    format("rk_live_", is_alphanumeric, 16),
    // npm, DigitalOcean, PyPI.
    format("npm_", is_alphanumeric, 30),
    format("dop_v1_", is_alphanumeric, 32),
    format("pypi-AgEI", is_dashed, 40),
    // Vault and Terraform's own.
    format("hvs.", is_dashed, 20),
    format("hvb.", is_dashed, 20),
    format(".atlasv1.", is_dashed, 40),
    // Google.
    format("AIza", is_dashed, 30),
    // A runner's credential, and the key of a cluster's artifacts.
    format("trt1.", is_dotted, 32),
    format("tak1.", is_base64, 40),
    // The credential of a command's proxy.
    format("tpx1_", is_alphanumeric, 32),
];

const KEY_BEGINS: [&str; 7] = [
    "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN RSA PRIVATE KEY-----",
    "-----BEGIN EC PRIVATE KEY-----",
    "-----BEGIN DSA PRIVATE KEY-----",
    "-----BEGIN ENCRYPTED PRIVATE KEY-----",
    "-----BEGIN OPENSSH PRIVATE KEY-----",
    "-----BEGIN PGP PRIVATE KEY BLOCK-----",
];
const KEY_ENDS: [&str; 7] = [
    "-----END PRIVATE KEY-----",
    "-----END RSA PRIVATE KEY-----",
    "-----END EC PRIVATE KEY-----",
    "-----END DSA PRIVATE KEY-----",
    "-----END ENCRYPTED PRIVATE KEY-----",
    "-----END OPENSSH PRIVATE KEY-----",
    "-----END PGP PRIVATE KEY BLOCK-----",
];

fn is_upper(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit()
}

fn is_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_dashed(byte: u8) -> bool {
    is_word(byte) || byte == b'-'
}

fn is_dotted(byte: u8) -> bool {
    is_dashed(byte) || byte == b'.'
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/=".contains(&byte)
}

/// What it means that a pattern has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// All of it is a form of a secret value.
    Value,
    /// A token of this format may begin.
    Format(u8),
    /// A part of a JSON web token may begin.
    Jwt,
    /// A private key begins.
    KeyBegin,
    /// It ends.
    KeyEnd,
}

/// What to look for in every text.
pub(super) fn patterns() -> impl Iterator<Item = (&'static str, Role)> {
    let formats = FORMATS.iter().zip(0..).map(|(format, index)| (format.prefix, Role::Format(index)));
    let begins = KEY_BEGINS.into_iter().map(|text| (text, Role::KeyBegin));
    let ends = KEY_ENDS.into_iter().map(|text| (text, Role::KeyEnd));
    formats.chain([(JWT, Role::Jwt)]).chain(begins).chain(ends)
}

/// The tokens and keys that have begun in a text.
///
/// Of a format only the first beginning in a row of its characters counts: what begins within it ends with it.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    open: Vec<Token>,
    key: Option<Key>,
}

#[derive(Debug)]
struct Token {
    /// Where it begins.
    from: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many characters after the prefix.
    Format { index: u8, count: usize },
    /// So many bytes of the first part.
    Header { count: usize },
    /// So many bytes of the second part.
    Payload { count: usize },
    /// It is a JSON web token, to its last part.
    Jwt,
}

#[derive(Debug, Default)]
struct Key {
    bytes: usize,
    /// The first line's end has been seen.
    begun: bool,
    run: u32,
    looks_like_a_key: bool,
    misses: u32,
}

impl Tokens {
    /// Nothing has begun.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.key.is_none()
    }

    /// Where the first token begins of which it is not clear yet whether it is one.
    pub(super) fn undecided_from(&self) -> Option<usize> {
        self.open.iter().filter(|token| !token.is_certain()).filter_map(Token::held_from).min()
    }

    /// Positions count from `bytes` further on.
    pub(super) fn shift(&mut self, bytes: usize) {
        self.open.iter_mut().for_each(|token| token.from = token.from.saturating_sub(bytes));
    }

    /// Takes the byte at `at`; returns from where on it and what is before it are secret, if they are.
    pub(super) fn take(&mut self, byte: u8, at: usize) -> Option<usize> {
        let mut from = self.key.is_some().then_some(at);
        self.open.retain_mut(|token| {
            let lives = token.take(byte);
            if lives && token.is_certain() {
                from = Some(from.map_or(token.from, |from| from.min(token.from)));
            }
            lives
        });
        if let Some(key) = &mut self.key
            && !key.take(byte)
        {
            self.key = None;
            // A line's end after which nothing of the key comes is no part of it.
            return from.filter(|from| byte != b'\n' || *from < at);
        }
        from
    }

    /// A pattern of this role ends before `end`, and is so long; true when it is secret in itself.
    pub(super) fn ended(&mut self, role: Role, len: usize, end: usize) -> bool {
        let state = match role {
            Role::Value => return true,
            Role::KeyBegin => {
                self.key.get_or_insert_default();
                return true;
            }
            Role::KeyEnd => return self.key.take().is_some(),
            Role::Format(index) => State::Format { index, count: 0 },
            Role::Jwt => State::Header { count: len },
        };
        if !self.open.iter().any(|token| token.is_alike(state)) {
            self.open.push(Token { from: end - len, state });
        }
        false
    }
}

impl Token {
    fn is_alike(&self, other: State) -> bool {
        match (self.state, other) {
            (State::Format { index, .. }, State::Format { index: other, .. }) => index == other,
            (State::Format { .. }, _) | (_, State::Format { .. }) => false,
            _ => true,
        }
    }

    fn is_certain(&self) -> bool {
        match self.state {
            State::Format { index, count } => count >= FORMATS[usize::from(index)].min,
            State::Jwt => true,
            State::Header { .. } | State::Payload { .. } => false,
        }
    }

    fn held_from(&self) -> Option<usize> {
        match self.state {
            State::Header { count } if count > MAX_JWT_HEADER_BYTES => None,
            _ => Some(self.from),
        }
    }

    /// Whether it goes on with this byte.
    fn take(&mut self, byte: u8) -> bool {
        let next = match self.state {
            State::Format { index, count } if (FORMATS[usize::from(index)].has)(byte) => {
                State::Format { index, count: count.saturating_add(1) }
            }
            State::Header { count } if is_dashed(byte) => State::Header { count: count.saturating_add(1) },
            State::Header { count: MIN_JWT_PART_BYTES..=MAX_JWT_HEADER_BYTES } if byte == b'.' => {
                State::Payload { count: 0 }
            }
            State::Payload { count } => {
                let fits = JWT.as_bytes().get(count).map_or(is_dashed(byte), |first| *first == byte);
                match count + 1 {
                    _ if !fits => return false,
                    MIN_JWT_PART_BYTES => State::Jwt,
                    count => State::Payload { count },
                }
            }
            State::Jwt if is_dotted(byte) => State::Jwt,
            State::Format { .. } | State::Header { .. } | State::Jwt => return false,
        };
        self.state = next;
        true
    }
}

impl Key {
    /// Whether the key goes on after this byte.
    fn take(&mut self, byte: u8) -> bool {
        self.bytes += 1;
        self.run = if is_base64(byte) { self.run + 1 } else { 0 };
        self.looks_like_a_key |= self.run >= KEY_RUN;
        if byte == b'\n' {
            let misses = if self.looks_like_a_key || !self.begun { 0 } else { self.misses + 1 };
            *self = Self { bytes: self.bytes, begun: true, misses, ..Self::default() };
        }
        // Never within a character.
        self.misses < KEY_MISSES && (self.bytes < MAX_KEY_BYTES || !byte.is_ascii())
    }
}

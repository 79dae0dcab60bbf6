//! Where a job's commands may go: through a proxy that lets pass what the settings list, and tells of all else.
//!
//! Each command has a proxy of its own, in a thread of its supervisor. So it lives exactly as long as the command, also when
//! the runner is lost, and holds none of the runner's credentials. [`Listener`] is bound before the command is made ready: its port is the
//! only one that the command may connect to. [`Rules`] travel with the step and decide; `proxy` asks them for each request,
//! before a name is resolved and again for all addresses that it has; `tunnel` carries the bytes; [`Ledger`] counts them, and tells
//! the supervisor what was refused.
//!
//! What it holds off, and what it does not, stands in `docs/SANDBOX.md`.

mod forbidden;
mod grant;
mod ledger;
mod listener;
mod network;
mod plain;
mod proxy;
mod refusal;
mod request;
mod rule;
mod rules;
mod settings;
mod target;
mod tunnel;
mod upstream;

pub use grant::{check_past_proxy, confined_egress};
pub use ledger::{Ledger, Traffic};
pub use listener::Listener;
pub use network::{Network, System};
pub use plain::head as plain_head;
pub use proxy::Proxy;
pub use refusal::{Reason, Refusal};
pub use request::{Head, MAX_HEAD_BYTES, Plain, Unread, Wish, read_head, understand};
pub use rule::Rule;
pub use rules::{Closed, Limits, Rules, Token};
pub use settings::{Mode, Settings};
pub use target::{Host, Target};
pub use upstream::{Exceptions, Upstream, percent_decoded};

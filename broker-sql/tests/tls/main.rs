//! TLS as a runner meets it: a server with a certificate of its own authority.
#![expect(clippy::expect_used, reason = "a test that cannot be set up has nothing to go on with")]

mod authority;
mod middle;
mod server;
mod trust;

//! A command's proxy: bound before the command is made ready, served in a thread of its own.

use super::ledger::Ledger;
use super::network::System;
use super::proxy::Proxy;
use super::rules::Rules;
use nix::sys::resource::{Resource, getrlimit};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;

/// Threads that resolve names.
const RESOLVERS: usize = 8;
/// Descriptors that stay for the supervisor itself, the resolvers and those who are told that there is no room.
const KEPT_DESCRIPTORS: u64 = 128;
/// How programs are told of a proxy.
const VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];
/// What would lead past it, and is emptied.
const EXCEPTIONS: [&str; 2] = ["NO_PROXY", "no_proxy"];
/// Proxies of other kinds, which there are none of.
const OTHERS: [&str; 2] = ["ALL_PROXY", "all_proxy"];

/// A listening proxy that nobody serves yet.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    port: u16,
    rules: Rules,
}

impl Listener {
    /// Listens on a port of loopback that the system picks.
    ///
    /// # Errors
    /// The system's.
    pub fn open(rules: Rules) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port, rules })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes it the only proxy that the command knows.
    pub fn tell(&self, env: &mut BTreeMap<String, String>) {
        let url = format!("http://tendril:{}@{}:{}", self.rules.token.0, Ipv4Addr::LOCALHOST, self.port);
        env.extend(VARIABLES.map(|name| (name.to_owned(), url.clone())));
        env.extend(EXCEPTIONS.map(|name| (name.to_owned(), String::new())));
        for name in OTHERS {
            env.remove(name);
        }
    }

    /// Serves in a thread of its own, for as long as this process lives. To be called after the last fork.
    ///
    /// # Errors
    /// The system has no thread, or no more descriptors.
    pub fn serve_apart(mut self, ledger: Arc<Ledger>) -> io::Result<()> {
        // Without a descriptor the supervisor could not write down how the command ended.
        let (open_files, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let limits = &mut self.rules.limits;
        limits.connections = limits.connections.min(connections_within(open_files));
        let mut building = tokio::runtime::Builder::new_current_thread();
        let runtime = building.enable_io().enable_time().max_blocking_threads(RESOLVERS).build()?;
        let listener = {
            let _in = runtime.enter();
            tokio::net::TcpListener::from_std(self.listener)?
        };
        let proxy = Proxy::new(self.rules, ledger, System);
        let serve = move || runtime.block_on(proxy.serve(listener));
        std::thread::Builder::new().name("egress".to_owned()).spawn(serve).map(drop)
    }
}

/// Connections that so many open files have room for: each is one to the command and one to the host.
fn connections_within(open_files: u64) -> u32 {
    u32::try_from(open_files.saturating_sub(KEPT_DESCRIPTORS) / 2).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_end_of_the_command() {
        assert_eq!(connections_within(1024), 448);
        assert_eq!(connections_within(u64::MAX), u32::MAX);
        // Tried: fewer than are kept.
        assert_eq!(connections_within(64), 1);
    }
}

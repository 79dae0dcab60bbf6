//! An address that names several hosts: a primary and those that may take its place.
//!
//! Sessions go to the host that had the last one. When it refuses, or says nothing for [`HEAD_START`], the next is tried beside
//! it, and whoever is first to give a session that may write has it: a host that is silent costs a second and not a timeout, and a
//! slow line is not taken for a dead one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

/// How long a host is alone in being tried.
const HEAD_START: Duration = Duration::from_secs(1);

/// The address of each host of a URL: `postgres://user:secret@one:1,two:2/db?x` has two.
pub fn each(url: &str) -> Vec<String> {
    let Some((scheme, rest)) = url.split_once("://") else { return vec![url.to_owned()] };
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (login, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    hosts.split(',').map(|host| format!("{scheme}://{login}{host}{tail}")).collect()
}

/// Whether that is a word for sessions that may write, which is all that this product can do with.
pub fn may_write(target_session_attrs: &str) -> bool {
    matches!(target_session_attrs, "any" | "read-write" | "primary")
}

/// Which of several hosts is tried first; all clones agree.
#[derive(Clone, Debug, Default)]
pub struct Lead(Arc<AtomicUsize>);

impl Lead {
    /// The host that had the last session.
    pub fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Opens a session at one of `count` hosts. Of the errors, the one that weighs most is told.
    pub async fn follow<T, E, F>(
        &self,
        count: usize,
        open: impl Fn(usize) -> F,
        weight: impl Fn(&E) -> u8,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let lead = self.now();
        let mut left = (1..count).map(|step| (lead + step) % count);
        let attempt = |host: usize| {
            let opening = open(host);
            async move { (host, opening.await) }
        };
        let mut tried = FuturesUnordered::from_iter([attempt(lead)]);
        let mut worst: Option<E> = None;
        loop {
            let ended = match tokio::time::timeout(HEAD_START, tried.next()).await {
                Ok(ended) => ended,
                Err(_) => {
                    if let Some(host) = left.next() {
                        tried.push(attempt(host));
                        continue;
                    }
                    tried.next().await
                }
            };
            match ended {
                Some((host, Ok(session))) => {
                    self.0.store(host, Ordering::Relaxed);
                    return Ok(session);
                }
                Some((_, Err(error))) => {
                    if let Some(host) = left.next() {
                        tried.push(attempt(host));
                    }
                    let told = match worst.take() {
                        Some(before) if weight(&before) >= weight(&error) => before,
                        _ => error,
                    };
                    if tried.is_empty() {
                        return Err(told);
                    }
                    worst = Some(told);
                }
                // There is always one under way; asked all the same, and not assumed.
                None => tried.push(attempt(lead)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Mutex;

    use tokio::sync::Notify;

    use super::*;

    #[test]
    fn a_url_with_several_hosts_is_one_for_each_of_them() {
        let url = "postgres://u:p%40x@one:1,[::1]:2,three/db?sslmode=require";
        let wanted = ["one:1", "[::1]:2", "three"].map(|host| format!("postgres://u:p%40x@{host}/db?sslmode=require"));
        assert_eq!(each(url), wanted);
        assert_eq!(each("postgres://one/a,b?x=c,d"), ["postgres://one/a,b?x=c,d"]);
        assert_eq!(each("nonsense"), ["nonsense"]);
    }

    /// Hosts that answer as they are told to: with a session, an error of that weight, or never.
    async fn follow(lead: &Lead, hosts: &[Option<Result<(), u8>>]) -> (Result<usize, u8>, Vec<usize>) {
        let asked = Mutex::new(Vec::new());
        let open = |host: usize| {
            asked.lock().unwrap().push(host);
            let answer = hosts[host];
            async move {
                match answer {
                    Some(answer) => answer.map(|()| host),
                    None => pending().await,
                }
            }
        };
        let opened = lead.follow(hosts.len(), open, |weight| *weight).await;
        (opened, asked.into_inner().unwrap())
    }

    #[tokio::test]
    async fn a_host_that_refuses_or_is_silent_is_passed_over_and_not_asked_first_again() {
        let lead = Lead::default();
        // Tried: one that refuses, one that never answers, one that takes the session.
        assert_eq!(follow(&lead, &[Some(Err(0)), None, Some(Ok(()))]).await, (Ok(2), vec![0, 1, 2]));
        assert_eq!(follow(&lead, &[Some(Ok(())), None, Some(Ok(()))]).await, (Ok(2), vec![2]));
        assert_eq!(lead.now(), 2);
    }

    #[tokio::test]
    async fn of_several_errors_the_one_that_says_most_is_told() {
        let lead = Lead::default();
        assert_eq!(follow(&lead, &[Some(Err(0)), Some(Err(2)), Some(Err(1))]).await.0, Err(2));
        assert_eq!(follow(&lead, &[Some(Err(1))]).await, (Err(1), vec![0]));
        assert_eq!(lead.now(), 0, "nobody had a session");
    }

    #[tokio::test]
    async fn a_slow_host_is_waited_for_while_the_others_are_asked() {
        let lead = Lead::default();
        let (asked, answer) = (Notify::new(), Notify::new());
        let open = |host: usize| {
            let (asked, answer) = (&asked, &answer);
            async move {
                match host {
                    // It answers once the other one has been asked, too.
                    0 => answer.notified().await,
                    _ => {
                        asked.notify_one();
                        pending().await
                    }
                }
                Ok::<_, ()>(host)
            }
        };
        let late = async {
            asked.notified().await;
            answer.notify_one();
        };
        let (opened, ()) = tokio::join!(lead.follow(2, open, |_| 0), late);
        assert_eq!(opened, Ok(0));
    }
}

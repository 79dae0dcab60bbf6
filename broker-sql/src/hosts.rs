//! An address that names several hosts: a primary and those that may take its place.
//!
//! Sessions go to the host that had the last one. When it refuses, or says nothing for [`HEAD_START`], the next is tried beside
//! it, and whoever is first to give a session that may write has it: a host that is silent costs a second and not a timeout, and a
//! slow line is not taken for a dead one. A host that has had the lead taken from it is not believed any more: it may be a primary
//! that was replaced, and does not know. Another name of the server that has the lead takes nothing from it.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;

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

/// What a server is asked that has given a session, where there are several names.
pub const WHICH_SERVER: &str = "-- which server\nselect (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint, current_setting('port')";

/// One run of one server: the same by whichever name it was reached. Its system identifier would not do, which a standby has too;
/// nor its address, of which it may have several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// By its own clock.
    started_us: i64,
    port: u16,
}

impl Server {
    /// From the answer to [`WHICH_SERVER`]; None when it is none.
    pub fn of(started_us: Option<&str>, port: Option<&str>) -> Option<Self> {
        Some(Self { started_us: started_us?.parse().ok()?, port: port?.parse().ok()? })
    }
}

/// Which of several hosts is tried first; all clones agree.
#[derive(Clone, Debug, Default)]
pub struct Lead(watch::Sender<Term>);

/// A time in which one host has the lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Term {
    /// Rises when another server takes the lead; 0 before anybody has had a session.
    epoch: u64,
    host: usize,
    /// Which one it is, if that is known.
    server: Option<Server>,
}

impl Term {
    /// Whether this host has given a session in it: what that one says of a credential is no matter of lagging behind.
    fn is_led_by(self, host: usize) -> bool {
        self.epoch > 0 && self.host == host
    }
}

impl Lead {
    /// The host that had the last session.
    pub fn now(&self) -> usize {
        self.0.borrow().host
    }

    /// Returns once another server than in this term has the lead: sessions of the term are not to be trusted any more.
    pub fn passed_on(&self, term: Term) -> impl Future<Output = ()> + Send + use<> {
        let (mut lead, kept) = (self.0.subscribe(), self.0.clone());
        async move {
            // As long as this waits, somebody is left who could pass it on.
            let _kept = kept;
            drop(lead.wait_for(|now| now.epoch != term.epoch).await);
        }
    }

    /// Gives the lead to the host of a session that was begun in this term. None when it was passed on meanwhile, to another server.
    fn take(&self, begun: Term, host: usize, server: Option<Server>) -> Option<Term> {
        let mut taken = None;
        self.0.send_if_modified(|now| {
            let same = now.epoch > 0 && (now.host == host || server.is_some() && now.server == server);
            if !same && *now != begun {
                return false;
            }
            let before = std::mem::replace(now, Term { epoch: now.epoch + u64::from(!same), host, server });
            taken = Some(*now);
            before != *now
        });
        taken
    }

    /// Opens a session at one of `count` hosts, and says in which term it may be used; `open` also says which server it found, if it
    /// knows. Of the errors, the one that weighs most is told; `weight` hears whether it is of the host that had a session before.
    pub async fn follow<T, E, F>(
        &self,
        count: usize,
        open: impl Fn(usize) -> F,
        weight: impl Fn(&E, bool) -> u8,
    ) -> Result<(T, Term), E>
    where
        F: Future<Output = Result<(T, Option<Server>), E>>,
    {
        loop {
            let begun = *self.0.borrow();
            let (host, (session, server)) =
                first(begun.host, count, &open, |error, host| weight(error, begun.is_led_by(host))).await?;
            // The old lead may have answered late, when others had left it.
            if let Some(term) = self.take(begun, host, server) {
                return Ok((session, term));
            }
        }
    }
}

/// The first session that any of the hosts gives.
async fn first<T, E, F>(
    lead: usize,
    count: usize,
    open: impl Fn(usize) -> F,
    weight: impl Fn(&E, usize) -> u8,
) -> Result<(usize, T), E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut left = (1..count).map(|step| (lead + step) % count);
    let attempt = |host: usize| {
        let opening = open(host);
        async move { (host, opening.await) }
    };
    let mut tried = FuturesUnordered::from_iter([attempt(lead)]);
    let mut worst: Option<(u8, E)> = None;
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
            Some((host, Ok(session))) => return Ok((host, session)),
            Some((host, Err(error))) => {
                if let Some(next) = left.next() {
                    tried.push(attempt(next));
                }
                let told = (weight(&error, host), error);
                let told = match worst.take() {
                    Some(before) if before.0 >= told.0 => before,
                    _ => told,
                };
                if tried.is_empty() {
                    return Err(told.1);
                }
                worst = Some(told);
            }
            // There is always one under way; asked all the same, and not assumed.
            None => tried.push(attempt(lead)),
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
                    Some(answer) => answer.map(|()| (host, None)),
                    None => pending().await,
                }
            }
        };
        let opened = lead.follow(hosts.len(), open, |weight, _| *weight).await;
        (opened.map(|(host, _)| host), asked.into_inner().unwrap())
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
                Ok::<_, ()>((host, None))
            }
        };
        let late = async {
            asked.notified().await;
            answer.notify_one();
        };
        let (opened, ()) = tokio::join!(lead.follow(2, open, |_, _| 0), late);
        assert_eq!(opened.map(|(host, _)| host), Ok(0));
    }

    #[tokio::test]
    async fn sessions_of_a_host_that_has_lost_the_lead_are_over_and_those_of_the_next_are_not() {
        let lead = Lead::default();
        let at = async |host: usize, answers: bool| {
            let open = |asked: usize| async move { if answers && asked == host { Ok(((), None)) } else { Err(()) } };
            lead.follow(2, open, |_, _| 0).await.map(|(_, term)| term)
        };
        let first = at(0, true).await.unwrap();
        assert_eq!(at(0, true).await, Ok(first), "the same host again is the same term");
        let mut over = Box::pin(lead.passed_on(first));
        at(0, false).await.unwrap_err();
        assert!(futures_util::poll!(&mut over).is_pending(), "nobody else has taken it");
        let second = at(1, true).await.unwrap();
        over.await;
        assert!(futures_util::poll!(Box::pin(lead.passed_on(second))).is_pending());
        // Back at the first: its old sessions are no better for it.
        at(0, true).await.unwrap();
        lead.passed_on(first).await;
        lead.passed_on(second).await;
    }

    #[tokio::test]
    async fn another_name_of_the_server_that_has_the_lead_takes_nothing_from_it() {
        let lead = Lead::default();
        let server = |started_us| Some(Server { started_us, port: 5432 });
        let at = async |host: usize, server: Option<Server>| {
            let open = |asked: usize| async move { if asked == host { Ok(((), server)) } else { Err(()) } };
            lead.follow(2, open, |_, _| 0).await.map(|(_, term)| term)
        };
        let first = at(0, server(7)).await.unwrap();
        let mut over = Box::pin(lead.passed_on(first));
        at(1, server(7)).await.unwrap();
        assert_eq!(lead.now(), 1, "the name that answers is asked first");
        assert!(futures_util::poll!(&mut over).is_pending());
        // One that has begun anew has ended its sessions; one that does not say who it is may be another.
        let anew = at(0, server(8)).await.unwrap();
        over.await;
        at(1, None).await.unwrap();
        lead.passed_on(anew).await;
    }

    #[tokio::test]
    async fn a_session_that_an_old_lead_gives_late_is_not_taken() {
        let lead = Lead::default();
        follow(&lead, &[Some(Ok(())), Some(Ok(()))]).await.0.unwrap();
        let (asked, answer) = (Notify::new(), Notify::new());
        let open = |host: usize| {
            let (asked, answer) = (&asked, &answer);
            async move {
                if host == 0 {
                    asked.notify_one();
                    answer.notified().await;
                }
                Ok::<_, u8>((host, None))
            }
        };
        let late = async {
            asked.notified().await;
            // Others have left it meanwhile.
            assert_eq!(follow(&lead, &[Some(Err(0)), Some(Ok(()))]).await.0, Ok(1));
            answer.notify_one();
        };
        let (opened, ()) = tokio::join!(lead.follow(2, open, |_, _| 0), late);
        assert_eq!((opened.map(|(host, _)| host), lead.now()), (Ok(1), 1));
    }

    #[tokio::test]
    async fn who_weighs_errors_hears_which_is_of_the_host_that_had_a_session_before() {
        let lead = Lead::default();
        let ask = async || {
            let weight = |host: &usize, had_one: bool| if had_one { 9 } else { u8::try_from(*host).unwrap() };
            lead.follow(3, |host| async move { Err::<((), _), _>(host) }, weight).await.map(drop).unwrap_err()
        };
        assert_eq!(ask().await, 2, "nobody has had one yet");
        assert_eq!(follow(&lead, &[Some(Ok(())), None, None]).await.0, Ok(0));
        assert_eq!(ask().await, 0);
    }
}

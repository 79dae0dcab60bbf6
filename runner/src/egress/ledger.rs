//! What went through a command's proxy, and what did not.

use super::refusal::{Reason, Refusal};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::io::{PipeReader, PipeWriter, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Different refusals that are told of one command; all further ones are counted only.
const MAX_TOLD: usize = 50;

/// Figures of one command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Requests that got through.
    pub connections: u64,
    /// Those that did not, and why.
    pub refused: BTreeMap<Reason, u64>,
    /// Bytes from the command.
    pub sent_bytes: u64,
    /// Bytes to the command.
    pub received_bytes: u64,
}

/// Counts, and tells of refusals: each of its kind once.
#[derive(Debug)]
pub struct Ledger {
    connections: AtomicU64,
    refused: [AtomicU64; Reason::ALL.len()],
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    news: Mutex<News>,
    bell: PipeWriter,
}

#[derive(Debug, Default)]
struct News {
    told: HashSet<(String, Reason)>,
    waiting: Vec<Refusal>,
}

impl Ledger {
    /// An empty one, and the bell that rings (a byte to read) when there is news.
    ///
    /// # Errors
    /// The system has no pipe.
    pub fn new() -> std::io::Result<(Self, PipeReader)> {
        let (reader, bell) = std::io::pipe()?;
        let zero = AtomicU64::default;
        let news = Mutex::default();
        let refused = std::array::from_fn(|_| zero());
        Ok((Self { connections: zero(), refused, sent: zero(), received: zero(), news, bell }, reader))
    }

    /// The figures by now.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let refused = Reason::ALL.into_iter().zip(self.refused.iter().map(read));
        Traffic {
            connections: read(&self.connections),
            refused: refused.filter(|(_, count)| *count > 0).collect(),
            sent_bytes: read(&self.sent),
            received_bytes: read(&self.received),
        }
    }

    /// What is to be told since the last time; whoever has heard the bell takes its byte first.
    #[must_use]
    pub fn take(&self) -> Vec<Refusal> {
        std::mem::take(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner).waiting)
    }

    pub(super) fn passed(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self, refusal: &Refusal) {
        if let Some(index) = Reason::ALL.iter().position(|reason| *reason == refusal.reason) {
            self.refused[index].fetch_add(1, Ordering::Relaxed);
        }
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = news.told.len() < MAX_TOLD && news.told.insert((refusal.target.clone(), refusal.reason));
        if !is_new {
            return;
        }
        let was_empty = news.waiting.is_empty();
        news.waiting.push(refusal.clone());
        if news.told.len() == MAX_TOLD {
            let text = format!("more than {MAX_TOLD} different requests were refused; further ones are counted only");
            news.waiting.push(Refusal { text, ..refusal.clone() });
        }
        drop(news);
        // At most one byte for each time that the news are taken: the pipe never fills.
        if was_empty {
            let _ = (&self.bell).write_all(&[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_refusal_is_told_once_and_a_flood_of_them_is_counted() {
        let (ledger, mut bell) = Ledger::new().unwrap();
        let refusal = |host: usize| Refusal::new(format!("h{host}:1"), Reason::NotAllowed, "no");
        for _ in 0..3 {
            ledger.refused(&refusal(0));
        }
        bell.read_exact(&mut [0]).unwrap();
        assert_eq!(ledger.take(), [refusal(0)]);
        (0..1000).for_each(|host| ledger.refused(&refusal(host)));
        bell.read_exact(&mut [0]).unwrap();
        let told = ledger.take();
        assert_eq!(told.len(), MAX_TOLD, "without the first, and with the last word");
        assert!(told.last().unwrap().text.contains("counted only"));
        assert_eq!(ledger.traffic().refused, [(Reason::NotAllowed, 1003)].into());
        assert_eq!(ledger.take(), []);
    }
}

//! What the parts of a runner process share.

use crate::collect::Collector;
use crate::config::Config;
use crate::holdings::Holdings;
use crate::kinds::Kind;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::prepare::secrets::Keyring;
use crate::seal::ArtifactKey;
use crate::supervise::Supervisors;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;
use tendril_broker::runner::{Broker, Registered, Registration};
use tokio::sync::Notify;

/// A registered runner.
pub struct Runner {
    /// Its settings.
    pub config: Arc<Config>,
    /// The broker's calls.
    pub broker: Broker,
    /// What it says of itself.
    pub registration: Registration,
    /// What the broker answered to that.
    pub registered: Registered,
    /// The attempts that it holds.
    pub holdings: Arc<Holdings>,
    /// Their logs.
    pub collector: Arc<Collector>,
    /// Its figures.
    pub metrics: Arc<Metrics>,
    /// What it can do, by name.
    pub kinds: BTreeMap<&'static str, Arc<dyn Kind>>,
    /// Where its commands get their supervisors.
    pub supervisors: Arc<Supervisors>,
    /// What it seals artifacts with.
    pub key: ArtifactKey,
    /// What it keeps out of logs and reports.
    pub keyring: Arc<Keyring>,
    /// What the broker has acknowledged to this place.
    pub memory: Arc<Memory>,
    /// Signals between its loops.
    pub signals: Signals,
}

impl Runner {
    /// How long a lease holds.
    pub fn lease_ttl(&self) -> Duration {
        Duration::from_millis(self.registered.lease_ttl_ms)
    }

    /// Slots that nothing runs in.
    pub fn free_slots(&self) -> usize {
        (self.config.slots as usize).saturating_sub(self.holdings.count())
    }
}

/// What one loop tells another. Each is a hint; the truth is asked of the broker.
#[derive(Default)]
pub struct Signals {
    /// There may be work: the doorbell rang, or a heartbeat said so.
    pub work: Notify,
    /// A heartbeat has been answered.
    pub renewed: Notify,
    /// It was on a new connection, or by somebody who does not know this process: perhaps another database than before.
    pub reconnected: Notify,
    /// The doorbell's session is up.
    listening: AtomicBool,
    /// The broker wants this runner to listen.
    may_listen: AtomicBool,
    /// No more claims: the credential is being drained.
    draining: AtomicBool,
    /// The credential is gone.
    revoked: AtomicBool,
    /// Up to which claim all attempts are held.
    settled: AtomicI64,
}

macro_rules! flag {
    ($(#[$doc:meta])* $get:ident, $set:ident, $field:ident) => {
        $(#[$doc])*
        pub fn $get(&self) -> bool {
            self.$field.load(Ordering::Acquire)
        }

        /// Sets it; returns what it was.
        pub fn $set(&self, value: bool) -> bool {
            self.$field.swap(value, Ordering::AcqRel)
        }
    };
}

impl Signals {
    flag!(
        /// Whether the doorbell's session is up.
        listening, set_listening, listening
    );
    flag!(
        /// Whether the broker wants this runner to listen.
        may_listen, set_may_listen, may_listen
    );
    flag!(
        /// Whether the credential is being drained.
        draining, set_draining, draining
    );
    flag!(
        /// Whether the credential is gone.
        revoked, set_revoked, revoked
    );

    /// Up to which claim all attempts are held. Read it before the holdings: then it never promises too much.
    pub fn settled(&self) -> i64 {
        self.settled.load(Ordering::Acquire)
    }

    /// All attempts up to this claim are held.
    pub fn settle(&self, claim_no: i64) {
        self.settled.store(claim_no, Ordering::Release);
    }
}

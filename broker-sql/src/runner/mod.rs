//! What a runner asks of the broker: register, claim, start, heartbeat, finish, artifacts, logs, the doorbell.
//!
//! Claim, start, finish and artifacts share a small pool; starts and ends that come together go together; heartbeat, logs and the doorbell have a connection each, so
//! that a slow COPY never makes a lease run out.

mod artifacts;
mod calls;
mod doorbell;
mod error;
mod gather;
mod heart;
mod lease;
pub(crate) mod logs;
mod pool;
mod together;

pub use artifacts::StoredArtifact;
pub use calls::{Broker, Compared, Registered, Registration, Witness, WitnessedEnd, WitnessedOpen};
pub use doorbell::Doorbell;
pub use error::BrokerError;
pub use heart::{Beat, Heart};
pub use lease::{Adoption, Claimed, Disposition, Lease, Outcome, Report};
pub use logs::{LogRow, LogWriter, Position, RefusedAttempt, Written};

/// Version of the protocol between runner and broker that this crate speaks.
pub const API_VERSION: i32 = 3;

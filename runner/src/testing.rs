//! What the tests of this crate share.

use std::time::Duration;

use serde_json::Value;
use tendril_broker::runner::{Claimed, Lease};
use time::Date;
use uuid::Uuid;

/// An attempt with this number that only reads, and has nothing to do.
pub fn claimed(number: u128) -> Claimed {
    Claimed {
        lease: Lease { attempt_id: Uuid::from_u128(number), fence: 1 },
        ordinal: 1,
        claim_day: Date::MIN,
        job_id: Uuid::nil(),
        deployment_id: Uuid::nil(),
        job: "a".into(),
        kind: "exec".into(),
        mutating: false,
        timeout: Duration::ZERO,
        kill_grace: Duration::ZERO,
        state_key: None,
        spec: Value::Null,
        snapshot: Value::Null,
        plan_attempt: None,
    }
}

//! A runner without anything that runs.

use std::time::Duration;
use tendril_broker::connect::Address;
use tendril_broker::runner::{
    Broker, Claimed, Disposition, Doorbell, LogRow, LogWriter, Outcome, Registration, Report, Written,
};
use tendril_broker::testing::TestDatabase;
use tendril_broker::token::AgentToken;
use time::OffsetDateTime;
use uuid::Uuid;

/// Claims jobs and does as it is told with them.
pub struct FakeRunner {
    pub broker: Broker,
    logs: LogWriter,
    bell: Doorbell,
    next_claim: i64,
}

impl FakeRunner {
    /// Registers, listens and takes its log writer over.
    pub async fn start(database: &TestDatabase, token: &str) -> Self {
        let token: AgentToken = token.parse().unwrap();
        let url = database.url();
        let (_, place) = url.rsplit_once('@').unwrap();
        let connector = Address::parse(&format!("postgres://{place}")).unwrap().connector(&token).unwrap();
        let runner = Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0010);
        let writer = Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0011);
        let broker = Broker::new(connector.clone(), runner, 1).unwrap();
        let registration = Registration {
            name: "fake".into(),
            version: "0".into(),
            place: None,
            labels: ["kind=terraform.plan", "kind=terraform.apply"].map(String::from).into(),
            slots: 1,
            log_writer: writer,
        };
        let registered = broker.register(&registration).await.unwrap();
        let bell = Doorbell::listen(&connector, &registered.channel).await.unwrap();
        let logs = LogWriter::take_over(&connector, writer).await.unwrap();
        Self { broker, logs, bell, next_claim: 1 }
    }

    /// The next job, as soon as there is one.
    pub async fn claim(&mut self) -> Claimed {
        loop {
            self.broker.wait().await.unwrap();
            let claimed = self.broker.claim(self.next_claim, 1).await.unwrap();
            self.next_claim += 1;
            if let Some(job) = claimed.into_iter().next() {
                return job;
            }
            self.bell.ring().await.unwrap();
        }
    }

    /// Stores one record of a job's output.
    pub async fn write(&mut self, job: &Claimed, seq: i64, text: &str) {
        let row = LogRow {
            deployment_id: job.deployment_id,
            lease: job.lease,
            claim_day: job.claim_day,
            job: &job.job,
            attempt: job.ordinal,
            seq,
            seq_to: seq,
            stream: "stdout",
            text,
            ts: OffsetDateTime::UNIX_EPOCH,
            gap_kind: None,
            gap_bytes: None,
        };
        let written = self.logs.write(&[row], Duration::from_secs(10)).await.unwrap();
        assert_eq!(written, Written::Stored);
    }

    /// Reports success; the log ends with this record.
    pub async fn finish(&self, job: &Claimed, log_end: i64) {
        let report = Report {
            outcome: Outcome::Success,
            log_end,
            child_dead: true,
            error: None,
            permanent: false,
            result: serde_json::json!({"outputs": {"greeting": {"value": "hello", "sensitive": false}}}),
            commands: serde_json::Value::Null,
        };
        assert_eq!(self.broker.finish(&job.lease, &report).await.unwrap(), Disposition::Accepted);
    }
}

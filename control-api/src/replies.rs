//! What answers look like. The types without a use in code say in the OpenAPI document what broker-sql's own types are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tendril_broker::portal::artifacts;
use tendril_broker::portal::clusters::Seen;
use tendril_broker::portal::deployments::Listed;
use tendril_broker::portal::logs::LogChunk as StoredChunk;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

/// An error (RFC 9457).
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemReply {
    /// Stable; `urn:tendril:problem:` and one of the words in docs/API.md.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong this time.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
    /// The broker's own code (docs/SQL.md), where it was the broker that refused.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sqlstate: Option<String>,
    /// Each key that is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub problems: Vec<WrongKey>,
}

/// A key that is wrong.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct WrongKey {
    /// As in `config_snapshot.jobs[0].kind`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

/// Clusters, the oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClusterPage {
    /// So many as fit.
    #[schema(value_type = Vec<Cluster>)]
    pub items: Vec<Seen>,
    /// What to give as `cursor` for those behind; absent where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A cluster.
#[derive(Debug, Serialize, ToSchema)]
pub struct Cluster {
    /// UUIDv7.
    pub id: Uuid,
    /// Unique per user among those that are not revoked.
    pub name: String,
    /// The portal's user that owns it.
    #[schema(required)]
    pub user_id: Option<String>,
    /// ONLINE, OFFLINE or REVOKED.
    pub status: String,
    /// Runners whose lease is live.
    pub runners_online: i64,
    /// Newest heartbeat.
    #[schema(required)]
    pub last_seen_at: Option<OffsetDateTime>,
    /// When it was registered.
    pub created_at: OffsetDateTime,
}

/// Deployments, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeploymentPage {
    /// So many as fit.
    #[schema(value_type = Vec<DeploymentLine>)]
    pub items: Vec<Listed>,
    /// What to give as `cursor` for those behind; absent where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A line of a list of deployments.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeploymentLine {
    /// The deployment.
    pub id: Uuid,
    /// Where it runs.
    pub cluster_id: Uuid,
    /// The cluster's name.
    pub cluster: String,
    /// Who asked.
    #[schema(required)]
    pub user_id: Option<String>,
    /// QUEUED, PROCESSING, AWAITING_APPROVAL, SUCCESS, FAILED or CANCELLED.
    pub status: Status,
    /// What has to happen before it goes on.
    #[schema(required)]
    pub waiting_for: Option<String>,
    /// Why it failed.
    #[schema(required)]
    pub error_message: Option<String>,
    /// When it was submitted.
    pub created_at: OffsetDateTime,
    /// When its last job ended.
    #[schema(required)]
    pub ended_at: Option<OffsetDateTime>,
}

/// How far a deployment is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// Nothing of it was claimed yet.
    Queued,
    /// Something of it runs.
    Processing,
    /// It waits for somebody's word.
    AwaitingApproval,
    /// It ended well.
    Success,
    /// It did not.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl Status {
    /// As the database has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Processing => "PROCESSING",
            Self::AwaitingApproval => "AWAITING_APPROVAL",
            Self::Success => "SUCCESS",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

/// A deployment with its jobs, their newest attempts and where each attempt's log ends, as `tendril.status` tells it.
/// Keys are added, never changed.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deployment {
    /// The deployment.
    pub id: Uuid,
    /// Where it runs.
    pub cluster_id: Uuid,
    /// How far it is.
    pub status: Status,
    /// What has to happen before it goes on.
    #[schema(required)]
    pub waiting_for: Option<String>,
    /// Why it failed.
    #[schema(required)]
    pub error_message: Option<String>,
    /// Outputs of the last apply; sensitive ones are masked.
    #[schema(required, value_type = Option<Object>)]
    pub outputs: Option<serde_json::Value>,
    /// When it was submitted.
    pub created_at: OffsetDateTime,
    /// Its jobs.
    pub jobs: Vec<Job>,
    /// Where each attempt's log ends.
    pub logs: Vec<LogEnd>,
}

/// A job of a deployment.
#[derive(Debug, Serialize, ToSchema)]
pub struct Job {
    /// Unique within the deployment.
    pub name: String,
    /// terraform.plan and so on.
    pub kind: String,
    /// A state of docs/STATE_MACHINE.md.
    pub state: String,
    /// Why, when that needs saying.
    #[schema(required)]
    pub reason: Option<String>,
    /// What has to happen before it runs.
    #[schema(required)]
    pub waiting_for: Option<String>,
    /// How many attempts were claimed.
    pub attempts: i32,
}

/// Where an attempt's log ends.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogEnd {
    /// The attempt.
    pub attempt_id: Uuid,
    /// Its last record, -1 for none; null until it finished.
    #[schema(required)]
    pub log_end: Option<i64>,
    /// open, complete or incomplete.
    pub log_state: String,
}

/// What is to be done, and where.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Submit {
    /// The cluster's id.
    pub cluster_id: Uuid,
    /// What to do: docs/config-snapshot.schema.json.
    #[schema(value_type = Object)]
    pub config_snapshot: serde_json::Map<String, serde_json::Value>,
}

/// What a submit left behind.
#[derive(Debug, Serialize, ToSchema)]
pub struct Submitted {
    /// The deployment.
    pub id: Uuid,
    /// Where it runs.
    pub cluster_id: Uuid,
    /// How far it is by now.
    #[schema(value_type = Status)]
    pub status: String,
    /// Whether this request queued it; false when it was sent before.
    pub queued: bool,
}

/// Why.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// Shown with the deployment.
    #[serde(default)]
    #[schema(max_length = 4096)]
    pub reason: Option<String>,
}

/// A decision about jobs that wait for one.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Only this job; without it all that wait.
    #[serde(default)]
    pub job: Option<String>,
    /// Kept with the decision.
    #[serde(default)]
    #[schema(max_length = 4096)]
    pub reason: Option<String>,
}

/// How far a deployment is after a request.
#[derive(Debug, Serialize, ToSchema)]
pub struct Standing {
    /// The deployment.
    pub id: Uuid,
    /// How far it is.
    #[schema(value_type = Status)]
    pub status: String,
}

/// How many jobs were decided about.
#[derive(Debug, Serialize, ToSchema)]
pub struct Decided {
    /// The deployment.
    pub id: Uuid,
    /// So many jobs.
    pub jobs: i32,
}

/// A deployment that does another one again.
#[derive(Debug, Serialize, ToSchema)]
pub struct Retried {
    /// The new deployment.
    pub id: Uuid,
    /// The old one.
    pub retry_of: Uuid,
}

/// A part of the logs.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogPage {
    /// Within an attempt they come in order and without holes.
    #[schema(value_type = Vec<LogChunk>)]
    pub chunks: Vec<StoredChunk>,
    /// By attempt the last record read: what to give as `after`, or as `Last-Event-ID`, to go on.
    pub position: BTreeMap<Uuid, i64>,
    /// There is more at once.
    pub more: bool,
    /// The deployment has ended and all of its log was read.
    pub over: bool,
}

/// Output of an attempt.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogChunk {
    /// The attempt that printed it.
    pub attempt_id: Uuid,
    /// Its job.
    pub job: String,
    /// Ordinal of the attempt within its job.
    pub attempt: i32,
    /// Number of the first record.
    pub seq: i64,
    /// Number of the last record.
    pub seq_to: i64,
    /// stdout, stderr or system.
    pub stream: String,
    /// The records' text, line ends included.
    pub log_chunk: String,
    /// Arrival of the first record by the runner's clock.
    pub ts: OffsetDateTime,
    /// Set on a row that stands for lost output.
    #[schema(required)]
    pub gap_kind: Option<String>,
    /// Bytes lost, when known.
    #[schema(required)]
    pub gap_bytes: Option<i64>,
}

/// Data of the event `end`: nothing more comes.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogOver {
    /// How the deployment ended.
    pub status: String,
    /// Whether all that was printed was read.
    pub logs_complete: bool,
}

/// What attempts have left behind.
#[derive(Debug, Serialize, ToSchema)]
pub struct ArtifactList {
    /// The oldest first.
    #[schema(value_type = Vec<Artifact>)]
    pub items: Vec<artifacts::Artifact>,
    /// Why the content is not to be had here.
    pub content: String,
}

/// An artifact without its content.
#[derive(Debug, Serialize, ToSchema)]
pub struct Artifact {
    /// The artifact.
    pub id: Uuid,
    /// The job that left it.
    pub job: String,
    /// The attempt that made it.
    pub attempt_id: Uuid,
    /// Ordinal of the attempt within its job.
    pub attempt: i32,
    /// plan, cost, state and so on.
    pub name: String,
    /// Type of the content before it was sealed.
    pub media_type: String,
    /// Bytes of the sealed content.
    pub size_bytes: i32,
    /// Digest of the sealed content.
    pub sha256: String,
    /// When it was stored.
    pub created_at: OffsetDateTime,
}

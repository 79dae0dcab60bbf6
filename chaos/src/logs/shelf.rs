//! Where logs are archived: a bucket, and those who archive there.

use super::bucket::Bucket;
use crate::world::ServeSeat;

/// The bucket, and the replicas of `serve` that archive there.
pub struct Shelf {
    /// Where logs go.
    pub bucket: Bucket,
    /// They.
    pub replicas: Vec<ServeSeat>,
    /// Runs whose logs were made old.
    pub aged: u32,
}

impl Shelf {
    /// A bucket, and two replicas beside the one that archives nothing.
    ///
    /// # Errors
    /// The system's error.
    pub async fn start(folder: &std::path::Path, serve: &ServeSeat) -> anyhow::Result<Self> {
        let bucket = Bucket::start(&folder.join("bucket")).await?;
        let replicas = (1..=2).map(|number| serve.beside(number, bucket.environment()));
        Ok(Self { replicas: replicas.collect::<anyhow::Result<_>>()?, bucket, aged: 0 })
    }
}

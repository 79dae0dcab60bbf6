//! A database with one cluster, and a portal that may do all there.

use crate::program::{Example, Program};
use std::path::Path;
use tendril_broker::Address;
use tendril_broker::operator::clusters::IssuedCredential;
use tendril_broker::operator::grants::Scope;
use tendril_broker::portal::deployments::{self, Filter, Listed};
use tendril_broker::testing::TestDatabase;
use uuid::Uuid;

/// A database with one cluster, and a portal that may do all there.
pub struct Portal {
    pub database: TestDatabase,
    pub cluster: IssuedCredential,
    pub url: String,
}

impl Portal {
    pub async fn open() -> Self {
        let database = TestDatabase::create().await;
        let cluster = database.cluster("customer").await;
        let url = database.portal(Scope::All).await.url;
        Self { database, cluster, url }
    }

    pub fn submit(&self, example: &Example, snapshot: &Path, id: Option<Uuid>) -> Program {
        example.submit(&self.url, self.cluster.id, snapshot, id)
    }

    pub async fn deployments(&self) -> Vec<Listed> {
        let address: Address = self.url.parse().unwrap();
        let mut session = address.connect("test").await.unwrap();
        let all = Filter { limit: 100, ..Filter::default() };
        deployments::list(&mut session, &all).await.unwrap()
    }
}

//! `portal grant | revoke | list`.

use serde_json::json;

use crate::cli::Context;
use crate::cli::arguments::{Portal, ScopeName};
use crate::cli::exit::{Failure, Outcome};
use crate::cli::output::{moment, table};
use crate::operator::grants::{self, Scope};
use crate::portal::clusters;

pub async fn portal(context: &Context, command: Portal) -> Result<Outcome, Failure> {
    if let Portal::Grant { scope: ScopeName::All | ScopeName::Own | ScopeName::Tokens, cluster: Some(_), .. } = &command
    {
        return Err(Failure::Usage("--cluster belongs to --scope cluster".into()));
    }
    let connection = &mut context.connect().await?;
    match command {
        Portal::Grant { role, scope, cluster } => {
            let scope = match (scope, cluster) {
                (ScopeName::All, _) => Scope::All,
                (ScopeName::Own, _) => Scope::Own,
                (ScopeName::Tokens, _) => Scope::Tokens,
                (ScopeName::Cluster, name) => {
                    Scope::Cluster(clusters::find(connection, &name.unwrap_or_default()).await?)
                }
            };
            grants::grant(connection, &role, scope).await?;
            print_grants_of(context, connection, &role).await?;
        }
        Portal::Revoke { role } => {
            grants::revoke(connection, &role).await?;
            context
                .output
                .print(&json!({"role": role, "grants": []}), || format!("role {role} has no grant any more"))?;
        }
        Portal::List => {
            let grants = grants::list(connection).await?;
            context.output.print(&grants, || match grants.is_empty() {
                true => "no grants; `tendril-broker portal grant ROLE --scope all` lets a role in".into(),
                false => tell(&grants),
            })?;
        }
    }
    Ok(Outcome::Done)
}

async fn print_grants_of(
    context: &Context,
    connection: &mut sqlx::postgres::PgConnection,
    role: &str,
) -> Result<(), Failure> {
    let mut grants = grants::list(connection).await?;
    grants.retain(|grant| grant.role == role);
    let object = json!({"role": role, "grants": grants});
    Ok(context.output.print(&object, || tell(&grants))?)
}

fn tell(grants: &[grants::Grant]) -> String {
    let rows: Vec<Vec<String>> = grants
        .iter()
        .map(|g| {
            let cluster = g.cluster.clone().unwrap_or_else(|| "-".into());
            vec![g.role.clone(), g.scope.clone(), cluster, moment(g.granted_at)]
        })
        .collect();
    table(&["ROLE", "SCOPE", "CLUSTER", "SINCE"], &rows)
}

//! Revoking works whatever the tenant has done.

use sqlx::Connection;

use crate::fleet::{Fleet, connect, one, run};

#[tokio::test]
async fn a_credential_ends_whatever_its_tenant_owns_in_other_databases() {
    let mut fleet = Fleet::new().await;
    let other = fleet.database.cluster("two").await;
    let role: String = one(&mut fleet.operator, "select min(role_name) from tendril_core.cluster_credentials").await;
    fleet.database.adopt_role(&role);
    let elsewhere = |url: &str| url.replace(&format!("/{}", fleet.database.name()), "/postgres");
    let mut tenant = connect(&elsewhere(&fleet.database.runner_url(fleet.cluster.token.reveal()))).await;
    run(&mut tenant, "select lo_create(0)").await;
    for cluster in [fleet.cluster.id, other.id] {
        run(&mut fleet.operator, &format!("select tendril.cluster_revoke('{cluster}')")).await;
    }
    run(&mut fleet.operator, "update tendril_core.cluster_credentials set drain_until = '-infinity'").await;
    assert_eq!(fleet.database.duty("credentials").await, 2, "neither keeps the other's from ending");
    let ended = "select bool_and(c.status = 'ended') and not bool_or(coalesce(r.rolcanlogin, false))
                and not bool_or(coalesce(has_function_privilege(r.rolname, 'tendril.runner_wait(uuid)', 'EXECUTE'), false))
           from tendril_core.cluster_credentials c left join pg_roles r on r.rolname = c.role_name";
    assert!(one::<bool>(&mut fleet.operator, ended).await);
    assert!(tenant.ping().await.is_err(), "its session has ended, in the other database too");
    let mut maintenance = connect(&elsewhere(&fleet.database.url())).await;
    run(&mut maintenance, &format!("drop owned by {role}")).await;
}

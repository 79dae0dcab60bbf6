//! A certificate authority for one test run, and a server certificate that the test server uses.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tempfile::TempDir;

/// Serialises the set-up between test processes; the number means nothing.
const LOCK: i64 = 7_301_147;

/// An authority's certificate, in a file.
pub struct Authority {
    /// The certificate, PEM.
    pub path: PathBuf,
    _folder: TempDir,
}

impl Authority {
    /// An authority that nobody's certificate is from.
    pub fn stranger() -> Self {
        let (pem, _) = certificate();
        Self::keep(&pem)
    }

    /// The authority of the test server's certificate. The first test that asks makes both.
    pub async fn of_the_test_run(superuser_url: &str) -> Self {
        let mut session = PgConnection::connect(superuser_url).await.expect("a superuser's session");
        run(&mut session, format!("select pg_advisory_lock({LOCK})")).await;
        if scalar(&mut session, "show ssl").await != "on" {
            turn_on(&mut session).await;
        }
        let folder = scalar(&mut session, "show data_directory").await;
        let pem = scalar(&mut session, &format!("select pg_read_file('{folder}/test-authority.pem')")).await;
        Self::keep(&pem)
    }

    fn keep(pem: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("authority.pem");
        std::fs::write(&path, pem).expect("a file");
        Self { path, _folder: folder }
    }
}

/// An authority's certificate, and under it certificate and key of a server that is called localhost.
pub fn certificate() -> (String, (String, String)) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).expect("a certificate").pem();
    let issuer = Issuer::new(params, key);
    let server_key = KeyPair::generate().expect("a key");
    let server = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    let server = server.signed_by(&server_key, &issuer).expect("a certificate").pem();
    (authority, (server, server_key.serialize_pem()))
}

async fn turn_on(session: &mut PgConnection) {
    let folder = scalar(session, "show data_directory").await;
    let (authority, (certificate, key)) = certificate();
    for (name, pem) in [("test-authority.pem", authority), ("server.crt", certificate), ("server.key", key)] {
        // By a program, since the server demands a key file that only its own user may read.
        let lines = pem.replace('\r', "");
        let sql = format!(
            "copy (select unnest(string_to_array('{lines}', E'\\n'))) to program 'umask 077; cat > \"{folder}/{name}\"'"
        );
        run(session, sql).await;
    }
    run(session, "alter system set ssl = on".to_owned()).await;
    run(session, "select pg_reload_conf()".to_owned()).await;
    // The postmaster reloads on a signal: a session of ours shows the new value once it has arrived.
    while scalar(session, "show ssl").await != "on" {
        tokio::task::yield_now().await;
    }
}

async fn run(session: &mut PgConnection, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(session).await.expect("a statement that works");
}

async fn scalar(session: &mut PgConnection, sql: &str) -> String {
    let row = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_one(session).await.expect("a row");
    row.get(0)
}

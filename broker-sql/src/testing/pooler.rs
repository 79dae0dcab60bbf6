//! A PgBouncer of a test's own before the test's server.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{ServerUrl, TestDatabase};
use crate::clock::new_id;

/// How long one may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
const ASK_EVERY: Duration = Duration::from_millis(20);
/// PgBouncer does not run as root.
const NOBODY: &str = "nobody";

/// When a session of the server's goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// When its client goes.
    Session,
    /// After each transaction; the one that came back last is the next to be handed out.
    Transaction,
    /// After each transaction; all take turns.
    RoundRobin,
}

/// A running PgBouncer; it ends with this value.
#[derive(Debug)]
pub struct Pooler {
    child: Child,
    folder: PathBuf,
    port: u16,
}

/// The program, if it is here.
///
/// # Panics
/// When it is not, and `CI` is true.
pub fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = folders.map(|folder| folder.join("pgbouncer")).find(|path| path.is_file());
    assert!(found.is_some() || std::env::var("CI").as_deref() != Ok("true"), "no pgbouncer, and CI needs it");
    if found.is_none() {
        eprintln!("skipped: there is no pgbouncer; ./dev setup installs it");
    }
    found
}

impl Pooler {
    /// Starts one with so many sessions for each role; `None` without the program, or without a superuser, whose right it takes to
    /// look passwords up.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(database: &TestDatabase, mode: Mode, sessions: usize) -> Option<Self> {
        let program = program()?;
        let superuser = ServerUrl::parse(&database.superuser_url()?);
        let folder = std::env::temp_dir().join(format!("tendril-pooler-{}", new_id().simple()));
        std::fs::create_dir(&folder).expect("a folder");
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("its address").port();
        drop(free);
        let (user, password) = superuser.login.split_once(':').expect("a superuser with a password");
        write(&folder.join("users"), &format!("\"{user}\" \"{password}\"\n"));
        let (host, server_port) = superuser.server.split_once(':').expect("a server with a port");
        let (mode, takes_turns) = match mode {
            Mode::Session => ("session", 0),
            Mode::Transaction => ("transaction", 0),
            Mode::RoundRobin => ("transaction", 1),
        };
        let settings = format!(
            "[databases]\n* = host={host} port={server_port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = scram-sha-256\nauth_file = {folder}/users\nauth_user = {user}\nauth_query = SELECT usename, passwd FROM pg_shadow WHERE usename = $1\n\
             pool_mode = {mode}\nserver_round_robin = {takes_turns}\ndefault_pool_size = {sessions}\nmax_client_conn = 200\nignore_startup_parameters = extra_float_digits\n",
            folder = folder.display()
        );
        write(&folder.join("settings"), &settings);
        let mut command = Command::new(program);
        if is_root(&folder) {
            let given = Command::new("chown").args(["-R", NOBODY]).arg(&folder).status();
            assert!(given.is_ok_and(|status| status.success()), "the folder is given to {NOBODY}");
            command.args(["-u", NOBODY]);
        }
        let log = std::fs::File::create(folder.join("log")).expect("a log");
        command.arg("-q").arg(folder.join("settings")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("a pooler");
        let mut pooler = Self { child, folder, port };
        pooler.answers().await;
        Some(pooler)
    }

    async fn answers(&mut self) {
        let answering = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
                let ended = self.child.try_wait().expect("a child");
                let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                assert!(ended.is_none(), "the pooler has ended: {}", log());
                tokio::time::sleep(ASK_EVERY).await;
            }
        };
        tokio::time::timeout(PATIENCE, answering).await.expect("the pooler answers");
    }

    /// The same URL, through it.
    ///
    /// # Panics
    /// When that is no URL of a test database.
    pub fn through(&self, url: &str) -> String {
        let url = ServerUrl::parse(url);
        let at = if url.login.is_empty() { String::new() } else { format!("{}@", url.login) };
        format!("postgres://{at}127.0.0.1:{}/{}", self.port, url.database)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a file");
}

/// Whose folder it made: that of the user who runs the tests.
fn is_root(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(folder).expect("the folder").uid() == 0
}

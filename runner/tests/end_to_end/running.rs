//! A runner process that ends with the test: what it says, shows, keeps and how it leaves.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;

/// Nothing here takes this long unless it is stuck.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A runner process.
pub struct Runner {
    child: Child,
    said: watch::Receiver<String>,
    state: PathBuf,
    port: u16,
}

impl Runner {
    /// One that was just started with its stderr piped, and has this folder and this port of figures.
    pub fn of(mut child: Child, state: PathBuf, port: u16) -> Self {
        let said = listen(child.stderr.take().expect("its stderr"));
        Self { child, said, state, port }
    }

    /// The process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    /// The largest resident size that it ever had.
    pub fn peak_memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("its status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB")?.trim().parse().ok());
        peak.map(|kilobytes: u64| kilobytes * 1024).expect("its peak")
    }

    pub fn terminate(&self) {
        let pid = self.pid();
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("a signal");
    }

    /// Waits until its own log has these words.
    pub async fn said(&mut self, words: &str) {
        let found = tokio::time::timeout(PATIENCE, self.said.wait_for(|said| said.contains(words))).await;
        let found = found.is_ok_and(|found| found.is_ok());
        assert!(found, "the runner never said {words:?}, but:\n{}", self.all_said());
    }

    pub fn all_said(&self) -> String {
        self.said.borrow().clone()
    }

    pub async fn exited(&mut self) -> ExitStatus {
        let all_said = self.said.clone();
        let status = until("the runner's exit", async || self.child.try_wait().expect("a child")).await;
        // The last lines are read after the exit.
        let mut said = all_said;
        while said.changed().await.is_ok() {}
        status
    }

    /// SIGKILL, to it alone.
    pub async fn killed(mut self) {
        self.child.kill().expect("a signal");
        self.exited().await;
    }

    /// Its folder.
    pub fn state(&self) -> PathBuf {
        self.state.clone()
    }

    /// Waits until no work folder is left.
    pub async fn forgot_its_work(&self) {
        let work = self.state.join("work");
        let empty = async || std::fs::read_dir(&work).expect("its work").next().is_none().then_some(());
        until("an empty work folder", empty).await;
    }

    /// Waits until its spool holds this text.
    pub async fn spooled(&self, text: &str) {
        let holds = |file: &Path| {
            file.extension().is_some_and(|end| end == "seg")
                && std::fs::read(file).is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
        };
        until("text in the spool", async || find(&self.state, &holds)).await;
    }

    /// SIGTERM, and its exit with success.
    pub async fn end(mut self) {
        self.terminate();
        assert!(self.exited().await.success(), "{}", self.all_said());
    }

    /// The Terraform state at a path of its place.
    pub fn state_file(&self, path: &str) -> String {
        let found =
            find(&self.state, &|file| file.to_string_lossy().contains(path) && file.ends_with("terraform.tfstate"));
        std::fs::read_to_string(found.expect("a state file")).expect("its text")
    }

    /// Waits until its figures have this line.
    pub async fn figure(&self, line: &str) {
        until(line, async || self.get("/metrics").await.contains(line).then_some(())).await;
    }

    pub async fn get(&self, path: &str) -> String {
        let address = ("127.0.0.1", self.port);
        let path = path.to_owned();
        let answer = tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).expect("a connection");
            write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").expect("a request");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            answer
        });
        let answer = answer.await.expect("no panic");
        answer.split_once("\r\n\r\n").expect("a body").1.to_owned()
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // A test that failed: nothing of it may live on.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn listen(stderr: impl Into<OwnedFd>) -> watch::Receiver<String> {
    let (sender, receiver) = watch::channel(String::new());
    let lines = BufReader::new(File::from(stderr.into())).lines();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            sender.send_modify(|said| said.push_str(&format!("{line}\n")));
        }
    });
    receiver
}

pub fn find(dir: &Path, wanted: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    entries.into_iter().find_map(|path| if path.is_dir() { find(&path, wanted) } else { wanted(&path).then_some(path) })
}

/// Asks until there is an answer.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asked = async {
        let mut turn = tokio::time::interval(Duration::from_millis(20));
        loop {
            turn.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

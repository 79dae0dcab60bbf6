//! A server that speaks S3, in this process, with a door that tests can shut.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::error_handling::HandleError;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tendril_broker::archive::{Archive, ArchiveOptions};
use tokio::sync::watch;

pub const KEY: &str = "tester";
pub const SECRET: &str = "a secret of the tests";
pub const BUCKET: &str = "logs";

/// What the door does with a request whose method, path and query contain a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Everything comes through.
    Open,
    /// 503 for what contains it.
    Sick(&'static str),
    /// 503 for the first request that contains it; then it is open.
    SickOnce(&'static str),
    /// One byte of the body of what contains it is another one on the way.
    Damages(&'static str),
    /// No answer to what contains it, until the door is opened.
    Silent(&'static str),
    /// An answer to all as S3 words it: HTTP status, code and message.
    Answers(u16, &'static str, &'static str),
}

struct Gate {
    door: watch::Sender<Door>,
    seen: watch::Sender<u64>,
    requests: Mutex<Vec<(String, HeaderMap)>>,
}

pub struct Service {
    pub root: tempfile::TempDir,
    pub endpoint: String,
    gate: Arc<Gate>,
}

impl Service {
    pub async fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(FileSystem::new(root.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let failed = |error| async move { (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:?}")) };
        let gate = Arc::new(Gate {
            door: watch::Sender::new(Door::Open),
            seen: watch::Sender::new(0),
            requests: Mutex::new(Vec::new()),
        });
        let router = Router::new()
            .fallback_service(HandleError::new(builder.build(), failed))
            .layer(from_fn_with_state(gate.clone(), pass));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { root, endpoint, gate }
    }

    pub fn options(&self, prefix: &str) -> ArchiveOptions {
        let location = format!("s3://{BUCKET}/{prefix}").parse().unwrap();
        ArchiveOptions { location, endpoint: Some(self.endpoint.clone()), region: None }
    }

    pub async fn archive(&self) -> Archive {
        Archive::open_as(&self.options("p"), KEY, SECRET).await
    }

    /// The same without a prefix: the server makes names of files of the keys, and those of parts become too long.
    pub async fn archive_without_prefix(&self) -> Archive {
        Archive::open_as(&self.options(""), KEY, SECRET).await
    }

    /// How the program is told of it.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("TENDRIL_ARCHIVE_URL", format!("s3://{BUCKET}/p")),
            ("TENDRIL_ARCHIVE_ENDPOINT", self.endpoint.clone()),
            ("AWS_ACCESS_KEY_ID", KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.into()),
        ]
    }

    pub fn set(&self, door: Door) {
        self.gate.door.send_replace(door);
    }

    /// Method, path and query of each request so far that contains a text.
    pub fn requests(&self, with: &str) -> Vec<String> {
        self.heads(with).into_iter().map(|(request, _)| request).collect()
    }

    /// The same with their headers.
    pub fn heads(&self, with: &str) -> Vec<(String, HeaderMap)> {
        let requests = self.gate.requests.lock().unwrap();
        requests.iter().filter(|(request, _)| request.contains(with)).cloned().collect()
    }

    /// Waits until so many requests that contain a text have come.
    pub async fn sees(&self, count: usize, with: &str) {
        let mut seen = self.gate.seen.subscribe();
        while self.requests(with).len() < count {
            seen.changed().await.unwrap();
        }
    }

    /// Keys of all objects, and names of what uploads left behind.
    pub fn objects(&self) -> (Vec<String>, Vec<String>) {
        let mut files = Vec::new();
        walk(&self.root.path().join(BUCKET), &mut files);
        walk_top(self.root.path(), &mut files);
        let names = files.into_iter().map(|file| file.strip_prefix(self.root.path()).unwrap().display().to_string());
        let (objects, others): (Vec<_>, Vec<_>) = names.partition(|name| name.ends_with(".tlog.zst"));
        (objects, others.into_iter().filter(|name| name.contains("upload")).collect())
    }

    /// The file of an object.
    pub fn file(&self, url: &str) -> std::path::PathBuf {
        self.root.path().join(url.strip_prefix("s3://").unwrap())
    }
}

fn walk(folder: &std::path::Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, files) } else { files.push(path) }
    }
}

fn walk_top(folder: &std::path::Path, files: &mut Vec<std::path::PathBuf>) {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.extend(entries.filter(|path| path.is_file()));
}

/// The bucket's region stands in the head, as in the answers of AWS.
fn answer(status: u16, code: &str, message: &str) -> Response {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    let region = if status == 301 { [("x-amz-bucket-region", "eu-central-1")] } else { [("x-amz-id-2", "none")] };
    (StatusCode::from_u16(status).unwrap(), region, body).into_response()
}

async fn pass(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    let what = format!("{} {}", request.method(), request.uri());
    gate.requests.lock().unwrap().push((what.clone(), request.headers().clone()));
    gate.seen.send_modify(|seen| *seen += 1);
    let mut door = gate.door.subscribe();
    loop {
        let now = *door.borrow_and_update();
        match now {
            Door::Sick(text) if what.contains(text) => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
            Door::SickOnce(text) if what.contains(text) => {
                gate.door.send_replace(Door::Open);
                return StatusCode::SERVICE_UNAVAILABLE.into_response();
            }
            Door::Silent(text) if what.contains(text) => {}
            Door::Damages(text) if what.contains(text) => {
                request = damaged(request).await;
                break;
            }
            Door::Answers(status, code, message) => return answer(status, code, message),
            _ => break,
        }
        door.changed().await.unwrap();
    }
    next.run(request).await
}

/// The byte in the middle is another one.
async fn damaged(request: Request) -> Request {
    let (head, body) = request.into_parts();
    let mut bytes = to_bytes(body, usize::MAX).await.unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Request::from_parts(head, Body::from(bytes))
}

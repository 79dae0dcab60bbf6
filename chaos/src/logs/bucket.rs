//! A bucket of a service that speaks S3, with signatures and checksums checked, behind a door of ours.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::error_handling::HandleError;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tendril_broker::archive::{Archive, ArchiveOptions};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::door::{Door, Way};

const KEY: &str = "chaos";
const SECRET: &str = "a secret of chaos";
const BUCKET: &str = "logs";
/// What AWS says when it has too much to do.
const SLOW_DOWN: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>SlowDown</Code><Message>Please reduce your request \
    rate.</Message></Error>";

/// The bucket; the service ends with the runtime.
pub struct Bucket {
    /// The way to it.
    pub door: Door,
    folder: PathBuf,
}

impl Bucket {
    /// Starts the service; the bucket is empty.
    ///
    /// # Errors
    /// The system's error.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder.join(BUCKET))?;
        let files = FileSystem::new(folder).map_err(|error| anyhow::anyhow!("s3s-fs: {error:?}"))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let door = Door::before(listener.local_addr()?.port()).await?;
        let failed = |error| async move { (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:?}")) };
        let router = Router::new()
            .fallback_service(HandleError::new(builder.build(), failed))
            .layer(from_fn_with_state(door.watch(), pass));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { door, folder: folder.to_owned() })
    }

    /// How `tendril-broker` is told of it. Without a prefix: the service makes names of files of keys, and those of parts
    /// would become too long.
    pub fn environment(&self) -> Vec<(String, String)> {
        let pairs = [
            ("TENDRIL_ARCHIVE_URL", format!("s3://{BUCKET}")),
            ("TENDRIL_ARCHIVE_ENDPOINT", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.door.port)
    }

    /// For a reader.
    ///
    /// # Errors
    /// None here.
    pub async fn archive(&self) -> anyhow::Result<Archive> {
        let location = format!("s3://{BUCKET}").parse()?;
        let options = ArchiveOptions { location, endpoint: Some(self.endpoint()), region: None };
        Ok(Archive::open_as(&options, KEY, SECRET).await)
    }

    /// All objects: their files.
    ///
    /// # Errors
    /// The system's error.
    pub fn objects(&self) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        walk(&self.folder.join(BUCKET), &mut files)?;
        files.retain(|file| file.extension().is_some_and(|end| end == "zst"));
        Ok(files)
    }

    /// The file of an object, as `s3://BUCKET/KEY`.
    pub fn file(&self, url: &str) -> PathBuf {
        self.folder.join(url.trim_start_matches("s3://"))
    }
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

async fn pass(State(way): State<watch::Receiver<Way>>, request: Request, next: Next) -> Response {
    if *way.borrow() == Way::Sick {
        return (StatusCode::SERVICE_UNAVAILABLE, SLOW_DOWN).into_response();
    }
    next.run(request).await
}

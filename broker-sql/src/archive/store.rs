//! The S3 client: one bucket of any S3-compatible service.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Config, Credentials};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use aws_smithy_http_client::Builder as HttpClientBuilder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

use crate::archive::{ArchiveError, ArchiveOptions, Location, Wants};

/// A try ends when nobody answers for so long; parts of 8 MiB get through at 30 KB/s.
const TRY: Duration = Duration::from_secs(270);
/// All tries of one call together: below the lease of a log, so that nobody sends for a log that is another's by then.
pub(crate) const CALL: Duration = Duration::from_secs(290);
const CONNECT: Duration = Duration::from_secs(5);
const TRIES: u32 = 3;
/// Somebody waits for what is read: a try ends when nobody begins to answer for so long, and all tries of a call together.
const READ: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(20));
/// A frame of 512 KiB that did not compress gets through at 10 KB/s.
const READ_BODY: Duration = Duration::from_secs(60);

fn reading() -> TimeoutConfig {
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT);
    timeouts.operation_attempt_timeout(READ.0).operation_timeout(READ.1).build()
}

/// A bucket.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    client: Client,
    pub location: Location,
}

/// Parts that were sent of a multipart upload.
#[derive(Debug)]
pub(crate) struct Multipart {
    pub id: String,
    parts: Vec<CompletedPart>,
}

impl Store {
    /// Finds credentials' providers and the region; asks the service nothing.
    pub async fn open(options: &ArchiveOptions, keys: Option<Credentials>) -> Self {
        // The TLS that all of Tendril uses: the SDK's own default brings another one.
        let http = HttpClientBuilder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let timeouts =
            TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(TRY).operation_timeout(CALL);
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .retry_config(RetryConfig::standard().with_max_attempts(TRIES))
            .timeout_config(timeouts.build());
        let region = options.region.clone();
        // A service that is not AWS seldom has a region; asking the instance for one would cost seconds.
        let assumed = options.endpoint.as_ref().map(|_| "us-east-1".to_owned());
        if let Some(region) = region.or_else(|| std::env::var("AWS_REGION").ok()).or(assumed) {
            loader = loader.region(Region::new(region));
        }
        if let Some(endpoint) = &options.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if let Some(keys) = keys {
            loader = loader.credentials_provider(keys);
        }
        let config = aws_sdk_s3::config::Builder::from(&loader.load().await);
        let config = config.force_path_style(options.endpoint.is_some()).build();
        Self { client: Client::from_conf(config), location: options.location.clone() }
    }

    /// Name of an object in errors.
    pub fn url(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.location.bucket)
    }

    /// Stores a whole object. The SDK sends a checksum of it, which the service compares.
    pub async fn put(&self, key: &str, body: Vec<u8>) -> Result<(), ArchiveError> {
        let put = self.client.put_object().bucket(&self.location.bucket).key(key).content_type("application/zstd");
        put.body(ByteStream::from(body)).send().await.map_err(|error| self.explain(key, error))?;
        Ok(())
    }

    /// Begins an object of several parts.
    pub async fn begin(&self, key: &str) -> Result<Multipart, ArchiveError> {
        let begin = self.client.create_multipart_upload().bucket(&self.location.bucket).key(key);
        let begun = begin.content_type("application/zstd").send().await.map_err(|error| self.explain(key, error))?;
        let no_id = || ArchiveError::Unavailable(self.url(key), "it began an upload without naming it".into());
        Ok(Multipart { id: begun.upload_id.ok_or_else(no_id)?, parts: Vec::new() })
    }

    /// Sends the next part.
    pub async fn part(&self, key: &str, upload: &mut Multipart, body: Vec<u8>) -> Result<(), ArchiveError> {
        let number = i32::try_from(upload.parts.len() + 1).unwrap_or(i32::MAX);
        let part = self.client.upload_part().bucket(&self.location.bucket).key(key);
        let part = part.upload_id(&upload.id).part_number(number).body(ByteStream::from(body));
        let sent = part.send().await.map_err(|error| self.explain(key, error))?;
        let sent = CompletedPart::builder()
            .part_number(number)
            .set_e_tag(sent.e_tag)
            .set_checksum_crc32(sent.checksum_crc32)
            .set_checksum_crc64_nvme(sent.checksum_crc64_nvme);
        upload.parts.push(sent.build());
        Ok(())
    }

    /// Makes one object of the parts.
    pub async fn complete(&self, key: &str, upload: &Multipart) -> Result<(), ArchiveError> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(upload.parts.clone())).build();
        let complete = self.client.complete_multipart_upload().bucket(&self.location.bucket).key(key);
        let complete = complete.upload_id(&upload.id).multipart_upload(parts);
        complete.send().await.map_err(|error| self.explain(key, error))?;
        Ok(())
    }

    /// Lets go of parts that nobody will complete. One that is not there any more is no error.
    pub async fn abort(&self, key: &str, upload: &str) -> Result<(), ArchiveError> {
        let abort = self.client.abort_multipart_upload().bucket(&self.location.bucket).key(key).upload_id(upload);
        match abort.send().await {
            Ok(_) => Ok(()),
            Err(error) if status(&error) == Some(404) => Ok(()),
            Err(error) => Err(self.explain(key, error)),
        }
    }

    /// Bytes of an object, as the service tells them.
    pub async fn size(&self, bucket: &str, key: &str) -> Result<u64, ArchiveError> {
        let head = self.client.head_object().bucket(bucket).key(key).send().await;
        let head = head.map_err(|error| explain(&format!("s3://{bucket}/{key}"), error))?;
        Ok(head.content_length.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0))
    }

    /// Bytes of an object from `offset` on, at most `bytes` of them.
    pub async fn range(&self, bucket: &str, key: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, ArchiveError> {
        let range = format!("bytes={offset}-{}", offset + bytes.max(1) - 1);
        let url = format!("s3://{bucket}/{key}");
        let get = self.client.get_object().bucket(bucket).key(key).range(range);
        let got = get.customize().config_override(Config::builder().timeout_config(reading())).send().await;
        let got = got.map_err(|error| explain(&url, error))?;
        let body = tokio::time::timeout(READ_BODY, got.body.collect()).await;
        match body {
            Ok(Ok(body)) => Ok(body.to_vec()),
            Ok(Err(error)) => Err(ArchiveError::Unavailable(url, format!("the object broke off: {}", causes(&error)))),
            Err(_) => Err(ArchiveError::Unavailable(url, "the object did not come in time".into())),
        }
    }

    fn explain<E>(&self, key: &str, error: SdkError<E>) -> ArchiveError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        explain(&self.url(key), error)
    }
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// An error and what is behind it, in words.
fn causes(error: &dyn std::error::Error) -> String {
    let mut words = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if words.last() != Some(&text) {
            words.push(text);
        }
        next = cause.source();
    }
    words.join(": ")
}

/// Tells apart what is to be tried again, what somebody has to set right, and what is wrong with one object.
fn explain<E>(url: &str, error: SdkError<E>) -> ArchiveError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let url = url.to_owned();
    let (code, status) = (error.code().unwrap_or_default().to_owned(), status(&error));
    let said = error.message().map(|message| format!(": {message}")).unwrap_or_default();
    let request = error.request_id().map(|id| format!(" (request {id})")).unwrap_or_default();
    match (&error, code.as_str(), status) {
        (SdkError::ServiceError(_), "NoSuchKey" | "NotFound" | "", Some(404)) => ArchiveError::Missing(url),
        (SdkError::ServiceError(_), "InvalidRange", _) | (SdkError::ServiceError(_), _, Some(416)) => {
            ArchiveError::Damaged(url, "it is shorter than its index says".into())
        }
        (SdkError::ServiceError(_), "SlowDown" | "RequestTimeout" | "InternalError", _)
        | (SdkError::ServiceError(_), _, Some(429 | 500..)) => {
            ArchiveError::Unavailable(url, format!("{code}{said}{request}"))
        }
        (SdkError::ServiceError(_), _, Some(status)) => {
            let region = error.raw_response().and_then(|response| response.headers().get("x-amz-bucket-region"));
            let region = region.map(|region| format!("; the bucket is in {region}")).unwrap_or_default();
            let wants = Wants::of(&code, status);
            ArchiveError::Refused(url, wants, format!("{code}{said} (HTTP {status}){region}{request}"))
        }
        _ => {
            let causes = causes(&error);
            // The only trouble on the way to the service that waiting does not mend.
            match causes.contains("no credentials found in chain")
                || format!("{error:?}").contains("CredentialsNotLoaded")
            {
                true => {
                    let said = format!("no credentials were found: {causes}");
                    ArchiveError::Refused(url, Wants::Credentials, said)
                }
                false => ArchiveError::Unavailable(url, causes),
            }
        }
    }
}

//! A Vault's KV store, version 2, over HTTP.

use super::settings::VaultSettings;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use secrecy::SecretString;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use zeroize::{Zeroize, Zeroizing};

/// Largest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Something that keeps secrets by path and key.
pub trait Store: Send + Sync {
    /// One value.
    fn get<'a>(&'a self, path: &'a str, key: &'a str) -> BoxFuture<'a, Result<SecretString, VaultError>>;
}

/// Why there is no value.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The settings name what cannot be used.
    #[error("{0}")]
    Settings(String),
    /// It does not let the token read that.
    #[error(
        "Vault refuses {0} (403): let the policy of the token in secrets.vault.token_file read it, or renew that token"
    )]
    Denied(String),
    /// There is no such secret.
    #[error("Vault has no {0} (404): check path and secrets.vault.mount, and that it was not deleted")]
    Missing(String),
    /// The secret has no such key, or no text in it.
    #[error("Vault's {0} has no key {1} with text in it")]
    NoKey(String, String),
    /// It did not answer, or not as a Vault does.
    #[error("Vault at {0} {1}; see secrets.vault.address and secrets.vault.timeout_s")]
    Unreachable(String, String),
}

impl VaultError {
    /// Whether another try may go better.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable(..))
    }
}

/// The store at an address.
pub struct Kv2 {
    settings: VaultSettings,
}

impl Kv2 {
    /// As the settings say.
    #[must_use]
    pub fn new(settings: VaultSettings) -> Self {
        Self { settings }
    }

    async fn read(&self, path: &str, key: &str) -> Result<SecretString, VaultError> {
        let within = Duration::from_secs(u64::from(self.settings.timeout_s));
        let unreachable = |why: String| VaultError::Unreachable(self.settings.address.clone(), why);
        let asked = tokio::time::timeout(within, self.ask(path)).await;
        let (status, body) =
            asked.map_err(|_| unreachable(format!("did not answer within {} s", within.as_secs())))??;
        let place = format!("{}/{path}", self.settings.mount);
        match status {
            StatusCode::OK => {
                let mut answer: Value = serde_json::from_slice(&body)
                    .map_err(|_| unreachable("did not answer as a Vault does".to_owned()))?;
                let text =
                    answer.pointer_mut("/data/data").and_then(|data| data.get_mut(key)).and_then(|value| match value {
                        Value::String(text) => Some(SecretString::from(std::mem::take(text))),
                        _ => None,
                    });
                wipe(&mut answer);
                text.ok_or_else(|| VaultError::NoKey(place, key.to_owned()))
            }
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Err(VaultError::Denied(place)),
            StatusCode::NOT_FOUND => Err(VaultError::Missing(place)),
            other => Err(unreachable(format!("answered {other} for {place}"))),
        }
    }

    async fn ask(&self, path: &str) -> Result<(StatusCode, Zeroizing<Vec<u8>>), VaultError> {
        let unreachable = |why: String| VaultError::Unreachable(self.settings.address.clone(), why);
        let uri: Uri = self
            .settings
            .address
            .parse()
            .map_err(|_| VaultError::Settings("secrets.vault.address: is no address".into()))?;
        let (https, host) = (uri.scheme_str() == Some("https"), uri.host().unwrap_or_default().to_owned());
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let name = host.trim_matches(['[', ']']);
        let stream =
            TcpStream::connect((name, port)).await.map_err(|e| unreachable(format!("cannot be reached: {e}")))?;
        let request = self.request(&host, port, path)?;
        if !https {
            return exchange(stream, request).await.map_err(unreachable);
        }
        let connector = tokio_rustls::TlsConnector::from(Arc::new(self.tls()?));
        let name =
            ServerName::try_from(name.to_owned()).map_err(|e| unreachable(format!("is no name for TLS: {e}")))?;
        let stream = connector.connect(name, stream).await.map_err(|e| unreachable(format!("has no good TLS: {e}")))?;
        exchange(stream, request).await.map_err(unreachable)
    }

    fn request(&self, host: &str, port: u16, path: &str) -> Result<Request<Empty<Bytes>>, VaultError> {
        let file = &self.settings.token_file;
        let token = std::fs::read_to_string(file).map(Zeroizing::new).map_err(|e| {
            VaultError::Settings(format!("secrets.vault.token_file: cannot read {}: {e}", file.display()))
        })?;
        let mut request = Request::get(format!("/v1/{}/data/{path}", self.settings.mount))
            .header("Host", format!("{host}:{port}"))
            .header("X-Vault-Request", "true")
            .header("X-Vault-Token", token.trim());
        if let Some(namespace) = &self.settings.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        let bad = |_| VaultError::Settings("secrets.vault: token or namespace is no text for a header".to_owned());
        request.body(Empty::new()).map_err(bad)
    }

    fn tls(&self) -> Result<ClientConfig, VaultError> {
        let bad = |why: String| VaultError::Settings(format!("secrets.vault.ca_file: {why}"));
        let mut roots = RootCertStore::empty();
        match &self.settings.ca_file {
            Some(path) => {
                let found = CertificateDer::pem_file_iter(path).map_err(|e| bad(e.to_string()))?;
                for certificate in found {
                    roots.add(certificate.map_err(|e| bad(e.to_string()))?).map_err(|e| bad(e.to_string()))?;
                }
            }
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        if roots.is_empty() {
            return Err(bad("there are no certificate authorities; name a file with some".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        Ok(builder.map_err(|e| bad(e.to_string()))?.with_root_certificates(roots).with_no_client_auth())
    }
}

impl Store for Kv2 {
    fn get<'a>(&'a self, path: &'a str, key: &'a str) -> BoxFuture<'a, Result<SecretString, VaultError>> {
        Box::pin(self.read(path, key))
    }
}

/// One request and its answer.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<(StatusCode, Zeroizing<Vec<u8>>), String> {
    let words = |e: &dyn std::fmt::Display| format!("did not answer: {e}");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| words(&e))?;
    let talk = async move {
        let answer = sender.send_request(request).await.map_err(|e| words(&e))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(|e| words(&e))?;
        Ok((status, Zeroizing::new(body.to_bytes().to_vec())))
    };
    // The connection ends with the talk; whatever ends it before that is the talk's error too.
    tokio::join!(talk, connection).0
}

/// Overwrites all texts of an answer.
fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(map) => map.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

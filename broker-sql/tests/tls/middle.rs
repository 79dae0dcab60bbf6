//! Somebody in the middle, with a certificate of a stranger's, who lets everything through.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::authority::certificate;

/// What a Postgres client begins with that wants TLS.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Listens before the server at `port`; returns its own port.
pub async fn before(port: u16, authority: &std::path::Path) -> u16 {
    let (_, (certificate, key)) = certificate();
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let server = server.expect("versions").with_no_client_auth().with_single_cert(chain, key).expect("an identity");
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(authority).expect("the authority") {
        roots.add(root.expect("a certificate")).expect("a root");
    }
    let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let client = client.expect("versions").with_root_certificates(roots).with_no_client_auth();
    let (acceptor, connector) = (TlsAcceptor::from(Arc::new(server)), TlsConnector::from(Arc::new(client)));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let own = listener.local_addr().expect("its address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, connector) = (acceptor.clone(), connector.clone());
            tokio::spawn(async move { drop(relay(stream, port, acceptor, connector).await) });
        }
    });
    own
}

async fn relay(
    mut stream: TcpStream,
    port: u16,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
) -> std::io::Result<()> {
    let mut asked = [0; 8];
    stream.read_exact(&mut asked).await?;
    assert_eq!(asked, SSL_REQUEST);
    stream.write_all(b"S").await?;
    let mut client = acceptor.accept(stream).await?;
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    server.write_all(&SSL_REQUEST).await?;
    let mut answer = [0];
    server.read_exact(&mut answer).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    let mut server = connector.connect(name, server).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
}

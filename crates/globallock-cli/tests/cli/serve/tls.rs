//! TLS, for those who reach it over a network.

use std::net::TcpStream;
use std::sync::Arc;

use globallock_conformance::server::certificates::Certificates;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::Server;
use super::http::Connection;
use crate::support::{LIMIT, TestStore};

#[test]
fn with_a_certificate_it_serves_by_tls_alone() {
    let store = TestStore::new();
    let certificates = Certificates::write(&store.path("")).unwrap();
    let [certificate, key] =
        [&certificates.server, &certificates.server_key].map(|file| file.to_str().unwrap());
    let tokens = store.path("tokens");
    std::fs::write(&tokens, "0123456789abcdef\n").unwrap();
    let arguments = ["--tls-cert", certificate, "--tls-key", key, "--token-file", tokens.to_str().unwrap()];
    let server = Server::of(&store.url(), &[&arguments[..], &["--listen", "0.0.0.0:0"]].concat());
    assert!(server.url.starts_with("https://0.0.0.0:"), "{}", server.url);
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(&certificates.ca).unwrap() {
        roots.add(root.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut connection = Connection::over(StreamOwned::new(client, stream), server.port);
    let bearer = [("authorization", "Bearer 0123456789abcdef")];
    assert_eq!(connection.request("GET", "/api/session", &[], "").status, 401);
    assert_eq!(connection.request("GET", "/api/session", &bearer, "").status, 200);
    assert_eq!(
        connection.request("GET", "/page.js", &bearer, "").header("content-type"),
        "text/javascript; charset=utf-8"
    );
    // Without TLS there is no answer, and it goes on.
    let mut plain = server.connect();
    plain.send("GET", "/healthz", &[], "");
    assert!(plain.reply().is_none());
    assert_eq!(connection.request("GET", "/healthz", &[], "").status, 200);
}

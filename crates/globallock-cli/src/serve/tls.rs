//! The certificate that the server shows.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Serve;
use crate::exit::Failure;
use crate::log;

/// How long a certificate is used before its files are looked at again. It may have been renewed.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// A certificate in files, which may be replaced by others while this runs.
#[derive(Debug)]
pub(super) struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    acceptor: TlsAcceptor,
    changed: Changed,
    looked: Instant,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("changed", &self.changed).finish_non_exhaustive()
    }
}

/// When the two files were written.
type Changed = [Option<SystemTime>; 2];

impl Certificate {
    /// Reads the files that the options name; none if they name none.
    pub(super) fn of(serve: &Serve) -> Result<Option<Self>, Failure> {
        let (Some(certificate), Some(key)) = (&serve.tls_cert, &serve.tls_key) else { return Ok(None) };
        let changed = changed(certificate, key);
        let acceptor = load(certificate, key).map_err(Failure::Usage)?;
        let loaded = Mutex::new(Loaded { acceptor, changed, looked: Instant::now() });
        Ok(Some(Certificate { certificate: certificate.clone(), key: key.clone(), loaded }))
    }

    /// What begins TLS on a connection, with the files as they are.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.looked.elapsed() >= LOOK_AGAIN {
            loaded.looked = Instant::now();
            let changed = changed(&self.certificate, &self.key);
            if changed != loaded.changed {
                match load(&self.certificate, &self.key) {
                    Ok(acceptor) => (loaded.acceptor, loaded.changed) = (acceptor, changed),
                    // They may be half written. The old one goes on until then.
                    Err(error) => log::warning("certificate").say(error),
                }
            }
        }
        loaded.acceptor.clone()
    }
}

fn changed(certificate: &Path, key: &Path) -> Changed {
    [certificate, key].map(|file| std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok())
}

/// # Errors
/// Which option to change, and why.
fn load(certificate: &Path, key: &Path) -> Result<TlsAcceptor, String> {
    let wrong = |option: &str, file: &Path, what: &dyn std::fmt::Display| {
        format!("{option} {}: {what}", file.display())
    };
    let of_certificate = |what: &dyn std::fmt::Display| wrong("--tls-cert", certificate, what);
    let read = CertificateDer::pem_file_iter(certificate).map_err(|error| of_certificate(&why(error)))?;
    let chain = read.collect::<Result<Vec<_>, _>>().map_err(|error| of_certificate(&why(error)))?;
    if chain.is_empty() {
        return Err(of_certificate(&"it has no certificate in PEM"));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong("--tls-key", key, &why(error)))?;
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, secret));
    let mut config = config.map_err(|error| {
        of_certificate(&format_args!("it cannot be used with --tls-key {}: {error}", key.display()))
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn why(error: tokio_rustls::rustls::pki_types::pem::Error) -> String {
    use tokio_rustls::rustls::pki_types::pem::Error;
    match error {
        Error::Io(error) => error.to_string(),
        Error::NoItemsFound => "it has no such item in PEM".to_owned(),
        // What it says more of is what the file has, which may be a key.
        _ => "it is no PEM file".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use globallock_conformance::server::certificates::Certificates;
    use std::fs::{copy, write};

    #[test]
    fn a_certificate_that_was_renewed_is_taken_and_one_that_is_half_written_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = ["1", "2"].map(|name| {
            let path = directory.path().join(name);
            std::fs::create_dir(&path).unwrap();
            Certificates::write(&path).unwrap()
        });
        let [certificate, key] = ["certificate", "key"].map(|name| directory.path().join(name));
        let put = |set: &Certificates| {
            copy(&set.server, &certificate).unwrap();
            copy(&set.server_key, &key).unwrap();
        };
        put(&first);
        let acceptor = load(&certificate, &key).unwrap();
        let loaded = Loaded { acceptor, changed: changed(&certificate, &key), looked: Instant::now() };
        let served =
            Certificate { certificate: certificate.clone(), key: key.clone(), loaded: Mutex::new(loaded) };
        let config = |served: &Certificate| Arc::as_ptr(served.acceptor().config());
        let minute_passes = || {
            let mut loaded = served.loaded.lock().unwrap();
            loaded.looked -= LOOK_AGAIN;
            // File systems count in ticks that are longer than this test.
            loaded.changed = [None, None];
        };
        let before = config(&served);
        put(&second);
        assert_eq!(config(&served), before, "it is not looked at each time");
        minute_passes();
        let renewed = config(&served);
        assert_ne!(renewed, before);
        for (file, text) in [(&certificate, "-----BEGIN CERT"), (&key, "")] {
            put(&second);
            write(file, text).unwrap();
            minute_passes();
            assert_eq!(config(&served), renewed, "the old one goes on");
        }
        // A key of another certificate is none for this one.
        copy(&first.server_key, &key).unwrap();
        copy(&second.server, &certificate).unwrap();
        let wrong = load(&certificate, &key).err().unwrap();
        assert!(wrong.contains("it cannot be used with --tls-key"), "{wrong}");
    }
}

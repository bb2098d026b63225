//! The TLS settings of an address.

use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::error::Result;
use crate::stores::address::Address;

/// Reads the files that the address names.
pub(super) fn config(address: &mut Address) -> Result<Arc<ClientConfig>> {
    let files = address.take_tls()?;
    let mut roots = RootCertStore::empty();
    match &files.ca {
        Some(pem) => {
            for found in certificates(address, "ca", pem)? {
                roots.add(found).map_err(|error| address.wrong(format!("the option ca: {error}")))?;
            }
        }
        None => {
            let native = rustls_native_certs::load_native_certs();
            if roots.add_parsable_certificates(native.certs).0 == 0 {
                return Err(address
                    .wrong("this system has no certificate authorities for TLS: name a file with ?ca="));
            }
        }
    }
    // The provider is named, because the process may have another one as its default.
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| address.wrong(error.to_string()))?
        .with_root_certificates(roots);
    let config = match files.client {
        Some((cert, key)) => {
            let key = PrivateKeyDer::from_pem_slice(&key)
                .map_err(|error| address.wrong(format!("the option key: {error}")))?;
            builder
                .with_client_auth_cert(certificates(address, "cert", &cert)?, key)
                .map_err(|error| address.wrong(format!("the options cert and key: {error}")))?
        }
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn certificates(address: &Address, option: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| address.wrong(format!("the option {option}: {error}")))
}

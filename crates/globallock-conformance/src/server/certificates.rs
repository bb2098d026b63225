//! Certificates for tests of TLS: an authority, a server and a client that it signed, and an unrelated
//! authority.

use std::io::{Error, Result};
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

/// The files of one set of certificates, all PEM.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority that signed the others.
    pub ca: PathBuf,
    /// The server's, for 127.0.0.1 and localhost.
    pub server: PathBuf,
    /// The server's key.
    pub server_key: PathBuf,
    /// The client's.
    pub client: PathBuf,
    /// The client's key.
    pub client_key: PathBuf,
    /// An authority that signed none of them.
    pub other_ca: PathBuf,
}

impl Certificates {
    /// Makes a set and writes it into `directory`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(directory: &Path) -> Result<Self> {
        let authority = |name: &str| -> std::result::Result<_, rcgen::Error> {
            let mut parameters = CertificateParams::new(Vec::new())?;
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            parameters.distinguished_name.push(DnType::CommonName, name);
            CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)
        };
        let ca = authority("globallock tests").map_err(Error::other)?;
        let other = authority("somebody else").map_err(Error::other)?;
        let write = |file: &str, text: String| {
            let path = directory.join(file);
            std::fs::write(&path, text)?;
            Ok::<_, Error>(path)
        };
        let signed = |names: Vec<String>| -> std::result::Result<_, rcgen::Error> {
            let key = KeyPair::generate()?;
            let mut parameters = CertificateParams::new(names)?;
            // Newer clients require it.
            parameters.use_authority_key_identifier_extension = true;
            let certificate = parameters.signed_by(&key, &ca)?;
            Ok((certificate.pem(), key.serialize_pem()))
        };
        let (server, server_key) =
            signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).map_err(Error::other)?;
        let (client, client_key) = signed(vec!["client".to_owned()]).map_err(Error::other)?;
        Ok(Certificates {
            ca: write("ca.pem", ca.pem())?,
            server: write("server.pem", server)?,
            server_key: write("server.key", server_key)?,
            client: write("client.pem", client)?,
            client_key: write("client.key", client_key)?,
            other_ca: write("other-ca.pem", other.pem())?,
        })
    }
}

//! Certificates for tests of TLS: an authority, a server and a client that it signed, an unrelated
//! authority, and certificates of servers with something wrong.

use std::io::{Error, Result};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

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
    /// Signed by the authority, for 127.0.0.1 and localhost, and expired since long.
    pub expired: ServerFiles,
    /// Signed by the authority, for `store.internal` alone.
    pub elsewhere: ServerFiles,
    /// Signed by itself, for 127.0.0.1 and localhost, as `openssl req -x509` makes it: it is an authority's
    /// too.
    pub self_signed: ServerFiles,
    /// The same, but expired since long.
    pub self_signed_and_expired: ServerFiles,
    /// The same, but for `store.internal` alone.
    pub self_signed_elsewhere: ServerFiles,
    /// The same, but no authority's.
    pub self_signed_leaf: ServerFiles,
}

/// A server's certificate and its key.
#[derive(Clone, Debug)]
pub struct ServerFiles {
    /// The certificate.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Certificates {
    /// Makes a set and writes it into `directory`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(directory: &Path) -> Result<Self> {
        Self::write_for(directory, &[])
    }

    /// Makes a set of which servers at these addresses can use the certificates too.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_for(directory: &Path, more: &[IpAddr]) -> Result<Self> {
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
        let here = || -> Vec<String> {
            let more = more.iter().map(IpAddr::to_string);
            ["localhost", "127.0.0.1"].map(str::to_owned).into_iter().chain(more).collect()
        };
        let parameters = |names: Vec<String>| -> std::result::Result<_, rcgen::Error> {
            let mut parameters = CertificateParams::new(names)?;
            // Newer clients require it.
            parameters.use_authority_key_identifier_extension = true;
            Ok(parameters)
        };
        let expired = |mut parameters: CertificateParams| {
            (parameters.not_before, parameters.not_after) =
                (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 2, 1));
            parameters
        };
        let files = |name: &str, certificate: String, key: &KeyPair| -> Result<ServerFiles> {
            let certificate = write(&format!("{name}.pem"), certificate)?;
            Ok(ServerFiles { certificate, key: write(&format!("{name}.key"), key.serialize_pem())? })
        };
        let signed = |name: &str, parameters: CertificateParams| -> Result<ServerFiles> {
            let key = KeyPair::generate().map_err(Error::other)?;
            let certificate = parameters.signed_by(&key, &ca).map_err(Error::other)?;
            files(name, certificate.pem(), &key)
        };
        let self_signed = |name: &str, parameters: CertificateParams| -> Result<ServerFiles> {
            let key = KeyPair::generate().map_err(Error::other)?;
            let certificate = parameters.self_signed(&key).map_err(Error::other)?;
            files(name, certificate.pem(), &key)
        };
        let of = |names: Vec<String>| parameters(names).map_err(Error::other);
        let own_authority = |names: Vec<String>| -> Result<CertificateParams> {
            let mut parameters = of(names)?;
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Ok(parameters)
        };
        let server = signed("server", of(here())?)?;
        let client = signed("client", of(vec!["client".to_owned()])?)?;
        Ok(Certificates {
            ca: write("ca.pem", ca.pem())?,
            server: server.certificate,
            server_key: server.key,
            client: client.certificate,
            client_key: client.key,
            other_ca: write("other-ca.pem", other.pem())?,
            expired: signed("expired", expired(of(here())?))?,
            elsewhere: signed("elsewhere", of(vec!["store.internal".to_owned()])?)?,
            self_signed: self_signed("self-signed", own_authority(here())?)?,
            self_signed_and_expired: self_signed("self-signed-expired", expired(own_authority(here())?))?,
            self_signed_elsewhere: self_signed(
                "self-signed-elsewhere",
                own_authority(vec!["store.internal".to_owned()])?,
            )?,
            self_signed_leaf: self_signed("self-signed-leaf", of(here())?)?,
        })
    }

    /// The same files, for a server that has another certificate.
    #[must_use]
    pub fn served_by(&self, server: &ServerFiles) -> Self {
        Certificates { server: server.certificate.clone(), server_key: server.key.clone(), ..self.clone() }
    }

    /// The files of a server, and of clients, that all have one certificate, which trusts itself alone.
    #[must_use]
    pub fn all_of(&self, server: &ServerFiles) -> Self {
        let ServerFiles { certificate, key } = server.clone();
        let own =
            Certificates { ca: certificate.clone(), client: certificate, client_key: key, ..self.clone() };
        own.served_by(server)
    }
}

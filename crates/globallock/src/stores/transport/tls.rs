//! TLS: whom it trusts, and what to change where it refuses.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
pub(super) use tokio_rustls::rustls::Error as Failure;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, InvalidMessage,
    PeerIncompatible, RootCertStore, SignatureScheme,
};

use super::causes;
use crate::error::Result;
use crate::stores::address::{Address, printable};

/// The TLS of one address.
#[derive(Clone)]
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
    /// Whether the address names the authorities that it trusts.
    has_ca: bool,
    /// Whether it names a certificate for the client.
    has_client: bool,
}

impl Tls {
    /// Reads the files that the address names.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`](crate::Error::InvalidAddress) if one is not what it should be.
    pub(super) fn new(address: &mut Address, protocols: &[&[u8]]) -> Result<Self> {
        let files = address.take_tls()?;
        let (has_ca, has_client) = (files.ca.is_some(), files.client.is_some());
        let mut roots = RootCertStore::empty();
        let mut trusted = Vec::new();
        if let Some(pem) = &files.ca {
            trusted = certificates(address, "ca", pem)?;
            for certificate in &trusted {
                let added = roots.add(certificate.clone());
                added.map_err(|error| address.wrong(format!("the option ca: {error}")))?;
            }
        } else {
            let native = rustls_native_certs::load_native_certs();
            if roots.add_parsable_certificates(native.certs).0 == 0 {
                let reason = "this system has no certificate authorities for TLS: name a file with ?ca=FILE";
                return Err(address.wrong(reason));
            }
        }
        // The provider is named, because the process may have another one as its default, or none.
        let provider = Arc::new(ring::default_provider());
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let webpki = webpki.build().map_err(|error| address.wrong(format!("the option ca: {error}")))?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| address.wrong(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { webpki, trusted }));
        let mut config = match files.client {
            Some((cert, key)) => {
                let key = PrivateKeyDer::from_pem_slice(&key)
                    .map_err(|error| address.wrong(format!("the option key: {error}")))?;
                builder
                    .with_client_auth_cert(certificates(address, "cert", &cert)?, key)
                    .map_err(|error| address.wrong(format!("the options cert and key: {error}")))?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Tls { config: Arc::new(config), has_ca, has_client })
    }

    /// Makes a connection one with TLS.
    ///
    /// # Cancel safety
    /// A dropped call closes the connection.
    pub(super) async fn connect(&self, host: &str, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned());
        let name =
            name.map_err(|_| io::Error::other(Error::General(format!("{host:?} is no name of a host"))))?;
        TlsConnector::from(Arc::clone(&self.config)).connect(name, tcp).await
    }

    /// What to change where TLS refuses the server, or the server refuses TLS.
    pub(super) fn explain(&self, error: &Error, scheme: &str) -> String {
        match error {
            Error::InvalidCertificate(wrong) => self.explain_certificate(wrong),
            error if lacks_tls(error) => wants_none(scheme),
            Error::AlertReceived(AlertDescription::ProtocolVersion)
            | Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13) => {
                format!("it does not speak TLS 1.2 or newer ({error})")
            }
            Error::AlertReceived(AlertDescription::HandshakeFailure) if !self.has_client => {
                "it refuses TLS (HandshakeFailure): it may ask for a certificate of the client, whose files \
                 are named by ?cert=FILE&key=FILE"
                    .to_owned()
            }
            Error::AlertReceived(alert) if is_of_client(*alert) && self.has_client => {
                format!("it refuses TLS ({alert:?}): check that it trusts the certificate in ?cert=FILE")
            }
            Error::AlertReceived(alert) if is_of_client(*alert) => {
                "it asks for a certificate of the client: name its files by ?cert=FILE&key=FILE".to_owned()
            }
            Error::AlertReceived(alert) => format!("it refuses TLS ({alert:?})"),
            other => format!("TLS failed: {}", printable(&other.to_string())),
        }
    }

    fn explain_certificate(&self, wrong: &CertificateError) -> String {
        match wrong {
            CertificateError::UnknownIssuer | CertificateError::BadSignature if self.has_ca => {
                "its certificate is not signed by the authority in the file of ?ca=FILE: name the file of \
                 the one that has signed it, or of the certificate itself"
                    .to_owned()
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate is signed by an authority that this system does not trust: name that \
                 authority's file by ?ca=FILE"
                    .to_owned()
            }
            CertificateError::NotValidForNameContext { expected, presented } => {
                let names: Vec<&str> = presented.iter().filter_map(|name| dns_name(name)).collect();
                let expected = expected.to_str();
                match &names[..] {
                    [] => format!(
                        "its certificate is not for {expected:?}: write a name that the certificate has, \
                         or have it made for this one"
                    ),
                    _ => format!(
                        "its certificate is for {}, not for {expected:?}: write a name that the \
                         certificate has, or have it made for this one",
                        printable(&names.join(", "))
                    ),
                }
            }
            CertificateError::ExpiredContext { time, not_after } => {
                let ago = days(time.as_secs().saturating_sub(not_after.as_secs()));
                format!("its certificate expired {ago} ago by the clock of this host: have it renewed")
            }
            CertificateError::Expired => {
                "its certificate has expired by the clock of this host: have it renewed".to_owned()
            }
            CertificateError::NotValidYetContext { time, not_before } => {
                let until = days(not_before.as_secs().saturating_sub(time.as_secs()));
                format!(
                    "its certificate becomes valid in {until} by the clock of this host: check the \
                         clocks"
                )
            }
            CertificateError::InvalidPurposeContext { .. } => {
                "its certificate is not one for servers: have one made with the extended key usage serverAuth"
                    .to_owned()
            }
            wrong if is_authority(wrong) => {
                "its certificate is signed by nobody but itself: name the file of that very certificate by \
                 ?ca=FILE"
                    .to_owned()
            }
            other => format!("its certificate is not accepted: {}", printable(&other.to_string())),
        }
    }
}

/// Whether an alert is about the certificate of the client, or about its lack.
fn is_of_client(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}

/// Whether TLS may begin the next time though nobody has changed anything.
pub(super) fn may_heal(failure: &Failure) -> bool {
    use AlertDescription::{CloseNotify, InternalError, UserCanceled};
    matches!(failure, Error::AlertReceived(CloseNotify | InternalError | UserCanceled))
}

/// Whether what a server has said is no TLS.
pub(super) fn lacks_tls(failure: &Failure) -> bool {
    use InvalidMessage::{InvalidContentType, UnknownProtocolVersion};
    matches!(failure, Error::InvalidMessage(InvalidContentType | UnknownProtocolVersion))
}

/// A time in the unit that suits it.
fn days(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// The name in one of the names of a certificate, as rustls shows it, if it is one of a host.
fn dns_name(shown: &str) -> Option<&str> {
    shown.strip_prefix("DnsName(\"")?.strip_suffix("\")")
}

/// The scheme of the same store with TLS.
pub(super) fn secure(scheme: &str) -> String {
    match scheme.split_once('+') {
        Some((store, way)) => format!("{store}s+{way}"),
        None => format!("{scheme}s"),
    }
}

/// What to change where a server speaks no TLS.
pub(super) fn wants_none(scheme: &str) -> String {
    format!("it speaks no TLS at this port: write {}://, or name the port that does", plain(scheme))
}

/// The scheme of the same store without TLS.
fn plain(scheme: &str) -> String {
    match scheme.split_once('+') {
        Some((store, way)) => format!("{}+{way}", store.strip_suffix('s').unwrap_or(store)),
        None => scheme.strip_suffix('s').unwrap_or(scheme).to_owned(),
    }
}

/// What TLS reported, if that is the cause of an error.
pub(super) fn failure_in(error: &(dyn StdError + 'static)) -> Option<Error> {
    causes(error).find_map(|cause| cause.downcast_ref::<Error>()).cloned()
}

fn certificates(address: &Address, option: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| address.wrong(format!("the option {option}: {error}")))
}

/// Checks certificates as webpki does, and also accepts those in the file of the option `ca` themselves: who
/// names the very certificate trusts it, whoever has signed it.
///
/// webpki accepts no certificate without its signer, and refuses that of an authority as that of a server,
/// which `openssl req -x509` makes.
#[derive(Debug)]
struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl Verifier {
    /// Whether the only thing against a certificate is who has signed it, or that it is an authority's.
    ///
    /// webpki checks the dates before that. That it still does is tested here, by a time at which no
    /// certificate is valid, because otherwise one that has expired would be accepted.
    fn is_valid_by_itself(
        &self,
        presented: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> bool {
        let at = |time| match self.webpki.verify_server_cert(presented, &[], name, &[], time) {
            Err(Error::InvalidCertificate(wrong)) => Some(wrong),
            _ => None,
        };
        let long_ago = UnixTime::since_unix_epoch(Duration::ZERO);
        let is_unsigned = |wrong: &CertificateError| {
            // The second, if there is an authority of the name of its signer, which may be its own name.
            matches!(wrong, CertificateError::UnknownIssuer | CertificateError::BadSignature)
        };
        at(now).is_some_and(|wrong| is_authority(&wrong) || is_unsigned(&wrong))
            && matches!(at(long_ago), Some(CertificateError::NotValidYetContext { .. }))
    }
}

/// Whether a certificate was refused because it is an authority's. rustls has no variant of its own for that.
fn is_authority(wrong: &CertificateError) -> bool {
    matches!(wrong, CertificateError::Other(other) if other.0.to_string() == "CaUsedAsEndEntity")
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        presented: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, Error> {
        if self.trusted.iter().any(|trusted| trusted == presented)
            && self.is_valid_by_itself(presented, name, now)
        {
            verify_server_name(&ParsedCertificate::try_from(presented)?, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.webpki.verify_server_cert(presented, intermediates, name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

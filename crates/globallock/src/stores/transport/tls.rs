//! TLS: whom it trusts, and what to change where it refuses.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
pub(crate) use tokio_rustls::rustls::Error as Failure;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, InvalidMessage,
    PeerIncompatible, RootCertStore, SignatureScheme,
};

use super::causes;
use super::stream::Io;
use crate::error::Result;
use crate::stores::address::{Address, TlsFiles, printable};

/// What the options for TLS are called in an address.
#[derive(Debug)]
pub(crate) struct Options {
    /// The file of the authorities that are trusted.
    pub(crate) ca: &'static str,
    /// That of the client's certificate.
    pub(crate) cert: &'static str,
    /// That of its key.
    pub(crate) key: &'static str,
    /// What to do where a server speaks no TLS; `None` if the scheme says that.
    pub(crate) without: Option<&'static str>,
}

/// What they are called where nothing else is usual.
pub(crate) const OPTIONS: Options = Options { ca: "ca", cert: "cert", key: "key", without: None };

/// What is checked of a server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "postgres"), allow(dead_code))]
pub(crate) enum Checks {
    Nothing,
    /// Who has signed it.
    Signer,
    /// That, and that it is for this host.
    All,
}

/// The TLS of one address.
#[derive(Clone)]
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
    options: &'static Options,
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
        let files = address.take_tls(&OPTIONS)?;
        Tls::of(address, files, &OPTIONS, Checks::All, protocols)
    }

    /// The same, of these files.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`](crate::Error::InvalidAddress) if one is not what it should be.
    pub(crate) fn of(
        address: &Address,
        files: TlsFiles,
        options: &'static Options,
        checks: Checks,
        protocols: &[&[u8]],
    ) -> Result<Self> {
        let (has_ca, has_client) = (files.ca.is_some(), files.client.is_some());
        let mut roots = RootCertStore::empty();
        let mut trusted = Vec::new();
        let ca = options.ca;
        if let Some(pem) = &files.ca {
            trusted = certificates(address, ca, pem)?;
            for certificate in &trusted {
                let added = roots.add(certificate.clone());
                added.map_err(|error| address.wrong(format!("the option {ca}: {error}")))?;
            }
        } else if checks != Checks::Nothing {
            let native = rustls_native_certs::load_native_certs();
            if roots.add_parsable_certificates(native.certs).0 == 0 {
                let reason = format!(
                    "this system has no certificate authorities for TLS: name a file with ?{ca}=FILE"
                );
                return Err(address.wrong(reason));
            }
        }
        // The provider is named, because the process may have another one as its default, or none.
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match checks {
            Checks::Nothing => Arc::new(Anything(Arc::clone(&provider))),
            Checks::Signer | Checks::All => {
                let roots = Arc::new(roots);
                let webpki =
                    WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
                let webpki =
                    webpki.build().map_err(|error| address.wrong(format!("the option {ca}: {error}")))?;
                Arc::new(Verifier { webpki, trusted, checks })
            }
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| address.wrong(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match files.client {
            Some((cert, key)) => {
                let key = PrivateKeyDer::from_pem_slice(&key)
                    .map_err(|error| address.wrong(format!("the option {}: {error}", options.key)))?;
                let wrong = |error| {
                    address.wrong(format!("the options {} and {}: {error}", options.cert, options.key))
                };
                builder
                    .with_client_auth_cert(certificates(address, options.cert, &cert)?, key)
                    .map_err(wrong)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Tls { config: Arc::new(config), options, has_ca, has_client })
    }

    /// Makes a connection one with TLS.
    ///
    /// # Cancel safety
    /// A dropped call closes the connection.
    pub(crate) async fn connect<S: Io>(&self, host: &str, stream: S) -> io::Result<TlsStream<S>> {
        let name = ServerName::try_from(host.to_owned());
        let name =
            name.map_err(|_| io::Error::other(Error::General(format!("{host:?} is no name of a host"))))?;
        TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await
    }

    /// What to change where TLS refuses the server, or the server refuses TLS.
    pub(crate) fn explain(&self, error: &Error, scheme: &str) -> String {
        let Options { cert, key, .. } = self.options;
        match error {
            Error::InvalidCertificate(wrong) => self.explain_certificate(wrong),
            error if lacks_tls(error) => {
                self.options.without.map_or_else(|| wants_none(scheme), str::to_owned)
            }
            Error::AlertReceived(AlertDescription::ProtocolVersion)
            | Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13) => {
                format!("it does not speak TLS 1.2 or newer ({error})")
            }
            Error::AlertReceived(AlertDescription::HandshakeFailure) if !self.has_client => {
                format!(
                    "it refuses TLS (HandshakeFailure): it may ask for a certificate of the client, whose \
                     files are named by ?{cert}=FILE&{key}=FILE"
                )
            }
            Error::AlertReceived(alert) if is_of_client(*alert) && self.has_client => {
                format!("it refuses TLS ({alert:?}): check that it trusts the certificate in ?{cert}=FILE")
            }
            Error::AlertReceived(alert) if is_of_client(*alert) => {
                format!("it asks for a certificate of the client: name its files by ?{cert}=FILE&{key}=FILE")
            }
            Error::AlertReceived(alert) => format!("it refuses TLS ({alert:?})"),
            other => format!("TLS failed: {}", printable(&other.to_string())),
        }
    }

    fn explain_certificate(&self, wrong: &CertificateError) -> String {
        let ca = self.options.ca;
        match wrong {
            CertificateError::UnknownIssuer | CertificateError::BadSignature if self.has_ca => {
                format!(
                    "its certificate is not signed by the authority in the file of ?{ca}=FILE: name the file \
                     of the one that has signed it, or of the certificate itself"
                )
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                format!(
                    "its certificate is signed by an authority that this system does not trust: name that \
                     authority's file by ?{ca}=FILE"
                )
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
                format!(
                    "its certificate is signed by nobody but itself: name the file of that very certificate \
                     by ?{ca}=FILE"
                )
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
pub(crate) fn may_heal(failure: &Failure) -> bool {
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
pub(crate) fn failure_in(error: &(dyn StdError + 'static)) -> Option<Error> {
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
    checks: Checks,
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
            if self.checks == Checks::All {
                verify_server_name(&ParsedCertificate::try_from(presented)?, name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        match self.webpki.verify_server_cert(presented, intermediates, name, ocsp_response, now) {
            // The name is checked last, so that nothing else is wrong.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.checks == Checks::Signer => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
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

/// Accepts every certificate whose key the server has. So nobody who only listens can read what is said.
#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _presented: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

//! Whether and how a connection is encrypted: what libpq calls `sslmode`.

use std::io;
use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::service::Settings;
use crate::error::Result;
use crate::stores::address::{Address, TlsFiles};
use crate::stores::transport::tls::{self, Checks, Options, Tls};
use crate::stores::transport::{Heard, MAY_TLS_BEGIN, Stream};

/// What the options are called, as in libpq.
const OPTIONS: Options = Options {
    ca: "sslrootcert",
    cert: "sslcert",
    key: "sslkey",
    without: Some(
        "it agrees to TLS and then speaks none: check what is between here and the server, or write \
         sslmode=disable",
    ),
};

/// What is told of a server without TLS where it is required.
pub(super) const NO_TLS: &str = "it speaks no TLS, which the option sslmode asks for: turn ssl on in its \
                                 configuration, or write sslmode=prefer";

/// How the connections of one address are encrypted.
pub(super) struct Security {
    pub(super) mode: Mode,
    tls: Option<Tls>,
}

/// The values of the option `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// One way to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Plain,
    /// With TLS if the server speaks it.
    Asking,
    /// With TLS, or not at all.
    Tls,
}

/// Why TLS did not begin.
#[derive(Debug)]
pub(super) enum Unsafe {
    /// The server speaks none.
    NoTls,
    /// It answered the question for TLS by something else, such as an error.
    Other,
    /// The connection broke, or TLS refused it.
    Io(io::Error),
}

impl Mode {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "disable" => Mode::Disable,
            "allow" => Mode::Allow,
            "prefer" => Mode::Prefer,
            "require" => Mode::Require,
            "verify-ca" => Mode::VerifyCa,
            "verify-full" => Mode::VerifyFull,
            _ => return None,
        })
    }

    /// What is tried in turn.
    pub(super) fn ways(self) -> &'static [Way] {
        match self {
            Mode::Disable => &[Way::Plain],
            Mode::Allow => &[Way::Plain, Way::Tls],
            Mode::Prefer => &[Way::Asking, Way::Plain],
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => &[Way::Tls],
        }
    }
}

impl Security {
    /// Takes the options, and reads the files that they name.
    pub(super) fn new(address: &mut Address, settings: &mut Settings) -> Result<Self> {
        let mode = settings.take(address, "sslmode");
        let root = settings.take(address, OPTIONS.ca);
        let is_system = root.as_deref() == Some("system");
        let mode = match mode.as_deref() {
            None if is_system => Mode::VerifyFull,
            None => Mode::Prefer,
            Some(text) => Mode::parse(text).ok_or_else(|| {
                address.wrong(
                    "the option sslmode has the values disable, allow, prefer, require, verify-ca and \
                     verify-full",
                )
            })?,
        };
        if is_system && mode != Mode::VerifyFull {
            return Err(address.wrong("the option sslrootcert=system needs sslmode=verify-full"));
        }
        let (cert, key) = (settings.take(address, OPTIONS.cert), settings.take(address, OPTIONS.key));
        if mode == Mode::Disable {
            return Ok(Security { mode, tls: None });
        }
        let of_home = |name: &str| {
            let path: PathBuf = settings.home()?.join(".postgresql").join(name);
            path.is_file().then(|| path.display().to_string())
        };
        // Without a file of authorities that is named, only what insists on TLS looks for one.
        let insists = !matches!(mode, Mode::Allow | Mode::Prefer);
        let root = match root {
            Some(_) if is_system => None,
            None if insists => of_home("root.crt"),
            root => root,
        };
        let client = match (cert, key) {
            (None, None) => of_home("postgresql.crt").zip(of_home("postgresql.key")),
            (Some(cert), Some(key)) => Some((cert, key)),
            _ => return Err(address.wrong("the options sslcert and sslkey go together")),
        };
        let read = |option, path: &str, content| address.read_pem(option, path, content);
        let ca = root.map(|path| read(OPTIONS.ca, &path, "BEGIN CERTIFICATE")).transpose()?;
        let client = match client {
            None => None,
            Some((cert, key)) => Some((
                read(OPTIONS.cert, &cert, "BEGIN CERTIFICATE")?,
                read(OPTIONS.key, &key, "PRIVATE KEY")?,
            )),
        };
        let checks = match mode {
            Mode::VerifyFull => Checks::All,
            Mode::VerifyCa => Checks::Signer,
            _ if ca.is_some() => Checks::Signer,
            _ => Checks::Nothing,
        };
        let tls = Tls::of(address, TlsFiles { ca, client }, &OPTIONS, checks, &[])?;
        Ok(Security { mode, tls: Some(tls) })
    }

    /// Begins TLS if this way asks for it, and the server agrees. Returns whether it has begun.
    ///
    /// # Cancel safety
    /// A dropped call closes the connection.
    pub(super) async fn begin(&self, way: Way, host: &str, mut stream: Stream) -> Result<Stream, Unsafe> {
        let Some(tls) = self.tls.as_ref().filter(|_| way != Way::Plain) else { return Ok(stream) };
        stream.write_all(&MAY_TLS_BEGIN).await.map_err(Unsafe::Io)?;
        let heard = stream.heard();
        match stream.read_u8().await.map_err(Unsafe::Io)? {
            b'S' => {
                let connected_in = stream.connected_in();
                heard.forget();
                let encrypted = tls.connect(host, stream).await;
                heard.stop();
                Ok(Stream::new(encrypted.map_err(Unsafe::Io)?, connected_in))
            }
            b'N' if way == Way::Tls => Err(Unsafe::NoTls),
            b'N' => {
                heard.forget();
                Ok(stream)
            }
            _ => {
                hear_more(&mut stream, &heard).await;
                Err(Unsafe::Other)
            }
        }
    }

    /// What to change where TLS refuses the server, or the server refuses TLS; and whether it may heal.
    pub(super) fn explain(&self, error: &io::Error) -> Option<(String, bool)> {
        let failed = tls::failure_in(error)?;
        let reason = self.tls.as_ref()?.explain(&failed, "postgres");
        Some((reason, tls::may_heal(&failed)))
    }

    /// Whether a server's certificate is what was wrong.
    pub(super) fn is_of_certificate(error: &io::Error) -> bool {
        matches!(tls::failure_in(error), Some(tls::Failure::InvalidCertificate(_)))
    }
}

/// Reads what else a server says at once, since it tells what the server is.
async fn hear_more(stream: &mut Stream, heard: &Heard) {
    let mut bytes = [0; 512];
    while heard.speech().is_none() && matches!(stream.read(&mut bytes).await, Ok(length) if length > 0) {}
}

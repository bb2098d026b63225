//! The arguments of `serve`.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::gate::AllowedHost;
use crate::arguments::time;
use crate::exit::Failure;
use crate::onlook::Looking;

/// What `serve` does, for its help.
pub(crate) const ABOUT: &str = "\
Show the locks of a store on a web page.

Serves one page with all locks, who holds them and who waits, which follows what happens; the same as JSON; \
and metrics for Prometheus at /metrics. Nothing can be changed there, unless --allow-break is given: then a \
claim can be taken out of its queue by whoever may see the page.

Without other options only this host can reach it. For others it wants a secret, and TLS or a proxy that \
does it.";

/// The examples of `serve --help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  For the users of this host, or through ssh -L 7117:127.0.0.1:7117:
    globallock serve --url redis://10.0.0.7
  For others, with names and passwords, by TLS:
    globallock serve --listen 0.0.0.0:7117 --auth-file users --tls-cert cert.pem --tls-key key.pem
  Behind a proxy on this host that does TLS, under this name:
    globallock serve --token-file token --allow-host locks.example.org
  Only the metrics of some names, for Prometheus:
    curl http://127.0.0.1:7117/metrics";

/// The arguments of `serve`.
#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// Where to listen: an address of this host and a port. Port 0 takes one that is free.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7117")]
    pub(crate) listen: String,

    /// Show only names that begin with this.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub(crate) prefix: String,

    /// How long to pause between two looks at the store while somebody has the page open.
    #[arg(long, value_name = "TIME", value_parser = interval, default_value = "2s")]
    pub(crate) interval: Duration,

    /// Let those who see the page take claims out of their queues.
    #[arg(long)]
    pub(crate) allow_break: bool,

    /// Who is said to have broken a claim, where no name was asked for. The default is this user and host.
    #[arg(long = "as", value_name = "NAME", value_parser = given_name)]
    pub(crate) as_name: Option<String>,

    /// Ask for one of the secrets in this file, one a line: as a bearer token, or as the password of any
    /// name.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// Ask for one of the pairs in this file, NAME:PASSWORD, one a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) auth_file: Option<PathBuf>,

    /// Serve by TLS with this certificate, and those that it needs, in a PEM file.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,

    /// The certificate's private key, in a PEM file.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,

    /// Serve other hosts without TLS. For a network that nobody else reads, or a proxy that does TLS.
    #[arg(long, conflicts_with = "tls_cert")]
    pub(crate) insecure_http: bool,

    /// A name under which browsers reach this server, such as that of a proxy, with a port or without. May be
    /// given several times.
    #[arg(long, value_name = "HOST")]
    pub(crate) allow_host: Vec<AllowedHost>,

    /// Let everybody break claims who reaches this server by the name of --allow-host. For a proxy that asks
    /// for a secret itself.
    #[arg(long, requires = "allow_host", conflicts_with_all = ["token_file", "auth_file"])]
    pub(crate) no_secret: bool,

    #[command(flatten)]
    pub(crate) looking: Looking,

    /// The socket of the system's log, for what was broken. It is no error if there is none.
    #[arg(long, value_name = "SOCKET", default_value = "/dev/log", hide_short_help = true)]
    pub(crate) syslog: PathBuf,
}

/// A pause that leaves the store time for others.
fn interval(text: &str) -> Result<Duration, String> {
    match time(text)? {
        time if time < Duration::from_millis(100) => Err("the shortest is 100ms".to_owned()),
        time => Ok(time),
    }
}

/// A name that says something to whoever is told it.
fn given_name(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("say who breaks claims here".to_owned()),
        name => Ok(name.to_owned()),
    }
}

impl Serve {
    /// Where to listen, and whether other hosts reach it there.
    pub(super) fn address(&self) -> Result<SocketAddr, Failure> {
        let text = &self.listen;
        let wrong = |what: String| Failure::Usage(format!("--listen {text}: {what}"));
        let mut found = text.to_socket_addrs().map_err(|_| {
            wrong("write an address of this host and a port, such as 127.0.0.1:7117 or [::1]:7117".to_owned())
        })?;
        found.next().ok_or_else(|| wrong("this name has no address".to_owned()))
    }

    /// Refuses to show the locks to whoever asks, or secrets to whoever listens, unless that was asked for.
    pub(super) fn check_exposure(&self, address: SocketAddr) -> Result<(), Failure> {
        let is_open = self.token_file.is_none() && self.auth_file.is_none();
        if let [host, ..] = &self.allow_host[..]
            && is_open
            && self.allow_break
            && !self.no_secret
        {
            return Err(Failure::Usage(format!(
                "--allow-host {host}: everybody who reaches this server by that name could break locks: give \
                 --token-file or --auth-file, or --no-secret if a proxy asks for a secret"
            )));
        }
        if address.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        let text = &self.listen;
        if is_open {
            return Err(Failure::Usage(format!(
                "--listen {text}: other hosts reach this address: give --token-file or --auth-file, so that \
                 not everybody sees the locks"
            )));
        }
        if self.tls_cert.is_none() && !self.insecure_http {
            return Err(Failure::Usage(format!(
                "--listen {text}: secrets would pass the network unencrypted: give --tls-cert and --tls-key, \
                 or --insecure-http if a proxy does TLS"
            )));
        }
        Ok(())
    }
}

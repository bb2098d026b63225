//! The settings of a store, from its address.

use std::time::Duration;

use tonic::transport::Endpoint;

use super::keys::{self, QueueEntry};
use super::messages::KeyValue;
use super::server::Server;
use crate::error::Result;
use crate::stores::address::password::Password;
use crate::stores::address::{Address, authority};
use crate::stores::transport::{Expected, Speech, Transport};

const OPTIONS: &[&str] = &["prefix", "timeout", "interop", "password_file", "password_command"];
/// What is at the end of an address.
const ETCD: Expected = Expected {
    name: "etcd",
    speech: Speech::Etcd,
    shares_port: false,
    protocols: &[b"h2"],
    check: "check host and port",
};
/// How often an idle connection is probed, and how long the answer may take: so a silent network is noticed.
const ALIVE: Duration = Duration::from_secs(2);

/// A store's settings.
pub(super) struct Config {
    /// The prefix of all keys; it ends in a slash.
    pub(super) prefix: String,
    /// How long one request may take.
    pub(super) timeout: Duration,
    /// The address as it may be shown.
    pub(super) shown: String,
    pub(super) servers: Vec<Server>,
    /// Whether an exclusive claim also takes the python-etcd3 key.
    pub(super) python_etcd3: bool,
    /// User and password.
    pub(super) login: Option<(String, Password)>,
}

impl Config {
    pub(super) fn new(mut address: Address) -> Result<Self> {
        let mut prefix = address.take("prefix").unwrap_or_else(|| "/locks/_glocks/".to_owned());
        if !prefix.ends_with('/') {
            prefix.push('/');
        }
        let timeout = address.take_timeout()?;
        let python_etcd3 = match address.take("interop").as_deref() {
            None => false,
            Some("python-etcd3") => true,
            Some(other) => {
                return Err(address.wrong(format!("the option interop is {other:?}, not python-etcd3")));
            }
        };
        let login = address.take_login()?;
        let transport = Transport::new(&mut address, &ETCD)?;
        address.finish(OPTIONS)?;
        if address.hosts.is_empty() || !address.path.trim_start_matches('/').is_empty() {
            return Err(address.wrong("it needs hosts and no path, such as etcd://h1:2379,h2,h3"));
        }
        let servers = address.hosts.iter().map(|(host, port)| {
            let port = port.unwrap_or(2379);
            let uri = |scheme: &str| format!("{scheme}://{}", authority(host, port));
            // The connection is made here, and with it TLS, so that tonic is to make none of its own.
            let endpoint =
                Endpoint::from_shared(uri("http")).map_err(|error| address.wrong(error.to_string()))?;
            let origin = uri(if address.has_tls() { "https" } else { "http" });
            let endpoint = endpoint
                .origin(origin.parse().map_err(|_| address.wrong(format!("{host:?} is no host")))?)
                .http2_keep_alive_interval(ALIVE)
                .keep_alive_timeout(ALIVE)
                .keep_alive_while_idle(true);
            Ok(Server::new(&endpoint, transport.clone(), (host.clone(), port), timeout))
        });
        let servers = servers.collect::<Result<Vec<_>>>()?;
        Ok(Config { prefix, timeout, shown: address.to_string(), servers, python_etcd3, login })
    }

    /// Whether a key in a queue is a claim.
    ///
    /// With python-etcd3 keys not every one is: the python-etcd3 key of `a/b` lies in the queue of `a`.
    pub(super) fn is_claim(&self, entry: &QueueEntry) -> bool {
        !self.python_etcd3 || entry.ours || keys::is_lease(&entry.key)
    }

    /// Keeps those keys that are claims.
    pub(super) fn claims<'a>(&self, found: impl IntoIterator<Item = &'a KeyValue>) -> Vec<QueueEntry> {
        found.into_iter().map(QueueEntry::new).filter(|entry| self.is_claim(entry)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::address::typos::{shows_no_password, with_typo};
    use proptest::prelude::*;

    const GOOD: &[&str] = &[
        "etcd://user:QQQQQQQQ@127.0.0.1:1,h2?prefix=/a/&timeout=1s",
        "etcd://user:1QQQQQQQQ@[::1]:1?interop=python-etcd3",
        "etcds://user:QQQQQQQQ@host?ca=/nowhere.pem",
    ];

    proptest! {
        #[test]
        fn no_typo_in_an_address_shows_its_password(text in with_typo(GOOD)) {
            // Channels can be made in a runtime only, though none connects here.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _entered = runtime.enter();
            let made = Address::parse(&text).and_then(Config::new);
            shows_no_password(&text, made, |config| config.shown.clone());
        }
    }
}

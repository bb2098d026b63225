//! Reads the settings of a Redis store from its address, and makes the client for it.

use std::path::PathBuf;
use std::time::Duration;

use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo, RedisResult, TlsCertificates, TlsMode,
};
use tokio::sync::Mutex;

use super::failure::{Failure, Kind};
use super::scripts::Commands;
use crate::error::Result;
use crate::stores::address::{Address, without_secret};

/// The options that an address may have.
const OPTIONS: &[&str] =
    &["prefix", "timeout", "db", "ca", "cert", "key", "sentinel_user", "sentinel_password", "commands"];

/// A store's settings.
pub(super) struct Config {
    /// The kind of store, as its address names it.
    pub(super) kind: &'static str,
    /// What comes before a name in its key.
    pub(super) prefix: String,
    /// How long one request, or one try to connect, may take.
    pub(super) timeout: Duration,
    /// The commands to use, whatever the server says that it has.
    pub(super) commands: Option<Commands>,
    /// The address without secrets, for messages.
    pub(super) shown: String,
    target: Target,
}

enum Target {
    Server(Client),
    Sentinel(Mutex<Box<SentinelClient>>),
}

/// What a new connection sends to the server first, and its TLS.
struct Login {
    user: Option<String>,
    password: Option<String>,
    db: i64,
    tls: Option<TlsCertificates>,
}

impl Config {
    pub(super) fn new(mut address: Address) -> Result<Self> {
        let prefix = address.take("prefix").unwrap_or_else(|| "_glocks:".to_owned());
        if prefix.contains(['{', '}']) {
            return Err(address.wrong("the option prefix must not contain braces, which choose a hash slot"));
        }
        let timeout = address.take_timeout()?;
        let commands = match address.take("commands").as_deref() {
            None => None,
            Some("6") => Some(Commands::Redis6),
            Some(_) => {
                return Err(address.wrong("the option commands has one value: 6, for those of Redis 6"));
            }
        };
        let (scheme, shown) = (address.scheme.clone(), address.to_string());
        let kind = if scheme.starts_with("valkey") { "valkey" } else { "redis" };
        let tls = ["rediss", "rediss+sentinel", "valkeys", "valkeys+sentinel"].contains(&&*scheme);
        let target = match scheme.as_str() {
            "redis+unix" | "valkey+unix" => Target::Server(unix(&mut address)?),
            "redis+sentinel" | "rediss+sentinel" | "valkey+sentinel" | "valkeys+sentinel" => {
                Target::Sentinel(Mutex::new(Box::new(sentinel(&mut address, tls)?)))
            }
            _ => Target::Server(server(&mut address, tls)?),
        };
        address.finish(OPTIONS)?;
        Ok(Config { kind, prefix, timeout, commands, shown, target })
    }

    /// The client of the server that takes writes now.
    pub(super) async fn client(&self) -> Result<Client, Failure> {
        match &self.target {
            Target::Server(client) => Ok(client.clone()),
            Target::Sentinel(sentinel) => {
                let client = tokio::time::timeout(self.timeout, async {
                    sentinel.lock().await.async_get_client().await
                });
                match client.await {
                    Ok(client) => Ok(client?),
                    Err(_) => Err(Failure::new(Kind::Disconnected, "no sentinel named the primary in time")),
                }
            }
        }
    }
}

fn server(address: &mut Address, tls: bool) -> Result<Client> {
    let [(host, port)] = &address.hosts[..] else {
        return Err(address.wrong("it needs one host, such as redis://127.0.0.1:6379"));
    };
    let (host, port) = (host.clone(), port.unwrap_or(6379));
    let db = address.path.trim_start_matches('/').to_owned();
    let login = login(address, &db, tls)?;
    let to = if tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    };
    open(address, to, login)
}

fn unix(address: &mut Address) -> Result<Client> {
    if !address.hosts.is_empty() || !address.path.starts_with('/') {
        return Err(
            address.wrong("it needs the path of a socket, such as redis+unix:///run/redis/redis.sock?db=0")
        );
    }
    let db = address.take("db").unwrap_or_default();
    let login = login(address, &db, false)?;
    open(address, ConnectionAddr::Unix(PathBuf::from(&address.path)), login)
}

fn open(address: &Address, to: ConnectionAddr, login: Login) -> Result<Client> {
    let client = || -> RedisResult<Client> {
        let info: ConnectionInfo = to.into_connection_info()?;
        let mut settings = RedisConnectionInfo::default()
            .set_db(login.db)
            .set_protocol(ProtocolVersion::RESP3)
            .set_lib_name("globallock", env!("CARGO_PKG_VERSION"));
        if let Some(user) = login.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = login.password {
            settings = settings.set_password(password);
        }
        let info = info.set_redis_settings(settings);
        match login.tls {
            Some(certificates) => Client::build_with_tls(info, certificates),
            None => Client::open(info),
        }
    };
    client().map_err(|error| address.wrong(error.to_string()))
}

fn sentinel(address: &mut Address, tls: bool) -> Result<SentinelClient> {
    let path = address.path.trim_start_matches('/').to_owned();
    let (service, db) = path.split_once('/').unwrap_or((&path, ""));
    if service.is_empty() || address.hosts.is_empty() {
        return Err(address.wrong(
            "it needs the sentinels' hosts and the service, such as redis+sentinel://h1:26379,h2,h3/main",
        ));
    }
    let login = login(address, db, tls)?;
    let user = address.take("sentinel_user");
    let password = address.take("sentinel_password");
    let hosts = address.hosts.iter().map(|(host, port)| {
        let (host, port) = (host.clone(), port.unwrap_or(26379));
        if tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        }
    });
    let client = || -> RedisResult<SentinelClient> {
        let mut builder = SentinelClientBuilder::new(hosts, service, SentinelServerType::Master)?
            .set_client_to_redis_db(login.db)
            .set_client_to_redis_protocol(ProtocolVersion::RESP3);
        if let Some(user) = &login.user {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = &login.password {
            builder = builder.set_client_to_redis_password(password);
        }
        if let Some(user) = &user {
            builder = builder.set_client_to_sentinel_username(user);
        }
        if let Some(password) = &password {
            builder = builder.set_client_to_sentinel_password(password);
        }
        if tls {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_tls_mode(TlsMode::Secure);
        }
        if let Some(certificates) = login.tls {
            builder = builder
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates);
        }
        builder.build()
    };
    client().map_err(|error| address.wrong(error.to_string()))
}

fn login(address: &mut Address, db: &str, tls: bool) -> Result<Login> {
    let db = match db {
        "" => 0,
        text => text.parse().ok().filter(|number| *number >= 0).ok_or_else(|| {
            let text = without_secret(text);
            address.wrong(format!("the database {text:?} is not a number from 0 on"))
        })?,
    };
    if address.user.is_some() && address.password.is_none() {
        return Err(
            address.wrong("it has a user but no password; write redis://:password@host for the default user")
        );
    }
    let tls = if tls { certificates(address)? } else { None };
    Ok(Login { user: address.user.clone(), password: address.password.clone(), db, tls })
}

fn certificates(address: &mut Address) -> Result<Option<TlsCertificates>> {
    // rustls panics if several providers are compiled in and none is the default of the process. A default
    // that was set before stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let files = address.take_tls()?;
    let root_cert = files.ca;
    let client_tls =
        files.client.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
    Ok((root_cert.is_some() || client_tls.is_some()).then_some(TlsCertificates { client_tls, root_cert }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::stores::address::typos::{shows_no_password, with_typo};
    use proptest::prelude::*;

    fn config(text: &str) -> Result<Config> {
        Config::new(Address::parse(text)?)
    }

    /// How the client connects to the server of an address.
    async fn target(text: &str) -> ConnectionInfo {
        let client = config(text).unwrap().client().await.unwrap();
        client.get_connection_info().clone()
    }

    fn refusal(text: &str) -> String {
        match config(text) {
            Err(error @ Error::InvalidAddress { .. }) => error.to_string(),
            Err(error) => panic!("{text}: {error:?}"),
            Ok(_) => panic!("{text} is not refused"),
        }
    }

    #[tokio::test]
    async fn an_address_names_the_server_and_the_database() {
        let tcp = |host: &str, port| ConnectionAddr::Tcp(host.to_owned(), port);
        for (text, to, db) in [
            ("redis://host", tcp("host", 6379), 0),
            ("redis://host/", tcp("host", 6379), 0),
            ("redis://[::1]:7000/0", tcp("::1", 7000), 0),
            ("redis://host:7000/15", tcp("host", 7000), 15),
            ("redis+unix:///run/redis.sock", ConnectionAddr::Unix("/run/redis.sock".into()), 0),
            ("redis+unix:///run/redis.sock?db=3", ConnectionAddr::Unix("/run/redis.sock".into()), 3),
            ("valkey://host:7000/15", tcp("host", 7000), 15),
            ("valkey+unix:///run/valkey.sock?db=3", ConnectionAddr::Unix("/run/valkey.sock".into()), 3),
        ] {
            let info = target(text).await;
            assert_eq!((info.addr(), info.redis_settings().db()), (&to, db), "{text}");
            assert_eq!(info.redis_settings().protocol(), ProtocolVersion::RESP3, "{text}");
        }
    }

    #[tokio::test]
    async fn user_and_password_of_the_address_are_sent_to_the_server() {
        for (text, user, password) in [
            ("redis://host", None, None),
            ("redis://:secret@host", None, Some("secret")),
            ("redis://somebody:s%40cret@host", Some("somebody"), Some("s@cret")),
            ("redis+unix://somebody:secret@/run/redis.sock", Some("somebody"), Some("secret")),
        ] {
            let info = target(text).await;
            let settings = info.redis_settings();
            assert_eq!((settings.username(), settings.password()), (user, password), "{text}");
        }
    }

    #[tokio::test]
    async fn tls_checks_the_server_whether_certificates_are_named_or_not() {
        for text in ["rediss://host/3", "valkeys://host/3"] {
            let ConnectionAddr::TcpTls { host, port, insecure, tls_params } =
                target(text).await.addr().clone()
            else {
                panic!("no TLS");
            };
            assert_eq!((host.as_str(), port, insecure), ("host", 6379, false));
            assert!(tls_params.is_none());
        }
    }

    #[test]
    fn certificates_that_are_named_are_read_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = directory.path().join(name);
            std::fs::write(
                &path,
                format!("-----{content}-----\n??\n-----{}-----\n", content.replace("BEGIN", "END")),
            )
            .unwrap();
            path.display().to_string()
        };
        let (certificate, key) = (file("cert", "BEGIN CERTIFICATE"), file("key", "BEGIN PRIVATE KEY"));
        for scheme in [
            "rediss://host?",
            "rediss+sentinel://host/main?",
            "valkeys://host?",
            "valkeys+sentinel://host/main?",
        ] {
            for (options, text) in [
                (format!("ca={certificate}"), "root certificate"),
                (format!("cert={certificate}&key={key}"), "client certificate"),
                (format!("ca={certificate}&cert={certificate}"), "cert and key go together"),
                (format!("ca={certificate}&key={key}"), "cert and key go together"),
            ] {
                let refused = refusal(&format!("{scheme}{options}"));
                assert!(refused.contains(text), "{scheme}{options}: {refused}");
            }
        }
    }

    #[test]
    fn an_incomplete_address_is_refused_with_what_it_needs() {
        for (text, remedy) in [
            ("redis://", "it needs one host"),
            ("redis://a,b", "it needs one host"),
            ("redis://host/x", "the database \"x\" is not a number from 0 on"),
            ("redis://host/-1", "the database \"-1\" is not a number from 0 on"),
            ("redis://somebody@host", "a user but no password"),
            ("redis://host?prefix=%7B", "must not contain braces"),
            ("redis://host?prefix=%7D", "must not contain braces"),
            ("redis://host?commands=7", "the option commands has one value: 6"),
            ("redis://host?timeout=0s", "the option timeout must not be zero"),
            ("redis://host?ca=/nowhere", "known are: prefix, timeout, db, ca"),
            ("redis+unix://host/run/redis.sock", "it needs the path of a socket"),
            ("redis+unix:", "it needs the path of a socket"),
            ("redis+unix:run/redis.sock", "it needs the path of a socket"),
            ("redis+unix:///run/redis.sock?db=-1", "the database \"-1\" is not a number from 0 on"),
            ("redis+sentinel:///main", "it needs the sentinels' hosts and the service"),
            ("redis+sentinel://h1", "it needs the sentinels' hosts and the service"),
            ("redis+sentinel://h1/main/x", "the database \"x\" is not a number from 0 on"),
        ] {
            let refused = refusal(text);
            assert!(refused.contains(remedy), "{text}: {refused}");
        }
    }

    #[test]
    fn an_address_without_options_has_the_settings_that_are_documented() {
        let default = config("redis://host").unwrap();
        assert_eq!((default.prefix.as_str(), default.timeout), ("_glocks:", Duration::from_secs(2)));
        let set = config("redis://host?prefix=mine%3A&timeout=250ms").unwrap();
        assert_eq!((set.prefix.as_str(), set.timeout), ("mine:", Duration::from_millis(250)));
        assert_eq!((default.commands, default.kind), (None, "redis"));
        assert_eq!(config("redis://host?commands=6").unwrap().commands, Some(Commands::Redis6));
        assert_eq!(config("valkeys+sentinel://h1,h2:1/main").unwrap().kind, "valkey");
        assert!(config("redis+sentinel://h1,h2:1/main").is_ok());
        assert!(config("rediss+sentinel://h1,h2:1/main/4").is_ok());
    }

    const GOOD: &[&str] = &[
        "redis://user:QQQQQQQQ@127.0.0.1:1/0?prefix=a%3A&timeout=1s",
        "redis://:1QQQQQQQQ@[::1]:1",
        "rediss://user:QQQQQQQQ@host:1/3?ca=/nowhere.pem",
        "redis+unix://user:QQQQQQQQ@/run/redis.sock?db=0",
        "redis+sentinel://user:1QQQQQQQQ@h1:1,h2,h3:3/main/2?sentinel_user=a&sentinel_password=QQQQQQQQ",
        "rediss+sentinel://:QQQQQQQQ@h1/main?sentinel_password=QQQQQQQQ&timeout=2s",
        "valkey://user:QQQQQQQQ@127.0.0.1:1/0?commands=6",
    ];

    proptest! {
        #[test]
        fn no_typo_in_an_address_shows_its_password(text in with_typo(GOOD)) {
            let made = Address::parse(&text).and_then(Config::new);
            shows_no_password(&text, made, |config| config.shown.clone());
        }
    }
}

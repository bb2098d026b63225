//! Reads the settings of a Redis store from its address.

use std::path::PathBuf;
use std::time::Duration;

use super::failure::Failure;
use super::scripts::Commands;
use crate::error::{Error, Result};
use crate::stores::address::password::Password;
use crate::stores::address::{Address, without_secret};
use crate::stores::transport::{Expected, Speech, Transport};

/// What is at the end of the address of a server.
const REDIS: Expected = Expected {
    name: "Redis",
    speech: Speech::Redis,
    shares_port: false,
    protocols: &[],
    check: "check host and port, and that the port is not that of the cluster bus",
};
const VALKEY: Expected = Expected { name: "Valkey", ..REDIS };
/// What is at the end of the address of a sentinel.
const SENTINEL: Expected = Expected { name: "sentinel", check: "check host and port", ..REDIS };

/// A store's settings.
pub(super) struct Config {
    /// The kind of store, as its address names it.
    pub(super) kind: &'static str,
    /// What comes before a name in its key.
    pub(super) prefix: String,
    /// How long one request, or one try to connect, may take.
    pub(super) timeout: Duration,
    /// How long the key is left free for strangers now and then, if it is.
    pub(super) gap: Option<Duration>,
    /// The commands to use, whatever the server says that it has.
    pub(super) commands: Option<Commands>,
    /// The address without secrets, for messages.
    pub(super) shown: String,
    pub(super) transport: Transport,
    /// The way to sentinels. What is known of them says nothing of the primary.
    pub(super) to_sentinels: Transport,
    pub(super) target: Target,
    /// Who logs in to the servers.
    pub(super) login: Login,
    pub(super) db: i64,
}

/// Where the server is that takes writes.
pub(super) enum Target {
    Server(Place),
    Sentinels(Sentinels),
}

/// Where one server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Tcp(String, u16),
    Unix(PathBuf),
}

/// Who knows where the primary is.
pub(super) struct Sentinels {
    pub(super) hosts: Vec<(String, u16)>,
    pub(super) service: String,
    /// Who logs in to the sentinels.
    pub(super) login: Login,
}

/// User and password.
pub(super) struct Login {
    pub(super) user: Option<String>,
    pub(super) password: Option<Password>,
}

impl Login {
    /// Takes the password of the servers, or of what begins with `of`.
    fn take(address: &mut Address, user: Option<String>, of: &str, form: &str) -> Result<Self> {
        let password = address.take_password(of)?;
        if user.is_some() && password.is_none() {
            return Err(address.wrong(form));
        }
        Ok(Login { user, password })
    }
}

impl Login {
    fn takes(&self, limit: Duration) -> Duration {
        self.password.as_ref().map_or(Duration::ZERO, |password| password.takes(limit))
    }
}

impl Config {
    pub(super) fn new(mut address: Address) -> Result<Self> {
        let prefix = address.take("prefix").unwrap_or_else(|| "_glocks:".to_owned());
        if prefix.contains(['{', '}']) {
            return Err(address.wrong("the option prefix must not contain braces, which choose a hash slot"));
        }
        let timeout = address.take_timeout()?;
        let gap = address.take_duration("gap")?.filter(|gap| gap.as_millis() > 0);
        if gap > Some(LONGEST_GAP) {
            return Err(address.wrong("the option gap must be at most 10s"));
        }
        let commands = match address.take("commands").as_deref() {
            None => None,
            Some("6") => Some(Commands::Redis6),
            Some(_) => {
                return Err(address.wrong("the option commands has one value: 6, for those of Redis 6"));
            }
        };
        let kind = if address.scheme.starts_with("valkey") { "valkey" } else { "redis" };
        let is_of_sentinels = address.scheme.ends_with("+sentinel");
        let (target, db, options) = match address.scheme.as_str() {
            "redis+unix" | "valkey+unix" => unix(&mut address)?,
            _ if is_of_sentinels => sentinels(&mut address)?,
            _ => server(&address)?,
        };
        let db = match db.as_str() {
            "" => 0,
            text => text.parse().ok().filter(|number| *number >= 0).ok_or_else(|| {
                let text = without_secret(text);
                address.wrong(format!("the database {text:?} is not a number from 0 on"))
            })?,
        };
        let form = format!(
            "it has a user but no password; write {}://:password@host for the default user",
            address.scheme
        );
        let user = address.user.clone();
        let login = Login::take(&mut address, user, "", &form)?;
        let expected = if kind == "valkey" { &VALKEY } else { &REDIS };
        let transport = Transport::new(&mut address, expected)?;
        address.finish(options)?;
        let shown = address.to_string();
        let to_sentinels = transport.apart(&SENTINEL);
        Ok(Config { kind, prefix, timeout, gap, commands, shown, transport, to_sentinels, target, login, db })
    }
}

impl Config {
    /// How long it may take until a connection is there or a try has failed, without what is asked then. A
    /// password that is outside of the address is read before, and again after it was refused.
    pub(super) fn longest_try(&self) -> Duration {
        let (limit, takes) = (self.timeout, |login: &Login| 2 * login.takes(self.timeout));
        match &self.target {
            Target::Server(_) => limit + takes(&self.login),
            Target::Sentinels(sentinels) => 2 * limit + takes(&self.login) + takes(&sentinels.login),
        }
    }

    /// Why something failed, in the words of this address.
    pub(super) fn reason(&self, failure: &Failure) -> String {
        failure.reason_of(&self.shown, &self.prefix)
    }

    /// The error that the user sees.
    pub(super) fn error(&self, failure: Failure) -> Error {
        failure.into_error_of(&self.shown, &self.prefix)
    }
}

/// The longest gap. Nobody of ours is granted the lock in it.
const LONGEST_GAP: Duration = Duration::from_secs(10);

/// The server of an address, the text of its database, and the options that such an address may have.
type Found = (Target, String, &'static [&'static str]);

fn server(address: &Address) -> Result<Found> {
    let [(host, port)] = &address.hosts[..] else {
        let scheme = &address.scheme;
        return Err(address.wrong(format!("it needs one host, such as {scheme}://127.0.0.1:6379")));
    };
    let place = Place::Tcp(host.clone(), port.unwrap_or(6379));
    Ok((
        Target::Server(place),
        address.path.trim_start_matches('/').to_owned(),
        &["prefix", "timeout", "gap", "commands", "password_file", "password_command"],
    ))
}

fn unix(address: &mut Address) -> Result<Found> {
    if !address.hosts.is_empty() || !address.path.starts_with('/') {
        let scheme = &address.scheme;
        let reason = format!("it needs the path of a socket, such as {scheme}:///run/redis/redis.sock?db=0");
        return Err(address.wrong(reason));
    }
    let place = Place::Unix(PathBuf::from(&address.path));
    let db = address.take("db").unwrap_or_default();
    Ok((
        Target::Server(place),
        db,
        &["prefix", "timeout", "gap", "commands", "db", "password_file", "password_command"],
    ))
}

fn sentinels(address: &mut Address) -> Result<Found> {
    let path = address.path.trim_start_matches('/').to_owned();
    let (service, db) = path.split_once('/').unwrap_or((&path, ""));
    if service.is_empty() || address.hosts.is_empty() {
        let scheme = &address.scheme;
        return Err(address.wrong(format!(
            "it needs the sentinels' hosts and the service, such as {scheme}://h1:26379,h2,h3/main"
        )));
    }
    address.has_its_path_once(&format!("{}://h1,h2,h3/main", address.scheme))?;
    let hosts = address.hosts.iter().map(|(host, port)| (host.clone(), port.unwrap_or(26379))).collect();
    let (service, db) = (service.to_owned(), db.to_owned());
    let user = address.take("sentinel_user");
    let form = "the option sentinel_user needs one of the options sentinel_password, \
                sentinel_password_file and sentinel_password_command";
    let login = Login::take(address, user, "sentinel_", form)?;
    let target = Target::Sentinels(Sentinels { hosts, service, login });
    Ok((target, db, SENTINEL_OPTIONS))
}

const SENTINEL_OPTIONS: &[&str] = &[
    "prefix",
    "timeout",
    "gap",
    "commands",
    "password_file",
    "password_command",
    "sentinel_user",
    "sentinel_password",
    "sentinel_password_file",
    "sentinel_password_command",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::address::typos::{shows_no_password, with_typo};
    use proptest::prelude::*;

    fn config(text: &str) -> Result<Config> {
        Config::new(Address::parse(text)?)
    }

    fn refusal(text: &str) -> String {
        match config(text) {
            Err(error @ Error::InvalidAddress { .. }) => error.to_string(),
            Err(error) => panic!("{text}: {error:?}"),
            Ok(_) => panic!("{text} is not refused"),
        }
    }

    #[test]
    fn an_address_names_the_server_and_the_database() {
        let tcp = |host: &str, port| Place::Tcp(host.to_owned(), port);
        for (text, to, db) in [
            ("redis://host", tcp("host", 6379), 0),
            ("redis://host/", tcp("host", 6379), 0),
            ("redis://[::1]:7000/0", tcp("::1", 7000), 0),
            ("redis://host:7000/15", tcp("host", 7000), 15),
            ("redis+unix:///run/redis.sock", Place::Unix("/run/redis.sock".into()), 0),
            ("redis+unix:///run/redis.sock?db=3", Place::Unix("/run/redis.sock".into()), 3),
            ("valkey://host:7000/15", tcp("host", 7000), 15),
            ("valkey+unix:///run/valkey.sock?db=3", Place::Unix("/run/valkey.sock".into()), 3),
        ] {
            let config = config(text).unwrap();
            assert!(matches!(&config.target, Target::Server(place) if *place == to), "{text}");
            assert_eq!(config.db, db, "{text}");
        }
    }

    #[tokio::test]
    async fn sentinels_have_a_login_of_their_own() {
        let text = "redis+sentinel://app:pw@h1,h2:1/main/4?sentinel_user=guard&sentinel_password=other";
        let config = config(text).unwrap();
        let Target::Sentinels(sentinels) = &config.target else { panic!("no sentinels") };
        assert_eq!(sentinels.hosts, [("h1".to_owned(), 26379), ("h2".to_owned(), 1)]);
        assert_eq!((sentinels.service.as_str(), config.db), ("main", 4));
        assert_eq!(sent(&config.login).await, (Some("app".to_owned()), Some("pw".to_owned())));
        assert_eq!(sent(&sentinels.login).await, (Some("guard".to_owned()), Some("other".to_owned())));
    }

    async fn sent(login: &Login) -> (Option<String>, Option<String>) {
        let password = match &login.password {
            Some(password) => Some(password.read(Duration::from_secs(60)).await.unwrap()),
            None => None,
        };
        (login.user.clone(), password)
    }

    #[tokio::test]
    async fn user_and_password_of_the_address_are_sent_to_the_server() {
        for (text, user, password) in [
            ("redis://host", None, None),
            ("redis://:secret@host", None, Some("secret")),
            ("redis://somebody:s%40cret@host", Some("somebody"), Some("s@cret")),
            ("redis+unix://somebody:secret@/run/redis.sock", Some("somebody"), Some("secret")),
        ] {
            let (of_user, of_password) = sent(&config(text).unwrap().login).await;
            assert_eq!((of_user.as_deref(), of_password.as_deref()), (user, password), "{text}");
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
                (format!("ca={certificate}"), "the option ca: "),
                (format!("cert={certificate}&key={key}"), "the option key: "),
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
            ("valkey://host?ca=/nowhere", "write valkeys:// with it; known are: prefix"),
            ("redis://host?timeout=0s", "the option timeout must not be zero"),
            ("redis://host?gap=soon", "the option gap"),
            ("redis://host?gap=10001ms", "the option gap must be at most 10s"),
            ("redis://host?gaps=150ms", "known are: prefix, timeout, gap, commands"),
            (
                "redis://host?ca=/nowhere",
                "write rediss:// with it; known are: prefix, timeout, gap, commands, password_file",
            ),
            ("rediss://host?colour=red", "gap, commands, password_file, password_command, ca, cert, key"),
            ("redis://host?db=1", "the database is the path, as in redis://host/1"),
            ("redis+unix:///run/redis.sock?colour=red", "known are: prefix, timeout, gap, commands, db"),
            ("redis+sentinel://h/main?colour=red", "password_command, sentinel_user, sentinel_password"),
            ("redis+sentinel://h1/main,h2/main", "write the path once, after the last host"),
            ("redis+sentinel://h1/main?sentinel_user=a", "sentinel_user needs one of the options"),
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
        assert_eq!(default.gap, None);
        for (option, gap) in [("0", 0), ("0.4ms", 0), ("150ms", 150), ("10s", 10_000)] {
            let gap = (gap > 0).then(|| Duration::from_millis(gap));
            assert_eq!(config(&format!("redis://host?gap={option}")).unwrap().gap, gap, "{option}");
        }
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

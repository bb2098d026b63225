//! Reads the settings of a PostgreSQL store from its address.

use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::advisory::Peers;
use super::failure::Failure;
use super::login::Login;
use super::passfile::SOCKETS;
use super::service::{Settings, Surroundings};
use super::tls::Security;
use crate::error::{Error, Result};
use crate::stores::address::{Address, authority, without_secret};
use crate::stores::transport::{Expected, Speech, Transport};

/// What is at the end of the address of a server.
const POSTGRES: Expected = Expected {
    name: "PostgreSQL",
    speech: Speech::Postgres,
    shares_port: false,
    protocols: &[],
    check: "check host and port",
};

/// The port where none is named.
const PORT: u16 = 5432;
/// The longest name of a schema. What else is named after it must not become too long either.
const LONGEST_SCHEMA: usize = 40;
/// The most connections that a store may be allowed.
const MOST_CONNECTIONS: usize = 64;

/// A store's settings.
pub(super) struct Config {
    /// Where all objects are. It is a plain identifier.
    pub(super) schema: String,
    /// What comes before a name in its key.
    pub(super) prefix: String,
    /// How long one request may take.
    pub(super) timeout: Duration,
    pub(super) durability: Durability,
    /// Whether tables that are missing are made.
    pub(super) sets_up: bool,
    /// Whether requests are sent as plain statements, because functions are not allowed.
    pub(super) is_plain: bool,
    /// The address without secrets, for messages.
    pub(super) shown: String,
    pub(super) transport: Transport,
    pub(super) security: Security,
    /// The servers, in the order in which they are tried.
    pub(super) places: Vec<Place>,
    pub(super) database: String,
    /// Who logs in.
    pub(super) login: Login,
    /// What the server calls the connections in its views and logs.
    pub(super) application: String,
    /// How long one try to connect may take.
    pub(super) limit: Duration,
    pub(super) listen: Listen,
    /// The most connections that do requests.
    pub(super) connections: usize,
    /// Whose advisory locks are taken too.
    pub(super) interop: Option<Peers>,
}

/// When a granted claim is safe from a crash of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// When it is granted.
    Wal,
    /// A moment later.
    Async,
    /// Never: a crash drops all claims.
    Unlogged,
}

/// Where one server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Tcp(String, u16),
    /// The directory of the socket, and the port that its name ends with.
    Unix(PathBuf, u16),
}

/// How notifications arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Listen {
    /// On the first connection, unless a pooler is between.
    Auto,
    /// On the first connection.
    Yes,
    /// Not at all.
    No,
    /// On a connection of its own, to this server.
    At(Place),
}

impl Place {
    /// What it is called in messages.
    pub(super) fn shown(&self) -> String {
        match self {
            Place::Tcp(host, port) => authority(host, *port),
            Place::Unix(..) => self.socket().display().to_string(),
        }
    }

    /// The path of the socket, if it is one.
    pub(super) fn socket(&self) -> PathBuf {
        match self {
            Place::Tcp(..) => PathBuf::new(),
            Place::Unix(directory, port) => directory.join(format!(".s.PGSQL.{port}")),
        }
    }

    fn new(host: &str, port: u16) -> Self {
        if host.starts_with('/') { Place::Unix(host.into(), port) } else { Place::Tcp(host.to_owned(), port) }
    }
}

impl Config {
    pub(super) fn new(address: Address) -> Result<Self> {
        Config::within(address, Surroundings::real())
    }

    /// The same, in surroundings that tests choose.
    pub(super) fn within(mut address: Address, surroundings: Surroundings) -> Result<Self> {
        let address = &mut address;
        let mut settings = Settings::new(address, surroundings)?;
        let settings = &mut settings;
        let schema = schema(address)?;
        let prefix = address.take("prefix").unwrap_or_else(|| "_glocks:".to_owned());
        let timeout = address.take_timeout()?;
        let limit = match settings.take(address, "connect_timeout") {
            None => timeout,
            Some(text) => match text.parse::<u32>() {
                Ok(0) => timeout,
                Ok(seconds) => Duration::from_secs(seconds.into()),
                Err(_) => {
                    return Err(address.wrong("the option connect_timeout is a whole number of seconds"));
                }
            },
        };
        let durability = match address.take("durability").as_deref() {
            None | Some("wal") => Durability::Wal,
            Some("async") => Durability::Async,
            Some("unlogged") => Durability::Unlogged,
            Some(_) => {
                return Err(address.wrong("the option durability has the values wal, async and unlogged"));
            }
        };
        let connections = match address.take("connections") {
            None => 4,
            Some(text) => text
                .parse()
                .ok()
                .filter(|number| (1..=MOST_CONNECTIONS).contains(number))
                .ok_or_else(|| address.wrong("the option connections is a number from 1 to 64"))?,
        };
        let sets_up = yes_or_no(address, "setup")?;
        let is_plain = yes_or_no(address, "plain")?;
        let listen = listen(address)?;
        let interop = match address.take("interop").as_deref() {
            None | Some("no") => None,
            Some(text) => Some(Peers::parse(text).ok_or_else(|| {
                address.wrong("the option interop has the values advisory, django-pglock, madelson and no")
            })?),
        };
        let application =
            settings.take(address, "application_name").unwrap_or_else(|| "globallock".to_owned());
        writes(address, settings)?;
        refuse_what_poolers_drop(address, settings)?;
        let places = places(address, settings)?;
        let login = Login::new(address, settings)?;
        address.has_its_path_once(&format!("{}://h1,h2/database", address.scheme))?;
        let path = address.path.strip_prefix('/').unwrap_or(&address.path).to_owned();
        let of_service = settings.of_service("dbname");
        let database = Some(path).filter(|path| !path.is_empty()).or(of_service);
        let database = database.unwrap_or_else(|| login.user.clone());
        let security = Security::new(address, settings)?;
        address.finish(OPTIONS)?;
        Ok(Config {
            schema,
            prefix,
            timeout,
            durability,
            sets_up,
            is_plain,
            shown: shown(address),
            transport: Transport::plain(&address.scheme, &POSTGRES),
            security,
            places,
            database,
            login,
            application,
            limit,
            listen,
            connections,
            interop,
        })
    }

    /// Why something failed, in the words of this address.
    pub(super) fn reason(&self, failure: &Failure) -> String {
        failure.reason_of(&self.shown, &self.schema, &self.login.user)
    }

    /// The error that the user sees.
    pub(super) fn error(&self, failure: Failure) -> Error {
        failure.into_error_of(&self.shown, &self.schema, &self.login.user)
    }
}

/// An address without secrets. Without hosts it has its slashes nevertheless, as everybody writes it.
fn shown(address: &Address) -> String {
    let shown = address.to_string();
    if address.hosts.is_empty() { shown.replacen(':', "://", 1) } else { shown }
}

const OPTIONS: &[&str] = &[
    "schema",
    "prefix",
    "timeout",
    "durability",
    "connections",
    "listen",
    "interop",
    "setup",
    "plain",
    "password_file",
    "password_command",
    "passfile",
    "service",
    "host",
    "port",
    "application_name",
    "connect_timeout",
    "target_session_attrs",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "channel_binding",
];

fn yes_or_no(address: &mut Address, option: &str) -> Result<bool> {
    match address.take(option).as_deref() {
        None | Some("no") => Ok(false),
        Some("yes") => Ok(true),
        Some(_) => Err(address.wrong(format!("the option {option} has the values yes and no"))),
    }
}

fn schema(address: &mut Address) -> Result<String> {
    let schema = address.take("schema").unwrap_or_else(|| "globallock".to_owned());
    let is_first = |c: char| c.is_ascii_lowercase() || c == '_';
    let is_plain = schema.starts_with(is_first)
        && schema.chars().all(|c| is_first(c) || c.is_ascii_digit())
        && !schema.starts_with("pg_");
    if !is_plain || schema.len() > LONGEST_SCHEMA {
        return Err(address.wrong(format!(
            "the option schema is a name of at most {LONGEST_SCHEMA} lower-case letters, digits and \
             underscores, which begins neither with a digit nor with pg_"
        )));
    }
    Ok(schema)
}

fn listen(address: &mut Address) -> Result<Listen> {
    let Some(text) = address.take("listen") else { return Ok(Listen::Auto) };
    Ok(match text.as_str() {
        "auto" => Listen::Auto,
        "yes" => Listen::Yes,
        "no" => Listen::No,
        _ => match host_and_port(&text) {
            Some((host, port)) => Listen::At(Place::new(&host, port.unwrap_or(PORT))),
            None => return Err(address.wrong("the option listen is auto, yes, no, or HOST[:PORT]")),
        },
    })
}

/// Splits `host[:port]`, where an IPv6 address with a port is in brackets.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let is_host = |host: &str| !host.is_empty() && !host.contains(['@', '?', '#', '&', '=', ',', ' ']);
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None if text.matches(':').count() == 1 => {
            let (host, port) = text.split_once(':')?;
            (host, Some(port))
        }
        None => (text, None),
    };
    let port = port.map(str::parse::<u16>).transpose().ok()?;
    (is_host(host) && port != Some(0)).then(|| (host.to_owned(), port))
}

/// Refuses what asks for servers that take no writes.
fn writes(address: &mut Address, settings: &mut Settings) -> Result<()> {
    match settings.take(address, "target_session_attrs").as_deref() {
        None | Some("any" | "read-write" | "primary") => Ok(()),
        Some("read-only" | "standby" | "prefer-standby") => Err(address
            .wrong("locks are written, so that the option target_session_attrs is read-write or primary")),
        Some(_) => {
            Err(address.wrong("the option target_session_attrs has the values any, read-write and primary"))
        }
    }
}

fn refuse_what_poolers_drop(address: &mut Address, settings: &mut Settings) -> Result<()> {
    match settings.take(address, "channel_binding").as_deref() {
        None | Some("disable" | "prefer") => {}
        Some("require") => {
            return Err(address.wrong(
                "the option channel_binding=require is not supported: write sslmode=verify-full, with which \
                 nobody can stand in for the server either",
            ));
        }
        Some(_) => {
            return Err(address.wrong("the option channel_binding has the values disable and prefer"));
        }
    }
    if address.take("options").is_some() {
        return Err(address.wrong(
            "the option options is not supported, since poolers drop it: set what it sets for the user, as \
             by ALTER ROLE app SET statement_timeout = '5s', and name a schema by the option schema",
        ));
    }
    Ok(())
}

/// The servers that an address names.
fn places(address: &mut Address, settings: &mut Settings) -> Result<Vec<Place>> {
    let of_option = address.take("host");
    if of_option.is_some() && !address.hosts.is_empty() {
        return Err(address.wrong("it names hosts before the path and by the option host: leave one out"));
    }
    let of_service = settings.of_service("host");
    let hosts = of_option.or(of_service.filter(|_| address.hosts.is_empty()));
    let mut found: Vec<(String, Option<u16>)> = match hosts {
        Some(hosts) => {
            hosts.split(',').filter(|host| !host.is_empty()).map(|host| (host.to_owned(), None)).collect()
        }
        None => address
            .hosts
            .iter()
            .map(|(host, port)| Ok((decoded(address, host)?, *port)))
            .collect::<Result<_>>()?,
    };
    let ports = settings.take(address, "port");
    let ports = ports.as_deref().unwrap_or_default().split(',').filter(|port| !port.is_empty());
    let ports: Vec<u16> = ports
        .map(|port| port.parse().ok().filter(|port| *port > 0))
        .collect::<Option<_>>()
        .ok_or_else(|| address.wrong("the option port is a number from 1 to 65535, or one for each host"))?;
    if found.is_empty() {
        let port = ports.first().copied().unwrap_or(PORT);
        let socket = SOCKETS
            .iter()
            .map(|directory| Place::Unix(directory.into(), port))
            .find(|place| place.socket().exists());
        return Ok(vec![socket.unwrap_or_else(|| Place::Tcp("localhost".to_owned(), port))]);
    }
    match ports[..] {
        [] => {}
        [port] => found.iter_mut().for_each(|(_, own)| *own = own.or(Some(port))),
        _ if ports.len() == found.len() => {
            found.iter_mut().zip(&ports).for_each(|((_, own), port)| *own = own.or(Some(*port)));
        }
        _ => {
            let reason =
                format!("it has {} hosts, but {} ports in the option port", found.len(), ports.len());
            return Err(address.wrong(reason));
        }
    }
    Ok(found.into_iter().map(|(host, port)| Place::new(&host, port.unwrap_or(PORT))).collect())
}

/// A host as it is written in an address: the directory of a socket has its slashes as %2F.
fn decoded(address: &Address, host: &str) -> Result<String> {
    if !host.contains('%') {
        return Ok(host.to_owned());
    }
    match percent_decode_str(host).decode_utf8() {
        Ok(host) if !host.contains(char::is_control) => Ok(host.into_owned()),
        _ => Err(address.wrong(format!("{:?} is no name of a host", without_secret(host)))),
    }
}

#[cfg(test)]
mod tests;

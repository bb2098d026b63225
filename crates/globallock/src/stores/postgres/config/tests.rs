//! Tests of what an address says.

use std::ffi::OsString;

use proptest::prelude::*;

use super::*;
use crate::stores::address::typos::{shows_no_password, with_typo};

/// Surroundings that name nothing.
fn nothing() -> Surroundings {
    Surroundings { variable: |_| None::<OsString> }
}

fn config(text: &str) -> Result<Config> {
    Config::within(Address::parse(text)?, nothing())
}

fn refusal(text: &str) -> String {
    match config(text) {
        Err(error @ Error::InvalidAddress { .. }) => error.to_string(),
        Err(error) => panic!("{text}: {error:?}"),
        Ok(_) => panic!("{text} is not refused"),
    }
}

fn tcp(host: &str, port: u16) -> Place {
    Place::Tcp(host.to_owned(), port)
}

fn unix(directory: &str, port: u16) -> Place {
    Place::Unix(directory.into(), port)
}

#[test]
fn an_address_names_servers_user_and_database() {
    for (text, places, user, database) in [
        ("postgres://u@h", vec![tcp("h", 5432)], "u", "u"),
        ("postgresql://u@h/", vec![tcp("h", 5432)], "u", "u"),
        ("postgres://u@h:1/d", vec![tcp("h", 1)], "u", "d"),
        ("postgres://u@[::1]:1/d", vec![tcp("::1", 1)], "u", "d"),
        ("postgres://u@h1:1,h2,h3:3/d", vec![tcp("h1", 1), tcp("h2", 5432), tcp("h3", 3)], "u", "d"),
        ("postgres://u@h1:1,h2/d?port=7", vec![tcp("h1", 1), tcp("h2", 7)], "u", "d"),
        ("postgres://u@h1,h2/d?port=7,8", vec![tcp("h1", 7), tcp("h2", 8)], "u", "d"),
        ("postgres://u@%2Frun%2Fpostgresql/d", vec![unix("/run/postgresql", 5432)], "u", "d"),
        ("postgres://u@%2frun:7/d", vec![unix("/run", 7)], "u", "d"),
        ("postgres://u@/d?host=/run&port=7", vec![unix("/run", 7)], "u", "d"),
        (
            "postgres://u@/d?host=/run,::1,h",
            vec![unix("/run", 5432), tcp("::1", 5432), tcp("h", 5432)],
            "u",
            "d",
        ),
        ("postgres://u%20x@h/a%2Fb%20c", vec![tcp("h", 5432)], "u x", "a/b c"),
    ] {
        let config = config(text).unwrap();
        assert_eq!(config.places, places, "{text}");
        assert_eq!((config.login.user.as_str(), config.database.as_str()), (user, database), "{text}");
    }
}

#[test]
fn without_a_host_it_is_a_server_on_this_host() {
    for port in [1, 5432] {
        let config = config(&format!("postgres://u@/d?port={port}")).unwrap();
        let socket =
            SOCKETS.iter().map(|directory| unix(directory, port)).find(|place| place.socket().exists());
        assert_eq!(config.places, [socket.unwrap_or_else(|| tcp("localhost", port))]);
    }
    assert_eq!(config("postgres:///d").unwrap().shown, "postgres:///d");
    assert_eq!(unix("/run", 7).shown(), "/run/.s.PGSQL.7");
    assert_eq!(tcp("::1", 7).shown(), "[::1]:7");
}

#[test]
fn an_address_without_options_has_the_settings_that_are_documented() {
    let default = config("postgres://u@h").unwrap();
    assert_eq!((default.schema.as_str(), default.prefix.as_str()), ("globallock", "_glocks:"));
    assert_eq!((default.timeout, default.limit), (Duration::from_secs(2), Duration::from_secs(2)));
    assert_eq!((default.durability, default.connections), (Durability::Wal, 4));
    assert!(!default.is_plain && !default.sets_up);
    assert_eq!((default.listen, default.application.as_str()), (Listen::Auto, "globallock"));
    assert_eq!(default.security.mode, super::super::tls::Mode::Prefer);
    let set = "postgres://u:p@h/d?schema=_a1&prefix=p%3A&timeout=250ms&connect_timeout=7&durability=async\
               &connections=64&listen=no&application_name=x&target_session_attrs=primary&sslmode=disable\
               &channel_binding=prefer&passfile=/nowhere&plain=yes&setup=yes";
    let set = config(set).unwrap();
    assert!(set.is_plain && set.sets_up);
    assert_eq!((set.schema.as_str(), set.prefix.as_str()), ("_a1", "p:"));
    assert_eq!((set.timeout, set.limit), (Duration::from_millis(250), Duration::from_secs(7)));
    assert_eq!((set.durability, set.connections), (Durability::Async, 64));
    assert_eq!((set.listen, set.application.as_str()), (Listen::No, "x"));
    assert_eq!(set.shown, "postgres://u@h/d");
}

#[test]
fn notifications_may_come_from_another_server() {
    let listen = |text: &str| config(&format!("postgres://u@h?listen={text}")).unwrap().listen;
    assert_eq!(listen("yes"), Listen::Yes);
    assert_eq!(listen("auto"), Listen::Auto);
    assert_eq!(listen("direct"), Listen::At(tcp("direct", 5432)));
    assert_eq!(listen("direct:7"), Listen::At(tcp("direct", 7)));
    assert_eq!(listen("[::1]:7"), Listen::At(tcp("::1", 7)));
    assert_eq!(listen("::1"), Listen::At(tcp("::1", 5432)));
    assert_eq!(listen("/run:7"), Listen::At(unix("/run", 7)));
}

#[test]
fn an_address_that_is_not_meant_so_is_refused_with_what_it_needs() {
    for (text, remedy) in [
        ("postgres://u@h?plain=maybe", "the option plain has the values yes and no"),
        ("postgres://u@h?schema=A", "at most 40 lower-case letters"),
        ("postgres://u@h?schema=1a", "begins neither with a digit"),
        ("postgres://u@h?schema=pg_x", "nor with pg_"),
        ("postgres://u@h?schema=", "the option schema is a name"),
        ("postgres://u@h?schema=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "at most 40"),
        ("postgres://u@h?timeout=0s", "the option timeout must not be zero"),
        ("postgres://u@h?connect_timeout=2s", "a whole number of seconds"),
        ("postgres://u@h?durability=none", "the values wal, async and unlogged"),
        ("postgres://u@h?connections=0", "a number from 1 to 64"),
        ("postgres://u@h?connections=65", "a number from 1 to 64"),
        ("postgres://u@h?listen=a:b", "the option listen is auto, yes, no, or HOST[:PORT]"),
        ("postgres://u@h?listen=", "the option listen is"),
        ("postgres://u@h?listen=a:0", "the option listen is"),
        ("postgres://u@h?target_session_attrs=standby", "locks are written"),
        ("postgres://u@h?target_session_attrs=x", "the values any, read-write and primary"),
        (
            "postgres://u@h?sslmode=on",
            "the values disable, allow, prefer, require, verify-ca and verify-full",
        ),
        ("postgres://u@h?sslrootcert=system&sslmode=require", "needs sslmode=verify-full"),
        ("postgres://u@h?sslrootcert=/nowhere", "the option sslrootcert: cannot read \"/nowhere\""),
        ("postgres://u@h?sslcert=/nowhere", "sslcert and sslkey go together"),
        ("postgres://u@h?channel_binding=require", "write sslmode=verify-full"),
        ("postgres://u@h?options=-c%20x", "set what it sets for the user, as by ALTER ROLE"),
        ("postgres://u@h?host=/run", "by the option host: leave one out"),
        ("postgres://u@h1,h2?port=1,2,3", "it has 2 hosts, but 3 ports"),
        ("postgres://u@h?port=0", "a number from 1 to 65535"),
        ("postgres://u@h1/d,h2/d", "write the path once, after the last host"),
        ("postgres://u:p@h?password_file=/x", "more than one password"),
        ("postgres://u@h?service=x", "there is no service of the name"),
        ("postgres://u@h?dbname=x", "the database is the path"),
        ("postgres://u@h?colour=red", "known are: schema, prefix, timeout, durability, connections, listen"),
    ] {
        let refused = refusal(text);
        assert!(refused.contains(remedy), "{text}: {refused}");
    }
}

#[test]
fn a_service_says_what_the_address_leaves_open() {
    let directory = tempfile::tempdir().unwrap();
    let text = "# services\n[other]\nhost=x\n\n[mine]\nhost = h1,h2\nport=7,8\ndbname=d\nuser=u\n\
                password=pw\nsslmode=disable\n# more\nconnect_timeout=9\n[mine]\nuser=later\n";
    std::fs::write(directory.path().join("pg_service.conf"), text).unwrap();
    let known = SERVICES.get_or_init(|| directory.path().to_owned());
    assert_eq!(known, directory.path());
    let within = || Surroundings {
        variable: |name| (name == "PGSYSCONFDIR").then(|| SERVICES.get().unwrap().clone().into_os_string()),
    };
    let config = |text: &str| Config::within(Address::parse(text).unwrap(), within());
    let all = config("postgres://?service=mine").unwrap();
    assert_eq!(all.places, [tcp("h1", 7), tcp("h2", 8)]);
    assert_eq!((all.login.user.as_str(), all.database.as_str()), ("u", "d"));
    assert_eq!((all.limit, all.security.mode), (Duration::from_secs(9), super::super::tls::Mode::Disable));
    let some = config("postgres://me@h/x?service=mine&connect_timeout=3&port=1&sslmode=allow").unwrap();
    assert_eq!(some.places, [tcp("h", 1)]);
    assert_eq!((some.login.user.as_str(), some.database.as_str()), ("me", "x"));
    assert_eq!((some.limit, some.security.mode), (Duration::from_secs(3), super::super::tls::Mode::Allow));
    std::fs::write(directory.path().join("pg_service.conf"), "[mine]\ncolour=red\n").unwrap();
    let Err(refused) = config("postgres://?service=mine") else { panic!("it has a colour") };
    assert!(refused.to_string().contains("line 2: this store does not know the setting"), "{refused}");
}

/// Where the services of the test are.
static SERVICES: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();

const GOOD: &[&str] = &[
    "postgres://user:QQQQQQQQ@127.0.0.1:1/app?schema=a&timeout=1s",
    "postgresql://user:1QQQQQQQQ@[::1]:1,h2:2/app?sslmode=require",
    "postgres://user:QQQQQQQQ@%2Frun%2Fpostgresql/app?listen=host:1",
    "postgres://user:QQQQQQQQ@/app?host=/run&port=1",
    "postgres://:1QQQQQQQQ@h1/app?connections=1&application_name=x",
];

proptest! {
    #[test]
    fn no_typo_in_an_address_shows_its_password(text in with_typo(GOOD)) {
        let made = Address::parse(&text).and_then(|address| Config::within(address, nothing()));
        shows_no_password(&text, made, |config| config.shown.clone());
    }
}

#[test]
fn an_address_names_the_libraries_whose_locks_are_taken_too() {
    for (text, interop) in [
        ("", None),
        ("?interop=no", None),
        ("?interop=advisory", Some(Peers::All)),
        ("?interop=django-pglock", Some(Peers::DjangoPglock)),
        ("?interop=madelson", Some(Peers::DistributedLock)),
    ] {
        assert_eq!(config(&format!("postgres://u@h{text}")).unwrap().interop, interop, "{text}");
    }
    let refused = refusal("postgres://u@h?interop=yes");
    assert!(refused.contains("the values advisory, django-pglock, madelson and no"), "{refused}");
}

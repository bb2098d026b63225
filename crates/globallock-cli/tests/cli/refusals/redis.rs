//! Redis and its sentinels.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};

use globallock_conformance::server::certificates::{Certificates, ServerFiles};
use globallock_conformance::server::redis::{Redis, cli, program};
use globallock_conformance::server::{Process, free_port, wait_ready};
use tempfile::TempDir;

use super::{certificates_are_explained, http, lock_refused, refused, silence, silent, unavailable, works};

/// What to check where there may be no Redis.
const CHECK: &str = "check host and port, and that the port is not that of the cluster bus";
/// The end of what a user without a right reads.
const RIGHTS: &str = "locks need resetchannels ~_glocks:* ~{_glocks:* &globallock:* +@scripting +@string \
                      +@hash +@sortedset +@keyspace +time +publish +subscribe +hello +ping";

#[test]
fn a_login_that_is_refused() {
    let server = Redis::start_with(&["--requirepass", "pw"]).unwrap();
    let port = server.port();
    works(&format!("redis://:pw@127.0.0.1:{port}"));
    refused(
        &server.url(),
        &format!(
            "redis://127.0.0.1:{port} denied access: it wants a password: put user and password into the \
             address"
        ),
    );
    let wrong = "denied access: the user name or the password in the address is wrong";
    refused(&format!("redis://:bad@127.0.0.1:{port}"), &format!("redis://127.0.0.1:{port} {wrong}"));
    refused(&format!("redis://joe:pw@127.0.0.1:{port}"), &format!("redis://joe@127.0.0.1:{port} {wrong}"));
}

#[test]
fn a_right_that_is_missing() {
    let server = Redis::start().unwrap();
    let port = server.port();
    let (url, shown) = (format!("redis://u:pw@127.0.0.1:{port}"), format!("redis://u@127.0.0.1:{port}"));
    let least = RIGHTS.strip_prefix("locks need ").unwrap();
    let may = |but: &str| {
        let rights = format!("ACL SETUSER u reset on >pw {least} {but}");
        assert_eq!(server.cli(&rights.split_whitespace().collect::<Vec<_>>()), "OK");
    };
    may("");
    works(&url);
    for (but, lacks) in [
        ("-subscribe", "this user has no permissions to run the 'subscribe' command"),
        ("-publish", "this user has no permissions to run the 'publish' command"),
        ("resetchannels", "this user has no permissions to access one of the channels used as arguments"),
    ] {
        may(but);
        refused(&url, &format!("{shown} denied access: the user lacks a right ({lacks}): {RIGHTS}"));
    }
    for (but, lacks) in [
        ("-evalsha", "this user has no permissions to run the 'evalsha' command"),
        ("resetkeys", "this user has no permissions to access one of the keys used as arguments"),
        ("resetkeys ~_glocks:*", "this user has no permissions to access one of the keys used as arguments"),
        ("-set", "The user executing the script can't run this command or subcommand"),
    ] {
        may(but);
        lock_refused(&url, &format!("{shown} denied access: the user lacks a right ({lacks}): {RIGHTS}"));
    }
    // INFO is used if it is allowed.
    may("+info");
    works(&url);
}

#[test]
fn a_command_that_was_renamed_away() {
    let renamed = |commands: &[&str]| {
        let options: Vec<&str> =
            commands.iter().flat_map(|command| ["--rename-command", *command, ""]).collect();
        Redis::start_with(&options).unwrap()
    };
    let taken = |command: &str| {
        format!(
            "cannot do this: it does not know {command}, which locks need: take it out of rename-command, \
             or name a server that has it"
        )
    };
    for command in ["SUBSCRIBE", "PUBLISH"] {
        let server = renamed(&[command]);
        refused(&server.url(), &format!("{} {}", server.url(), taken(command)));
    }
    let server = renamed(&["EVALSHA", "EVAL"]);
    lock_refused(&server.url(), &format!("{} {}", server.url(), taken("EVALSHA")));
    let server = renamed(&["HELLO"]);
    let reason = "cannot do this: it does not know HELLO: it is too old, since globallock needs Redis 6.0 or \
                  newer, or rename-command has taken it away";
    refused(&server.url(), &format!("{} {reason}", server.url()));
    let server = renamed(&["SET"]);
    let reason = "cannot do this: it lacks a command that locks need: take rename-command out of its \
                  configuration (Unknown Redis command called from script)";
    lock_refused(&server.url(), &format!("{} {reason}", server.url()));
    works(&renamed(&["INFO"]).url());
}

#[test]
fn a_key_or_a_database_that_is_not_what_it_should_be() {
    let server = Redis::start_with(&["--databases", "4"]).unwrap();
    let url = server.url();
    let wrong = "cannot do this: another program has put something else at a key of this lock: choose \
                 another prefix (Operation against a key holding the wrong kind of value)";
    server.cli(&["SET", "_glocks:x", "somebody", "PX", "600000"]);
    server.cli(&["LPUSH", "{_glocks:x}:queue", "a"]);
    lock_refused(&url, &format!("{url} {wrong}"));
    server.cli(&["FLUSHALL"]);
    server.cli(&["LPUSH", "{_glocks:x}:fence", "a"]);
    lock_refused(&url, &format!("{url} {wrong}"));
    works(&format!("{url}/3"));
    refused(
        &format!("{url}/4"),
        &format!(
            "{url}/4 cannot do this: it has no database of that number: choose a lower one, such as 0 in \
             redis://host/0, or raise databases in its configuration"
        ),
    );
}

/// An address of this host that is not the loopback interface's, by which a server in protected mode is
/// reached.
fn own_address() -> IpAddr {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent: this only chooses the interface.
    socket.connect("192.0.2.1:9").expect("a host with a network");
    let address = socket.local_addr().unwrap().ip();
    assert!(!address.is_loopback());
    address
}

/// A connection that the server has accepted, and not refused because it had not seen yet that an earlier
/// one has ended.
fn accepted(port: u16) -> TcpStream {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut accepted = None;
    wait_ready("the server", log.path(), || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut answer = [0; 5];
        let answers = stream.write_all(b"PING\r\n").and_then(|()| stream.read_exact(&mut answer));
        accepted = (answers.is_ok() && answer == *b"+PONG").then_some(stream);
        accepted.is_some()
    })
    .unwrap();
    accepted.unwrap()
}

#[test]
fn a_server_that_accepts_no_more_clients_or_none_from_elsewhere() {
    let server = Redis::start_with(&["--maxclients", "1"]).unwrap();
    let held = accepted(server.port());
    unavailable(
        &server.url(),
        &format!(
            "{} is unavailable: it has as many connections as it accepts: raise maxclients, or let fewer \
             clients connect",
            server.url()
        ),
    );
    drop(held);
    let own = own_address();
    let server = Redis::start().unwrap();
    assert_eq!(server.cli(&["CONFIG", "SET", "bind", "*"]), "OK");
    let url = format!("redis://{own}:{}", server.port());
    refused(
        &url,
        &format!(
            "{url} denied access: it runs in protected mode, and accepts no other hosts: give it a password \
             (requirepass or users), and put that into the address"
        ),
    );
}

#[test]
fn a_port_at_which_something_else_is() {
    let (_server, port) = http();
    let url = format!("redis://127.0.0.1:{port}");
    refused(&url, &format!("{url} cannot do this: it is an HTTP server: check host and port"));
    let url = format!("rediss://127.0.0.1:{port}");
    refused(&url, &format!("{url} cannot do this: it is an HTTP server: check host and port"));
    let no_tls = "cannot do this: it speaks no TLS at this port: write redis://, or name the port that does";
    let server = Redis::start().unwrap();
    let url = format!("rediss://127.0.0.1:{}", server.port());
    refused(&url, &format!("{url} {no_tls}"));
    let (_listener, port) = silent();
    let url = format!("redis://127.0.0.1:{port}");
    unavailable(&url, &format!("{url} is unavailable: {} {CHECK}", silence("Redis")));
    // The bus of a cluster closes the connection.
    let bus = free_port();
    let _server =
        Redis::start_with(&["--cluster-enabled", "yes", "--cluster-port", &bus.to_string()]).unwrap();
    let url = format!("redis://127.0.0.1:{bus}");
    unavailable(
        &url,
        &format!(
            "{url} is unavailable: it closed the connection without an answer: it may be starting or \
             ending, or be no Redis: {CHECK}"
        ),
    );
}

/// Starts a sentinel of this server under the name `main`.
fn sentinel(of: &Redis, more: &str) -> (Process, u16, TempDir) {
    let (port, directory) = (free_port(), TempDir::new().unwrap());
    let (file, log) = (directory.path().join("sentinel.conf"), directory.path().join("log"));
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {} 1\n\
         sentinel auth-pass main serverpw\n{more}\n",
        directory.path().display(),
        of.port()
    );
    std::fs::write(&file, text).unwrap();
    let arguments = [file.display().to_string(), "--sentinel".to_owned()];
    let process = Process::start(&program(), "redis-server", arguments, &log).unwrap();
    let knows = || {
        let known = ["-a", "sentinelpw", "--no-auth-warning", "SENTINEL", "MASTER", "main"];
        cli(port, &known).contains("role-reported\nmaster")
    };
    wait_ready("the sentinel", &log, knows).unwrap();
    (process, port, directory)
}

#[test]
fn a_sentinel_that_refuses_is_not_taken_for_the_server() {
    let server = Redis::start_with(&["--requirepass", "serverpw"]).unwrap();
    let (_process, port, _directory) = sentinel(&server, "requirepass sentinelpw");
    let host = format!("127.0.0.1:{port}");
    let url = |login: &str, service: &str, options: &str| {
        format!("redis+sentinel://{login}{host}/{service}{options}")
    };
    let shown = format!("redis+sentinel://{host}");
    works(&url(":serverpw@", "main", "?sentinel_password=sentinelpw"));
    refused(
        &url(":serverpw@", "main", ""),
        &format!(
            "{shown}/main denied access: the sentinel {host} wants a password of its own: name it by \
             ?sentinel_password=PASSWORD, and a user of its own by sentinel_user; if it is no sentinel but a \
             server, write redis://"
        ),
    );
    refused(
        &url(":serverpw@", "main", "?sentinel_password=bad"),
        &format!(
            "{shown}/main denied access: the sentinel {host}: the user name or the password in the option \
             sentinel_password is wrong"
        ),
    );
    refused(
        &url("", "main", "?sentinel_password=sentinelpw"),
        &format!("{shown}/main denied access: it wants a password: put user and password into the address"),
    );
    refused(
        &url(":bad@", "main", "?sentinel_password=sentinelpw"),
        &format!("{shown}/main denied access: the user name or the password in the address is wrong"),
    );
    refused(
        &url(":serverpw@", "other", "?sentinel_password=sentinelpw"),
        &format!(
            "{shown}/other cannot do this: the sentinel {host} knows no primary of that name: check the \
             service in the address, as /main in redis+sentinel://host/main"
        ),
    );
    let plain = format!("redis://:sentinelpw@{host}");
    refused(
        &plain,
        &format!(
            "redis://{host} cannot do this: it is a sentinel: write redis+sentinel:// and the service that \
             it watches, such as redis+sentinel://host:26379/main"
        ),
    );
    let port = server.port();
    let url = format!("valkey+sentinel://127.0.0.1:{port}/main");
    refused(
        &url,
        &format!(
            "{url} denied access: the sentinel 127.0.0.1:{port} wants a password of its own: name it by \
             ?sentinel_password=PASSWORD, and a user of its own by sentinel_user; if it is no sentinel but a \
             server, write valkey://"
        ),
    );
    let no_sentinel = Redis::start().unwrap();
    let port = no_sentinel.port();
    for scheme in ["redis", "valkey"] {
        let url = format!("{scheme}+sentinel://127.0.0.1:{port}/main");
        refused(
            &url,
            &format!(
                "{url} cannot do this: the sentinel 127.0.0.1:{port} is no sentinel but a server: name the \
                 sentinels, or write {scheme}:// for that server"
            ),
        );
    }
}

/// Starts a server that says this to each request that comes.
fn saying(answer: &'static str) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let (mut stream, mut asked) = (stream, [0; 4096]);
                while let Ok(length @ 1..) = stream.read(&mut asked) {
                    let text = String::from_utf8_lossy(&asked[..length]);
                    let requests = text.lines().filter(|line| line.starts_with('*')).count().max(1);
                    if stream.write_all(answer.repeat(requests).as_bytes()).is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}

#[test]
fn a_server_that_cannot_answer_yet() {
    for (answer, reason) in [
        (
            "-LOADING Redis is loading the dataset in memory\r\n",
            "it is still loading its data: try again when it has",
        ),
        ("-BUSY Redis is busy\r\n", "it is busy with a script that runs too long; SCRIPT KILL may end it"),
        (
            "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
            "it is a replica that has lost its primary: check that the primary runs, and name that",
        ),
    ] {
        let url = format!("redis://127.0.0.1:{}", saying(answer));
        unavailable(&url, &format!("{url} is unavailable: {reason}"));
    }
}

/// Of several sentinels, one that says something is heard rather than those that are not there.
#[test]
fn a_sentinel_without_a_primary_among_dead_ones() {
    let mut server = Redis::start().unwrap();
    let (_process, port, _directory) = sentinel(&server, "sentinel down-after-milliseconds main 100");
    server.kill();
    let log = tempfile::NamedTempFile::new().unwrap();
    let is_down = || cli(port, &["SENTINEL", "MASTER", "main"]).contains("s_down");
    wait_ready("the end of the primary", log.path(), is_down).unwrap();
    for hosts in [format!("127.0.0.1:1,127.0.0.1:{port}"), format!("127.0.0.1:{port},127.0.0.1:1")] {
        let url = format!("redis+sentinel://{hosts}/main");
        unavailable(
            &url,
            &format!(
                "{url} is unavailable: the sentinel 127.0.0.1:{port}: the primary is down, and no other is \
                 chosen yet: check that a majority of the sentinels runs, and a replica that they know"
            ),
        );
    }
}

#[test]
fn certificates() {
    let directory = TempDir::new().unwrap();
    let files = Certificates::write(directory.path()).unwrap();
    let server = Redis::start_with_tls(&files, &[]).unwrap();
    certificates_are_explained("rediss", server.port(), &files);
    let url = format!("redis://localhost:{}", server.port());
    refused(&url, &format!("{url} cannot do this: it speaks TLS at this port: write rediss://"));
    let client = format!("cert={}&key={}", files.client.display(), files.client_key.display());
    let served = |server: &ServerFiles, ca: &std::path::Path| {
        let server = Redis::start_with_tls(&files.served_by(server), &[]).unwrap();
        let address = format!("rediss://localhost:{}", server.port());
        (server, format!("{address}?ca={}&{client}", ca.display()), address)
    };
    let (_server, url, address) = served(&files.expired, &files.ca);
    refused_with_a_time(&url, &address);
    let (_server, url, address) = served(&files.elsewhere, &files.ca);
    let elsewhere = "cannot do this: its certificate is for store.internal, not for \"localhost\": write a \
                     name that the certificate has, or have it made for this one";
    refused(&url, &format!("{address} {elsewhere}"));
    for server in [&files.self_signed, &files.self_signed_leaf] {
        let (_server, url, _) = served(server, &server.certificate);
        works(&url);
    }
    let (_server, url, address) = served(&files.self_signed, &files.ca);
    let nobody = "cannot do this: its certificate is signed by nobody but itself: name the file of that very \
                  certificate by ?ca=FILE";
    refused(&url, &format!("{address} {nobody}"));
    refused(&format!("{address}?{client}"), &format!("{address} {nobody}"));
    // A certificate that is trusted as itself must be valid, and for this host, all the same.
    for own in [&files.self_signed_and_expired, &files.expired] {
        let (_server, url, address) = served(own, &own.certificate);
        refused_with_a_time(&url, &address);
    }
    for own in [&files.self_signed_elsewhere, &files.elsewhere] {
        let (_server, url, address) = served(own, &own.certificate);
        refused(&url, &format!("{address} {elsewhere}"));
    }
}

/// Asserts that an expired certificate is told of, with the days since then.
fn refused_with_a_time(url: &str, address: &str) {
    let error =
        super::asked(async || globallock::LockManager::connect(url).await.expect_err(url)).to_string();
    let begin = format!("{address} cannot do this: its certificate expired ");
    let days = error
        .strip_prefix(&begin)
        .and_then(|rest| rest.split(' ').next())
        .unwrap_or_else(|| panic!("{error}"));
    let end = format!("{days} days ago by the clock of this host: have it renewed");
    assert!(days.parse::<u32>().is_ok_and(|days| days > 2000), "{error}");
    refused(url, &format!("{begin}{end}"));
}

//! ZooKeeper.

use std::io::{Read, Write};
use std::net::TcpStream;

use globallock_conformance::server::Cluster;
use globallock_conformance::server::certificates::Certificates;
use globallock_conformance::server::zookeeper::{Setup, ZooKeeper, set_quota};
use tempfile::TempDir;

use crate::support::{Running, globallock};

use super::{certificates_are_explained, http, lock_refused, refused, silence, silent, unavailable, works};

/// What to check where there may be no ZooKeeper.
const CHECK: &str = "check host and port, and that the port is not one at which the servers follow or elect \
                     a leader (2888 and 3888 by default)";

#[test]
fn a_login_or_a_right_that_is_missing() {
    let user = Some(("app".to_owned(), "pw".to_owned()));
    let ensemble = ZooKeeper::start_with(1, Setup { user, ..Setup::default() }).unwrap();
    let host = ensemble.hosts();
    works(&format!("zookeeper://app:pw@{host}?auth=sasl&acl=sasl:app"));
    let wrong = "denied access: user or password is wrong, or the servers do not support this scheme (auth=)";
    refused(&format!("zookeeper://app:bad@{host}?auth=sasl"), &format!("zookeeper://app@{host} {wrong}"));
    let acl = "denied access: the nodes' ACL does not let this user in: it needs read, create and delete \
               on the lock's node and on those above, and read on the claims of others";
    lock_refused(&format!("zookeeper://{host}"), &format!("zookeeper://{host} {acl}"));
    let private = "prefix=/private&acl=creator";
    works(&format!("zookeeper://one:pw@{host}?{private}"));
    lock_refused(&format!("zookeeper://two:pw@{host}?{private}"), &format!("zookeeper://two@{host} {acl}"));
    lock_refused(&format!("zookeeper://{host}?prefix=/private"), &format!("zookeeper://{host} {acl}"));
    // A chroot that does not exist is made with the first lock.
    works(&format!("zookeeper://{host}/a/new/root"));
    // Such a user may not make it where the nodes above are somebody else's.
    lock_refused(
        &format!("zookeeper://two:pw@{host}/private/root"),
        &format!("zookeeper://two@{host}/private/root {acl}"),
    );
}

#[test]
fn a_port_at_which_something_else_is() {
    let (_server, port) = http();
    let url = format!("zookeeper://127.0.0.1:{port}");
    refused(&url, &format!("{url} cannot do this: it is an HTTP server: check host and port"));
    let no_tls =
        "cannot do this: it speaks no TLS at this port: write zookeeper://, or name the port that does";
    let url = format!("zookeepers://127.0.0.1:{port}");
    refused(&url, &format!("{url} cannot do this: it is an HTTP server: check host and port"));
    let (_listener, port) = silent();
    let url = format!("zookeeper://127.0.0.1:{port}");
    unavailable(&url, &format!("{url} is unavailable: {} {CHECK}", silence("ZooKeeper")));
    let ensemble = ZooKeeper::start(1).unwrap();
    let url = format!("zookeepers://{}", ensemble.hosts());
    refused(&url, &format!("{url} {no_tls}"));
}

#[test]
fn an_acl_that_is_none_and_a_quota_that_is_used_up() {
    let more = "enforceQuota=true".to_owned();
    let ensemble = ZooKeeper::start_with(1, Setup { more, ..Setup::default() }).unwrap();
    let url = ensemble.url();
    for acl in ["digest:joe", "ip:nowhere"] {
        lock_refused(
            &format!("{url}?acl={acl}"),
            &format!(
                "{url} denied access: the servers refuse the ACL in the option acl: creator needs a user \
                 that they know, digest:USER:HASH both, ip:ADDRESS an address, and sasl: and x509: servers \
                 that have these users"
            ),
        );
    }
    set_quota(&ensemble.hosts(), "/_glocks", 1);
    let reason = "the quota of the nodes above is used up: raise it, or take it away (setquota, delquota)";
    lock_refused(&url, &format!("{url} cannot do this: {reason}"));
}

#[test]
fn a_server_that_does_not_serve_now() {
    let mut ensemble = ZooKeeper::start(3).unwrap();
    let election = format!("zookeeper://127.0.0.1:{}", ensemble.election_port(0).unwrap());
    unavailable(
        &election,
        &format!(
            "{election} is unavailable: it closed the connection without an answer: it may have as many \
             connections of this host as it accepts (raise maxClientCnxns), or be no ZooKeeper: {CHECK}"
        ),
    );
    ensemble.kill(1);
    ensemble.kill(2);
    let no_longer = || {
        let mut stream = TcpStream::connect(("127.0.0.1", ensemble.port(0))).unwrap();
        stream.write_all(b"srvr").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.contains("not currently serving")
    };
    let log = tempfile::NamedTempFile::new().unwrap();
    globallock_conformance::server::wait_ready("the loss of the majority", log.path(), no_longer).unwrap();
    let [one, other, third] = [0, 1, 2].map(|server| format!("127.0.0.1:{}", ensemble.port(server)));
    for hosts in [one.clone(), format!("{other},{third},{one}")] {
        let url = format!("zookeeper://{hosts}");
        unavailable(
            &url,
            &format!(
                "{url} is unavailable: it does not serve now: it is starting, or its ensemble has no \
                 majority: check that most of the servers run, and that they reach each other"
            ),
        );
    }
}

#[test]
fn a_server_with_too_many_connections() {
    let more = "maxClientCnxns=1".to_owned();
    let ensemble = ZooKeeper::start_with(1, Setup { more, ..Setup::default() }).unwrap();
    let url = format!("zookeeper://{}", ensemble.hosts());
    let mut holder = globallock();
    holder.env("GLOBALLOCK_URL", &url).args(["run", "held", "--", "sh", "-c", "echo held; read _"]);
    let holder = Running::start(&mut holder);
    holder.says("held");
    unavailable(
        &url,
        &format!(
            "{url} is unavailable: it closed the connection without an answer: it may have as many \
             connections of this host as it accepts (raise maxClientCnxns), or be no ZooKeeper: {CHECK}"
        ),
    );
}

#[test]
fn certificates() {
    let directory = TempDir::new().unwrap();
    let files = Certificates::write(directory.path()).unwrap();
    let of = |files: &Certificates| {
        let setup = Setup { certificates: Some(files.clone()), ..Setup::default() };
        let ensemble = ZooKeeper::start_with(1, setup).unwrap();
        let port = ensemble.url().rsplit(':').next().unwrap().parse().unwrap();
        (ensemble, port)
    };
    let (ensemble, port): (_, u16) = of(&files);
    certificates_are_explained("zookeepers", port, &files);
    let url = format!("zookeeper://localhost:{port}");
    refused(&url, &format!("{url} cannot do this: it speaks TLS at this port: write zookeepers://"));
    drop(ensemble);
    let own = &files.self_signed;
    let (_ensemble, port) = of(&files.all_of(own));
    let address = format!("zookeepers://localhost:{port}");
    let client = format!("cert={}&key={}", own.certificate.display(), own.key.display());
    works(&format!("{address}?ca={}&{client}", own.certificate.display()));
    let nobody = "cannot do this: its certificate is signed by nobody but itself: name the file of that very \
                  certificate by ?ca=FILE";
    refused(&format!("{address}?{client}"), &format!("{address} {nobody}"));
}

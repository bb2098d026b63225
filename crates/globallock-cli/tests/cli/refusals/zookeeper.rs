//! ZooKeeper.

use std::io::{Read, Write};
use std::net::TcpStream;

use globallock_conformance::server::Cluster;
use globallock_conformance::server::certificates::Certificates;
use globallock_conformance::server::zookeeper::{Setup, ZooKeeper};
use tempfile::TempDir;

use crate::support::{Running, globallock};

use super::{certificates_are_explained, http, lock_refused, refused, silent, unavailable, works};

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
    refused(
        &format!("{url}?timeout=500ms"),
        &format!("{url} cannot do this: it is an HTTP server: check host and port"),
    );
    let no_tls =
        "cannot do this: it speaks no TLS at this port: write zookeeper://, or name the port that does";
    let url = format!("zookeepers://127.0.0.1:{port}");
    refused(&url, &format!("{url} {no_tls}"));
    let (_listener, port) = silent();
    let url = format!("zookeeper://127.0.0.1:{port}");
    unavailable(&format!("{url}?timeout=200ms"), &format!("{url} is unavailable: it did not answer in time"));
    let ensemble = ZooKeeper::start(1).unwrap();
    let url = format!("zookeepers://{}", ensemble.hosts());
    refused(&url, &format!("{url} {no_tls}"));
}

#[test]
fn a_server_that_does_not_serve_now() {
    let mut ensemble = ZooKeeper::start(3).unwrap();
    ensemble.kill(1);
    ensemble.kill(2);
    let url = format!("zookeeper://127.0.0.1:{}", ensemble.port(0));
    let no_longer = || {
        let mut stream = TcpStream::connect(("127.0.0.1", ensemble.port(0))).unwrap();
        stream.write_all(b"srvr").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.contains("not currently serving")
    };
    let log = tempfile::NamedTempFile::new().unwrap();
    globallock_conformance::server::wait_ready("the loss of the majority", log.path(), no_longer).unwrap();
    unavailable(
        &url,
        &format!(
            "{url} is unavailable: it does not serve now: it is starting, or its ensemble has no majority"
        ),
    );
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
             connections of this host as it accepts (raise maxClientCnxns), or be no ZooKeeper"
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
    refused(
        &format!("{url}?timeout=500ms"),
        &format!("{url} cannot do this: it speaks TLS at this port: write zookeepers://"),
    );
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

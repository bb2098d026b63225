//! etcd.

use globallock::LockManager;
use globallock_conformance::server::certificates::Certificates;
use globallock_conformance::server::etcd::Etcd;
use globallock_conformance::server::{Cluster, wait_ready};
use tempfile::TempDir;

use super::{certificates_are_explained, http, lock_refused, refused, silence, silent, unavailable, works};

#[test]
fn a_login_or_a_right_that_is_missing() {
    let mut cluster = Etcd::start(1).unwrap();
    cluster.enable_auth("app:pw").unwrap();
    for command in ["user add other:pw", "role add reader", "user grant-role other reader"] {
        let output = cluster.ctl(&command.split(' ').collect::<Vec<_>>());
        assert!(!output.contains("Error"), "{output}");
    }
    cluster.ctl(&["role", "grant-permission", "reader", "--prefix=true", "read", "/locks/_glocks/"]);
    let host = cluster.url().replace("etcd://", "");
    works(&format!("etcd://app:pw@{host}"));
    lock_refused(
        &format!("etcd://{host}"),
        &format!(
            "etcd://{host} denied access: it wants a login: put user and password into the address, as in \
             etcd://user:password@host"
        ),
    );
    let wrong = "denied access: the user name or the password in the address is wrong";
    refused(&format!("etcd://app:bad@{host}"), &format!("etcd://app@{host} {wrong}"));
    refused(&format!("etcd://joe:pw@{host}"), &format!("etcd://joe@{host} {wrong}"));
    let lacks = |prefix: &str| {
        format!(
            "denied access: the user lacks a right (etcdserver: permission denied): grant its role read \
             and write on the prefix, by etcdctl role grant-permission ROLE --prefix=true readwrite \
             {prefix}"
        )
    };
    lock_refused(
        &format!("etcd://other:pw@{host}"),
        &format!("etcd://other@{host} {}", lacks("/locks/_glocks/")),
    );
    let elsewhere = format!("etcd://app:pw@{host}?prefix=/elsewhere");
    lock_refused(&elsewhere, &format!("etcd://app@{host} {}", lacks("/elsewhere/")));
}

#[test]
fn a_port_at_which_something_else_is() {
    let (_server, port) = http();
    let url = format!("etcd://127.0.0.1:{port}");
    refused(&url, &format!("{url} cannot do this: it is an HTTP server: check host and port"));
    let no_tls = "cannot do this: it speaks no TLS at this port: write etcd://, or name the port that does";
    let url = format!("etcds://127.0.0.1:{port}");
    refused(&url, &format!("{url} {no_tls}"));
    let (_listener, port) = silent();
    let url = format!("etcd://127.0.0.1:{port}");
    unavailable(&url, &format!("{url} is unavailable: {} check host and port", silence("etcd")));
    let cluster = Etcd::start(1).unwrap();
    let url = cluster.url().replace("etcd://", "etcds://");
    refused(&url, &format!("{url} {no_tls}"));
    let url = format!("{},127.0.0.1:1", cluster.url());
    works(&url);
}

#[test]
fn a_member_that_answers_is_heard_rather_than_those_that_are_dead() {
    let mut cluster = Etcd::start(3).unwrap();
    cluster.kill(1);
    cluster.kill(2);
    let hosts: Vec<String> = cluster.ports().iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let alone = format!("etcd://{}", hosts[0]);
    let log = tempfile::NamedTempFile::new().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let has_no_leader = || runtime.block_on(LockManager::connect(&alone)).is_err();
    wait_ready("the loss of the majority", log.path(), has_no_leader).unwrap();
    for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0]] {
        let url = format!("etcd://{}", order.map(|member| hosts[member].clone()).join(","));
        unavailable(
            &url,
            &format!(
                "{url} is unavailable: etcdserver: no leader: check that a majority of its members runs, and \
                 that they reach each other"
            ),
        );
    }
}

#[test]
fn certificates() {
    let directory = TempDir::new().unwrap();
    let files = Certificates::write(directory.path()).unwrap();
    let cluster = Etcd::start_with(1, Some(files.clone())).unwrap();
    let port = cluster.ports()[0];
    certificates_are_explained("etcds", port, &files);
    let url = format!("etcd://localhost:{port}");
    refused(&url, &format!("{url} cannot do this: it speaks TLS at this port: write etcds://"));
    drop(cluster);
    let own = &files.self_signed;
    let cluster = Etcd::start_with(1, Some(files.all_of(own))).unwrap();
    let address = format!("etcds://localhost:{}", cluster.ports()[0]);
    let client = format!("cert={}&key={}", own.certificate.display(), own.key.display());
    works(&format!("{address}?ca={}&{client}", own.certificate.display()));
    let nobody = "cannot do this: its certificate is signed by nobody but itself: name the file of that very \
                  certificate by ?ca=FILE";
    refused(&format!("{address}?{client}"), &format!("{address} {nobody}"));
}

//! etcd.

use globallock_conformance::server::Cluster;
use globallock_conformance::server::certificates::Certificates;
use globallock_conformance::server::etcd::Etcd;
use tempfile::TempDir;

use super::{PREFIX, examined, keeps_what_is_held, names};

/// Asserts that nothing is left but what ends with the leases of the two owners, and has no name.
fn nothing_is_left(cluster: &Etcd) {
    let keys = cluster.ctl(&["get", "--prefix", "--keys-only", ""]);
    let name = PREFIX.trim_end_matches('/');
    assert!(!keys.contains(name) && !keys.contains("evicted"), "{keys}");
}

#[test]
fn a_cluster_that_is_well_is_told_so_and_one_of_its_members_that_is_not_is_told_too() {
    let mut cluster = Etcd::start(3).unwrap();
    let url = cluster.url();
    let found = examined(&url, &[]);
    found.is_well();
    found.has("ok", "members", "3 of 3 that the address names answer; the cluster has 3");
    found.has("ok", "leader", "member ");
    found.has("ok", "alarms", "none");
    found.has("ok", "database", "the quota is 2048 MiB");
    found.has("ok", "clock", "differ by less than 1 s");
    found.has("ok", "round trip", "reads that a majority confirms");
    found.has("ok", "rights", "everybody (there is no login) may read, write and delete");
    let version = &found.on("version").next().unwrap().text;
    assert!(version.starts_with(&format!("etcd {}", cluster.version())), "{version}");
    assert_eq!(names(&url), [""; 0]);
    nothing_is_left(&cluster);
    keeps_what_is_held(&url);
    let alone = examined(&format!("etcd://127.0.0.1:{}", cluster.ports()[0]), &[]);
    alone.is_well();
    alone.has("note", "members", "1 of 1 that the address names answer; the cluster has 3");
    let leader = cluster.leader().unwrap();
    let follower = (leader + 1) % 3;
    cluster.kill(follower);
    let found = examined(&url, &[]);
    found.ends_with(69);
    let port = cluster.ports()[follower];
    found.has("bad", "members", &format!("127.0.0.1:{port} does not answer: no connection"));
    found.is_told();
    nothing_is_left(&cluster);
}

#[test]
fn an_alarm_is_told_with_how_to_end_it() {
    let cluster = Etcd::start(1).unwrap();
    cluster.raise_full(0).unwrap();
    let found = examined(&cluster.url(), &[]);
    found.ends_with(69);
    found.has("bad", "alarms", "NOSPACE: the database is full");
    let remedy = found.saying("NOSPACE").remedy.as_deref().unwrap();
    assert!(remedy.contains("etcdctl alarm disarm"), "{remedy}");
    found.has("bad", "lock", "its database is full");
    assert_eq!(cluster.ctl(&["alarm", "disarm"]).lines().count(), 1);
    examined(&cluster.url(), &[]).is_well();
}

#[test]
fn each_right_that_a_user_lacks_is_named() {
    let mut cluster = Etcd::start(1).unwrap();
    cluster.enable_auth("app:pwCANARY").unwrap();
    for command in ["user add other:pwCANARY", "role add reader", "user grant-role other reader"] {
        let output = cluster.ctl(&command.split(' ').collect::<Vec<_>>());
        assert!(!output.contains("Error"), "{output}");
    }
    cluster.ctl(&["role", "grant-permission", "reader", "--prefix=true", "read", "/locks/_glocks/"]);
    let host = cluster.url().replace("etcd://", "");
    let right = examined(&format!("etcd://app:pwCANARY@{host}"), &[]);
    right.is_well();
    right.has("ok", "rights", "the user app may read, write and delete");
    let reader = examined(&format!("etcd://other:pwCANARY@{host}"), &[]);
    reader.ends_with(77);
    reader.has("denied", "rights", "the user other may not write and delete the keys below /locks/_glocks//");
    let writes =
        format!("may not write and delete the keys below /locks/_glocks/{}%2F", PREFIX.trim_end_matches('/'));
    reader.has("denied", "rights", &writes);
    assert!(!reader.on("rights").any(|found| found.text.contains("may not read")), "{reader}");
    let elsewhere = examined(&format!("etcd://app:pwCANARY@{host}?prefix=/elsewhere"), &[]);
    elsewhere.ends_with(77);
    elsewhere.has("denied", "rights", "the user app may not read the keys below /elsewhere//");
    for url in [format!("etcd://app:badCANARY@{host}"), format!("etcd://{host}")] {
        let refused = examined(&url, &[]);
        refused.ends_with(77);
        assert!(!refused.to_string().contains("CANARY"), "{refused}");
    }
}

#[test]
fn the_clock_of_a_cluster_with_tls_is_read_too() {
    let directory = TempDir::new().unwrap();
    let files = Certificates::write(directory.path()).unwrap();
    let cluster = Etcd::start_with(1, Some(files.clone())).unwrap();
    let (ca, cert, key) = (files.ca.display(), files.client.display(), files.client_key.display());
    let url = format!("etcds://localhost:{}?ca={ca}&cert={cert}&key={key}", cluster.ports()[0]);
    let found = examined(&url, &[]);
    found.is_well();
    found.has("ok", "encryption", "TLS");
    found.has("ok", "clock", "differ by less than 1 s");
}

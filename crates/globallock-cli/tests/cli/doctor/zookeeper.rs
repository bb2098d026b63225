//! ZooKeeper.

use globallock_conformance::server::Cluster;
use globallock_conformance::server::zookeeper::{Setup, ZooKeeper, tree};

use super::{PREFIX, examined, keeps_what_is_held, names};

#[test]
fn an_ensemble_that_is_well_is_told_so_and_a_server_that_is_away_is_told_too() {
    let mut ensemble = ZooKeeper::start(3).unwrap();
    let url = ensemble.url();
    let found = examined(&url, &[]);
    found.is_well();
    found.has("ok", "version", "ZooKeeper 3.");
    found.has("ok", "servers", "3 of 3 that the address names tell their mode");
    found.has("note", "access", "acl=open");
    // What the harness sets: two ticks of 500 ms, and a minute.
    found.has("ok", "sessions", "from 1 s to 1 min");
    found.has("ok", "round trip", "transactions that a majority confirms");
    found.has("ok", "root", "/_glocks is not there yet");
    found.has("ok", "clock", "differ by less than 1 s");
    found.has("ok", "rights", "may make, read and delete claims below /_glocks");
    assert_eq!(names(&url), [""; 0]);
    let left = tree(&ensemble.hosts(), "/_glocks");
    assert!(!left.contains(PREFIX.trim_end_matches('/')), "{left}");
    keeps_what_is_held(&url);
    let alone = examined(&format!("zookeeper://127.0.0.1:{}", ensemble.port(0)), &[]);
    alone.is_well();
    alone.has("note", "servers", "the address names one server of an ensemble");
    let follower = (ensemble.leader().unwrap() + 1) % 3;
    ensemble.kill(follower);
    let found = examined(&url, &[]);
    found.ends_with(69);
    found.has("bad", "servers", &format!("127.0.0.1:{} does not answer", ensemble.port(follower)));
    found.is_told();
}

#[test]
fn each_right_that_a_user_lacks_is_named() {
    let user = Some(("app".to_owned(), "pwCANARY".to_owned()));
    let ensemble = ZooKeeper::start_with(1, Setup { user, ..Setup::default() }).unwrap();
    let host = ensemble.hosts();
    let private = "prefix=/private&acl=creator";
    let owner = examined(&format!("zookeeper://one:pwCANARY@{host}?{private}"), &[]);
    owner.is_well();
    assert_eq!(owner.on("access").count(), 0, "{owner}");
    let other = examined(&format!("zookeeper://two:pwCANARY@{host}?{private}"), &[]);
    other.ends_with(77);
    other.has("denied", "rights", "this user may not list /private");
    other.has("denied", "rights", "this user may not make nodes below /private");
    assert!(!other.to_string().contains("CANARY"), "{other}");
    let wrong = examined(&format!("zookeeper://app:badCANARY@{host}?auth=sasl"), &[]);
    wrong.ends_with(77);
    wrong.has("denied", "connection", "user or password is wrong");
    assert!(!wrong.to_string().contains("CANARY"), "{wrong}");
}

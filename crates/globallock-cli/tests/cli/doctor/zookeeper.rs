//! ZooKeeper.

use globallock_conformance::server::Cluster;
use globallock_conformance::server::zookeeper::{Setup, ZooKeeper, set_rights, tree};

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
    // The server leaves a transaction unanswered now and then, in the first seconds of an ensemble.
    assert!(found.saying("transactions that a majority confirms").subject == "round trip");
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

#[test]
fn a_node_that_everybody_may_read_only_is_told_from_one_where_only_the_deletion_is_denied() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let host = ensemble.hosts();
    let (makes, deletes) = ("this user may not make nodes below", "this user may not delete nodes below");
    for (root, rights, told) in [
        ("/read", 1, vec![format!("{makes} /read"), format!("{deletes} /read")]),
        ("/made", 1 | 4, vec![format!("{deletes} /made")]),
        ("/blind", 4 | 8, vec!["this user may not list /blind".to_owned()]),
    ] {
        set_rights(&host, root, rights);
        let found = examined(&format!("zookeeper://{host}?prefix={root}"), &[]);
        found.ends_with(77);
        let denied = found.on("rights").filter(|found| found.verdict == "denied");
        let denied: Vec<&str> = denied.map(|found| &*found.text).collect();
        assert_eq!(denied, told, "{found}");
    }
}

//! Redis.

use globallock_conformance::server::redis::{Redis, Sentinels};

use super::{PREFIX, doctor, examined, keeps_what_is_held, names};
use crate::support::ended;

/// All keys that there are.
fn keys(server: &Redis) -> String {
    server.cli(&["KEYS", "*"])
}

#[test]
fn a_server_that_is_well_is_told_so_and_nothing_is_left_in_it() {
    let server = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).unwrap();
    let found = examined(&server.url(), &[]);
    found.is_well();
    let version = server.cli(&["INFO", "server"]);
    let version = version.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap().trim();
    found.has("ok", "version", version);
    found.has("ok", "eviction", "evicts no keys");
    found.has("ok", "persistence", "a restart forgets nothing");
    found.has("note", "replicas", "none");
    found.has("ok", "clients", " of 10000 clients are connected");
    found.has("ok", "clock", "differ by less than 1 s");
    found.has("ok", "round trip", " at p99, of ");
    found.has("ok", "rights", "the user default has all");
    found.has("ok", "eviction", "its owner was told who and why");
    assert_eq!(keys(&server), "");
    assert_eq!(names(&server.url()), [""; 0]);
    keeps_what_is_held(&server.url());
}

#[test]
fn what_a_server_may_forget_is_told_with_what_to_change() {
    let server = Redis::start_with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]).unwrap();
    let evicts = examined(&server.url(), &[]);
    evicts.ends_with(69);
    evicts.has("bad", "eviction", "it may evict locks when its memory is full");
    let remedy = evicts.saying("it may evict locks").remedy.as_deref();
    assert_eq!(remedy, Some("set maxmemory-policy to noeviction, not allkeys-lru"));
    evicts.has("note", "persistence", "a restart forgets all locks: it saves nothing");
    let set = |name: &str, value: &str| assert_eq!(server.cli(&["CONFIG", "SET", name, value]), "OK");
    set("maxmemory-policy", "noeviction");
    set("save", "3600 1");
    set("timeout", "7");
    let keeps = examined(&server.url(), &[]);
    keeps.is_well();
    keeps.has("ok", "eviction", "evicts no keys (noeviction)");
    keeps.has("note", "persistence", "since the last snapshot");
    keeps.has("ok", "idle clients", "after 7 s");
    set("maxclients", "5");
    set("appendonly", "yes");
    set("maxmemory", "1mb");
    let full = examined(&server.url(), &[]);
    full.ends_with(69);
    full.has("note", "persistence", "last two seconds");
    full.has("bad", "lock", "it is out of memory");
    full.has("ok", "left behind", "");
    // Two owners need two.
    set("maxmemory", "0");
    set("maxclients", "1");
    let crowded = examined(&server.url(), &[]);
    crowded.ends_with(69);
    crowded.has("bad", "connection", "it has as many connections as it accepts");
}

#[test]
fn a_clock_that_is_off_is_told_and_costs_no_lock() {
    let server = Redis::start_with_clock().unwrap();
    for (seconds, side) in [(90, "ahead of"), (-3600, "behind")] {
        server.clock().unwrap().set(seconds).unwrap();
        let found = examined(&server.url(), &[]);
        found.is_well();
        let clock = &found.on("clock").next().unwrap().text;
        // What the request takes is taken off.
        let told =
            ["clock is 1 min ", "clock is 1 h ", "clock is 59 min "].iter().any(|told| clock.contains(told));
        assert!(
            told && clock.contains(&format!("{side} this host's: leases do not depend on that")),
            "{clock}"
        );
        found.has("note", "clock", "");
    }
}

#[test]
fn what_cannot_serve_is_told_in_the_sentence_that_a_lock_would_get() {
    let node = Redis::start_node().unwrap();
    let cluster = examined(&node.url(), &[]);
    cluster.ends_with(69);
    cluster.has("bad", "server", "it is a node of a Redis Cluster, which is not supported: give the address");
    let primary = Redis::start().unwrap();
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &primary.port().to_string()]).unwrap();
    let read_only = examined(&replica.url(), &[]);
    read_only.ends_with(69);
    read_only.has("bad", "replicas", "it is a read-only replica");
    let with_replica = examined(&primary.url(), &[]);
    with_replica.is_well();
    with_replica.has("note", "replicas", "1, which copy later");
    let closed = examined("redis://127.0.0.1:1", &[]);
    closed.ends_with(69);
    closed.has("bad", "connection", "redis://127.0.0.1:1 is unavailable: no connection: Connection refused");
    assert_eq!(closed.found.len(), 1, "{closed}");
}

#[test]
fn a_password_is_never_shown() {
    let server = Redis::start_with(&["--requirepass", "rightCANARY"]).unwrap();
    for (password, status) in [("rightCANARY", 0), ("wrongCANARY", 77)] {
        let url = format!("redis://:{password}@127.0.0.1:{}", server.port());
        let found = examined(&url, &[]);
        found.ends_with(status);
        assert!(!found.to_string().contains("CANARY"), "{found}");
        let told = ended(&mut doctor(&url));
        assert_eq!(told.status, Some(status));
        assert!(!told.output.contains("CANARY") && !told.error.contains("CANARY"), "{told:?}");
        assert!(told.output.contains(&format!("redis://127.0.0.1:{}", server.port())), "{told:?}");
    }
}

#[test]
fn sentinels_are_asked_one_by_one() {
    let set = Sentinels::start().unwrap();
    let url = set.url();
    let all = examined(&url, &[]);
    all.is_well();
    all.has("ok", "sentinels", &format!("3 of 3 answer; the primary is 127.0.0.1:{}", set.primary.port()));
    let with_dead = examined(&url.replace("/main", ",127.0.0.1:1/main"), &[]);
    with_dead.ends_with(69);
    with_dead.has("bad", "sentinels", "the sentinel 127.0.0.1:1");
    with_dead.has("ok", "sentinels", "3 of 4 answer");
    with_dead.is_told();
    assert!(!set.primary.cli(&["KEYS", "*"]).contains(PREFIX));
}

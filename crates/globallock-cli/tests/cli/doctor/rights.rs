//! The rights of a user of Redis, one by one.

use globallock_conformance::server::redis::Redis;

use super::examined;

/// A server with a user that may do this.
fn with_rights(rights: &str) -> (Redis, String) {
    let server = Redis::start().unwrap();
    let url = format!("redis://u:pw@127.0.0.1:{}", server.port());
    set(&server, &format!("reset on >pw {rights}"));
    (server, url)
}

fn set(server: &Redis, rules: &str) {
    let words: Vec<&str> = ["ACL", "SETUSER", "u"].into_iter().chain(rules.split(' ')).collect();
    assert_eq!(server.cli(&words), "OK", "{rules}");
}

/// What a user needs, as the page of the store says.
fn least() -> String {
    let page = include_str!("../../../../../docs/redis.md");
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER locks on >PASSWORD ")).unwrap();
    line.trim_start_matches("ACL SETUSER locks on >PASSWORD ").to_owned()
}

#[test]
fn the_least_rights_of_the_documentation_are_enough() {
    let (_server, url) = with_rights(&least());
    let found = examined(&url, &[]);
    found.is_well();
    found.has("ok", "rights", "the user u has all that locks need");
    found.has("unknown", "server", "this user may not read INFO");
    found.has("ok", "version", "Redis");
}

#[test]
fn each_right_that_is_missing_is_named_and_what_is_said_to_do_about_it_is_right() {
    let (server, url) = with_rights("resetchannels +hello");
    let found = examined(&url, &[]);
    found.ends_with(77);
    let denied: Vec<_> = found.on("rights").filter(|found| found.verdict == "denied").collect();
    assert!(denied.len() > 25, "{found}");
    for command in ["SET", "HGETALL", "ZADD", "EVALSHA", "SCRIPT", "PUBLISH", "SUBSCRIBE", "TIME"] {
        found.has("denied", "rights", &format!("the user u may not call {command}"));
    }
    // Whoever may call nothing learns of keys and channels once that is mended.
    for tries in 0.. {
        let found = examined(&url, &[]);
        let remedies = found.on("rights").filter(|found| found.verdict != "ok");
        let remedies: Vec<String> = remedies.filter_map(|found| found.remedy.clone()).collect();
        if remedies.is_empty() {
            found.is_well();
            break;
        }
        assert!(tries < 4, "{found}");
        for remedy in remedies {
            set(&server, remedy.strip_prefix("ACL SETUSER u ").unwrap_or_else(|| panic!("{remedy}")));
        }
    }
}

#[test]
fn one_right_that_is_missing_is_named_alone() {
    let (server, url) = with_rights(&least());
    for (but, named) in [
        ("-zscore", "the user u may not call ZSCORE"),
        ("-script|load", "the user u may not call SCRIPT"),
        ("-pexpiretime", "the user u may not call PEXPIRETIME"),
        ("resetkeys ~_glocks:*", "the user u may not read and write the keys {_glocks:*"),
        ("resetkeys ~{_glocks:*", "the user u may not read and write the keys _glocks:*"),
        ("resetchannels", "the user u may not use the channels globallock:*"),
    ] {
        set(&server, &format!("reset on >pw {} {but}", least()));
        let found = examined(&url, &[]);
        found.ends_with(77);
        let denied: Vec<&str> =
            found.on("rights").filter(|found| found.verdict == "denied").map(|found| &*found.text).collect();
        assert_eq!(denied, [named], "{found}");
    }
    for (but, noted) in [("-scan", "may not SCAN"), ("resetchannels &globallock:wake:*", "may not listen to")]
    {
        set(&server, &format!("reset on >pw {} {but}", least()));
        let found = examined(&url, &[]);
        found.is_well();
        found.has("note", "rights", noted);
    }
    set(&server, &format!("reset on >pw {} -ping", least()));
    examined(&url, &[]).has("denied", "rights", "may not call PING");
}

#[test]
fn a_user_of_some_names_only_tries_one_of_these() {
    let names = least().replace("_glocks:*", "_glocks:reports/*");
    let (_server, url) = with_rights(&names);
    examined(&url, &["--name", "reports/"]).is_well();
    let elsewhere = examined(&url, &[]);
    elsewhere.ends_with(77);
    elsewhere.has("denied", "rights", "the user u may not read and write the keys _glocks:*");
}

#[test]
fn a_command_that_was_renamed_away_is_told_as_such() {
    let server = Redis::start_with(&["--rename-command", "ZSCORE", ""]).unwrap();
    let found = examined(&server.url(), &[]);
    found.ends_with(69);
    found.has("bad", "rights", "it does not know ZSCORE, which locks need: take it out of rename-command");
}

//! The samples of `docs/doctor.md`, compared in form with what is printed now.

use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::Etcd;
use globallock_conformance::server::redis::Redis;
use tempfile::TempDir;

use super::doctor;
use crate::support::ended;

/// How often a store is examined until this host was not too busy.
const TRIES: usize = 10;
const PAGE: &str = include_str!("../../../../../docs/doctor.md");

/// What the page shows below a command line.
fn sample(command: &str) -> String {
    let begin = format!("```console\n$ globallock doctor {command}\n");
    let (_, sample) = PAGE.split_once(&begin).unwrap_or_else(|| panic!("there is no sample of {command}"));
    sample.split_once("```\n").unwrap().0.to_owned()
}

/// The text with all numbers and units of time made alike, and with the store called by one name.
fn form(text: &str, store: &str) -> Vec<String> {
    let text = text.replace(store, "STORE").replace('µ', "m");
    let line = |line: &str| {
        let words = line.split(' ').map(|word| match word.trim_end_matches([',', ';', ')']) {
            "ms" | "s" => "T",
            bare if bare.contains(|c: char| c.is_ascii_digit()) => "N",
            _ => word,
        });
        words.collect::<Vec<_>>().join(" ")
    };
    text.lines().map(line).collect()
}

/// Asserts that the sample below a command line is like what is printed for this address.
fn is_as_documented(command: &str, url: &str, more: &[&str]) {
    let shown = command.split([' ', '?']).next().unwrap();
    // Without the password.
    let shown_now = match url.rsplit_once('@') {
        Some((login, host)) => format!("{}@{host}", login.rsplit_once(':').unwrap().0),
        None => url.to_owned(),
    };
    let documented = form(&sample(command), shown);
    // On a busy host something may be worth a note because it is slow.
    let printed = || form(&ended(doctor(url).args(more)).output, &shown_now);
    let printed =
        (0..TRIES).map(|_| printed()).find(|printed| *printed == documented).unwrap_or_else(printed);
    assert_eq!(documented, printed);
}

#[test]
fn the_samples_of_redis_are_like_what_is_printed() {
    let server = Redis::start().unwrap();
    is_as_documented("redis://127.0.0.1:6379", &server.url(), &[]);
    let page = include_str!("../../../../../docs/redis.md");
    let rights = page.lines().find_map(|line| line.strip_prefix("ACL SETUSER locks on >PASSWORD ")).unwrap();
    let rights = format!("ACL SETUSER locks on >pw {rights} -zscore resetchannels");
    assert_eq!(server.cli(&rights.split(' ').collect::<Vec<_>>()), "OK");
    let url = server.url().replace("redis://", "redis://locks:pw@");
    is_as_documented("redis://locks@127.0.0.1:6379?password_file=password -q", &url, &["-q"]);
}

#[test]
fn the_sample_of_etcd_is_like_what_is_printed() {
    let cluster = Etcd::start(1).unwrap();
    is_as_documented("etcd://127.0.0.1:2379", &cluster.url(), &[]);
}

#[test]
fn the_sample_of_a_directory_is_like_what_is_printed() {
    // It is a tmpfs on every host.
    let directory = TempDir::new_in("/dev/shm").unwrap();
    let url = format!("file://{}", directory.path().join("locks").display());
    is_as_documented("file:///run/app/locks", &url, &[]);
}

#[test]
fn the_page_explains_every_subject_that_there_is() {
    for sample in ["redis://127.0.0.1:6379", "etcd://127.0.0.1:2379", "file:///run/app/locks"] {
        let sample = self::sample(sample);
        let lines = sample.lines().filter(|line| !line.starts_with(' ') && line.get(7..8) == Some(" "));
        for line in lines {
            let subject = line[8..].split(':').next().unwrap();
            assert!(PAGE.contains(&format!("`{subject}`")), "{subject} is not explained");
        }
    }
}

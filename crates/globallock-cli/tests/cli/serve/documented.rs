//! What docs/serve.md says of the answers is what they have.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use super::{holder, served};
use crate::support::{ended, eventually};

pub(super) const PAGE: &str = include_str!("../../../../../docs/serve.md");
const OPERATIONS: &str = include_str!("../../../../../docs/operations.md");

/// What stands in ticks in the first column of the tables below a heading, table by table.
pub(super) fn tables(page: &str, heading: &str) -> Vec<BTreeSet<String>> {
    let (_, below) = page.split_once(&format!("{heading}\n")).unwrap_or_else(|| panic!("{heading} is there"));
    let section = below.split("\n##").next().unwrap();
    let mut tables = vec![BTreeSet::new()];
    for line in section.lines() {
        match line.strip_prefix("| `").and_then(|line| line.split_once('`')) {
            Some((field, _)) => drop(tables.last_mut().unwrap().insert(field.to_owned())),
            None if line.starts_with('|') => {}
            None if tables.last().unwrap().is_empty() => {}
            None => tables.push(BTreeSet::new()),
        }
    }
    tables.retain(|table| !table.is_empty());
    tables
}

fn fields(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap_or_else(|| panic!("{value} is an object")).keys().cloned().collect()
}

#[test]
fn every_field_that_is_answered_is_documented_and_no_other() {
    let (store, server) = served(&["--allow-break"]);
    let held = holder(&store, "a");
    let _waits = store.start(&["a", "--", "true"]);
    let lock = eventually(|| {
        let lock = server.get("/api/lock?name=a").json();
        Some(lock).filter(|lock| lock["waits"][0].is_object() && lock["lock"]["waiters"] == 1)
    });
    let lock = lock.expect("the waiter is seen");
    let locks = server.get("/api/locks").json();
    let waits = server.get("/api/waits").json();
    let mut page = server.connect();
    page.send("GET", "/api/events", &[], "");
    page.head().unwrap();
    let (_, event) = page.event().unwrap();
    let mut news = fields(&event["news"]);
    news.extend(["changed", "renewed", "gone"].map(str::to_owned));
    let inspected = ended(store.command().args(["inspect", "-o", "json", "a"])).output;
    let mut inspected: Value = serde_json::from_str(&inspected).unwrap();
    let claim = lock["claims"][0]["claim"].as_str().unwrap().to_owned();
    let broken = server.break_claim("a", &claim, "").json();
    let order = ["name", "confirm", "claim", "held", "reason"].map(str::to_owned).into();
    for (heading, expected) in [
        ("### All locks", vec![fields(&locks)]),
        ("### One lock", vec![fields(&lock)]),
        ("### A lock", vec![fields(&lock["lock"])]),
        ("### A claim", vec![fields(&lock["claims"][0])]),
        ("### All waits", vec![fields(&waits)]),
        ("### The session", vec![fields(&server.get("/api/session").json())]),
        ("### Breaking", vec![order, fields(&broken)]),
        ("### Events", vec![fields(&event), news]),
    ] {
        assert_eq!(tables(PAGE, heading), expected, "{heading}");
    }
    // It is what inspect tells.
    assert_eq!(tables(OPERATIONS, "### A wait"), [fields(&lock["waits"][0])]);
    assert_eq!(lock["waits"], waits["waits"]);
    assert_eq!(tables(OPERATIONS, "### A queue"), [fields(&inspected)]);
    for field in ["name", "waits", "deadlocks"] {
        assert_eq!(inspected[field].take(), lock[field], "{field}");
    }
    assert_eq!(fields(&inspected["claims"][0]), fields(&lock["claims"][0]));
    drop(held);
}

#[test]
fn every_metric_is_documented_and_no_other() {
    let (_store, server) = served(&[]);
    let metrics = server.get("/metrics").body;
    let told = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let told: BTreeSet<String> = told.map(str::to_owned).collect();
    assert_eq!(tables(PAGE, "\n## Metrics"), [told]);
}

#[test]
fn the_unit_of_the_page_is_one_that_systemd_takes() {
    let unit = PAGE.split("```ini\n").nth(1).unwrap().split("```").next().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("globallock-serve.service");
    let program = env!("CARGO_BIN_EXE_globallock");
    std::fs::write(&file, unit.replace("/usr/local/bin/globallock", program)).unwrap();
    let verified = Command::new("systemd-analyze").arg("verify").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && !said.contains("globallock-serve"), "{said}");
    // And its options are those of the program.
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let mut command = Command::new(program);
    let words = line.split(' ').skip(1).map(|word| word.replace("%d", "/nowhere"));
    let refused = command.args(words).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("--auth-file /nowhere/users: No such file"), "{said}");
}

//! `globallock doctor`, on real stores that are well, and on those that are not.

mod arguments;
mod documented;
mod etcd;
mod file;
mod interrupted;
mod pushes;
mod redis;
mod rights;
mod zookeeper;

use std::collections::BTreeSet;
use std::fmt;
use std::process::Command;

use futures_util::TryStreamExt;
use globallock::{LockManager, Name};
use serde_json::Value;

use crate::support::{ended, globallock};

/// What the names of the locks begin with that are tried.
const PREFIX: &str = "globallock-doctor/";

/// What `doctor` has found.
struct Examined {
    status: Option<i32>,
    found: Vec<Found>,
    error: String,
}

/// One finding.
struct Found {
    subject: String,
    verdict: String,
    text: String,
    remedy: Option<String>,
}

/// `globallock doctor` for the store at this address, which only this user can read.
fn doctor(url: &str) -> Command {
    let mut command = globallock();
    command.arg("doctor").env("GLOBALLOCK_URL", url);
    command
}

/// Examines the store at this address.
fn examined(url: &str, more: &[&str]) -> Examined {
    examined_by(doctor(url).args(["-o", "json"]).args(more))
}

/// Runs an examination that prints JSON.
fn examined_by(command: &mut Command) -> Examined {
    let ended = ended(command);
    let found = ended.output.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let fields: BTreeSet<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, BTreeSet::from(["remedy", "subject", "text", "verdict"]));
        let text = |field: &str| line[field].as_str().map(str::to_owned);
        let [subject, verdict, said] = ["subject", "verdict", "text"].map(|field| text(field).unwrap());
        Found { subject, verdict, text: said, remedy: text("remedy") }
    });
    Examined { status: ended.status, found: found.collect(), error: ended.error }
}

impl Examined {
    /// The findings on a subject.
    fn on<'a>(&'a self, subject: &'a str) -> impl Iterator<Item = &'a Found> {
        self.found.iter().filter(move |found| found.subject == subject)
    }

    /// The finding that has this text in it.
    fn saying(&self, text: &str) -> &Found {
        let found = self.found.iter().find(|found| found.text.contains(text));
        found.unwrap_or_else(|| panic!("{text:?} is not said: {self}"))
    }

    /// Asserts that there is a finding on this subject, of this verdict, which has this in its text.
    fn has(&self, verdict: &str, subject: &str, text: &str) {
        let has = self.on(subject).any(|found| found.verdict == verdict && found.text.contains(text));
        assert!(has, "{verdict} {subject} {text:?} is not found: {self}");
    }

    /// Asserts that nothing is bad, and that all has been tried.
    fn is_well(&self) {
        let bad: Vec<_> =
            self.found.iter().filter(|found| ["bad", "denied"].contains(&&*found.verdict)).collect();
        assert!(bad.is_empty() && self.status == Some(0), "{:?} {self}", self.status);
        assert_eq!(self.error, "");
        for subject in ["lock", "eviction", "left behind"] {
            self.has("ok", subject, "");
        }
        self.is_told();
    }

    /// Asserts that the waiter was told of its grant, however busy this host is.
    fn is_told(&self) {
        assert!(self.on("hand-over").any(|found| found.text.ends_with("told by the store")), "{self}");
    }

    /// Asserts that the exit status is this.
    fn ends_with(&self, status: i32) {
        assert_eq!(self.status, Some(status), "{self}");
    }
}

impl fmt::Display for Examined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Found { subject, verdict, text, remedy } in &self.found {
            writeln!(f, "{verdict} {subject}: {text} [{}]", remedy.as_deref().unwrap_or_default())?;
        }
        write!(f, "{:?} {}", self.status, self.error)
    }
}

/// The names of all locks in the store.
fn names(url: &str) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let manager = LockManager::connect(url).await.unwrap();
        let listed = manager.list("").map_ok(|summary| summary.name.as_str().to_owned());
        listed.try_collect().await.unwrap()
    })
}

/// Asserts that a lock that is held loses nothing by what drops the remains of trials.
fn keeps_what_is_held(url: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let manager = LockManager::connect(url).await.unwrap();
        let guard = manager.mutex("held").acquire().await.unwrap();
        manager.backend().forget(guard.name(), &[]).await.unwrap();
        let entries = manager.inspect("held").await.unwrap();
        assert!(entries.len() == 1 && entries[0].held && guard.is_held(), "{entries:?}");
        let token = guard.fencing_token();
        guard.release().await.unwrap();
        manager.backend().forget(&Name::new("held").unwrap(), &[]).await.unwrap();
        let again = manager.mutex("held").acquire().await.unwrap();
        assert!(again.fencing_token() > token, "{} {token}", again.fencing_token());
        again.release().await.unwrap();
        manager.close().await;
    });
}

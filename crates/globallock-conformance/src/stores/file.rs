//! The store in a directory.

use std::io::Result;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use tempfile::TempDir;

use super::{Draw, Outcome, OwnFault, Role, StoreKind, TestStore, Trait, none};
use crate::proxy::Proxy;
use crate::store_under_test::StoreUnderTest;

const FILES_GONE: &str = "files_gone";

pub(super) const KINDS: &[StoreKind] = &[StoreKind {
    name: "file",
    roles: &[Role::Suite, Role::Scenarios, Role::Faults],
    servers: 0,
    starts_in: 0,
    install: super::nothing,
    traits: &[Trait::BetweenProcesses],
    start: || Ok(Box::new(Directory(TempDir::new()?))),
    own_faults: &[OwnFault::new(FILES_GONE)],
    hostile: none,
}];

#[derive(Debug)]
struct Directory(TempDir);

impl Directory {
    /// The store makes it, so that it has the rights that it likes.
    fn locks(&self) -> PathBuf {
        self.0.path().join("locks")
    }
}

#[async_trait]
impl TestStore for Directory {
    fn url(&self) -> String {
        format!("file://{}", self.locks().display())
    }

    fn url_by(&self, _hosts: &[String]) -> String {
        self.url()
    }

    fn under_test(&self, kind: &str, child: Option<PathBuf>) -> Vec<StoreUnderTest> {
        let (for_sabotage, for_residue) = (self.locks(), self.locks());
        vec![
            StoreUnderTest::at(kind, &self.url(), child)
                .with_sabotage(move |name| {
                    let deleted = delete(&for_sabotage.join(name.as_str()));
                    assert!(deleted > 0, "the name has claims");
                    async {}
                })
                .with_residue(move |name| {
                    let left = left(&for_residue, name.as_str());
                    async move { left }
                }),
        ]
    }

    fn left(&self, name: &str) -> Vec<String> {
        left(&self.locks(), name)
    }

    async fn break_by(&mut self, _fault: &OwnFault, draw: Draw, _proxies: &[Proxy]) -> Result<Outcome> {
        // Owners create and delete the directories and the files in them meanwhile.
        let mut locks: Vec<PathBuf> =
            std::fs::read_dir(self.locks())?.flatten().map(|lock| lock.path()).collect();
        locks.retain(|lock| !lock.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")));
        locks.sort();
        let gone = locks.get(draw.choose(locks.len())).map_or(0, |lock| delete(lock));
        Ok(Outcome::that_forgets(gone > 0, format!("{gone} files deleted")))
    }
}

/// Deletes the files of a lock, and returns how many there were.
fn delete(lock: &Path) -> usize {
    let files = std::fs::read_dir(lock).into_iter().flatten().flatten();
    files.filter(|file| std::fs::remove_file(file.path()).is_ok()).count()
}

/// The directory of a lock, and the file of its value. The names in tests have no character that the store
/// escapes, so it has the lock's name.
fn left(locks: &Path, name: &str) -> Vec<String> {
    let left = [name.to_owned(), format!(".values/{name}"), format!(".values/{name}~")];
    let left = left.map(|left| locks.join(left)).into_iter().filter(|left| left.exists());
    left.map(|left| left.display().to_string()).collect()
}

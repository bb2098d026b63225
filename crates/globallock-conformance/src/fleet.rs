//! Owner processes of several programs that share one lock.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// How long they share the lock, in seconds.
pub const TIME: &str = "5";

/// What all programs are given: a file that only one at a time can make, and no more.
#[derive(Debug)]
pub struct Fleet {
    directory: TempDir,
    members: Vec<Child>,
}

impl Fleet {
    /// A fleet without members.
    ///
    /// # Panics
    /// When no directory can be made.
    #[must_use]
    pub fn new() -> Self {
        Fleet { directory: TempDir::new().expect("a directory can be made"), members: Vec::new() }
    }

    /// The file that a member makes when it has the lock, and deletes before it gives that back.
    #[must_use]
    pub fn file(&self) -> std::path::PathBuf {
        self.directory.path().join("one-at-a-time")
    }

    /// Starts a member: a program that prints, at its end, how often it had the lock and how often somebody else had
    /// the file.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn add(&mut self, command: &mut Command) {
        let started = command.arg(self.file()).stdout(Stdio::piped()).spawn();
        self.members.push(started.unwrap_or_else(|error| panic!("{command:?}: {error}")));
    }

    /// Starts one of ours.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn add_ours(&mut self, program: &Path, url: &str, name: &str, kind: &str) {
        self.add(Command::new(program).args(["turns", url, name, kind, TIME]));
    }

    /// Waits for all, checks that never two had the lock at a time and that each had it again and again, and returns
    /// how often.
    ///
    /// # Panics
    /// When that was not so.
    pub fn finish(self) -> Vec<u64> {
        let wait = |member: Child| {
            let output = member.wait_with_output().expect("it ends");
            assert!(output.status.success(), "{}", output.status);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let (turns, overlaps) = text.trim().split_once(' ').expect("two numbers");
            assert_eq!(overlaps, "0", "somebody else was inside");
            turns.parse().expect("a number")
        };
        let turns: Vec<u64> = self.members.into_iter().map(wait).collect();
        println!("turns: {turns:?}");
        assert!(turns.iter().all(|turns| *turns >= 5), "each goes on: {turns:?}");
        turns
    }
}

impl Default for Fleet {
    fn default() -> Self {
        Self::new()
    }
}

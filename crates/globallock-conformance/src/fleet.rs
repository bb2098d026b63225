//! A fleet: owner processes of several programs that use the same lock.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// How long they take turns, in seconds.
pub const TIME: &str = "5";

/// The processes, and the file that shows whether two of them are inside at once.
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

    /// The file that a member makes while it holds the lock, and deletes before it releases it.
    #[must_use]
    pub fn file(&self) -> std::path::PathBuf {
        self.directory.path().join("one-at-a-time")
    }

    /// Starts a member: a program that prints at its end how many turns it had, and in how many of them the
    /// file showed another owner inside. The file's path is its last argument.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn add(&mut self, command: &mut Command) {
        let started = command.arg(self.file()).stdout(Stdio::piped()).spawn();
        self.members.push(started.unwrap_or_else(|error| panic!("{command:?}: {error}")));
    }

    /// Starts a member that uses globallock: the owner's program.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn add_ours(&mut self, program: &Path, url: &str, name: &str, kind: &str) {
        self.add(Command::new(program).args(["turns", url, name, kind, TIME]));
    }

    /// Waits for all members, and checks that no two were inside at once and that each had at least five
    /// turns. Returns the turns of each.
    ///
    /// # Panics
    /// When one of these is not true.
    pub fn finish(self) -> Vec<u64> {
        let wait = |member: Child| {
            let output = member.wait_with_output().expect("it ends");
            assert!(output.status.success(), "{}", output.status);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let (turns, overlaps) = text.trim().split_once(' ').expect("two numbers");
            assert_eq!(overlaps, "0", "another owner was inside");
            turns.parse().expect("a number")
        };
        let turns: Vec<u64> = self.members.into_iter().map(wait).collect();
        println!("turns: {turns:?}");
        assert!(turns.iter().all(|turns| *turns >= 5), "each member gets its turns: {turns:?}");
        turns
    }
}

impl Default for Fleet {
    fn default() -> Self {
        Self::new()
    }
}

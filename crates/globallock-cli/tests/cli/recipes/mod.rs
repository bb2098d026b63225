//! The recipes of the documentation, run as they stand there, but for what [`Stage::adapted`] replaces.

mod flock;
mod scripts;
mod services;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::support::{Ended, Running, TestStore, ended};

const PAGE: &str = include_str!("../../../../../docs/recipes.md");

/// The headings that have blocks, and how many. Each is run by a test that is named after it.
const BLOCKS: [(&str, usize); 7] = [
    ("cron", 3),
    ("systemd", 1),
    ("Containers", 1),
    ("Kubernetes", 1),
    ("CI", 1),
    ("supervisord", 1),
    ("Scripts", 7),
];

/// What stands below a heading, up to the next.
fn section(heading: &str) -> &'static str {
    let (_, below) = PAGE.split_once(&format!("\n## {heading}\n")).unwrap();
    below.split("\n## ").next().unwrap()
}

/// The blocks of a text, without what says their language.
fn blocks(text: &str) -> Vec<&str> {
    let marked = text.split("```").skip(1).step_by(2);
    marked.map(|block| block.split_once('\n').unwrap().1).collect()
}

#[test]
fn every_block_of_the_page_is_run() {
    let headings = PAGE.lines().filter_map(|line| line.strip_prefix("## "));
    let found: Vec<_> = headings.map(|heading| (heading, blocks(section(heading)).len())).collect();
    assert_eq!(found, [&BLOCKS[..], &[("From flock", 0)]].concat());
    assert_eq!(blocks(PAGE).len(), BLOCKS.map(|(_, count)| count).iter().sum::<usize>());
}

/// A store, and a directory with the programs that the recipes name.
struct Stage {
    store: TestStore,
}

impl Stage {
    fn new() -> Self {
        let store = TestStore::new();
        fs::create_dir(store.path("programs")).unwrap();
        fs::write(store.path("url"), store.url()).unwrap();
        Stage { store }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.store.path(file)
    }

    /// Makes a program for `/bin/sh`.
    fn program(&self, name: &str, script: &str) {
        let file = self.path("programs").join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The text with the addresses and the places of this stage.
    fn adapted(&self, text: &str) -> String {
        let [programs, url] = ["programs", "url"].map(|name| self.path(name).display().to_string());
        let mut text = text.to_owned();
        for (from, to) in [
            ("redis://10.0.0.7", self.store.url().as_str()),
            ("/etc/globallock/url", &url),
            ("/etc/globallock-secret/url", &url),
            ("/usr/local/bin/globallock", env!("CARGO_BIN_EXE_globallock")),
            ("/usr/local/bin", &programs),
            ("/var/lock", &self.path("").display().to_string()),
        ] {
            text = text.replace(from, to);
        }
        text
    }

    /// A program with an environment as short as that of cron, which finds `globallock` and the programs of
    /// this stage. It has no address of a store.
    fn bare(&self, program: &str) -> Command {
        let globallock = PathBuf::from(env!("CARGO_BIN_EXE_globallock"));
        let directories = [&self.path("programs"), globallock.parent().unwrap()];
        let path = directories.map(|directory| directory.display().to_string()).join(":");
        let mut command = Command::new(program);
        command.env_clear().env("PATH", format!("{path}:/usr/bin:/bin")).current_dir(self.path("programs"));
        command.env("HOME", self.path("")).env("LOGNAME", "root").env("SHELL", "/bin/sh");
        command
    }

    /// Holds a lock until the end of the returned run.
    fn holder(&self, name: &str) -> Running {
        let holder = self.store.start(&[name, "--", "sh", "-c", "echo ready; read _"]);
        holder.says("ready");
        holder
    }

    fn is_taken(&self, name: &str) -> bool {
        match self.store.run(&["--no-wait", name, "--", "true"]).status {
            Some(75) => true,
            Some(0) => false,
            status => panic!("{status:?}"),
        }
    }

    fn becomes_free(&self, name: &str) {
        assert_eq!(self.store.run(&["--wait", "30s", name, "--", "true"]).status, Some(0));
    }
}

/// Asserts how a command ended that has said nothing to standard error.
fn assert_ended(ended: &Ended, status: i32, output: &str) {
    let expected = (Some(status), output, "");
    assert_eq!((ended.status, ended.output.as_str(), ended.error.as_str()), expected);
}

/// The words of a line that has no quotes.
fn words(line: &str) -> Vec<&str> {
    assert!(!line.contains(['"', '\'', '\\', '$']), "{line}");
    line.split_whitespace().collect()
}

/// Runs to its end a program that needs no stage.
fn tool(program: &str, arguments: &[&str]) -> Ended {
    ended(Command::new(program).args(arguments))
}

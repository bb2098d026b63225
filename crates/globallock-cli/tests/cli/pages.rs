//! Help, completions and the manual.

use std::process::Command;

use crate::support::{TestStore, ended, globallock};

#[test]
fn the_help_of_run_has_usage_examples_and_exit_status() {
    let help = ended(globallock().args(["run", "--help"])).output;
    for text in [
        "Usage: globallock run [OPTIONS] <NAME> -- <COMMAND>...",
        "GLOBALLOCK_FENCING_TOKEN",
        "Examples:",
        "Exit status:",
        "75  the lock was not to be had",
        "--conflict-exit-code",
    ] {
        assert!(help.contains(text), "{text}: {help}");
    }
    let short = ended(globallock().args(["run", "-h"])).output;
    assert!(short.lines().count() < 40, "{short}");
}

#[test]
fn the_examples_of_the_help_work() {
    let help = ended(globallock().args(["run", "--help"])).output;
    let examples: Vec<&str> = help.lines().filter(|line| line.contains("globallock run ")).collect();
    let store = TestStore::new();
    assert!(examples.len() >= 4);
    for example in examples.into_iter().filter(|line| line.starts_with("    ")) {
        // Each example runs unchanged, except that the store and the command are replaced by existing ones.
        let (mut options, command) = example.trim().split_once(" -- ").unwrap();
        assert!(command.starts_with("./"));
        if let Some((_, rest)) = options.split_once("globallock run ") {
            options = rest;
        }
        let words = options.split(' ').map(|word| match word {
            "redis://10.0.0.7" => store.url(),
            word => word.to_owned(),
        });
        let mut run = store.command();
        let ended = ended(run.arg("run").args(words).args(["--", "true"]));
        assert_eq!(ended.status, Some(0), "{example}: {}", ended.error);
    }
}

#[test]
fn completions_are_made_for_the_shells() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let made = ended(globallock().args(["completions", shell]));
        assert_eq!(made.status, Some(0));
        assert!(made.output.contains("conflict-exit-code"), "{shell}");
    }
    let store = TestStore::new();
    let file = store.path("completion.bash");
    std::fs::write(&file, ended(globallock().args(["completions", "bash"])).output).unwrap();
    let script = format!(
        "set -eu; source {}; COMP_WORDS=(globallock run --max); COMP_CWORD=2; \
         _globallock globallock --max run; echo ${{COMPREPLY[@]}}",
        file.display()
    );
    let completed = ended(Command::new("bash").args(["-c", &script]));
    assert_eq!(completed.output.trim(), "--max-hold", "{}", completed.error);
}

#[test]
fn the_manual_is_readable() {
    let store = TestStore::new();
    let file = store.path("globallock.1");
    std::fs::write(&file, ended(globallock().arg("man")).output).unwrap();
    let mut man = Command::new("man");
    let shown =
        ended(man.args(["--warnings", "-E", "utf8", "-P", "cat", "-l"]).arg(&file).env("MANWIDTH", "100"));
    assert_eq!((shown.status, shown.error.as_str()), (Some(0), ""));
    for text in ["GLOBALLOCK_FENCING_TOKEN", "--max-hold", "Exit status:", "completions"] {
        assert!(shown.output.contains(text), "{text}: {}", shown.output);
    }
}

#[test]
fn the_version_is_printed() {
    let printed = ended(globallock().arg("--version"));
    assert_eq!(printed.output.trim(), format!("globallock {}", env!("CARGO_PKG_VERSION")));
}

/// The command lines of a document that run this program: of each, the arguments only.
fn lines_of(document: &str) -> Vec<String> {
    let line = |line: &str| {
        let line = line.split(" # ").next().unwrap_or_default().trim();
        let start = ["globallock run ", "cargo run --release -- run "]
            .iter()
            .find_map(|start| line.find(start).map(|position| position + start.len()))?;
        line.contains(" -- ").then(|| line[start..].to_owned())
    };
    document.lines().filter_map(line).collect()
}

#[test]
fn the_command_lines_of_the_documents_work() {
    let store = TestStore::new();
    let file = store.path("url");
    std::fs::write(&file, store.url()).unwrap();
    let documents = [include_str!("../../../../README.md"), include_str!("../../../../docs/run.md")];
    for (document, fewest) in documents.into_iter().zip([7, 6]) {
        let lines = lines_of(document);
        assert!(lines.len() >= fewest, "{lines:?}");
        for line in lines.iter().filter(|line| !line.starts_with('[')) {
            let (options, _) = line.rsplit_once(" -- ").unwrap();
            let options = options.trim_end_matches(" run nightly-report").trim_start_matches("run ");
            let words = options.split(' ').filter(|word| !word.is_empty()).map(|word| {
                if word.starts_with("redis://") {
                    store.url()
                } else if word.ends_with("/url") {
                    file.display().to_string()
                } else {
                    word.to_owned()
                }
            });
            let ended = ended(store.command().arg("run").args(words).args(["--", "true"]));
            assert_eq!(ended.status, Some(0), "{line}: {}", ended.error);
        }
    }
}

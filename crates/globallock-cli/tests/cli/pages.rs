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
    for verb in ["run", "ls", "inspect", "break", "status", "wait", "top"] {
        let short = ended(globallock().args([verb, "-h"])).output;
        assert!(short.lines().count() < 40, "{short}");
    }
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

/// The verbs, as the errors name them.
fn verbs() -> Vec<String> {
    let refused = ended(globallock().args(["man", "no-such-verb"]));
    assert_eq!((refused.status, refused.output.as_str()), (Some(64), ""));
    let (_, verbs) = refused.error.trim_end().split_once("the verbs are ").unwrap();
    verbs.split(", ").map(str::to_owned).collect()
}

/// A manual page as a person reads it. Fails if something is wrong with it.
fn shown(store: &TestStore, verb: Option<&str>) -> String {
    let file = store.path("page.1");
    std::fs::write(&file, ended(globallock().arg("man").args(verb)).output).unwrap();
    let mut man = Command::new("man");
    man.args(["--warnings", "-E", "utf8", "-P", "cat", "-l"]).arg(&file).env("MANWIDTH", "80");
    let shown = ended(&mut man);
    assert_eq!((shown.status, shown.error.as_str()), (Some(0), ""), "{verb:?}");
    let wrong = ended(Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(&file)).output;
    // It has no date so that it is the same every time, and these breaks are of the list of an option's
    // values.
    let known = ["missing date", "skipping paragraph macro: br "];
    let wrong: Vec<_> =
        wrong.lines().filter(|line| !known.iter().any(|known| line.contains(known))).collect();
    assert_eq!(wrong, [""; 0], "{verb:?}");
    // What `whatis` and `apropos` find.
    let name = verb.map_or("globallock".to_owned(), |verb| format!("globallock-{verb}"));
    let indexed = ended(Command::new("lexgrog").arg(&file)).output;
    assert!(indexed.contains(&format!("\"{name} - ")), "{indexed}");
    shown.output
}

#[test]
fn the_manual_has_a_page_for_the_program_and_for_each_verb() {
    let store = TestStore::new();
    let all = shown(&store, None);
    let verbs = verbs();
    assert!(verbs.len() >= 4 && verbs.contains(&"run".to_owned()) && verbs.contains(&"hold".to_owned()));
    let headings = |page: &str| {
        let headings =
            page.lines().filter(|line| line.starts_with(char::is_uppercase) && !line.contains('('));
        headings.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        headings(&all),
        [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "VERBS",
            "OPTIONS",
            "ENVIRONMENT",
            "FILES",
            "EXAMPLES",
            "SEE ALSO"
        ]
    );
    for verb in &verbs {
        let page = shown(&store, Some(verb));
        assert!(all.contains(&format!("globallock-{verb}(1)")) && page.contains("globallock(1)"), "{page}");
        let expected: &[&str] = match verb.as_str() {
            "completions" | "man" | "help" => &[],
            _ => &["EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES"],
        };
        let headings = headings(&page);
        assert_eq!(headings[..4], ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"], "{page}");
        assert!(expected.is_empty() || headings[4..8] == *expected, "{page}");
        assert_eq!(headings.last().unwrap(), "SEE ALSO");
    }
    let run = shown(&store, Some("run"));
    for text in [
        "globallock run [OPTIONS] <NAME> -- <COMMAND>...",
        "GLOBALLOCK_FENCING_TOKEN",
        "GLOBALLOCK_URL_FILE",
        "/etc/globallock/url",
        "--max-hold <TIME>",
        "75     the lock was not to be had",
        "    globallock run backup -- ./backup.sh",
    ] {
        assert!(run.contains(text), "{text}: {run}");
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
    // Those of the recipes have tests of their own.
    for (document, fewest) in [(include_str!("../../../../README.md"), 7)] {
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

//! Completions in the real shells: bash and zsh on a terminal, where keys are pressed, and fish by its own
//! question what may follow.

use std::fs;
use std::path::Path;
use std::process::Command;

use globallock_conformance::server::free_port;
use globallock_conformance::server::redis::Redis;

use crate::support::{Running, TestStore, ended, globallock};

/// Starts a zsh that starts a shell on a terminal, types each line with a tab, and then has the shell write
/// down what has become of the line. Arguments: the directory, the shell and its first line, the lines.
const TYPIST: &str = r#"
zmodload zsh/zpty
cd $1
zpty terminal $2
zpty -w terminal $3
while [[ ! -s lines ]]; do zpty -r -t terminal seen && said+=$seen; done
for line in "${@[4,-1]}"; do zpty -n -w terminal "$line"$'\t\x07'; done
zpty -w terminal exit
while zpty -r terminal seen; do said+=$seen; done
print -r -- $said
"#;

/// What each shell does first: it loads the completions, and the key that writes down the line.
const BASH: &str = r#"
PS1='$ '
show() { printf '%s\n' "$READLINE_LINE" >>lines; READLINE_LINE=; }
bind -x '"\C-g": show'
_inner() { COMPREPLY=(--only-of-inner); }
complete -F _inner inner
source completions
echo ready >lines
"#;
const ZSH: &str = r#"
PS1='$ '
fpath=($PWD/functions $fpath)
autoload -Uz compinit
compinit -D -u
_inner() { _arguments '--only-of-inner[an option]'; }
compdef _inner inner
show() { print -r -- "$BUFFER" >>lines; BUFFER=; }
zle -N show
bindkey '^G' show
echo ready >lines
"#;

/// What is typed, and what it becomes.
const LINES: [(&str, &str); 25] = [
    ("globallock ru", "globallock run "),
    ("globallock run night", "globallock run nightly "),
    ("globallock run --no-wait -E 3 --label x team:o", "globallock run --no-wait -E 3 --label x team:one "),
    ("globallock hold --background night", "globallock hold --background nightly "),
    ("globallock run with", r"globallock run with\ space "),
    ("globallock run --url file:OTHER els", "globallock run --url file:OTHER elsewhere "),
    ("globallock run --url=file:OTHER els", "globallock run --url=file:OTHER elsewhere "),
    ("globallock hold --loss-signal TER", "globallock hold --loss-signal TERM "),
    ("globallock hold -b --loss-signal HU", "globallock hold -b --loss-signal HUP "),
    ("globallock inspect night", "globallock inspect nightly "),
    ("globallock break --stale night", "globallock break --stale nightly "),
    ("globallock status -q team:o", "globallock status -q team:one "),
    ("globallock wait -w 5m night", "globallock wait -w 5m nightly "),
    ("globallock ls night", "globallock ls nightly "),
    ("globallock ls --sort ag", "globallock ls --sort age "),
    ("globallock ls -o wid", "globallock ls -o wide "),
    ("globallock man insp", "globallock man inspect "),
    ("globallock man ru", "globallock man run "),
    ("globallock man hol", "globallock man hold "),
    ("globallock completions zs", "globallock completions zsh "),
    ("globallock run --max-h", "globallock run --max-hold"),
    ("globallock run nightly --max-h", "globallock run nightly --max-hold"),
    ("globallock run nightly -- --max-h", "globallock run nightly -- --max-h"),
    ("globallock run nightly -- inne", "globallock run nightly -- inner "),
    ("globallock run nightly -- cat only-th", "globallock run nightly -- cat only-this "),
];

/// A store with locks that are held, a directory with a file, and `globallock` as the shells find it.
struct Desk {
    store: TestStore,
    _held: Vec<Running>,
}

impl Desk {
    fn new() -> Self {
        let store = TestStore::new();
        let other = store.path("other");
        fs::create_dir(store.path("functions")).unwrap();
        fs::write(store.path("only-this"), "").unwrap();
        // A program of which only these tests know, with completions of its own.
        fs::create_dir(store.path("programs")).unwrap();
        std::os::unix::fs::symlink("/bin/true", store.path("programs/inner")).unwrap();
        let other = format!("file:{}", other.display());
        let held = [("nightly", None), ("team:one", None), ("with space", None), ("elsewhere", Some(other))];
        let held = held.map(|(name, url)| {
            let mut command = store.command();
            command.args(["hold", name]).envs(url.map(|url| ("GLOBALLOCK_URL", url)));
            let hold = Running::start(&mut command);
            hold.says("");
            hold
        });
        Desk { store, _held: held.into() }
    }

    /// The completions of a shell, in this file.
    fn completions(&self, shell: &str, file: &str) {
        fs::write(self.store.path(file), ended(globallock().args(["completions", shell])).output).unwrap();
    }

    fn command(&self, program: &str) -> Command {
        let directory = Path::new(env!("CARGO_BIN_EXE_globallock")).parent().unwrap();
        let path = [directory, &self.store.path("programs")]
            .map(|directory| directory.display().to_string())
            .join(":");
        let path = format!("{path}:{}", std::env::var("PATH").unwrap());
        let mut command = Command::new(program);
        command.env("PATH", path).env("GLOBALLOCK_URL", self.store.url()).env("TERM", "dumb");
        // Histories and caches.
        command.env("HOME", self.store.path("")).current_dir(self.store.path(""));
        command.env_remove("GLOBALLOCK_URL_FILE").env_remove("ZDOTDIR");
        command
    }

    fn with_other(&self, text: &str) -> String {
        text.replace("OTHER", &self.store.path("other").display().to_string())
    }

    /// What becomes of lines that are typed in a shell, each with a tab.
    fn typed(&self, shell: &str, first: &str, lines: &[&str]) -> Vec<String> {
        fs::write(self.store.path("first"), first).unwrap();
        let mut zsh = self.command("zsh");
        zsh.args([
            "-f",
            "-c",
            TYPIST,
            "typist",
            self.store.path("").to_str().unwrap(),
            shell,
            "source ./first",
        ]);
        let typist = ended(zsh.args(lines.iter().map(|line| self.with_other(line))));
        let written = fs::read_to_string(self.store.path("lines")).unwrap_or_default();
        let mut written = written.lines().map(str::to_owned);
        assert_eq!(written.next().as_deref(), Some("ready"), "{typist:?}");
        let written: Vec<String> = written.collect();
        assert_eq!(written.len(), lines.len(), "{written:?} {typist:?}");
        written
    }

    fn checks(&self, shell: &str, first: &str) {
        let written = self.typed(shell, first, &LINES.map(|(line, _)| line));
        for ((typed, expected), written) in LINES.into_iter().zip(written) {
            // Some shells put the `=` of an option's value, and some a space.
            let written = if expected.ends_with("--max-hold") {
                written.trim_end_matches(['=', ' '])
            } else {
                &*written
            };
            assert_eq!(written, self.with_other(expected), "{shell} {typed}");
        }
    }
}

#[test]
fn bash_completes_names_options_and_commands() {
    let desk = Desk::new();
    desk.completions("bash", "completions");
    desk.checks("bash --norc --noprofile -i", BASH);
}

#[test]
fn bash_with_the_package_of_completions_completes_commands_by_their_own() {
    let desk = Desk::new();
    desk.completions("bash", "completions");
    let first = format!("source /usr/share/bash-completion/bash_completion\n{BASH}");
    desk.checks("bash --norc --noprofile -i", &first);
    let inner = "globallock run nightly -- inner --onl";
    let written = desk.typed("bash --norc --noprofile -i", &first, &[inner]);
    assert_eq!(written, ["globallock run nightly -- inner --only-of-inner "]);
}

#[test]
fn zsh_completes_names_options_and_commands() {
    let desk = Desk::new();
    desk.completions("zsh", "functions/_globallock");
    desk.checks("zsh -f -i", ZSH);
    let written = desk.typed("zsh -f -i", ZSH, &["globallock run nightly -- inner --onl"]);
    assert_eq!(written, ["globallock run nightly -- inner --only-of-inner "]);
}

#[test]
fn fish_completes_names_options_and_commands() {
    let desk = Desk::new();
    desk.completions("fish", "completions");
    let first = "source completions; complete -c inner -l only-of-inner;";
    let asked = |line: &str| {
        let script = format!("{first} complete -C '{}'", desk.with_other(line));
        let answer = ended(desk.command("fish").args(["--no-config", "-c", &script]));
        assert_eq!((answer.status, answer.error.as_str()), (Some(0), ""), "{line}");
        answer.output.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(asked("globallock run "), ["nightly", "team:one", "with space"]);
    for (typed, expected) in LINES {
        let expected = last_word(expected).trim_end();
        let answer = asked(typed);
        match typed.ends_with("-- --max-h") {
            true => assert_eq!(answer, [""; 0], "behind -- there are no options of globallock"),
            false => assert_eq!(answer, [expected], "{typed}"),
        }
    }
    assert_eq!(asked("globallock run nightly -- inner --onl"), ["--only-of-inner"]);
}

fn last_word(line: &str) -> &str {
    match line.contains("space") {
        true => "with space",
        false => line.trim_end().rsplit(' ').next().unwrap(),
    }
}

/// What the completions ask for.
fn names(command: &mut Command, words: &[&str]) -> Vec<String> {
    let answer = ended(command.args(["completions", "bash", "--"]).args(words));
    assert_eq!((answer.status, answer.error.as_str()), (Some(0), ""), "{words:?}");
    answer.output.lines().map(str::to_owned).collect()
}

#[test]
fn names_are_asked_for_where_there_may_be_one() {
    let desk = Desk::new();
    // It would be read as an option.
    let mut command = desk.store.command();
    let dash = Running::start(command.args(["hold", "--", "-dash"]));
    dash.says("");
    let names = |words: &[&str]| names(&mut desk.store.command(), words);
    for before in [
        &["run"][..],
        &["hold"],
        &["ls"],
        &["break", "--claim", "x"],
        &["run", "-n"],
        &["run", "-nE", "3"],
        &["run", "-w5s", "--lease=3s"],
    ] {
        assert_eq!(names(&[before, &["n"]].concat()), ["nightly"], "{before:?}");
        assert_eq!(names(&[before, &[""]].concat()).len(), 3, "{before:?}");
        assert_eq!(names(&[before, &["-"]].concat()).len(), 0, "{before:?}");
        assert_eq!(names(&[before, &["x", ""]].concat()).len(), 0, "{before:?}");
    }
    for nowhere in [
        &[""][..],
        &["man", ""],
        &["walk", ""],
        &["run", "-E", ""],
        &["run", "--url", ""],
        &["run", "--", ""],
    ] {
        assert_eq!(names(nowhere).len(), 0, "{nowhere:?}");
    }
}

#[test]
fn names_come_from_the_store_that_is_named_and_silently_from_none() {
    let server = Redis::start().unwrap();
    let mut command = globallock();
    let held = Running::start(command.args(["hold", "--url", &server.url(), "in redis"]));
    held.says("");
    let store = TestStore::new();
    fs::write(store.path("url"), server.url()).unwrap();
    let file = store.path("url").display().to_string();
    assert_eq!(names(&mut globallock(), &["run", "--url", &server.url(), ""]), ["in redis"]);
    assert_eq!(names(&mut globallock(), &["run", "--url-file", &file, "in"]), ["in redis"]);
    assert_eq!(names(globallock().env("GLOBALLOCK_URL", server.url()), &["run", "in r"]), ["in redis"]);
    let gone = format!("redis://127.0.0.1:{}", free_port());
    for url in [gone.as_str(), "ftp://h", "file:/dev/null/x"] {
        assert_eq!(names(&mut globallock(), &["run", "--url", url, ""]).len(), 0, "{url}");
    }
}

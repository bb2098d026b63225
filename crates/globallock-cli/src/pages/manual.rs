//! The manual pages: one of the program, and one for each verb, in the order of sections that readers know.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Result;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use crate::address::HOST_FILE;

/// What the program as a whole is, beyond its one sentence.
const PROGRAM: &str = "\
The lock lives in a store that all of its users reach: Redis, etcd or ZooKeeper between hosts, a directory \
on one host. Waiters are granted it in the order of asking. The lock of a host or process that has died is \
freed. Operators see who holds and waits for which lock, and can end what is stuck.

Each verb has a page of its own.";

/// Variables that are no defaults of options: for which verb, the name, and what it is.
const VARIABLES: [(&str, &str, &str); 8] = [
    ("run", "GLOBALLOCK_NAME", "In the environment of the command: the name of the lock."),
    (
        "run",
        "GLOBALLOCK_FENCING_TOKEN",
        "In the environment of the command: a number that rises with every grant of the lock. The command \
         sends it with what it writes, and the receiver refuses lower ones.",
    ),
    (
        "run",
        "GLOBALLOCK_HELD",
        "In the environment of the command: what is held around it, so that a run within a run of the same \
         lock ends at once instead of waiting for itself.",
    ),
    (
        "run",
        "GLOBALLOCK_URL_FILE",
        "In the environment of the command, if GLOBALLOCK_URL had a password: a file with the address that \
         is there while the lock is held, in place of GLOBALLOCK_URL.",
    ),
    ("ls", "NO_COLOR", PLAIN),
    ("inspect", "NO_COLOR", PLAIN),
    ("top", "NO_COLOR", PLAIN),
    (
        "break",
        "SUDO_USER",
        "Who is told to the owner and to the system's log besides the user of this program.",
    ),
];

const PLAIN: &str = "If it is set, there are no colours. They are for terminals in any case.";

const FILES: [(&str, &str); 2] = [
    (
        HOST_FILE,
        "The address of the store, for all users of the host, where no option and no variable gives one.",
    ),
    (
        "/tmp/globallock-UID",
        "The directory that the locks of the user with this number live in, where nothing gives an address.",
    ),
];

/// The page of a verb, or of the program; where there is no such verb, the names of those that there are.
pub(super) fn page(mut command: Command, verb: Option<&str>) -> std::result::Result<Result<Vec<u8>>, String> {
    command.build();
    let verbs = |command: &Command| -> Vec<String> {
        let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help");
        verbs.map(|verb| verb.get_name().to_owned()).collect()
    };
    let known = verbs(&command);
    match verb {
        None => Ok(of_program(&mut command, &known)),
        Some(verb) => match command.find_subcommand_mut(verb) {
            Some(found) if known.iter().any(|known| known == verb) => Ok(of_verb(found, verb, &known)),
            _ => Err(known.join(", ")),
        },
    }
}

fn of_program(command: &mut Command, verbs: &[String]) -> Result<Vec<u8>> {
    let mut page = Page::begin(command, "globallock")?;
    page.description(PROGRAM);
    page.section("VERBS");
    for verb in command.get_subcommands().filter(|verb| verbs.iter().any(|known| known == verb.get_name())) {
        page.item([bold(verb.get_name())], &about(verb));
    }
    page.options(command)?;
    let run = command.find_subcommand("run").cloned().unwrap_or_default();
    page.variables(&run);
    page.files(&run);
    page.examples(&run);
    page.end(verbs.iter().map(|verb| format!("globallock-{verb}")))
}

fn of_verb(verb: &mut Command, name: &str, verbs: &[String]) -> Result<Vec<u8>> {
    let mut page = Page::begin(verb, &format!("globallock-{name}"))?;
    let long = verb.get_long_about().map(ToString::to_string);
    // Its first line is what the heading says.
    let long = long.as_deref().and_then(|long| long.split_once("\n\n")).map(|(_, long)| long.to_owned());
    page.description(&long.unwrap_or_else(|| about(verb)));
    page.options(verb)?;
    page.statuses(verb);
    page.variables(verb);
    page.files(verb);
    page.examples(verb);
    let others = verbs.iter().filter(|other| *other != name).map(|other| format!("globallock-{other}"));
    page.end(std::iter::once("globallock".to_owned()).chain(others))
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

/// The text below the help.
fn below(command: &Command) -> String {
    command.get_after_long_help().map(ToString::to_string).unwrap_or_default()
}

/// A section of a text below a help: each begins with a line of its own that ends with a colon.
fn section_of<'a>(more: &'a str, heading: &str) -> Option<&'a str> {
    let begin = format!("{heading}:\n");
    let at = match more.strip_prefix(begin.as_str()) {
        Some(_) => 0,
        None => more.find(&format!("\n{begin}"))? + 1,
    };
    let text = &more[at + begin.len()..];
    Some(text.split("\n\n").next().unwrap_or(text).trim_end())
}

/// A page that is being written.
struct Page {
    text: Vec<u8>,
    roff: Roff,
}

impl Page {
    fn begin(command: &mut Command, name: &str) -> Result<Self> {
        let mut page = Page { text: Vec::new(), roff: Roff::new() };
        // The same page every time, so without a date.
        let version = concat!("globallock ", env!("CARGO_PKG_VERSION"));
        page.roff.control("TH", [name.to_uppercase().as_str(), "1", "\"\"", version]);
        // No hyphenation and no justification: names of options and variables must not be broken.
        page.roff.control("nh", []).control("ad", ["l"]);
        page.section("NAME");
        let about = about(command);
        page.roff.text([roman(format!("{name} - {}", about.trim_end_matches('.')))]);
        page.section("SYNOPSIS");
        let usage = command.render_usage().to_string();
        page.roff.text([bold(usage.trim_start_matches("Usage: ").trim_end())]);
        Ok(page)
    }

    fn section(&mut self, heading: &str) {
        self.roff.control("SH", [heading]);
    }

    fn item(&mut self, heading: impl Into<Vec<Inline>>, text: &str) {
        self.roff.control("TP", []).text(heading).text([roman(text)]);
    }

    fn description(&mut self, text: &str) {
        self.section("DESCRIPTION");
        for (index, paragraph) in text.split("\n\n").enumerate() {
            if index > 0 {
                self.roff.control("PP", []);
            }
            self.roff.text([roman(paragraph)]);
        }
    }

    fn options(&mut self, command: &Command) -> Result<()> {
        self.flush()?;
        Man::new(command.clone()).render_options_section(&mut self.text)
    }

    fn flush(&mut self) -> Result<()> {
        std::mem::take(&mut self.roff).to_writer(&mut self.text)
    }

    /// The examples of the text below the help, as they stand there.
    fn examples(&mut self, command: &Command) {
        if let Some(text) = section_of(&below(command), "Examples") {
            self.section("EXAMPLES");
            self.roff.control("nf", []).text([roman(text)]).control("fi", []);
        }
    }

    /// The exit statuses of the text below the help, which may have to fit into narrower lines.
    fn statuses(&mut self, command: &Command) {
        let below = below(command);
        let Some(text) = section_of(&below, "Exit status") else { return };
        self.section("EXIT STATUS");
        for line in text.lines().map(str::trim) {
            match line
                .split_once("  ")
                .filter(|(status, _)| status.starts_with(|at: char| at.is_ascii_digit()))
            {
                Some((status, text)) => self.item([bold(status)], text),
                None => drop(self.roff.text([roman(line)])),
            }
        }
    }

    fn variables(&mut self, command: &Command) {
        let mut all: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for option in command.get_arguments() {
            if let (Some(long), Some(name)) = (option.get_long(), option.get_env().and_then(OsStr::to_str)) {
                all.entry(name).or_default().push(format!("The default of --{long}."));
            }
        }
        for (_, name, text) in VARIABLES.into_iter().filter(|(verb, ..)| *verb == command.get_name()) {
            all.entry(name).or_default().push(text.to_owned());
        }
        if !all.is_empty() {
            self.section("ENVIRONMENT");
        }
        for (name, texts) in all {
            self.item([bold(name)], &texts.join(" "));
        }
    }

    fn files(&mut self, command: &Command) {
        if command.get_arguments().any(|argument| argument.get_id() == "url") {
            self.section("FILES");
            for (file, text) in FILES {
                self.item([italic(file)], text);
            }
        }
    }

    fn end(mut self, others: impl Iterator<Item = String>) -> Result<Vec<u8>> {
        self.section("SEE ALSO");
        let mut line = Vec::new();
        for (index, other) in others.enumerate() {
            if index > 0 {
                line.push(roman(", "));
            }
            line.extend([bold(other), roman("(1)")]);
        }
        self.roff.text(line);
        self.flush()?;
        Ok(self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use globallock::Schemes;

    #[test]
    fn a_text_below_a_help_is_cut_into_its_sections() {
        let more = "Examples:\n  a\n    b\n\nExit status:\n  that of the command\n   64  wrong\n";
        assert_eq!(section_of(more, "Examples"), Some("  a\n    b"));
        assert_eq!(section_of(more, "Exit status"), Some("  that of the command\n   64  wrong"));
        assert_eq!(section_of(more, "Files"), None);
        assert_eq!(section_of("", "Examples"), None);
    }

    #[test]
    fn every_verb_has_a_page_with_all_that_its_help_has() {
        let command = crate::arguments::command(&Schemes::default());
        let Err(verbs) = page(command.clone(), Some("walk")) else { panic!("there is no such verb") };
        assert!(page(command.clone(), Some("help")).is_err());
        let mut variables = 0;
        for verb in verbs.split(", ") {
            let page = String::from_utf8(page(command.clone(), Some(verb)).unwrap().unwrap()).unwrap();
            // How the format writes a hyphen.
            let page = page.replace("\\-", "-");
            let found = command.find_subcommand(verb).unwrap();
            for option in found.get_arguments().filter(|option| !option.is_hide_set()) {
                let long = option.get_long().map(|long| format!("--{long}")).unwrap_or_default();
                assert!(page.contains(&long), "{verb} {long}: {page}");
                if let Some(variable) = option.get_env() {
                    assert!(page.contains(&format!("\\fB{}\\fR\n", variable.to_str().unwrap())), "{page}");
                    variables += 1;
                }
            }
            let more = found.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            let page = words(&page.replace("\n.TP\n\\fB", " ").replace("\\fR\n", " "));
            for line in more.lines().filter(|line| line.starts_with(' ')) {
                let line = words(line).replace('\\', "\\\\").replace('\'', "\\*(Aq");
                assert!(page.contains(&line), "{line}: {page}");
            }
        }
        assert!(variables >= 4);
    }
}

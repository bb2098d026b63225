//! What this program says on standard error: lines that begin with `globallock: `, or JSON.
//!
//! It says what happens to the lock, and nothing of what the library's own parts do.

mod events;
mod outage;
mod status;

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use globallock::Guard;
use serde_json::{Map, Value};

pub(crate) use events::Told;
pub(crate) use status::Status;

/// How lines are written.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// Lines for people, with the name of this program in front
    #[default]
    Text,
    /// A JSON object a line
    Json,
}

/// How much a line matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// This program does not do what it was asked.
    Error,
    /// Somebody should look at this.
    #[default]
    Warning,
    /// For those who want to know what happens.
    Info,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Info => "info",
        }
    }
}

/// What is said, and how, in this process and those that it forks.
static LOG: Mutex<Log> =
    Mutex::new(Log { format: Format::Text, most: Level::Warning, name: None, status: None });

struct Log {
    format: Format,
    /// Lines that matter less are not said.
    most: Level,
    /// The lock that all lines are about.
    name: Option<String>,
    /// The line that is shown below the others and is not ended yet.
    status: Option<String>,
}

fn log() -> MutexGuard<'static, Log> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says from now on what matters so much, in this format, about this lock.
pub(crate) fn set(format: Format, most: Level, name: Option<&str>) {
    let mut log = log();
    (log.format, log.most, log.name) = (format, most, name.map(str::to_owned));
}

/// Whether lines of this level are said.
pub(crate) fn says(level: Level) -> bool {
    level <= log().most
}

/// Whether lines are for people.
pub(crate) fn is_text() -> bool {
    log().format == Format::Text
}

/// Whether lines go to a terminal.
pub(crate) fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// One line, which is said when it is complete.
#[must_use = "it is not said yet"]
pub(crate) struct Line {
    level: Level,
    event: &'static str,
    fields: Map<String, Value>,
}

/// A line about what keeps this program from doing what it was asked.
pub(crate) fn error(event: &'static str) -> Line {
    Line { level: Level::Error, event, fields: Map::new() }
}

/// A line that somebody should look at.
pub(crate) fn warning(event: &'static str) -> Line {
    Line { level: Level::Warning, ..error(event) }
}

/// A line for those who want to know what happens.
pub(crate) fn info(event: &'static str) -> Line {
    Line { level: Level::Info, ..error(event) }
}

/// Says that the lock is held, and in which store.
pub(crate) fn granted(guard: &Guard, store: &str) {
    let (name, token) = (guard.name(), guard.fencing_token());
    info("granted")
        .with("fencing_token", token)
        .with("store", store)
        .say(format_args!("{name} is granted, fencing token {token}; store {store}"));
}

impl Line {
    /// Adds what programs read, which JSON shows beside the text.
    pub(crate) fn with(mut self, field: &'static str, value: impl Into<Value>) -> Self {
        self.fields.insert(field.to_owned(), value.into());
        self
    }

    /// Makes it matter more where somebody sits in front of a terminal.
    pub(crate) fn more_on_a_terminal(self) -> Self {
        if is_terminal() { Line { level: self.level.min(Level::Warning), ..self } } else { self }
    }

    /// Says it. A failure to write is ignored, because the lock and its command matter more than a line.
    pub(crate) fn say(self, text: impl Display) {
        let mut log = log();
        if self.level > log.most {
            return;
        }
        let line = match log.format {
            Format::Text => format!("globallock: {text}"),
            Format::Json => self.json(log.name.as_deref(), &text.to_string()),
        };
        log.write(&line);
    }

    fn json(self, name: Option<&str>, text: &str) -> String {
        let mut object = Map::new();
        let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        for (field, value) in [
            ("time", Some(&*now)),
            ("level", Some(self.level.name())),
            ("event", Some(self.event)),
            ("name", name),
            ("message", Some(text)),
        ] {
            object.extend(value.map(|value| (field.to_owned(), value.into())));
        }
        object.extend(self.fields);
        Value::Object(object).to_string()
    }
}

impl Log {
    /// Writes a line above the status, in one piece, so that what others write comes before or after it.
    fn write(&mut self, line: &str) {
        let mut text = String::new();
        if self.status.is_some() {
            text += "\r\u{1b}[K";
        }
        text += line;
        text.push('\n');
        text += self.status.as_deref().unwrap_or_default();
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    /// Shows this line below all others, or none any more.
    fn show(&mut self, status: Option<String>) {
        if self.status != status {
            let old = std::mem::replace(&mut self.status, status);
            let erase = if old.is_some() { "\r\u{1b}[K" } else { "" };
            let text = format!("{erase}{}", self.status.as_deref().unwrap_or_default());
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_what_people_read_and_what_programs_do() {
        let line = warning("lost").with("fencing_token", 7).with("age", 1.5);
        let line: Value = serde_json::from_str(&line.json(Some("a\"\n"), "it is lost")).unwrap();
        let time = line["time"].as_str().unwrap();
        assert!(humantime::parse_rfc3339(time).unwrap() <= SystemTime::now() && time.len() == 24, "{time}");
        for (field, value) in [
            ("level", "warning".into()),
            ("event", "lost".into()),
            ("name", "a\"\n".into()),
            ("message", "it is lost".into()),
            ("fencing_token", 7.into()),
            ("age", Value::from(1.5)),
        ] {
            assert_eq!(line[field], value, "{field}");
        }
    }
}

//! The names of locks, for completions.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{Result, Write};
use std::path::Path;
use std::time::Duration;

use clap::{Arg, Args, Command, FromArgMatches};
use futures_util::StreamExt;
use globallock::{LockManager, ManagerOptions, Schemes};
use tokio::time::timeout;

use crate::address::{Address, HOST_FILE, Sources};
use crate::arguments::Store;

/// A person waits for them.
const LIMIT: Duration = Duration::from_secs(1);
/// More than anybody reads.
const MOST: usize = 1000;

/// Prints the names that the last of these words may become, where it is the name of a lock. Errors are
/// silent: a person who presses a key has not asked for anything yet.
pub(super) fn print(schemes: &Schemes, command: &Command, words: &[OsString]) -> Result<()> {
    let Some(asked) = Asked::of(command, words) else { return Ok(()) };
    let names = asked.names(schemes).unwrap_or_default();
    let lines: String = names.into_iter().map(|name| name + "\n").collect();
    std::io::stdout().write_all(lines.as_bytes())
}

/// What is to be completed.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    prefix: String,
    /// The options that say which store it is.
    store: Vec<OsString>,
}

impl Asked {
    /// Returns none where the last word is no name of a lock.
    fn of(command: &Command, words: &[OsString]) -> Option<Self> {
        let [verb, between @ .., last] = words else { return None };
        let verb = command.find_subcommand(verb)?;
        verb.get_positionals()
            .next()
            .filter(|first| ["name", "prefix"].contains(&first.get_id().as_str()))?;
        let mut store = Vec::new();
        let mut between = between.iter();
        while let Some(word) = between.next() {
            // A positional argument is the name, and behind it there is no other.
            let (option, value) = option(verb, word.to_str()?)?;
            if !option.get_action().takes_values() {
                continue;
            }
            let value = value.map_or_else(|| between.next().cloned(), |value| Some(value.into()))?;
            if let Some(long) = option.get_long().filter(|long| ["url", "url-file"].contains(long)) {
                store.extend([format!("--{long}").into(), value]);
            }
        }
        let prefix = last.to_str()?.to_owned();
        // No store is asked while somebody types options.
        (!prefix.starts_with('-')).then_some(Asked { prefix, store })
    }

    fn names(&self, schemes: &Schemes) -> Option<BTreeSet<String>> {
        let words = [OsStr::new("globallock")].into_iter().chain(self.store.iter().map(OsString::as_os_str));
        let matches = Store::augment_args(Command::new("globallock")).try_get_matches_from(words).ok()?;
        let store = Store::from_arg_matches(&matches).ok()?;
        let address = Address::choose(&store, Sources::of(&matches), Path::new(HOST_FILE)).ok()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let mut names = BTreeSet::new();
        let listed = runtime.block_on(async {
            let manager = LockManager::connect_lazy_by(schemes, &address.url, ManagerOptions::new()).ok()?;
            let mut list = manager.list(&self.prefix);
            // What has come until then is better than nothing.
            let _ = timeout(LIMIT, async {
                while names.len() < MOST
                    && let Some(Ok(summary)) = list.next().await
                {
                    let name = summary.name.as_str();
                    // One a line, and none that would be read as an option.
                    if !name.contains(char::is_control) && !name.starts_with('-') {
                        names.insert(name.to_owned());
                    }
                }
            })
            .await;
            Some(())
        });
        runtime.shutdown_background();
        listed.map(|()| names)
    }
}

/// The option that a word begins with, and the value in the same word. None where it is no known option.
fn option<'a>(verb: &'a Command, word: &'a str) -> Option<(&'a Arg, Option<&'a str>)> {
    if let Some(long) = word.strip_prefix("--") {
        let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
        return Some((verb.get_arguments().find(|option| option.get_long() == Some(name))?, value));
    }
    let mut letters = word.strip_prefix('-')?.chars();
    loop {
        let letter = letters.next()?;
        let option = verb.get_arguments().find(|option| option.get_short() == Some(letter))?;
        let rest = letters.as_str();
        if option.get_action().takes_values() || rest.is_empty() {
            return Some((option, Some(rest).filter(|rest| !rest.is_empty())));
        }
    }
}

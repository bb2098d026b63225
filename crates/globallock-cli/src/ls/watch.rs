//! What changes about the locks of a store, as it changes.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::SystemTime;

use globallock::{Error, LockManager};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use crate::exit::Failure;
use crate::onlook::away::Away;
use crate::onlook::board::Board;
use crate::onlook::rows::LockRow;
use crate::onlook::text::{json_line, print, shown};

use super::lines::holders;
use super::{Ls, Output};

/// What has happened to a lock, as programs read it.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct ChangeRow {
    /// When that was seen, by the clock of this host.
    time: String,
    change: What,
    name: String,
    /// The lock as `-o json` has it; null where it has no claims any more.
    lock: Option<LockRow>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum What {
    /// It is shown from now on.
    Listed,
    /// It has another holder, or other waiters.
    Changed,
    /// What was asked for is not so any more.
    Unlisted,
    /// It has no claims any more.
    Removed,
}

/// Prints changes until nobody reads them any more.
pub(super) async fn watch(manager: &LockManager, arguments: &Ls) -> Result<u8, Failure> {
    let mut board = Board::default();
    let mut known = BTreeMap::new();
    let mut away = Away::default();
    loop {
        board.look(manager, &arguments.prefix).await;
        let now = board.shown_by(manager, &arguments.filter).await;
        if let Some(error) = take_useless(&mut board) {
            return Err(error.into());
        }
        away.tell(board.failure(), board.age());
        let changes = changes(&mut known, now, |name| board.row(name));
        let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let mut text = String::new();
        for (change, name, lock) in changes {
            text += &ChangeRow { time: time.clone(), change, name, lock }.line(arguments.output);
        }
        if !print(&text)? || !is_read() {
            return Ok(0);
        }
        tokio::time::sleep(arguments.interval).await;
    }
}

/// What waiting does not mend, before any look has told anything.
fn take_useless(board: &mut Board) -> Option<Error> {
    let has_told = board.age().is_some() || board.rows().next().is_some();
    board.failure().filter(|error| !has_told && !error.is_retryable())?;
    board.take_failure()
}

/// What has changed since the last call, by name; `found` is what is to be shown now, and `row` tells what is
/// known of a name that is not.
fn changes(
    known: &mut BTreeMap<String, LockRow>,
    found: impl IntoIterator<Item = LockRow>,
    row: impl Fn(&str) -> Option<LockRow>,
) -> Vec<(What, String, Option<LockRow>)> {
    let mut before = std::mem::take(known);
    let mut changes = Vec::new();
    for lock in found {
        let (name, timeless) = (lock.name.clone(), lock.timeless());
        match before.remove(&name) {
            None => changes.push((What::Listed, name.clone(), Some(lock))),
            Some(before) if before != timeless => changes.push((What::Changed, name.clone(), Some(lock))),
            Some(_) => {}
        }
        known.insert(name, timeless);
    }
    for name in before.into_keys() {
        match row(&name) {
            Some(lock) => changes.push((What::Unlisted, name, Some(lock))),
            None => changes.push((What::Removed, name, None)),
        }
    }
    changes.sort_by(|one, other| one.1.cmp(&other.1));
    changes
}

impl ChangeRow {
    fn line(&self, output: Output) -> String {
        let name = shown(&self.name);
        match (output, &self.lock) {
            (Output::Json, _) => json_line(self),
            (Output::Name, _) => format!("{name}\n"),
            (_, None) => format!("{} {name} free\n", self.time),
            (_, Some(lock)) => {
                let held = match lock.holders {
                    0 => ", held by nobody".to_owned(),
                    _ => format!(", held by {}", holders(lock)),
                };
                let waits = match lock.waiters {
                    0 => String::new(),
                    waiters => format!(", waiting {waiters}"),
                };
                let stale = if lock.stale == Some(true) { ", stale" } else { "" };
                let unlisted = if self.change == What::Unlisted { ", not listed any more" } else { "" };
                let more = if output == Output::Wide { more(lock) } else { String::new() };
                format!("{} {name} {}{held}{waits}{stale}{more}{unlisted}\n", self.time, lock.mode)
            }
        }
    }
}

/// What `-o wide` adds.
fn more(lock: &LockRow) -> String {
    let Some(holder) = &lock.holder else { return String::new() };
    let token = holder.fencing_token.map(|token| format!(", fencing token {token}")).unwrap_or_default();
    format!("{token}, claim {}", shown(&holder.claim))
}

/// Whether there is still a reader of standard output, where that can be known without writing.
fn is_read() -> bool {
    let output = std::io::stdout();
    let mut polled = [PollFd::new(output.as_fd(), PollFlags::empty())];
    let _ = poll(&mut polled, PollTimeout::ZERO);
    polled[0].revents().is_none_or(|events| !events.intersects(PollFlags::POLLERR | PollFlags::POLLHUP))
}

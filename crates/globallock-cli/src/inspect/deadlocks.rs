//! The deadlocks that a lock is part of.

use globallock::{LockManager, Name, Result};

use crate::onlook::rows::WaitRow;

/// Finds them over all names of the store.
pub(super) async fn find(manager: &LockManager, name: &Name) -> Result<Vec<Vec<WaitRow>>> {
    let mut deadlocks = WaitRow::deadlocks(&manager.waits("").await?);
    deadlocks.retain(|deadlock| deadlock.iter().any(|wait| wait.name == name.as_str()));
    Ok(deadlocks)
}

/// The deadlocks for people.
pub(super) fn lines(deadlocks: Option<&[Vec<WaitRow>]>) -> String {
    let mut text = String::new();
    for deadlock in deadlocks.unwrap_or_default() {
        text += "\nDeadlock: each of these waits for the next, and the last for the first:\n";
        for wait in deadlock {
            let has = if wait.held { "held by" } else { "behind" };
            let name = Name::new(&wait.name).map(|name| name.to_string()).unwrap_or_default();
            text += &format!("  {} waits for {name}, {has} {}\n", wait.waiter, wait.blocker);
        }
    }
    if !text.is_empty() {
        text += "One of them must give up: end it, or break its claim (globallock break).\n";
    }
    text
}

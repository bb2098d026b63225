//! The deadlocks that a lock is part of.

use std::collections::{HashMap, HashSet};

use globallock::{Entry, EntryKey, LockManager, Name, Result, Wait};

use crate::onlook::rows::WaitRow;

/// Finds them over all names of the store.
pub(super) async fn find(manager: &LockManager, name: &Name) -> Result<Vec<Vec<WaitRow>>> {
    let graph = manager.waits("").await?;
    let mut found = Vec::new();
    for cycle in graph.cycles().iter().filter(|cycle| cycle.iter().any(|wait| wait.name == *name)) {
        if is_still_so(manager, cycle).await? {
            found.push(cycle.iter().map(WaitRow::from).collect());
        }
    }
    Ok(found)
}

/// Whether all these waits, which were seen one after the other, were there at one time.
///
/// A claim that has left its queue never comes back. So claims that were seen before and are there still have
/// been there all the time, and what waits still has waited all the time.
async fn is_still_so(manager: &LockManager, cycle: &[Wait]) -> Result<bool> {
    let names: HashSet<&Name> = cycle.iter().map(|wait| &wait.name).collect();
    let mut claims = HashMap::new();
    for name in names {
        claims.insert(name, held_and_waiting(&manager.inspect(name).await?));
    }
    Ok(cycle.iter().all(|wait| {
        let of_name = &claims[&wait.name];
        of_name.get(&wait.claim) == Some(&false) && of_name.contains_key(&wait.blocked_by)
    }))
}

fn held_and_waiting(queue: &[Entry]) -> HashMap<EntryKey, bool> {
    queue.iter().map(|entry| (entry.key.clone(), entry.held)).collect()
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

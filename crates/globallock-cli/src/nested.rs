//! Runs within runs, and within scripts that hold a lock: who asks again for a lock that is held around it
//! would wait for itself.

use std::process::Command;

use globallock::backend::ClaimId;
use globallock::queue::admit;
use globallock::{Entry, Name, Owner};
use nix::unistd::Pid;

use crate::processes::tree;

/// The variable in which a command finds what is held around it: for each lock the fencing token and the
/// process, as `inspect` shows them.
const HELD: &str = "GLOBALLOCK_HELD";

/// One lock that is held by a run around this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    fencing_token: u64,
    process: u32,
}

/// The locks that are held by the runs around this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Around(Vec<Held>);

/// Tells the command of the lock that is held around it, besides those that are held around this run.
pub(crate) fn tell(command: &mut Command, fencing_token: u64, process: Pid) {
    let mut held = std::env::var(HELD).unwrap_or_default();
    if !held.is_empty() {
        held.push(' ');
    }
    held += &format!("{fencing_token}@{process}");
    command.env(HELD, held);
}

impl Around {
    /// What the environment tells.
    pub(crate) fn read() -> Self {
        Around::parse(&std::env::var(HELD).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let held = |word: &str| {
            let (token, process) = word.split_once('@')?;
            Some(Held { fencing_token: token.parse().ok()?, process: process.parse().ok()? })
        };
        Around(text.split(' ').filter_map(held).collect())
    }

    pub(crate) fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }

    /// The holder around this run for which its claim waits, though that holder waits for this run.
    pub(crate) fn blocks<'a>(&self, queue: &'a [Entry], own: ClaimId) -> Option<&'a Entry> {
        blocks(queue, own, |entry| {
            self.0.iter().any(|held| {
                held.fencing_token == entry.fencing_token && Some(held.process) == entry.owner.pid
            })
        })
    }
}

/// A process of `hold` on this host that may hold the lock for a script that this process is a part of.
///
/// It cannot tell its script what it holds, as a run tells its command. But others are shown the process that
/// it holds the lock for. Numbers of processes are those of a container, and several containers may have the
/// name of one host, so that they count only where there is a `hold` to be seen.
pub(crate) struct Script {
    /// The processes above this one.
    above: Vec<Pid>,
    host: String,
}

impl Script {
    /// Looks for a `hold` of this lock; none if nobody on this host has started one.
    pub(crate) fn with_hold(name: &Name) -> Option<Self> {
        let above = tree::above();
        let is_hold = |id: Pid| {
            // This process and its front wait for the lock themselves.
            let [_, verb, rest @ ..] = &tree::words(id)[..] else { return false };
            verb == "hold" && rest.iter().any(|word| word == name.as_str()) && !above.contains(&id)
        };
        let found = tree::all().into_iter().any(is_hold);
        found.then(|| Script { above, host: Owner::current().host })
    }

    /// The hold for a process above this one for which its claim waits, though that process may wait for this
    /// one.
    pub(crate) fn blocks<'a>(&self, queue: &'a [Entry], own: ClaimId) -> Option<&'a Entry> {
        blocks(queue, own, |entry| {
            let process = entry.owner.pid.and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
            entry.owner.host == self.host && process.is_some_and(|process| self.above.contains(&process))
        })
    }
}

/// The first holder around this process for which its claim waits.
///
/// Either both cannot hold together, or somebody between them in the queue cannot hold beside the holder.
fn blocks(queue: &[Entry], own: ClaimId, is_around: impl Fn(&Entry) -> bool) -> Option<&Entry> {
    let around: Vec<&Entry> = queue.iter().filter(|entry| entry.held && is_around(entry)).collect();
    let place = queue.iter().position(|entry| entry.id == Some(own))?;
    let permits: Vec<_> = around.iter().map(|entry| entry.permits).collect();
    let never = queue[..=place]
        .iter()
        .filter(|entry| !entry.held)
        .any(|waiter| admit(permits.iter().copied().chain([waiter.permits])) <= permits.len());
    around.first().copied().filter(|_| never)
}

#[cfg(test)]
mod tests {
    use super::*;
    use globallock::Owner;
    use globallock::backend::EntryKey;
    use globallock::queue::Permits;
    use proptest::prelude::*;

    const OWN: u64 = 9;
    const AROUND: u32 = 70;

    fn entry(number: u64, held: bool, permits: Permits, process: u32) -> Entry {
        let owner = Owner { pid: Some(process), ..Owner::default() };
        let mut entry = Entry::new(EntryKey::from(ClaimId::new(1, number)), held, permits, owner);
        entry.fencing_token = if held { number } else { 0 };
        entry
    }

    fn blocks(queue: &[Entry]) -> bool {
        let around = Around::parse("1@70");
        around.blocks(queue, ClaimId::new(1, OWN)).is_some_and(|entry| entry.owner.pid == Some(AROUND))
    }

    #[test]
    fn a_claim_that_the_holder_around_it_excludes_never_gets_the_lock() {
        use Permits as P;
        let of = |count| P::new(count, 3);
        for (around, between, own, expected) in [
            (P::MUTEX, None, P::MUTEX, true),
            (P::WRITE, None, P::READ, true),
            (P::READ, None, P::WRITE, true),
            (P::READ, None, P::READ, false),
            (P::READ, Some(P::WRITE), P::READ, true),
            (of(1), None, of(2), false),
            (of(1), None, of(3), true),
            (of(2), Some(of(2)), of(1), true),
            (of(1), Some(of(2)), of(1), false),
        ] {
            let mut queue = vec![entry(1, true, around, AROUND)];
            queue.extend(between.map(|between| entry(2, false, between, 7)));
            queue.push(entry(OWN, false, own, 8));
            assert_eq!(blocks(&queue), expected, "{queue:?}");
            queue[0].owner.pid = Some(AROUND + 1);
            assert!(!blocks(&queue), "another holder ends by itself");
        }
        assert!(!blocks(&[entry(1, true, P::MUTEX, AROUND)]), "this claim is not in the queue");
    }

    #[test]
    fn a_waiter_behind_blocks_nobody() {
        let queue = [
            entry(1, true, Permits::READ, AROUND),
            entry(OWN, false, Permits::READ, 8),
            entry(2, false, Permits::WRITE, 7),
        ];
        assert!(!blocks(&queue));
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in any::<String>(), word in "[0-9@ ]{0,30}") {
            let _ = Around::parse(&text);
            let _ = Around::parse(&word);
        }
    }
}

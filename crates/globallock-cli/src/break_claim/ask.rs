//! The questions on a terminal before a claim is broken.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use globallock::internals::duration::Shown;
use globallock::{Entry, Name};
use tokio::task::spawn_blocking;

use crate::exit::Failure;
use crate::inspect::queue;
use crate::onlook::rows::{ClaimRow, WaitRow};
use crate::onlook::table::Sheet;
use crate::onlook::text::shown;

use super::{Refused, Target};

/// How many claims are shown to choose from.
const MOST: usize = 100;

/// Whether there is somebody to be asked.
pub(super) fn can() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Shows the queue and asks which claim is to be broken. If there is only one, it is that.
pub(super) async fn which(entries: &[Entry], waiter: bool, name: &Name) -> Result<Refused<Entry>, Failure> {
    let shown = &entries[..entries.len().min(MOST)];
    let may_be = |index: usize| shown[index].held || waiter;
    let choices: Vec<usize> = (0..shown.len()).filter(|index| may_be(*index)).collect();
    let table = queue::table(&ClaimRow::queue(shown, Duration::ZERO), &WaitRow::of_queue(name, shown));
    let more = match entries.len() - shown.len() {
        0 => String::new(),
        more => format!("and {more} more\n"),
    };
    say(&(table.numbered(may_be).drawn(Sheet::of_errors()) + &more))?;
    let chosen = match &choices[..] {
        [] => return Ok(Err("nobody holds it; --waiter takes a waiter out of the queue".to_owned())),
        [only] => Some(*only),
        _ => {
            say("Which one? Type its number: ")?;
            let number: Option<usize> = answer().await?.parse().ok();
            number.and_then(|number| number.checked_sub(1)).filter(|index| choices.contains(index))
        }
    };
    Ok(chosen.map(|index| shown[index].clone()).ok_or_else(|| "no claim was chosen".to_owned()))
}

/// Tells what is about to be broken, and asks whether that is meant.
pub(super) async fn confirms(target: &Target<'_>, store: &str) -> Result<bool, Failure> {
    say(&question(target, store))?;
    let answer = answer().await?;
    Ok(["y", "yes", target.name.as_str()].contains(&&*answer))
}

/// Tells that the claim that was asked about has become another thing to break.
pub(super) fn tells_of_the_grant() -> std::io::Result<()> {
    say("It has been granted the lock meanwhile, and holds it now. Nothing is broken yet.\n")
}

fn question(target: &Target<'_>, store: &str) -> String {
    let Target { name, entry, queue } = target;
    let row = ClaimRow::new(entry, Duration::ZERO);
    let unknown = || "unknown".to_owned();
    let process = match (row.pid, &row.host) {
        (Some(pid), Some(host)) => format!("{pid} on {}", shown(host)),
        (Some(pid), None) => pid.to_string(),
        (None, Some(host)) => format!("on {}", shown(host)),
        (None, None) => unknown(),
    };
    let age = entry.age.map_or_else(unknown, |age| Shown(age).to_string());
    let lease = entry.expires_in.map(|left| format!(", lease left {}", Shown(left))).unwrap_or_default();
    let waiters: Vec<&Entry> = queue.iter().filter(|other| !other.held && other.key != entry.key).collect();
    let waiting = match waiters.first() {
        None => "nobody".to_owned(),
        Some(first) => {
            let since = first.age.map(|age| format!(", for {}", Shown(age))).unwrap_or_default();
            let first = ClaimRow::new(first, Duration::ZERO).who();
            format!("{}, first {first}{since}", waiters.len())
        }
    };
    let token = row.fencing_token.map(|token| format!(", fencing token {token}")).unwrap_or_default();
    let label = row.label.as_deref().map_or_else(unknown, shown);
    let (what, since) =
        if entry.held { ("broken", "held for") } else { ("taken out of the queue", "waits since") };
    let owner = match row.foreign {
        true => {
            "It belongs to another program, which is not told and goes on until it looks at its lock itself."
        }
        false => "Its owner is told who did it and why. It may go on until it has heard of that.",
    };
    format!(
        "This claim of {name} in {store} is about to be {what}:\n  \
           label     {label}\n  \
           process   {process}\n  \
           {since:<9} {age}{lease}\n  \
           waiting   {waiting}\n  \
           claim     {}{token}\n\
         {owner}\n\
         Type y, or the name of the lock, to go on: ",
        entry.key
    )
}

/// The line that somebody types; empty at the end of the input.
async fn answer() -> Result<String, Failure> {
    let line = spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    let line = line.await.map_err(std::io::Error::other)??;
    Ok(line.trim().to_owned())
}

fn say(text: &str) -> std::io::Result<()> {
    let mut errors = std::io::stderr().lock();
    errors.write_all(text.as_bytes())?;
    errors.flush()
}

#[cfg(test)]
mod tests {
    use globallock::queue::Permits;
    use globallock::{EntryKey, Owner};

    use super::*;

    #[test]
    fn the_question_has_all_that_is_known_and_nothing_that_a_terminal_obeys() {
        let name = Name::new("nightly\u{1b}").unwrap();
        let owner =
            Owner { host: "db1\u{7}".into(), pid: Some(312), label: Some("report\n\u{202e}.sh".into()) };
        let mut entry = Entry::new(EntryKey::new("00c1"), true, Permits::MUTEX, owner.clone());
        entry.id = globallock::backend::ClaimId::parse("00000000000000000001000000000002");
        (entry.age, entry.fencing_token) = (Some(Duration::from_secs(7800)), 42);
        entry.expires_in = Some(Duration::from_secs(9));
        let mut waits = Entry::new(EntryKey::new("00c2"), false, Permits::MUTEX, owner);
        waits.age = Some(Duration::from_secs(12));
        let target = Target { name: &name, entry: entry.clone(), queue: vec![entry, waits] };
        assert_eq!(
            question(&target, "redis://db"),
            "This claim of \"nightly\\u{1b}\" in redis://db is about to be broken:\n  \
               label     report\\n\\u{202e}.sh\n  \
               process   312 on db1\\u{7}\n  \
               held for  2 h 10 min, lease left 9 s\n  \
               waiting   1, first report\\n\\u{202e}.sh (pid 312 on db1\\u{7}) (foreign), for 12 s\n  \
               claim     00c1, fencing token 42\n\
             Its owner is told who did it and why. It may go on until it has heard of that.\n\
             Type y, or the name of the lock, to go on: "
        );
        let foreign = Entry::new(EntryKey::new("x"), true, Permits::MUTEX, Owner::default());
        let target = Target { name: &name, entry: foreign.clone(), queue: vec![foreign] };
        let question = question(&target, "redis://db");
        assert!(
            question.contains("  process   unknown\n  held for  unknown\n  waiting   nobody\n"),
            "{question}"
        );
        assert!(question.contains("another program"), "{question}");
    }
}

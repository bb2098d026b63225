//! What is shown while the lock is waited for, and of whom it is waited for.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use globallock::backend::ClaimId;
use globallock::backend::Instant;
use globallock::internals::duration::Shown;
use globallock::internals::sleep_until_some;
use globallock::{Entry, LockManager, Name};
use serde_json::{Value, json};

use crate::exit::Failure;
use crate::log::{self, Line, Status, Told};
use crate::nested::{Around, Script};
use crate::processes::is_in_foreground;

/// How long a wait lasts before it is announced.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(300);
/// How often the queue is looked at in the first minute of a wait, and later.
const LOOKS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));
/// How often a line that tells for how long is drawn again.
const REDRAW: Duration = Duration::from_secs(1);
/// How many holders are named.
const NAMED: usize = 3;

/// A wait for a lock, as its user sees it.
pub(crate) struct Waiting<'a> {
    manager: &'a LockManager,
    name: &'a Name,
    told: &'a Arc<Told>,
    /// The process that the user has started.
    front: u32,
    around: Around,
    /// Whether it is still to be said if a script around this process holds the lock.
    warns: bool,
    announces: bool,
    status: Option<Status>,
    begun: Instant,
    /// When to look at the queue, if ever.
    look_at: Option<Instant>,
    redraw_at: Option<Instant>,
    seen: Option<Queue>,
    /// What was said of the queue last.
    said: Option<String>,
}

/// The queue of the lock at some moment.
#[derive(Clone, Debug, Default)]
struct Queue {
    at: Option<Instant>,
    holders: Vec<Holder>,
    waiters: usize,
    /// The own place among the waiters, from 1.
    place: Option<usize>,
}

#[derive(Clone, Debug)]
struct Holder {
    owner: globallock::Owner,
    age: Option<Duration>,
}

impl<'a> Waiting<'a> {
    /// Begins to show the wait of a process that the user has started, unless it is to be quiet.
    pub(crate) fn begin(
        manager: &'a LockManager,
        name: &'a Name,
        told: &'a Arc<Told>,
        (front, quiet): (u32, bool),
    ) -> Self {
        let status = Status::on_terminal().filter(|_| !quiet);
        let announces = log::says(log::Level::Info) || (log::is_terminal() && !quiet);
        let around = Around::read();
        let begun = Instant::now();
        let warns = log::says(log::Level::Warning);
        let looks = announces || warns || !around.is_nothing();
        let look_at = looks.then(|| begun + ANNOUNCE_AFTER);
        Waiting {
            manager,
            name,
            told,
            front,
            around,
            warns,
            announces,
            status,
            begun,
            look_at,
            redraw_at: None,
            seen: None,
            said: None,
        }
    }

    fn waited(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Waits until there is something to show, and shows it.
    ///
    /// # Errors
    /// When the lock is held by a run that this one is part of, so that the wait would not end.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn show(&mut self) -> Result<(), Failure> {
        sleep_until_some(self.look_at.into_iter().chain(self.redraw_at).min()).await;
        let now = Instant::now();
        if self.look_at.is_some_and(|at| at <= now) {
            let script = if self.warns { Script::with_hold(self.name) } else { None };
            let looks = self.announces || !self.around.is_nothing();
            // The queue is shown as a convenience. An error must not end the wait.
            if (looks || script.is_some())
                && let Ok(entries) = self.manager.inspect(self.name).await
            {
                self.look_around(&entries, script)?;
                self.seen = Some(Queue::of(&entries, self.told.claim()));
            }
            let pause = if self.waited() < Duration::from_secs(60) { LOOKS.0 } else { LOOKS.1 };
            self.look_at = looks.then(|| Instant::now() + pause);
        }
        if self.announces {
            self.draw();
        }
        Ok(())
    }

    /// Looks for a holder that waits for this process.
    fn look_around(&mut self, entries: &[Entry], script: Option<Script>) -> Result<(), Failure> {
        let (Some(own), name) = (self.told.claim(), self.name) else { return Ok(()) };
        if let Some(holder) = self.around.blocks(entries, own) {
            return Err(Failure::Usage(format!(
                "{name} is held by the run that this command is part of, {}, and would be waited for \
                 without end: take it once, or another name here",
                holder.owner
            )));
        }
        if let Some(Entry { owner, .. }) = script.and_then(|script| script.blocks(entries, own)) {
            // It may have started this process in the background, and end.
            self.warns = false;
            log::warning("held_around").with("process", owner.pid).say(format_args!(
                "{name} is held by globallock hold for {owner}, which has started this process: if it \
                 waits for this process, both wait without end; take the lock once, or another name here"
            ));
        }
        Ok(())
    }

    fn draw(&mut self) {
        let Some(queue) = &self.seen else { return };
        self.redraw_at = self.status.is_some().then(|| Instant::now() + REDRAW);
        match &self.status {
            Some(status) if is_in_foreground(self.front) => {
                let waited = Shown(Duration::from_secs(self.waited().as_secs().max(1)));
                let place = queue.place().map(|place| format!(", {place}")).unwrap_or_default();
                let held = queue.briefly().map(|held| format!(", {held}")).unwrap_or_default();
                status.show(&format!("waiting for {}, {waited}{place}{held}", self.name));
            }
            _ => {
                if let Some(status) = &self.status {
                    status.hide();
                }
                let who = queue.who();
                if self.said.as_ref() != Some(&who) {
                    let line = queue.in_json(log::info("waiting").more_on_a_terminal());
                    line.say(format_args!("waiting for {}{}", self.name, queue.described()));
                    self.said = Some(who);
                }
            }
        }
    }

    /// Says why a wait was in vain: the lock is taken, or was not granted in time.
    pub(crate) async fn refused(self, taken: bool) -> Failure {
        let name = self.name;
        let refused = match taken {
            true => "is taken".to_owned(),
            false => format!("was not granted within {}", Shown(self.waited())),
        };
        drop(self.status);
        let own = self.told.claim();
        let place = self.seen.as_ref().and_then(|seen| seen.place);
        let entries = self.manager.inspect(self.name).await.unwrap_or_default();
        let mut queue = Queue::of(&entries, own);
        // The claim has left the queue by now.
        if queue.place.is_none() && place.is_some() {
            queue.place = place;
            queue.waiters += 1;
        }
        queue.refusal(name, self.manager, &refused)
    }
}

/// The holders and how many wait, to be put behind what is said of the lock.
pub(crate) fn described(entries: &[Entry]) -> String {
    Queue::of(entries, None).described()
}

/// Who has the lock and how many wait, apart from times.
pub(crate) fn who(entries: &[Entry]) -> String {
    Queue::of(entries, None).who()
}

/// Says of a lock that it is not to be had: `what`, who holds it, and in which store.
pub(crate) fn refusal(name: &Name, manager: &LockManager, entries: &[Entry], what: &str) -> Failure {
    Queue::of(entries, None).refusal(name, manager, what)
}

impl Queue {
    fn of(entries: &[Entry], own: Option<ClaimId>) -> Self {
        let (holders, waiters): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(|entry| entry.held);
        let place = own.and_then(|own| waiters.iter().position(|waiter| waiter.id == Some(own)));
        Queue {
            at: Some(Instant::now()),
            holders: holders
                .into_iter()
                .map(|entry| Holder { owner: entry.owner.clone(), age: entry.age })
                .collect(),
            waiters: waiters.len(),
            place: place.map(|place| place + 1),
        }
    }

    fn refusal(&self, name: &Name, manager: &LockManager, what: &str) -> Failure {
        let store = manager.backend().address();
        let line = self.in_json(log::error("taken").with("store", store));
        Failure::Taken(line, format!("{name} {what}{}; store {store}", self.described()))
    }

    /// Who has the lock and where this run stands, apart from times.
    fn who(&self) -> String {
        let mut who = format!("{:?} {}", self.place, self.waiters);
        for holder in &self.holders {
            let _ = write!(who, " {}", holder.owner);
        }
        who
    }

    fn place(&self) -> Option<String> {
        self.place.map(|place| format!("place {place} of {}", self.waiters))
    }

    /// The holders, and for how long.
    fn held_by(&self) -> Option<String> {
        let since = self.at.map(|at| at.elapsed()).unwrap_or_default();
        let named: Vec<String> = self
            .holders
            .iter()
            .take(NAMED)
            .map(|holder| match holder.age {
                Some(age) => format!("{} for {}", holder.owner, Shown(age + since)),
                None => holder.owner.to_string(),
            })
            .collect();
        let more = match self.holders.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        (!named.is_empty()).then(|| format!("held by {}{more}", named.join(", ")))
    }

    /// The first holder, with what matters most in front, because the line may be cut.
    fn briefly(&self) -> Option<String> {
        let (Holder { owner, age }, more) = (self.holders.first()?, self.holders.len() - 1);
        let since = self.at.map(|at| at.elapsed()).unwrap_or_default();
        let whole = |age: Duration| Duration::from_secs((age + since).as_secs());
        let age = age.map(|age| format!(" for {}", Shown(whole(age)))).unwrap_or_default();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let who = globallock::Owner { label: None, ..owner.clone() };
        Some(match &owner.label {
            Some(label) => format!("held by {}{age}{more} ({who})", label.escape_debug()),
            None => format!("held by {who}{age}{more}"),
        })
    }

    /// The holders and the place in the queue, to be put behind what is said of the lock.
    fn described(&self) -> String {
        let mut text = self.held_by().map(|held| format!(", {held}")).unwrap_or_default();
        match (self.place(), self.waiters) {
            (Some(place), _) => text += &format!("; {place}"),
            (None, 0) => {}
            (None, 1) => text += "; one waits",
            (None, waiters) => text += &format!("; {waiters} wait"),
        }
        text
    }

    fn in_json(&self, line: Line) -> Line {
        let holders = self.holders.iter().map(|Holder { owner, age }| {
            json!({
                "host": owner.host,
                "pid": owner.pid,
                "label": owner.label,
                "held_seconds": age.map(|age| age.as_secs_f64()),
            })
        });
        let holders: Vec<Value> = holders.collect();
        line.with("place", self.place).with("waiters", self.waiters).with("holders", holders)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use globallock::Owner;
    use globallock::queue::Permits;

    fn entry(number: u64, held: bool, age: Option<u64>) -> Entry {
        let owner = Owner { host: "db1".into(), pid: Some(12), label: Some(format!("job{number}")) };
        let mut entry = Entry::new(ClaimId::new(1, number).into(), held, Permits::MUTEX, owner);
        entry.age = age.map(Duration::from_secs);
        entry
    }

    #[test]
    fn a_queue_is_described_by_who_holds_and_where_one_stands() {
        let own = Some(ClaimId::new(1, 3));
        let described = |entries: &[Entry], own| Queue::of(entries, own).described();
        let queue = [entry(1, true, Some(252)), entry(2, false, None), entry(3, false, None)];
        assert_eq!(described(&queue, own), ", held by job1 (pid 12 on db1) for 4 min 12 s; place 2 of 2");
        assert_eq!(described(&queue, None), ", held by job1 (pid 12 on db1) for 4 min 12 s; 2 wait");
        assert_eq!(described(&queue[..2], own), ", held by job1 (pid 12 on db1) for 4 min 12 s; one waits");
        assert_eq!(described(&[], own), "");
        let briefly = Queue::of(&queue, own).briefly();
        assert_eq!(briefly.as_deref(), Some("held by job1 for 4 min 12 s (pid 12 on db1)"));
        let many: Vec<Entry> = (4..9).map(|number| entry(number, true, None)).collect();
        let named = ["job4", "job5", "job6"].map(|job| format!("{job} (pid 12 on db1)")).join(", ");
        assert_eq!(described(&many, None), format!(", held by {named} and 2 more"));
    }
}

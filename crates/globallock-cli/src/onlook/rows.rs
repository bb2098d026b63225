//! Locks and claims as programs read them: the fields of `-o json`, and of the page's messages.
//!
//! Times are seconds as numbers. What the store does not know is null.

use std::time::Duration;

use globallock::queue::Permits;
use globallock::{Entry, LockKind, Name, Owner, Summary, Wait, WaitGraph};
use serde::Serialize;

use super::text::shown;

/// One name that has claims.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct LockRow {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) mode: Mode,
    /// How many claims hold, and how many wait.
    pub(crate) holders: usize,
    pub(crate) waiters: usize,
    /// The holder of the longest standing.
    pub(crate) holder: Option<ClaimRow>,
    pub(crate) oldest_wait_seconds: Option<f64>,
    /// Whether that holder has given no sign of life for half its lease or longer; null where that is not
    /// known yet, or there is no lease.
    pub(crate) stale: Option<bool>,
}

/// One claim in the queue of a name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ClaimRow {
    /// Which claim it is, for `break --claim`.
    pub(crate) claim: String,
    pub(crate) held: bool,
    /// The place among the waiters, from 1.
    pub(crate) place: Option<usize>,
    #[serde(flatten)]
    pub(crate) mode: Mode,
    /// None where nobody of ours holds it, or the store gives the token with the grant.
    pub(crate) fencing_token: Option<u64>,
    pub(crate) host: Option<String>,
    pub(crate) pid: Option<u32>,
    pub(crate) label: Option<String>,
    /// Whether another program made it.
    pub(crate) foreign: bool,
    /// Since when it is held, or has waited.
    pub(crate) age_seconds: Option<f64>,
    /// How long the store keeps it without another sign of life.
    pub(crate) lease_left_seconds: Option<f64>,
}

/// What kind of lock it is, and how much of it is taken or wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Mode {
    pub(crate) mode: &'static str,
    /// Of a semaphore.
    pub(crate) permits: Option<u32>,
    pub(crate) capacity: Option<u32>,
}

/// One owner waits for another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct WaitRow {
    pub(crate) name: String,
    pub(crate) waiter: String,
    pub(crate) claim: String,
    pub(crate) blocker: String,
    pub(crate) blocked_by: String,
    pub(crate) held: bool,
}

impl Mode {
    pub(crate) fn of(kind: LockKind) -> Self {
        let (mode, permits, capacity) = match kind {
            LockKind::Mutex => ("mutex", None, None),
            LockKind::Read => ("read", None, None),
            LockKind::Write => ("write", None, None),
            LockKind::Permits { count, capacity } => ("permits", Some(count), Some(capacity)),
            _ => ("unknown", None, None),
        };
        Mode { mode, permits, capacity }
    }
}

/// Writes `mutex`, `read`, `write`, or `2/5` for permits.
impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.permits, self.capacity) {
            (Some(permits), Some(capacity)) => f.pad(&format!("{permits}/{capacity}")),
            _ => f.pad(self.mode),
        }
    }
}

impl From<Permits> for Mode {
    fn from(permits: Permits) -> Self {
        Mode::of(LockKind::of(permits))
    }
}

fn seconds(time: Option<Duration>) -> Option<f64> {
    // A microsecond is enough for everybody, and easier to read.
    time.map(|time| (time.as_secs_f64() * 1e6).round() / 1e6)
}

/// An owner for people.
fn who(label: Option<&str>, pid: Option<u32>, host: Option<&str>, foreign: bool) -> String {
    let pid = pid.map(|pid| format!("pid {pid}"));
    let host = host.map(|host| format!("on {}", shown(host)));
    let process = [pid, host].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let who = match (label.map(shown), process.is_empty()) {
        (Some(label), true) => label,
        (Some(label), false) => format!("{label} ({process})"),
        (None, false) => process,
        (None, true) if foreign => return "(foreign)".to_owned(),
        (None, true) => "unknown".to_owned(),
    };
    if foreign { who + " (foreign)" } else { who }
}

impl ClaimRow {
    /// An entry of a queue, as it is `later` than it was seen. The place is not known from the entry alone.
    pub(crate) fn new(entry: &Entry, later: Duration) -> Self {
        ClaimRow {
            claim: entry.key.as_str().to_owned(),
            held: entry.held,
            place: None,
            mode: entry.permits.into(),
            fencing_token: Some(entry.fencing_token).filter(|token| *token > 0),
            host: Some(entry.owner.host.clone()).filter(|host| !host.is_empty()),
            pid: entry.owner.pid,
            label: entry.owner.label.clone(),
            foreign: entry.id.is_none(),
            age_seconds: seconds(entry.age.map(|age| age + later)),
            lease_left_seconds: seconds(entry.expires_in.map(|left| left.saturating_sub(later))),
        }
    }

    /// Who made it, as `job (pid 12 on db1)`, fit for a terminal. What another program says of itself is
    /// marked as that.
    pub(crate) fn who(&self) -> String {
        who(self.label.as_deref(), self.pid, self.host.as_deref(), self.foreign)
    }

    /// A queue, oldest first, as it is `later` than it was seen.
    pub(crate) fn queue(entries: &[Entry], later: Duration) -> Vec<Self> {
        let mut waiters = 0;
        let rows = entries.iter().map(|entry| {
            waiters += usize::from(!entry.held);
            ClaimRow { place: (!entry.held).then_some(waiters), ..ClaimRow::new(entry, later) }
        });
        rows.collect()
    }
}

impl LockRow {
    /// A lock, as it is `later` than it was seen. Whether it is stale cannot be seen at one moment.
    pub(crate) fn new(summary: &Summary, later: Duration) -> Self {
        LockRow {
            name: summary.name.as_str().to_owned(),
            mode: Mode::of(summary.kind),
            holders: summary.holders,
            waiters: summary.waiters,
            holder: summary.holder.as_ref().map(|holder| ClaimRow::new(holder, later)),
            oldest_wait_seconds: seconds(summary.oldest_wait.map(|wait| wait + later)),
            stale: None,
        }
    }
}

impl LockRow {
    /// The lock without what changes with the time alone.
    pub(crate) fn timeless(&self) -> Self {
        let mut row = self.clone();
        row.oldest_wait_seconds = None;
        // That a holder is known to be well after some looks is no change of the lock.
        row.stale = row.stale.filter(|is_stale| *is_stale);
        if let Some(holder) = &mut row.holder {
            (holder.age_seconds, holder.lease_left_seconds) = (None, None);
        }
        row
    }
}

impl From<&Wait> for WaitRow {
    fn from(wait: &Wait) -> Self {
        let of = |owner: &Owner, foreign| {
            who(
                owner.label.as_deref(),
                owner.pid,
                Some(&*owner.host).filter(|host| !host.is_empty()),
                foreign,
            )
        };
        WaitRow {
            name: wait.name.as_str().to_owned(),
            waiter: of(&wait.waiter, wait.is_waiter_foreign),
            claim: wait.claim.as_str().to_owned(),
            blocker: of(&wait.blocker, wait.is_blocker_foreign),
            blocked_by: wait.blocked_by.as_str().to_owned(),
            held: wait.is_held,
        }
    }
}

impl WaitRow {
    /// For whom each waiter of one queue waits: the fewest claims in front of it that keep it waiting.
    pub(crate) fn of_queue(name: &Name, queue: &[Entry]) -> Vec<Self> {
        WaitRow::all(&WaitGraph::of([(name, queue)]))
    }

    /// All waits.
    pub(crate) fn all(graph: &WaitGraph) -> Vec<Self> {
        graph.waits().iter().map(WaitRow::from).collect()
    }

    /// The deadlocks, of which each is a circle of waits.
    pub(crate) fn deadlocks(graph: &WaitGraph) -> Vec<Vec<Self>> {
        graph.cycles().iter().map(|cycle| cycle.iter().map(WaitRow::from).collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use globallock::backend::ClaimId;
    use globallock::{EntryKey, Name, Owner};
    use serde_json::{json, to_value};

    use super::*;

    #[test]
    fn a_claim_is_told_by_what_is_known_of_its_owner_fit_for_a_terminal() {
        let who = |label: Option<&str>, pid, host: Option<&str>, foreign| {
            let [label, host] = [label, host].map(|text| text.map(str::to_owned));
            let entry = Entry::new(EntryKey::new("1"), true, Permits::MUTEX, Owner::default());
            ClaimRow { host, pid, label, foreign, ..ClaimRow::new(&entry, Duration::ZERO) }.who()
        };
        assert_eq!(who(Some("it's"), Some(12), Some("db1"), false), "it's (pid 12 on db1)");
        assert_eq!(who(Some("job"), None, Some("db1"), true), "job (on db1) (foreign)");
        assert_eq!(who(None, Some(12), None, false), "pid 12");
        assert_eq!(who(Some("a\u{1b}\u{202e}"), None, Some("\u{7}"), false), "a\\u{1b}\\u{202e} (on \\u{7})");
        assert_eq!(who(None, None, None, true), "(foreign)");
        assert_eq!(who(None, None, None, false), "unknown");
    }

    #[test]
    fn a_lock_and_its_queue_have_the_documented_fields() {
        let owner = Owner { host: "db1".into(), pid: Some(12), label: Some("nightly".into()) };
        let mut held = Entry::new(ClaimId::new(1, 2).into(), true, Permits::new(2, 5), owner);
        (held.fencing_token, held.age) = (7, Some(Duration::from_millis(1500)));
        held.expires_in = Some(Duration::from_secs(9));
        let cron = Owner { label: Some("cron".into()), ..Owner::default() };
        let waits = Entry::new(EntryKey::new("foreign:1"), false, Permits::MUTEX, cron);
        let mut waits = waits;
        waits.age = Some(Duration::from_secs(1));
        let second = Duration::from_secs(1);
        let rows = ClaimRow::queue(&[held.clone(), waits.clone()], second);
        let holder = json!({
            "claim": "00000000000000000001000000000002", "held": true, "place": null, "mode": "permits",
            "permits": 2, "capacity": 5, "fencing_token": 7, "host": "db1", "pid": 12, "label": "nightly",
            "foreign": false, "age_seconds": 2.5, "lease_left_seconds": 8.0,
        });
        assert_eq!(to_value(&rows[0]).unwrap(), holder);
        assert_eq!(
            to_value(&rows[1]).unwrap(),
            json!({
                "claim": "foreign:1", "held": false, "place": 1, "mode": "mutex", "permits": null,
                "capacity": null, "fencing_token": null, "host": null, "pid": null, "label": "cron",
                "foreign": true, "age_seconds": 2.0, "lease_left_seconds": null,
            })
        );
        let summary = Summary::of(&Name::new("a").unwrap(), &[held, waits]).unwrap();
        assert_eq!(
            to_value(LockRow::new(&summary, second)).unwrap(),
            json!({
                "name": "a", "mode": "permits", "permits": 2, "capacity": 5, "holders": 1, "waiters": 1,
                "holder": holder, "oldest_wait_seconds": 2.0, "stale": null,
            })
        );
        assert_eq!(Mode::of(summary.kind).to_string(), "2/5");
    }
}

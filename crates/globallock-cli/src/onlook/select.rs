//! Which locks are shown, and in which order.

use std::cmp::Reverse;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::rows::LockRow;
use crate::arguments::time;

/// Which locks are shown. What is asked for together must all be so.
#[derive(Args, Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option that is given or not")]
pub(crate) struct Filter {
    /// Show only names that somebody holds.
    #[arg(long)]
    pub(crate) held: bool,

    /// Show only names that somebody waits for.
    #[arg(long)]
    pub(crate) waiting: bool,

    /// Show only names that another program holds.
    #[arg(long)]
    pub(crate) foreign: bool,

    /// Show only names whose holder has given no sign of life for half its lease. That takes a while to see.
    #[arg(long)]
    pub(crate) stale: bool,

    /// Show only names whose holder is on this host.
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<String>,

    /// Show only names that were held, or waited for, at least so long.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) older_than: Option<Duration>,

    /// Show only names that somebody has waited for at least so long.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) waited: Option<Duration>,
}

/// By what locks are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// By name
    #[default]
    Name,
    /// The longest held first
    Age,
    /// The longest wait first
    Wait,
    /// The most waiters first
    Queue,
    /// The shortest lease left first
    Lease,
}

impl Filter {
    /// Whether it depends on who the holders are.
    pub(crate) fn asks_who_holds(&self) -> bool {
        self.foreign || self.host.is_some()
    }

    /// Whether this lock is shown.
    pub(crate) fn shows(&self, row: &LockRow) -> bool {
        let holder = row.holder.as_ref();
        let lasts = |age: Option<f64>, least: Duration| age.is_some_and(|age| age >= least.as_secs_f64());
        let is_old = |least: Duration| {
            lasts(holder.and_then(|holder| holder.age_seconds), least)
                || lasts(row.oldest_wait_seconds, least)
        };
        (!self.held || row.holders > 0)
            && (!self.waiting || row.waiters > 0)
            && (!self.foreign || holder.is_some_and(|holder| holder.foreign))
            && (!self.stale || row.stale == Some(true))
            && self.host.as_ref().is_none_or(|host| holder.is_some_and(|one| one.host.as_ref() == Some(host)))
            && self.older_than.is_none_or(is_old)
            && self.waited.is_none_or(|least| lasts(row.oldest_wait_seconds, least))
    }
}

impl Sort {
    /// Sorts, and among equals by name. What is not known comes last.
    pub(crate) fn sort(self, rows: &mut [LockRow]) {
        // As whole numbers, which have an order.
        let micros = |seconds: Option<f64>| seconds.map(|seconds| Duration::from_secs_f64(seconds.max(0.0)));
        let holder = |row: &LockRow| row.holder.clone();
        rows.sort_by(|one, other| one.name.cmp(&other.name));
        match self {
            Sort::Name => {}
            Sort::Age => {
                rows.sort_by_cached_key(|row| {
                    Reverse(micros(holder(row).and_then(|holder| holder.age_seconds)))
                });
            }
            Sort::Wait => rows.sort_by_cached_key(|row| Reverse(micros(row.oldest_wait_seconds))),
            Sort::Queue => rows.sort_by_cached_key(|row| Reverse(row.waiters)),
            Sort::Lease => rows.sort_by_cached_key(|row| {
                let left = micros(holder(row).and_then(|holder| holder.lease_left_seconds));
                (left.is_none(), left)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onlook::rows::{ClaimRow, Mode};
    use globallock::LockKind;

    fn row(name: &str, holder: Option<(f64, f64)>, waiters: usize, wait: Option<f64>) -> LockRow {
        let mode = Mode::of(LockKind::Mutex);
        let holder = holder.map(|(age, left)| ClaimRow {
            claim: "1".into(),
            held: true,
            place: None,
            mode,
            fencing_token: Some(1),
            host: Some("db1".into()),
            pid: None,
            label: None,
            foreign: name == "foreign",
            age_seconds: Some(age),
            lease_left_seconds: Some(left),
        });
        LockRow {
            name: name.into(),
            mode,
            holders: holder.iter().count(),
            waiters,
            holder,
            oldest_wait_seconds: wait,
            stale: Some(name == "stale"),
        }
    }

    fn rows() -> Vec<LockRow> {
        vec![
            row("young", Some((1.0, 9.0)), 2, Some(1.0)),
            row("stale", Some((60.0, 2.0)), 1, Some(59.0)),
            row("foreign", Some((30.0, 5.0)), 0, None),
            row("free", None, 1, Some(2.0)),
        ]
    }

    #[test]
    fn a_filter_shows_what_is_all_that_was_asked_for() {
        let all = Filter::default;
        let minute = Some(Duration::from_secs(59));
        for (filter, names) in [
            (all(), &["young", "stale", "foreign", "free"][..]),
            (Filter { held: true, ..all() }, &["young", "stale", "foreign"]),
            (Filter { waiting: true, ..all() }, &["young", "stale", "free"]),
            (Filter { held: true, waiting: true, ..all() }, &["young", "stale"]),
            (Filter { foreign: true, ..all() }, &["foreign"]),
            (Filter { stale: true, ..all() }, &["stale"]),
            (Filter { host: Some("db1".into()), ..all() }, &["young", "stale", "foreign"]),
            (Filter { host: Some("db2".into()), ..all() }, &[]),
            (Filter { older_than: minute, ..all() }, &["stale"]),
            (Filter { waited: minute, ..all() }, &["stale"]),
            (Filter { waited: Some(Duration::from_secs(2)), ..all() }, &["stale", "free"]),
            (
                Filter { waiting: true, older_than: Some(Duration::from_secs(1)), ..all() },
                &["young", "stale", "free"],
            ),
        ] {
            let rows = rows();
            let shown: Vec<&str> =
                rows.iter().filter(|row| filter.shows(row)).map(|row| &*row.name).collect();
            assert_eq!(shown, names, "{filter:?}");
        }
    }

    #[test]
    fn locks_are_sorted_by_what_matters_most_and_then_by_name() {
        for (sort, names) in [
            (Sort::Name, ["foreign", "free", "stale", "young"]),
            (Sort::Age, ["stale", "foreign", "young", "free"]),
            (Sort::Wait, ["stale", "free", "young", "foreign"]),
            (Sort::Queue, ["young", "free", "stale", "foreign"]),
            (Sort::Lease, ["stale", "foreign", "young", "free"]),
        ] {
            let mut rows = rows();
            sort.sort(&mut rows);
            assert_eq!(rows.iter().map(|row| &*row.name).collect::<Vec<_>>(), names, "{sort:?}");
        }
    }
}

//! A queue in columns, and for whom each waiter waits.

use crate::onlook::rows::{ClaimRow, WaitRow};
use crate::onlook::table::{Cell, Ink, Table};
use crate::onlook::text::brief_seconds;

/// The queue in columns.
pub(crate) fn table(claims: &[ClaimRow], waits: &[WaitRow]) -> Table {
    let headings = ["PLACE", "MODE", "OWNER", "FOR", "LEASE-LEFT", "TOKEN", "WAITS-FOR", "CLAIM"];
    let mut table = Table::new(&headings, &["OWNER", "WAITS-FOR"]);
    // The waits stand in the order of the claims.
    let mut waits = waits.iter().peekable();
    for claim in claims {
        let mut blockers = Vec::new();
        while let Some(wait) = waits.next_if(|wait| wait.claim == claim.claim) {
            blockers.push(&*wait.blocker);
        }
        let waits_for = match &blockers[..] {
            [] => "-".to_owned(),
            [one] => (*one).to_owned(),
            [first, more @ ..] => format!("{first} +{}", more.len()),
        };
        let place = match claim.place {
            Some(place) => Cell::safe(place.to_string()).ink(Ink::Yellow),
            None => Cell::safe("held"),
        };
        table.push(vec![
            place,
            Cell::safe(claim.mode.to_string()),
            Cell::safe(claim.who()),
            Cell::safe(brief_seconds(claim.age_seconds)),
            Cell::safe(brief_seconds(claim.lease_left_seconds)),
            Cell::safe(claim.fencing_token.map_or_else(|| "-".to_owned(), |token| token.to_string())),
            Cell::safe(waits_for),
            Cell::of(&claim.claim),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use globallock::backend::ClaimId;
    use globallock::queue::Permits;
    use globallock::{Entry, EntryKey, Name, Owner};

    use super::*;
    use crate::onlook::table::Sheet;

    fn entry(number: u64, held: bool, permits: Permits) -> Entry {
        let owner = Owner { host: "db1".into(), pid: Some(12), label: Some(format!("job{number}")) };
        Entry::new(ClaimId::new(1, number).into(), held, permits, owner)
    }

    #[test]
    fn each_waiter_waits_for_whoever_keeps_it_waiting_be_it_its_own_process() {
        let [mine, two] = [Permits::new(1, 2), Permits::new(2, 2)];
        let mut foreign = Entry::new(EntryKey::new("x"), true, mine, Owner::default());
        foreign.age = Some(Duration::from_secs(61));
        let queue = [foreign, entry(1, true, mine), entry(2, false, two), entry(3, false, mine)];
        let waits = WaitRow::of_queue(&Name::new("a").unwrap(), &queue);
        let edges: Vec<(&str, &str, bool)> =
            waits.iter().map(|wait| (&*wait.waiter, &*wait.blocker, wait.held)).collect();
        let [job1, job2, job3] = ["job1", "job2", "job3"].map(|job| format!("{job} (pid 12 on db1)"));
        assert_eq!(edges, [(&*job2, &*job1, true), (&*job3, &*job2, false)]);
        let drawn = table(&ClaimRow::queue(&queue, Duration::ZERO), &waits)
            .drawn(Sheet { width: None, coloured: false });
        let lines: Vec<&str> = drawn.lines().collect();
        assert!(
            lines[1].starts_with("held   1/2   (foreign)             1m1s  -           -      - "),
            "{drawn}"
        );
        assert!(
            lines[3].starts_with("1      2/2   job2 (pid 12 on db1)  -     -           -      job1"),
            "{drawn}"
        );
        assert!(lines[4].ends_with("00000000000000000001000000000003"), "{drawn}");
    }
}

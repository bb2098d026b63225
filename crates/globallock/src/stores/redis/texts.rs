//! The texts of a lock that owners and onlookers write and read. `texts.lua` describes each, and is the same
//! for the scripts.

use std::time::Duration;

use crate::backend::{Claim, ClaimId, WaitMode};
use crate::queue::Permits;

/// How the value of an exclusive holder begins.
pub(super) const OURS: &str = "glk1:";
/// How the channel of a connection begins.
pub(super) const WAKE: &str = "globallock:wake:";
/// How it begins if the manager leaves gaps, and so knows what else a waiter may be told.
pub(super) const WAKE_WITH_GAPS: &str = "globallock:wake:gaps:";
/// The channel on which all connections are told of evicted claims.
pub(super) const EVERYBODY: &str = "globallock:evict";
/// How the key of a foreign holder begins (`foreign_key` in `foreign.lua`).
pub(super) const FOREIGN: &str = "foreign:";

/// The first numbers of the answers about a claim.
pub(super) const WAITING: u64 = 0;
pub(super) const HELD: u64 = 1;
pub(super) const GONE: u64 = 2;
pub(super) const ASK_AGAIN: u64 = 3;
pub(super) const EVICTED: i64 = 4;

/// Why the first waiter polls at a pace of its own: a foreign holder has the lock; there is a gap.
pub(super) const FOREIGN_HOLDER: u64 = 1;
pub(super) const GAP: u64 = 2;

/// The parts of the answer to a release or an eviction: the claim was there; more dead claims are in the way
/// than one call may drop, so that the lock is not granted yet; the claim may wait, but its member of the
/// queue is needed.
pub(super) const TAKEN_OUT: i64 = 1;
pub(super) const UNFINISHED: i64 = 2;
pub(super) const MAY_WAIT: i64 = 4;

/// The answers to the writing of a value: the claim does not hold; it is written; a higher token has written.
pub(super) const NOT_WRITTEN: i64 = 0;
pub(super) const WRITTEN: i64 = 1;
pub(super) const OUTRANKED: i64 = 2;

/// A claim as a text has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stored<'a> {
    pub(super) id: ClaimId,
    pub(super) number: u64,
    /// When it joined, or was granted if it holds.
    pub(super) since: u64,
    pub(super) permits: Permits,
    pub(super) owner: &'a str,
}

pub(super) fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The max hold time of a claim; 0: none.
pub(super) fn max_hold(claim: &Claim) -> u64 {
    claim.max_hold.map_or(0, milliseconds)
}

/// What a claim asks for, and its owner: the end of each text that has both.
pub(super) fn asked(claim: &Claim) -> String {
    format!("{}/{}:{}", claim.permits.count, claim.permits.capacity, claim.owner)
}

/// A claim's member of the queue; empty if it never waits.
pub(super) fn member(claim: &Claim, channel: &str) -> String {
    if claim.wait_mode == WaitMode::Try {
        return String::new();
    }
    let (lease, max_hold) = (milliseconds(claim.lease), max_hold(claim));
    format!("{} {channel} {lease} {max_hold} {}", claim.id, asked(claim))
}

/// Reads the value of the lock's key that an exclusive holder has put there.
pub(super) fn exclusive(value: &str) -> Option<Stored<'_>> {
    let [id, number, granted, _, asked] = fields(value.strip_prefix(OURS)?, ':')?;
    let number = number.parse().ok()?;
    // Empty: the lock was granted at the join, whose microsecond is the number.
    let since = if granted.is_empty() { number / 1000 } else { granted.parse().ok()? };
    stored(id, number, since, asked)
}

/// Reads a waiter's member of the queue, whose join number is `number`. Also returns when its lease ends
/// unless it is renewed.
pub(super) fn waiter<'a>(member: &'a str, number: &str) -> Option<(Stored<'a>, Option<u64>)> {
    let [id, _, lease, _, asked] = fields(member, ' ')?;
    let number: u64 = number.parse().ok()?;
    // In milliseconds, whereas a join number counts microseconds.
    let joined = number / 1000;
    Some((stored(id, number, joined, asked)?, joined.checked_add(lease.parse().ok()?)))
}

/// Reads a shared holder's record. Also returns when the store frees it.
pub(super) fn shared<'a>(id: &str, record: &'a str) -> Option<(Stored<'a>, u64)> {
    let [number, deadline, _, granted, hold_until, _, _, asked] = fields(record, ' ')?;
    let (deadline, hold_until): (u64, u64) = (deadline.parse().ok()?, hold_until.parse().ok()?);
    let ends = if hold_until > 0 { hold_until.min(deadline) } else { deadline };
    Some((stored(id, number.parse().ok()?, granted.parse().ok()?, asked)?, ends))
}

fn stored<'a>(id: &str, number: u64, since: u64, asked: &'a str) -> Option<Stored<'a>> {
    let (permits, owner) = asked.split_once(':')?;
    let (count, capacity) = permits.split_once('/')?;
    let permits = Permits::new(count.parse().ok()?, capacity.parse().ok()?);
    Some(Stored { id: ClaimId::parse(id)?, number, since, permits, owner })
}

/// Exactly so many fields; the last one is all that is left.
fn fields<const N: usize>(text: &str, separator: char) -> Option<[&str; N]> {
    text.splitn(N, separator).collect::<Vec<_>>().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::super::scripts::named;
    use super::*;
    use crate::backend::Eviction;
    use crate::name::Name;
    use crate::stores::pushed::{EVICTS, Evicted, POLLS, Polls, Pushed};
    use proptest::prelude::*;

    fn in_lua(name: &str) -> &'static str {
        let named = named();
        named.iter().find(|(other, _)| *other == name).unwrap_or_else(|| panic!("there is no {name}")).1
    }

    #[test]
    fn the_scripts_give_the_same_values_to_the_same_names() {
        for (name, text) in
            [("OURS", OURS), ("EVERYBODY", EVERYBODY), ("EVICTS", EVICTS), ("FOREIGN", FOREIGN)]
                .into_iter()
                .chain([("POLLS", POLLS), ("GAP_NODE", WAKE_WITH_GAPS)])
        {
            assert_eq!(in_lua(name), format!("'{text}'"), "{name}");
        }
        let statuses = [("HELD", HELD), ("WAITING", WAITING), ("GONE", GONE), ("ASK_AGAIN", ASK_AGAIN)];
        let paced = [("FOREIGN_HOLDER", FOREIGN_HOLDER), ("IN_GAP", GAP)];
        for (name, number) in paced {
            assert_eq!(in_lua(name), number.to_string(), "{name}");
        }
        let writes = [("NOT_WRITTEN", NOT_WRITTEN), ("WRITTEN", WRITTEN), ("OUTRANKED", OUTRANKED)];
        let parts = [("TAKEN_OUT", TAKEN_OUT), ("UNFINISHED", UNFINISHED), ("MAY_WAIT", MAY_WAIT)];
        for (name, number) in
            statuses.map(|(name, number)| (name, number.cast_signed())).into_iter().chain(parts).chain(writes)
        {
            assert_eq!(in_lua(name), number.to_string(), "{name}");
        }
        assert_eq!(in_lua("EVICTED"), EVICTED.to_string());
        // What follows from others.
        let id = ClaimId::new(1, 1).to_string();
        assert_eq!(in_lua("HEAD"), (OURS.len() + id.len()).to_string());
        assert_eq!(in_lua("FLAG_BYTE"), in_lua("FLAG").as_bytes()[1].to_string());
        assert_eq!(in_lua("WAITS_BYTE"), b'1'.to_string());
        for format in ["EXCLUSIVE", "READ_EXCLUSIVE"] {
            assert!(in_lua(format).trim_start_matches(['\'', '^']).starts_with(OURS), "{format}");
        }
    }

    /// What `string.format` makes of a format of `texts.lua`.
    fn formatted(name: &str, values: &[&dyn ToString]) -> String {
        let format = in_lua(name).trim_matches('\'').replace("%.0f", "%s");
        let mut parts = format.split("%s");
        let mut text = parts.next().unwrap().to_owned();
        for (value, part) in values.iter().zip(parts.by_ref()) {
            text += &(value.to_string() + part);
        }
        assert_eq!(parts.next(), None, "{name} has more values");
        text
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            (id, permits) in (any::<u64>(), (1_u32..9, 1_u32..9)),
            (number, lease, max_hold) in (0_u64..1 << 53, 0_u64..1 << 40, 0_u64..1 << 40),
            (granted, owner, key) in (1_u64..1 << 43, "[ -~é☃:/]{0,20}", "[ -~é☃]{1,20}"),
        ) {
            let (id, permits) = (ClaimId::new(5, id), Permits::new(permits.0, permits.1));
            let claim = Claim::new(id, Name::new("a").unwrap(), permits)
                .with_lease(Duration::from_millis(lease))
                .with_max_hold((max_hold > 0).then(|| Duration::from_millis(max_hold)))
                .with_owner(&*owner);
            let (asked, joined) = (asked(&claim), number / 1000);
            let stored = |since| Stored { id, number, since, permits, owner: &owner };

            // As the scripts put the texts together.
            let member = member(&claim, "channel");
            let by_the_script = formatted("MEMBER", &[&id, &"channel", &lease, &max_hold]) + &asked;
            prop_assert_eq!(&member, &by_the_script);
            let read = waiter(&member, &number.to_string());
            prop_assert_eq!(read, Some((stored(joined), Some(joined + lease))));
            for (since, text) in [(joined, String::new()), (granted, granted.to_string())] {
                let value = formatted("EXCLUSIVE", &[&id, &number, &text, &max_hold]) + &asked;
                prop_assert_eq!(exclusive(&value), Some(stored(since)));
            }
            let times: [&dyn ToString; 7] =
                [&number, &lease, &joined, &granted, &max_hold, &max_hold, &"channel"];
            let record = formatted("RECORD", &times) + &asked;
            let ends = if max_hold > 0 { lease.min(max_hold) } else { lease };
            prop_assert_eq!(shared(&id.to_string(), &record), Some((stored(granted), ends)));

            let grant = formatted("GRANTED", &[&id, &number, &lease, &max_hold]) + &key;
            let pushed =
                Pushed { id, fencing_token: number, expires: lease, hold_until: max_hold, key: key.clone() };
            prop_assert_eq!(Pushed::parse(&grant), Some(pushed));
            let polls = format!("{id}{POLLS}{lease}");
            let poll_in = Duration::from_millis(lease);
            prop_assert_eq!(Polls::parse(&polls), Some(Polls { id, poll_in }));
            prop_assert_eq!((Pushed::parse(&polls), Evicted::parse(&polls)), (None, None));
            let eviction = Eviction::new(crate::owner::Owner::default(), &*key);
            let told = format!("{id}{EVICTS}{}", eviction.to_text());
            prop_assert_eq!(Evicted::parse(&told), Some(Evicted { id, eviction }));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-f]{0,32}[ :/0-9a-z.é+-]{0,40}", number in ".{0,3}") {
            for text in [&text, &format!("{OURS}{text}")] {
                let _ = (exclusive(text), waiter(text, &number), shared(text, text));
                let _ = (Pushed::parse(text), Evicted::parse(text), Polls::parse(text));
            }
        }
    }

    #[test]
    fn a_claim_that_never_waits_has_no_member_of_the_queue() {
        let claim = Claim::new(ClaimId::new(5, 6), Name::new("a").unwrap(), Permits::MUTEX);
        assert_eq!(member(&claim, "c"), "00000000000000000005000000000006 c 10000 0 1/1:");
        assert_eq!(member(&claim.with_wait_mode(WaitMode::Try), "c"), "");
    }
}

//! Reads the answer of `inspect.lua` into the entries of a queue.

use std::collections::HashMap;
use std::time::Duration;

use redis::Value;

use super::texts::{self, Stored};
use crate::backend::{Entry, EntryKey};
use crate::owner::Owner;
use crate::queue::Permits;

/// What a foreign holder takes, or one that cannot be read: all permits.
const ALL: Permits = Permits::MUTEX;

/// Reads the queue; `None` if the answer does not have the shape that the script gives it.
pub(super) fn entries(answer: &Value) -> Option<Vec<Entry>> {
    let Value::Array(parts) = answer else { return None };
    let [now, value, left, shared, waiting, records, foreign] = &parts[..] else { return None };
    let (Value::Int(now), Value::Int(left)) = (now, left) else { return None };
    let (now, left) = (u64::try_from(*now).ok()?, u64::try_from(*left).ok());
    let (value, records, foreign) = (text(value)?, list(records)?, text(foreign)?);
    let records: HashMap<&str, &str> =
        records.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();

    let mut entries = Vec::new();
    let group = records.get("#value").copied();
    if let Some(holder) = texts::exclusive(&value) {
        entries.push(entry(&holder, true, now, left));
    } else if group == Some(&value) {
        let shared = list(shared)?;
        let holders = shared.chunks_exact(2).filter_map(|pair| {
            let (holder, ends) = texts::shared(&pair[0], records.get(pair[0].as_str())?)?;
            living(&holder, true, now, ends)
        });
        entries.extend(holders);
        entries.sort_by_key(|entry| entry.fencing_token);
    } else if !value.is_empty() {
        let mut foreign = Entry::new(EntryKey::new(foreign), true, ALL, Owner::from_text(&value));
        foreign.expires_in = left.map(Duration::from_millis);
        entries.push(foreign);
    }
    let waiting = list(waiting)?;
    entries.extend(waiting.chunks_exact(2).filter_map(|pair| {
        let (waiter, ends) = texts::waiter(&pair[0], &pair[1])?;
        let renewed = records.get(waiter.id.to_string().as_str());
        living(&waiter, false, now, renewed.map_or(ends, |renewed| renewed.parse().ok())?)
    }));
    Some(entries)
}

/// A claim that is seen at `now`, until which the store keeps it for `left`.
fn entry(stored: &Stored<'_>, held: bool, now: u64, left: Option<u64>) -> Entry {
    Entry {
        fencing_token: stored.number,
        age: Some(Duration::from_millis(now.saturating_sub(stored.since))),
        expires_in: left.map(Duration::from_millis),
        ..Entry::new(stored.id.into(), held, stored.permits, Owner::from_text(stored.owner))
    }
}

/// The same, unless it has ended. Such a claim stays stored until the next script drops it. It does not count
/// until then either.
fn living(stored: &Stored<'_>, held: bool, now: u64, ends: u64) -> Option<Entry> {
    let left = ends.checked_sub(now).filter(|left| *left > 0)?;
    Some(entry(stored, held, now, Some(left)))
}

/// Reads text that other programs may have written: what is not UTF-8 is replaced.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
        Value::Double(number) => Some(number.to_string()),
        _ => None,
    }
}

fn list(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        Value::Map(pairs) => pairs.iter().flat_map(|(key, value)| [text(key), text(value)]).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "00000000000000000005000000000006";
    const OTHER: &str = "00000000000000000005000000000007";
    const NOW: i64 = 1_000_000;
    const FOREIGN: &str = "foreign:356a192b7913b04c54574d18c28d46e6395428ab:1000700";

    /// What the script answers, as the client reads it.
    #[derive(Default)]
    struct Answer {
        value: String,
        left: i64,
        shared: Vec<(String, f64)>,
        waiting: Vec<(String, f64)>,
        records: Vec<(String, String)>,
    }

    impl Answer {
        fn held_by(value: impl Into<String>, left: i64) -> Self {
            Answer { value: value.into(), left, ..Answer::default() }
        }

        fn waits(mut self, member: impl Into<String>, number: u64) -> Self {
            #[expect(clippy::cast_precision_loss, reason = "the server sends numbers below 2^53")]
            self.waiting.push((member.into(), number as f64));
            self
        }

        fn record(mut self, field: impl Into<String>, record: impl Into<String>) -> Self {
            self.records.push((field.into(), record.into()));
            self
        }

        /// Adds a shared holder. The sorted set says nothing of its expiry.
        fn shares(mut self, id: &str, record: impl Into<String>) -> Self {
            self.shared.push((id.to_owned(), 0.0));
            self.record(id, record)
        }

        fn value(&self) -> Value {
            let scored = |members: &[(String, f64)]| {
                Value::Array(
                    members
                        .iter()
                        .flat_map(|(member, score)| [bulk(member), Value::Double(*score)])
                        .collect(),
                )
            };
            Value::Array(vec![
                Value::Int(NOW),
                bulk(&self.value),
                Value::Int(self.left),
                scored(&self.shared),
                scored(&self.waiting),
                Value::Map(self.records.iter().map(|(field, record)| (bulk(field), bulk(record))).collect()),
                bulk(FOREIGN),
            ])
        }

        fn entries(&self) -> Vec<Entry> {
            entries(&self.value()).expect("it is an answer of the script")
        }
    }

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn milliseconds(number: u64) -> Option<Duration> {
        Some(Duration::from_millis(number))
    }

    fn entry(id: &str, held: bool, permits: (u32, u32), owner: &str) -> Entry {
        let permits = Permits::new(permits.0, permits.1);
        Entry::new(EntryKey::new(id), held, permits, Owner::from_text(owner))
    }

    #[test]
    fn a_free_lock_has_no_entries() {
        assert_eq!(Answer::held_by("", -2).entries(), []);
    }

    #[test]
    fn an_exclusive_holder_is_listed_with_its_token_and_its_times() {
        // Granted at 999 s, as it says; with colons in the owner's name.
        let listed = Answer::held_by(format!("glk1:{ID}:990000123:999000:0:1/1:a:b"), 2500).entries();
        let expected = Entry {
            fencing_token: 990_000_123,
            age: milliseconds(1000),
            expires_in: milliseconds(2500),
            ..entry(ID, true, (1, 1), "a:b")
        };
        assert_eq!(listed, std::slice::from_ref(&expected));
        // Granted when it joined, at 990 s and a fraction.
        let listed = Answer::held_by(format!("glk1:{ID}:990000123::0:1/1:a:b"), 2500).entries();
        assert_eq!(listed, [Entry { age: milliseconds(10_000), ..expected.clone() }]);
        // An operator has made the key stay.
        let listed = Answer::held_by(format!("glk1:{ID}:990000123:999000:0:1/1:a:b"), -1).entries();
        assert_eq!(listed, [Entry { expires_in: None, ..expected.clone() }]);
        // Granted in the future, because the clock was set back since.
        let listed = Answer::held_by(format!("glk1:{ID}:990000123:1000001:0:1/1:a:b"), 2500).entries();
        assert_eq!(listed, [Entry { age: milliseconds(0), ..expected }]);
    }

    #[test]
    fn a_foreign_holder_takes_all_permits_and_has_no_token() {
        let broken = format!("glk1:{ID}:990000123:999000:0:1:a");
        let nobody = "glk1:nobody:990000123:999000:0:1/1:a";
        for text in ["somebody else", "glk1:", "glk1:a", "glk1+:nobody:5", &broken, nobody] {
            let listed = Answer::held_by(text, 700).entries();
            let expected = Entry { expires_in: milliseconds(700), ..entry(FOREIGN, true, (1, 1), text) };
            assert_eq!(listed, [expected], "{text}");
            assert_eq!(Answer::held_by(text, -1).entries()[0].expires_in, None, "{text}");
        }
    }

    #[test]
    fn text_that_is_not_utf_8_is_shown_as_far_as_it_is_valid() {
        let Value::Array(mut parts) = Answer::held_by("", 700).value() else { panic!("no array") };
        parts[1] = Value::BulkString(b"caf\xe9".to_vec());
        let listed = entries(&Value::Array(parts)).unwrap();
        assert_eq!(listed[0].owner, Owner::from_text("caf\u{fffd}"));
    }

    #[test]
    fn shared_holders_are_listed_in_the_order_of_their_tokens_with_their_own_times() {
        let group = format!("glk1+:{ID}:7");
        let listed = Answer::held_by(&group, 5000)
            .record("#value", &group)
            .shares(OTHER, "900000009 1005000 900000 950000 0 0 channel 2/5:late one")
            .shares(ID, "900000007 1003000 800000 900000 1000400 100400 channel 1/5:first")
            .entries();
        let first = Entry {
            fencing_token: 900_000_007,
            age: milliseconds(100_000),
            // Its max hold time ends before its lease.
            expires_in: milliseconds(400),
            ..entry(ID, true, (1, 5), "first")
        };
        let late = Entry {
            fencing_token: 900_000_009,
            age: milliseconds(50_000),
            expires_in: milliseconds(5000),
            ..entry(OTHER, true, (2, 5), "late one")
        };
        assert_eq!(listed, [first, late]);
    }

    #[test]
    fn the_end_of_a_lease_counts_where_the_max_hold_time_ends_later() {
        let group = format!("glk1+:{ID}:7");
        let listed = |record: &str| {
            Answer::held_by(&group, 5000).record("#value", &group).shares(ID, record).entries()
        };
        let left = |record: &str| listed(record).first().and_then(|entry| entry.expires_in);
        assert_eq!(left("7 1003000 800000 900000 1009000 109000 channel 1/5:a"), milliseconds(3000));
        assert_eq!(left("7 1003000 800000 900000 1 109000 channel 1/5:a"), None);
        assert_eq!(left("7 1003000 800000 900000 0 0 channel 1/5:a"), milliseconds(3000));
        // An expired holder is not listed, though no script has dropped it yet.
        assert_eq!(left("7 1000001 800000 900000 0 0 channel 1/5:a"), milliseconds(1));
        assert_eq!(listed("7 1000000 800000 900000 0 0 channel 1/5:a"), []);
        assert_eq!(listed("7 999999 800000 900000 0 0 channel 1/5:a"), []);
        for broken in ["", "7", "x 1003000 1 1 0 0 channel 1/5:a", "7 1003000 1 1 0 0 channel 1:a"] {
            assert_eq!(listed(broken), [], "{broken}");
        }
    }

    #[test]
    fn shared_holders_that_have_lost_the_lock_are_not_listed() {
        let listed = Answer::held_by(format!("glk1+:{OTHER}:8"), 5000)
            .record("#value", format!("glk1+:{ID}:7"))
            .shares(ID, "7 1003000 800000 900000 0 0 channel 1/5:a")
            .entries();
        assert_eq!(listed.iter().map(|entry| entry.id).collect::<Vec<_>>(), [None]);
        let listed = Answer::held_by("", -2)
            .record("#value", format!("glk1+:{ID}:7"))
            .shares(ID, "7 1003000 800000 900000 0 0 channel 1/5:a")
            .entries();
        assert_eq!(listed, []);
    }

    #[test]
    fn waiters_are_listed_behind_the_holder_in_their_order() {
        let holder = format!("glk1:{ID}:990000123:999000:0:1/1:a");
        let listed = Answer::held_by(&holder, 2500)
            .waits(format!("{OTHER} channel 30000 0 1/1:b c"), 990_000_456)
            .waits(format!("{ID} channel 30000 4000 2/3:d"), 999_000_999)
            .entries();
        assert_eq!(listed.len(), 3);
        assert!(listed[0].held);
        let expected = Entry {
            fencing_token: 990_000_456,
            age: milliseconds(10_000),
            expires_in: milliseconds(20_000),
            ..entry(OTHER, false, (1, 1), "b c")
        };
        assert_eq!(listed[1], expected);
        let expected = Entry {
            fencing_token: 999_000_999,
            age: milliseconds(1000),
            expires_in: milliseconds(29_000),
            ..entry(ID, false, (2, 3), "d")
        };
        assert_eq!(listed[2], expected);
    }

    #[test]
    fn a_waiter_is_listed_until_its_last_renewed_lease_ends() {
        let left = |lease: &str, renewed: Option<&str>| {
            let mut answer =
                Answer::held_by("", -2).waits(format!("{ID} channel {lease} 0 1/1:a"), 990_000_000);
            if let Some(renewed) = renewed {
                answer = answer.record(ID, renewed);
            }
            answer.entries().first().map(|entry| entry.expires_in.unwrap().as_millis())
        };
        assert_eq!(left("30000", None), Some(20_000));
        assert_eq!(left("10001", None), Some(1));
        assert_eq!(left("10000", None), None);
        assert_eq!(left("9999", None), None);
        assert_eq!(left("1000", Some("1000500")), Some(500));
        assert_eq!(left("30000", Some("1000000")), None);
        assert_eq!(left("30000", Some("what is no number")), None);
        assert_eq!(left("18446744073709551615", None), None);
    }

    #[test]
    fn a_member_that_is_no_waiter_hides_none_of_the_others() {
        let listed = Answer::held_by("", -2)
            .waits("what another program has put there", 990_000_000)
            .waits(format!("{ID} channel 30000 0 1:a"), 990_000_001)
            .waits(format!("{ID} channel 30000 0 1/1:a"), 990_000_002)
            .entries();
        assert_eq!(listed.iter().map(|entry| entry.fencing_token).collect::<Vec<_>>(), [990_000_002]);
    }

    #[test]
    fn servers_that_send_simple_strings_and_lists_are_understood_too() {
        let simple = |text: &str| Value::SimpleString(text.to_owned());
        let list = |texts: &[&str]| Value::Array(texts.iter().copied().map(simple).collect());
        let member = format!("{ID} channel 1000 0 1/1:a");
        let answer = Value::Array(vec![
            Value::Int(NOW),
            simple(""),
            Value::Int(-2),
            Value::Array(Vec::new()),
            list(&[&member, "999500000"]),
            list(&[ID, "1000900"]),
            simple(FOREIGN),
        ]);
        let listed = entries(&answer).unwrap();
        let seen: Vec<_> = listed.iter().map(|entry| (entry.fencing_token, entry.expires_in)).collect();
        assert_eq!(seen, [(999_500_000, milliseconds(900))]);
    }

    #[test]
    fn an_answer_of_another_shape_is_none() {
        let Value::Array(good) = Answer::held_by("a", 5).value() else { panic!("no array") };
        assert!(entries(&Value::Array(good.clone())).is_some());
        assert!(entries(&Value::Nil).is_none());
        assert!(entries(&Value::Array(good[1..].to_vec())).is_none());
        for at in 0..good.len() {
            let mut other = good.clone();
            other[at] = Value::Nil;
            let read = entries(&Value::Array(other));
            // The shared holders are read only where they hold the lock.
            assert_eq!(read.is_some(), at == 3, "part {at}");
        }
        let mut before_time = good;
        before_time[0] = Value::Int(-1);
        assert!(entries(&Value::Array(before_time)).is_none());
    }
}

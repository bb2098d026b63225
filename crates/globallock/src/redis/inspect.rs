//! From the answer of `inspect.lua` to the queue as an onlooker sees it.

use std::collections::HashMap;
use std::time::Duration;

use redis::Value;

use crate::backend::{ClaimId, Entry};
use crate::owner::Owner;
use crate::queue::Share;

/// What a foreign holder, or one that cannot be read, takes: all there is.
const ALL: Share = Share { weight: 1, capacity: 1 };

/// Reads the queue; `None` where the answer has not the shape that the script gives it.
pub(super) fn entries(answer: &Value) -> Option<Vec<Entry>> {
    let Value::Array(parts) = answer else { return None };
    let [now, value, left, shared, waiting, records] = &parts[..] else {
        return None;
    };
    let (Value::Int(now), Value::Int(left)) = (now, left) else {
        return None;
    };
    let (now, left) = (u64::try_from(*now).ok()?, u64::try_from(*left).ok());
    let (value, records) = (text(value)?, texts(records)?);
    let records: HashMap<&str, &str> =
        records.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();

    let mut entries = Vec::new();
    let group = records.get("#value").copied();
    if let Some(entry) = value.strip_prefix("glk1:").and_then(|holder| exclusive(holder, now, left)) {
        entries.push(entry);
    } else if group == Some(&value) {
        let mut members: Vec<Entry> =
            texts(shared)?.chunks_exact(2).filter_map(|pair| record(&pair[0], &records, now)).collect();
        members.sort_by_key(|entry| entry.fence);
        entries.extend(members);
    } else if !value.is_empty() {
        let mut stranger = Entry::new(None, true, ALL, Owner::from_text(&value));
        stranger.expires_in = left.map(Duration::from_millis);
        entries.push(stranger);
    }
    let waiting = texts(waiting)?;
    entries.extend(waiting.chunks_exact(2).filter_map(|pair| waiter(&pair[0], &pair[1], &records, now)));
    Some(entries)
}

/// The holder that the lock's own key tells of, the mark in front taken off.
fn exclusive(value: &str, now: u64, left: Option<u64>) -> Option<Entry> {
    let fields: Vec<&str> = value.splitn(6, ':').collect();
    let [id, fence, granted, _, share, owner] = fields[..] else {
        return None;
    };
    let share = read_share(share)?;
    let fence: u64 = fence.parse().ok()?;
    // A lock that was free was granted at the moment that its number tells, in microseconds.
    let granted = if granted.is_empty() { fence / 1000 } else { granted.parse().ok()? };
    Some(Entry {
        fence,
        age: Some(Duration::from_millis(now.saturating_sub(granted))),
        expires_in: left.map(Duration::from_millis),
        ..Entry::new(ClaimId::parse(id), true, share, Owner::from_text(owner))
    })
}

/// One who waits, with its number.
fn waiter(member: &str, number: &str, records: &HashMap<&str, &str>, now: u64) -> Option<Entry> {
    let fields: Vec<&str> = member.splitn(5, ' ').collect();
    let [id, _, lease, _, tail] = fields[..] else { return None };
    let (share, owner) = tail.split_once(':')?;
    let (number, lease) = (number.parse::<u64>().ok()?, lease.parse::<u64>().ok()?);
    // In milliseconds, as a number counts microseconds.
    let joined = number / 1000;
    let deadline = records.get(id).map_or(joined.checked_add(lease), |renewed| renewed.parse().ok())?;
    let left = deadline.checked_sub(now).filter(|left| *left > 0)?;
    Some(Entry {
        fence: number,
        age: Some(Duration::from_millis(now.saturating_sub(joined))),
        expires_in: Some(Duration::from_millis(left)),
        ..Entry::new(ClaimId::parse(id), false, read_share(share)?, Owner::from_text(owner))
    })
}

/// One who shares, by its record.
fn record(id: &str, records: &HashMap<&str, &str>, now: u64) -> Option<Entry> {
    let fields: Vec<&str> = records.get(id)?.splitn(8, ' ').collect();
    let [fence, deadline, joined, granted, hold_until, _, _, tail] = fields[..] else { return None };
    let (share, owner) = tail.split_once(':')?;
    let number = |field: &str| field.parse::<u64>().ok();
    let (deadline, joined) = (number(deadline)?, number(joined)?);
    let (granted, hold_until) = (number(granted)?, number(hold_until)?);
    let ends = if hold_until > 0 { hold_until.min(deadline) } else { deadline };
    // The script drops what is over when it next has to decide; until then it is not there.
    let left = ends.checked_sub(now).filter(|left| *left > 0)?;
    let share = read_share(share)?;
    Some(Entry {
        fence: number(fence)?,
        age: Some(Duration::from_millis(now.saturating_sub(if granted > 0 { granted } else { joined }))),
        expires_in: Some(Duration::from_millis(left)),
        ..Entry::new(ClaimId::parse(id), granted > 0, share, Owner::from_text(owner))
    })
}

/// Reads `weight/capacity`.
fn read_share(text: &str) -> Option<Share> {
    let (weight, capacity) = text.split_once('/')?;
    Some(Share { weight: weight.parse().ok()?, capacity: capacity.parse().ok()? })
}

/// Text that other programs may have written: what is not UTF-8 is replaced.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
        Value::Double(number) => Some(number.to_string()),
        _ => None,
    }
}

fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        Value::Map(pairs) => pairs.iter().flat_map(|(key, value)| [text(key), text(value)]).collect(),
        _ => None,
    }
}

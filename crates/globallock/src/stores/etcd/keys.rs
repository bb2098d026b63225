//! The keys of one lock.
//!
//! They have the form of the keys of etcd's own mutex, so that its users and ours wait in one queue.

use crate::backend::{Claim, ClaimId};
use crate::name::Name;
use crate::queue::Permits;

use super::messages::KeyValue;
use crate::stores::watched::ahead::Entry;

/// The permits of a key that is not ours: all of them, because etcd's own mutex is exclusive.
const ALL: Permits = Permits::MUTEX;

/// The prefix of all keys of a lock.
///
/// A slash in the name is escaped, because otherwise the keys of `a/b` would be in the queue of `a`.
pub(super) fn queue(prefix: &str, name: &Name) -> String {
    format!("{prefix}{}/", escaped(name))
}

fn escaped(name: &Name) -> String {
    name.as_str().replace('%', "%25").replace('/', "%2F")
}

/// The key of a claim: `<manager>.<number>.<count>.<capacity>` below its lock.
pub(super) fn claim(prefix: &str, claim: &Claim, number: u32) -> Vec<u8> {
    let Permits { count, capacity } = claim.permits;
    let manager = claim.id.manager();
    format!("{}{manager}.{number}.{count}.{capacity}", queue(prefix, &claim.name)).into_bytes()
}

/// The key of python-etcd3's lock of this name.
pub(super) fn python_etcd3(prefix: &str, name: &Name) -> Vec<u8> {
    format!("{prefix}{}", name.as_str()).into_bytes()
}

/// The tombstone of a claim: while this key exists, a late request cannot put the claim under this lease.
///
/// It is in no queue, because it is below an empty name, which no lock has.
pub(super) fn tombstone(prefix: &str, id: ClaimId, lease: i64) -> Vec<u8> {
    format!("{prefix}/{id}.{lease:x}").into_bytes()
}

/// The sentinel key of a lease: it exists as long as the lease does. It is in no queue either.
pub(super) fn sentinel(prefix: &str, lease: i64) -> Vec<u8> {
    format!("{prefix}/{lease:x}").into_bytes()
}

/// The range of the notices of evictions. They are in no queue either.
pub(super) fn notices(prefix: &str) -> String {
    format!("{prefix}/evicted/")
}

/// The notice that a claim was evicted: its id, and its lock for people to read.
pub(super) fn notice(prefix: &str, name: &Name, id: ClaimId) -> Vec<u8> {
    format!("{}{id}/{}", notices(prefix), escaped(name)).into_bytes()
}

/// The value of a name. It is in no queue either.
pub(super) fn value(prefix: &str, name: &Name) -> Vec<u8> {
    format!("{prefix}/value/{}", escaped(name)).into_bytes()
}

/// Reads the claim back from its notice, and the prefix of the keys of its queue.
pub(super) fn noticed(prefix: &str, key: &[u8]) -> Option<(ClaimId, String)> {
    let (id, escaped) = str::from_utf8(key).ok()?.strip_prefix(&notices(prefix))?.split_once('/')?;
    Some((ClaimId::parse(id)?, format!("{prefix}{escaped}/")))
}

/// The start of the keys of one manager's claims in the queue of a lock.
pub(super) fn of_manager(prefix: &str, name: &Name, id: ClaimId) -> String {
    format!("{}{}.", queue(prefix, name), id.manager())
}

/// The start of the keys of all names that begin with `names`.
///
/// A percent sign ends it, because another program may have written that as it is. So the range may have
/// other names too.
pub(super) fn of_names(prefix: &str, names: &str) -> String {
    let plain = names.split('%').next().unwrap_or_default();
    format!("{prefix}{}", plain.replace('/', "%2F"))
}

/// The end of the range of keys that begin with `start`, which must not be empty.
pub(super) fn end(start: &str) -> Vec<u8> {
    let mut end = start.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// The prefix of the keys of the queue that a key is in; `None` for a key that is in none.
pub(super) fn queue_of<'a>(prefix: &str, key: &'a [u8]) -> Option<&'a str> {
    let below = key.strip_prefix(prefix.as_bytes())?;
    let slash = below.iter().position(|byte| *byte == b'/')?;
    str::from_utf8(&key[..=prefix.len() + slash]).ok()
}

/// Reads the name of a lock back from one of its keys.
pub(super) fn name(prefix: &str, key: &[u8]) -> Option<Name> {
    let escaped = queue_of(prefix, key)?.strip_prefix(prefix)?.strip_suffix('/')?;
    Name::new(escaped.replace("%2F", "/").replace("%25", "%")).ok()
}

/// A claim as its key shows it. A key of another program is an exclusive claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueueEntry {
    pub(super) key: Vec<u8>,
    /// Whether globallock created the key.
    pub(super) ours: bool,
    pub(super) permits: Permits,
    /// The revision at which the key was created: the claim's position in the queue, and its fencing token.
    pub(super) revision: i64,
    pub(super) lease: i64,
}

impl QueueEntry {
    pub(super) fn new(found: &KeyValue) -> Self {
        let permits = permits(&found.key);
        QueueEntry {
            key: found.key.clone(),
            ours: permits.is_some(),
            permits: permits.unwrap_or(ALL),
            revision: found.create_revision,
            lease: found.lease,
        }
    }
}

impl Entry for QueueEntry {
    fn permits(&self) -> Permits {
        self.permits
    }
}

/// Whether the last part of a key is a lease in hexadecimal digits, which is how etcd's own mutex names its
/// keys.
pub(super) fn is_lease(key: &[u8]) -> bool {
    let own = key.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    (8..=16).contains(&own.len()) && own.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// Reads a claim's permits from its key; `None` for a key that globallock did not create.
fn permits(key: &[u8]) -> Option<Permits> {
    let (_, own) = std::str::from_utf8(key).ok()?.rsplit_once('/')?;
    let [manager, number, count, capacity] = own.split('.').collect::<Vec<_>>()[..] else { return None };
    let hexadecimal = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    let ours = manager.len() == ClaimId::MANAGER_DIGITS && manager.bytes().all(hexadecimal);
    number.parse::<u32>().ok().filter(|_| ours)?;
    let permits = Permits::new(count.parse().ok()?, capacity.parse().ok()?);
    (permits.count > 0).then_some(permits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_two_names_share_a_range(one in "[ab%/F25.]{1,6}", other in "[ab%/F25.]{1,6}") {
            prop_assume!(one != other);
            let [one, other] = [one, other].map(|name| queue("/locks/", &Name::new(name).unwrap()));
            prop_assert!(!one.starts_with(&other) && !other.starts_with(&one), "{one} {other}");
        }

        #[test]
        fn a_name_is_read_back_from_its_keys(text in "[^\0]{1,40}") {
            let lock = Name::new(text).unwrap();
            let key = queue("/locks/", &lock) + "694d80";
            prop_assert_eq!(name("/locks/", key.as_bytes()), Some(lock));
        }

        #[test]
        fn a_key_is_in_the_range_of_its_own_lock_and_of_no_other(
            one in "[ab%/F25.]{1,6}", other in "[ab%/F25.]{1,6}", own in "[^\0]{0,10}",
        ) {
            let [one_start, other_start] =
                [&one, &other].map(|name| queue("/locks/", &Name::new(name.as_str()).unwrap()));
            let key = format!("{one_start}{own}").into_bytes();
            let is_in = |start: &str| start.as_bytes() <= &key[..] && key < end(start);
            prop_assert!(is_in(&one_start));
            prop_assert_eq!(is_in(&other_start), one == other);
        }

        #[test]
        fn tombstones_and_sentinels_are_in_no_queue_and_belong_to_one_lease(
            name in "[ab%/F25.]{1,6}", number in 0_u64..3, lease in 1_i64..=i64::MAX, other in 1_i64..40,
        ) {
            let id = ClaimId::new(1, number);
            let keys = [tombstone("/locks/", id, lease), sentinel("/locks/", lease)];
            prop_assert!(keys[0] != keys[1]);
            let name = Name::new(name).unwrap();
            let start = queue("/locks/", &name);
            for key in &keys {
                prop_assert!(key.starts_with(b"/locks/"), "its users need no rights but those on the prefix");
                prop_assert!(key < &start.clone().into_bytes() || key >= &end(&start));
                prop_assert_eq!(super::name("/locks/", key), None);
            }
            let notice = notice("/locks/", &name, id);
            prop_assert!(!keys.contains(&notice) && notice.starts_with(b"/locks/"));
            prop_assert!(notice < start.clone().into_bytes() || notice >= end(&start));
            prop_assert_eq!(super::name("/locks/", &notice), None);
            prop_assert_eq!(noticed("/locks/", &notice), Some((id, start)));
            prop_assert!(keys.iter().all(|key| noticed("/locks/", key).is_none()));
            let others = [tombstone("/locks/", id, other), sentinel("/locks/", other)];
            prop_assert_eq!(keys == others, lease == other);
            prop_assert!(lease == other || (keys[0] != others[0] && keys[1] != others[1]));
            prop_assert_ne!(&keys[0], &tombstone("/locks/", ClaimId::new(1, number + 1), lease));
        }
    }

    proptest! {
        #[test]
        fn a_name_is_in_the_range_of_what_it_begins_with(name in "[ab%/F25.é]{1,8}", length in 0_usize..9) {
            let begins: String = name.chars().take(length).collect();
            let start = of_names("/locks/", &begins);
            let name = Name::new(name).unwrap();
            // As we write it, and as another program may.
            let raw = name.as_str().replace('/', "%2F");
            for queue in [queue("/locks/", &name), format!("/locks/{raw}/")] {
                let key = format!("{queue}x/y").into_bytes();
                prop_assert!(start.as_bytes() <= &key[..] && key < end(&start), "{start} {queue}");
                prop_assert_eq!(queue_of("/locks/", &key), Some(&queue[..]));
            }
            for key in [raw.clone(), format!("/locks/{raw}")] {
                prop_assert_eq!(queue_of("/locks/", key.as_bytes()), None);
            }
        }
    }

    #[test]
    fn a_claim_is_in_the_range_of_its_manager() {
        let claim = Claim::new(ClaimId::new(7, 3), Name::new("a").unwrap(), ALL);
        let start = of_manager("/locks/", &claim.name, claim.id);
        assert!(super::claim("/locks/", &claim, 12).starts_with(start.as_bytes()));
        let other = Claim::new(ClaimId::new(8, 3), Name::new("a").unwrap(), ALL);
        assert!(!super::claim("/locks/", &other, 12).starts_with(start.as_bytes()));
    }

    #[test]
    fn only_a_well_formed_key_of_ours_has_permits() {
        let manager = "0123456789abcdef0123";
        let permit = Permits::new(2, 5);
        for (own, permits) in [
            (format!("{manager}.7.2.5"), Some(permit)),
            (format!("{manager}.7.0.5"), None),
            (format!("{manager}.7.2"), None),
            (format!("{manager}.7.2.5.1"), None),
            (format!("{manager}.x.2.5"), None),
            (format!("{manager}.7.2.x"), None),
            (format!("{manager}.4294967296.2.5"), None),
            (format!("{}.7.2.5", &manager[1..]), None),
            (format!("{manager}4.7.2.5"), None),
            (format!("{}g.7.2.5", &manager[1..]), None),
            (format!("{}.7.2.5", manager.to_uppercase()), None),
        ] {
            let found = KeyValue { key: format!("/locks/a/{own}").into(), ..KeyValue::default() };
            let entry = QueueEntry::new(&found);
            assert_eq!((entry.ours, entry.permits), (permits.is_some(), permits.unwrap_or(ALL)), "{own}");
        }
    }

    #[test]
    fn etcds_own_mutex_names_its_keys_by_leases() {
        for (own, is_one) in [
            ("694d80a1b2c3d4e5", true),
            ("0123abcd", true),
            ("123abcd", false),
            ("694d80a1b2c3d4e5f", false),
            ("694d80a1b2c3d4eg", false),
            ("694D80A1B2C3D4E5", false),
            ("abcdefgh", false),
            ("", false),
        ] {
            assert_eq!(is_lease(format!("/locks/a/{own}").as_bytes()), is_one, "{own:?}");
        }
    }

    #[test]
    fn keys_of_other_programs_are_exclusive_claims() {
        for key in ["/locks/a/694d80", "/locks/a/", "/locks/a/x.1.1", "/locks/a/\u{7f}"] {
            let found = KeyValue { key: key.into(), create_revision: 7, ..KeyValue::default() };
            let entry = QueueEntry::new(&found);
            assert_eq!((entry.ours, entry.permits), (false, ALL), "{key}");
        }
    }
}

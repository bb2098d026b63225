//! The keys of one lock: those of etcd's own mutex, so that its users and ours queue with each other.

use crate::backend::{Claim, ClaimId};
use crate::name::Name;
use crate::queue::Share;

use super::messages::KeyValue;

/// What a key that is not ours takes: all there is, as etcd's own mutex does.
const ALL: Share = Share { weight: 1, capacity: 1 };

/// What all keys of a lock begin with. A name's slash would make its keys look like those of a shorter name.
pub(super) fn queue(prefix: &str, name: &Name) -> String {
    let escaped = name.as_str().replace('%', "%25").replace('/', "%2F");
    format!("{prefix}{escaped}/")
}

/// The key of a claim: `<manager>.<number>.<weight>.<capacity>` below its lock.
pub(super) fn claim(prefix: &str, claim: &Claim, number: u32) -> Vec<u8> {
    let Share { weight, capacity } = claim.share;
    let manager = claim.id.manager();
    format!("{}{manager}.{number}.{weight}.{capacity}", queue(prefix, &claim.name)).into_bytes()
}

/// The key that bars a claim from being put under this lease any more: below no name, as that of no lock is empty.
pub(super) fn bar(prefix: &str, id: ClaimId, lease: i64) -> Vec<u8> {
    format!("{prefix}/{id}.{lease:x}").into_bytes()
}

/// The key that lives as long as a lease does.
pub(super) fn marker(prefix: &str, lease: i64) -> Vec<u8> {
    format!("{prefix}/{lease:x}").into_bytes()
}

/// The end of the range of keys that begin with `start`, which ends in a slash.
pub(super) fn end(start: &str) -> Vec<u8> {
    let mut end = start.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// Reads the name of a lock back from one of its keys.
pub(super) fn name(prefix: &str, key: &[u8]) -> Option<Name> {
    let key = std::str::from_utf8(key).ok()?.strip_prefix(prefix)?;
    let (escaped, _) = key.split_once('/')?;
    Name::new(escaped.replace("%2F", "/").replace("%25", "%")).ok()
}

/// A claim as its key tells it; one of another program's takes all there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) key: Vec<u8>,
    /// Whether globallock made it.
    pub(super) ours: bool,
    pub(super) share: Share,
    pub(super) revision: i64,
    pub(super) lease: i64,
}

impl Listed {
    pub(super) fn new(found: &KeyValue) -> Self {
        let share = share(&found.key);
        Listed {
            key: found.key.clone(),
            ours: share.is_some(),
            share: share.unwrap_or(ALL),
            revision: found.create_revision,
            lease: found.lease,
        }
    }
}

/// Whether a key that is not ours is called as etcd's own mutex calls its keys: by a lease in hexadecimal digits.
pub(super) fn is_lease(key: &[u8]) -> bool {
    let own = key.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    (8..=16).contains(&own.len()) && own.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// Reads the share of a claim from its key, if globallock made it.
fn share(key: &[u8]) -> Option<Share> {
    let (_, own) = std::str::from_utf8(key).ok()?.rsplit_once('/')?;
    let [manager, number, weight, capacity] = own.split('.').collect::<Vec<_>>()[..] else { return None };
    let hexadecimal = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    let ours = manager.len() == ClaimId::MANAGER_DIGITS && manager.bytes().all(hexadecimal);
    number.parse::<u32>().ok().filter(|_| ours)?;
    let share = Share { weight: weight.parse().ok()?, capacity: capacity.parse().ok()? };
    (share.weight > 0).then_some(share)
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
    }

    #[test]
    fn keys_of_other_programs_take_all_there_is() {
        for key in ["/locks/a/694d80", "/locks/a/", "/locks/a/x.1.1", "/locks/a/\u{7f}"] {
            let found = KeyValue { key: key.into(), create_revision: 7, ..KeyValue::default() };
            let listed = Listed::new(&found);
            assert_eq!((listed.ours, listed.share), (false, ALL), "{key}");
        }
    }
}

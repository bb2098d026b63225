//! The advisory locks by which other libraries lock a name, so that a fleet can move from them lock by lock.
//!
//! Facts about names are from django-pglock 1.8 and from DistributedLock.Postgres 1.3.

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};

use crate::name::Name;
use crate::queue::Permits;

/// The longest name that `DistributedLock` packs into the key as it is.
const PACKED: usize = 9;

/// Whose locks are taken too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peers {
    /// Those of all libraries that are known.
    All,
    DjangoPglock,
    DistributedLock,
}

/// What an advisory lock is taken by. The two spaces of keys do not overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    One(i64),
    Two(i32, i32),
}

/// The advisory locks that belong to one claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Advisory {
    /// In the order in which they are taken.
    pub(super) keys: Vec<Key>,
    /// Whether others may share them.
    pub(super) is_shared: bool,
}

impl Peers {
    /// Reads the option of an address.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "advisory" => Some(Peers::All),
            "django-pglock" => Some(Peers::DjangoPglock),
            "madelson" => Some(Peers::DistributedLock),
            _ => None,
        }
    }

    /// The advisory locks of a claim; `None` if there are none of this kind, as for a semaphore.
    pub(super) fn advisory(self, name: &Name, permits: Permits) -> Option<Advisory> {
        let is_shared = match permits {
            Permits::READ => true,
            Permits::MUTEX | Permits::WRITE => false,
            _ => return None,
        };
        let name = name.as_str();
        let keys = match self {
            Peers::All => vec![of_django_pglock(name), of_distributed_lock(name)],
            Peers::DjangoPglock => vec![of_django_pglock(name)],
            Peers::DistributedLock => vec![of_distributed_lock(name)],
        };
        Some(Advisory { keys, is_shared })
    }
}

/// django-pglock takes the beginning of a hash.
fn of_django_pglock(name: &str) -> Key {
    Key::One(beginning(digest(&SHA256, name.as_bytes()).as_ref()))
}

/// `DistributedLock` keeps a short name in the key, reads one that is a number in hexadecimal digits, and
/// takes the beginning of a hash of any other.
fn of_distributed_lock(name: &str) -> Key {
    packed(name)
        .or_else(|| number(name))
        .unwrap_or_else(|| Key::One(beginning(digest(&SHA1_FOR_LEGACY_USE_ONLY, name.as_bytes()).as_ref())))
}

/// The first eight bytes of a hash, the lowest one first.
fn beginning(hash: &[u8]) -> i64 {
    hash.first_chunk().map_or(0, |bytes| i64::from_le_bytes(*bytes))
}

/// Seven bits for each character, then a zero, then ones up to 64 bits.
fn packed(name: &str) -> Option<Key> {
    if name.len() > PACKED || !name.is_ascii() {
        return None;
    }
    let characters = name.bytes().fold(0_u64, |bits, byte| bits << 7 | u64::from(byte));
    let rest = 7 * (PACKED - name.len());
    let bits = (characters << 1) << rest | ((1 << rest) - 1);
    Some(two(bits))
}

/// `XXXXXXXXXXXXXXXX` or `XXXXXXXX,XXXXXXXX`.
fn number(name: &str) -> Option<Key> {
    let part = |text: &str| -> Option<u32> {
        let is_one = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_one.then(|| u32::from_str_radix(text, 16).ok()).flatten()
    };
    let (first, rest) = name.split_at_checked(8)?;
    let (second, is_pair) = rest.strip_prefix(',').map_or((rest, false), |second| (second, true));
    let bits = u64::from(part(first)?) << 32 | u64::from(part(second)?);
    Some(if is_pair { two(bits) } else { Key::One(bits.cast_signed()) })
}

fn two(bits: u64) -> Key {
    let halves = bits.to_be_bytes();
    let [a, b, c, d, e, f, g, h] = halves;
    Key::Two(i32::from_be_bytes([a, b, c, d]), i32::from_be_bytes([e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_hashed_as_django_pglock_does() {
        // int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little", signed=True)
        for (name, key) in [
            ("a", -3_837_880_752_741_967_926),
            ("orders/7", 6_088_851_114_637_197_265),
            ("é漢字 of everything", -489_729_126_761_285_009),
        ] {
            assert_eq!(of_django_pglock(name), Key::One(key), "{name}");
        }
    }

    #[test]
    fn names_become_keys_as_in_distributed_lock() {
        for (name, key) in [
            ("", two(0x7fff_ffff_ffff_ffff)),
            ("a", two(0xc2 << 56 | 0x00ff_ffff_ffff_ffff)),
            ("\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}", two(0xffff_ffff_ffff_fffe)),
            ("0000000000000001", Key::One(1)),
            ("ffffffffFFFFFFFF", Key::One(-1)),
            ("00000003,ffffffff", Key::Two(3, -1)),
            // Of its own tests.
            (&"漢".repeat(18), Key::One(-5_707_277_204_051_710_361)),
        ] {
            assert_eq!(of_distributed_lock(name), key, "{name}");
        }
        for name in ["000000000000000g", "+00000000000000f", "00000003;ffffffff", "00000003,fffffff", "ééééé"]
        {
            assert!(number(name).is_none() && packed(name).is_none(), "{name}");
        }
    }

    #[test]
    fn only_what_excludes_or_shares_has_advisory_locks() {
        let name = Name::new("a").unwrap();
        let of = |permits| Peers::All.advisory(&name, permits);
        for (permits, is_shared) in [(Permits::MUTEX, false), (Permits::WRITE, false), (Permits::READ, true)]
        {
            let advisory = of(permits).unwrap();
            assert_eq!((advisory.keys.len(), advisory.is_shared), (2, is_shared));
        }
        assert_eq!(of(Permits::new(1, 2)), None);
        assert_eq!(of(Permits::new(2, 2)), None);
        for (text, count) in [("advisory", 2), ("django-pglock", 1), ("madelson", 1)] {
            let peers = Peers::parse(text).unwrap();
            assert_eq!(peers.advisory(&name, Permits::MUTEX).unwrap().keys.len(), count, "{text}");
        }
        assert_eq!(Peers::parse("all"), None);
    }

    proptest! {
        #[test]
        fn short_names_have_keys_of_their_own(names in prop::collection::vec("[\0-\x7f]{0,9}", 1..50)) {
            let mut found = HashMap::new();
            for name in names {
                let key = of_distributed_lock(&name);
                prop_assert!(matches!(key, Key::Two(..)));
                prop_assert_eq!(found.entry(key).or_insert_with(|| name.clone()), &name);
            }
        }

        #[test]
        fn numbers_are_read_as_they_are_written(bits in any::<u64>(), upper in any::<bool>()) {
            let one = format!("{bits:016x}");
            let pair = format!("{:08x},{:08x}", bits >> 32, bits & 0xffff_ffff);
            let (one, pair) = if upper { (one.to_uppercase(), pair.to_uppercase()) } else { (one, pair) };
            prop_assert_eq!(of_distributed_lock(&one), Key::One(bits.cast_signed()));
            prop_assert_eq!(of_distributed_lock(&pair), two(bits));
        }

        #[test]
        fn any_name_has_a_key(name in any::<String>()) {
            let _ = (of_django_pglock(&name), of_distributed_lock(&name));
        }
    }
}

//! The keys of one lock, all in one hash slot of a cluster.

use std::sync::LazyLock;

use crate::backend::ClaimId;
use crate::error::{Error, Result};
use crate::name::Name;

/// How many hash slots a Redis Cluster has.
const HASH_SLOTS: u16 = 16384;

/// The suffixes of the side keys, which are the keys beside the lock's own, in the order that the scripts
/// expect.
const SIDES: [&str; 4] = ["fence", "queue", "claims", "shared"];

/// The suffix of the notices for evicted claims, which are side keys too.
const NOTICE: &str = "evicted";

/// The suffix of the state of the gaps, which is a side key too: see `gaps.lua`.
const GAPS: &str = "gap";

/// The suffix of the value, which is a side key too. Not a word that users may end a name with: without a
/// prefix, such names are refused.
const VALUE: &str = "glk-value";

/// Refuses a name whose own key may be a side key of another lock. Only a prefix keeps the two apart.
pub(super) fn check(prefix: &str, name: &Name) -> Result<()> {
    if prefix.is_empty() && is_side_key(name.as_str()) {
        let reason =
            "without a prefix, its key may belong to the queue of another lock: choose a prefix".to_owned();
        return Err(Error::InvalidName { name: name.to_string(), reason });
    }
    Ok(())
}

/// The key of the lock itself.
pub(super) fn lock(prefix: &str, name: &Name) -> String {
    [prefix, name.as_str()].concat()
}

/// The keys of one lock, in the order that the scripts expect.
pub(super) fn keys(prefix: &str, name: &Name) -> [String; 5] {
    let lock = lock(prefix, name);
    let [counter, queue, claims, shared] = SIDES.map(|side| side_key(&lock, side));
    [lock, counter, queue, claims, shared]
}

/// The key of the notice that a claim has been evicted. It has the claim's id, so that each notice expires by
/// itself.
pub(super) fn notice(prefix: &str, name: &Name, id: ClaimId) -> String {
    side_key(&lock(prefix, name), &format!("{id}:{NOTICE}"))
}

/// The key of the state of the gaps.
pub(super) fn gaps(prefix: &str, name: &Name) -> String {
    side_key(&lock(prefix, name), GAPS)
}

/// The key of the value.
pub(super) fn value(prefix: &str, name: &Name) -> String {
    side_key(&lock(prefix, name), VALUE)
}

/// Whether `key` is a side key of some lock.
pub(super) fn is_side_key(key: &str) -> bool {
    let ends_in = |side: &&str| key.strip_suffix(*side).is_some_and(|rest| rest.ends_with(':'));
    key.starts_with('{') && SIDES.iter().chain([&NOTICE, &GAPS, &VALUE]).any(ends_in)
}

fn side_key(lock: &str, side: &str) -> String {
    if !lock.contains(['{', '}']) {
        // As `format!` does, whose text grows by its parts.
        return ["{", lock, "}:", side].concat();
    }
    // Braces in the name change which part of the key is hashed, so that the name cannot be the hash tag. A
    // number with the same hash slot is the tag instead.
    format!("{{{}}}:{lock}:{side}", TAGS[usize::from(hash_slot(lock))])
}

/// For each hash slot the smallest number whose digits hash to it.
static TAGS: LazyLock<Vec<u32>> = LazyLock::new(|| {
    let mut tags = vec![None; usize::from(HASH_SLOTS)];
    let mut missing = tags.len();
    for number in 0_u32.. {
        let tag = &mut tags[usize::from(hash_slot(&number.to_string()))];
        if tag.is_none() {
            *tag = Some(number);
            missing -= 1;
        }
        if missing == 0 {
            break;
        }
    }
    tags.into_iter().flatten().collect()
});

/// The hash slot of a key: of what is between its first pair of braces, if that is not empty, else of the
/// whole key. <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>
fn hash_slot(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    crc16(tag.filter(|tag| !tag.is_empty()).unwrap_or(key).as_bytes()) % HASH_SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

/// A pattern for SCAN that matches the keys that begin with `text`, taken literally.
pub(super) fn pattern(text: &str) -> String {
    let escaped: String = text
        .chars()
        .flat_map(|c| {
            ['*', '?', '[', ']', '^', '-', '\\'].contains(&c).then_some('\\').into_iter().chain([c])
        })
        .collect();
    escaped + "*"
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hash_slots_are_those_of_redis_cluster() {
        // The check value of CRC-16/XMODEM, and what CLUSTER KEYSLOT answers.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, expected) in
            [("foo", 12182), ("{foo}bar", 12182), ("foo{}{bar}", 8363), ("foo{{bar}}zap", 4015)]
        {
            assert_eq!(hash_slot(key), expected, "{key}");
        }
    }

    #[test]
    fn keys_of_plain_names_can_be_read() {
        let keys = keys("_glocks:", &Name::new("nightly").unwrap());
        assert_eq!(keys[0], "_glocks:nightly");
        assert_eq!(keys[2], "{_glocks:nightly}:queue");
    }

    #[test]
    fn keys_come_in_the_order_that_the_scripts_expect() {
        let plain = keys("p:", &Name::new("a").unwrap());
        assert_eq!(plain, ["p:a", "{p:a}:fence", "{p:a}:queue", "{p:a}:claims", "{p:a}:shared"]);
        let id = ClaimId::new(5, 6);
        assert_eq!(
            notice("p:", &Name::new("a").unwrap(), id),
            "{p:a}:00000000000000000005000000000006:evicted"
        );
        assert_eq!(gaps("p:", &Name::new("a").unwrap()), "{p:a}:gap");
        assert_eq!(value("p:", &Name::new("a").unwrap()), "{p:a}:glk-value");
        let braces = keys("p:", &Name::new("{a}").unwrap());
        let tag = braces[1].split_once('}').unwrap().0;
        assert_eq!(braces[0], "p:{a}");
        for (key, side) in braces[1..].iter().zip(SIDES) {
            assert_eq!(*key, format!("{tag}}}:p:{{a}}:{side}"));
        }
    }

    #[test]
    fn a_lock_whose_name_resembles_a_side_key_is_listed() {
        for (key, is_side) in [
            ("{_glocks:a}:fence", true),
            ("{_glocks:a}:shared", true),
            ("{_glocks:a}:gap", true),
            ("{_glocks:a}:glk-value", true),
            ("{_glocks:a}:value", false),
            ("{17}:_glocks:{a}:claims", true),
            ("{_glocks:a}:00000000000000000005000000000006:evicted", true),
            ("_glocks:a:queue", false),
            ("_glocks:{a}:queue", false),
            ("{_glocks:a}:other", false),
            ("{_glocks:a}queue", false),
            ("queue", false),
        ] {
            assert_eq!(is_side_key(key), is_side, "{key}");
        }
    }

    #[test]
    fn a_pattern_takes_every_text_literally() {
        for (text, expected) in [
            ("", "*"),
            ("_glocks:night", "_glocks:night*"),
            ("a*b?c", r"a\*b\?c*"),
            ("[^a-z]\\", r"\[\^a\-z\]\\*"),
        ] {
            assert_eq!(pattern(text), expected, "{text}");
        }
    }

    #[test]
    fn names_with_braces_share_no_key_with_others() {
        for prefix in ["_glocks:", ""] {
            let mut seen: HashMap<String, &str> = HashMap::new();
            for name in [
                "a",
                "{a}",
                "{a}b",
                "a}b",
                "a{b",
                "{}",
                "{}a",
                "}{",
                "{a}:queue",
                "{a}:fence",
                "a:queue",
                "{{a}}",
                "{0}:a",
                "{{a}:queue}:queue",
            ] {
                let lock = Name::new(name).unwrap();
                if check(prefix, &lock).is_err() {
                    continue;
                }
                let notice = notice(prefix, &lock, ClaimId::new(5, 6));
                for key in keys(prefix, &lock).into_iter().chain([notice, gaps(prefix, &lock)]) {
                    if let Some(other) = seen.insert(key.clone(), name) {
                        panic!("{key:?} belongs to {name:?} and to {other:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn only_a_name_that_is_another_locks_key_is_refused() {
        let refused =
            |prefix, name| check(prefix, &Name::new(name).unwrap()).err().map(|error| error.to_string());
        for name in ["{a}:queue", "{a}:fence", "{17}:{a}:claims"] {
            assert!(refused("", name).is_some_and(|text| text.contains("choose a prefix")), "{name}");
            assert_eq!(refused("p:", name), None, "{name}");
        }
        for name in ["a", "{a}", "a:queue", "{a}:queues", "{order:17}:value"] {
            assert_eq!(refused("", name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn all_keys_of_a_name_share_its_hash_slot(name in "[a-z{}:]{1,12}") {
            let name = Name::new(name).unwrap();
            let keys = keys("_glocks:", &name);
            let others = [notice("_glocks:", &name, ClaimId::new(5, 6)), value("_glocks:", &name)];
            for key in keys.iter().chain(&others) {
                prop_assert_eq!(hash_slot(key), hash_slot(&keys[0]), "{}", key);
            }
        }

        #[test]
        fn only_side_keys_look_like_side_keys(name in "[a-z{}:]{1,12}") {
            let name = Name::new(name).unwrap();
            let keys = keys("_glocks:", &name);
            prop_assert!(is_side_key(&notice("_glocks:", &name, ClaimId::new(5, 6))));
            prop_assert!(is_side_key(&value("_glocks:", &name)));
            prop_assert!(!is_side_key(&keys[0]));
            prop_assert!(keys[1..].iter().all(|key| is_side_key(key)));
        }
    }
}

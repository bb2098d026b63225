//! How a claim and a lock are named in the file system.

use sha2::{Digest, Sha256};

use crate::backend::{Claim, ClaimId};
use crate::name::Name;
use crate::queue::Permits;

/// The longest directory name that shows the lock's name whole; a longer one is cut and told apart by a hash.
const LONGEST: usize = 200;

/// What the name of a claim's file says: all that decisions need, so that listing a directory reads the queue.
///
/// `<number>.<id>.<weight>.<capacity>.<longest hold in ms>.<granted at>`; the last two are 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot {
    /// The place in the queue, and the fencing token.
    pub(super) number: u64,
    pub(super) id: ClaimId,
    count: u32,
    capacity: u32,
    /// In milliseconds.
    max_hold: Option<u64>,
    /// When it was granted, in milliseconds of the host's monotonic clock.
    pub(super) granted: Option<u64>,
}

impl Slot {
    pub(super) fn new(claim: &Claim, number: u64, granted: Option<u64>) -> Self {
        let max_hold = claim.max_hold.map(|hold| u64::try_from(hold.as_millis()).unwrap_or(u64::MAX));
        let Permits { count, capacity } = claim.permits;
        Slot { number, id: claim.id, count, capacity, max_hold, granted }
    }

    pub(super) fn granted_at(self, now: u64) -> Self {
        Slot { granted: Some(now), ..self }
    }

    pub(super) fn permits(&self) -> Permits {
        Permits { count: self.count, capacity: self.capacity }
    }

    /// When the longest hold is over, if it is running.
    pub(super) fn hold_ends(&self) -> Option<u64> {
        Some(self.granted?.saturating_add(self.max_hold?))
    }

    /// Whether a grant would start the clock of a longest hold.
    pub(super) fn will_end(&self) -> bool {
        self.max_hold.is_some()
    }

    pub(super) fn parse(file: &str) -> Option<Self> {
        let mut parts = file.split('.');
        let number = parts.next().filter(|digits| digits.len() == 20)?.parse().ok()?;
        let id = ClaimId::parse(parts.next()?)?;
        let mut next = || parts.next()?.parse::<u64>().ok();
        let (count, capacity) = (u32::try_from(next()?).ok()?, u32::try_from(next()?).ok()?);
        let (max_hold, granted) = (next()?, next()?);
        let some = |value: u64| (value > 0).then_some(value);
        let slot = Slot { number, id, count, capacity, max_hold: some(max_hold), granted: some(granted) };
        parts.next().is_none().then_some(slot)
    }

    pub(super) fn file(&self) -> String {
        let Slot { number, id, count, capacity, max_hold, granted } = self;
        let (max_hold, granted) = (max_hold.unwrap_or(0), granted.unwrap_or(0));
        format!("{number:020}.{id}.{count}.{capacity}.{max_hold}.{granted}")
    }
}

/// The name of a lock's directory: plain letters as they are, other bytes as `%XX`.
pub(super) fn directory(name: &Name) -> String {
    let mut encoded = String::with_capacity(name.as_str().len());
    for (position, byte) in name.as_str().bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => encoded.push(char::from(byte)),
            b'.' if position > 0 => encoded.push('.'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    if encoded.len() > LONGEST {
        encoded.truncate(LONGEST - 66);
        encoded.push_str("%%");
        encoded.extend(Sha256::digest(name.as_str()).iter().map(|byte| format!("{byte:02x}")));
    }
    encoded
}

/// The lock that a directory is for; `None` where only a claim in it can tell, since its name was cut.
pub(super) fn name_of(directory: &str) -> Option<Name> {
    if directory.starts_with('.') || directory.contains("%%") {
        return None;
    }
    Name::new(percent_encoding::percent_decode_str(directory).decode_utf8().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::WaitMode;
    use proptest::prelude::*;
    use std::time::Duration;

    proptest! {
        #[test]
        fn a_lock_is_read_back_from_its_directory(name in "[^\0]{1,60}") {
            let name = Name::new(name).unwrap();
            let directory = directory(&name);
            prop_assert!(!directory.starts_with('.') && !directory.contains('/') && directory.len() <= LONGEST);
            if !directory.contains("%%") {
                prop_assert_eq!(name_of(&directory), Some(name));
            }
        }

        #[test]
        fn a_claim_is_read_back_from_its_file(number: u64, manager in 0_u128..1 << 80, count: u32, capacity: u32, hold in 0_u64..9, granted in 0_u64..9) {
            let some = |value: u64| (value > 0).then_some(value);
            let slot = Slot { number, id: ClaimId::new(manager, 7), count, capacity, max_hold: some(hold), granted: some(granted) };
            prop_assert!(slot.file().len() < 255);
            prop_assert_eq!(Slot::parse(&slot.file()), Some(slot));
        }

        #[test]
        fn any_other_file_is_no_claim(file in "[0-9a-f.]{0,90}") {
            if let Some(slot) = Slot::parse(&file) {
                prop_assert_eq!(Slot::parse(&slot.file()), Some(slot));
            }
        }
    }

    #[test]
    fn a_hold_ends_after_its_longest_time_counted_from_the_grant() {
        let claim = |max_hold| Claim {
            id: ClaimId::new(7, 7),
            name: Name::new("a").unwrap(),
            permits: Permits { count: 2, capacity: 3 },
            wait_mode: WaitMode::Wait,
            lease: Duration::from_secs(10),
            max_hold,
            owner: "me".into(),
        };
        for (max_hold, will_end, ends) in [
            (None, false, None),
            (Some(Duration::from_millis(1500)), true, Some(2500)),
            (Some(Duration::MAX), true, Some(u64::MAX)),
        ] {
            let waiting = Slot::new(&claim(max_hold), 5, None);
            assert_eq!(
                (waiting.will_end(), waiting.hold_ends()),
                (will_end, None),
                "its time begins with the grant"
            );
            let granted = waiting.granted_at(1000);
            assert_eq!((granted.will_end(), granted.hold_ends()), (will_end, ends));
            assert_eq!(granted, Slot::new(&claim(max_hold), 5, Some(1000)), "nothing else changes");
            assert_eq!(granted.permits(), Permits { count: 2, capacity: 3 });
        }
    }

    #[test]
    fn a_lock_is_found_in_a_listing_under_its_name() {
        let longest = "a".repeat(LONGEST);
        for (name, shown) in [
            ("nightly-report", "nightly-report"),
            ("A_z.09", "A_z.09"),
            (".fence", "%2Efence"),
            ("..", "%2E."),
            ("a/b%", "a%2Fb%25"),
            ("naïve", "na%C3%AFve"),
            (&longest, &longest),
        ] {
            let name = Name::new(name).unwrap();
            assert_eq!(directory(&name), shown);
            assert_eq!(name_of(shown), Some(name));
        }
        let too_long = directory(&Name::new("a".repeat(LONGEST + 1)).unwrap());
        let (start, hash) = too_long.split_once("%%").unwrap();
        assert_eq!((start, hash.len()), ("a".repeat(134).as_str(), 64));
        // What is no directory of a lock, or of one whose name only a claim can tell.
        for other in [".fence", ".a", "a%%b", &too_long, "%FF", ""] {
            assert_eq!(name_of(other), None, "{other:?}");
        }
    }

    #[test]
    fn long_names_have_directories_of_their_own() {
        let long = |last: char| Name::new(format!("{}{last}", "☃".repeat(150))).unwrap();
        assert_ne!(directory(&long('a')), directory(&long('b')));
        assert_eq!(directory(&long('a')).len(), LONGEST);
        assert_eq!(name_of(&directory(&long('a'))), None);
    }
}

//! The names of claims and locks in the file system.

use sha2::{Digest, Sha256};

use crate::backend::{Claim, ClaimId};
use crate::name::Name;
use crate::queue::Permits;

/// The longest name of a lock's directory. A longer one is cut, and a hash of the lock's name keeps it
/// unique.
const MAX_DIRECTORY_NAME: usize = 200;

/// The name of a claim's file. It says all that a decision needs, so that listing the directory reads the
/// queue.
///
/// `<number>.<id>.<count>.<capacity>.<max hold time in ms>.<granted at>`; the last two are 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClaimFile {
    /// The order in the queue, and the fencing token.
    pub(super) number: u64,
    pub(super) id: ClaimId,
    count: u32,
    capacity: u32,
    /// In milliseconds.
    max_hold: Option<u64>,
    /// When it was granted, in milliseconds of the host's clock since its start.
    pub(super) granted: Option<u64>,
}

impl ClaimFile {
    pub(super) fn new(claim: &Claim, number: u64, granted: Option<u64>) -> Self {
        let max_hold = claim.max_hold.map(|hold| u64::try_from(hold.as_millis()).unwrap_or(u64::MAX));
        let Permits { count, capacity } = claim.permits;
        ClaimFile { number, id: claim.id, count, capacity, max_hold, granted }
    }

    pub(super) fn granted_at(self, now: u64) -> Self {
        ClaimFile { granted: Some(now), ..self }
    }

    pub(super) fn permits(&self) -> Permits {
        Permits::new(self.count, self.capacity)
    }

    /// When the max hold time ends, once the claim is granted.
    pub(super) fn hold_ends(&self) -> Option<u64> {
        Some(self.granted?.saturating_add(self.max_hold?))
    }

    pub(super) fn has_max_hold(&self) -> bool {
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
        let file =
            ClaimFile { number, id, count, capacity, max_hold: some(max_hold), granted: some(granted) };
        parts.next().is_none().then_some(file)
    }

    pub(super) fn file_name(&self) -> String {
        let ClaimFile { number, id, count, capacity, max_hold, granted } = self;
        let (max_hold, granted) = (max_hold.unwrap_or(0), granted.unwrap_or(0));
        format!("{number:020}.{id}.{count}.{capacity}.{max_hold}.{granted}")
    }
}

/// The name of a lock's directory: letters, digits, `_`, `-` and `.` as they are, other bytes as `%XX`.
pub(super) fn directory_of(name: &Name) -> String {
    let mut encoded = String::with_capacity(name.as_str().len());
    for (position, byte) in name.as_str().bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => encoded.push(char::from(byte)),
            b'.' if position > 0 => encoded.push('.'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    if encoded.len() > MAX_DIRECTORY_NAME {
        encoded.truncate(MAX_DIRECTORY_NAME - 66);
        encoded.push_str("%%");
        encoded.extend(Sha256::digest(name.as_str()).iter().map(|byte| format!("{byte:02x}")));
    }
    encoded
}

/// The lock of a directory. `None` if the directory's name was cut, so that only the text of a claim has the
/// lock's name.
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
            let directory = directory_of(&name);
            prop_assert!(!directory.starts_with('.') && !directory.contains('/'));
            prop_assert!(directory.len() <= MAX_DIRECTORY_NAME);
            if !directory.contains("%%") {
                prop_assert_eq!(name_of(&directory), Some(name));
            }
        }

        #[test]
        fn a_claim_is_read_back_from_its_file(
            number: u64,
            manager in 0_u128..1 << 80,
            count: u32,
            capacity: u32,
            hold in 0_u64..9,
            granted in 0_u64..9,
        ) {
            let some = |value: u64| (value > 0).then_some(value);
            let id = ClaimId::new(manager, 7);
            let (max_hold, granted) = (some(hold), some(granted));
            let file = ClaimFile { number, id, count, capacity, max_hold, granted };
            prop_assert!(file.file_name().len() < 255);
            prop_assert_eq!(ClaimFile::parse(&file.file_name()), Some(file));
        }

        #[test]
        fn other_files_are_no_claims(file in "[0-9a-f.]{0,90}") {
            if let Some(file) = ClaimFile::parse(&file) {
                prop_assert_eq!(ClaimFile::parse(&file.file_name()), Some(file));
            }
        }
    }

    #[test]
    fn a_max_hold_time_counts_from_the_grant() {
        let claim = |max_hold| Claim {
            id: ClaimId::new(7, 7),
            name: Name::new("a").unwrap(),
            permits: Permits::new(2, 3),
            wait_mode: WaitMode::Wait,
            lease: Duration::from_secs(10),
            max_hold,
            owner: "me".into(),
            wants_value: false,
        };
        for (max_hold, has_max_hold, hold_ends) in [
            (None, false, None),
            (Some(Duration::from_millis(1500)), true, Some(2500)),
            (Some(Duration::MAX), true, Some(u64::MAX)),
        ] {
            let waiting = ClaimFile::new(&claim(max_hold), 5, None);
            assert_eq!(
                (waiting.has_max_hold(), waiting.hold_ends()),
                (has_max_hold, None),
                "the time begins with the grant"
            );
            let granted = waiting.granted_at(1000);
            assert_eq!((granted.has_max_hold(), granted.hold_ends()), (has_max_hold, hold_ends));
            assert_eq!(granted, ClaimFile::new(&claim(max_hold), 5, Some(1000)), "nothing else changes");
            assert_eq!(granted.permits(), Permits::new(2, 3));
        }
    }

    #[test]
    fn a_lock_has_a_directory_that_shows_its_name() {
        let longest = "a".repeat(MAX_DIRECTORY_NAME);
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
            assert_eq!(directory_of(&name), shown);
            assert_eq!(name_of(shown), Some(name));
        }
        let too_long = directory_of(&Name::new("a".repeat(MAX_DIRECTORY_NAME + 1)).unwrap());
        let (start, hash) = too_long.split_once("%%").unwrap();
        assert_eq!((start, hash.len()), ("a".repeat(134).as_str(), 64));
        // Not the directory of a lock, or one whose lock only the text of a claim names.
        for other in [".fence", ".a", "a%%b", &too_long, "%FF", ""] {
            assert_eq!(name_of(other), None, "{other:?}");
        }
    }

    #[test]
    fn long_names_have_directories_of_their_own() {
        let long = |last: char| Name::new(format!("{}{last}", "☃".repeat(150))).unwrap();
        assert_ne!(directory_of(&long('a')), directory_of(&long('b')));
        assert_eq!(directory_of(&long('a')).len(), MAX_DIRECTORY_NAME);
        assert_eq!(name_of(&directory_of(&long('a'))), None);
    }
}

//! The releases of etcd: which are served, and which have faults that can break locks.

/// The number of a release: `3.4.23`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32, pub(super) u32, pub(super) u32);

/// The oldest release that is supported.
pub(super) const OLDEST: Version = Version(3, 4, 0);
/// Those in which the last known fault was mended that can break a lock: see `docs/etcd.md`.
const MENDED: [Version; 3] = [Version(3, 4, 42), Version(3, 5, 28), Version(3, 6, 9)];

impl Version {
    pub(super) fn parse(version: &str) -> Option<Self> {
        let mut parts = version.split('.').map(|part| {
            let digits = part.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(part.len());
            part[..digits].parse().ok()
        });
        Some(Version(parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
    }

    /// The release to change to, if this one has a known fault.
    pub(super) fn mended(self) -> Option<Self> {
        MENDED.into_iter().find(|mended| (mended.0, mended.1) == (self.0, self.1) && self < *mended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_with_known_faults_are_told_from_those_where_they_are_mended() {
        for (version, mended) in [
            ("3.4.23", Some(MENDED[0])),
            ("3.4.41", Some(MENDED[0])),
            ("3.4.42", None),
            ("3.5.1", Some(MENDED[1])),
            ("3.5.28", None),
            ("3.6.0-rc.1", Some(MENDED[2])),
            ("3.6", Some(MENDED[2])),
            ("3.6.10", None),
            ("3.7.0", None),
            ("4.5.6+git", None),
        ] {
            assert_eq!(Version::parse(version).unwrap().mended(), mended, "{version}");
        }
        for none in ["", "3", "a.b", "not decided"] {
            assert_eq!(Version::parse(none), None, "{none}");
        }
        assert!(Version::parse("3.3.27").unwrap() < OLDEST && Version::parse("3.4.0").unwrap() >= OLDEST);
    }
}

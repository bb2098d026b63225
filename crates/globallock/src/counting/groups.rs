//! The label `group`: the user's few words for the names of locks.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use crate::sync::Mutex;

/// How many groups there are at most, besides `other`.
pub(crate) const MAX_GROUPS: usize = 100;

/// The group of names that have none, and of those whose group would be one too many.
pub(crate) const OTHER: &str = "other";

/// A map from the name of a lock to its group.
pub(crate) type Map = Box<dyn Fn(&str) -> Option<Cow<'static, str>> + Send + Sync>;

/// The user's map, and the groups that have come of it. These never become more than [`MAX_GROUPS`], whatever
/// the map answers: each is a time series of its own in every metric.
pub(super) struct Groups {
    map: Map,
    known: Mutex<HashSet<Cow<'static, str>>>,
}

impl Groups {
    pub(super) fn new(map: Map) -> Self {
        Groups { map, known: Mutex::default() }
    }

    /// The group of a name.
    pub(super) fn of(&self, name: &str) -> Cow<'static, str> {
        let Some(group) = (self.map)(name) else { return OTHER.into() };
        let mut known = self.known.lock();
        if known.contains(&group) {
            return group;
        }
        if group == OTHER || known.len() >= MAX_GROUPS {
            return OTHER.into();
        }
        known.insert(group.clone());
        group
    }
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Groups").field("known", &*self.known.lock()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(globallock_schedules)))]
mod tests {
    use super::*;

    #[test]
    fn groups_are_few_whatever_the_map_answers() {
        let groups = Groups::new(Box::new(|name| Some(name.to_owned().into())));
        let found: HashSet<_> = (0..1000).map(|number| groups.of(&number.to_string())).collect();
        assert_eq!(found.len(), MAX_GROUPS + 1, "the last is `other`");
        assert_eq!((groups.of("7"), groups.of("999")), ("7".into(), OTHER.into()), "a name keeps its group");
        let none = Groups::new(Box::new(|_| None));
        assert_eq!(none.of("7"), OTHER);
    }
}

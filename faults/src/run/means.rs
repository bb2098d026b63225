//! What a machine must permit for some kinds of faults.

use std::collections::BTreeSet;

use super::{all, network, stores};

/// What this machine permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Means {
    /// Network namespaces: owners have links that can be taken down.
    pub links: bool,
    /// Tracing: system calls of servers can be delayed.
    pub tracing: bool,
}

impl Means {
    /// Everything.
    pub const ALL: Means = Means { links: true, tracing: true };

    /// What a run has whose owners have links if it is in a namespace of its own.
    #[must_use]
    pub fn here(tracing: bool) -> Self {
        Means { links: network::has_links(), tracing }
    }

    /// The kinds of faults that are not possible without the rest, and why.
    #[must_use]
    pub fn missing(self) -> Vec<(String, &'static str)> {
        let mut missing = Vec::new();
        for (has, without, why) in [
            (self.links, Means { links: false, ..Means::ALL }, "no network namespaces"),
            (self.tracing, Means { tracing: false, ..Means::ALL }, "nothing may be traced"),
        ] {
            let kinds = |means| stores().into_iter().flat_map(|store| all(store, means)).collect();
            let (with, left): (BTreeSet<String>, BTreeSet<String>) = (kinds(Means::ALL), kinds(without));
            let gone: Vec<String> = with.difference(&left).cloned().collect();
            if !has {
                missing.push((gone.join(", "), why));
            }
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_does_not_permit_is_told() {
        assert_eq!(Means::ALL.missing(), []);
        let none = Means { links: false, tracing: false };
        let missing = [
            ("link_down, network_down".to_owned(), "no network namespaces"),
            ("hang_disk".to_owned(), "nothing may be traced"),
        ];
        assert_eq!(none.missing(), missing);
    }
}

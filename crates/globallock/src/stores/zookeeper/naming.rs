//! Where locks live in the tree, and the names of their claims' nodes.
//!
//! The names are those of other programs' recipes, so that their users and ours share one queue:
//! - kazoo's `<32 hex>__lock__<sequence>` and, for readers, `__rlock__`;
//! - Curator's `_c_<uuid>-lock-<sequence>`, `__READ__` and `__WRIT__`.
//!
//! A claim that the recipe has no name for carries its permits in front:
//! `<32 hex>.<count>.<capacity>__lock__…`.

use percent_encoding::percent_decode_str;

use crate::backend::{Claim, ClaimId};
use crate::name::Name;
use crate::queue::Permits;

const MUTEX: Permits = Permits::MUTEX;
const READ: Permits = Permits::READ;
const WRITE: Permits = Permits::WRITE;

/// The node below the root that notices to evicted owners are below. No lock has this path, because a percent
/// sign in a path is followed by two digits.
const NOTICES: &str = "%evicted";

/// The node below the root that the values are below.
const VALUES: &str = "%values";

/// The program whose names the claims' nodes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    Kazoo,
    Curator,
}

/// Where and how the locks of one store are kept.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// The path above all locks, without a trailing slash; empty for the tree's own root.
    pub(super) root: String,
    pub(super) naming: Naming,
}

/// A claim as its node's name describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListedClaim {
    /// The node's name, without its parent's path.
    pub(super) node: String,
    pub(super) id: Option<ClaimId>,
    pub(super) permits: Permits,
    /// ZooKeeper's 32-bit counter of the lock's children, which is the order of joining. It wraps from
    /// 2147483647 to -2147483648.
    pub(super) sequence: i32,
}

impl ListedClaim {
    /// The sort key of claims: two nodes with one sequence number are sorted by name.
    pub(super) fn order(&self) -> (i32, &str) {
        (self.sequence, &self.node)
    }

    /// The path of its node, by that of the lock's.
    pub(super) fn path(&self, lock: &str) -> String {
        format!("{lock}/{}", self.node)
    }
}

/// Whether the server allows this character in a path.
pub(super) fn is_allowed(c: char) -> bool {
    // The server checks UTF-16 units and refuses surrogates, so every character beyond U+FFFF is refused too.
    !matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..)
}

impl Layout {
    /// The path of a lock's node, whose children are the claims.
    ///
    /// The parts of a name between slashes become nodes within nodes, as in other programs. There are three
    /// exceptions, where slashes are escaped: a part that cannot be a node, a part that would look like a
    /// claim of the lock above it, and all names with Curator's naming, because Curator takes every child of
    /// a lock for a claim.
    pub(super) fn lock(&self, name: &Name) -> String {
        let bad = |part: &str| matches!(part, "" | "." | "..") || self.parse(part).is_some();
        let one_node = self.naming == Naming::Curator || name.as_str().split('/').any(bad);
        let mut path = format!("{}/", self.root);
        for c in name.as_str().chars() {
            let alone = matches!(name.as_str(), "." | "..");
            if c == '%' || !is_allowed(c) || (c == '/' && one_node) || alone {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    path.push_str(&format!("%{byte:02X}"));
                }
            } else {
                path.push(c);
            }
        }
        path
    }

    /// The name of the lock whose node has this path.
    pub(super) fn name(&self, lock: &str) -> Option<Name> {
        let escaped = lock.strip_prefix(&self.root)?.strip_prefix('/')?;
        Name::new(percent_decode_str(escaped).decode_utf8().ok()?).ok()
    }

    /// The path of the notice that a claim was evicted, and those of the two nodes above it.
    ///
    /// The notices to one manager are below one node, so that a manager can watch for its own alone.
    pub(super) fn notice(&self, id: ClaimId) -> (String, [String; 2]) {
        let above = [format!("{}/{NOTICES}", self.root), self.notices_to(&id.manager())];
        (format!("{}/{id}", above[1]), above)
    }

    /// The path of the node that the notices to a manager are below.
    pub(super) fn notices_to(&self, manager: &str) -> String {
        format!("{}/{NOTICES}/{manager}", self.root)
    }

    /// The path of the node that the values are below.
    pub(super) fn values(&self) -> String {
        format!("{}/{VALUES}", self.root)
    }

    /// Whether this is the path of the node that all notices are below.
    pub(super) fn is_notices(&self, path: &str) -> bool {
        path.strip_prefix(&self.root).and_then(|path| path.strip_prefix('/')) == Some(NOTICES)
    }

    /// The name of a claim's node, without the sequence number that the server appends.
    pub(super) fn claim(&self, claim: &Claim) -> String {
        let (id, permits) = (claim.id.to_string(), claim.permits);
        let Permits { count, capacity } = permits;
        match self.naming {
            Naming::Kazoo if permits == MUTEX => format!("{id}__lock__"),
            Naming::Kazoo if permits == READ => format!("{id}__rlock__"),
            Naming::Kazoo => format!("{id}.{count}.{capacity}__lock__"),
            Naming::Curator => {
                let uuid = [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]].join("-");
                match permits {
                    MUTEX => format!("_c_{uuid}-lock-"),
                    READ => format!("_c_{uuid}-__READ__"),
                    WRITE => format!("_c_{uuid}-__WRIT__"),
                    _ => format!("_c_{uuid}.{count}.{capacity}-lock-"),
                }
            }
        }
    }

    /// Parses the name of a node; `None` if it is not that of a claim.
    pub(super) fn parse(&self, node: &str) -> Option<ListedClaim> {
        let kinds = match self.naming {
            Naming::Kazoo => [("__lock__", MUTEX), ("__rlock__", READ)].as_slice(),
            Naming::Curator => [("-lock-", MUTEX), ("-__READ__", READ), ("-__WRIT__", WRITE)].as_slice(),
        };
        kinds.iter().find_map(|(kind, permits)| {
            let (prefix, sequence) = node.rsplit_once(kind)?;
            let (id, own_permits) = self.parse_prefix(prefix).unzip();
            Some(ListedClaim {
                node: node.to_owned(),
                id,
                permits: own_permits.flatten().unwrap_or(*permits),
                sequence: parse_sequence(sequence)?,
            })
        })
    }

    /// Whether a claim's node has the highest sequence number that there is.
    pub(super) fn has_last_sequence(&self, path: &str) -> bool {
        let node = path.rsplit('/').next().and_then(|node| self.parse(node));
        node.is_some_and(|listed| listed.sequence == i32::MAX)
    }

    /// Parses what precedes the kind: an id, and the permits if the kind does not imply them.
    fn parse_prefix(&self, prefix: &str) -> Option<(ClaimId, Option<Permits>)> {
        let (id, permits) = match prefix.split_once('.') {
            None => (prefix, None),
            Some((id, permits)) => {
                let (count, capacity) = permits.split_once('.')?;
                let (count, capacity) = (count.parse().ok()?, capacity.parse().ok()?);
                (id, (0 < count && count <= capacity).then_some(Permits::new(count, capacity)))
            }
        };
        match self.naming {
            Naming::Kazoo => Some((ClaimId::parse(id)?, permits)),
            Naming::Curator => Some((ClaimId::parse(&id.strip_prefix("_c_")?.replace('-', ""))?, permits)),
        }
    }

    /// Parses the children of a lock's node, and returns its claims in the order of joining.
    pub(super) fn queue(&self, nodes: &[String]) -> Vec<ListedClaim> {
        let mut queue: Vec<ListedClaim> = nodes.iter().filter_map(|node| self.parse(node)).collect();
        // Sequence numbers wrap, so they are sorted by their distance from one of them. Those of one queue
        // are never half the range apart. The base is a claim with an id, because another program may create
        // a node with a sequence number that no server has assigned.
        let base = queue.iter().find(|listed| listed.id.is_some()).or(queue.first());
        if let Some(base) = base.map(|listed| listed.sequence) {
            queue.sort_by_key(|listed| listed.sequence.wrapping_sub(base));
        }
        queue
    }
}

/// Parses a sequence number as the server writes it: ten digits, or a minus and nine or ten digits.
fn parse_sequence(text: &str) -> Option<i32> {
    let well_formed = text.len() == 10 || (text.len() == 11 && text.starts_with('-'));
    well_formed.then(|| text.parse().ok()).flatten().filter(|_| !text.starts_with('+'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::WaitMode;
    use proptest::prelude::*;

    fn layout(naming: Naming) -> Layout {
        Layout { root: "/_glocks".to_owned(), naming }
    }

    fn claim(permits: Permits) -> Claim {
        Claim {
            id: ClaimId::new(0xfeed, 7),
            name: Name::new("a").unwrap(),
            permits,
            wait_mode: WaitMode::Wait,
            lease: std::time::Duration::from_secs(10),
            max_hold: None,
            owner: "".into(),
            wants_value: false,
        }
    }

    #[test]
    fn claims_are_named_as_the_recipes_name_them() {
        let kazoo = layout(Naming::Kazoo);
        let id = claim(MUTEX).id.to_string();
        assert_eq!(kazoo.claim(&claim(MUTEX)), format!("{id}__lock__"));
        assert_eq!(kazoo.claim(&claim(READ)), format!("{id}__rlock__"));
        let curator = layout(Naming::Curator);
        assert_eq!(curator.claim(&claim(MUTEX)), "_c_00000000-0000-0000-feed-000000000007-lock-");
        assert_eq!(curator.claim(&claim(WRITE)), "_c_00000000-0000-0000-feed-000000000007-__WRIT__");
        assert_eq!(curator.claim(&claim(READ)), "_c_00000000-0000-0000-feed-000000000007-__READ__");
        let permits = Permits::new(2, 5);
        assert_eq!(kazoo.claim(&claim(permits)), format!("{id}.2.5__lock__"));
        assert_eq!(curator.claim(&claim(permits)), "_c_00000000-0000-0000-feed-000000000007.2.5-lock-");
    }

    #[test]
    fn claims_of_other_programs_are_told_from_nodes_that_are_no_claims() {
        let kazoo = layout(Naming::Kazoo);
        let theirs = kazoo.parse("anybody__rlock__0000000012").unwrap();
        assert_eq!((theirs.id, theirs.permits, theirs.sequence), (None, READ, 12));
        for node in [
            "b",
            "x__lock__",
            "x__lock__12",
            "x__lock__00000000-1",
            "x__lock__00000000012",
            "x__lock__+0000000012",
            "x__lock__+000000012",
            "_c_x-lock-0000000001",
        ] {
            assert_eq!(kazoo.parse(node), None, "{node}");
        }
        let curator = layout(Naming::Curator);
        assert_eq!(curator.parse("lock-0000000001"), None);
        assert_eq!(curator.parse("x-lock-0000000001").unwrap().permits, MUTEX);
    }

    #[test]
    fn impossible_permits_are_taken_for_those_of_a_mutex() {
        let kazoo = layout(Naming::Kazoo);
        let id = claim(MUTEX).id;
        for (text, permits) in [
            ("1.1", MUTEX),
            ("2.5", Permits::new(2, 5)),
            ("5.5", Permits::new(5, 5)),
            ("0.5", MUTEX),
            ("6.5", MUTEX),
            ("0.0", MUTEX),
        ] {
            let listed = kazoo.parse(&format!("{id}.{text}__lock__0000000001")).unwrap();
            assert_eq!((listed.id, listed.permits), (Some(id), permits), "{text}");
        }
    }

    #[test]
    fn only_the_highest_sequence_number_is_the_last() {
        for (naming, kind) in [(Naming::Kazoo, "x__lock__"), (Naming::Curator, "x-lock-")] {
            let layout = layout(naming);
            assert!(layout.has_last_sequence(&format!("/_glocks/a/{kind}2147483647")));
            for sequence in ["2147483646", "-2147483648", "0000000000", ""] {
                assert!(!layout.has_last_sequence(&format!("/_glocks/a/{kind}{sequence}")), "{sequence}");
            }
        }
    }

    #[test]
    fn the_order_continues_where_sequence_numbers_wrap() {
        let nodes =
            ["c__lock__-2147483648", "a__lock__2147483646", "d__lock__-2147483647", "b__lock__2147483647"];
        let queue = layout(Naming::Kazoo).queue(&nodes.map(str::to_owned));
        let order: String = queue.iter().filter_map(|listed| listed.node.chars().next()).collect();
        assert_eq!(order, "abcd");
    }

    #[test]
    fn the_parts_of_a_name_become_nodes_where_they_can() {
        let kazoo = layout(Naming::Kazoo);
        for (name, path) in [
            ("a/b", "/_glocks/a/b"),
            ("a//b", "/_glocks/a%2F%2Fb"),
            ("..", "/_glocks/%2E%2E"),
            ("a/x__lock__0000000001", "/_glocks/a%2Fx__lock__0000000001"),
            ("50%", "/_glocks/50%25"),
            ("\u{1f512}", "/_glocks/%F0%9F%94%92"),
        ] {
            assert_eq!(kazoo.lock(&Name::new(name).unwrap()), path);
        }
        assert_eq!(layout(Naming::Curator).lock(&Name::new("a/b").unwrap()), "/_glocks/a%2Fb");
    }

    #[test]
    fn notices_are_below_a_node_of_their_manager() {
        let id = ClaimId::new(0xfeed, 7);
        let (path, above) = layout(Naming::Kazoo).notice(id);
        let manager = "/_glocks/%evicted/0000000000000000feed";
        assert_eq!(above, ["/_glocks/%evicted", manager]);
        assert_eq!(path, format!("{manager}/0000000000000000feed000000000007"));
        let at_the_top = Layout { root: String::new(), naming: Naming::Curator };
        assert_eq!(at_the_top.notice(id).1[0], "/%evicted");
        assert!(at_the_top.is_notices("/%evicted") && !at_the_top.is_notices("/%evicted/a"));
    }

    proptest! {
        #[test]
        fn a_name_is_parsed_back_from_its_path(name in "[^\0]{1,40}") {
            let name = Name::new(name).unwrap();
            for naming in [Naming::Kazoo, Naming::Curator] {
                let layout = layout(naming);
                let path = layout.lock(&name);
                prop_assert_eq!(layout.name(&path), Some(name.clone()));
                let parts: Vec<&str> = path.split('/').skip(1).collect();
                prop_assert!(parts.iter().all(|part| !matches!(*part, "" | "." | "..")), "{}", path);
                prop_assert!(path.chars().all(is_allowed), "{}", path);
                prop_assert!(!parts.contains(&NOTICES), "{}", path);
            }
        }

        #[test]
        fn a_claim_is_parsed_back_from_its_node(
            count in 1_u32..=4,
            more in 0_u32..=4,
            sequence in any::<i32>(),
        ) {
            for permits in [MUTEX, READ, WRITE, Permits::new(count, count + more)] {
                for naming in [Naming::Kazoo, Naming::Curator] {
                    let layout = layout(naming);
                    let node = format!("{}{sequence:010}", layout.claim(&claim(permits)));
                    let listed = layout.parse(&node).unwrap();
                    prop_assert_eq!((listed.id, listed.permits), (Some(claim(permits).id), permits));
                    prop_assert_eq!(listed.sequence, sequence);
                }
            }
        }

        #[test]
        fn any_node_is_parsed_or_refused(node in ".*") {
            for naming in [Naming::Kazoo, Naming::Curator] {
                let _ = layout(naming).parse(&node);
            }
        }
    }
}

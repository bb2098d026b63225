//! The terms in which the members of a cluster answer, and which keep-alives count therefore.
//!
//! A keep-alive is not agreed on: whoever believes to lead the cluster renews the lease alone. A leader whose
//! disk hangs does not learn that it was deposed, and before etcd 3.4.31 and 3.5.13 it went on to answer
//! keep-alives, while the next leader let the lease expire. So an answer counts only if one term stands
//!
//! 1. in an earlier answer of the same member,
//! 2. in the answer to the keep-alive,
//! 3. in the answer, by any member, to a later request that the cluster agreed on: a write, or a linearizable
//!    read.
//!
//! Why that is enough: a member answers in the term of the last entry that it has applied, and every leader
//! begins with an entry of its own. By the first two, the leader of this term had been elected before the
//! lease was renewed, and the member that we asked knew of it. So either it was that leader, or it has passed
//! the keep-alive on to it, because a member gives up its leases before it applies an entry of another
//! leader. By the third, a majority was still in this term after the lease was renewed, so nobody else had
//! been elected. And whoever is elected later gives every lease its full time again.
//!
//! A member that is asked for a read without the others, by a serializable one, answers in its own term, as
//! the deposed leader does. So such a read confirms nothing.

use super::messages::Header;
use crate::sync::{Instant, Mutex, now};

/// The terms in which members have answered.
#[derive(Default)]
pub(super) struct Terms {
    members: Mutex<Vec<Seen>>,
}

/// The last term of one member.
struct Seen {
    member: u64,
    term: u64,
    /// When an answer in this term arrived first.
    since: Instant,
}

/// The term in which a member answered.
pub(super) fn term(header: Option<&Header>) -> u64 {
    header.map_or(0, |header| header.term)
}

impl Terms {
    /// Notes an answer, and returns whether its member had answered in the same term before `sent`.
    ///
    /// A term that is lower than the last one is noted too, because a cluster that was restored from a
    /// backup begins again.
    pub(super) fn note(&self, header: Option<&Header>, sent: Instant) -> bool {
        let (member, term) = (header.map_or(0, |header| header.member), term(header));
        let mut members = self.members.lock();
        match members.iter_mut().find(|seen| seen.member == member) {
            Some(seen) if seen.term == term => seen.since <= sent,
            Some(seen) => {
                (seen.term, seen.since) = (term, now());
                false
            }
            None => {
                members.push(Seen { member, term, since: now() });
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::stores::etcd::scripted::in_term;

    #[tokio::test(start_paused = true)]
    async fn a_term_is_known_of_a_member_once_it_has_answered_in_it() {
        let terms = Terms::default();
        let note = |member, term, sent| terms.note(in_term(member, term).as_ref(), sent);
        let first = now();
        assert!(!note(1, 2, first));
        assert!(note(1, 2, first), "it was sent after the first answer");
        assert!(!note(1, 2, first - Duration::from_millis(1)), "it was sent before");
        assert!(!note(2, 2, first), "of another member nothing is known");
        assert!(note(1, 2, first) && note(2, 2, first));
        // An election; and a cluster that was restored.
        for term in [3, 1] {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert!(!note(1, term, now()));
            assert!(note(1, term, now()) && note(2, 2, now()));
            assert!(!note(1, term, now() - Duration::from_millis(1)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_without_terms_has_one() {
        let terms = Terms::default();
        assert!(!terms.note(None, now()));
        assert!(terms.note(None, now()) && terms.note(Some(&Header::default()), now()));
    }
}

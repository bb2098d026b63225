//! The enqueues that were sent, and whose answer nobody has heard: the server may still carry them out.

use std::collections::HashSet;

use crate::backend::ClaimId;
use crate::sync::Mutex;

/// The claims of such enqueues, until they are released.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    claims: Mutex<HashSet<ClaimId>>,
}

/// An enqueue under way. If this is dropped, its answer is not heard.
#[must_use]
pub(super) struct Asked<'a> {
    unanswered: &'a Unanswered,
    id: ClaimId,
    was_known: bool,
}

impl Unanswered {
    /// Notes that the enqueue of a claim is about to be sent.
    pub(super) fn ask(&self, id: ClaimId) -> Asked<'_> {
        let was_known = !self.claims.lock().insert(id);
        Asked { unanswered: self, id, was_known }
    }

    /// Whether an enqueue of this claim may still be carried out.
    pub(super) fn has(&self, id: ClaimId) -> bool {
        self.claims.lock().contains(&id)
    }

    /// Notes that a claim was released, and will not be asked for again.
    pub(super) fn forget(&self, id: ClaimId) {
        self.claims.lock().remove(&id);
    }
}

impl Asked<'_> {
    /// Notes that this enqueue has been answered. An earlier one of the same claim may still be under way.
    pub(super) fn answered(self) {
        if !self.was_known {
            self.unanswered.forget(self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enqueue_is_unanswered_until_its_own_answer_or_the_release() {
        let (unanswered, id) = (Unanswered::default(), ClaimId::new(1, 1));
        unanswered.ask(id).answered();
        assert!(!unanswered.has(id));
        drop(unanswered.ask(id));
        assert!(unanswered.has(id));
        unanswered.ask(id).answered();
        assert!(unanswered.has(id), "the first one is still under way");
        unanswered.forget(id);
        assert!(!unanswered.has(id));
    }
}

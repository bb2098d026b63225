//! What a server pushes to the owners of claims: grants, evictions, and when to poll.
//!
//! Shared by the stores whose servers push such messages.

mod hints;
mod waiters;

use std::time::Duration;

use crate::backend::{ClaimId, Eviction, Grant};
use crate::sync::Instant;

pub(crate) use self::hints::Hints;
pub(crate) use self::waiters::{Known, Waiters, Whose};

/// What is between the id of a waiter that should poll and in how many milliseconds.
pub(crate) const POLLS: &str = " polls ";
/// What is between the id of an evicted claim and the notice.
pub(crate) const EVICTS: &str = " evicted ";

/// A moment on both clocks: the request was sent at `sent`, which is no later than `server_ms` on the
/// server's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) sent: Instant,
    pub(crate) server_ms: u64,
}

impl Clock {
    /// Converts a time of the server to a moment here that is no later.
    fn here(self, server_ms: u64) -> Instant {
        self.sent + Duration::from_millis(server_ms.saturating_sub(self.server_ms))
    }

    /// Makes the grant that a push describes.
    pub(crate) fn grant(self, pushed: &Pushed) -> Grant {
        Grant {
            fencing_token: pushed.fencing_token,
            expires: Some(self.here(pushed.expires)),
            lease: None,
            hold_ends: (pushed.hold_until > 0).then(|| self.here(pushed.hold_until)),
            value: None,
        }
    }
}

/// A grant as the server pushes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pushed {
    pub(crate) id: ClaimId,
    pub(crate) fencing_token: u64,
    pub(crate) expires: u64,
    pub(crate) hold_until: u64,
    /// The lock's key, needed to release a grant that nobody here waits for.
    pub(crate) key: String,
}

/// What the server pushes to a waiter that should poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Polls {
    pub(crate) id: ClaimId,
    pub(crate) poll_in: Duration,
}

/// An eviction as the server pushes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Evicted {
    pub(crate) id: ClaimId,
    pub(crate) eviction: Eviction,
}

impl Pushed {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let [id, number, expires, hold_until, key] =
            text.splitn(5, ' ').collect::<Vec<_>>().try_into().ok()?;
        Some(Pushed {
            id: ClaimId::parse(id)?,
            fencing_token: number.parse().ok()?,
            expires: expires.parse().ok()?,
            hold_until: hold_until.parse().ok()?,
            key: key.to_owned(),
        })
    }
}

impl Polls {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (id, poll_in) = text.split_once(POLLS)?;
        Some(Polls { id: ClaimId::parse(id)?, poll_in: Duration::from_millis(poll_in.parse().ok()?) })
    }
}

impl Evicted {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (id, eviction) = text.split_once(EVICTS)?;
        Some(Evicted { id: ClaimId::parse(id)?, eviction: Eviction::from_text(eviction) })
    }
}

/// Makes the part of a manager's channel that no other manager has. It is read from the operating system each
/// time, so that no fork of this process gets the same.
pub(crate) fn random_node() -> String {
    let mut bytes = [0_u8; 10];
    getrandom::fill(&mut bytes).expect("the operating system has random numbers");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::Owner;
    use crate::sync::now;

    fn id() -> ClaimId {
        ClaimId::new(5, 6)
    }

    fn pushed(id: ClaimId) -> Pushed {
        Pushed::parse(&format!("{id} 7 1500 0 _glocks:a b")).unwrap()
    }

    fn clock() -> Clock {
        Clock { sent: now(), server_ms: 1000 }
    }

    fn milliseconds(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn a_push_is_read_with_the_whole_key() {
        let expected = Pushed {
            id: id(),
            fencing_token: 7,
            expires: 1500,
            hold_until: 0,
            key: "_glocks:a b".to_owned(),
        };
        assert_eq!(pushed(id()), expected);
        for text in ["", "x", "00000000000000000000000000000000 1 2", "zz 1 2 3 key"] {
            assert_eq!(Pushed::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_grant_ends_as_long_after_the_request_as_the_server_says_and_never_before_it() {
        let clock = clock();
        let after = |number| Some(clock.sent + milliseconds(number));
        for (expires, hold_until, left, hold_left) in [
            (1500, 0, after(500), None),
            (1500, 1200, after(500), after(200)),
            // The server's clock has been set back since.
            (900, 1, after(0), after(0)),
        ] {
            let grant = clock.grant(&Pushed { expires, hold_until, ..pushed(id()) });
            assert_eq!(
                (grant.fencing_token, grant.expires, grant.hold_ends),
                (7, left, hold_left),
                "{expires} {hold_until}"
            );
        }
    }

    #[test]
    fn an_eviction_is_read_and_is_no_grant() {
        let eviction = Eviction::new(Owner::default().with_label("a b"), "no evicted c");
        let text = format!("{} evicted {}", id(), eviction.to_text());
        assert_eq!(Evicted::parse(&text), Some(Evicted { id: id(), eviction }));
        assert_eq!(Pushed::parse(&text), None);
        assert_eq!(Evicted::parse(&format!("{} 7 1500 0 _glocks:a evicted b", id())), None);
        for text in ["", "evicted", "x evicted {}", &format!("{} 7 1500 0 _glocks:a", id())] {
            assert_eq!(Evicted::parse(text), None, "{text}");
        }
    }
}

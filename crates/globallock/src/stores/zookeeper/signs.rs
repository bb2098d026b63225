//! From when on the leader counts a session's timeout, as far as the owner can know that.
//!
//! Every request is a sign of life to the member that it reaches. The leader hears of it later: it asks each
//! member every half tick for the sessions that gave a sign, and does not take the requests that a member
//! passes on for signs themselves. So an answer alone proves nothing. If the member dies, or is cut off, the
//! leader counts from the report before, although it has answered requests since.
//!
//! A connection carries what a member and its leader say in their order. So a transaction that is answered
//! proves that the leader has heard of the signs that were given half a tick before it was sent. It also
//! proves that a majority still followed that leader. Another leader comes later, and gives every session the
//! whole timeout again that it was created with. A `sync` would not prove that, because a leader answers it
//! alone (ZOOKEEPER-1675).

use std::collections::VecDeque;
use std::time::Duration;

use crate::sync::Instant;

/// The part of a session's timeout within which every sign surely reaches the leader: a third.
///
/// The servers allow no timeout below two ticks, unless they are configured otherwise. Then half a tick is a
/// quarter of the timeout at most, and a member may be late by a twelfth.
const REPORTED_WITHIN: u32 = 3;
/// How close together two signs may be of which only the first is remembered, as a part of the timeout.
const CLOSE: u32 = 64;

/// The signs of life that a session gave on its present connection.
#[derive(Debug)]
pub(super) struct Signs {
    /// The leader counts from this moment, or from a later one.
    counted_from: Instant,
    /// When the session was presented to the member, which has asked the leader for it at once.
    presented: Instant,
    /// When each request was written and answered.
    answered: VecDeque<(Instant, Instant)>,
}

impl Signs {
    /// Those of a session that was created by a request of this moment. That is a transaction itself, or
    /// becomes one with the session's first claim.
    pub(super) fn new(created: Instant) -> Self {
        Signs { counted_from: created, presented: created, answered: VecDeque::new() }
    }

    /// Records that the session was presented to a member by a request of this moment. What other members
    /// have not reported yet may never be.
    pub(super) fn presented(&mut self, at: Instant) {
        self.presented = at;
        self.answered.clear();
    }

    /// Records that a request that was written at this moment was answered.
    pub(super) fn answered(&mut self, written: Instant, now: Instant, timeout: Duration) {
        let is_close = |(last, _): &(Instant, Instant)| written < *last + timeout / CLOSE;
        if !self.answered.back().is_some_and(is_close) {
            self.answered.push_back((written, now));
        }
    }

    /// Records that a transaction that was written at this moment was answered, and returns from when on the
    /// leader counts.
    pub(super) fn confirmed(&mut self, written: Instant, timeout: Duration) -> Instant {
        self.counted_from = self.counted_from.max(self.presented);
        while let Some((sign, answered)) = self.answered.front()
            && *answered + timeout / REPORTED_WITHIN <= written
        {
            self.counted_from = self.counted_from.max(*sign);
            self.answered.pop_front();
        }
        self.counted_from
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIMEOUT: Duration = Duration::from_secs(9);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_sign_counts_once_a_transaction_is_answered_that_was_sent_a_third_of_the_timeout_later() {
        let start = Instant::now();
        let mut signs = Signs::new(start);
        signs.answered(start + seconds(1), start + seconds(2), TIMEOUT);
        let early = start + seconds(5) - Duration::from_nanos(1);
        assert_eq!(signs.confirmed(early, TIMEOUT), start);
        signs.answered(start + seconds(3), start + seconds(4), TIMEOUT);
        assert_eq!(signs.confirmed(start + seconds(5), TIMEOUT), start + seconds(1));
        assert_eq!(signs.confirmed(start + seconds(8), TIMEOUT), start + seconds(3));
    }

    #[test]
    fn what_was_not_reported_by_the_member_before_does_not_count_any_more() {
        let start = Instant::now();
        let mut signs = Signs::new(start);
        signs.answered(start + seconds(1), start + seconds(1), TIMEOUT);
        signs.presented(start + seconds(2));
        signs.answered(start + seconds(3), start + seconds(3), TIMEOUT);
        assert_eq!(signs.confirmed(start + seconds(5), TIMEOUT), start + seconds(2), "the leader was asked");
        assert_eq!(signs.confirmed(start + seconds(6), TIMEOUT), start + seconds(3));
    }

    #[test]
    fn few_signs_are_remembered_however_many_are_given() {
        let start = Instant::now();
        let mut signs = Signs::new(start);
        for number in 0..9_000 {
            let at = start + Duration::from_millis(number);
            signs.answered(at, at, TIMEOUT);
            assert!(signs.answered.len() <= 1 + CLOSE as usize);
        }
        let counted = signs.confirmed(start + TIMEOUT, TIMEOUT);
        let lost = start + seconds(6) - counted;
        assert!(lost <= TIMEOUT / CLOSE, "{lost:?} too early");
    }

    /// What happens between a session, its member and the leader, in milliseconds.
    #[derive(Clone, Debug)]
    struct Run {
        tick: u64,
        /// When the leader first asks for signs, and by how much each of its questions is late.
        first: u64,
        late: Vec<u64>,
        /// The pause before each request, how long it takes to the member and back, and whether it is a
        /// transaction.
        requests: Vec<(u64, u64, u64, bool)>,
    }

    fn runs() -> impl Strategy<Value = Run> {
        (20..200_u64).prop_flat_map(|tick| {
            let late = prop::collection::vec(0..=tick / 6, 200);
            let request = (0..tick, 0..tick / 4, 0..tick / 4, any::<bool>());
            let requests = prop::collection::vec(request, 1..60);
            (0..tick / 2, late, requests).prop_map(move |(first, late, requests)| Run {
                tick,
                first,
                late,
                requests,
            })
        })
    }

    proptest! {
        #[test]
        fn the_leader_never_counts_from_an_earlier_moment(run in runs()) {
            let (start, timeout) = (Instant::now(), Duration::from_millis(run.tick * 2));
            let at = |milliseconds: u64| start + Duration::from_millis(milliseconds);
            let mut signs = Signs::new(start);
            let questions: Vec<u64> =
                run.late.iter().scan(run.first, |next, late| {
                    let asked = *next + late;
                    *next = asked + run.tick / 2;
                    Some(asked)
                }).collect();
            let (mut now, mut arrived) = (0, vec![0]);
            for (pause, to, back, is_transaction) in run.requests {
                let written = now + pause;
                let arrives = written + to;
                now = arrives + back;
                if is_transaction {
                    // What the leader has heard when the member passes this on, and no more: both die then.
                    let asked = questions.iter().copied().filter(|asked| *asked <= arrives);
                    let reported = asked.filter(|asked| {
                        // A question is answered with the signs since the question before.
                        let before = questions.iter().copied().filter(|other| other < asked).max();
                        let is_new = |sign: u64| before.is_none_or(|before| sign > before);
                        arrived.iter().any(|sign| sign <= asked && is_new(*sign))
                    });
                    let counts_from = reported.max().unwrap_or(0);
                    let known = signs.confirmed(at(written), timeout);
                    prop_assert!(known <= at(counts_from), "{:?} and {counts_from} ms", known - start);
                }
                arrived.push(arrives);
                signs.answered(at(written), at(now), timeout);
            }
        }
    }
}

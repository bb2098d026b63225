//! What the scripts answer, to the millisecond, and what they leave in the keys.

use crate::calls::{
    CLAIMS, COUNTER, ID, LOCK, MUTEX, OTHER, QUEUE, REST, SHARED, Scripts, already_waiting, held_until,
    in_front, numbers, piped, shared_by,
};
use crate::scripts::{Store, queued};

/// What is left of the holder's lease: longer than any machine pauses.
const LEFT: i64 = 50_000;
/// How many milliseconds after the end of the holder's lease a waiter polls, by its rank in the queue.
const POLL_DELAYS: [(u32, i64); 9] =
    [(0, 1), (1, 6), (2, 11), (7, 36), (8, 41), (9, 42), (16, 43), (80, 51), (81, 51)];

/// What a claim is enqueued by, behind an exclusive holder and so many waiters, and what is answered at the
/// end: the fast path knows that there is one holder, and so how many claims are in front.
fn joining(scripts: &Scripts, rank: u32) -> [(String, Vec<i64>); 2] {
    [(scripts.enqueue(), vec![i64::from(rank) + 1]), (scripts.enqueue_shared(), Vec::new())]
}

#[tokio::test]
async fn waiters_poll_one_after_the_other_when_the_lease_of_the_holder_ends() {
    let scripts = Scripts::new().await;
    for (rank, delay) in POLL_DELAYS {
        let new = |now| [vec![held_until(now + LEFT)], in_front(rank)].concat();
        for (request, place) in joining(&scripts, rank) {
            let reply = scripts.answer(new, &request);
            let expected = [&[0, reply.now + 1, LEFT - reply.late + delay, 0], &place[..]].concat();
            assert_eq!(reply.answer, expected, "{rank}: {request}");
        }
        let reply = scripts.answer(|now| [new(now), already_waiting()].concat(), &scripts.renew());
        assert_eq!(reply.answer, [0, reply.now + 1, LEFT - reply.late + delay, 0], "{rank}, renewed");
    }
}

#[tokio::test]
async fn between_two_polls_of_a_waiter_is_a_sixth_of_its_lease_except_for_the_first_eight() {
    let scripts = Scripts::new().await;
    for (rank, delay) in POLL_DELAYS {
        for left in [LEFT, 3 * LEFT] {
            let before = |now| [vec![held_until(now + left)], in_front(rank), already_waiting()].concat();
            let reply = scripts.answer(before, &scripts.enqueue());
            let polls = left - reply.late + delay;
            let poll_in = if rank < 8 { polls } else { polls.max(100_000) };
            assert_eq!(reply.answer, [0, reply.now + 1, poll_in, 0], "{rank}, {left}");
        }
    }
}

#[tokio::test]
async fn nobody_polls_a_lock_that_never_expires() {
    let scripts = Scripts::new().await;
    for rank in [0, 1, 9] {
        let stays = |now| [vec![held_until(now + LEFT), format!("PERSIST {LOCK}")], in_front(rank)].concat();
        for (request, place) in joining(&scripts, rank) {
            let reply = scripts.answer(stays, &request);
            let expected = [&[0, reply.now + 1, 0, 0], &place[..]].concat();
            assert_eq!(reply.answer, expected, "{rank}: {request}");
        }
        let reply = scripts.answer(|now| [stays(now), already_waiting()].concat(), &scripts.renew());
        assert_eq!(reply.answer, [0, reply.now + 1, 0, 0], "{rank}, renewed");
    }
}

#[tokio::test]
async fn the_first_waiter_polls_for_a_foreign_holder_and_each_one_behind_it_more_seldom() {
    let scripts = Scripts::new().await;
    for value in ["somebody", "glk1", "glk1-:x", "\"\""] {
        for (rank, poll_in, foreign) in [(0, 0, 1), (1, 200, 0), (2, 300, 0), (20, 2100, 0)] {
            let held = |_| [vec![format!("SET {LOCK} {value}")], in_front(rank)].concat();
            let reply = scripts.answer(held, &scripts.enqueue());
            assert_eq!(reply.answer, [0, reply.now + 1, poll_in, foreign], "{value}, {rank}, for ever");
            let held =
                |now| [vec![format!("SET {LOCK} {value} PXAT {}", now + LEFT)], in_front(rank)].concat();
            let reply = scripts.answer(held, &scripts.enqueue());
            let poll_in = if rank == 0 { LEFT - reply.late + 1 } else { poll_in };
            assert_eq!(reply.answer, [0, reply.now + 1, poll_in, foreign], "{value}, {rank}");
        }
    }
    // A foreign holder that expires before a waiter far behind would poll. A waiter that has polled waits for
    // a sixth of its lease at least.
    let held = |now| [vec![format!("SET {LOCK} somebody PXAT {}", now + LEFT)], in_front(1600)].concat();
    let reply = scripts.answer(held, &scripts.enqueue_shared());
    assert_eq!(reply.answer, [0, reply.now + 1, LEFT - reply.late + 241, 0]);
    let reply = scripts.answer(|now| [held(now), already_waiting()].concat(), &scripts.enqueue());
    assert_eq!(reply.answer, [0, reply.now + 1, 100_000, 0]);
}

#[tokio::test]
async fn waiters_poll_when_the_first_shared_holder_expires() {
    let scripts = Scripts::new().await;
    for (rank, delay) in [(0, 1), (3, 16), (8, 41)] {
        let shared = |now| [shared_by(&[(now + LEFT, 2), (now + 2 * LEFT, 2)], 0), in_front(rank)].concat();
        let reply = scripts.answer(shared, &scripts.enqueue_shared());
        assert_eq!(reply.answer, [0, reply.now + 1, LEFT - reply.late + delay, 0], "{rank}");
    }
}

#[tokio::test]
async fn the_permits_of_expired_shared_holders_are_free_at_once() {
    let scripts = Scripts::new().await;
    // All have expired: a claim that takes all permits holds the lock.
    let reply = scripts.answer(|now| shared_by(&[(now - 1, 2), (now - 2, 2)], 0), &scripts.enqueue());
    assert_eq!(reply.answer[0], 1, "{:?}", reply.answer);
    // One has expired: one more claim fits.
    let one = |now| shared_by(&[(now - 1, 2), (now + LEFT, 2)], 0);
    let reply = scripts.answer(one, &scripts.enqueue_shared());
    assert_eq!(reply.answer[0], 1, "{:?}", reply.answer);
    assert_eq!(scripts.answer(one, &scripts.enqueue()).answer[0], 0);
    // The one with the smaller capacity has expired, and its capacity does not count any more.
    let smaller = |now| shared_by(&[(now - 1, 1), (now + LEFT, 2)], 1);
    let reply = scripts.answer(smaller, &scripts.enqueue_shared());
    assert_eq!(reply.answer[0], 1, "{:?}", reply.answer);
}

#[tokio::test]
async fn very_many_expired_shared_holders_are_dropped_by_several_calls() {
    let scripts = Scripts::new().await;
    let dead = |count| move |now| shared_by(&vec![(now - 1, 2); count], 0);
    let once = scripts.enqueue_for(0, 0);
    assert_eq!(scripts.untimed_answers(dead(500), &[&scripts.enqueue()])[0], 1);
    let reply = scripts.untimed_answers(dead(501), &[&scripts.enqueue()]);
    assert_eq!((reply[0], &reply[2..]), (0, &[1, 0][..]), "it polls at once");
    let reply = scripts.untimed_answers(dead(501), &[&once, &scripts.enqueue()]);
    assert_eq!(reply[..2], [3, 1], "a claim that does not wait asks again at once");
    let release = scripts.release(ID, "");
    assert_eq!(scripts.untimed_answers(dead(501), &[&release, &release]), [2, 0], "so does a release");
    assert_eq!(scripts.untimed_answers(dead(500), &[&release]), [0], "nobody is left");
}

#[tokio::test]
async fn a_lost_counter_lets_nobody_overtake_waiters_behind_very_many_dead_ones() {
    let scripts = Scripts::new().await;
    let once = scripts.enqueue_for(0, 0);
    assert_eq!(scripts.untimed_answers(|_| in_front(5000), &[&once, &once]), [3, 3]);
}

#[tokio::test]
async fn a_foreign_member_at_the_front_of_the_queue_is_removed_with_the_next_grant() {
    let scripts = Scripts::new().await;
    let before = |_| [vec![format!("ZADD {QUEUE} 1 junk")], already_waiting()].concat();
    let reply = scripts.answers(before, &[&scripts.renew(), &format!("EXISTS {QUEUE}")]);
    assert_eq!(reply.answer, [1, 5000, 599_999, 0, 0]);
}

#[tokio::test]
async fn a_release_grants_nothing_to_an_unreachable_waiter() {
    let scripts = Scripts::new().await;
    let release = scripts.release(OTHER, "");
    let (lock, queue) = (format!("EXISTS {LOCK}"), format!("EXISTS {QUEUE}"));
    let before = |now: i64| {
        let number = now * 1000;
        let waits = format!("ZADD {QUEUE} {number} \"{ID} {REST}\"");
        vec![held_until(now + LEFT), format!("SET {COUNTER} {number}w"), waits]
    };
    assert_eq!(scripts.answers(before, &[&release, &lock, &queue]).answer, [1, 0, 0]);
}

#[tokio::test]
async fn what_is_left_of_a_hold_is_answered_a_millisecond_short() {
    let scripts = Scripts::new().await;
    let holds = |ends: i64| {
        move |now| vec![format!("SET {LOCK} \"glk1:{ID}:1000::{ends}:1/1:x\" PXAT {}", now + LEFT)]
    };
    // A max hold time rules out the fast path.
    let reply = scripts.answer(holds(99_999_999_999_999), &scripts.renew());
    assert_eq!(reply.answer, [1, 1000, 599_999, 99_999_999_999_999 - reply.now - 1]);
    let ends = format!("PEXPIRETIME {LOCK}");
    let reply = scripts.answers(holds(99_999_999_999_999), &[&scripts.renew(), &ends]);
    assert_eq!(reply.answer[4], reply.now + 600_000, "the store keeps it as long");
    let reply = scripts.answer(holds(0), &scripts.renew());
    assert_eq!(reply.answer, [1, 1000, 600_000, 0]);
    let reply = scripts.answer(holds(0), &scripts.enqueue());
    assert_eq!(reply.answer, [1, 1000, 599_999, 0]);
    let reply = scripts.answer(holds(1), &scripts.renew());
    assert_eq!(reply.answer, [1, 1000, 0, 0], "a hold that has ended has nothing left, and not less");
    let reply = scripts.answer(|_| Vec::new(), &scripts.enqueue_shared());
    assert_eq!(
        (reply.answer[1] / 1000, reply.answer[0], &reply.answer[2..]),
        (reply.now, 1, &[599_999, 0][..])
    );
}

#[tokio::test]
async fn a_max_hold_time_shorter_than_the_lease_ends_the_lease() {
    let scripts = Scripts::new().await;
    let ends = format!("PEXPIRETIME {LOCK}");
    assert_eq!(
        scripts.answer(|_| Vec::new(), &scripts.enqueue()).answer.len(),
        1,
        "it holds its whole lease"
    );
    for (max_hold, left) in [(300_000, 300_000), (600_000, 600_000), (900_000, 600_000)] {
        let hold_left = i64::from(max_hold);
        for waits in [0, 1] {
            let request = scripts.enqueue_for(max_hold, waits);
            let reply = scripts.answers(|_| Vec::new(), &[&request, &scripts.renew(), &ends]);
            let number = reply.answer[1];
            assert_eq!(number / 1000, reply.now);
            let first = [1, number, left, hold_left];
            let renewed = [1, number, left - 1, hold_left - 1, reply.now + left];
            assert_eq!(reply.answer, [&first[..], &renewed[..]].concat(), "{max_hold}, {waits}");
        }
        let request = scripts.enqueue_shared_for(max_hold);
        let reply = scripts.answers(|_| Vec::new(), &[&request, &scripts.renew(), &ends]);
        let held = [1, reply.answer[1], left - 1, hold_left - 1];
        assert_eq!(
            reply.answer,
            [&held[..], &held[..], &[reply.now + left][..]].concat(),
            "{max_hold}, may share"
        );
    }
}

#[tokio::test]
async fn a_waiter_that_polls_a_free_lock_holds_it_at_once() {
    let scripts = Scripts::new().await;
    for request in [scripts.enqueue(), scripts.renew()] {
        let reply = scripts.answer(|_| already_waiting(), &request);
        assert_eq!(reply.answer, [1, 5000, 599_999, 0], "{request}");
        // Unreachable waiters in front do not stop it.
        let reply = scripts.answer(|_| [in_front(1), already_waiting()].concat(), &request);
        assert_eq!(reply.answer[..2], [1, 5000], "{request}");
    }
}

/// The claim that makes the calls has shared the lock with another one, until these milliseconds.
pub(crate) fn shares_until(ends: i64, other: i64) -> Vec<String> {
    let first = format!("{:032x}", 0xcc00);
    shared_by(&[(ends, 2), (other, 2)], 0).iter().map(|command| command.replace(&first, ID)).collect()
}

#[tokio::test]
async fn a_renewal_of_a_shared_holder_moves_the_end_of_its_lease_in_every_key() {
    let scripts = Scripts::new().await;
    let renews = scripts.renew_shared();
    let (score, count) = (format!("ZSCORE {SHARED} {ID}"), format!("ZCARD {SHARED}"));
    let reply = scripts.answers(|now| shares_until(now + LEFT, now + LEFT), &[&renews, &score, &count]);
    assert_eq!(reply.answer, [1, 1000, 599_999, 0, reply.now + 600_000, 2]);
}

#[tokio::test]
async fn a_renewal_that_comes_too_late_leaves_nothing_behind() {
    let scripts = Scripts::new().await;
    let (queue, claims, counter_value) =
        (format!("ZCARD {QUEUE}"), format!("EXISTS {CLAIMS}"), format!("GET {COUNTER}"));
    // Of a waiter, while another claim has all permits.
    let waited = |now| {
        let over = format!("HSET {CLAIMS} {ID} {}", now - 1);
        [vec![held_until(now + LEFT)], already_waiting(), vec![over]].concat()
    };
    let reply = scripts.answers(waited, &[&scripts.renew(), &queue, &claims, &counter_value]);
    assert_eq!(reply.answer, [2, 0, 0, 5000]);
    // Of the last shared holder.
    let renews = scripts.renew_shared();
    let gone = format!("EXISTS {LOCK} {SHARED}");
    let reply =
        scripts.answers(|now| shares_until(now - 2, now - 1), &[&renews, &gone, &claims, &counter_value]);
    assert_eq!(reply.answer, [2, 0, 0, 1000]);
}

#[tokio::test]
async fn a_renewal_that_comes_too_late_frees_permits_for_the_waiters() {
    let scripts = Scripts::new().await;
    let renews = scripts.renew_shared();
    // They are unreachable: the first one that fits is dropped.
    let waited = |now| [shares_until(now - 1, now - 2), in_front(2)].concat();
    assert_eq!(scripts.answers(waited, &[&renews, &format!("ZCARD {QUEUE}")]).answer, [2, 0]);
}

#[tokio::test]
async fn a_claim_is_gone_in_the_millisecond_in_which_its_lease_ends() {
    let scripts = Scripts::new().await;
    let member = format!("{ID} {REST}");
    let waits_until = |ends| [already_waiting(), vec![format!("HSET {CLAIMS} {ID} {ends}")]].concat();
    let waits = |now| [vec![held_until(now + LEFT)], waits_until(now)].concat();
    assert_eq!(scripts.answers_at(waits, &[&scripts.renew()]).answer, [2], "a renewal of a waiter");
    assert_eq!(
        scripts.answers_at(waits, &[&scripts.release(ID, &member)]).answer,
        [0],
        "a release of a waiter"
    );
    let shares = |now| shares_until(now, now + LEFT);
    assert_eq!(scripts.answers_at(shares, &[&scripts.renew_shared()]).answer, [2], "a renewal");
    assert_eq!(scripts.answers_at(shares, &[&scripts.release(ID, "")]).answer, [0], "a release");
    // An expired waiter for all permits, in front of a claim that takes the free one.
    let room = |now| [shared_by(&[(now + LEFT, 2)], 0), waits_until(now)].concat();
    let other = scripts.enqueue_shared().replace(ID, OTHER);
    assert_eq!(scripts.answers_at(room, &[&other]).answer[0], 1, "an enqueue behind a waiter");
}

#[tokio::test]
async fn waiters_poll_also_when_the_lease_of_the_holder_ends_in_this_millisecond() {
    let scripts = Scripts::new().await;
    for (rank, delay) in [(0, 1), (1, 6), (2, 11)] {
        let held = |now| [vec![held_until(now)], in_front(rank)].concat();
        for (request, place) in joining(&scripts, rank) {
            let reply = scripts.answers_at(held, &[&request]);
            let expected = [&[0, reply.now + 1, delay, 0], &place[..]].concat();
            assert_eq!(reply.answer, expected, "{rank}: {request}");
        }
        let reply = scripts.answers_at(|now| [held(now), already_waiting()].concat(), &[&scripts.renew()]);
        assert_eq!(reply.answer, [0, reply.now + 1, delay, 0], "{rank}, renewed");
        let foreign = |now| [vec![format!("SET {LOCK} somebody PXAT {now}")], in_front(rank)].concat();
        let reply = scripts.answers_at(foreign, &[&scripts.enqueue_shared()]);
        assert_eq!(reply.answer, [0, reply.now + 1, delay, i64::from(rank == 0)], "{rank}, foreign");
    }
}

#[tokio::test]
async fn tokens_rise_also_where_the_counter_is_at_the_current_microsecond() {
    let scripts = Scripts::new().await;
    let (clear, counter_value) = (format!("DEL {LOCK} {QUEUE} {CLAIMS} {SHARED}"), format!("GET {COUNTER}"));
    let held = format!("redis.call('SET', '{LOCK}', 'glk1:{OTHER}:1000::0:1/1:x', 'PX', 60000)");
    let commands = |request: &str, before: &str| {
        // A fraction of a millisecond passes between this clock and that of the enqueue.
        let counter = |ahead| {
            format!(
                "EVAL \"{before} local time = redis.call('TIME') \
                 local now = time[1] * 1000000 + time[2] + {ahead} \
                 redis.call('SET', KEYS[1], string.format('%.0f', now)) \
                 return string.format('%.0f', now)\" 1 {COUNTER}"
            )
        };
        let one = |ahead| {
            [counter(ahead), request.to_owned(), counter_value.clone(), clear.clone(), "ECHO next".to_owned()]
        };
        (0..100).flat_map(one).collect::<Vec<_>>()
    };
    for (request, before) in
        [(scripts.enqueue_for(0, 0), ""), (scripts.enqueue_shared(), ""), (scripts.enqueue(), held.as_str())]
    {
        let commands = commands(&request, before);
        for _ in 0..40 {
            let reply = piped(&scripts.server, &commands).replace('w', "");
            let reply = reply.split_terminator("next\n").map(numbers).collect::<Vec<_>>();
            assert_eq!(reply.len(), 100);
            for reply in reply {
                assert!(reply[reply.len() - 2] > reply[0], "{reply:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_mutex_behind_another_one_is_told_its_place_and_keeps_it() {
    let store = Store::new().await;
    let claims = [1, 2, 3].map(|number| queued(number, MUTEX));
    store.holds(&claims[0]).await;
    for (place, claim) in claims.iter().enumerate().skip(1) {
        store.waits(claim).await;
        // It is asked for again, which tells no place.
        store.waits(claim).await;
        assert_eq!(store.backend.place(claim), Some(place));
    }
    assert_eq!(store.backend.place(&claims[0]), None, "it does not wait");
}

//! What the scripts answer, to the millisecond, and what they leave behind.

use crate::asking::{
    CLAIMS, FENCE, ID, LOCK, OTHER, QUEUE, REST, SHARED, Scripts, held_until, in_front, numbers, piped,
    shared_by, waits_already,
};

/// How long the holder's lease lasts still: no machine stands still for that.
const LEFT: i64 = 50_000;
/// In how many milliseconds after the end of the holder's lease a waiter looks, by its place in the queue.
const TURNS: [(u32, i64); 9] =
    [(0, 1), (1, 6), (2, 11), (7, 36), (8, 41), (9, 42), (16, 43), (80, 51), (81, 51)];

#[tokio::test]
async fn waiters_look_one_after_the_other_when_the_lease_of_the_holder_ends() {
    let scripts = Scripts::new().await;
    for (rank, turn) in TURNS {
        let new = |now| [vec![held_until(now + LEFT)], in_front(rank)].concat();
        for asks in [scripts.joins(), scripts.joins_shared()] {
            let told = scripts.answer(new, &asks);
            assert_eq!(told.answer, [0, told.now + 1, LEFT - told.late + turn, 0], "{rank}: {asks}");
        }
        let told = scripts.answer(|now| [new(now), waits_already()].concat(), &scripts.renews());
        assert_eq!(told.answer, [0, told.now + 1, LEFT - told.late + turn, 0], "{rank}, renewed");
    }
}

#[tokio::test]
async fn whoever_looks_early_waits_for_a_sixth_of_its_lease_but_the_first_eight() {
    let scripts = Scripts::new().await;
    for (rank, turn) in TURNS {
        for left in [LEFT, 3 * LEFT] {
            let before = |now| [vec![held_until(now + left)], in_front(rank), waits_already()].concat();
            let told = scripts.answer(before, &scripts.joins());
            let looks = left - told.late + turn;
            let again = if rank < 8 { looks } else { looks.max(100_000) };
            assert_eq!(told.answer, [0, told.now + 1, again, 0], "{rank}, {left}");
        }
    }
}

#[tokio::test]
async fn a_lock_that_stays_for_ever_is_looked_at_by_nobody() {
    let scripts = Scripts::new().await;
    for rank in [0, 1, 9] {
        let stays = |now| [vec![held_until(now + LEFT), format!("PERSIST {LOCK}")], in_front(rank)].concat();
        for asks in [scripts.joins(), scripts.joins_shared()] {
            let told = scripts.answer(stays, &asks);
            assert_eq!(told.answer, [0, told.now + 1, 0, 0], "{rank}: {asks}");
        }
        let told = scripts.answer(|now| [stays(now), waits_already()].concat(), &scripts.renews());
        assert_eq!(told.answer, [0, told.now + 1, 0, 0], "{rank}, renewed");
    }
}

#[tokio::test]
async fn a_foreign_holder_is_looked_for_by_the_first_and_more_seldom_by_each_behind() {
    let scripts = Scripts::new().await;
    for value in ["somebody", "glk1", "glk1-:x", "\"\""] {
        for (rank, again, stranger) in [(0, 0, 1), (1, 200, 0), (2, 300, 0), (20, 2100, 0)] {
            let held = |_| [vec![format!("SET {LOCK} {value}")], in_front(rank)].concat();
            let told = scripts.answer(held, &scripts.joins());
            assert_eq!(told.answer, [0, told.now + 1, again, stranger], "{value}, {rank}, for ever");
            let held =
                |now| [vec![format!("SET {LOCK} {value} PXAT {}", now + LEFT)], in_front(rank)].concat();
            let told = scripts.answer(held, &scripts.joins());
            let again = if rank == 0 { LEFT - told.late + 1 } else { again };
            assert_eq!(told.answer, [0, told.now + 1, again, stranger], "{value}, {rank}");
        }
    }
    // One whose end comes sooner than the turn of a waiter far behind, which does not look before a sixth of its lease
    // when it looks by itself.
    let held = |now| [vec![format!("SET {LOCK} somebody PXAT {}", now + LEFT)], in_front(1600)].concat();
    let told = scripts.answer(held, &scripts.joins_shared());
    assert_eq!(told.answer, [0, told.now + 1, LEFT - told.late + 241, 0]);
    let told = scripts.answer(|now| [held(now), waits_already()].concat(), &scripts.joins());
    assert_eq!(told.answer, [0, told.now + 1, 100_000, 0]);
}

#[tokio::test]
async fn waiters_look_when_the_first_of_those_who_share_is_over() {
    let scripts = Scripts::new().await;
    for (rank, turn) in [(0, 1), (3, 16), (8, 41)] {
        let shared = |now| [shared_by(&[(now + LEFT, 2), (now + 2 * LEFT, 2)], 0), in_front(rank)].concat();
        let told = scripts.answer(shared, &scripts.joins_shared());
        assert_eq!(told.answer, [0, told.now + 1, LEFT - told.late + turn, 0], "{rank}");
    }
}

#[tokio::test]
async fn the_room_of_those_who_shared_and_are_over_is_there_at_once() {
    let scripts = Scripts::new().await;
    // All of them are: whoever takes all there is holds it.
    let told = scripts.answer(|now| shared_by(&[(now - 1, 2), (now - 2, 2)], 0), &scripts.joins());
    assert_eq!(told.answer[0], 1, "{:?}", told.answer);
    // One of them: another one fits, and only one.
    let one = |now| shared_by(&[(now - 1, 2), (now + LEFT, 2)], 0);
    let told = scripts.answer(one, &scripts.joins_shared());
    assert_eq!(told.answer[0], 1, "{:?}", told.answer);
    assert_eq!(scripts.answer(one, &scripts.joins()).answer[0], 0);
    // The one with the smaller capacity, which counts no more.
    let smaller = |now| shared_by(&[(now - 1, 1), (now + LEFT, 2)], 1);
    let told = scripts.answer(smaller, &scripts.joins_shared());
    assert_eq!(told.answer[0], 1, "{:?}", told.answer);
}

#[tokio::test]
async fn very_many_who_shared_and_are_over_are_dropped_by_several_calls() {
    let scripts = Scripts::new().await;
    let dead = |count| move |now| shared_by(&vec![(now - 1, 2); count], 0);
    let once = scripts.joins_for(0, 0);
    assert_eq!(scripts.whatever(dead(500), &[&scripts.joins()])[0], 1);
    let told = scripts.whatever(dead(501), &[&scripts.joins()]);
    assert_eq!((told[0], &told[2..]), (0, &[1, 0][..]), "it looks again at once");
    let told = scripts.whatever(dead(501), &[&once, &scripts.joins()]);
    assert_eq!(told[..2], [3, 1], "one that does not wait asks again at once");
    let leave = scripts.leaves(ID, "");
    assert_eq!(scripts.whatever(dead(501), &[&leave, &leave]), [2, 0], "so does one that leaves");
    assert_eq!(scripts.whatever(dead(500), &[&leave]), [0], "nobody is left");
}

#[tokio::test]
async fn a_lost_counter_lets_nobody_overtake_those_behind_very_many_dead() {
    let scripts = Scripts::new().await;
    let once = scripts.joins_for(0, 0);
    assert_eq!(scripts.whatever(|_| in_front(5000), &[&once, &once]), [3, 3]);
}

#[tokio::test]
async fn what_another_program_has_put_in_front_goes_with_the_grant_to_the_next() {
    let scripts = Scripts::new().await;
    let before = |_| [vec![format!("ZADD {QUEUE} 1 junk")], waits_already()].concat();
    let told = scripts.answers(before, &[&scripts.renews(), &format!("EXISTS {QUEUE}")]);
    assert_eq!(told.answer, [1, 5000, 599_999, 0, 0]);
}

#[tokio::test]
async fn whoever_leaves_gives_nothing_to_one_whom_nobody_hears() {
    let scripts = Scripts::new().await;
    let leave = scripts.leaves(OTHER, "");
    let (lock, queue) = (format!("EXISTS {LOCK}"), format!("EXISTS {QUEUE}"));
    let before = |now: i64| {
        let number = now * 1000;
        let waits = format!("ZADD {QUEUE} {number} \"{ID} {REST}\"");
        vec![held_until(now + LEFT), format!("SET {FENCE} {number}w"), waits]
    };
    assert_eq!(scripts.answers(before, &[&leave, &lock, &queue]).answer, [1, 0, 0]);
}

#[tokio::test]
async fn what_is_left_of_a_hold_is_told_a_millisecond_short() {
    let scripts = Scripts::new().await;
    let holds = |ends: i64| {
        move |now| vec![format!("SET {LOCK} \"glk1:{ID}:1000::{ends}:1/1:x\" PXAT {}", now + LEFT)]
    };
    // A longest hold goes another way than none.
    let told = scripts.answer(holds(99_999_999_999_999), &scripts.renews());
    assert_eq!(told.answer, [1, 1000, 599_999, 99_999_999_999_999 - told.now - 1]);
    let ends = format!("PEXPIRETIME {LOCK}");
    let told = scripts.answers(holds(99_999_999_999_999), &[&scripts.renews(), &ends]);
    assert_eq!(told.answer[4], told.now + 600_000, "the store keeps it as long");
    let told = scripts.answer(holds(0), &scripts.renews());
    assert_eq!(told.answer, [1, 1000, 600_000, 0]);
    let told = scripts.answer(holds(0), &scripts.joins());
    assert_eq!(told.answer, [1, 1000, 599_999, 0]);
    let told = scripts.answer(holds(1), &scripts.renews());
    assert_eq!(told.answer, [1, 1000, 0, 0], "a hold that is over has nothing left, and no less");
    let told = scripts.answer(|_| Vec::new(), &scripts.joins_shared());
    assert_eq!((told.answer[1] / 1000, told.answer[0], &told.answer[2..]), (told.now, 1, &[599_999, 0][..]));
}

#[tokio::test]
async fn a_longest_hold_ends_the_lease_where_it_is_the_shorter() {
    let scripts = Scripts::new().await;
    let ends = format!("PEXPIRETIME {LOCK}");
    assert_eq!(scripts.answer(|_| Vec::new(), &scripts.joins()).answer.len(), 1, "it holds its whole lease");
    for (longest, left) in [(300_000, 300_000), (600_000, 600_000), (900_000, 600_000)] {
        let hold_left = i64::from(longest);
        for waits in [0, 1] {
            let asks = scripts.joins_for(longest, waits);
            let told = scripts.answers(|_| Vec::new(), &[&asks, &scripts.renews(), &ends]);
            let number = told.answer[1];
            assert_eq!(number / 1000, told.now);
            let first = [1, number, left, hold_left];
            let renewed = [1, number, left - 1, hold_left - 1, told.now + left];
            assert_eq!(told.answer, [&first[..], &renewed[..]].concat(), "{longest}, {waits}");
        }
        let asks = scripts.joins_shared_for(longest);
        let told = scripts.answers(|_| Vec::new(), &[&asks, &scripts.renews(), &ends]);
        let held = [1, told.answer[1], left - 1, hold_left - 1];
        assert_eq!(
            told.answer,
            [&held[..], &held[..], &[told.now + left][..]].concat(),
            "{longest}, may share"
        );
    }
}

#[tokio::test]
async fn a_waiter_that_asks_at_a_free_lock_holds_it_at_once() {
    let scripts = Scripts::new().await;
    for asks in [scripts.joins(), scripts.renews()] {
        let told = scripts.answer(|_| waits_already(), &asks);
        assert_eq!(told.answer, [1, 5000, 599_999, 0], "{asks}");
        // Those in front whom nobody hears do not stop it.
        let told = scripts.answer(|_| [in_front(1), waits_already()].concat(), &asks);
        assert_eq!(told.answer[..2], [1, 5000], "{asks}");
    }
}

/// The claim that asks has shared the lock with another one, until these moments.
fn shares_until(ends: i64, other: i64) -> Vec<String> {
    let first = format!("{:032x}", 0xcc00);
    shared_by(&[(ends, 2), (other, 2)], 0).iter().map(|command| command.replace(&first, ID)).collect()
}

#[tokio::test]
async fn a_renewal_of_one_that_shares_moves_the_end_of_its_lease_everywhere() {
    let scripts = Scripts::new().await;
    let renews = scripts.renews_shared();
    let (score, count) = (format!("ZSCORE {SHARED} {ID}"), format!("ZCARD {SHARED}"));
    let told = scripts.answers(|now| shares_until(now + LEFT, now + LEFT), &[&renews, &score, &count]);
    assert_eq!(told.answer, [1, 1000, 599_999, 0, told.now + 600_000, 2]);
}

#[tokio::test]
async fn a_renewal_that_comes_too_late_leaves_nothing_behind() {
    let scripts = Scripts::new().await;
    let (queue, claims, fencing_token) =
        (format!("ZCARD {QUEUE}"), format!("EXISTS {CLAIMS}"), format!("GET {FENCE}"));
    // Of a waiter, while another one has all there is.
    let waited = |now| {
        let over = format!("HSET {CLAIMS} {ID} {}", now - 1);
        [vec![held_until(now + LEFT)], waits_already(), vec![over]].concat()
    };
    let told = scripts.answers(waited, &[&scripts.renews(), &queue, &claims, &fencing_token]);
    assert_eq!(told.answer, [2, 0, 0, 5000]);
    // Of the last one that shares.
    let renews = scripts.renews_shared();
    let gone = format!("EXISTS {LOCK} {SHARED}");
    let told =
        scripts.answers(|now| shares_until(now - 2, now - 1), &[&renews, &gone, &claims, &fencing_token]);
    assert_eq!(told.answer, [2, 0, 0, 1000]);
}

#[tokio::test]
async fn a_renewal_that_comes_too_late_makes_room_for_those_who_wait() {
    let scripts = Scripts::new().await;
    let renews = scripts.renews_shared();
    // Nobody hears them: whose turn it is goes.
    let waited = |now| [shares_until(now - 1, now - 2), in_front(2)].concat();
    assert_eq!(scripts.answers(waited, &[&renews, &format!("ZCARD {QUEUE}")]).answer, [2, 0]);
}

#[tokio::test]
async fn a_claim_is_gone_in_the_millisecond_in_which_its_lease_ends() {
    let scripts = Scripts::new().await;
    let member = format!("{ID} {REST}");
    let waits_until = |ends| [waits_already(), vec![format!("HSET {CLAIMS} {ID} {ends}")]].concat();
    let waits = |now| [vec![held_until(now + LEFT)], waits_until(now)].concat();
    assert_eq!(scripts.answers_at(waits, &[&scripts.renews()]).answer, [2], "a renewal of a waiter");
    assert_eq!(scripts.answers_at(waits, &[&scripts.leaves(ID, &member)]).answer, [0], "a waiter leaves");
    let shares = |now| shares_until(now, now + LEFT);
    assert_eq!(scripts.answers_at(shares, &[&scripts.renews_shared()]).answer, [2], "a renewal");
    assert_eq!(scripts.answers_at(shares, &[&scripts.leaves(ID, "")]).answer, [0], "a departure");
    // A waiter that wants all there is, in front of one that needs no more than is there.
    let room = |now| [shared_by(&[(now + LEFT, 2)], 0), waits_until(now)].concat();
    let other = scripts.joins_shared().replace(ID, OTHER);
    assert_eq!(scripts.answers_at(room, &[&other]).answer[0], 1, "a join behind a waiter");
}

#[tokio::test]
async fn waiters_look_also_when_the_lease_of_the_holder_ends_in_this_millisecond() {
    let scripts = Scripts::new().await;
    for (rank, turn) in [(0, 1), (1, 6), (2, 11)] {
        let held = |now| [vec![held_until(now)], in_front(rank)].concat();
        for asks in [scripts.joins(), scripts.joins_shared()] {
            let told = scripts.answers_at(held, &[&asks]);
            assert_eq!(told.answer, [0, told.now + 1, turn, 0], "{rank}: {asks}");
        }
        let told = scripts.answers_at(|now| [held(now), waits_already()].concat(), &[&scripts.renews()]);
        assert_eq!(told.answer, [0, told.now + 1, turn, 0], "{rank}, renewed");
        let foreign = |now| [vec![format!("SET {LOCK} somebody PXAT {now}")], in_front(rank)].concat();
        let told = scripts.answers_at(foreign, &[&scripts.joins_shared()]);
        assert_eq!(told.answer, [0, told.now + 1, turn, i64::from(rank == 0)], "{rank}, foreign");
    }
}

#[tokio::test]
async fn tokens_rise_also_where_the_counter_stands_at_the_very_microsecond() {
    let scripts = Scripts::new().await;
    let (forget, fencing_token) = (format!("DEL {LOCK} {QUEUE} {CLAIMS} {SHARED}"), format!("GET {FENCE}"));
    let held = format!("redis.call('SET', '{LOCK}', 'glk1:{OTHER}:1000::0:1/1:x', 'PX', 60000)");
    let commands = |asks: &str, before: &str| {
        // From the clock here to the clock of the join it is a fraction of a millisecond.
        let counter = |ahead| {
            format!(
                "EVAL \"{before} local time = redis.call('TIME') local now = time[1] * 1000000 + time[2] + {ahead} \
                 redis.call('SET', KEYS[1], string.format('%.0f', now)) return string.format('%.0f', now)\" 1 {FENCE}"
            )
        };
        let one = |ahead| {
            [counter(ahead), asks.to_owned(), fencing_token.clone(), forget.clone(), "ECHO next".to_owned()]
        };
        (0..100).flat_map(one).collect::<Vec<_>>()
    };
    for (asks, before) in
        [(scripts.joins_for(0, 0), ""), (scripts.joins_shared(), ""), (scripts.joins(), held.as_str())]
    {
        let commands = commands(&asks, before);
        for _ in 0..40 {
            let told = piped(&scripts.server, &commands).replace('w', "");
            let told = told.split_terminator("next\n").map(numbers).collect::<Vec<_>>();
            assert_eq!(told.len(), 100);
            for told in told {
                assert!(told[told.len() - 2] > told[0], "{told:?}");
            }
        }
    }
}

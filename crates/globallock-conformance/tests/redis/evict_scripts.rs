//! What the script of evictions answers and leaves, and what an enqueue makes of its notice.

use crate::answers::shares_until;
use crate::calls::{
    CLAIMS, COUNTER, ID, LOCK, NOTICE, QUEUE, REST, SHARED, Scripts, already_waiting, held_until, in_front,
    shared_by,
};

/// How long a lease has left: far longer than a test takes.
const LEFT: i64 = 60_000;
/// How long a notice stays at least.
const HOUR: i64 = 3_600_000;
/// When a key expires that a test must know beforehand.
const FAR: i64 = 99_999_999_999_999;

fn exists(key: &str) -> String {
    format!("EXISTS {key}")
}

fn notice_ends() -> String {
    format!("PEXPIRETIME {NOTICE}")
}

/// The claim holds the lock alone, until this millisecond.
fn held_alone(ends: i64) -> Vec<String> {
    vec![format!("SET {LOCK} \"glk1:{ID}:1000::0:1/1:x\" PXAT {ends}"), format!("SET {COUNTER} 1000")]
}

/// A foreign holder with this value, and its key for a moment of expiry.
fn foreign(scripts: &Scripts, value: &str, ends: i64) -> String {
    let hash = scripts.server.cli(&["EVAL", "return redis.sha1hex(ARGV[1])", "0", value]);
    format!("foreign:{hash}:{ends}")
}

#[tokio::test]
async fn an_exclusive_holder_is_evicted_once_and_its_notice_outlives_its_lease() {
    let scripts = Scripts::new().await;
    let evict = scripts.evict("");
    let reply = scripts.answers(
        |now| held_alone(now + LEFT),
        &[&evict, &exists(LOCK), &notice_ends(), &evict, &notice_ends()],
    );
    let ends = reply.now + 2 * (LEFT - reply.late) + HOUR;
    assert_eq!(reply.answer, [1, 0, ends, 0, ends]);
    // An operator has made its key stay.
    let stays = |_| [held_alone(FAR), vec![format!("PERSIST {LOCK}")]].concat();
    let reply = scripts.answers(stays, &[&evict, &exists(LOCK), &notice_ends()]);
    assert_eq!(reply.answer, [1, 0, reply.now + HOUR]);
}

#[tokio::test]
async fn the_holder_with_another_id_stays() {
    let scripts = Scripts::new().await;
    let reply = scripts
        .answers(|now| vec![held_until(now + LEFT)], &[&scripts.evict(""), &exists(LOCK), &exists(NOTICE)]);
    assert_eq!(reply.answer, [0, 1, 0]);
}

#[tokio::test]
async fn a_waiter_is_evicted_by_its_member_of_the_queue() {
    let scripts = Scripts::new().await;
    let member = format!("{ID} {REST}");
    let (seen, found) = (scripts.evict(""), scripts.evict(&member));
    let waits = |now| [vec![held_until(now + LEFT)], already_waiting()].concat();
    let counter = format!("GET {COUNTER}");
    let [queue, claims, lock, notice] = [QUEUE, CLAIMS, LOCK, NOTICE].map(exists);
    let ends = notice_ends();
    let requests = [&seen, &notice, &found, &queue, &claims, &lock, &ends, &counter, &found];
    let reply = scripts.answers(waits, &requests.map(String::as_str));
    // Without the member it may wait. Its renewed lease ends in the far future.
    let ends = reply.now + 2 * (FAR - reply.now) + HOUR;
    assert_eq!(reply.answer, [4, 0, 1, 0, 0, 1, ends, 5000, 0]);
    // One that has not renewed yet: its lease counts from the join.
    let joined = |now: i64| vec![held_until(now + LEFT), format!("ZADD {QUEUE} {} \"{member}\"", now * 1000)];
    let reply = scripts.answers(joined, &[&found, &notice_ends()]);
    assert_eq!(reply.answer, [1, reply.now + 2 * (600_000 - reply.late) + HOUR]);
    // Others stay, and a member that the queue does not have is not looked for again.
    let others = |now| [vec![held_until(now + LEFT)], in_front(3)].concat();
    let reply = scripts.answers(others, &[&found, &format!("ZCARD {QUEUE}"), &exists(NOTICE)]);
    assert_eq!(reply.answer, [0, 3, 0]);
    // What another program has put there is no waiter.
    let junk = |now| vec![held_until(now + LEFT), format!("ZADD {QUEUE} 1 \"{ID} junk\"")];
    let reply = scripts.answers(junk, &[&scripts.evict(&format!("{ID} junk")), &exists(NOTICE)]);
    assert_eq!(reply.answer, [0, 0]);
}

#[tokio::test]
async fn a_shared_holder_is_evicted_and_the_others_stay() {
    let scripts = Scripts::new().await;
    let left = [format!("ZCARD {SHARED}"), format!("HEXISTS {CLAIMS} {ID}"), exists(LOCK)];
    let weight = format!("HGET {CLAIMS} \"#weight\"");
    let reply = scripts.answers(
        |now| shares_until(now + LEFT, now + 2 * LEFT),
        &[&scripts.evict(""), &left[0], &left[1], &left[2], &weight, &notice_ends()],
    );
    let ends = reply.now + 2 * (LEFT - reply.late) + HOUR;
    assert_eq!(reply.answer, [1, 1, 0, 1, 1, ends]);
}

#[tokio::test]
async fn a_claim_that_has_ended_is_not_evicted_and_nothing_of_it_stays() {
    let scripts = Scripts::new().await;
    let member = format!("{ID} {REST}");
    let waited = |now| {
        let over = format!("HSET {CLAIMS} {ID} {now}");
        [vec![held_until(now + LEFT)], already_waiting(), vec![over]].concat()
    };
    let (evict, queue, notice) = (scripts.evict(&member), exists(QUEUE), exists(NOTICE));
    assert_eq!(scripts.answers_at(waited, &[&evict, &queue, &notice]).answer, [0, 0, 0]);
    let shared = |now| shares_until(now, now + LEFT);
    let (evict, in_hash) = (scripts.evict(""), format!("HEXISTS {CLAIMS} {ID}"));
    let requests = [evict.as_str(), &in_hash, &notice];
    assert_eq!(scripts.answers_at(shared, &requests).answer, [0, 0, 0]);
    // A shared lock that was broken.
    let broken = |now| [shares_until(now + LEFT, now + LEFT), vec![format!("DEL {LOCK}")]].concat();
    assert_eq!(scripts.answers(broken, &requests).answer, [0, 0, 0]);
}

#[tokio::test]
async fn a_foreign_holder_is_evicted_by_its_value_and_its_expiry() {
    let scripts = Scripts::new().await;
    let one = |key: &str, before: &str| {
        let request = scripts.evict_foreign(key);
        scripts.answers(|_| vec![before.to_owned()], &[&request, &exists(LOCK)]).answer
    };
    let key = foreign(&scripts, "1", FAR);
    assert_eq!(one(&key, &format!("SET {LOCK} 1 PXAT {FAR}")), [1, 0]);
    // The next holder has the same value, but expires at another time; or never.
    assert_eq!(one(&key, &format!("SET {LOCK} 1 PXAT {}", FAR - 1)), [0, 1]);
    assert_eq!(one(&key, &format!("SET {LOCK} 1")), [0, 1]);
    assert_eq!(one(&key, &format!("SET {LOCK} 2 PXAT {FAR}")), [0, 1]);
    let long = "0123456789abcdef";
    let stays = foreign(&scripts, long, 0);
    assert_eq!(one(&stays, &format!("SET {LOCK} {long}")), [1, 0]);
    assert_eq!(one(&stays, &format!("SET {LOCK} {long} PXAT {FAR}")), [0, 1]);
    // A shorter value that never expires may be the next holder's too.
    let short = &long[1..];
    assert_eq!(one(&foreign(&scripts, short, 0), &format!("SET {LOCK} {short}")), [0, 1]);
    // No string.
    for key in ["foreign:?", &key, &stays] {
        assert_eq!(one(key, &format!("HSET {LOCK} field 1")), [0, 1], "{key}");
    }
    assert_eq!(one(&key, "SET unrelated 1"), [0, 0]);
}

#[tokio::test]
async fn an_eviction_grants_the_lock_past_many_dead_waiters_in_several_calls() {
    let scripts = Scripts::new().await;
    let evict = scripts.evict("");
    let before = |count| move |now| [held_alone(now + LEFT), in_front(count)].concat();
    // The second call finds nothing, but waiters, and so does the third, which lets the last of them in.
    assert_eq!(scripts.untimed_answers(before(5000), &[&evict, &evict, &evict, &evict]), [3, 6, 4, 0]);
    let counter = format!("GET {COUNTER}");
    assert_eq!(scripts.untimed_answers(before(100), &[&evict, &exists(QUEUE), &counter]), [1, 0, 1000]);
    let evict = scripts.evict_foreign(&foreign(&scripts, "1", FAR));
    let before = |_| [vec![format!("SET {LOCK} 1 PXAT {FAR}")], in_front(100)].concat();
    assert_eq!(scripts.untimed_answers(before, &[&evict, &exists(QUEUE)]), [1, 0]);
}

#[tokio::test]
async fn the_owner_is_told_on_its_own_channel_where_the_store_knows_it() {
    let scripts = Scripts::new().await;
    let told = |before: &dyn Fn(i64) -> Vec<String>, request: &str| {
        let commands = scripts.commands(before, request);
        let mut told = commands.into_iter().filter(|command| command[0].eq_ignore_ascii_case("PUBLISH"));
        let first = told.next().map(|command| command[1..].to_vec());
        assert_eq!(told.next(), None);
        first
    };
    let message = format!("{ID} evicted gone");
    let on = |channel: &str| Some(vec![channel.to_owned(), message.clone()]);
    assert_eq!(told(&|now| held_alone(now + LEFT), &scripts.evict("")), on("globallock:evict"));
    let waits = |now| [vec![held_until(now + LEFT)], already_waiting()].concat();
    assert_eq!(told(&waits, &scripts.evict(&format!("{ID} {REST}"))), on("globallock:wake:nobody"));
    let shares = |now| shares_until(now + LEFT, now + LEFT);
    assert_eq!(told(&shares, &scripts.evict("")), on("globallock:wake:nobody"));
    assert_eq!(told(&|now| vec![held_until(now + LEFT)], &scripts.evict("")), None);
    let key = foreign(&scripts, "1", FAR);
    let held = |_| vec![format!("SET {LOCK} 1 PXAT {FAR}")];
    assert_eq!(told(&held, &scripts.evict_foreign(&key)), None);
}

#[tokio::test]
async fn evictions_cost_the_server_what_the_page_says() {
    let scripts = Scripts::new().await;
    let cost = |before: &dyn Fn(i64) -> Vec<String>, request: &str| scripts.commands(before, request).len();
    assert_eq!(cost(&|now| held_alone(now + LEFT), &scripts.evict("")), 12);
    let waits = |now| [vec![held_until(now + LEFT)], already_waiting()].concat();
    assert_eq!(cost(&waits, &scripts.evict("")), 6);
    assert_eq!(cost(&waits, &scripts.evict(&format!("{ID} {REST}"))), 13);
}

#[tokio::test]
async fn a_claim_that_asks_again_finds_the_notice_and_changes_nothing() {
    let scripts = Scripts::new().await;
    let again = scripts.enqueue_again();
    let noticed = |_| vec![format!("SET {NOTICE} 77 PX 60000")];
    let keys = exists(&[LOCK, COUNTER, QUEUE, CLAIMS, SHARED].join(" "));
    assert_eq!(scripts.answers(noticed, &[&again, &keys]).answer, [4, 77, 0]);
    // Also where a request that was on its way has let it join after all.
    let joined = |now| [vec![held_until(now + LEFT)], already_waiting(), noticed(now)].concat();
    assert_eq!(scripts.answers(joined, &[&again]).answer, [4, 77]);
    // Without a notice it joins as ever.
    assert_eq!(scripts.answers(|_| Vec::new(), &[&again]).answer[0], 1);
    let taken = |now| shared_by(&[(now + LEFT, 2), (now + LEFT, 2)], 0);
    assert_eq!(scripts.answers(taken, &[&again]).answer[0], 0);
    // A first request does not look.
    assert_eq!(scripts.answers(noticed, &[&scripts.enqueue_shared()]).answer[0], 1);
}

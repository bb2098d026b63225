//! What the scripts answer, to the millisecond: asked for in the words of the library, by a connection of the test's own,
//! between two looks at the server's clock, and again until no millisecond has gone by between these.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use globallock::backend::{Backend, Claim, Patience, Standing};
use globallock::queue::Share;
use globallock_conformance::server::redis::Redis;

use crate::times::claim;

const LOCK: &str = "_glocks:a";
const FENCE: &str = "{_glocks:a}:fence";
const QUEUE: &str = "{_glocks:a}:queue";
const CLAIMS: &str = "{_glocks:a}:claims";
const SHARED: &str = "{_glocks:a}:shared";
const MUTEX: Share = Share { weight: 1, capacity: 1 };
const ONE_OF_TWO: Share = Share { weight: 1, capacity: 2 };

/// The claim that asks, as the scripts write it.
const ID: &str = "000000000000000000000000000000aa";
/// Another one.
const OTHER: &str = "000000000000000000000000000000bb";
/// What a member of the queue says behind its id: a channel without a subscriber, ten minutes' lease, no longest hold.
const REST: &str = "globallock:wake:nobody 600000 0 1/1:x";

/// A server that knows the scripts, and by which names.
struct Scripts {
    server: Redis,
    join: String,
    join_shared: String,
    renew: String,
    leave: String,
}

impl Scripts {
    async fn new() -> Self {
        let server = Redis::start().unwrap();
        let backend = globallock::connect_backend(&server.url()).await.unwrap();
        let (alone, shares) = (queued(MUTEX), queued(ONE_OF_TWO));
        assert_eq!(server.cli(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]), "OK");
        join(&backend, &alone).await;
        let join_script = last_script(&server);
        assert!(matches!(backend.renew(&[Arc::new(alone.clone())]).await[..], [Ok(Standing::Held(_))]));
        let renew = last_script(&server);
        backend.leave(&alone).await.unwrap();
        let leave = last_script(&server);
        join(&backend, &shares).await;
        let join_shared = last_script(&server);
        assert!(join_script != renew && renew != join_shared && join_shared != join_script);
        backend.leave(&shares).await.unwrap();
        server.cli(&["FLUSHALL"]);
        Scripts { server, join: join_script, join_shared, renew, leave }
    }

    /// A call of a script on the lock `a`.
    fn call(script: &str, arguments: &str) -> String {
        format!("EVALSHA {script} 5 {LOCK} {FENCE} {QUEUE} {CLAIMS} {SHARED} {arguments}")
    }

    /// A join of one that waits, and takes all there is.
    fn joins(&self) -> String {
        self.joins_for(0, 1)
    }

    /// The same of one that may share.
    fn joins_shared(&self) -> String {
        self.joins_shared_for(0)
    }

    /// A join of one that has a longest hold, and waits or does not.
    fn joins_for(&self, longest: u32, waits: u8) -> String {
        let arguments = format!("{ID} 600000 {longest} \"1/1:x\" \"{waits} globallock:wake:nobody\"");
        Self::call(&self.join, &arguments)
    }

    fn joins_shared_for(&self, longest: u32) -> String {
        let arguments = format!("{ID} 600000 {longest} \"1/2:x\" \"1 globallock:wake:nobody\"");
        Self::call(&self.join_shared, &arguments)
    }

    /// A renewal.
    fn renews(&self) -> String {
        Self::call(&self.renew, &format!("{ID} 600000 \"{ID} {REST}\""))
    }

    /// Does what `before` says, with the server's millisecond at hand, and then asks. Nothing comes between.
    fn answer(&self, before: impl Fn(i64) -> Vec<String>, asks: &str) -> Told {
        self.answers(before, &[asks])
    }

    /// The same of several questions, whose answers stand one behind the other.
    fn answers(&self, before: impl Fn(i64) -> Vec<String>, asks: &[&str]) -> Told {
        (0..1000)
            .find_map(|_| self.slow_answers(&before, asks).ok())
            .expect("once, no millisecond goes by while it is asked")
    }

    /// The same; what has taken more than a millisecond is an error.
    fn slow_answers(&self, before: impl Fn(i64) -> Vec<String>, asks: &[&str]) -> Result<Told, Told> {
        let given = millisecond(&numbers(&self.server.cli(&["TIME"])));
        let before = before(given);
        let mut commands = vec!["FLUSHALL".to_owned(), "MULTI".to_owned()];
        commands.extend_from_slice(&before);
        let asked = asks.iter().copied();
        commands.extend(std::iter::once("TIME").chain(asked).chain(["TIME", "EXEC"]).map(str::to_owned));
        let printed = piped(&self.server, &commands);
        let (_, results) = printed.rsplit_once("QUEUED\n").expect("it is queued");
        // What is done before is answered by one line each.
        let told = numbers(results.splitn(before.len() + 1, '\n').last().expect("it is answered"));
        let (first, rest) = told.split_at(2);
        let (answer, last) = rest.split_at(rest.len() - 2);
        let now = millisecond(first);
        let told = Told { now, late: now - given, answer: answer.to_vec() };
        if now == millisecond(last) { Ok(told) } else { Err(told) }
    }

    /// What is answered, however long it takes.
    fn whatever(&self, before: impl Fn(i64) -> Vec<String>, asks: &[&str]) -> Vec<i64> {
        self.slow_answers(before, asks).unwrap_or_else(|told| told).answer
    }
}

/// An answer.
struct Told {
    /// The server's millisecond.
    now: i64,
    /// How many milliseconds ago the one was that had been at hand.
    late: i64,
    answer: Vec<i64>,
}

fn numbers(lines: &str) -> Vec<i64> {
    lines.lines().map(|line| line.parse().expect(lines)).collect()
}

/// Reads a server's seconds and microseconds.
fn millisecond(time: &[i64]) -> i64 {
    time[0] * 1000 + time[1] / 1000
}

fn queued(share: Share) -> Claim {
    claim("a", 1, share, Patience::Queue)
}

async fn join(backend: &Arc<dyn Backend>, claim: &Claim) {
    assert!(matches!(backend.join(claim).await, Ok(Standing::Held(_))));
}

/// The name of the script that was called last.
fn last_script(server: &Redis) -> String {
    let script = "
        for _, entry in ipairs(redis.call('SLOWLOG', 'GET', 100)) do
            if entry[4][1] == 'EVALSHA' then return entry[4][2] end
        end";
    server.cli(&["EVAL", script, "0"])
}

/// What the server answers to these commands, in one transmission.
fn piped(server: &Redis, commands: &[String]) -> String {
    let mut client = Command::new("redis-cli")
        .args(["-p", &server.port().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-cli is installed: run apt-get install redis-tools");
    let text = commands.join("\n") + "\n";
    client.stdin.take().expect("it is piped").write_all(text.as_bytes()).unwrap();
    String::from_utf8(client.wait_with_output().unwrap().stdout).unwrap()
}

/// A holder whose lease ends then.
fn held_until(ends: i64) -> String {
    format!("SET {LOCK} \"glk1:{OTHER}:1000::0:1/1:x\" PXAT {ends}")
}

/// So many waiters in front, with leases that they have renewed.
fn in_front(count: u32) -> Vec<String> {
    let members: String = (1..=count).map(|number| format!(" {number} \"{number:031x}f {REST}\"")).collect();
    let leases: String = (1..=count).map(|number| format!(" {number:031x}f 99999999999999")).collect();
    if count == 0 {
        Vec::new()
    } else {
        vec![format!("ZADD {QUEUE}{members}"), format!("HSET {CLAIMS}{leases}")]
    }
}

/// The waiter that asks, behind them, with a lease that it has renewed.
fn waits_already() -> Vec<String> {
    vec![
        format!("ZADD {QUEUE} 5000 \"{ID} {REST}\""),
        format!("HSET {CLAIMS} {ID} 99999999999999"),
        format!("SET {FENCE} 5000w"),
    ]
}

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

/// Those who share, each one of so many with a lease until then, and what they have written beside the lock's key.
fn shared_by(members: &[(i64, u32)], mixed: u8) -> Vec<String> {
    let id = |at: usize| format!("{:032x}", 0xcc00 + at);
    let leases: String =
        members.iter().enumerate().map(|(at, (ends, _))| format!(" {ends} {}", id(at))).collect();
    let record = |(at, (ends, capacity)): (usize, &(i64, u32))| {
        format!(" {} \"1000 {ends} 1 1 0 0 globallock:wake:nobody 1/{capacity}:x\"", id(at))
    };
    let records: String = members.iter().enumerate().map(record).collect();
    let smallest = members.iter().map(|(_, capacity)| capacity).min().expect("somebody shares");
    let weight = members.len();
    vec![
        format!("SET {LOCK} glk1+:{OTHER}:1000 PXAT 99999999999999"),
        format!("SET {FENCE} 1000w"),
        format!("ZADD {SHARED}{leases}"),
        format!("HSET {CLAIMS}{records}"),
        format!("HSET {CLAIMS} \"#value\" glk1+:{OTHER}:1000 \"#mixed\" {mixed}"),
        format!("HSET {CLAIMS} \"#weight\" {weight} \"#capacity\" {smallest}"),
    ]
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
    let leave = Scripts::call(&scripts.leave, &format!("{ID} \"\""));
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
    let leave = Scripts::call(&scripts.leave, &format!("{OTHER} \"\""));
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

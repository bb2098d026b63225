//! What locks cost the server, counted in the commands inside the scripts.

use globallock::Name;
use globallock::backend::{ClaimStatus, WaitMode};
use globallock_conformance::server::redis::Redis;

use crate::calls::{
    COUNTER, ID, MUTEX, Monitor, ONE_OF_TWO, REST, Scripts, already_waiting, enqueue, in_front, shared_by,
};
use crate::patient;
use crate::scripts::{Store, queued};
use crate::times::claim;

/// How often the server has run a command since its counts were reset.
pub(crate) fn count(server: &Redis, command: &str) -> u64 {
    let stats = server.cli(&["INFO", "commandstats"]);
    let found = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    found.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

/// What the server has run in a call, by command.
pub(crate) fn spent(store: &Store) -> String {
    let stats = store.server.cli(&["INFO", "commandstats"]);
    let mut calls: Vec<&str> = stats
        .lines()
        .filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(",usec=").map(|(calls, _)| calls))
        .filter(|calls| !["evalsha", "info", "config", "script"].iter().any(|other| calls.starts_with(other)))
        .collect();
    calls.sort_unstable();
    let text = calls.join(" ").replace("calls=", "");
    store.server.cli(&["CONFIG", "RESETSTAT"]);
    text
}

#[tokio::test]
async fn locks_cost_the_server_what_the_page_says() {
    let store = Store::new().await;
    let (holder, waiter) = (queued(1, MUTEX), queued(2, MUTEX));
    store.holds(&holder).await;
    store.release(&holder).await;
    spent(&store);
    store.holds(&holder).await;
    assert_eq!(spent(&store), "set:2 time:1", "an acquire");
    assert!(matches!(store.renew(&holder).await, ClaimStatus::Held(_)));
    assert_eq!(spent(&store), "get:1 pexpire:1", "a renewal");
    store.waits(&waiter).await;
    assert_eq!(spent(&store), "pexpire:1 pttl:2 set:2 time:1 zadd:1 zrank:1", "the first wait");
    store.release(&holder).await;
    store.granted(&waiter).await;
    assert_eq!(spent(&store), "mget:1 publish:1 set:1 time:1 zpopmin:1", "a release before a waiter");
    store.release(&waiter).await;
    assert_eq!(spent(&store), "del:1 mget:1 set:1 zpopmin:1", "a release after the last waiter");
    store.holds(&holder).await;
    store.release(&holder).await;
    assert_eq!(spent(&store), "del:1 mget:1 set:2 time:1", "an acquire and a release");
    store.server.cli(&["DEL", COUNTER]);
    spent(&store);
    store.holds(&holder).await;
    assert_eq!(spent(&store), "exists:1 set:2 time:1", "the first acquire of a name");
    store.release(&holder).await;
    spent(&store);
    store.holds(&claim("a", 3, MUTEX, WaitMode::Try)).await;
    assert_eq!(spent(&store), "exists:1 set:2 time:1", "an acquire that does not wait");
}

#[tokio::test]
async fn a_value_costs_the_server_what_the_page_says() {
    let store = Store::new().await;
    let holder = queued(1, MUTEX).with_value();
    store.holds(&holder).await;
    let write = async || store.backend.set_value(&holder, b"a", std::time::Duration::from_secs(60)).await;
    write().await.unwrap();
    store.release(&holder).await;
    spent(&store);
    store.holds(&holder).await;
    assert_eq!(spent(&store), "hmget:1 pttl:1 set:2 time:1", "an acquire with the value");
    write().await.unwrap();
    assert_eq!(spent(&store), "get:1 hmget:1 hset:1 pexpire:1 time:1", "a write");
}

/// How many waiters a command reads from the front of the queue.
fn read_by(command: &[String]) -> Option<u64> {
    let [name, key, first, last, ..] = command else { return None };
    if !name.eq_ignore_ascii_case("ZRANGE") || !key.ends_with(":queue") {
        return None;
    }
    assert_eq!(first, "0");
    Some(last.parse::<u64>().expect("it is read from the front, and not to the end") + 1)
}

#[tokio::test]
async fn a_call_costs_the_same_behind_ten_waiters_as_behind_ten_thousand() {
    let scripts = Scripts::new().await;
    // While there are shared holders, the first waiter is read: it wants more permits than are free.
    let behind = |waiters| {
        move |now| {
            let shared = shared_by(&[(now + 100_000, 2), (now + 100_000, 2)], 0);
            [shared, in_front(waiters), already_waiting()].concat()
        }
    };
    let asked = [
        ("an enqueue", scripts.enqueue_shared()),
        ("a poll", scripts.enqueue()),
        ("a renewal", scripts.renew()),
        ("a release of a waiter", scripts.release(ID, &format!("{ID} {REST}"))),
        ("a release of a shared holder", scripts.release(&format!("{:032x}", 0xcc00), "")),
    ];
    for (what, request) in asked {
        let [few, many] = [10, 10_000].map(|waiters| scripts.commands(behind(waiters), &request));
        let names =
            |commands: &[Vec<String>]| commands.iter().map(|command| command[0].clone()).collect::<Vec<_>>();
        assert_eq!(names(&few), names(&many), "{what}");
        let (read, rest): (Vec<_>, Vec<_>) = many.iter().partition(|command| read_by(command).is_some());
        assert_eq!(read.iter().filter_map(|command| read_by(command)).collect::<Vec<_>>(), [1], "{what}");
        // Commands that read a key read one field, or the first member, or the shared holders, of which there
        // are two.
        let cheap = [
            "get",
            "mget",
            "set",
            "time",
            "exists",
            "pttl",
            "pexpireat",
            "del",
            "hget",
            "hmget",
            "hset",
            "hdel",
            "zadd",
            "zcard",
            "zrank",
            "zrem",
            "zscore",
            "publish",
        ];
        for command in rest {
            let name = command[0].to_lowercase();
            let of_shared_holders = name.starts_with("zrange") && command[1].ends_with(":shared");
            assert!(cheap.contains(&&*name) || of_shared_holders, "{what}: {command:?}");
        }
    }
}

#[tokio::test]
async fn a_call_reads_little_more_than_the_dead_waiters_that_it_drops() {
    let scripts = Scripts::new().await;
    let commands = scripts.commands(|_| in_front(10_000), &scripts.enqueue());
    let read: Vec<u64> = commands.iter().filter_map(|command| read_by(command)).collect();
    let passed: Vec<u64> = commands
        .iter()
        .filter(|command| command[0].eq_ignore_ascii_case("ZREMRANGEBYRANK"))
        .map(|command| command[3].parse::<u64>().unwrap() + 1)
        .collect();
    // Twice as many each time, up to 128. All that are read are dropped, except the last time.
    let sizes = (0..).map(|power| 1_u64 << power.min(7)).take(read.len());
    assert_eq!(read, sizes.collect::<Vec<_>>());
    assert_eq!(passed[..passed.len() - 1], read[..read.len() - 1]);
    // One unit for each, and three for the message that proves the connection of all of them unreachable.
    assert_eq!(passed.iter().sum::<u64>(), 2000 - 3);
}

/// No key is made for a holder of ours, because that is evicted by its id.
#[tokio::test]
async fn a_look_costs_the_server_what_the_page_says() {
    let server = Redis::start().unwrap();
    let backend = globallock::connect_backend(&patient(&server.url())).await.unwrap();
    enqueue(&backend, &claim("alone", 1, MUTEX, WaitMode::Wait)).await;
    enqueue(&backend, &claim("shared", 2, ONE_OF_TWO, WaitMode::Wait)).await;
    server.cli(&["SET", "_glocks:foreign", "1"]);
    server.cli(&["SET", "_glocks:lost", "glk1+:0:1"]);
    for (name, commands) in [("alone", 6), ("shared", 7), ("foreign", 7), ("lost", 8)] {
        let name = Name::new(name).unwrap();
        // Loads the script.
        assert_eq!(backend.inspect(&name).await.unwrap().len(), 1);
        let monitor = Monitor::start(&server);
        backend.inspect(&name).await.unwrap();
        let seen = monitor.end(&server);
        assert_eq!(seen.iter().filter(|line| line.contains(" lua] ")).count(), commands, "{name}: {seen:?}");
    }
}

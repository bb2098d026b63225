//! What locks cost the server, by the commands inside.

use globallock::backend::{Patience, Standing};
use globallock_conformance::server::redis::Redis;

use crate::scripts::{FENCE, MUTEX, Store, queued};
use crate::times::claim;

/// How often the server has run a command since its counts were reset.
pub(crate) fn count(server: &Redis, command: &str) -> u64 {
    let stats = server.cli(&["INFO", "commandstats"]);
    let found = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    found.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

/// What the server did in a call, by command.
fn spent(store: &Store) -> String {
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
    store.leave(&holder).await;
    spent(&store);
    store.holds(&holder).await;
    assert_eq!(spent(&store), "set:2 time:1", "an acquire");
    assert!(matches!(store.renew(&holder).await, Standing::Held(_)));
    assert_eq!(spent(&store), "get:1 pexpire:1", "a renewal");
    store.waits(&waiter).await;
    assert_eq!(spent(&store), "pexpire:1 pttl:2 set:2 time:1 zadd:1 zrank:1", "the first wait");
    store.leave(&holder).await;
    store.told(&waiter).await;
    assert_eq!(spent(&store), "mget:1 publish:1 set:1 time:1 zpopmin:1", "a release before a waiter");
    store.leave(&waiter).await;
    assert_eq!(spent(&store), "del:1 mget:1 set:1 zpopmin:1", "a release after the last waiter");
    store.holds(&holder).await;
    store.leave(&holder).await;
    assert_eq!(spent(&store), "del:1 mget:1 set:2 time:1", "an acquire and a release");
    store.server.cli(&["DEL", FENCE]);
    spent(&store);
    store.holds(&holder).await;
    assert_eq!(spent(&store), "exists:1 set:2 time:1", "the first acquire of a name");
    store.leave(&holder).await;
    spent(&store);
    store.holds(&claim("a", 3, MUTEX, Patience::Once)).await;
    assert_eq!(spent(&store), "exists:1 set:2 time:1", "an acquire that does not wait");
}

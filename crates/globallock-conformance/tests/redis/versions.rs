//! Other versions of the server: what is too old is refused, and what is not has the same promises. `make
//! versions` runs everything on each of them.

use globallock::{Error, Release};
use globallock_conformance::fixtures::calm_manager;
use globallock_conformance::server::peers;
use globallock_conformance::server::redis::Redis;

use crate::calls::{COUNTER, LOCK, MUTEX, ONE_OF_TWO};
use crate::costs::spent;
use crate::scripts::{Store, queued};
use crate::{connect, patient};

fn server(version: &str, more: &[&str]) -> Redis {
    Redis::start_program(&peers::redis(version).unwrap(), more).unwrap()
}

#[tokio::test]
async fn redis_5_is_refused_with_its_version() {
    let server = server("5.0.6", &[]);
    let error = connect(&server.url()).await.expect_err("it is refused");
    assert!(matches!(error, Error::FailedPrecondition { .. }), "{error:?}");
    let text = format!("{} cannot do this: it is Redis 5.0.6: globallock needs 6.0 or newer", server.url());
    assert_eq!(error.to_string(), text);
}

#[tokio::test]
async fn redis_6_serves_also_where_its_scripts_are_repeated_by_replicas() {
    for more in [&[][..], &["--lua-replicate-commands", "no"]] {
        let server = server("6.2.5", more);
        let manager = calm_manager(&server.url()).await;
        crate::access::works(&manager).await;
    }
}

/// The server that is installed, asked for no newer commands. It may be slow: no connection is made again.
async fn asked_as_redis_6() -> Store {
    let server = Redis::start().unwrap();
    let address = patient(&format!("{}?commands=6", server.url()));
    let backend = globallock::connect_backend(&address).await.unwrap();
    Store { server, backend }
}

#[tokio::test]
async fn the_commands_of_redis_6_are_as_many_as_the_page_says() {
    let store = asked_as_redis_6().await;
    let (holder, waiter) = (queued(1, MUTEX), queued(2, MUTEX));
    store.holds(&holder).await;
    store.release(&holder).await;
    spent(&store);
    store.holds(&holder).await;
    assert_eq!(spent(&store), "get:2 set:2 time:1", "an acquire");
    store.waits(&waiter).await;
    assert_eq!(spent(&store), "get:2 pexpire:1 pttl:2 set:1 time:1 zadd:1 zrank:1", "the first wait");
    store.release(&holder).await;
    store.granted(&waiter).await;
    assert_eq!(spent(&store), "mget:1 pexpireat:1 publish:1 set:1 time:1 zpopmin:1", "a hand-over");
    store.release(&waiter).await;
    assert_eq!(spent(&store), "del:1 mget:1 set:1 zpopmin:1", "the last release");
}

#[tokio::test]
async fn tokens_rise_above_a_counter_that_is_ahead_of_the_clock_on_redis_6_too() {
    let store = asked_as_redis_6().await;
    let ahead = 4_000_000_000_000_000_u64;
    store.server.cli(&["SET", COUNTER, &ahead.to_string()]);
    let (holder, waiter) = (queued(1, MUTEX), queued(2, ONE_OF_TWO));
    assert_eq!(store.holds(&holder).await.fencing_token, ahead + 1);
    store.waits(&waiter).await;
    store.release(&holder).await;
    assert_eq!(store.granted(&waiter).await.fencing_token, ahead + 2);
}

/// Such a server does not tell when a key expires, only how long it lives.
#[tokio::test]
async fn redis_6_knows_a_foreign_holder_by_the_ms_of_its_expiry() {
    const EXPIRES: &str = "9999999999999";
    let server = server("6.2.5", &[]);
    let manager = calm_manager(&server.url()).await;
    let holder = async || manager.inspect("a").await.unwrap().swap_remove(0).key;
    server.cli(&["SET", LOCK, "1", "PXAT", EXPIRES]);
    let key = holder().await;
    assert!(key.as_str().ends_with(&format!(":{EXPIRES}")), "{key}");
    server.cli(&["PEXPIRE", LOCK, "60000"]);
    assert_eq!(manager.evict("a", &key, "because").await.unwrap(), Release::NotHeld, "it is another");
    for _ in 0..100 {
        assert_eq!(holder().await, holder().await);
    }
    assert_eq!(manager.evict("a", &holder().await, "because").await.unwrap(), Release::Released);
    server.cli(&["SET", LOCK, "a value that is long enough"]);
    let key = holder().await;
    assert!(key.as_str().ends_with(":0"), "{key}");
    assert_eq!(manager.evict("a", &key, "because").await.unwrap(), Release::Released);
}

/// INFO is no right that locks need. The version is then in what HELLO answers.
#[tokio::test]
async fn redis_6_serves_a_user_with_the_least_rights() {
    let server = server("6.2.5", &[]);
    let manual = include_str!("../../../../docs/redis.md");
    let rights = manual.lines().find_map(|line| line.trim().strip_prefix("ACL SETUSER locks on >PASSWORD "));
    let arguments: Vec<&str> =
        ["ACL", "SETUSER", "locks", "on", ">pw"].into_iter().chain(rights.unwrap().split(' ')).collect();
    assert_eq!(server.cli(&arguments), "OK");
    let url = server.url().replace("redis://", "redis://locks:pw@");
    crate::access::works(&calm_manager(&url).await).await;
    assert_eq!(server.cli(&["ACL", "SETUSER", "locks", "-@sortedset"]), "OK");
    let refused = calm_manager(&url).await.rwlock("b").read().acquire().await.unwrap_err();
    assert!(matches!(refused, Error::PermissionDenied { .. }), "{refused:?}");
    assert!(refused.to_string().contains("+@sortedset"), "{refused}");
}

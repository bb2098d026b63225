//! A lock of a user's own transaction, and those of managers, exclude each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use globallock::{Error, LockManager, Release};
use globallock_conformance::fixtures::{connect_for, queue_is, waits};
use globallock_conformance::server::postgres::{Pooler, Postgres};
use tokio::time::timeout;

use crate::session::{Session, are_in};

/// Claims are renewed after 10 s.
const LEASE: Duration = Duration::from_secs(30);
/// Before any renewal.
const SOON: Duration = Duration::from_secs(8);
/// What waits in the server is in this.
const CALL: &str = "transaction_lock_1";

async fn manager(url: &str) -> LockManager {
    connect_for(url, LEASE).await.unwrap()
}

/// A session that waits for the lock `a`, and what it will have got.
fn waits_in_transaction(session: Session, wait_ms: &'static str) -> tokio::task::JoinHandle<(Session, u64)> {
    tokio::spawn(async move {
        let token = session.lock("a", wait_ms).await;
        (session, token.unwrap_or_default())
    })
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Commit,
    Rollback,
    Terminated,
    Closed,
}

async fn managers_wait_for_transactions(server: &Postgres, url: &str) {
    let manager = manager(url).await;
    for end in [End::Commit, End::Rollback, End::Terminated, End::Closed] {
        let session = Session::begin(url).await;
        let pid = session.value("SELECT pg_backend_pid()").await.unwrap().unwrap();
        let token = session.lock("a", "0").await.expect("nobody has it");
        assert!(manager.mutex("a").try_acquire().await.unwrap().is_none(), "{end:?}");
        let waiter = waits(&manager, "a");
        queue_is(&manager, "a", 1, 1).await;
        // Whoever waits keeps others waiting for the transaction too.
        let behind = waits(&manager, "a");
        queue_is(&manager, "a", 1, 2).await;
        match end {
            End::Commit => session.run("COMMIT").await,
            End::Rollback => session.run("ROLLBACK").await,
            End::Terminated => drop(server.sql(&format!("SELECT pg_terminate_backend({pid})"))),
            End::Closed => drop(session),
        }
        let guard = timeout(SOON, waiter).await.unwrap_or_else(|_| panic!("{end:?}: it is granted soon"));
        let guard = guard.unwrap().unwrap();
        assert!(guard.fencing_token() > token, "{end:?}: {} after {token}", guard.fencing_token());
        guard.release().await.unwrap();
        timeout(SOON, behind).await.unwrap().unwrap().unwrap().release().await.unwrap();
    }
}

async fn transactions_wait_for_managers(server: &Postgres, url: &str) {
    let manager = manager(url).await;
    let guard = manager.mutex("a").acquire().await.unwrap();
    let session = Session::begin(url).await;
    assert_eq!(session.lock("a", "0").await, None);
    assert_eq!(session.lock("a", "60").await, None);
    assert!(session.lock("b", "0").await.is_some(), "another name is free");
    let waiting = waits_in_transaction(session, "NULL");
    are_in(server, CALL, 1).await;
    let waiter = waits(&manager, "a");
    queue_is(&manager, "a", 1, 2).await;
    let behind = waits(&manager, "a");
    queue_is(&manager, "a", 1, 3).await;
    let earlier = guard.fencing_token();
    guard.release().await.unwrap();
    let (session, token) = timeout(SOON, waiting).await.expect("it has the lock soon").unwrap();
    assert!(token > earlier, "{token} after {earlier}");
    queue_is(&manager, "a", 1, 2).await;
    session.run("COMMIT").await;
    // They have joined before the transaction had its token.
    let second = timeout(SOON, waiter).await.expect("nobody has it").unwrap().unwrap();
    assert!(second.fencing_token() > token, "{} after {token}", second.fencing_token());
    let later = second.fencing_token();
    second.release().await.unwrap();
    let third = timeout(SOON, behind).await.expect("nobody has it").unwrap().unwrap();
    assert!(third.fencing_token() > later, "{} after {later}", third.fencing_token());
    third.release().await.unwrap();
}

#[tokio::test]
async fn managers_wait_until_the_transaction_with_the_lock_has_ended() {
    let server = Postgres::start().unwrap();
    managers_wait_for_transactions(&server, &server.url()).await;
}

#[tokio::test]
async fn a_transaction_waits_for_the_managers_that_hold_and_its_token_is_between_theirs() {
    let server = Postgres::start().unwrap();
    transactions_wait_for_managers(&server, &server.url()).await;
}

#[tokio::test]
async fn both_are_so_through_a_pooler_too() {
    let server = Postgres::start().unwrap();
    let pooler = Pooler::start(server.port()).unwrap();
    managers_wait_for_transactions(&server, &pooler.url()).await;
    transactions_wait_for_managers(&server, &pooler.url()).await;
}

#[tokio::test]
async fn a_transaction_that_did_not_get_the_lock_is_in_nobodys_way() {
    let server = Postgres::start().unwrap();
    let manager = manager(&server.url()).await;
    let session = Session::begin(&server.url()).await;
    for wait in ["0", "30"] {
        let guard = manager.mutex("a").acquire().await.unwrap();
        assert_eq!(session.lock("a", wait).await, None);
        guard.release().await.unwrap();
        let guard = manager.mutex("a").try_acquire().await.unwrap().expect("the lock is free");
        guard.release().await.unwrap();
    }
    assert_eq!(session.value("SHOW lock_timeout").await.unwrap().unwrap(), "0");
    session.run("SET LOCAL lock_timeout = '7s'").await;
    assert!(session.lock("a", "30").await.is_some());
    assert_eq!(session.value("SHOW lock_timeout").await.unwrap().unwrap(), "7s");
    assert!(session.lock("a", "NULL").await.is_some(), "it has it already");
}

#[tokio::test]
async fn a_transaction_that_has_the_lock_leaves_other_names_alone() {
    let server = Postgres::start().unwrap();
    let manager = manager(&server.url()).await;
    let session = Session::begin(&server.url()).await;
    assert!(session.lock("a", "0").await.is_some());
    // A number is drawn, which needs a lock on all numbers when it has been idle.
    tokio::time::sleep(Duration::from_millis(150)).await;
    let guard = manager.mutex("b").try_acquire().await.unwrap().expect("it is another name");
    let waiter = waits(&manager, "b");
    queue_is(&manager, "b", 1, 1).await;
    guard.release().await.unwrap();
    timeout(SOON, waiter).await.unwrap().unwrap().unwrap().release().await.unwrap();
}

#[tokio::test]
async fn two_transactions_exclude_each_other_until_a_savepoint_is_rolled_back_or_all() {
    let server = Postgres::start().unwrap();
    let (one, other) = (Session::begin(&server.url()).await, Session::begin(&server.url()).await);
    let first = one.lock("a", "0").await.unwrap();
    assert_eq!(other.lock("a", "0").await, None);
    assert_eq!(other.lock("a", "40").await, None);
    let waiting = waits_in_transaction(other, "NULL");
    are_in(&server, CALL, 1).await;
    one.run("ROLLBACK").await;
    let (other, second) = timeout(SOON, waiting).await.unwrap().unwrap();
    assert!(second > first, "{second} after {first}");
    other.run("COMMIT; BEGIN; SAVEPOINT before").await;
    assert!(other.lock("a", "0").await.is_some());
    one.run("BEGIN").await;
    assert_eq!(one.lock("a", "0").await, None);
    other.run("ROLLBACK TO before").await;
    assert!(one.lock("a", "0").await.is_some());
}

#[tokio::test]
async fn a_reader_that_waits_for_a_transaction_is_granted_once_that_has_given_up() {
    let server = Postgres::start().unwrap();
    let pooler = Pooler::start(server.port()).unwrap();
    for url in [server.url(), pooler.url()] {
        let manager = manager(&url).await;
        let reader = manager.rwlock("a").read().acquire().await.unwrap();
        let waiting = waits_in_transaction(Session::begin(&server.url()).await, "700");
        are_in(&server, CALL, 1).await;
        let lock = manager.rwlock("a").read();
        let second = tokio::spawn(async move { lock.acquire().await });
        queue_is(&manager, "a", 1, 2).await;
        let second = timeout(SOON, second).await.expect("it fits").unwrap().unwrap();
        assert_eq!(waiting.await.unwrap().1, 0, "the first reader never left");
        reader.release().await.unwrap();
        second.release().await.unwrap();
    }
}

#[tokio::test]
async fn the_claim_of_a_dead_owner_ends_for_a_transaction_too() {
    let server = Postgres::start().unwrap();
    let manager = manager(&server.url()).await;
    let guard = manager.mutex("a").acquire().await.unwrap();
    let session = Session::begin(&server.url()).await;
    assert_eq!(session.lock("a", "0").await, None);
    let waiting = waits_in_transaction(session, "NULL");
    are_in(&server, CALL, 1).await;
    server.sql("UPDATE globallock.claims SET expires = clock_timestamp() - interval '1 s'");
    let (session, token) = timeout(SOON, waiting).await.unwrap().unwrap();
    assert!(token > guard.fencing_token());
    assert!(!guard.renew().await.unwrap());
    session.run("COMMIT").await;
}

#[tokio::test]
async fn other_levels_of_isolation_are_refused() {
    let server = Postgres::start().unwrap();
    let session = Session::open(&server.url()).await;
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        session.run(&format!("BEGIN ISOLATION LEVEL {level}")).await;
        let refused = session.value("SELECT globallock.transaction_lock_1('a')").await.unwrap_err();
        let refused = refused.as_db_error().unwrap();
        let reason = format!("needs one that is read committed, and this one is {}", level.to_lowercase());
        assert!(refused.message().contains(&reason), "{refused}");
        assert_eq!(refused.code().code(), "GL002");
        session.run("ROLLBACK").await;
    }
    let refused = session.value("SELECT globallock.transaction_lock_1(NULL)").await.unwrap_err();
    assert!(refused.as_db_error().unwrap().message().contains("is null"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crowds_of_both_kinds_take_turns_and_tokens_rise() {
    let server = Postgres::start().unwrap();
    let pooler = Pooler::start(server.port()).unwrap();
    let (is_inside, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let turn = move |token: u64| {
        assert!(!is_inside.swap(true, Ordering::SeqCst), "two are inside");
        let before = last.swap(token, Ordering::SeqCst);
        assert!(token > before, "{token} after {before}");
        is_inside.store(false, Ordering::SeqCst);
    };
    let mut owners = tokio::task::JoinSet::new();
    for number in 0..9 {
        let url = if number % 2 == 0 { server.url() } else { pooler.url() };
        let turn = turn.clone();
        owners.spawn(async move {
            if number < 5 {
                let manager = manager(&url).await;
                for _ in 0..20 {
                    let guard = manager.mutex("a").acquire().await.unwrap();
                    turn(guard.fencing_token());
                    guard.release().await.unwrap();
                }
            } else {
                let session = Session::open(&url).await;
                for _ in 0..20 {
                    session.run("BEGIN").await;
                    turn(session.lock("a", "NULL").await.unwrap());
                    session.run("COMMIT").await;
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    while let Some(ended) = owners.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn onlookers_see_transactions_and_end_them() {
    let server = Postgres::start().unwrap();
    let manager = manager(&server.url()).await;
    let session = Session::begin(&server.url()).await;
    session.run("SET application_name = 'migration'").await;
    let backend = session.value("SELECT pg_backend_pid()").await.unwrap().unwrap();
    assert!(session.lock("a", "0").await.is_some());
    let next = waits_in_transaction(Session::begin(&server.url()).await, "NULL");
    are_in(&server, CALL, 1).await;
    let waiter = waits(&manager, "a");
    queue_is(&manager, "a", 1, 2).await;
    let queue = manager.inspect("a").await.unwrap();
    let label = format!("transaction of app, backend {backend}, migration");
    assert_eq!(queue[0].owner.label.as_ref(), Some(&label));
    assert_eq!(queue[0].owner.host, "127.0.0.1");
    assert!(queue[0].age.is_some() && queue[0].expires_in.is_none());
    let seen: Vec<_> = queue.iter().map(|entry| (entry.held, entry.id.is_some())).collect();
    assert_eq!(seen, [(true, false), (false, false), (false, true)]);
    assert_eq!(manager.inspect("b").await.unwrap(), []);

    assert_eq!(manager.evict("a", &queue[0].key, "it hangs").await.unwrap(), Release::Released);
    assert!(session.value("SELECT 1").await.is_err(), "its session has ended");
    assert_eq!(manager.evict("a", &queue[0].key, "it hangs").await.unwrap(), Release::NotHeld);
    let (_session, token) = timeout(SOON, next).await.unwrap().unwrap();
    assert!(token > 0);
    let queue = manager.inspect("a").await.unwrap();
    assert!(queue[0].held && !queue[1].held, "{queue:?}");
    assert_eq!(manager.evict("b", &queue[0].key, "of another name").await.unwrap(), Release::NotHeld);
    assert_eq!(manager.evict("a", &queue[0].key, "it hangs").await.unwrap(), Release::Released);
    let guard = timeout(SOON, waiter).await.expect("nobody has it").unwrap().unwrap();
    guard.release().await.unwrap();
}

#[tokio::test]
async fn a_transaction_that_nobody_may_or_can_end_is_refused_with_the_reason() {
    let server = Postgres::start_with(&["max_prepared_transactions=1"]).unwrap();
    let manager = manager(&server.url()).await;
    let refused = async || {
        let queue = manager.inspect("a").await.unwrap();
        assert!(queue[0].held, "{queue:?}");
        let owner = queue[0].owner.to_string();
        (manager.evict("a", &queue[0].key, "it hangs").await.expect_err(&owner), owner)
    };
    server.sql("CREATE ROLE other LOGIN SUPERUSER PASSWORD 'p'");
    let session = Session::begin(&format!("postgres://other:p@127.0.0.1:{}/app", server.port())).await;
    assert!(session.lock("a", "0").await.is_some());
    let (error, owner) = refused().await;
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
    assert!(owner.contains("transaction of other, "), "{owner}");
    session.run("PREPARE TRANSACTION 'two'").await;
    let (error, owner) = refused().await;
    assert!(error.to_string().contains("ROLLBACK PREPARED"), "{error}");
    assert!(owner.contains("prepared transaction"), "{owner}");
    session.run("ROLLBACK PREPARED 'two'").await;
    assert_eq!(manager.inspect("a").await.unwrap(), []);
}

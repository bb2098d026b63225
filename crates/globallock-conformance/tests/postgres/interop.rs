//! Locks that exclude those of other libraries, which are advisory locks of sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use globallock::{Error, LockManager, Loss};
use globallock_conformance::context::eventually;
use globallock_conformance::fixtures::{connect_for, queue_is, waits};
use globallock_conformance::server::postgres::{Pooler, Postgres};
use tokio::time::timeout;

use crate::session::Session;
use crate::{LEASE, manager, refusal};

/// A name, and the keys by which django-pglock and `DistributedLock` lock it.
const NAME: &str = "orders/7";
const PGLOCK: &str = "6088851114637197265";
const MADELSON: &str = "-540334498, 1557641087";
const BOTH: [&str; 2] = [PGLOCK, MADELSON];
/// Long enough for a busy machine.
const SOON: Duration = Duration::from_secs(8);

async fn interop(server: &Postgres) -> LockManager {
    manager(&format!("{}?interop=advisory", server.url())).await
}

async fn gives_back(session: &Session, key: &str) {
    let given = session.value(&format!("SELECT pg_advisory_unlock({key})")).await.unwrap();
    assert_eq!(given.as_deref(), Some("t"), "{key}");
}

/// Whether somebody has this advisory lock.
async fn is_taken(session: &Session, key: &str) -> bool {
    let takes = session.takes(key).await;
    if takes {
        gives_back(session, key).await;
    }
    !takes
}

/// Ends the sessions that have advisory locks.
fn end_sessions(server: &Postgres) {
    let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory'";
    assert_ne!(server.sql(ended), "0");
}

#[tokio::test]
async fn a_held_lock_has_the_advisory_locks_of_the_libraries_that_the_address_names() {
    let server = Postgres::start().unwrap();
    let session = Session::open(&server.url()).await;
    for (option, taken) in
        [("advisory", [true, true]), ("django-pglock", [true, false]), ("madelson", [false, true])]
    {
        let manager = manager(&format!("{}?interop={option}", server.url())).await;
        let guard = manager.mutex(NAME).acquire().await.unwrap();
        let seen = [is_taken(&session, PGLOCK).await, is_taken(&session, MADELSON).await];
        assert_eq!(seen, taken, "{option}");
        assert!(guard.renew().await.unwrap());
        guard.release().await.unwrap();
        let seen = [is_taken(&session, PGLOCK).await, is_taken(&session, MADELSON).await];
        assert_eq!(seen, [false, false], "{option}");
    }
}

#[tokio::test]
async fn while_a_stranger_has_it_a_claim_waits_and_keeps_its_place() {
    let server = Postgres::start().unwrap();
    let session = Session::open(&server.url()).await;
    let [one, other] = [interop(&server).await, interop(&server).await];
    for key in BOTH {
        assert!(session.takes(key).await);
        assert!(one.mutex(NAME).try_acquire().await.unwrap().is_none(), "{key}");
        queue_is(&one, NAME, 0, 0).await;
        let first = waits(&one, NAME);
        queue_is(&one, NAME, 1, 0).await;
        let second = waits(&other, NAME);
        queue_is(&one, NAME, 1, 1).await;
        assert!(one.mutex(NAME).try_acquire_for(LEASE * 2).await.unwrap().is_none());
        queue_is(&one, NAME, 1, 1).await;
        assert!(!first.is_finished() && !second.is_finished());
        for other in BOTH.into_iter().filter(|other| *other != key) {
            eventually("it takes all or none", async || !is_taken(&session, other).await).await;
        }
        gives_back(&session, key).await;
        let guard = timeout(SOON, first).await.expect("nobody has it").unwrap().unwrap();
        assert!(!session.takes(PGLOCK).await && !session.takes(MADELSON).await);
        assert!(!second.is_finished());
        guard.release().await.unwrap();
        timeout(SOON, second).await.expect("nobody has it").unwrap().unwrap().release().await.unwrap();
    }
}

#[tokio::test]
async fn a_waiter_that_gives_up_or_is_evicted_leaves_nothing_behind() {
    let server = Postgres::start().unwrap();
    let session = Session::open(&server.url()).await;
    let long =
        connect_for(&format!("{}?interop=advisory", server.url()), Duration::from_secs(60)).await.unwrap();
    assert!(session.takes(PGLOCK).await);
    assert!(long.mutex(NAME).try_acquire_for(Duration::from_millis(200)).await.unwrap().is_none());
    queue_is(&long, NAME, 0, 0).await;
    let waiter = waits(&long, NAME);
    queue_is(&long, NAME, 1, 0).await;
    let key = long.inspect(NAME).await.unwrap().swap_remove(0).key;
    long.evict(NAME, &key, "because").await.unwrap();
    let error = timeout(SOON, waiter).await.expect("it is told by a push").unwrap().unwrap_err();
    assert!(matches!(error, Error::Evicted { .. }), "{error}");
    gives_back(&session, PGLOCK).await;
    let guard = long.mutex(NAME).acquire().await.unwrap();
    let key = long.inspect(NAME).await.unwrap().swap_remove(0).key;
    long.evict(NAME, &key, "because").await.unwrap();
    assert!(matches!(guard.lost().await, Loss::Evicted(_)));
    eventually("what was lost is given back", async || !is_taken(&session, PGLOCK).await).await;
}

#[tokio::test]
async fn a_lock_is_lost_at_once_with_the_session_that_has_its_advisory_locks() {
    let server = Postgres::start().unwrap();
    let long = Duration::from_secs(60);
    let manager = connect_for(&format!("{}?interop=advisory", server.url()), long).await.unwrap();
    let session = Session::open(&server.url()).await;
    for _ in 0..2 {
        let guard = manager.mutex(NAME).acquire().await.unwrap();
        assert!(guard.renew().await.unwrap());
        end_sessions(&server);
        eventually("the session has ended", async || session.takes(PGLOCK).await).await;
        timeout(SOON, guard.lost()).await.expect("a stranger may have it");
        gives_back(&session, PGLOCK).await;
        let guard = timeout(SOON, manager.mutex(NAME).acquire()).await.expect("it is free again").unwrap();
        assert!(!session.takes(PGLOCK).await);
        guard.release().await.unwrap();
    }
}

#[tokio::test]
async fn behind_a_pooler_the_session_goes_to_the_server_that_the_option_listen_names() {
    let server = Postgres::start().unwrap();
    let pooler = Pooler::start(server.port()).unwrap();
    let error = refusal(&format!("{}?interop=advisory", pooler.url())).await;
    let reason = "the option interop needs a session of its own: name the server itself by ?listen=HOST:PORT";
    assert!(error.to_string().contains(reason) && !error.is_retryable(), "{error}");
    let direct = format!("{}?interop=advisory&listen=127.0.0.1:{}", pooler.url(), server.port());
    let (manager, session) = (manager(&direct).await, Session::open(&server.url()).await);
    let guard = manager.mutex(NAME).acquire().await.unwrap();
    assert!(!session.takes(PGLOCK).await);
    guard.release().await.unwrap();
    assert!(session.takes(PGLOCK).await);
    assert!(manager.mutex(NAME).try_acquire().await.unwrap().is_none());
}

#[tokio::test]
async fn readers_share_with_strangers_that_read_and_writers_do_not() {
    let server = Postgres::start().unwrap();
    let session = Session::open(&server.url()).await;
    let [one, other] = [interop(&server).await, interop(&server).await];
    let readers = [
        one.rwlock(NAME).read().acquire().await.unwrap(),
        one.rwlock(NAME).read().acquire().await.unwrap(),
        other.rwlock(NAME).read().acquire().await.unwrap(),
    ];
    let shared = format!("SELECT pg_try_advisory_lock_shared({PGLOCK})");
    assert_eq!(session.value(&shared).await.unwrap().unwrap(), "t");
    for reader in readers {
        assert!(!session.takes(MADELSON).await);
        reader.release().await.unwrap();
    }
    let lock = one.rwlock(NAME).write();
    let writer = tokio::spawn(async move { lock.acquire().await });
    queue_is(&one, NAME, 1, 0).await;
    assert!(one.rwlock(NAME).write().try_acquire().await.unwrap().is_none());
    session.run(&format!("SELECT pg_advisory_unlock_shared({PGLOCK})")).await;
    let writer = timeout(SOON, writer).await.expect("nobody reads").unwrap().unwrap();
    assert_eq!(session.value(&shared).await.unwrap().unwrap(), "f");
    writer.release().await.unwrap();
}

#[tokio::test]
async fn what_other_libraries_have_not_is_refused() {
    let server = Postgres::start().unwrap();
    let manager = interop(&server).await;
    let error = manager.semaphore("many", 3).acquire().await.unwrap_err();
    assert!(error.to_string().contains("other libraries have no semaphores"), "{error}");
    let error = refusal(&format!("{}?interop=sqlalchemy", server.url())).await;
    assert!(error.to_string().contains("advisory, django-pglock, madelson and no"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_and_strangers_take_turns() {
    let server = Postgres::start().unwrap();
    let is_inside = Arc::new(AtomicBool::new(false));
    let mut owners = tokio::task::JoinSet::new();
    for number in 0..6 {
        let is_inside = Arc::clone(&is_inside);
        let turn = async move || {
            assert!(!is_inside.swap(true, Ordering::SeqCst), "two are inside");
            tokio::task::yield_now().await;
            is_inside.store(false, Ordering::SeqCst);
        };
        let (manager, session) = (interop(&server).await, Session::open(&server.url()).await);
        owners.spawn(async move {
            for _ in 0..15 {
                if number < 4 {
                    let guard = manager.mutex(NAME).acquire().await.unwrap();
                    turn().await;
                    guard.release().await.unwrap();
                } else {
                    let key = BOTH[number % 2];
                    session.run(&format!("SELECT pg_advisory_lock({key})")).await;
                    if number == 4 {
                        turn().await;
                    }
                    gives_back(&session, key).await;
                    // Whoever waits in the server comes before whoever tries.
                    tokio::time::sleep(Duration::from_millis(60)).await;
                }
            }
        });
    }
    while let Some(ended) = owners.join_next().await {
        ended.unwrap();
    }
}

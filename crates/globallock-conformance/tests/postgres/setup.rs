//! The tables that `setup` makes: once, by many at a time, and again.

use globallock_conformance::fixtures::{queue_is, waits};
use globallock_conformance::server::postgres::{Postgres, set_up};

use crate::manager;

#[tokio::test]
async fn many_that_set_a_database_up_at_once_all_succeed() {
    let server = Postgres::start_bare(&[]).unwrap();
    let url = server.url();
    std::thread::scope(|scope| {
        let done: Vec<_> = (0..8).map(|_| scope.spawn(|| set_up(&url))).collect();
        for done in done {
            done.join().unwrap().unwrap();
        }
    });
    assert!(manager(&url).await.mutex("a").acquire().await.unwrap().is_held());
}

#[tokio::test]
async fn a_setup_does_not_disturb_holders_and_waiters() {
    let server = Postgres::start().unwrap();
    let manager = manager(&server.url()).await;
    let guard = manager.mutex("a").acquire().await.unwrap();
    let waiter = waits(&manager, "a");
    queue_is(&manager, "a", 1, 1).await;
    set_up(&server.url()).unwrap();
    assert!(guard.renew().await.unwrap());
    guard.release().await.unwrap();
    assert!(waiter.await.unwrap().unwrap().is_held());
}

#[tokio::test]
async fn schemas_of_one_database_know_nothing_of_each_other() {
    let server = Postgres::start().unwrap();
    let other = format!("{}?schema=others", server.url());
    set_up(&other).unwrap();
    let [one, other] = [manager(&server.url()).await, manager(&other).await];
    let guards = [one.mutex("a").acquire().await.unwrap(), other.mutex("a").acquire().await.unwrap()];
    assert!(guards.iter().all(globallock::Guard::is_held));
    assert_eq!(server.sql("SELECT count(*) FROM others.claims"), "1");
}

#[tokio::test]
async fn tables_are_made_where_the_address_says_so() {
    let server = Postgres::start_bare(&[]).unwrap();
    let manager = manager(&format!("{}?setup=yes", server.url())).await;
    assert!(manager.mutex("a").acquire().await.unwrap().is_held());
}

#[tokio::test]
async fn what_a_database_promises_of_its_tables_must_be_what_the_address_says() {
    let server = Postgres::start_bare(&[]).unwrap();
    let unlogged = format!("{}?durability=unlogged", server.url());
    set_up(&unlogged).unwrap();
    assert!(manager(&unlogged).await.mutex("a").acquire().await.unwrap().is_held());
    let error = crate::refusal(&server.url()).await;
    assert!(error.to_string().contains("unlogged"), "{error}");
    set_up(&server.url()).unwrap();
    assert!(manager(&server.url()).await.mutex("b").acquire().await.unwrap().is_held());
}

#[tokio::test]
async fn without_functions_the_tables_are_enough_and_locks_are_shared_with_those_who_have_them() {
    let server = Postgres::start_bare(&[]).unwrap();
    let plain = format!("{}?plain=yes", server.url());
    assert!(!set_up(&plain).unwrap().contains("functions"));
    let functions = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'globallock'::regnamespace";
    assert_eq!(server.sql(functions), "0");
    let without = manager(&plain).await;
    // A name with all that a text may have to be quoted for.
    let name = "it's $call$ \\ {ms} \"";
    let guard = without.mutex(name).acquire().await.unwrap();
    assert!(guard.renew().await.unwrap());

    let error = crate::refusal(&server.url()).await;
    assert!(error.to_string().contains("plain=yes"), "{error}");
    set_up(&server.url()).unwrap();
    let with = manager(&server.url()).await;
    let waiter = waits(&with, name);
    queue_is(&with, name, 1, 1).await;
    guard.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    let waiter = waits(&without, name);
    queue_is(&without, name, 1, 1).await;
    guard.release().await.unwrap();
    assert!(waiter.await.unwrap().unwrap().is_held());
}

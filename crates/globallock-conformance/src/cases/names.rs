//! Each name is a lock of its own, even a hostile one.

use globallock::{Error, Guard, MAX_NAME_BYTES};

use super::{Case, case};
use crate::context::Context;
use futures_util::StreamExt;
use std::collections::BTreeSet;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("names", hostile_names_are_locks_of_their_own),
        case!("names", hostile_names_are_listed_unchanged),
        case!("names", invalid_names_are_refused_with_the_rule),
        case!("names", names_are_listed_by_prefix),
        case!("names", names_are_listed_while_they_have_claims),
        case!("names", five_hundred_names_are_held_at_once),
    ]
}

/// Names with characters that have a meaning to stores, shells, globs, paths or terminals.
fn hostile(prefix: &str) -> Vec<String> {
    let parts = [
        "a",
        "A",
        "a/b",
        "ab",
        "a/",
        "/a",
        "a//b",
        ".",
        "..",
        "../a",
        "a..",
        ".hidden",
        " ",
        "a b",
        "a\nb",
        "\t",
        "{a}b",
        "a}b",
        "{",
        "}",
        "{}",
        "a{b}",
        "{a",
        "*",
        "a*",
        "[a]",
        "?",
        "\\",
        "%",
        "%2F",
        "%%",
        "%00",
        "a%b",
        "naïve",
        "☃",
        "\u{202e}x",
        "\u{1b}[2J",
        "'",
        "\"",
        "$(a)",
        "`a`",
        ":",
        "a:b",
        "#",
        "@",
        "&",
        "=",
        "+",
        "~",
        "-a",
        "a-lock-0000000001",
        "fence",
        "queue",
        "a:fence",
        "{a}:queue",
    ];
    let mut names: Vec<String> = parts.iter().map(|part| format!("{prefix}{part}")).collect();
    let fill = |count: usize, text: &str| text.repeat((count - prefix.len()) / text.len());
    names.push(format!("{prefix}{}", fill(MAX_NAME_BYTES, "x")));
    names.push(format!("{prefix}{}", fill(MAX_NAME_BYTES - 1, "x")));
    names.push(format!("{prefix}{}", fill(MAX_NAME_BYTES, "☃")));
    names
}

async fn all(context: &Context, manager: &globallock::LockManager, names: &[String]) -> Vec<Guard> {
    let mut guards = Vec::new();
    for name in names {
        let lock = manager.mutex(name);
        let guard = lock.try_acquire().await.unwrap_or_else(|error| panic!("{name:?}: {error}"));
        guards.push(
            guard.unwrap_or_else(|| panic!("{name:?} shares a lock with another name of {}", context.name())),
        );
    }
    guards
}

async fn hostile_names_are_locks_of_their_own(context: Context) {
    let [manager, other] = context.managers().await;
    let names = hostile(context.name());
    let guards = all(&context, &manager, &names).await;
    for name in &names {
        assert!(other.mutex(name).try_acquire().await.unwrap().is_none(), "{name:?} is taken");
        let queue = other.inspect(name).await.unwrap();
        assert_eq!(queue.len(), 1, "{name:?}");
    }
    for guard in guards {
        guard.release().await.unwrap();
    }
    for name in &names {
        assert!(other.inspect(name).await.unwrap().is_empty(), "{name:?}");
    }
}

async fn hostile_names_are_listed_unchanged(context: Context) {
    let manager = context.manager().await;
    let names = hostile(context.name());
    let guards = all(&context, &manager, &names).await;
    let listed: BTreeSet<String> =
        manager.list(context.name()).map(|listed| listed.unwrap().name.as_str().to_owned()).collect().await;
    assert_eq!(listed, names.into_iter().collect());
    drop(guards);
    manager.close().await;
}

async fn invalid_names_are_refused_with_the_rule(context: Context) {
    let manager = context.manager().await;
    let too_long = "x".repeat(MAX_NAME_BYTES + 1);
    for (name, rule) in [("", "empty"), ("a\0b", "NUL"), (too_long.as_str(), "512")] {
        let refused = [
            manager.mutex(name).acquire().await.err(),
            manager.mutex(name).try_acquire().await.err(),
            manager.rwlock(name).read().acquire().await.err(),
            manager.semaphore(name, 2).acquire().await.err(),
            manager.inspect(name).await.err(),
            manager.lock_all([context.name(), name]).await.err(),
        ];
        for error in refused {
            let error = error.expect("the name is refused");
            assert!(matches!(error, Error::InvalidName { .. }), "{error:?}");
            assert!(error.to_string().contains(rule), "{error}");
        }
    }
    assert!(context.queue(&manager).await.is_empty());
}

async fn names_are_listed_by_prefix(context: Context) {
    let manager = context.manager().await;
    let names = ["-a1", "-a2", "-b1"].map(|part| format!("{}{part}", context.name()));
    let guards = all(&context, &manager, &names).await;
    let prefix = format!("{}-a", context.name());
    let listed: BTreeSet<String> =
        manager.list(&prefix).map(|listed| listed.unwrap().name.as_str().to_owned()).collect().await;
    assert_eq!(listed, names[..2].iter().cloned().collect());
    drop(guards);
    manager.close().await;
}

async fn names_are_listed_while_they_have_claims(context: Context) {
    let [manager, other] = context.managers().await;
    let listed = async || other.list(context.name()).count().await;
    assert_eq!(listed().await, 0);
    let guard = context.lock(&manager).acquire().await.unwrap();
    assert_eq!(listed().await, 1);
    guard.release().await.unwrap();
    assert_eq!(listed().await, 0);
}

async fn five_hundred_names_are_held_at_once(context: Context) {
    let manager = context.manager().await;
    // On a busy machine, five hundred renewals take up a part of the lease.
    let lease = context.lease() * 2;
    let names: Vec<String> = (0..500).map(|number| format!("{}-{number}", context.name())).collect();
    // How long a busy store takes for all of them is not tested here.
    let options = context.options().lease(lease).store_timeout(Some(crate::context::LIMIT));
    let locks = names.iter().map(|name| manager.mutex(name).with_options(options.clone()));
    let asked = locks.map(|lock| async move { lock.acquire().await.unwrap() });
    let guards = futures_util::future::join_all(asked).await;
    // Wait for more than a lease.
    let timer = context.options().max_hold(Some(lease * 2));
    context.lock(&manager).with_options(timer).acquire().await.unwrap().lost().await;
    assert!(guards.iter().all(Guard::is_held));
    let releases = futures_util::future::join_all(guards.into_iter().map(Guard::release)).await;
    assert!(releases.into_iter().all(|release| release.unwrap() == globallock::Release::Released));
}

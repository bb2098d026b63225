//! `inspect` shows the holders, since when they hold, and the waiters.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use globallock::{Change, Entry, LockKind, LockManager, Summary};

use super::{Case, Need, case};
use crate::child::Owner;
use crate::context::{Context, lock_of};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("listing", a_free_name_has_no_claims),
        case!("listing", holders_come_before_waiters_in_their_order).over_kinds(),
        case!("listing", an_owner_is_shown_with_its_host_process_and_label),
        case!("listing", an_owner_of_another_process_is_shown).needs(Need::Owner),
        case!("listing", the_permits_and_token_of_a_holder_are_shown),
        case!("listing", the_age_of_a_hold_is_shown),
        case!("listing", no_two_claims_have_the_same_key),
        case!("listing", a_name_is_summed_up_by_its_kind_and_its_holders_and_waiters),
        case!("listing", a_summary_says_what_the_queue_says),
        case!("listing", a_semaphore_is_summed_up_by_the_permits_that_are_held),
        case!("listing", changes_are_told_once_and_in_their_order),
    ]
}

async fn a_free_name_has_no_claims(context: Context) {
    let manager = context.manager().await;
    assert!(context.queue(&manager).await.is_empty());
}

async fn holders_come_before_waiters_in_their_order(context: Context) {
    let [holder, first, second] = context.managers().await;
    let guard = context.lock(&holder).acquire().await.unwrap();
    let mut waiters = Vec::new();
    for (before, manager) in [&first, &second].into_iter().enumerate() {
        waiters.push(context.queued(context.lock(manager), 1, before + 1).await);
    }
    let queue = context.queue(&holder).await;
    let held: Vec<bool> = queue.iter().map(|entry| entry.held).collect();
    assert_eq!(held, [true, false, false]);
    guard.release().await.unwrap();
    let mut order = Vec::new();
    for waiter in waiters {
        let guard = waiter.await.unwrap().unwrap();
        order.push(context.queue(&holder).await[0].id);
        guard.release().await.unwrap();
    }
    let waiting: Vec<_> = queue[1..].iter().map(|entry: &Entry| entry.id).collect();
    assert_eq!(order, waiting);
}

async fn an_owner_is_shown_with_its_host_process_and_label(context: Context) {
    let manager = context.manager().await;
    let _guard = context.lock(&manager).acquire().await.unwrap();
    let owner = context.queue(&manager).await.remove(0).owner;
    assert_eq!(owner.label.as_deref(), Some("case"));
    assert_eq!(owner.pid, Some(std::process::id()));
    assert!(!owner.host.is_empty());
}

async fn an_owner_of_another_process_is_shown(context: Context) {
    let manager = context.manager().await;
    let mut owner = Owner::start(&context, "read", None);
    owner.granted().await;
    let entry = context.queue(&manager).await.remove(0);
    assert_eq!(entry.owner.label.as_deref(), Some("child"));
    assert!(entry.owner.pid.is_some_and(|pid| pid != std::process::id()));
    assert!(entry.held);
}

async fn the_permits_and_token_of_a_holder_are_shown(context: Context) {
    let manager = context.manager().await;
    for kind in ["mutex", "2/3", "read"] {
        let lock = lock_of(&manager, context.name(), kind).unwrap();
        let guard = lock.acquire().await.unwrap();
        let entry = context.queue(&manager).await.remove(0);
        assert_eq!(
            (entry.permits, entry.fencing_token),
            (lock.kind().permits().unwrap(), guard.fencing_token()),
            "{kind}"
        );
        guard.release().await.unwrap();
    }
}

async fn the_age_of_a_hold_is_shown(context: Context) {
    let manager = context.manager().await;
    let guard = context.lock_with_max_hold(&manager, Duration::from_secs(60)).acquire().await.unwrap();
    crate::context::eventually("the hold has an age", async || {
        let entry = context.queue(&manager).await.remove(0);
        let age = entry.age.expect("the age is known");
        let left = entry.expires_in.expect("the end is known");
        assert!(age < Duration::from_secs(20) && left <= Duration::from_secs(60), "{entry:?}");
        age >= Duration::from_millis(50)
    })
    .await;
    guard.release().await.unwrap();
}

async fn no_two_claims_have_the_same_key(context: Context) {
    let [first, second] = context.managers().await;
    let mut keys = BTreeSet::new();
    for round in 1..=3 {
        let guard = context.lock(&first).acquire().await.unwrap();
        let waiting = context.queued(context.lock(&second), 1, 1).await;
        keys.extend(context.queue(&first).await.into_iter().map(|entry| entry.key));
        assert_eq!(keys.len(), 2 * round, "{keys:?}");
        guard.release().await.unwrap();
        waiting.await.unwrap().unwrap().release().await.unwrap();
    }
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    assert!(keys.iter().all(|key| plain(key.as_str())), "{keys:?}");
}

/// The summary of this case's name.
async fn summary(context: &Context, manager: &LockManager) -> Option<Summary> {
    let mut listed: Vec<_> = manager.list(context.name()).try_collect().await.unwrap();
    assert!(listed.len() <= 1, "{listed:?}");
    listed.pop()
}

async fn a_name_is_summed_up_by_its_kind_and_its_holders_and_waiters(context: Context) {
    let [first, second, third] = context.managers().await;
    assert_eq!(summary(&context, &first).await, None);
    for kind in [LockKind::Mutex, LockKind::Write, LockKind::Read] {
        let lock =
            |manager: &LockManager, kind| manager.lock(context.name(), kind).with_options(context.options());
        let guard = lock(&first, kind).acquire().await.unwrap();
        let waits = [
            context.queued(lock(&second, LockKind::Write), 1, 1).await,
            context.queued(lock(&third, kind), 1, 2).await,
        ];
        let listed = summary(&context, &first).await.unwrap();
        assert_eq!(listed.name.as_str(), context.name());
        assert_eq!((listed.kind, listed.holders, listed.waiters), (kind, 1, 2));
        assert_eq!(listed.fencing_token, guard.fencing_token());
        for waiter in waits {
            waiter.abort();
        }
        guard.release().await.unwrap();
        context.until_empty(&first).await;
    }
    assert_eq!(summary(&context, &first).await, None);
}

async fn a_summary_says_what_the_queue_says(context: Context) {
    let [first, second] = context.managers().await;
    let guard = context.lock(&first).acquire().await.unwrap();
    let waiting = context.queued(context.lock(&second), 1, 1).await;
    let name = guard.name().clone();
    crate::context::eventually("both are as old as was seen", async || {
        let before = context.queue(&first).await;
        let listed = summary(&context, &first).await.unwrap();
        let after = context.queue(&first).await;
        let [before, after] = [before, after].map(|queue| Summary::of(&name, &queue).unwrap());
        let ageless =
            |summary: Summary| (summary.kind, summary.holders, summary.waiters, summary.fencing_token);
        assert_eq!(ageless(listed.clone()), ageless(before.clone()));
        // A store may leave out what it would have to ask for each claim.
        let timeless = |summary: &Summary| {
            let mut holder = summary.holder.clone().expect("it is held");
            (holder.age, holder.expires_in) = (None, None);
            holder
        };
        assert_eq!(timeless(&listed), timeless(&before));
        assert!(listed.holder.as_ref().is_some_and(|holder| holder.owner.pid == Some(std::process::id())));
        assert!(listed.oldest_wait.is_some() && listed.oldest_wait <= after.oldest_wait, "{listed:?}");
        // The greatest age is known for both or for neither; the store may count it in whole milliseconds.
        let slack = Duration::from_millis(5);
        match (before.oldest, listed.oldest, after.oldest) {
            (Some(before), Some(age), Some(after)) => {
                assert!(before <= age + slack && age <= after + slack, "{before:?} {age:?} {after:?}");
                age >= Duration::from_millis(50)
            }
            unknown => panic!("{unknown:?}"),
        }
    })
    .await;
    waiting.abort();
    guard.release().await.unwrap();
}

async fn a_semaphore_is_summed_up_by_the_permits_that_are_held(context: Context) {
    let [first, second] = context.managers().await;
    let lock = |manager: &LockManager, count| {
        manager.semaphore(context.name(), 7).permits(count).with_options(context.options())
    };
    let two = lock(&first, 2).acquire().await.unwrap();
    let three = lock(&second, 3).acquire().await.unwrap();
    let listed = summary(&context, &first).await.unwrap();
    assert_eq!((listed.kind, listed.holders), (LockKind::Permits { count: 5, capacity: 7 }, 2));
    assert_eq!(listed.fencing_token, two.fencing_token().max(three.fencing_token()));
    two.release().await.unwrap();
    three.release().await.unwrap();
}

async fn changes_are_told_once_and_in_their_order(context: Context) {
    let [owner, other] = context.managers().await;
    let lock = |manager: &LockManager, part: &str| {
        manager.mutex(format!("{}{part}", context.name())).with_options(context.options())
    };
    let first = lock(&owner, "-a").acquire().await.unwrap();
    let mut changes = other.watch(context.name(), Duration::from_millis(20));
    let mut next = async || match changes.next().await.unwrap().unwrap() {
        Change::Changed(summary) => {
            let part = summary.name.as_str().strip_prefix(context.name()).unwrap().to_owned();
            (part, summary.holders, summary.waiters, summary.fencing_token)
        }
        Change::Removed(name) => (name.as_str().strip_prefix(context.name()).unwrap().to_owned(), 0, 0, 0),
        other => panic!("{other:?}"),
    };
    let token = first.fencing_token();
    assert_eq!(next().await, ("-a".to_owned(), 1, 0, token));
    let second = lock(&owner, "-b").acquire().await.unwrap();
    assert_eq!(next().await, ("-b".to_owned(), 1, 0, second.fencing_token()));
    let waits = lock(&owner, "-a");
    let waiting = tokio::spawn(async move { waits.acquire().await });
    assert_eq!(next().await, ("-a".to_owned(), 1, 1, token));
    first.release().await.unwrap();
    let third = waiting.await.unwrap().unwrap();
    assert_eq!(next().await, ("-a".to_owned(), 1, 0, third.fencing_token()));
    second.release().await.unwrap();
    assert_eq!(next().await, ("-b".to_owned(), 0, 0, 0));
    third.release().await.unwrap();
    assert_eq!(next().await, ("-a".to_owned(), 0, 0, 0));
}

//! An owner that dies frees its claims.

use super::{Case, Need, case};
use crate::child::{Owner, Report};
use crate::context::{Context, lock_of};
use crate::register::Register;
use globallock::{Guard, Result};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// How much later than promised a grant may come, because the machine may be busy.
const SLACK: Duration = Duration::from_secs(10);

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("crash", a_killed_holder_frees_the_lock).over_kinds().needs(Need::Owner),
        case!("crash", a_killed_waiter_is_passed_over).over_kinds().needs(Need::Owner),
        case!("crash", a_holder_and_a_waiter_killed_at_once_are_passed_over).needs(Need::Owner),
        case!("crash", a_killed_reader_lets_a_writer_in).needs(Need::Owner),
        case!("crash", a_killed_writer_lets_readers_in).needs(Need::Owner),
        case!("crash", a_killed_owner_of_permits_frees_them).needs(Need::Owner),
        case!("crash", a_stopped_holder_is_passed_over_and_finds_its_lock_lost)
            .over_kinds()
            .needs(Need::OwnerWithLease),
        case!("crash", a_stopped_waiter_is_passed_over).over_kinds().needs(Need::OwnerWithLease),
        case!("crash", a_stopped_holder_is_passed_over_at_its_max_hold).over_kinds().needs(Need::Owner),
        case!("crash", an_owner_process_hands_over_when_it_releases).over_kinds().needs(Need::Owner),
    ]
}

/// Waits for the grant, which must come within one lease of `since`.
async fn within_a_lease(context: &Context, waiter: JoinHandle<Result<Guard>>, since: Instant) -> Guard {
    let guard = waiter.await.unwrap().unwrap();
    assert!(since.elapsed() < context.lease() + SLACK, "it took {:?}", since.elapsed());
    guard
}

async fn a_killed_holder_frees_the_lock(context: Context) {
    let manager = context.manager().await;
    let mut owner = Owner::start(&context, context.kind(), None);
    let fencing_token = owner.granted().await;
    let waiter = context.queued(context.lock(&manager), 1, 1).await;
    owner.kill().await;
    let guard = within_a_lease(&context, waiter, Instant::now()).await;
    assert!(guard.fencing_token() > fencing_token);
}

async fn a_killed_waiter_is_passed_over(context: Context) {
    let [holder, next] = context.managers().await;
    let guard = context.lock(&holder).acquire().await.unwrap();
    let mut owner = Owner::start(&context, context.kind(), None);
    assert_eq!(owner.next_report().await, Report::Asking);
    context.until(&holder, 1, 1).await;
    let waiter = context.queued(context.lock(&next), 1, 2).await;
    owner.kill().await;
    guard.release().await.unwrap();
    assert!(within_a_lease(&context, waiter, Instant::now()).await.is_held());
}

async fn a_holder_and_a_waiter_killed_at_once_are_passed_over(context: Context) {
    let manager = context.manager().await;
    let mut first = Owner::start(&context, "mutex", None);
    first.granted().await;
    let mut second = Owner::start(&context, "mutex", None);
    assert_eq!(second.next_report().await, Report::Asking);
    context.until(&manager, 1, 1).await;
    let waiter = context.queued(lock_of(&manager, context.name(), "mutex").unwrap(), 1, 2).await;
    second.kill().await;
    first.kill().await;
    assert!(within_a_lease(&context, waiter, Instant::now()).await.is_held());
}

async fn a_killed_reader_lets_a_writer_in(context: Context) {
    let [a, b] = context.managers().await;
    let mut owner = Owner::start(&context, "read", None);
    owner.granted().await;
    let reader = lock_of(&a, context.name(), "read").unwrap().acquire().await.unwrap();
    let waiter = context.queued(lock_of(&b, context.name(), "write").unwrap(), 2, 1).await;
    owner.kill().await;
    context.until(&a, 1, 1).await;
    assert!(reader.is_held(), "the other reader lives on");
    reader.release().await.unwrap();
    assert!(within_a_lease(&context, waiter, Instant::now()).await.is_held());
}

async fn a_killed_writer_lets_readers_in(context: Context) {
    let [a, b] = context.managers().await;
    let mut owner = Owner::start(&context, "write", None);
    owner.granted().await;
    let first = context.queued(lock_of(&a, context.name(), "read").unwrap(), 1, 1).await;
    let second = context.queued(lock_of(&b, context.name(), "read").unwrap(), 1, 2).await;
    owner.kill().await;
    let since = Instant::now();
    let guards =
        (within_a_lease(&context, first, since).await, within_a_lease(&context, second, since).await);
    assert!(guards.0.is_held() && guards.1.is_held());
}

async fn a_killed_owner_of_permits_frees_them(context: Context) {
    let manager = context.manager().await;
    let mut owner = Owner::start(&context, "2/3", None);
    owner.granted().await;
    let waiter = context.queued(lock_of(&manager, context.name(), "3/3").unwrap(), 1, 1).await;
    owner.kill().await;
    assert!(within_a_lease(&context, waiter, Instant::now()).await.is_held());
}

async fn a_stopped_holder_is_passed_over_and_finds_its_lock_lost(context: Context) {
    let manager = context.manager().await;
    let mut owner = Owner::start(&context, context.kind(), None);
    let register = Register::default();
    let old = owner.granted().await;
    assert!(register.write(old, "the first owner, before it was stopped"));
    let waiter = context.queued(context.lock(&manager), 1, 1).await;
    owner.stop().await;
    let guard = within_a_lease(&context, waiter, Instant::now()).await;
    assert!(register.write(guard.fencing_token(), "the second owner"));
    owner.go_on();
    // A write that the first owner sent before it was stopped arrives now, and is refused because of its
    // token.
    assert!(!register.write(old, "the first owner, too late"));
    assert_eq!(register.read(), "the second owner");
    assert!(matches!(owner.next_report().await, Report::Lost(_)));
    assert_eq!(owner.next_report().await, Report::Released(false));
    assert!(guard.is_held(), "the late owner's release does not affect the next holder");
    assert!(guard.fencing_token() > old);
}

async fn a_stopped_waiter_is_passed_over(context: Context) {
    let [holder, next] = context.managers().await;
    let guard = context.lock(&holder).acquire().await.unwrap();
    let mut owner = Owner::start(&context, context.kind(), None);
    assert_eq!(owner.next_report().await, Report::Asking);
    context.until(&holder, 1, 1).await;
    let waiter = context.queued(context.lock(&next), 1, 2).await;
    owner.stop().await;
    let since = Instant::now();
    guard.release().await.unwrap();
    let guard = within_a_lease(&context, waiter, since).await;
    owner.go_on();
    guard.release().await.unwrap();
    assert!(
        matches!(owner.next_report().await, Report::Granted(_)),
        "it waits again, and is granted in the end"
    );
}

async fn a_stopped_holder_is_passed_over_at_its_max_hold(context: Context) {
    let manager = context.manager().await;
    let max_hold = Duration::from_millis(600);
    let mut owner = Owner::start(&context, context.kind(), Some(max_hold));
    owner.granted().await;
    let lock = context.lock(&manager);
    let waiter = tokio::spawn(async move { lock.acquire().await });
    // The holder's max hold time may have ended before the queue is listed. So only the waiter is looked for,
    // not the holder.
    crate::context::eventually("the waiter has joined", async || {
        let queue = context.queue(&manager).await;
        queue.iter().any(|entry| entry.owner.pid == Some(std::process::id()))
    })
    .await;
    owner.stop().await;
    let guard = within_a_lease(&context, waiter, Instant::now()).await;
    owner.go_on();
    assert!(matches!(owner.next_report().await, Report::Lost(_)));
    assert!(guard.is_held());
}

async fn an_owner_process_hands_over_when_it_releases(context: Context) {
    let manager = context.manager().await;
    let mut owner = Owner::start(&context, context.kind(), None);
    let fencing_token = owner.granted().await;
    let waiter = context.queued(context.lock(&manager), 1, 1).await;
    owner.release().await;
    let guard = waiter.await.unwrap().unwrap();
    assert_eq!(owner.next_report().await, Report::Released(true));
    assert!(guard.fencing_token() > fencing_token);
}

//! Who waits for whom is found, and with it the deadlocks of processes.

use globallock::{LockManager, Owner as Party, Release, Wait, WaitGraph};

use super::{Case, Need, case};
use crate::child::{Owner, Report};
use crate::context::{Context, eventually};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("deadlocks", two_processes_that_wait_for_each_other_are_found_until_one_is_evicted)
            .needs(Need::Owner),
        case!("deadlocks", processes_that_wait_in_a_line_are_no_deadlock).needs(Need::Owner),
    ]
}

async fn waits(context: &Context, onlooker: &LockManager) -> WaitGraph {
    onlooker.waits(context.name()).await.unwrap()
}

/// A process that holds a lock of this case with this end of its name.
async fn holder(context: &Context, end: &str) -> Owner {
    let mut owner =
        Owner::start_on(context, &format!("{}{end}", context.name()), "mutex", &context.options());
    owner.granted().await;
    owner
}

/// The process as others see it.
fn party(owner: &Owner) -> Party {
    Party { pid: Some(owner.process()), ..Party::current() }.with_label("child")
}

/// Waits until one process waits for another.
async fn until_behind(context: &Context, onlooker: &LockManager, waiter: &Owner, blocker: &Owner) {
    let is_it = |wait: &Wait| wait.waiter == party(waiter) && wait.blocker == party(blocker) && wait.is_held;
    eventually("one waits for the other", async || waits(context, onlooker).await.waits().iter().any(is_it))
        .await;
}

async fn two_processes_that_wait_for_each_other_are_found_until_one_is_evicted(context: Context) {
    let onlooker = context.manager().await;
    let names = ["-a", "-b"].map(|end| format!("{}{end}", context.name()));
    let (mut one, mut other) = (holder(&context, "-a").await, holder(&context, "-b").await);
    one.ask_also(&names[1]).await;
    until_behind(&context, &onlooker, &one, &other).await;
    assert_eq!(waits(&context, &onlooker).await.cycles().len(), 0, "the other one does not wait");
    other.ask_also(&names[0]).await;
    until_behind(&context, &onlooker, &other, &one).await;
    let graph = waits(&context, &onlooker).await;
    let [cycle] = graph.cycles() else { panic!("{graph:?}") };
    let mut found: Vec<_> = cycle
        .iter()
        .map(|wait| (wait.name.as_str(), wait.waiter.clone(), wait.blocker.clone(), wait.is_held))
        .collect();
    found.sort_by_key(|(name, ..)| (*name).to_owned());
    let expected = [
        (&names[0][..], party(&other), party(&one), true),
        (&names[1][..], party(&one), party(&other), true),
    ];
    assert_eq!(found, expected);
    // The keys are those by which a claim is evicted.
    let wait = cycle.iter().find(|wait| wait.waiter == party(&other)).unwrap();
    assert_eq!(onlooker.evict(&wait.name, &wait.claim, "a deadlock").await.unwrap(), Release::Released);
    match other.next_report().await {
        Report::Failed(why) => assert!(why.contains("a deadlock"), "{why}"),
        report => panic!("{report:?}"),
    }
    let graph = waits(&context, &onlooker).await;
    assert_eq!(graph.cycles().len(), 0, "{graph:?}");
    assert_eq!(graph.waits().len(), 1, "{graph:?}");
    other.release().await;
    assert_eq!(other.next_report().await, Report::Released(true));
    assert!(matches!(one.next_report().await, Report::Granted(_)));
    one.release().await;
    assert_eq!(one.next_report().await, Report::Released(true));
    eventually("both names are free", async || {
        onlooker.inspect(&names[0]).await.unwrap().is_empty()
            && onlooker.inspect(&names[1]).await.unwrap().is_empty()
    })
    .await;
}

async fn processes_that_wait_in_a_line_are_no_deadlock(context: Context) {
    let onlooker = context.manager().await;
    let mut owners =
        [holder(&context, "-a").await, holder(&context, "-b").await, holder(&context, "-c").await];
    for (at, end) in ["-b", "-c"].into_iter().enumerate() {
        owners[at].ask_also(&format!("{}{end}", context.name())).await;
        until_behind(&context, &onlooker, &owners[at], &owners[at + 1]).await;
    }
    let graph = waits(&context, &onlooker).await;
    assert_eq!((graph.waits().len(), graph.cycles().len()), (2, 0), "{graph:?}");
    for owner in owners.iter_mut().rev() {
        owner.release().await;
        loop {
            match owner.next_report().await {
                Report::Granted(_) => {}
                report => break assert_eq!(report, Report::Released(true)),
            }
        }
    }
}

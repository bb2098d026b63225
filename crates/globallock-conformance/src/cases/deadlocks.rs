//! Who waits for whom is found, and with it the deadlocks of processes.

use globallock::{
    Guard, Lock, LockManager, ManagerOptions, Owner as Party, Release, Result, Wait, WaitGraph,
};
use tokio::task::JoinHandle;

use super::{Case, Need, case};
use crate::child::{Owner, Report};
use crate::context::{Context, eventually};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("deadlocks", two_processes_that_wait_for_each_other_are_found_until_one_is_evicted)
            .needs(Need::Owner),
        case!("deadlocks", processes_that_wait_in_a_line_are_no_deadlock).needs(Need::Owner),
        case!("deadlocks", a_writer_is_in_a_deadlock_with_any_of_the_readers_in_front_of_it),
        case!("deadlocks", a_semaphore_is_part_of_a_deadlock_only_if_no_holder_of_a_permit_goes_on),
    ]
}

/// A manager that says it is this process of the host.
async fn process(context: &Context, process: u32) -> LockManager {
    let options = ManagerOptions::new().locks(context.options()).process(process);
    LockManager::with_backend(context.backend().await, options).unwrap()
}

/// Begins to wait for a lock, and goes on once as many wait for it as are said.
async fn waits_for(context: &Context, lock: Lock, waiters: usize) -> JoinHandle<Result<Guard>> {
    let (name, onlooker) = (lock.name().to_owned(), context.manager().await);
    let waiting = tokio::spawn(async move { lock.acquire().await });
    eventually("it waits", async || {
        onlooker.inspect(&name).await.unwrap().iter().filter(|entry| !entry.held).count() == waiters
    })
    .await;
    waiting
}

/// The deadlocks, each as the processes that wait and the ends of the names that they wait for.
async fn deadlocks(context: &Context, onlooker: &LockManager) -> Vec<Vec<(u32, String)>> {
    let graph = waits(context, onlooker).await;
    let end = |wait: &Wait| wait.name.as_str()[context.name().len()..].to_owned();
    let of = |cycle: &Vec<Wait>| {
        let mut of: Vec<_> = cycle.iter().map(|wait| (wait.waiter.pid.unwrap(), end(wait))).collect();
        of.sort_unstable();
        of
    };
    graph.cycles().iter().map(of).collect()
}

async fn granted(waiting: JoinHandle<Result<Guard>>) -> Guard {
    waiting.await.expect("it does not panic").expect("it is granted")
}

async fn a_writer_is_in_a_deadlock_with_any_of_the_readers_in_front_of_it(context: Context) {
    let [one, two, three] =
        [process(&context, 1).await, process(&context, 2).await, process(&context, 3).await];
    let shared = |manager: &LockManager| manager.rwlock(format!("{}-shared", context.name()));
    let mutex = |manager: &LockManager| manager.mutex(format!("{}-mutex", context.name()));
    let first = shared(&one).read().acquire().await.unwrap();
    let second = shared(&two).read().acquire().await.unwrap();
    let held = mutex(&three).acquire().await.unwrap();
    let waits_for_mutex = waits_for(&context, mutex(&one), 1).await;
    assert_eq!(deadlocks(&context, &two).await, [[]; 0], "the third one does not wait");
    let writes = waits_for(&context, shared(&three).write(), 1).await;
    assert_eq!(deadlocks(&context, &two).await, [[(1, "-mutex".to_owned()), (3, "-shared".to_owned())]]);
    second.release().await.unwrap();
    assert_eq!(deadlocks(&context, &two).await.len(), 1, "the other reader was no part of it");
    waits_for_mutex.abort();
    eventually("its claim has left", async || deadlocks(&context, &two).await.is_empty()).await;
    first.release().await.unwrap();
    granted(writes).await.release().await.unwrap();
    held.release().await.unwrap();
}

async fn a_semaphore_is_part_of_a_deadlock_only_if_no_holder_of_a_permit_goes_on(context: Context) {
    let [one, two, three] =
        [process(&context, 1).await, process(&context, 2).await, process(&context, 3).await];
    let permit =
        |manager: &LockManager| manager.semaphore(format!("{}-permits", context.name()), 2).permits(1);
    let mutex = |manager: &LockManager| manager.mutex(format!("{}-mutex", context.name()));
    let first = permit(&one).acquire().await.unwrap();
    let second = permit(&two).acquire().await.unwrap();
    let held = mutex(&three).acquire().await.unwrap();
    let waits_for_permit = waits_for(&context, permit(&three), 1).await;
    let waits_for_mutex = waits_for(&context, mutex(&one), 1).await;
    assert_eq!(deadlocks(&context, &two).await, [[]; 0], "the second one goes on, and releases its permit");
    let also_waits = waits_for(&context, mutex(&two), 2).await;
    assert_eq!(deadlocks(&context, &two).await, [[(1, "-mutex".to_owned()), (3, "-permits".to_owned())]]);
    also_waits.abort();
    eventually("its claim has left", async || deadlocks(&context, &two).await.is_empty()).await;
    second.release().await.unwrap();
    let permit = granted(waits_for_permit).await;
    held.release().await.unwrap();
    for guard in [granted(waits_for_mutex).await, permit, first] {
        guard.release().await.unwrap();
    }
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

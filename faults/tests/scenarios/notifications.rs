//! Only notifications get lost, which no side can notice. The waiters are granted all the same, at their next
//! renewal.

use std::time::{Duration, Instant};

use globallock_conformance::context::lock_of;
use globallock_conformance::fixtures::queue_is;
use globallock_conformance::pauses::Pauses;

use crate::filter::Filter;
use crate::store::{BUSY, KINDS, Store, connect};

/// A waiter that misses a notification finds out at its next renewal, so within a lease.
const LEASE: Duration = Duration::from_secs(3);

/// The first of them loses nothing, and the second loses the notification of each of three waiters nearly
/// always.
const ROUNDS: u32 = 6;

pub(crate) async fn a_lost_notification_delays_by_a_lease_at_most(store: Store) {
    let filter = Filter::start(store.read_message(), store.port()).await;
    let behind = connect(&store.behind(filter.port), LEASE).await.unwrap();
    let direct = connect(&store.url(), LEASE).await.unwrap();
    let mut rounds = 0;
    while rounds == 0 || filter.dropped() < 3 {
        // A renewal that comes in the same moment as a release ends the subscription before there is anything
        // to lose, so there are as many rounds as it takes.
        assert!(rounds < ROUNDS, "{} were lost in {} rounds", filter.dropped(), rounds - 1);
        let lost = rounds > 0;
        let (mut guards, mut waiters) = (Vec::new(), Vec::new());
        for (kind, against) in KINDS {
            guards.push(lock_of(&direct, kind, against).unwrap().acquire().await.unwrap());
            let lock = lock_of(&behind, kind, kind).unwrap();
            waiters.push(tokio::spawn(async move {
                let guard = lock.acquire().await.unwrap();
                (guard, Instant::now())
            }));
            queue_is(&direct, kind, 1, 1).await;
        }
        // An answer on the same connection proves that the server knows what the waiters subscribed to or
        // watch.
        behind.inspect("mutex").await.unwrap();
        filter.drops(lost);
        let (since, pauses) = (Instant::now(), Pauses::watch());
        for guard in guards {
            guard.release().await.unwrap();
        }
        for (waiter, (kind, _)) in waiters.into_iter().zip(KINDS) {
            let (guard, granted) = pauses.within(LEASE * 3, waiter).await.expect("it is granted").unwrap();
            let took = granted - since;
            println!("{}, {kind}, lost: {lost}: {took:.2?}", store.kind);
            let limit = LEASE + BUSY + pauses.spent();
            assert!(took < limit, "{}, {kind}, lost: {lost}: it took {took:?}", store.kind);
            assert!(guard.is_held());
            guard.release().await.unwrap();
        }
        filter.drops(false);
        rounds += 1;
    }
}

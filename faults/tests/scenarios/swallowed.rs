//! The answer to one request never arrives, for each request of a lock's life in turn. The owner gets an
//! error or goes on, and the next owner waits for a lease at most.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use globallock::{Guard, LockManager, Result};
use globallock_conformance::context::{eventually, lock_of};
use globallock_conformance::fixtures::{LEASE, connect_calmly, queue_is};
use globallock_conformance::pauses::Pauses;
use globallock_conformance::proxy::Proxy;

use crate::store::{BUSY, KINDS, Store, connect};

/// The time between two signs of life.
const TICK: Duration = Duration::from_millis(667);
/// More requests than any life has.
const TOO_MANY: u64 = 300;
/// How often one life is tried at most, if the machine is too busy for the store to answer in time.
const TRIES: u32 = 5;
/// The machine counts as too busy if the tests did not run for so long.
const PAUSED: Duration = Duration::from_millis(100);

/// How the connection ends on which an answer was swallowed.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// It is cut as soon as the answer is swallowed.
    Soon,
    /// It stays open, and swallows all further answers, until the owner is done.
    Late,
}

/// One life of a lock: connect, acquire, renew, release.
struct Life<'a> {
    store: &'a Store,
    observer: &'a LockManager,
    name: String,
    kind: &'static str,
    /// A kind that excludes it.
    against: &'static str,
    /// Whether another owner holds the lock at first.
    waits: bool,
    ending: Ending,
}

/// Awaits a call, which must end in time.
async fn in_time<T>(what: &str, limit: Duration, call: impl Future<Output = T>) -> T {
    let ended = Pauses::watch().within(limit + BUSY, call).await;
    ended.unwrap_or_else(|| panic!("{what} does not end within {limit:?} and {BUSY:?}"))
}

impl Life<'_> {
    /// Checks that no other owner can hold the lock unless the guard is lost.
    async fn is_alone(&self, guard: &Guard) {
        let other = lock_of(self.observer, &self.name, self.against).unwrap().try_acquire().await.unwrap();
        if let Some(other) = other {
            assert!(!guard.is_held(), "{}: two hold {}", self.label(), self.name);
            other.release().await.unwrap();
        }
    }

    /// Lives one life. `has_asked` becomes true when the call to acquire has ended.
    async fn live(&self, manager: &LockManager, has_asked: &AtomicBool) -> Result<()> {
        let store_timeout = Duration::from_secs(1);
        let wait = if self.waits { LEASE + TICK } else { Duration::ZERO };
        let lock = lock_of(manager, &self.name, self.kind)?;
        let acquired = in_time("acquire", store_timeout + wait, lock.acquire()).await;
        has_asked.store(true, Ordering::SeqCst);
        let guard = acquired?;
        self.is_alone(&guard).await;
        let renewed = in_time("renew", store_timeout, guard.renew()).await;
        self.is_alone(&guard).await;
        let released = in_time("release", store_timeout, guard.release()).await;
        renewed.and(released.map(drop))
    }

    /// Lives one life in which the answer to this request is swallowed. Returns how long the next owner had
    /// to wait, or `None` if there was no such request. If the machine was too busy for the store to answer,
    /// it is tried again.
    async fn without_answer(&self, request: u64) -> Option<Duration> {
        for tries in 1.. {
            let pauses = Pauses::watch();
            match self.once_without_answer(request).await {
                Ok(took) => return took,
                Err(error) => assert!(
                    tries < TRIES && pauses.spent() > PAUSED,
                    "{}, request {request}: {error:?}",
                    self.label()
                ),
            }
        }
        unreachable!("the last try ends it")
    }

    /// One try of that. Returns an error if a call failed although nothing was swallowed.
    async fn once_without_answer(&self, request: u64) -> Result<Option<Duration>> {
        let proxy = Proxy::start(self.store.port()).await.unwrap();
        proxy.swallow_answer(request);
        let next = lock_of(self.observer, &self.name, self.against).unwrap();
        let holder = if self.waits { Some(next.acquire().await.unwrap()) } else { None };
        let has_asked = AtomicBool::new(false);
        let owner = async {
            let url = self.store.behind(proxy.port());
            match in_time("connect", Duration::from_secs(2), connect(&url, LEASE)).await {
                Ok(manager) => {
                    let lived = self.live(&manager, &has_asked).await;
                    (Some(manager), lived)
                }
                Err(error) => (None, Err(error)),
            }
        };
        let release = async {
            if let Some(guard) = holder {
                eventually("the owner waits", async || {
                    has_asked.load(Ordering::SeqCst)
                        || self.observer.inspect(&self.name).await.unwrap().len() > 1
                })
                .await;
                guard.release().await.unwrap();
            }
        };
        let cut = async {
            if matches!(self.ending, Ending::Soon) {
                eventually("an answer is swallowed", async || {
                    proxy.swallowed() > 0 || has_asked.load(Ordering::SeqCst) && proxy.deaf() == 0
                })
                .await;
                if proxy.deaf() > 0 {
                    proxy.cut();
                }
            }
        };
        let others = async {
            tokio::join!(release, cut);
            std::future::pending::<()>().await;
        };
        let (manager, lived) = tokio::select! {
            ended = owner => ended,
            () = others => unreachable!("it never ends"),
        };
        let was_swallowed = proxy.deaf() > 0;
        proxy.cut();
        if let Err(error) = &lived {
            assert!(error.is_unavailable(), "{}, request {request}: {error:?}", self.label());
            assert!(!error.to_string().is_empty());
        }
        let since = Instant::now();
        let fresh = in_time("the next owner's acquire", LEASE + TICK, next.acquire()).await;
        let took = since.elapsed();
        fresh.unwrap().release().await.unwrap();
        queue_is(self.observer, &self.name, 0, 0).await;
        // Dropped only now, because a manager that lives on would renew a claim that it has forgotten to
        // release.
        drop(manager);
        if was_swallowed { Ok(Some(took)) } else { lived.map(|()| None) }
    }

    fn label(&self) -> String {
        let waits = if self.waits { " behind a holder" } else { "" };
        format!("{}, {}{waits}, cut {:?}", self.store.kind, self.kind, self.ending)
    }
}

/// Lives one life for each request, without the answer to that request, until there is no such request.
async fn without_each_answer(life: Life<'_>) {
    let mut longest = Duration::ZERO;
    for request in 1..TOO_MANY {
        let Some(took) = life.without_answer(request).await else {
            let requests = request - 1;
            println!("{}: {requests} requests, {longest:.1?} at most", life.label());
            assert!(requests >= 4, "connect, acquire, renew and release");
            return;
        };
        longest = longest.max(took);
    }
    panic!("{}: a life of more than {TOO_MANY} requests", life.label());
}

pub(crate) async fn a_swallowed_answer_delays_by_a_lease_at_most(store: Store) {
    // The observer has a long timeout, because on a busy machine it may be served late.
    let observer = connect_calmly(&store.url()).await.unwrap();
    let (mut lives, mut names) = (Vec::new(), Vec::new());
    for (kind, against) in KINDS {
        for waits in [false, true] {
            for ending in [Ending::Soon, Ending::Late] {
                let name = format!("swallowed-{}", names.len());
                names.push(name.clone());
                let life = Life { store: &store, observer: &observer, name, kind, against, waits, ending };
                lives.push(without_each_answer(life));
            }
        }
    }
    join_all(lives).await;
    drop(observer);
    eventually("nothing is left in the store", async || store.leftovers(&names).is_empty()).await;
}

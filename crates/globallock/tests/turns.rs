//! Crowds of claims of one manager: they ask the store in turns, and a store that answers others is not silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::join_all;
use futures_util::stream::BoxStream;
use globallock::backend::{Claim, Departure, Entry, Profile, Standing};
use globallock::{Backend, Error, Guard, LockManager, ManagerOptions, Memory, Name, Options, Result};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// How many ask at a time.
const AT_A_TIME: usize = 128;

/// A store that answers as many joins as it is let to.
#[derive(Debug)]
struct Gated {
    memory: Arc<Memory>,
    gate: Semaphore,
    asked: AtomicUsize,
    inside: AtomicUsize,
    most: AtomicUsize,
}

impl Gated {
    fn new() -> Arc<Self> {
        let [asked, inside, most] = [0; 3].map(AtomicUsize::new);
        Arc::new(Gated { memory: Memory::new(), gate: Semaphore::new(0), asked, inside, most })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Counts who is inside, also when a request is given up.
struct Inside<'a>(&'a AtomicUsize);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Backend for Gated {
    fn profile(&self) -> Profile {
        self.memory.profile()
    }

    async fn join(&self, claim: &Claim) -> Result<Standing> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.most.fetch_max(self.inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let _inside = Inside(&self.inside);
        self.gate.acquire().await.unwrap().forget();
        self.memory.join(claim).await
    }

    async fn changed(&self, claim: &Claim) -> Result<Option<Standing>> {
        self.memory.changed(claim).await
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<Standing>> {
        self.memory.renew(claims).await
    }

    async fn leave(&self, claim: &Claim) -> Result<Departure> {
        self.memory.leave(claim).await
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        self.memory.inspect(name).await
    }

    fn names<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Name>> {
        self.memory.names(prefix)
    }
}

/// Asks for so many locks of different names at once, and returns when all have asked or wait for their turn.
async fn crowd(store: &Arc<Gated>, options: Options, size: usize) -> Vec<JoinHandle<Result<Guard>>> {
    let options = ManagerOptions { locks: options, ..ManagerOptions::default() };
    let manager = LockManager::over(Arc::clone(store) as Arc<dyn Backend>, options).unwrap();
    let ask = |number: usize| {
        let lock = manager.mutex(number.to_string()).unwrap();
        tokio::spawn(async move { lock.acquire().await })
    };
    let asks = (0..size).map(ask).collect();
    // There is one thread, and each yields only to wait: after so many turns all have.
    for _ in 0..size {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.asked(), size.min(AT_A_TIME));
    asks
}

#[tokio::test]
async fn a_crowd_asks_in_turns() {
    let store = Gated::new();
    let asks = crowd(&store, Options::default(), 1000).await;
    store.gate.add_permits(1000);
    let guards: Vec<_> = join_all(asks).await.into_iter().map(|ended| ended.unwrap().unwrap()).collect();
    assert!(guards.iter().all(Guard::is_held));
    assert_eq!((store.asked(), store.most.load(Ordering::SeqCst)), (1000, AT_A_TIME));
}

#[tokio::test]
async fn whoever_gives_up_its_place_among_those_who_want_to_ask_gives_nobody_elses_away() {
    let store = Gated::new();
    let mut asks = crowd(&store, Options::default(), AT_A_TIME + 10).await;
    for given_up in asks.drain(AT_A_TIME..AT_A_TIME + 9) {
        given_up.abort();
    }
    store.gate.add_permits(AT_A_TIME + 1);
    assert!(join_all(asks).await.into_iter().all(|ended| ended.unwrap().unwrap().is_held()));
    assert_eq!(store.asked(), AT_A_TIME + 1);
}

#[tokio::test]
async fn a_store_that_answers_others_is_not_silent() {
    let options = Options { patience: Some(Duration::from_millis(500)), ..Options::default() };
    let patience = options.patience.unwrap();
    // A machine that stands still for too long shows nothing: it is tried again.
    for _ in 0..20 {
        let store = Gated::new();
        let asks = crowd(&store, options.clone(), 1000).await;
        let (begin, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
        let mut answered = 0;
        // Each that has asked is answered well within the patience; all together take longer by far.
        while answered < 1000 {
            store.gate.add_permits(20);
            answered += 20;
            let until = begin + patience * 3 * answered / 1000;
            tokio::time::sleep_until(until.into()).await;
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        let ended: Vec<Result<Guard>> =
            join_all(asks).await.into_iter().map(|ended| ended.unwrap()).collect();
        let failed = ended.iter().find_map(|ended| ended.as_ref().err());
        if failed.is_none() || longest < patience / 4 {
            assert!(failed.is_none(), "{failed:?}");
            assert!(begin.elapsed() > patience * 2);
            return;
        }
    }
    panic!("the machine never ran for long enough");
}

#[tokio::test]
async fn all_of_a_crowd_are_told_of_a_silent_store_when_the_first_are() {
    let store = Gated::new();
    let options = Options { patience: Some(Duration::from_millis(300)), ..Options::default() };
    for ended in join_all(crowd(&store, options, 1000).await).await {
        let error = ended.unwrap().unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    }
    assert_eq!(store.asked(), AT_A_TIME, "nobody asks a store that has been silent for so long");
}

#[tokio::test]
async fn the_time_to_wait_counts_while_a_claim_waits_for_its_turn() {
    let store = Gated::new();
    let options = Options { wait: Some(Duration::from_millis(200)), ..Options::default() };
    let mut asks = crowd(&store, options, AT_A_TIME * 3).await;
    store.gate.add_permits(1);
    let last = asks.pop().unwrap();
    assert!(asks.swap_remove(0).await.unwrap().unwrap().is_held());
    let error = last.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
}

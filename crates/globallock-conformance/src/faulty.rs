//! A store between the core and another store that fails on purpose, and counts what it is asked.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::stream::{BoxStream, StreamExt};
use globallock::backend::{Backend, Capabilities, Claim, ClaimStatus, Entry, Release};
use globallock::{Error, Name, Result};
use tokio::sync::watch;

/// What a store is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// [`Backend::enqueue`].
    Enqueue,
    /// [`Backend::wait_for_change`].
    WaitForChange,
    /// [`Backend::renew`].
    Renew,
    /// [`Backend::release`].
    Release,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// It is served.
    #[default]
    None,
    /// It does not arrive, and fails.
    Refuse,
    /// It is served, but its answer does not arrive: it fails.
    LoseAnswer,
    /// It does not arrive, and nothing ever answers.
    Silence,
    /// It is served, but nothing ever answers.
    SilenceAfter,
    /// It arrives and is answered later, each time by so much.
    Delay(Duration),
    /// It is served, and its answer arrives once [`Faulty::let_go`] is called.
    HoldAnswer,
}

/// A store that passes everything on to another, but for the faults that are set.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Backend>,
    state: Mutex<State>,
    /// How often held answers were let go.
    releases: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    next: HashMap<Verb, VecDeque<Fault>>,
    always: HashMap<Verb, Fault>,
    asked: HashMap<Verb, u64>,
    held: u64,
    answered: HashMap<Verb, u64>,
    slowest: Duration,
    failed: u64,
}

/// Waits, and is suspended however late the machine lets it look at the time.
async fn suspended(time: Duration) {
    let sleep = tokio::time::sleep(time);
    tokio::task::yield_now().await;
    sleep.await;
}

impl Faulty {
    /// Stands before `inner`, with no fault set.
    #[must_use]
    pub fn new(inner: Arc<dyn Backend>) -> Arc<Self> {
        Arc::new(Faulty { inner, state: Mutex::default(), releases: watch::Sender::new(0) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the next requests of a kind fail, one after the other.
    pub fn next(&self, verb: Verb, faults: impl IntoIterator<Item = Fault>) {
        self.state().next.entry(verb).or_default().extend(faults);
    }

    /// Lets all requests of a kind fail from now on that no other fault is set for.
    pub fn always(&self, verb: Verb, fault: Fault) {
        self.state().always.insert(verb, fault);
    }

    /// How many requests of a kind have been made.
    #[must_use]
    pub fn asked(&self, verb: Verb) -> u64 {
        self.state().asked.get(&verb).copied().unwrap_or(0)
    }

    /// How many answers have been held on their way.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.state().held
    }

    /// Lets the answers that are held arrive.
    pub fn let_go(&self) {
        self.releases.send_modify(|releases| *releases += 1);
    }

    /// How many requests of a kind the store has answered.
    #[must_use]
    pub fn answered(&self, verb: Verb) -> u64 {
        self.state().answered.get(&verb).copied().unwrap_or(0)
    }

    /// The longest that the store has taken to answer anything but [`Backend::changed`], which waits by nature.
    ///
    /// An owner reads the store's clock from such an answer, and counts from when it asked: by so much may a deadline of
    /// its own be early.
    #[must_use]
    pub fn slowest(&self) -> Duration {
        self.state().slowest
    }

    /// How many requests did not go well: the proof that the faults bit.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.state().failed
    }

    fn fault(&self, verb: Verb) -> Fault {
        let mut state = self.state();
        *state.asked.entry(verb).or_default() += 1;
        let next = state.next.get_mut(&verb).and_then(VecDeque::pop_front);
        let fault = next.or_else(|| state.always.get(&verb).copied()).unwrap_or_default();
        state.failed += u64::from(!matches!(fault, Fault::None | Fault::Delay(_) | Fault::HoldAnswer));
        fault
    }

    async fn pass<T>(&self, verb: Verb, request: impl Future<Output = T>, lost: impl FnOnce() -> T) -> T {
        let asked = Instant::now();
        match self.fault(verb) {
            Fault::None => {
                let answer = request.await;
                let mut state = self.state();
                *state.answered.entry(verb).or_default() += 1;
                if verb != Verb::WaitForChange {
                    state.slowest = state.slowest.max(asked.elapsed());
                }
                answer
            }
            Fault::Refuse => lost(),
            Fault::LoseAnswer => {
                request.await;
                lost()
            }
            Fault::Silence => std::future::pending().await,
            Fault::SilenceAfter => {
                request.await;
                std::future::pending().await
            }
            Fault::Delay(delay) => {
                suspended(delay).await;
                let answer = request.await;
                suspended(delay).await;
                answer
            }
            Fault::HoldAnswer => {
                let mut releases = self.releases.subscribe();
                let answer = request.await;
                self.state().held += 1;
                // The sender lives in `self`, so the wait ends with a release only.
                let _ = releases.changed().await;
                answer
            }
        }
    }
}

fn failure() -> Error {
    Error::unavailable("the faulty store", "it fails on purpose")
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Backend for Faulty {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        self.pass(Verb::Enqueue, self.inner.enqueue(claim), || Err(failure())).await
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        self.pass(Verb::WaitForChange, self.inner.wait_for_change(claim), || Err(failure())).await
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        let lost = || claims.iter().map(|_| Err(failure())).collect();
        self.pass(Verb::Renew, self.inner.renew(claims), lost).await
    }

    async fn session_lost_hint(&self) {
        self.inner.session_lost_hint().await;
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        self.pass(Verb::Release, self.inner.release(claim), || Err(failure())).await
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        self.inner.inspect(name).await
    }

    fn names<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Name>> {
        self.inner.names(prefix).boxed()
    }
}

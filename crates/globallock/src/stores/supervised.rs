//! A connection that is made by the first request, and again whenever it breaks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::notices::StoreNotices;
use crate::backend::StoreNoticeKind;
use crate::sync::{Backoff, Instant};

/// The shortest and the longest pause between two tries to connect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// A connection that breaks within this time is not replaced at once, because the next one may break as soon.
/// The second value is the longest pause before it is replaced.
const STEADY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(100));
/// How much longer than a try to connect a request waits for it, so that it learns why the try has failed:
/// longer than it takes to find out what is at a port.
const LATER: Duration = Duration::from_millis(300);

/// Who has a supervised connection.
pub(crate) trait Supervised: Send + Sync + Sized + 'static {
    /// A connection that is usable.
    type Live: Clone + Send + Sync + 'static;
    type Failure: Clone + Send + Sync + 'static;

    fn supervisor(&self) -> &Supervisor<Self::Live, Self::Failure>;

    /// Opens a connection. Whoever hears of its end gives it up by this number.
    fn open(self: &Arc<Self>, number: u64) -> impl Future<Output = Result<Self::Live, Self::Failure>> + Send;

    /// Why a connection has ended, if it has: nobody could give it up before it was the current one.
    fn ended(live: &Self::Live) -> Option<Self::Failure>;

    /// A connection has been given up, and another one is made.
    fn given_up(&self, live: &Self::Live);

    /// A connection is there in place of an earlier one.
    fn reopened(&self);

    /// The longest that one try to connect takes.
    fn longest_try(&self) -> Duration;

    /// The failure of a try that has not ended in time.
    fn timed_out() -> Self::Failure;

    /// Whether it makes sense to try again.
    fn may_heal(failure: &Self::Failure) -> bool;

    /// A failure in words, without secrets.
    fn reason(&self, failure: &Self::Failure) -> String;

    /// Returns the connection. While it is broken, waits for the result of the next try to connect.
    ///
    /// # Cancel safety
    /// The connection is made nevertheless.
    fn live(self: &Arc<Self>) -> impl Future<Output = Result<Self::Live, Self::Failure>> + Send {
        async move {
            if let Some(current) = &self.supervisor().state.borrow().current {
                return Ok(current.live.clone());
            }
            // What is rarely waited for has memory of its own. So a request has a small future, which takes
            // less time to allocate.
            Box::pin(tried(self)).await
        }
    }

    /// Declares connection `number` broken and starts to connect again, unless that has been done already.
    fn give_up(self: &Arc<Self>, number: u64, failure: Self::Failure) {
        let supervisor = self.supervisor();
        let (mut broken, mut first) = (None, Duration::ZERO);
        supervisor.state.send_if_modified(|state| {
            let Some(current) = state.current.take_if(|current| current.number == number) else {
                return false;
            };
            if current.since.elapsed() < STEADY.0 {
                first = (state.pause * 2).clamp(PAUSE.0, STEADY.1);
            }
            supervisor.notices.say(StoreNoticeKind::ConnectionLost, &self.reason(&failure));
            broken = Some(current.live);
            *state =
                State { is_connecting: true, failure: Some(failure.clone()), pause: first, ..State::new() };
            true
        });
        if let Some(live) = broken {
            self.given_up(&live);
            tokio::spawn(reconnect(Arc::downgrade(self), false, first));
        }
    }
}

/// What is known of the connection.
pub(crate) struct Supervisor<L, F> {
    state: watch::Sender<State<L, F>>,
    /// The number of the last connection.
    number: AtomicU64,
    pub(crate) notices: StoreNotices,
}

/// Whether the connection is usable now, and what was tried since it broke.
struct State<L, F> {
    current: Option<Current<L>>,
    /// Whether a task makes a connection.
    is_connecting: bool,
    /// How many tries to connect have failed since it broke.
    failed: u64,
    /// Why the last try failed, or why the connection broke.
    failure: Option<F>,
    /// How long the first try waited.
    pause: Duration,
}

struct Current<L> {
    number: u64,
    since: Instant,
    live: L,
}

impl<L, F> State<L, F> {
    fn new() -> Self {
        State { current: None, is_connecting: false, failed: 0, failure: None, pause: Duration::ZERO }
    }
}

impl<L, F> Supervisor<L, F> {
    pub(crate) fn new() -> Self {
        Supervisor {
            state: watch::Sender::new(State::new()),
            number: AtomicU64::new(0),
            notices: StoreNotices::default(),
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.state.borrow().current.is_some()
    }

    pub(crate) fn is_current(&self, number: u64) -> bool {
        self.state.borrow().current.as_ref().is_some_and(|current| current.number == number)
    }

    /// Whether this is so of the connection, if there is one.
    pub(crate) fn is_some_and(&self, what: impl FnOnce(&L) -> bool) -> bool {
        self.state.borrow().current.as_ref().is_some_and(|current| what(&current.live))
    }

    /// Makes a connection the current one.
    fn set(&self, number: u64, live: L) {
        self.state.send_modify(|state| {
            let current = Some(Current { number, since: Instant::now(), live });
            *state = State { current, pause: state.pause, ..State::new() };
        });
    }
}

/// Waits for the result of the next try to connect.
async fn tried<S: Supervised>(this: &Arc<S>) -> Result<S::Live, S::Failure> {
    let supervisor = this.supervisor();
    let mut state = supervisor.state.subscribe();
    let failed = state.borrow_and_update().failed;
    let is_first = |state: &mut State<_, _>| {
        state.current.is_none() && !std::mem::replace(&mut state.is_connecting, true)
    };
    if supervisor.state.send_if_modified(is_first) {
        tokio::spawn(reconnect(Arc::downgrade(this), true, Duration::ZERO));
    }
    let settled = state.wait_for(|state| state.current.is_some() || state.failed > failed);
    match timeout(this.longest_try() + LATER, settled).await {
        Ok(Ok(state)) => match (&state.current, &state.failure) {
            (Some(current), _) => Ok(current.live.clone()),
            (None, Some(failure)) => Err(failure.clone()),
            (None, None) => Err(S::timed_out()),
        },
        Ok(Err(_)) | Err(_) => Err(S::timed_out()),
    }
}

/// Tries to connect until it succeeds or the store is dropped. The first connection is also given up when
/// what refuses it does not heal: nothing is held yet, and the next request tries again.
async fn reconnect<S: Supervised>(this: Weak<S>, is_first: bool, pause: Duration) {
    let mut ended = Ended { this: Weak::clone(&this), regularly: false };
    reconnected(this, is_first, pause).await;
    ended.regularly = true;
}

/// Lets the next request connect if the task that connects is dropped, as with the runtime that it runs in.
struct Ended<S: Supervised> {
    this: Weak<S>,
    regularly: bool,
}

impl<S: Supervised> Drop for Ended<S> {
    fn drop(&mut self) {
        if let Some(this) = self.this.upgrade().filter(|_| !self.regularly) {
            this.supervisor().state.send_modify(|state| {
                state.is_connecting = false;
                state.failed += 1;
                state.failure = Some(S::timed_out());
            });
        }
    }
}

async fn reconnected<S: Supervised>(this: Weak<S>, is_first: bool, pause: Duration) {
    sleep(pause).await;
    let mut backoff = Backoff::new((PAUSE.0.max(pause * 2), PAUSE.1));
    loop {
        let Some(this) = this.upgrade() else { return };
        let supervisor = this.supervisor();
        // Each try has its own, so that the end of an earlier one is not taken for that of this one.
        let number = supervisor.number.fetch_add(1, Ordering::Relaxed) + 1;
        match this.open(number).await {
            Ok(live) => {
                supervisor.set(number, live.clone());
                if let Some(failure) = S::ended(&live) {
                    this.give_up(number, failure);
                } else if !is_first {
                    this.reopened();
                }
                return;
            }
            Err(failure) => {
                // What cannot heal is told to whoever asks, and nobody needs this connection to be made yet.
                let goes_on = !is_first || S::may_heal(&failure);
                if goes_on {
                    supervisor.notices.say(StoreNoticeKind::NotConnected, &this.reason(&failure));
                }
                supervisor.state.send_modify(|state| {
                    state.failed += 1;
                    state.failure = Some(failure);
                    state.is_connecting = goes_on;
                });
                if !goes_on {
                    return;
                }
            }
        }
        drop(this);
        sleep(backoff.pause()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::AtomicUsize;

    use tokio::task::yield_now;
    use tokio::time::Instant as Tokio;

    use super::*;
    use crate::sync::Mutex;

    /// What a try to connect comes to.
    #[derive(Clone, Copy)]
    enum Try {
        Opens,
        /// It opens, and its end is heard of before it is the current one.
        Ends,
        Fails,
        CannotHeal,
        Hangs,
    }

    /// Connects as it is told, and opens whatever comes after that.
    struct Scripted {
        supervisor: Supervisor<(u64, bool), &'static str>,
        tries: Mutex<VecDeque<Try>>,
        reopened: AtomicUsize,
        given_up: Mutex<Vec<u64>>,
    }

    impl Scripted {
        fn new(tries: impl Into<VecDeque<Try>>) -> Arc<Self> {
            Arc::new(Scripted {
                supervisor: Supervisor::new(),
                tries: Mutex::new(tries.into()),
                reopened: AtomicUsize::new(0),
                given_up: Mutex::default(),
            })
        }

        fn reopened(&self) -> usize {
            self.reopened.load(Ordering::SeqCst)
        }

        /// The number of the connection that a request gets.
        async fn number(self: &Arc<Self>) -> Result<u64, &'static str> {
            self.live().await.map(|(number, _)| number)
        }
    }

    impl Supervised for Scripted {
        /// Its number, and whether it has ended.
        type Live = (u64, bool);
        type Failure = &'static str;

        fn supervisor(&self) -> &Supervisor<(u64, bool), &'static str> {
            &self.supervisor
        }

        async fn open(self: &Arc<Self>, number: u64) -> Result<(u64, bool), &'static str> {
            let next = self.tries.lock().pop_front();
            match next.unwrap_or(Try::Opens) {
                Try::Opens => Ok((number, false)),
                Try::Ends => {
                    self.give_up(number, "ended");
                    Ok((number, true))
                }
                Try::Fails => Err("refused"),
                Try::CannotHeal => Err("denied"),
                Try::Hangs => std::future::pending().await,
            }
        }

        fn ended((_, ended): &(u64, bool)) -> Option<&'static str> {
            ended.then_some("ended")
        }

        fn given_up(&self, (number, _): &(u64, bool)) {
            self.given_up.lock().push(*number);
        }

        fn reopened(&self) {
            self.reopened.fetch_add(1, Ordering::SeqCst);
        }

        fn longest_try(&self) -> Duration {
            Duration::from_secs(5)
        }

        fn timed_out() -> &'static str {
            "in time"
        }

        fn may_heal(failure: &&'static str) -> bool {
            *failure != "denied"
        }

        fn reason(&self, failure: &&'static str) -> String {
            (*failure).to_owned()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_share_one_connection_until_it_breaks() {
        let this = Scripted::new([]);
        assert!(!this.supervisor.is_live());
        assert_eq!((this.number().await, this.number().await), (Ok(1), Ok(1)));
        assert!(this.supervisor.is_current(1) && this.supervisor.is_some_and(|live| live.0 == 1));
        this.give_up(1, "broken");
        assert!(!this.supervisor.is_live() && !this.supervisor.is_current(1));
        // Whoever hears of it later changes nothing.
        this.give_up(1, "broken");
        assert_eq!(this.number().await, Ok(2));
        assert_eq!((this.reopened(), this.given_up.lock().clone()), (1, vec![1]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_learns_of_the_next_try_and_tries_go_on() {
        let this = Scripted::new([Try::Fails, Try::Fails]);
        assert_eq!(this.number().await, Err("refused"));
        assert_eq!(this.number().await, Err("refused"));
        assert_eq!(this.number().await, Ok(3));
        assert_eq!(this.reopened(), 0, "it is the first one");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_is_tried_again_by_a_request_alone_if_it_cannot_heal() {
        let this = Scripted::new([Try::CannotHeal]);
        assert_eq!(this.number().await, Err("denied"));
        sleep(PAUSE.1 * 10).await;
        assert!(!this.supervisor.is_live());
        assert_eq!(this.number().await, Ok(2));
        // Once something may be held, it is tried for as long as it takes.
        this.tries.lock().push_back(Try::CannotHeal);
        this.give_up(2, "broken");
        sleep(PAUSE.1 * 10).await;
        assert!(this.supervisor.is_current(4));
        assert_eq!(this.reopened(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_ended_before_it_is_the_current_one_is_replaced() {
        let this = Scripted::new([Try::Ends, Try::Ends]);
        this.number().await.unwrap();
        sleep(STEADY.1 * 10).await;
        assert_eq!(this.number().await, Ok(3));
        assert_eq!((this.reopened(), this.given_up.lock().clone()), (1, vec![1, 2]));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_breaks_soon_is_replaced_later_and_later() {
        let this = Scripted::new([]);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let live = this.number().await.unwrap();
            let since = Tokio::now();
            this.give_up(live, "broken");
            this.number().await.unwrap();
            pauses.push(since.elapsed());
        }
        assert!(pauses.is_sorted() && pauses[0] >= PAUSE.0 && pauses[5] <= STEADY.1 * 2, "{pauses:?}");
        sleep(STEADY.0 * 2).await;
        let (live, since) = (this.number().await.unwrap(), Tokio::now());
        this.give_up(live, "broken");
        this.number().await.unwrap();
        assert_eq!(since.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_does_not_wait_for_a_try_that_hangs() {
        let this = Scripted::new([Try::Hangs]);
        let since = Tokio::now();
        assert_eq!(this.number().await, Err("in time"));
        assert_eq!(since.elapsed(), Duration::from_secs(5) + LATER);
    }

    #[test]
    fn a_runtime_that_ends_leaves_the_next_request_to_connect() {
        let this = Scripted::new([Try::Hangs]);
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let first = runtime();
        first.block_on(async {
            let request = tokio::spawn({
                let this = Arc::clone(&this);
                async move { this.number().await }
            });
            while !this.tries.lock().is_empty() {
                yield_now().await;
            }
            request.abort();
        });
        drop(first);
        assert_eq!(runtime().block_on(this.number()), Ok(2));
    }
}

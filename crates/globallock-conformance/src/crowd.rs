//! A crowd of waiters on one name, and what it must not cost the other owners, whether the crowd is alive or
//! dead.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use globallock::{Entry, LockManager, ManagerOptions, Options};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::child::Report;
use crate::member::{Member, MemberConfig};

/// How many waiters there are when all have joined.
pub const SIZE: usize = 10_000;
/// How many processes the waiters are in.
const MEMBERS: usize = 4;
/// How many claims of each member are in front of the second holder, and get the lock in turn.
const FIRST: usize = 2;
/// How long after its lease an expired claim may stay. Servers check leases only from time to time, and here
/// they remove 10,000 claims at once.
const TICK: Duration = Duration::from_secs(2);
/// How long it may take until all waiters have joined.
const JOINED: Duration = Duration::from_secs(90);
/// The numbers of the holders in their events: they follow those of the members.
const HOLDERS: [usize; 2] = [MEMBERS, MEMBERS + 1];

/// Starts [`SIZE`] waiters on one name, in a few processes and with this lease, and kills them all.
///
/// While they live, these must be true:
/// - The holder, which is another process, does not lose its lock.
/// - No waiter drops out of the queue, and the order of the queue does not change.
/// - A lock of another name stays usable, and `inspect` answers.
/// - A release grants the lock to the next waiter in the order of the queue.
///
/// After all have died, the lock must be free for a new waiter within a lease and a tick. Without a program
/// the crowd consists of tasks, which give up instead of dying.
///
/// # Panics
/// When one of these is not true.
///
/// # Cancel safety
/// The processes end with the call.
pub async fn crowd(url: &str, program: Option<PathBuf>, lease: Duration) {
    let (failures, mut failed) = mpsc::unbounded_channel();
    let stalls = Stalls::watch();
    let unrelated = use_unrelated(url.to_owned(), lease, Arc::clone(&stalls), failures.clone()).await;
    let mut crowd = Crowd::new(url, program, lease, stalls, failures).await;
    tokio::select! {
        biased;
        what = failed.recv() => panic!("{}", what.expect("the crowd keeps a sender")),
        () = crowd.run() => {}
    }
    drop(crowd);
    let rounds = unrelated.finish().await;
    // A failure may have been reported after the crowd was done.
    if let Ok(what) = failed.try_recv() {
        panic!("{what}");
    }
    assert!(rounds > 0, "another name stays usable");
    println!("{rounds} rounds of an unrelated lock");
}

/// The report of the member with this number.
type Event = (usize, Report);

/// The members, and what they have reported.
struct Crowd {
    manager: LockManager,
    url: String,
    name: String,
    program: Option<PathBuf>,
    lease: Duration,
    stalls: Arc<Stalls>,
    members: Vec<Member>,
    holders: Vec<Member>,
    events: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
    failures: mpsc::UnboundedSender<String>,
}

impl Crowd {
    async fn new(
        url: &str,
        program: Option<PathBuf>,
        lease: Duration,
        stalls: Arc<Stalls>,
        failures: mpsc::UnboundedSender<String>,
    ) -> Self {
        let name = format!("crowd-{}", std::process::id());
        let events = mpsc::unbounded_channel();
        let (members, holders) = (Vec::new(), Vec::new());
        Crowd {
            manager: manager(url, lease).await,
            url: url.to_owned(),
            name,
            program,
            lease,
            stalls,
            members,
            holders,
            events,
            failures,
        }
    }

    /// Starts a member, and returns once it is connected.
    async fn start(&mut self, number: usize) -> Member {
        let (url, name, label) = (self.url.clone(), self.name.clone(), number.to_string());
        let config = MemberConfig { url, name, label, lease: self.lease };
        let (events, failures) = (self.events.0.clone(), self.failures.clone());
        let on_report = move |report| {
            // The receivers are gone once the test has its result; later reports do not matter.
            let _ = match report {
                Report::Lost(_) | Report::Failed(_) => {
                    failures.send(format!("member {number} reports {report:?}")).is_ok()
                }
                report => events.send((number, report)).is_ok(),
            };
        };
        let member = match &self.program {
            Some(program) => Member::process(program, &config, on_report),
            None => Member::task(&config, on_report),
        };
        assert_eq!(self.next_event().await, (number, Report::Asking));
        member
    }

    async fn next_event(&mut self) -> Event {
        self.events.1.recv().await.expect("this crowd keeps a sender")
    }

    async fn run(&mut self) {
        let size = std::env::var("CROWD").map_or(SIZE, |size| size.parse().expect("a number of waiters"));
        let from = Instant::now();
        let step = |what: &str| println!("{:>7.1?} {what}", from.elapsed());
        for number in HOLDERS {
            let holder = self.start(number).await;
            self.holders.push(holder);
        }
        for number in 0..MEMBERS {
            let member = self.start(number).await;
            self.members.push(member);
        }
        self.holders[0].join(1).await;
        let (mut holds, Report::Granted(mut fencing_token)) = self.next_event().await else {
            panic!("the free lock is not granted")
        };
        assert_eq!(holds, HOLDERS[0]);
        for member in &mut self.members {
            member.join(FIRST).await;
        }
        self.queue(1 + MEMBERS * FIRST).await;
        self.holders[1].join(1).await;
        let first = self.queue(2 + MEMBERS * FIRST).await;
        for member in &mut self.members {
            member.join(size / MEMBERS).await;
        }
        let all = self.queue(first.len() + size).await;
        step("all wait");
        assert_eq!(ids(&first), ids(&all[..first.len()]), "no claim gets in front of earlier ones");

        for entry in &first[1..] {
            let next = entry.owner.label.as_deref().and_then(|label| label.parse().ok());
            let next = next.expect("a member's number");
            fencing_token = self.hand_over(holds, next, fencing_token).await;
            holds = next;
        }
        assert_eq!(holds, HOLDERS[1]);
        step("handed over");
        let all = &all[first.len() - 1..];
        assert_eq!(ids(all), ids(&self.queue(1 + size).await), "the queue behind the earlier holders");
        tokio::time::sleep_until((Instant::now() + self.lease * 2).into()).await;
        assert_eq!(ids(all), ids(&self.queue(1 + size).await), "no waiter drops out, and the order stays");
        step("two leases later");

        for member in self.members.drain(..) {
            member.kill().await;
        }
        let (killed, stalled) = (Instant::now(), self.stalls.total());
        step("all killed");
        let lock = self.manager.mutex(&self.name);
        let newcomer = tokio::spawn(async move { lock.acquire().await });
        tokio::time::sleep_until((killed + self.lease / 2).into()).await;
        self.holders[1].release().await;
        assert_eq!(self.next_event().await, (HOLDERS[1], Report::Released(true)), "it held until now");
        let limit = self.lease + TICK;
        let granted = tokio::time::timeout(JOINED, newcomer).await;
        let took = killed.elapsed().saturating_sub(self.stalls.total() - stalled);
        step("the newcomer is granted");
        let guard = granted
            .expect("the dead do not keep the lock")
            .expect("the newcomer waits")
            .expect("it is granted");
        assert!(took < limit, "the dead kept the lock for {took:?}, though a lease is {:?}", self.lease);
        assert!(guard.fencing_token() > fencing_token);
        let queue = self.manager.inspect(&self.name).await.expect("the store answers");
        assert_eq!(
            queue.first().map(|entry| entry.fencing_token),
            Some(guard.fencing_token()),
            "the dead waiters are passed over"
        );
        guard.release().await.expect("the store answers");
        self.queue(0).await;
        step("the queue is empty");
    }

    /// Releases the holder's lock, checks that the next member is granted it, and returns the new fencing
    /// token.
    async fn hand_over(&mut self, holder: usize, next: usize, fencing_token: u64) -> u64 {
        let member = match self.members.get_mut(holder) {
            Some(member) => member,
            None => &mut self.holders[holder - MEMBERS],
        };
        member.release().await;
        let mut granted = None;
        let mut released = false;
        while granted.is_none() || !released {
            match self.next_event().await {
                (member, Report::Released(true)) if member == holder && !released => released = true,
                (member, Report::Granted(fencing_token)) if member == next => granted = Some(fencing_token),
                other => panic!("{other:?}, when {holder} released and {next} was next"),
            }
        }
        let granted = granted.unwrap_or_default();
        assert!(granted > fencing_token, "tokens rise: {granted} after {fencing_token}");
        granted
    }

    /// Waits until this many claims are in the queue, and returns them.
    async fn queue(&self, size: usize) -> Vec<Entry> {
        let until = Instant::now() + JOINED;
        loop {
            let asked = Instant::now();
            let queue = self.manager.inspect(&self.name).await.expect("inspect answers");
            let holding = queue.iter().filter(|entry| entry.held).count();
            assert!(holding <= 1, "a mutex has {holding} holders");
            if queue.len() == size {
                return queue;
            }
            assert!(Instant::now() < until, "{} claims are in the queue, not {size}", queue.len());
            // Listing a long queue is expensive. A pause of twice its cost leaves the store time for the
            // crowd.
            tokio::time::sleep(asked.elapsed().clamp(Duration::from_millis(10), Duration::from_secs(1)) * 2)
                .await;
        }
    }
}

async fn manager(url: &str, lease: Duration) -> LockManager {
    let locks = Options::new().lease(lease);
    let options = ManagerOptions::new().locks(locks);
    LockManager::connect_with(url, options).await.expect("the store answers")
}

fn ids(queue: &[Entry]) -> Vec<globallock::backend::ClaimId> {
    queue.iter().map(|entry| entry.id.expect("all claims are ours")).collect()
}

/// An owner of another lock, which has nothing to do with the crowd.
struct Unrelated {
    running: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

/// Acquires and releases a lock of another name again and again, and reports a round that takes longer than a
/// lease.
async fn use_unrelated(
    url: String,
    lease: Duration,
    stalls: Arc<Stalls>,
    failures: mpsc::UnboundedSender<String>,
) -> Unrelated {
    let running = Arc::new(AtomicBool::new(true));
    let goes_on = Arc::clone(&running);
    let manager = manager(&url, lease).await;
    let lock = manager.mutex(format!("unrelated-{}", std::process::id()));
    let task = tokio::spawn(async move {
        let mut rounds = 0;
        while goes_on.load(Ordering::SeqCst) {
            let (from, stalled) = (Instant::now(), stalls.total());
            let round = async { lock.acquire().await?.release().await };
            let failed = match tokio::time::timeout(JOINED, round).await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("it is not served".to_owned()),
            };
            let took = from.elapsed().saturating_sub(stalls.total() - stalled);
            let late = (took > lease).then(|| format!("it took {took:?}"));
            if let Some(what) = failed.or(late) {
                let _ = failures.send(format!("an unrelated lock: {what}"));
                break;
            }
            rounds += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        rounds
    });
    Unrelated { running, task }
}

impl Unrelated {
    async fn finish(self) -> u64 {
        self.running.store(false, Ordering::SeqCst);
        self.task.await.expect("it does not panic")
    }
}

/// Measures how long this process was ready but did not run. The limits do not count that time, because no
/// store can do better on a machine that stalls.
struct Stalls {
    /// The sum, in microseconds.
    total: AtomicU64,
}

impl Stalls {
    fn watch() -> Arc<Self> {
        let stalls = Arc::new(Stalls { total: AtomicU64::new(0) });
        let watched = Arc::downgrade(&stalls);
        std::thread::spawn(move || {
            let pause = Duration::from_millis(20);
            let mut before = Instant::now();
            while let Some(stalls) = watched.upgrade() {
                std::thread::sleep(pause);
                let gap = before.elapsed().saturating_sub(pause);
                before = Instant::now();
                // Shorter gaps are normal scheduling.
                if gap > pause {
                    stalls.total.fetch_add(u64::try_from(gap.as_micros()).unwrap_or(0), Ordering::SeqCst);
                }
            }
        });
        stalls
    }

    fn total(&self) -> Duration {
        Duration::from_micros(self.total.load(Ordering::SeqCst))
    }
}

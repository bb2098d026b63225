//! A crowd of waiters on one name: what it must not cost the others, alive and dead.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use globallock::{Entry, LockManager, ManagerOptions, Options};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::child::Told;
use crate::member::{Member, Wish};

/// How many wait in the end.
pub const SIZE: usize = 10_000;
/// How many processes they share.
const MEMBERS: usize = 4;
/// How many claims of each member stand in front of the second holder, and have the lock in turn.
const FIRST: usize = 2;
/// How much later than a lease after its end a claim is gone: servers look now and then, and take out 10,000 at once.
const TICK: Duration = Duration::from_secs(2);
/// How long it may take until all wait.
const JOINED: Duration = Duration::from_secs(90);
/// The number of the holders in what they tell, behind those of the crowd.
const HOLDERS: [usize; 2] = [MEMBERS, MEMBERS + 1];

/// Has [`SIZE`] waiters in a few processes wait for one name with leases of that length, and kills them all.
///
/// Meanwhile the holder, which is a process of its own, must not lose its lock; nobody may fall out of the queue, or out
/// of its order; another name must stay usable; and `inspect` must answer. Releases reach those next in order. A lease
/// and a tick after the death of all, the lock must be free for a newcomer. Without a program the crowd is made of
/// tasks, which give up instead of dying.
///
/// # Panics
/// When one of that was not so.
///
/// # Cancel safety
/// The processes end with the call.
pub async fn crowd(url: &str, program: Option<PathBuf>, lease: Duration) {
    let (bad, mut told_bad) = mpsc::unbounded_channel();
    let watch = Watch::start();
    let unrelated = use_unrelated(url.to_owned(), lease, Arc::clone(&watch), bad.clone()).await;
    let mut crowd = Crowd::new(url, program, lease, watch, bad).await;
    tokio::select! {
        biased;
        what = told_bad.recv() => panic!("{}", what.expect("the crowd can tell")),
        () = crowd.lives_and_dies() => {}
    }
    drop(crowd);
    let rounds = unrelated.finish().await;
    // What was told at the very end.
    if let Ok(what) = told_bad.try_recv() {
        panic!("{what}");
    }
    assert!(rounds > 0, "another name stays usable");
    println!("{rounds} rounds of an unrelated lock");
}

/// What a member, by its number, tells.
type Event = (usize, Told);

/// The members and what is known of them.
struct Crowd {
    manager: LockManager,
    url: String,
    name: String,
    program: Option<PathBuf>,
    lease: Duration,
    watch: Arc<Watch>,
    members: Vec<Member>,
    holders: Vec<Member>,
    events: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
    bad: mpsc::UnboundedSender<String>,
}

impl Crowd {
    async fn new(
        url: &str,
        program: Option<PathBuf>,
        lease: Duration,
        watch: Arc<Watch>,
        bad: mpsc::UnboundedSender<String>,
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
            watch,
            members,
            holders,
            events,
            bad,
        }
    }

    /// Starts a member, and returns once it is connected.
    async fn start(&mut self, number: usize) -> Member {
        let (url, name, label) = (self.url.clone(), self.name.clone(), number.to_string());
        let wish = Wish { url, name, label, lease: self.lease };
        let (events, bad) = (self.events.0.clone(), self.bad.clone());
        let tell = move |told| {
            // Whoever does not listen any more has seen enough.
            let _ = match told {
                Told::Lost(_) | Told::Failed(_) => bad.send(format!("member {number} says {told:?}")).is_ok(),
                told => events.send((number, told)).is_ok(),
            };
        };
        let member = match &self.program {
            Some(program) => Member::process(program, &wish, tell),
            None => Member::task(&wish, tell),
        };
        assert_eq!(self.told().await, (number, Told::Asking));
        member
    }

    async fn told(&mut self) -> (usize, Told) {
        self.events.1.recv().await.expect("this end is kept as well")
    }

    async fn lives_and_dies(&mut self) {
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
        let (mut holds, Told::Granted(mut fencing_token)) = self.told().await else {
            panic!("nobody has the lock")
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
        assert_eq!(ids(&first), ids(&all[..first.len()]), "nobody gets in front of those who were there");

        for entry in &first[1..] {
            let next = entry.owner.label.as_deref().and_then(|label| label.parse().ok());
            let next = next.expect("a member's number");
            fencing_token = self.hand_over(holds, next, fencing_token).await;
            holds = next;
        }
        assert_eq!(holds, HOLDERS[1]);
        step("handed over");
        let all = &all[first.len() - 1..];
        assert_eq!(ids(all), ids(&self.queue(1 + size).await), "the queue behind those who had the lock");
        tokio::time::sleep_until((Instant::now() + self.lease * 2).into()).await;
        assert_eq!(ids(all), ids(&self.queue(1 + size).await), "nobody falls out of the order of joining");
        step("two leases later");

        for member in self.members.drain(..) {
            member.kill().await;
        }
        let (killed, still) = (Instant::now(), self.watch.still());
        step("all killed");
        let lock = self.manager.mutex(&self.name).expect("a good name");
        let newcomer = tokio::spawn(async move { lock.acquire().await });
        tokio::time::sleep_until((killed + self.lease / 2).into()).await;
        self.holders[1].release().await;
        assert_eq!(self.told().await, (HOLDERS[1], Told::Released(true)), "it held until now");
        let limit = self.lease + TICK;
        let granted = tokio::time::timeout(JOINED, newcomer).await;
        let took = killed.elapsed().saturating_sub(self.watch.still() - still);
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
            "the dead are passed"
        );
        guard.release().await.expect("the store answers");
        self.queue(0).await;
        step("the queue is empty");
    }

    /// Has the holder release, and sees who is granted the lock.
    async fn hand_over(&mut self, holder: usize, next: usize, fencing_token: u64) -> u64 {
        let member = match self.members.get_mut(holder) {
            Some(member) => member,
            None => &mut self.holders[holder - MEMBERS],
        };
        member.release().await;
        let mut granted = None;
        let mut released = false;
        while granted.is_none() || !released {
            match self.told().await {
                (member, Told::Released(true)) if member == holder && !released => released = true,
                (member, Told::Granted(fencing_token)) if member == next => granted = Some(fencing_token),
                other => panic!("{other:?}, when {holder} released and {next} was next"),
            }
        }
        let granted = granted.unwrap_or_default();
        assert!(granted > fencing_token, "tokens rise: {granted} after {fencing_token}");
        granted
    }

    /// Waits until so many are in the queue.
    async fn queue(&self, size: usize) -> Vec<Entry> {
        let until = Instant::now() + JOINED;
        loop {
            let asked = Instant::now();
            let queue = self.manager.inspect(&self.name).await.expect("inspect answers");
            let holding = queue.iter().filter(|entry| entry.held).count();
            assert!(holding <= 1, "{holding} hold a mutex");
            if queue.len() == size {
                return queue;
            }
            assert!(Instant::now() < until, "{} are in the queue, and not {size}", queue.len());
            // A long queue costs something to list, which shall not be what the store does most.
            tokio::time::sleep(asked.elapsed().clamp(Duration::from_millis(10), Duration::from_secs(1)) * 2)
                .await;
        }
    }
}

async fn manager(url: &str, lease: Duration) -> LockManager {
    let locks = Options { lease, ..Options::default() };
    let options = ManagerOptions { locks, ..ManagerOptions::default() };
    LockManager::connect_with(url, options).await.expect("the store answers")
}

fn ids(queue: &[Entry]) -> Vec<globallock::backend::ClaimId> {
    queue.iter().map(|entry| entry.id.expect("all claims are ours")).collect()
}

/// Somebody who has nothing to do with the crowd.
struct Unrelated {
    goes_on: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

/// Takes and gives back a lock of another name, again and again, and tells when that takes longer than a lease.
async fn use_unrelated(
    url: String,
    lease: Duration,
    watch: Arc<Watch>,
    bad: mpsc::UnboundedSender<String>,
) -> Unrelated {
    let goes_on = Arc::new(AtomicBool::new(true));
    let go_on = Arc::clone(&goes_on);
    let manager = manager(&url, lease).await;
    let lock = manager.mutex(format!("unrelated-{}", std::process::id())).expect("a good name");
    let task = tokio::spawn(async move {
        let mut rounds = 0;
        while go_on.load(Ordering::SeqCst) {
            let (from, still) = (Instant::now(), watch.still());
            let round = async { lock.acquire().await?.release().await };
            let failed = match tokio::time::timeout(JOINED, round).await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("it is not served".to_owned()),
            };
            let took = from.elapsed().saturating_sub(watch.still() - still);
            let late = (took > lease).then(|| format!("it took {took:?}"));
            if let Some(what) = failed.or(late) {
                let _ = bad.send(format!("an unrelated lock: {what}"));
                break;
            }
            rounds += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        rounds
    });
    Unrelated { goes_on, task }
}

impl Unrelated {
    async fn finish(self) -> u64 {
        self.goes_on.store(false, Ordering::SeqCst);
        self.task.await.expect("it goes on")
    }
}

/// Sees how long this process did not run though it wanted to: limits are compared with the time that was there.
struct Watch {
    /// In microseconds.
    still: AtomicU64,
}

impl Watch {
    fn start() -> Arc<Self> {
        let watch = Arc::new(Watch { still: AtomicU64::new(0) });
        let seen = Arc::downgrade(&watch);
        std::thread::spawn(move || {
            let pause = Duration::from_millis(20);
            let mut before = Instant::now();
            while let Some(watch) = seen.upgrade() {
                std::thread::sleep(pause);
                let gap = before.elapsed().saturating_sub(pause);
                before = Instant::now();
                // Less is how threads always take turns.
                if gap > pause {
                    watch.still.fetch_add(u64::try_from(gap.as_micros()).unwrap_or(0), Ordering::SeqCst);
                }
            }
        });
        watch
    }

    fn still(&self) -> Duration {
        Duration::from_micros(self.still.load(Ordering::SeqCst))
    }
}

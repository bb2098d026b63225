//! Locks that are held and waited for while a fault lasts that must not end them.

use std::io::{Error, Result};
use std::time::{Duration, Instant};

use globallock::{Guard, LockManager, ManagerOptions, Options};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::context::lock_of;
use crate::pauses::Pauses;
use crate::proxy::Proxy;

/// The names, what holds each of them, and what waits for it.
const LOCKS: [(&str, &str, &str); 3] =
    [("held-mutex", "mutex", "mutex"), ("held-shared", "read", "write"), ("held-permits", "1/2", "2/2")];
/// How long locks may take to be taken before the fault, and to be handed over after it.
const LIMIT: Duration = Duration::from_secs(20);

/// The locks, with a waiter each.
#[derive(Debug)]
pub(super) struct Held {
    manager: LockManager,
    locks: Vec<(&'static str, Guard, Waiter)>,
    since: Instant,
    pauses: Pauses,
    lease: Duration,
    /// What should not have happened.
    wrong: Vec<String>,
}

type Waiter = JoinHandle<globallock::Result<Guard>>;

/// Where the proxies listen.
pub(super) fn hosts(proxies: &[Proxy]) -> Vec<String> {
    proxies.iter().map(|proxy| proxy.address().to_string()).collect()
}

/// A manager whose locks have this lease.
pub(super) async fn connect(url: &str, lease: Duration) -> Result<LockManager> {
    let options = ManagerOptions::new().locks(Options::new().lease(lease)).label("held");
    LockManager::connect_with(url, options).await.map_err(Error::other)
}

/// Whether an owner is granted a lock, which it releases again.
pub(super) async fn takes_a_lock(manager: &LockManager) -> bool {
    let until = Instant::now() + LIMIT;
    while Instant::now() < until {
        // A password that has just been changed is refused until its file is read again.
        if let Ok(granted) = manager.mutex("taken").wait(LIMIT).acquire().await {
            return granted.release().await.is_ok();
        }
        sleep(Duration::from_millis(20)).await;
    }
    false
}

impl Held {
    /// Takes the locks, and waits until each has its waiter.
    pub(super) async fn take(url: &str, lease: Duration) -> Result<Self> {
        let pauses = Pauses::watch();
        let manager = connect(url, lease).await?;
        let mut locks = Vec::new();
        for (name, holds, waits) in LOCKS {
            let [holds, waits] = [holds, waits].map(|kind| lock_of(&manager, name, kind));
            let guard = holds.map_err(Error::other)?.wait(LIMIT).acquire().await.map_err(Error::other)?;
            let waits = waits.map_err(Error::other)?;
            locks.push((name, guard, tokio::spawn(async move { waits.acquire().await })));
        }
        let until = Instant::now() + LIMIT;
        for (name, ..) in LOCKS {
            while manager.inspect(name).await.map_err(Error::other)?.len() < 2 {
                if Instant::now() > until {
                    return Err(Error::other(format!("{name} has no waiter")));
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(Held { manager, locks, since: Instant::now(), pauses, lease, wrong: Vec::new() })
    }

    /// Notes what is lost, and who waits no longer.
    pub(super) fn look(&mut self) {
        let Held { locks, wrong, .. } = self;
        for (name, guard, waiter) in locks {
            if !guard.is_held() {
                wrong.push(format!("{name} was lost"));
            }
            if waiter.is_finished() {
                wrong.push(format!("the waiter for {name} waited no longer"));
            }
        }
    }

    /// Releases everything, and sees that the waiters are granted. Returns whether all went well, and what
    /// was seen.
    ///
    /// # Errors
    /// When something was wrong although the machine did not pause for long.
    pub(super) async fn hand_over(mut self) -> Result<(bool, String)> {
        let length = self.since.elapsed();
        for (name, guard, waiter) in self.locks {
            if let Err(error) = guard.release().await {
                self.wrong.push(format!("the release of {name}: {error}"));
            }
            match self.pauses.within(LIMIT, waiter).await {
                None => self.wrong.push(format!("the waiter for {name} was not granted")),
                Some(Err(error)) => self.wrong.push(format!("the waiter for {name}: {error}")),
                Some(Ok(Err(error))) => self.wrong.push(format!("the waiter for {name}: {error}")),
                Some(Ok(Ok(granted))) => drop(granted.release().await),
            }
        }
        self.manager.close().await;
        if self.wrong.is_empty() {
            let (count, is_long) = (LOCKS.len(), length > self.lease);
            return Ok((
                is_long,
                format!("{count} locks were held for {length:.1?}, then their waiters were granted"),
            ));
        }
        let (wrong, paused) = (self.wrong.join(", "), self.pauses.spent());
        let what = format!("{wrong}; the machine paused for {paused:.1?} in all");
        // So long a pause may have cost a renewal its time.
        if paused > self.lease / 4 { Ok((false, what)) } else { Err(Error::other(what)) }
    }
}

/// Whether something was seen in each part of the time.
#[derive(Debug)]
pub(super) struct Parts {
    since: Instant,
    length: Duration,
    seen: [u32; 4],
}

impl Parts {
    pub(super) fn of(length: Duration) -> Self {
        Parts { since: Instant::now(), length, seen: [0; 4] }
    }

    /// Whether the time is over.
    pub(super) fn are_over(&self) -> bool {
        self.since.elapsed() >= self.length
    }

    /// Counts what is seen now.
    pub(super) fn see(&mut self) {
        let part = self.since.elapsed().div_duration_f64(self.length) * self.seen.len() as f64;
        let last = self.seen.len() - 1;
        self.seen[(part as usize).min(last)] += 1;
    }

    pub(super) fn all_seen(&self) -> bool {
        self.seen.iter().all(|seen| *seen > 0)
    }

    pub(super) fn seen(&self) -> [u32; 4] {
        self.seen
    }
}

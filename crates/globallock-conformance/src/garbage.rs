//! Garbage in the place of locks' data, and the use of locks beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures_util::StreamExt;
use globallock::{Error, Lock, LockManager, ManagerOptions, Options};

/// How long one call may take on a busy machine. The store timeout of all locks here is a second.
const LIMIT: Duration = Duration::from_secs(60);
/// The longest text that is shown of an owner: what a store accepts, with all of it escaped.
const MAX_SHOWN: usize = 16 * 1024;

/// Text that controls terminals, or is shown as something else than it is.
const ESCAPES: &str = "\u{1b}]52;c;aGk=\u{7}\u{1b}[2J\u{1b}[31m\r\n\u{202e}\u{2066}\u{9b}1mroot\u{200b}";

/// Two managers, which both use every lock.
pub async fn pair(url: &str) -> [LockManager; 2] {
    // So long a lease that it does not expire in a pause of a busy machine while an owner believes to hold.
    let (wait, store_timeout) = (Some(Duration::from_millis(400)), Some(Duration::from_secs(1)));
    let locks = Options::new().lease(LIMIT / 2).wait(wait).store_timeout(store_timeout);
    let options = ManagerOptions::new().locks(locks);
    let connect =
        || async { LockManager::connect_with(url, options.clone()).await.expect("the store answers") };
    [connect().await, connect().await]
}

/// Whether text that is shown to people cannot control their terminal.
pub fn is_plain(text: &str) -> bool {
    !text.chars().any(|c| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    })
}

fn check_error(label: &str, error: &Error) {
    assert!(is_plain(&error.to_string()), "{label}: {error:?}");
    let known = matches!(
        error,
        Error::TimedOut { .. }
            | Error::Unavailable { .. }
            | Error::FailedPrecondition { .. }
            | Error::PermissionDenied { .. }
    );
    assert!(known, "{label}: {error:?}");
}

/// Takes a lock. `taken` is true while one of the owners holds it.
async fn take(label: &str, lock: &Lock, waits: bool, taken: &AtomicBool) -> bool {
    let acquired = if waits { lock.acquire().await.map(Some) } else { lock.try_acquire().await };
    let guard = match acquired {
        Ok(Some(guard)) => guard,
        Ok(None) => return false,
        Err(error) => {
            check_error(label, &error);
            return false;
        }
    };
    // A guard that is lost already holds nothing.
    if guard.is_held() {
        assert!(!taken.swap(true, Ordering::SeqCst), "{label}: two hold it");
        if let Err(error) = guard.renew().await {
            check_error(label, &error);
        }
        tokio::task::yield_now().await;
        assert!(taken.swap(false, Ordering::SeqCst), "{label}: two held it");
    }
    if let Err(error) = guard.release().await {
        check_error(label, &error);
    }
    true
}

/// Lets two owners use a name that know nothing of the garbage there. Returns whether any of them held a
/// lock.
pub async fn used(label: &str, name: &str, managers: &[LockManager; 2]) -> bool {
    let since = Instant::now();
    let all = async {
        let mut was_held = false;
        for manager in managers {
            match manager.inspect(name).await {
                Ok(queue) => {
                    for entry in queue {
                        let shown = entry.owner.to_string();
                        assert!(is_plain(&shown), "{label}: {shown:?}");
                        assert!(shown.len() <= MAX_SHOWN, "{label}: {} bytes of an owner", shown.len());
                    }
                }
                Err(error) => check_error(label, &error),
            }
        }
        let taken = AtomicBool::new(false);
        for waits in [false, true] {
            let kinds = managers.iter().map(|manager| {
                let write = manager.rwlock(name).write();
                let permits = manager.semaphore(name, 1).permits(1);
                [manager.mutex(name), write, permits]
            });
            let kinds: Vec<[Lock; 3]> = kinds.collect();
            for (one, other) in kinds[0].iter().zip(&kinds[1]) {
                let (one, other) =
                    tokio::join!(take(label, one, waits, &taken), take(label, other, waits, &taken));
                was_held |= one | other;
            }
        }
        let reader = managers[0].rwlock(name).read();
        was_held | take(label, &reader, true, &AtomicBool::new(false)).await
    };
    let was_held = tokio::time::timeout(LIMIT, all).await.unwrap_or_else(|_| panic!("{label}: it hangs"));
    println!("{label}: {} after {:.1?}", if was_held { "held" } else { "not held" }, since.elapsed());
    was_held
}

/// Lists the names in the store. Garbage that is no name must not hide the others.
pub async fn listed(label: &str, manager: &LockManager) -> Vec<String> {
    let all = async { manager.list("").collect::<Vec<_>>().await };
    let all = tokio::time::timeout(LIMIT, all).await.unwrap_or_else(|_| panic!("{label}: list() hangs"));
    let names: Vec<globallock::Name> = all
        .into_iter()
        .map(|listed| listed.map(|summary| summary.name))
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("{label}: {error}"));
    assert!(names.iter().all(|name| is_plain(&format!("{name}"))), "{label}: {names:?}");
    names.iter().map(|name| name.as_str().to_owned()).collect()
}

/// Takes a lock whose garbage has been deleted: no claim of ours may be left in the queue.
pub async fn is_free(label: &str, name: &str, manager: &LockManager) {
    let (wait, store_timeout) = (Some(LIMIT / 2), Some(LIMIT / 2));
    let options = Options::new().lease(Duration::from_secs(1)).wait(wait).store_timeout(store_timeout);
    let lock = manager.mutex(name).with_options(options);
    let guard =
        lock.acquire().await.unwrap_or_else(|error| panic!("{label}: a claim is left behind: {error}"));
    guard.release().await.unwrap();
}

/// Closes the managers. By then each release has been answered, or its lease has expired.
pub async fn close(managers: [LockManager; 2]) {
    for manager in managers {
        tokio::time::timeout(LIMIT, manager.close()).await.expect("closing ends");
    }
}

/// Makes garbage: bytes that are not what they should be.
#[derive(Debug)]
pub struct Garbage {
    /// Where it comes from.
    pub random: Rng,
}

impl Garbage {
    /// The garbage of a seed, always the same.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Garbage { random: Rng::with_seed(seed) }
    }

    /// One of these texts.
    pub fn one_of<'a>(&mut self, texts: &[&'a str]) -> &'a str {
        texts[self.random.usize(..texts.len())]
    }

    /// A number, or garbage in place of one.
    pub fn number(&mut self) -> String {
        let microseconds =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros();
        let known = [
            "0",
            "1",
            "1",
            "1",
            "2",
            "7",
            "-1",
            "",
            "x",
            "1e300",
            "nan",
            "inf",
            "0x10",
            "1.5",
            "4294967295",
            "4294967296",
            "9007199254740993",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551615",
            "99999999999999999999999999999999",
        ];
        match self.random.u32(..8) {
            0 => microseconds.to_string(),
            1 => (microseconds / 1000).to_string(),
            2 => (microseconds / 1000 + 60_000).to_string(),
            3 => (microseconds + 60_000_000).to_string(),
            _ => self.one_of(&known).to_owned(),
        }
    }

    /// So many hexadecimal digits, as a rule.
    pub fn digits(&mut self, count: usize) -> String {
        match self.random.u32(..10) {
            0 => "f".repeat(count),
            1 => "0".repeat(count),
            2 => "not digits".to_owned(),
            _ => (0..count).map(|_| format!("{:x}", self.random.u8(..16))).collect(),
        }
    }

    /// The owner of a claim, as any kind of bytes up to half a megabyte.
    pub fn owner(&mut self) -> Vec<u8> {
        match self.random.u32(..7) {
            0 => Vec::new(),
            1 => ESCAPES.as_bytes().to_vec(),
            2 => serde_json::json!({"host": ESCAPES, "pid": 7, "label": ESCAPES.repeat(50)})
                .to_string()
                .into_bytes(),
            3 => serde_json::json!({"host": "h".repeat(300_000), "label": "\u{1b}".repeat(30_000)})
                .to_string()
                .into_bytes(),
            4 => br#"{"host": 7, "pid": -1, "label": {"a": [[[[[]]]]]}}"#.to_vec(),
            5 => vec![0xff; self.random.usize(..500_000)],
            _ => b"[".repeat(100_000),
        }
    }
}

/// Runs a fixture for many seeds at the same time, and waits for all of them.
pub async fn for_seeds<F: Future<Output = ()> + Send + 'static>(
    seeds: std::ops::Range<u64>,
    fixture: impl Fn(u64) -> F,
) {
    let mut all = tokio::task::JoinSet::new();
    for seed in seeds {
        all.spawn(fixture(seed));
    }
    all.join_all().await;
}

/// Counts the panics of all threads from now on.
pub fn panics() -> Arc<AtomicUsize> {
    let panics = Arc::new(AtomicUsize::new(0));
    let (count, before) = (Arc::clone(&panics), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        count.fetch_add(1, Ordering::SeqCst);
        before(info);
    }));
    panics
}

/// Two managers that many fixtures share.
pub type Pair = Arc<[LockManager; 2]>;

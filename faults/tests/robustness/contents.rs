//! What somebody else has put where the data of locks belongs, and the use of locks among it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures_util::StreamExt;
use globallock::{Error, Lock, LockManager, ManagerOptions, Options};

/// How long one call may take, on a busy machine: all locks here wait for a silent store for a second.
const LIMIT: Duration = Duration::from_secs(60);
/// The longest text that is shown of an owner: what a store bears, and what escapes make of it.
const LONGEST_SHOWN: usize = 16 * 1024;

/// Text that drives terminals, or looks like what it is not.
const ESCAPES: &str = "\u{1b}]52;c;aGk=\u{7}\u{1b}[2J\u{1b}[31m\r\n\u{202e}\u{2066}\u{9b}1mroot\u{200b}";

/// The two who use every lock.
pub(crate) async fn pair(url: &str) -> [LockManager; 2] {
    // The lease is so long that no pause of a busy machine ends it while somebody believes that it has a lock.
    let (wait, store_timeout) = (Some(Duration::from_millis(400)), Some(Duration::from_secs(1)));
    let locks = Options { lease: LIMIT / 2, wait, store_timeout, ..Options::default() };
    let options = ManagerOptions { locks, ..ManagerOptions::default() };
    let connect =
        || async { LockManager::connect_with(url, options.clone()).await.expect("the store answers") };
    [connect().await, connect().await]
}

/// Checks that what is shown to people cannot do anything to their terminal.
pub(crate) fn is_plain(text: &str) -> bool {
    !text.chars().any(|c| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    })
}

fn judge(label: &str, error: &Error) {
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

/// Takes a lock, with a mark that says whether somebody else has it.
async fn take(label: &str, lock: &Lock, waits: bool, taken: &AtomicBool) -> bool {
    let acquired = if waits { lock.acquire().await.map(Some) } else { lock.try_acquire().await };
    let guard = match acquired {
        Ok(Some(guard)) => guard,
        Ok(None) => return false,
        Err(error) => {
            judge(label, &error);
            return false;
        }
    };
    // A guard that is lost at once says so, and holds nothing.
    if guard.is_held() {
        assert!(!taken.swap(true, Ordering::SeqCst), "{label}: two hold it");
        if let Err(error) = guard.renew().await {
            judge(label, &error);
        }
        tokio::task::yield_now().await;
        assert!(taken.swap(false, Ordering::SeqCst), "{label}: two held it");
    }
    if let Err(error) = guard.release().await {
        judge(label, &error);
    }
    true
}

/// Uses a name as two parties would who know nothing of what stands there. Says whether anybody had it.
pub(crate) async fn used(label: &str, name: &str, managers: &[LockManager; 2]) -> bool {
    let since = Instant::now();
    let all = async {
        let mut had = false;
        for manager in managers {
            match manager.inspect(name).await {
                Ok(queue) => {
                    for entry in queue {
                        let shown = entry.owner.to_string();
                        assert!(is_plain(&shown), "{label}: {shown:?}");
                        assert!(shown.len() <= LONGEST_SHOWN, "{label}: {} bytes of an owner", shown.len());
                    }
                }
                Err(error) => judge(label, &error),
            }
        }
        let taken = AtomicBool::new(false);
        for waits in [false, true] {
            let kinds = managers.iter().map(|manager| {
                let write = manager.rwlock(name).unwrap().write();
                let permits = manager.semaphore(name, 1).unwrap().permits(1).unwrap();
                [manager.mutex(name).unwrap(), write, permits]
            });
            let kinds: Vec<[Lock; 3]> = kinds.collect();
            for (one, other) in kinds[0].iter().zip(&kinds[1]) {
                let (one, other) =
                    tokio::join!(take(label, one, waits, &taken), take(label, other, waits, &taken));
                had |= one | other;
            }
        }
        let reader = managers[0].rwlock(name).unwrap().read();
        had | take(label, &reader, true, &AtomicBool::new(false)).await
    };
    let had = tokio::time::timeout(LIMIT, all).await.unwrap_or_else(|_| panic!("{label}: it hangs"));
    println!("{label}: {} after {:.1?}", if had { "had" } else { "not had" }, since.elapsed());
    had
}

/// Lists the names that the store has: what is none hides no other.
pub(crate) async fn listed(label: &str, manager: &LockManager) -> Vec<String> {
    let all = async { manager.names("").collect::<Vec<_>>().await };
    let all = tokio::time::timeout(LIMIT, all).await.unwrap_or_else(|_| panic!("{label}: names() hangs"));
    let names: Vec<globallock::Name> =
        all.into_iter().collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{label}: {error}"));
    assert!(names.iter().all(|name| is_plain(&format!("{name}"))), "{label}: {names:?}");
    names.iter().map(|name| name.as_str().to_owned()).collect()
}

/// Takes a lock whose place has been cleaned: nobody was left behind.
pub(crate) async fn is_free(label: &str, name: &str, manager: &LockManager) {
    let (wait, store_timeout) = (Some(LIMIT / 2), Some(LIMIT / 2));
    let options = Options { lease: Duration::from_secs(1), wait, store_timeout, ..Options::default() };
    let lock = manager.mutex(name).unwrap().with_options(options).unwrap();
    let guard =
        lock.acquire().await.unwrap_or_else(|error| panic!("{label}: somebody is left behind: {error}"));
    guard.release().await.unwrap();
}

/// Ends the connections; what was given up has been answered by then, or its lease is over.
pub(crate) async fn close(managers: [LockManager; 2]) {
    for manager in managers {
        tokio::time::timeout(LIMIT, manager.close()).await.expect("the end comes");
    }
}

/// Makes bytes that are not what they should be.
pub(crate) struct Garbage {
    pub(crate) random: Rng,
}

impl Garbage {
    pub(crate) fn new(seed: u64) -> Self {
        Garbage { random: Rng::with_seed(seed) }
    }

    pub(crate) fn one_of<'a>(&mut self, texts: &[&'a str]) -> &'a str {
        texts[self.random.usize(..texts.len())]
    }

    /// A number, or what stands in the place of one.
    pub(crate) fn number(&mut self) -> String {
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

    /// As many hexadecimal digits, mostly.
    pub(crate) fn digits(&mut self, count: usize) -> String {
        match self.random.u32(..10) {
            0 => "f".repeat(count),
            1 => "0".repeat(count),
            2 => "not digits".to_owned(),
            _ => (0..count).map(|_| format!("{:x}", self.random.u8(..16))).collect(),
        }
    }

    /// Who made a claim, in text of any kind, up to half a megabyte.
    pub(crate) fn owner(&mut self) -> Vec<u8> {
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

/// Runs a fixture for many seeds at once and waits for all of them.
pub(crate) async fn for_seeds<F: Future<Output = ()> + Send + 'static>(
    seeds: std::ops::Range<u64>,
    fixture: impl Fn(u64) -> F,
) {
    let mut all = tokio::task::JoinSet::new();
    for seed in seeds {
        all.spawn(fixture(seed));
    }
    all.join_all().await;
}

/// The managers of many scenes.
pub(crate) type Pair = Arc<[LockManager; 2]>;

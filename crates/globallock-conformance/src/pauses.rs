//! What a busy machine adds to everything: tests compare with the time that it really took.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

/// How far apart the timer's ends are.
const STEP: Duration = Duration::from_millis(10);
/// How late a timer is on an idle machine.
const IDLE: Duration = Duration::from_millis(2);

/// How many times longer leases have to be here for the machine's worst pause not to outlast them: 1, and more where
/// others keep it busy.
///
/// Looks for a fifth of a second, on the caller's thread.
#[must_use]
pub fn busy() -> u32 {
    // What the last minute was like, and what runs now: the load of a minute says nothing of others who have just begun.
    let looks = 20;
    let (mut minute, mut running) = (0.0_f64, 0.0_f64);
    for _ in 0..looks {
        std::thread::sleep(STEP);
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let mut fields = load.split([' ', '/']);
        let mut field =
            |number| fields.nth(number).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        minute = field(0);
        running += field(2) / f64::from(looks);
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    // As many at work as twice the processors is what the build before the tests leaves.
    (minute.max(running) / (2 * processors) as f64).clamp(1.0, 4.0) as u32
}

/// A timer that runs again and again, and counts how late its ends are told.
#[derive(Debug)]
pub struct Pauses {
    spent: Arc<AtomicU64>,
    timer: JoinHandle<()>,
}

impl Pauses {
    /// Begins to count, on the runtime of the caller.
    ///
    /// # Panics
    /// Outside of a runtime.
    #[must_use]
    pub fn watch() -> Self {
        let spent = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&spent);
        let timer = tokio::spawn(async move {
            loop {
                let due = Instant::now() + STEP;
                tokio::time::sleep_until(due.into()).await;
                let late = due.elapsed().saturating_sub(IDLE);
                count.fetch_add(u64::try_from(late.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        Pauses { spent, timer }
    }

    /// How long this process has had to wait for a processor since then: what takes a few steps was held up by no more.
    #[must_use]
    pub fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent.load(Ordering::Relaxed))
    }

    /// Waits for the end of `call`, for `limit` and what the machine has held it up by; `None` if it does not come.
    ///
    /// # Cancel safety
    /// As `call`.
    pub async fn within<F: Future>(&self, limit: Duration, call: F) -> Option<F::Output> {
        let (began, before) = (Instant::now(), self.spent());
        let mut call = std::pin::pin!(call);
        loop {
            let until = began + limit + (self.spent() - before);
            if let Ok(ended) = tokio::time::timeout_at(until.into(), &mut call).await {
                return Some(ended);
            }
            if began + limit + (self.spent() - before) <= Instant::now() {
                return None;
            }
        }
    }
}

impl Drop for Pauses {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

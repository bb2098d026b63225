//! Measures the pauses of a busy machine, so that tests can take them off the times that they check.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

/// The interval of the timer.
const STEP: Duration = Duration::from_millis(10);
/// How late the timer may be on an idle machine.
const IDLE: Duration = Duration::from_millis(2);

/// By what factor leases must be longer on this machine, so that its longest pause does not outlast them: 1,
/// or more where other programs keep it busy.
///
/// Measures for a fifth of a second, on the caller's thread.
#[must_use]
pub fn busy() -> u32 {
    // Both the load of the last minute and the tasks that run now count, because the load of a minute does
    // not show programs that have just started.
    let samples = 20;
    let (mut minute, mut running) = (0.0_f64, 0.0_f64);
    for _ in 0..samples {
        std::thread::sleep(STEP);
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let mut fields = load.split([' ', '/']);
        let mut field =
            |number| fields.nth(number).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        minute = field(0);
        running += field(2) / f64::from(samples);
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    // A load of twice the processors counts as idle, because the build before the tests leaves that much
    // behind.
    (minute.max(running) / (2 * processors) as f64).clamp(1.0, 4.0) as u32
}

/// A repeated timer that adds up how late it fires.
#[derive(Debug)]
pub struct Pauses {
    spent: Arc<AtomicU64>,
    timer: JoinHandle<()>,
}

impl Pauses {
    /// Starts the timer, on the caller's runtime.
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

    /// How long this process has had to wait for a processor since then. An operation of a few steps was
    /// delayed by no more than this.
    #[must_use]
    pub fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent.load(Ordering::Relaxed))
    }

    /// Waits for `call`, for `limit` plus the pauses of the machine meanwhile. `None` if it does not end in
    /// that time.
    ///
    /// # Cancel safety
    /// That of `call`.
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

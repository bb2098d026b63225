//! Which metrics there are: their names, what they measure in, and the values of their labels.

use crate::backend::Claim;
use crate::kind::LockKind;
use crate::loss::Loss;
use crate::observe::{Answer, NotGranted};

/// One metric.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    /// Its name in Prometheus.
    #[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "the other adapter has another name"))]
    pub(crate) prometheus: &'static str,
    /// Its name in OpenTelemetry.
    #[cfg_attr(
        not(feature = "opentelemetry"),
        expect(dead_code, reason = "the other adapter has another name")
    )]
    pub(crate) opentelemetry: &'static str,
    /// What it is.
    pub(crate) help: &'static str,
    /// The upper bounds of its buckets in seconds, if it is a histogram.
    pub(crate) buckets: &'static [f64],
}

impl Metric {
    const fn new(prometheus: &'static str, opentelemetry: &'static str, help: &'static str) -> Self {
        Metric { prometheus, opentelemetry, help, buckets: &[] }
    }

    const fn in_buckets(self, buckets: &'static [f64]) -> Self {
        Metric { buckets, ..self }
    }
}

/// From what nobody notices, over what a request of a user may take, to waits for a job.
const WAITS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
/// From the update of a row to the job of a night.
const HOLDS: &[f64] = &[0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0];
/// A renewal is due when a third of the lease has passed. So that a margin of 6.6 s and one of 2.5 s of the
/// default lease, 10 s, are told apart, each second up to it has a bucket.
const MARGINS: &[f64] =
    &[0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 20.0, 30.0, 60.0];
/// From a push on the same host to a third of the default lease, at which a waiter finds out without a push.
const HAND_OVERS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// From a store on the same host to what a store may be silent for.
const REQUESTS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

pub(crate) const ACQUIRE: Metric = Metric::new(
    "globallock_acquire_seconds",
    "globallock.acquire.duration",
    "How long acquiring took, until it was granted or given up.",
)
.in_buckets(WAITS);
pub(crate) const HOLD: Metric = Metric::new(
    "globallock_hold_seconds",
    "globallock.hold.duration",
    "How long locks were held, until released or lost.",
)
.in_buckets(HOLDS);
pub(crate) const HELD: Metric = Metric::new("globallock_held", "globallock.held", "Locks that are held now.");
pub(crate) const WAITING: Metric =
    Metric::new("globallock_waiting", "globallock.waiting", "Callers that wait for a lock now.");
pub(crate) const MARGIN: Metric = Metric::new(
    "globallock_renew_margin_seconds",
    "globallock.renew.margin",
    "How much later a lock would have been lost when its renewal was confirmed.",
)
.in_buckets(MARGINS);
pub(crate) const RENEW_FAILURES: Metric = Metric::new(
    "globallock_renew_failures_total",
    "globallock.renew.failures",
    "Requests to renew locks that failed.",
);
pub(crate) const LOSSES: Metric =
    Metric::new("globallock_losses_total", "globallock.losses", "Locks that were lost while they were held.");
pub(crate) const HAND_OVER: Metric = Metric::new(
    "globallock_handoff_seconds",
    "globallock.handoff.duration",
    "How long it took from the release of one lock of this process to the grant of its next waiter here.",
)
.in_buckets(HAND_OVERS);
pub(crate) const REQUEST: Metric = Metric::new(
    "globallock_store_request_seconds",
    "globallock.store.request.duration",
    "How long requests to the store took.",
)
.in_buckets(REQUESTS);
pub(crate) const CONNECTED: Metric = Metric::new(
    "globallock_store_connected",
    "globallock.store.connected",
    "1 while the stores of a kind answer, and 0 while one of them does not.",
);
pub(crate) const OUTAGES: Metric = Metric::new(
    "globallock_store_outages_total",
    "globallock.store.outages",
    "How often a store stopped to answer.",
);
pub(crate) const OUTAGE: Metric = Metric::new(
    "globallock_store_outage_seconds",
    "globallock.store.outage.duration",
    "How long a store did not answer, once it did again.",
)
.in_buckets(HOLDS);

/// Every metric.
pub(crate) const METRICS: [Metric; 12] = [
    ACQUIRE,
    HOLD,
    HELD,
    WAITING,
    MARGIN,
    RENEW_FAILURES,
    LOSSES,
    HAND_OVER,
    REQUEST,
    CONNECTED,
    OUTAGES,
    OUTAGE,
];

/// The values of the label `mode`.
pub(crate) const MODES: [&str; 4] = ["mutex", "read", "write", "permits"];

/// Which of the [`MODES`] a claim has.
pub(crate) fn mode(claim: &Claim) -> usize {
    match LockKind::of(claim.permits) {
        LockKind::Mutex => 0,
        LockKind::Read => 1,
        LockKind::Write => 2,
        LockKind::Permits { .. } => 3,
    }
}

/// The values of the label `outcome`.
pub(crate) const OUTCOMES: [&str; 6] = ["granted", "taken", "timeout", "cancelled", "evicted", "error"];

/// Which of the [`OUTCOMES`] that of a grant is.
pub(crate) const GRANTED: usize = 0;

/// Which of the [`OUTCOMES`] that of a claim is that was given up.
pub(crate) fn outcome(why: NotGranted<'_>) -> usize {
    match why {
        NotGranted::Taken => 1,
        NotGranted::TimedOut => 2,
        NotGranted::Cancelled => 3,
        NotGranted::Evicted(_) => 4,
        NotGranted::Failed(_) => 5,
    }
}

/// The values of the label `reason`.
pub(crate) const REASONS: [&str; 5] = ["expired", "held_too_long", "revoked", "evicted", "found_at_release"];

/// Which of the [`REASONS`] that of a loss is that only the release has found.
pub(crate) const FOUND_AT_RELEASE: usize = 4;

/// Which of the [`REASONS`] that of a loss is.
pub(crate) fn reason(loss: &Loss) -> usize {
    match loss {
        Loss::Expired => 0,
        Loss::MaxHold => 1,
        Loss::Revoked => 2,
        Loss::Evicted(_) => 3,
    }
}

/// The values of the label `result`.
pub(crate) const RESULTS: [&str; 5] = ["ok", "unavailable", "denied", "refused", "not_awaited"];

/// Which of the [`RESULTS`] an answer is.
pub(crate) fn result(answer: Answer<'_>) -> usize {
    use crate::error::Error;
    match answer {
        Answer::Given => 0,
        Answer::Failed(Error::Unavailable { .. }) => 1,
        Answer::Failed(Error::PermissionDenied { .. }) => 2,
        Answer::Failed(_) => 3,
        Answer::NotAwaited => 4,
    }
}

//! What the library tells of the lock and its store, as lines.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use globallock::backend::Instant;
use globallock::backend::{Claim, ClaimId};
use globallock::{Event, Observer, StoreNotice, StoreNoticeKind};

use super::outage::Outage;
use super::{Line, info, warning};

/// Says what happens to the lock's store, and knows which claim this program has made.
///
/// What becomes of the lock itself is said where it is acted on.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    claim: Option<ClaimId>,
    outage: Option<Outage>,
    /// How often each notice came, by its text.
    notices: HashMap<String, u32>,
    renewals_failed: u64,
}

/// How many different notices are told apart. Those that come after them are all told.
const NOTICES: usize = 100;

impl Told {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The claim that was made last.
    pub(crate) fn claim(&self) -> Option<ClaimId> {
        self.state().claim
    }

    /// How many renewals have failed.
    pub(crate) fn renewals_failed(&self) -> u64 {
        self.state().renewals_failed
    }

    fn is_made(&self, claim: &Claim) {
        self.state().claim = Some(claim.id);
    }
}

impl State {
    /// The store has failed, at a renewal or another request.
    fn failed(&mut self, error: &globallock::Error, renewal: bool) {
        let is_first = self.outage.is_none();
        let outage = self.outage.get_or_insert_default();
        let is_new = outage.is_new(error);
        if renewal {
            self.renewals_failed += 1;
            outage.count(Instant::now());
        }
        if is_new {
            let what = match (is_first, renewal) {
                (true, false) => "the store does not answer",
                (true, true) => "a renewal failed and is tried again",
                (false, _) => "the store still does not answer",
            };
            warning("store_lost").with("error", error.to_string()).say(format_args!("{what}: {error}"));
        }
    }

    /// The store answers again, or the lock is lost.
    fn ends(&mut self, away: Option<std::time::Duration>) {
        let Some(outage) = self.outage.take() else { return };
        let failures = outage.failures();
        match away {
            Some(away) => warning("store_back")
                .with("away_seconds", away.as_secs_f64())
                .with("renewals_failed", failures)
                .say(outage.back(away)),
            None => {
                if let Some(sum) = outage.sum() {
                    warning("renewals_failed").with("renewals_failed", failures).say(sum);
                }
            }
        }
    }

    fn notice(&mut self, store: &str, notice: &StoreNotice, text: &str) {
        let known = self.notices.len() < NOTICES || self.notices.contains_key(text);
        let times = if known {
            let times = self.notices.entry(text.to_owned()).or_default();
            *times += 1;
            *times
        } else {
            1
        };
        // Told at once, and then at ten times, at a hundred, and so on.
        if times.ilog10() == (times - 1).checked_ilog10().unwrap_or(0) && times != 1 {
            return;
        }
        let line = line_of(notice.kind).with("store", store.to_owned()).with("times", times);
        match times {
            1 => line.say(text),
            times => line.say(format_args!("{text} ({times} times by now)")),
        }
    }
}

/// A line as the kind of notice deserves it.
fn line_of(kind: StoreNoticeKind) -> Line {
    match kind {
        StoreNoticeKind::ConnectionLost
        | StoreNoticeKind::NotConnected
        | StoreNoticeKind::NotHandedOver
        | StoreNoticeKind::EvictionToldLate => info("store_notice"),
        _ => warning("store_notice"),
    }
}

impl Observer for Told {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Waiting { claim, .. } | Event::Granted { claim, .. } => self.is_made(claim),
            Event::StoreLost { error, .. } => self.state().failed(error, false),
            Event::RenewalFailed { error, .. } => self.state().failed(error, true),
            Event::StoreBack { away, .. } => self.state().ends(Some(*away)),
            Event::Lost { .. } => self.state().ends(None),
            Event::ReleaseUnanswered { error, .. } => warning("release_unanswered")
                .say(format_args!("the release was not answered, and the lease frees the lock: {error}")),
            Event::StoreNotice { store, notice, .. } => {
                self.state().notice(store, notice, &event.to_string());
            }
            _ => {}
        }
    }
}

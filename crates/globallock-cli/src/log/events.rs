//! What the library tells of the lock and its store, as lines.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use globallock::backend::ClaimId;
use globallock::backend::Instant;
use globallock::internals::sleep_until_some;
use globallock::{Event, Observer, StoreNotice, StoreNoticeKind};

use tokio::sync::Notify;

use super::outage::Outage;
use super::{Line, info, warning};

/// Says what happens to the lock's store, and knows which claim this program has made.
///
/// What becomes of the lock itself is said where it is acted on.
#[derive(Debug, Default)]
pub(crate) struct Told {
    state: Mutex<State>,
    /// There may be something to tell later.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    claim: Option<ClaimId>,
    granted: bool,
    /// An outage that is told if it lasts: when it began, and why.
    begun: Option<(Instant, String)>,
    outage: Option<Outage>,
    /// How often each notice came, by its text.
    notices: HashMap<String, u32>,
    renewals_failed: u64,
}

/// How long an outage lasts before it is told while the lock is waited for. The end of a shorter one is
/// either a grant, or the failure that this run ends with.
const LASTS: Duration = Duration::from_secs(1);

/// How many different notices are told apart. Those that come after them are all told.
const NOTICES: usize = 100;

impl Told {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The claim that was made last.
    pub(crate) fn claim(&self) -> Option<ClaimId> {
        self.state().claim
    }

    /// How many renewals have failed.
    pub(crate) fn renewals_failed(&self) -> u64 {
        self.state().renewals_failed
    }

    /// Tells of outages that last while the lock is waited for. Never returns.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn outages(&self) {
        loop {
            let begun = self.state().begun.as_ref().map(|(begun, _)| *begun);
            let Some(begun) = begun else {
                self.changed.notified().await;
                continue;
            };
            sleep_until_some(Some(begun + LASTS)).await;
            let lasted = self.state().begun.take_if(|(still, _)| *still == begun);
            if let Some((_, error)) = lasted {
                tell_outage("the store does not answer", &error);
            }
        }
    }

    fn failed(&self, error: &globallock::Error, renewal: bool) {
        self.state().failed(error, renewal);
        self.changed.notify_one();
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
        if !self.granted && (is_first || self.begun.is_some()) {
            let began = self.begun.as_ref().map_or_else(Instant::now, |(began, _)| *began);
            self.begun = Some((began, error.to_string()));
        } else if is_new {
            let what = match (is_first, renewal) {
                (true, false) => "the store does not answer",
                (true, true) => "a renewal failed and is tried again",
                (false, _) => "the store still does not answer",
            };
            tell_outage(what, &error.to_string());
        }
    }

    /// The store answers again, or the lock is lost.
    fn ends(&mut self, away: Option<Duration>) {
        let Some(outage) = self.outage.take() else { return };
        if self.begun.take().is_some() {
            return;
        }
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

fn tell_outage(what: &str, error: &str) {
    warning("store_lost").with("error", error).say(format_args!("{what}: {error}"));
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
            Event::Waiting { claim, .. } => self.state().claim = Some(claim.id),
            Event::Granted { claim, .. } => {
                let mut state = self.state();
                (state.claim, state.granted) = (Some(claim.id), true);
            }
            Event::StoreLost { error, .. } => self.failed(error, false),
            Event::RenewalFailed { error, .. } => self.failed(error, true),
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

//! The first observer: what is sent to `tracing`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::Span;
use tracing::level_filters::LevelFilter;

use super::event::Circle;
use super::{Event, Observer};
use crate::backend::{Claim, ClaimId, StoreNotice, StoreNoticeKind};
use crate::sync::Mutex;

/// Sends events to `tracing`, and keeps a span open while a claim is held.
#[derive(Debug, Default)]
pub(super) struct Tracing {
    held: Mutex<HashMap<ClaimId, Span>>,
    /// Whether there ever was a span: until then nothing is locked for them.
    has_opened: AtomicBool,
}

impl Tracing {
    /// Whether anybody subscribes to spans, and to what happens often.
    pub(super) fn is_detailed() -> bool {
        LevelFilter::current() >= LevelFilter::DEBUG
    }

    fn open(&self, claim: &Claim, fencing_token: u64) {
        let span = tracing::debug_span!("lock", name = %claim.name, fencing_token);
        if !span.is_disabled() {
            self.has_opened.store(true, Ordering::Relaxed);
            self.held.lock().insert(claim.id, span);
        }
    }

    fn close(&self, claim: &Claim) {
        // Those who subscribe may have gone since.
        if self.has_opened.load(Ordering::Relaxed) {
            self.held.lock().remove(&claim.id);
        }
    }
}

impl Observer for Tracing {
    fn event(&self, event: &Event<'_>) {
        let text = event.text();
        match event {
            Event::Asked { claim } => tracing::trace!(name = %claim.name, "{text}"),
            Event::Waiting { claim, place } => tracing::debug!(name = %claim.name, place, "{text}"),
            Event::WaitsForItself { claim, .. } => tracing::debug!(name = %claim.name, "{text}"),
            Event::Deadlock { claim, cycle } => {
                tracing::warn!(name = %claim.name, cycle = %Circle(cycle), "{text}");
            }
            Event::Granted { claim, fencing_token, waited, .. } => {
                self.open(claim, *fencing_token);
                tracing::debug!(name = %claim.name, fencing_token, ?waited, "{text}");
            }
            Event::GivenUp { claim, waited, why, .. } => {
                tracing::debug!(name = %claim.name, ?waited, %why, "{text}");
            }
            Event::Renewed { claim, margin } => tracing::trace!(name = %claim.name, ?margin, "{text}"),
            Event::RenewalFailed { claims, error } => {
                tracing::warn!(%error, claims = claims.len(), "{text}");
            }
            Event::Lost { claim, fencing_token, loss, held } => {
                tracing::warn!(name = %claim.name, fencing_token, %loss, ?held, "{text}");
                self.close(claim);
            }
            Event::Released { claim, fencing_token, held } => {
                tracing::debug!(name = %claim.name, fencing_token, ?held, "{text}");
                self.close(claim);
            }
            Event::Kept { claim, fencing_token, left } => {
                tracing::debug!(name = %claim.name, fencing_token, ?left, "{text}");
            }
            Event::CutShort { claim, fencing_token, left } => {
                tracing::warn!(name = %claim.name, fencing_token, ?left, "{text}");
            }
            Event::LostBeforeRelease { claim, fencing_token } => {
                tracing::warn!(name = %claim.name, fencing_token, "{text}");
            }
            Event::ReleaseFailed { claim, error } | Event::ReleaseUnanswered { claim, error } => {
                tracing::warn!(name = %claim.name, %error, "{text}");
            }
            Event::StoreLost { error } => tracing::warn!(%error, "{text}"),
            Event::StoreBack { store, away } => tracing::info!(store, ?away, "{text}"),
            Event::StoreLeft { store, away } => tracing::debug!(store, ?away, "{text}"),
            // These are many, and told to those that ask for them.
            Event::Request { .. } => {}
            Event::StoreNotice { store, notice } => log_notice(store, notice, text),
        }
    }

    fn wants_deadlocks(&self) -> bool {
        tracing::enabled!(tracing::Level::DEBUG)
    }
}

fn log_notice(store: &str, notice: &StoreNotice, text: &str) {
    let StoreNotice { kind, reason, name, host } = notice;
    let (name, host) = (name.as_ref().map(tracing::field::display), host.as_deref());
    match kind {
        StoreNoticeKind::ConnectionLost => tracing::debug!(store, host, reason, "{text}"),
        StoreNoticeKind::NotConnected => tracing::debug!(store, host, failure = reason, "{text}"),
        StoreNoticeKind::MayLoseClaims | StoreNoticeKind::KnownFaults | StoreNoticeKind::NotShared => {
            tracing::warn!(store, reason, "{text}");
        }
        StoreNoticeKind::NotDeleted | StoreNoticeKind::EvictionNotTold => {
            tracing::warn!(store, name, error = reason, "{text}");
        }
        StoreNoticeKind::NotHandedOver | StoreNoticeKind::EvictionToldLate => {
            tracing::debug!(store, name, error = reason, "{text}");
        }
        StoreNoticeKind::NotWatched => tracing::warn!(store, error = reason, "{text}"),
        StoreNoticeKind::Other => tracing::warn!(store, host, name, reason, "{text}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;
    use std::sync::Arc;

    use super::super::Observers;
    use super::*;
    use crate::backend::EntryKey;
    use crate::name::Name;
    use crate::owner::Owner;
    use crate::waits::Wait;
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Level, Metadata, Subscriber};

    /// What is logged: a line of level and fields for each event.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<String>>>);

    impl Visit for Log {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            if let Some(line) = self.0.lock().last_mut().filter(|_| field.name() != "message") {
                *line += &format!(" {}={value:?}", field.name());
            }
        }
    }

    impl Subscriber for Log {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() <= Level::DEBUG
        }

        fn event(&self, event: &tracing::Event<'_>) {
            self.0.lock().push(event.metadata().level().to_string());
            event.record(&mut self.clone());
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn each_notice_is_logged_at_its_level_with_what_it_says() {
        let log = Log::default();
        let heard = |kind| {
            let notice = StoreNotice::new(kind, "r").with_host("h:1").with_name(Name::new("a").unwrap());
            let event = Event::StoreNotice { store: "s", notice: &notice };
            tracing::subscriber::with_default(log.clone(), || Observers::default().tell(&event));
            log.0.lock().pop().unwrap()
        };
        for (kind, expected) in [
            (StoreNoticeKind::ConnectionLost, "DEBUG store=\"s\" host=\"h:1\" reason=\"r\""),
            (StoreNoticeKind::NotConnected, "DEBUG store=\"s\" host=\"h:1\" failure=\"r\""),
            (StoreNoticeKind::MayLoseClaims, "WARN store=\"s\" reason=\"r\""),
            (StoreNoticeKind::KnownFaults, "WARN store=\"s\" reason=\"r\""),
            (StoreNoticeKind::NotShared, "WARN store=\"s\" reason=\"r\""),
            (StoreNoticeKind::NotDeleted, "WARN store=\"s\" name=\"a\" error=\"r\""),
            (StoreNoticeKind::NotHandedOver, "DEBUG store=\"s\" name=\"a\" error=\"r\""),
            (StoreNoticeKind::EvictionToldLate, "DEBUG store=\"s\" name=\"a\" error=\"r\""),
            (StoreNoticeKind::EvictionNotTold, "WARN store=\"s\" name=\"a\" error=\"r\""),
            (StoreNoticeKind::NotWatched, "WARN store=\"s\" error=\"r\""),
            (StoreNoticeKind::Other, "WARN store=\"s\" host=\"h:1\" name=\"a\" reason=\"r\""),
        ] {
            assert_eq!(heard(kind), expected, "{kind:?}");
        }
    }

    #[test]
    fn a_deadlock_is_a_warning_with_its_circle_and_what_is_uncertain_is_for_those_who_debug() {
        let name = |name| Name::new(name).unwrap();
        let claim = |number, name| Claim::new(ClaimId::new(1, number), name, crate::queue::Permits::MUTEX);
        let (a, b) = (claim(1, name("a")), claim(2, name("b")));
        let owner = |pid| Owner { host: "h".to_owned(), pid: Some(pid), label: None };
        let wait = |claim: &Claim, waiter, blocker| Wait {
            name: claim.name.clone(),
            waiter: owner(waiter),
            claim: EntryKey::new("1"),
            blocker: owner(blocker),
            blocked_by: EntryKey::new("2"),
            is_held: true,
            is_waiter_foreign: false,
            is_blocker_foreign: false,
        };
        let cycle = [wait(&a, 1, 2), wait(&b, 2, 1)];
        let circle =
            "pid 1 on h waits for \"a\", held by pid 2 on h; pid 2 on h waits for \"b\", held by pid 1 on h";
        let log = Log::default();
        for (event, logged, line) in [
            (
                Event::Deadlock { claim: &a, cycle: &cycle },
                format!("WARN name=\"a\" cycle={circle}"),
                format!("a deadlock: owners wait for each other: {circle}"),
            ),
            (
                Event::WaitsForItself { claim: &a, held_by: &a },
                "DEBUG name=\"a\"".to_owned(),
                "a lock is waited for by the task or thread that holds it: \"a\"".to_owned(),
            ),
        ] {
            tracing::subscriber::with_default(log.clone(), || Observers::default().tell(&event));
            assert_eq!((log.0.lock().pop().unwrap(), event.to_string()), (logged, line));
        }
        let wants = || Observers::default().want_deadlocks();
        assert!(!wants() && tracing::subscriber::with_default(log, wants), "where debug is listened to");
    }
}

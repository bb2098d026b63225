//! What observers are told, counted in few time series: what both kinds of metrics share.
//!
//! Labels have few values by construction. All but those of `group` are in one list, and groups are limited.

pub(crate) mod catalogue;
pub(crate) mod groups;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use crate::backend::{Capabilities, Claim};
use crate::observe::{Answer, Event, Observer, Operation};
use crate::sync::Mutex;
use catalogue::{
    ACQUIRE, CONNECTED, FOUND_AT_RELEASE, GRANTED, HAND_OVER, HELD, HOLD, LOSSES, MARGIN, MODES, Metric,
    OUTAGE, OUTAGES, OUTCOMES, REASONS, RENEW_FAILURES, REQUEST, RESULTS, WAITING, mode, outcome, reason,
    result,
};
use groups::{Groups, Map};

/// A label of a time series, and its value.
pub(crate) type Label = (&'static str, Cow<'static, str>);

/// Where time series are made.
pub(crate) trait Registry: Clone + Debug + Send + Sync + 'static {
    type Histogram: Debug + Send + Sync;
    type Counter: Debug + Send + Sync;
    /// A number that goes up and down.
    type Level: Debug + Send + Sync;
    /// Something that is so or not.
    type State: Debug + Send + Sync;

    /// Describes all metrics, where that is not part of making them.
    fn describe(&self) {}

    fn histogram(&self, metric: &Metric, labels: Vec<Label>) -> Self::Histogram;
    fn counter(&self, metric: &Metric, labels: Vec<Label>) -> Self::Counter;
    fn level(&self, metric: &Metric, labels: Vec<Label>) -> Self::Level;
    fn state(&self, metric: &Metric, labels: Vec<Label>) -> Self::State;

    fn record(histogram: &Self::Histogram, time: Duration);
    fn count(counter: &Self::Counter);
    fn change(level: &Self::Level, by: i8);
    fn set(state: &Self::State, is_so: bool);
}

/// The metrics of all managers that have one observer in common.
#[derive(Debug)]
pub(crate) struct Counting<R: Registry> {
    shared: Arc<Shared<R>>,
    /// By the kinds of their stores, which are few.
    stores: Mutex<HashMap<&'static str, Arc<OfStore<R>>>>,
}

#[derive(Debug)]
struct Shared<R> {
    registry: R,
    groups: Option<Groups>,
}

impl<R: Registry> Counting<R> {
    pub(crate) fn new(registry: R, groups: Option<Map>) -> Self {
        let groups = groups.map(Groups::new);
        Counting { shared: Arc::new(Shared { registry, groups }), stores: Mutex::default() }
    }

    /// Counts by the groups of this map.
    pub(crate) fn group_by(&self, groups: Map) -> Self {
        Counting::new(self.shared.registry.clone(), Some(groups))
    }

    /// What counts for a manager of this kind of store.
    pub(crate) fn of(&self, store: &Capabilities) -> Arc<dyn Observer> {
        let mut stores = self.stores.lock();
        if stores.is_empty() {
            self.shared.registry.describe();
        }
        let shared = || Arc::new(OfStore::new(Arc::clone(&self.shared), store.kind));
        let store = stores.entry(store.kind).or_insert_with(shared);
        Arc::clone(store) as _
    }
}

/// The metrics of the stores of one kind.
#[derive(Debug)]
struct OfStore<R: Registry> {
    shared: Arc<Shared<R>>,
    kind: &'static str,
    renew_failures: R::Counter,
    outages: R::Counter,
    outage: R::Histogram,
    connected: R::State,
    /// How many managers have a store that does not answer.
    away: Mutex<usize>,
    operations: [OnceLock<[R::Histogram; RESULTS.len()]>; Operation::ALL.len()],
    /// The metrics of locks, without groups.
    locks: OfGroup<R>,
    groups: RwLock<HashMap<Cow<'static, str>, Arc<OfGroup<R>>>>,
}

/// The metrics of the locks of one group, by mode.
#[derive(Debug)]
struct OfGroup<R: Registry> {
    group: Option<Cow<'static, str>>,
    modes: [OnceLock<OfMode<R>>; MODES.len()],
}

#[derive(Debug)]
struct OfMode<R: Registry> {
    acquire: [R::Histogram; OUTCOMES.len()],
    hold: R::Histogram,
    held: R::Level,
    waiting: R::Level,
    margin: R::Histogram,
    losses: [R::Counter; REASONS.len()],
    hand_over: R::Histogram,
}

impl<R: Registry> OfStore<R> {
    /// Makes those series at once that most managers need, so that they are 0 before anything happens and the
    /// first failure is seen as a change. Others come all together with the first use of their mode or
    /// operation, because there would be hundreds of them.
    fn new(shared: Arc<Shared<R>>, kind: &'static str) -> Self {
        let (registry, labels) = (&shared.registry, || vec![("store", kind.into())]);
        let renew_failures = registry.counter(&RENEW_FAILURES, labels());
        let outages = registry.counter(&OUTAGES, labels());
        let outage = registry.histogram(&OUTAGE, labels());
        let connected = registry.state(&CONNECTED, labels());
        R::set(&connected, true);
        let store = OfStore {
            renew_failures,
            outages,
            outage,
            connected,
            away: Mutex::new(0),
            operations: std::array::from_fn(|_| OnceLock::new()),
            locks: OfGroup::new(None),
            groups: RwLock::default(),
            kind,
            shared,
        };
        for operation in [Operation::Enqueue, Operation::Renew, Operation::Release] {
            store.operation(operation);
        }
        if store.shared.groups.is_none() {
            store.locks.mode(0, &store);
        }
        store
    }

    fn operation(&self, operation: Operation) -> &[R::Histogram; RESULTS.len()] {
        self.operations[operation as usize].get_or_init(|| {
            RESULTS.map(|result| {
                let (store, op) = (self.kind.into(), operation.as_str().into());
                let labels = vec![("store", store), ("op", op), ("result", result.into())];
                self.shared.registry.histogram(&REQUEST, labels)
            })
        })
    }

    /// Does something with the metrics of a lock.
    fn of_lock(&self, claim: &Claim, count: impl FnOnce(&OfMode<R>)) {
        let mode = mode(claim);
        let Some(groups) = &self.shared.groups else { return count(self.locks.mode(mode, self)) };
        let group = groups.of(claim.name.as_str());
        let known = self.groups.read().unwrap_or_else(PoisonError::into_inner).get(&group).map(Arc::clone);
        let locks = known.unwrap_or_else(|| {
            let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(groups.entry(group.clone()).or_insert_with(|| Arc::new(OfGroup::new(Some(group)))))
        });
        count(locks.mode(mode, self));
    }

    fn request(&self, operation: Operation, answer: Answer<'_>, took: Duration) {
        R::record(&self.operation(operation)[result(answer)], took);
    }

    /// One store more does not answer, or one less.
    fn note_away(&self, is_away: bool) {
        let mut away = self.away.lock();
        *away = if is_away { *away + 1 } else { away.saturating_sub(1) };
        R::set(&self.connected, *away == 0);
    }
}

impl<R: Registry> Observer for OfStore<R> {
    fn event(&self, event: &Event<'_>) {
        match *event {
            Event::Waiting { claim, .. } => self.of_lock(claim, |lock| R::change(&lock.waiting, 1)),
            Event::Granted { claim, waited, was_waiting, handed_over, .. } => self.of_lock(claim, |lock| {
                lock.asked(GRANTED, waited, was_waiting);
                R::change(&lock.held, 1);
                if let Some(took) = handed_over {
                    R::record(&lock.hand_over, took);
                }
            }),
            Event::GivenUp { claim, waited, was_waiting, why } => {
                self.of_lock(claim, |lock| lock.asked(outcome(why), waited, was_waiting));
            }
            Event::Renewed { claim, margin: Some(margin) } => {
                self.of_lock(claim, |lock| R::record(&lock.margin, margin));
            }
            Event::Released { claim, held, .. } => self.of_lock(claim, |lock| lock.ended(held)),
            Event::Lost { claim, ref loss, held, .. } => self.of_lock(claim, |lock| {
                lock.ended(held);
                R::count(&lock.losses[reason(loss)]);
            }),
            Event::LostBeforeRelease { claim, .. } => {
                self.of_lock(claim, |lock| R::count(&lock.losses[FOUND_AT_RELEASE]));
            }
            Event::RenewalFailed { .. } => R::count(&self.renew_failures),
            Event::StoreLost { .. } => {
                R::count(&self.outages);
                self.note_away(true);
            }
            Event::StoreBack { away, .. } => {
                R::record(&self.outage, away);
                self.note_away(false);
            }
            Event::StoreLeft { .. } => self.note_away(false),
            Event::Request { operation, answer, took } => self.request(operation, answer, took),
            Event::Asked { .. }
            | Event::WaitsForItself { .. }
            | Event::Deadlock { .. }
            | Event::Renewed { margin: None, .. }
            | Event::Kept { .. }
            | Event::CutShort { .. }
            | Event::ReleaseFailed { .. }
            | Event::ReleaseUnanswered { .. }
            | Event::StoreNotice { .. } => {}
        }
    }

    fn hears_requests(&self) -> bool {
        true
    }
}

impl<R: Registry> OfGroup<R> {
    fn new(group: Option<Cow<'static, str>>) -> Self {
        OfGroup { group, modes: std::array::from_fn(|_| OnceLock::new()) }
    }

    fn mode(&self, mode: usize, store: &OfStore<R>) -> &OfMode<R> {
        self.modes[mode].get_or_init(|| {
            let registry = &store.shared.registry;
            let group = self.group.iter().map(|group| ("group", group.clone()));
            let labels: Vec<Label> = [("store", store.kind.into()), ("mode", MODES[mode].into())]
                .into_iter()
                .chain(group)
                .collect();
            let with = |label, value: &'static str| {
                labels.iter().cloned().chain([(label, value.into())]).collect::<Vec<Label>>()
            };
            OfMode {
                acquire: OUTCOMES.map(|outcome| registry.histogram(&ACQUIRE, with("outcome", outcome))),
                hold: registry.histogram(&HOLD, labels.clone()),
                held: registry.level(&HELD, labels.clone()),
                waiting: registry.level(&WAITING, labels.clone()),
                margin: registry.histogram(&MARGIN, labels.clone()),
                losses: REASONS.map(|reason| registry.counter(&LOSSES, with("reason", reason))),
                hand_over: registry.histogram(&HAND_OVER, labels.clone()),
            }
        })
    }
}

impl<R: Registry> OfMode<R> {
    /// A claim is not asked for any longer, with this outcome.
    fn asked(&self, outcome: usize, waited: Duration, was_waiting: bool) {
        if was_waiting {
            R::change(&self.waiting, -1);
        }
        R::record(&self.acquire[outcome], waited);
    }

    /// A lock is not held any more.
    fn ended(&self, held: Duration) {
        R::change(&self.held, -1);
        R::record(&self.hold, held);
    }
}

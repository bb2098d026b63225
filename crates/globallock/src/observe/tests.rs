use super::*;
use crate::backend::EntryKey;
use crate::name::Name;
use crate::owner::Owner;
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

#[test]
fn an_event_is_one_line_that_says_what_happened_to_what_and_why() {
    let claim = Claim::new(ClaimId::new(1, 1), Name::new("a\"b").unwrap(), crate::queue::Permits::MUTEX);
    let (loss, held) = (Loss::MaxHold, Duration::ZERO);
    let notice = StoreNotice::new(StoreNoticeKind::NotDeleted, "it is full").with_host("h:1");
    let notice = notice.with_name(Name::new("a").unwrap());
    let error = &Error::unavailable("redis://h", "no answer");
    for (event, line) in [
        (Event::StoreLost { error }, "the store does not answer: redis://h is unavailable: no answer"),
        (
            Event::StoreBack { store: "redis://h", away: Duration::from_millis(1234) },
            "the store answers again: redis://h, after 1.2 s",
        ),
        (
            Event::Lost { claim: &claim, fencing_token: 1, loss, held },
            r#"a lock is lost: "a\"b": it was held for its max hold time"#,
        ),
        (
            Event::StoreNotice { store: "redis://h", notice: &notice },
            r#"a claim is released but not deleted: redis://h, h:1, "a": it is full"#,
        ),
    ] {
        assert_eq!(event.to_string(), line);
    }
}

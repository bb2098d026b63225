use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use rustix::fs::{FileType, mknodat};
use rustix::io::{FdFlags, fcntl_getfd};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

use super::super::places::Place;
use super::*;
use crate::backend::WaitMode;
use crate::queue::{MAX_CAPACITY, Permits};
use crate::stores::address::Address;

const MUTEX: Permits = Permits { count: 1, capacity: 1 };
const READ: Permits = Permits { count: 1, capacity: MAX_CAPACITY };
const WRITE: Permits = Permits { count: MAX_CAPACITY, capacity: MAX_CAPACITY };

fn permits(count: u32) -> Permits {
    Permits { count, capacity: 3 }
}

/// A directory, and in it the lock "a". Each [`Places`] stands for a process.
struct Fixture {
    place: TempDir,
    directory: Directory,
    lock: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let place = TempDir::new().unwrap();
        let address = Address::parse(&format!("file://{}", place.path().display())).unwrap();
        let directory = Directory::open(address).unwrap();
        let lock = place.path().join("a");
        Fixture { place, directory, lock }
    }

    fn try_enter<'a>(&'a self, ours: &'a Places, how: Enter) -> Entered<'a> {
        Section::enter(&self.directory, &self.lock, how, ours).unwrap()
    }

    fn enter<'a>(&'a self, ours: &'a Places, how: Enter) -> Section<'a> {
        match self.try_enter(ours, how) {
            Entered::Inside(section) => section,
            Entered::Absent => panic!("there is no such lock"),
            Entered::Busy => panic!("somebody else is inside"),
        }
    }

    /// Joins as the owner of `ours`, which keeps the claim.
    fn enqueue(&self, ours: &Places, claim: &Claim) -> Slot {
        let mut section = self.enter(ours, Enter::Make);
        let (slot, file) =
            section.enqueue(claim, "me").unwrap().expect("nobody counts").expect("it may wait");
        ours.insert(claim.id, Place::new(file, self.lock.clone(), slot));
        slot
    }

    /// The queue as its files tell.
    fn files(&self) -> Vec<Slot> {
        let listed = fs::read_dir(&self.lock).into_iter().flatten();
        let names = listed.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut slots: Vec<Slot> = names.map(|name| Slot::parse(&name).expect(&name)).collect();
        slots.sort_unstable();
        slots
    }

    /// Who holds and who waits, in the order of joining, by the numbers of [`claim`].
    fn statuses(&self) -> (Vec<ClaimId>, Vec<ClaimId>) {
        let (held, waiting): (Vec<Slot>, Vec<Slot>) =
            self.files().iter().partition(|slot| slot.granted.is_some());
        let ids = |slots: Vec<Slot>| slots.iter().map(|slot| slot.id).collect();
        (ids(held), ids(waiting))
    }
}

fn shares() -> impl Strategy<Value = Permits> {
    prop::sample::select(vec![MUTEX, READ, WRITE, permits(1), permits(2)])
}

fn claim(number: u64, permits: Permits) -> Claim {
    Claim {
        id: ClaimId::new(7, number),
        name: Name::new("a").unwrap(),
        permits,
        wait_mode: WaitMode::Wait,
        lease: Duration::from_secs(10),
        max_hold: None,
        owner: "me".into(),
    }
}

fn id(number: u64) -> ClaimId {
    ClaimId::new(7, number)
}

fn ids(numbers: &[u64]) -> Vec<ClaimId> {
    numbers.iter().copied().map(id).collect()
}

#[test]
fn a_claim_holds_where_there_is_room_and_waits_behind_others_where_there_is_none() {
    let (fixture, ours) = (Fixture::new(), Places::default());
    let slots = [
        fixture.enqueue(&ours, &claim(1, READ)),
        fixture.enqueue(&ours, &claim(2, READ)),
        fixture.enqueue(&ours, &claim(3, WRITE)),
        fixture.enqueue(&ours, &claim(4, READ)),
    ];
    assert_eq!(slots.map(|slot| slot.granted.is_some()), [true, true, false, false]);
    assert_eq!(fixture.statuses(), (ids(&[1, 2]), ids(&[3, 4])));
    assert!(slots.is_sorted_by(|one, next| one.number < next.number), "tokens rise: {slots:?}");
    let section = fixture.enter(&ours, Enter::Read);
    assert_eq!(section.find(id(2)), Some(slots[1]));
    assert_eq!(section.find(id(5)), None);
    assert_eq!(section.path_of(&slots[1]), fixture.lock.join(slots[1].file()));
    assert!(section.path_of(&slots[1]).exists());
}

#[test]
fn one_that_does_not_wait_takes_what_is_free_or_leaves_nothing_behind() {
    let (fixture, ours) = (Fixture::new(), Places::default());
    let once = |number| Claim { wait_mode: WaitMode::Try, ..claim(number, MUTEX) };
    let slot = fixture.enqueue(&ours, &once(1));
    assert!(slot.granted.is_some());
    assert!(fixture.enter(&ours, Enter::Make).enqueue(&once(2), "me").unwrap().unwrap().is_none());
    assert_eq!(fixture.files(), [slot]);
}

#[test]
fn whoever_leaves_lets_in_those_for_whom_there_is_room_then() {
    let (fixture, ours) = (Fixture::new(), Places::default());
    for (number, permits) in [(1, WRITE), (2, READ), (3, READ), (4, WRITE)] {
        fixture.enqueue(&ours, &claim(number, permits));
    }
    let mut section = fixture.enter(&ours, Enter::Read);
    assert!(!section.release(id(9)).unwrap());
    assert_eq!(fixture.statuses(), (ids(&[1]), ids(&[2, 3, 4])));
    assert!(section.release(id(1)).unwrap());
    assert_eq!(fixture.statuses(), (ids(&[2, 3]), ids(&[4])));
    // A grant is as old as the section that it was made in.
    assert_eq!(fixture.files()[0].granted, Some(section.now()));
    assert!(!section.release(id(1)).unwrap(), "leaving twice is leaving once");
    assert!(section.release(id(2)).unwrap());
    assert_eq!(fixture.statuses(), (ids(&[3]), ids(&[4])), "a reader is left");
    assert!(section.release(id(3)).unwrap());
    assert_eq!(fixture.statuses(), (ids(&[4]), ids(&[])));
}

#[test]
fn one_that_waits_leaves_without_a_look_at_the_others_unless_it_holds_meanwhile() {
    let (fixture, ours) = (Fixture::new(), Places::default());
    fixture.enqueue(&ours, &claim(1, MUTEX));
    let (second, third) =
        (fixture.enqueue(&ours, &claim(2, MUTEX)), fixture.enqueue(&ours, &claim(3, MUTEX)));
    assert!(fixture.enter(&ours, Enter::Unread).leave_waiting(&third).unwrap());
    assert!(!fixture.enter(&ours, Enter::Unread).leave_waiting(&third).unwrap());
    assert_eq!(fixture.statuses(), (ids(&[1]), ids(&[2])));
    fixture.enter(&ours, Enter::Read).release(id(1)).unwrap();
    assert!(!fixture.enter(&ours, Enter::Unread).leave_waiting(&second).unwrap(), "it was granted");
    assert_eq!(fixture.statuses(), (ids(&[2]), ids(&[])));
}

#[test]
fn nothing_stays_but_what_is_no_claim() {
    let (fixture, ours) = (Fixture::new(), Places::default());
    for read in [true, false] {
        let slot = fixture.enqueue(&ours, &claim(1, MUTEX));
        if read {
            assert!(fixture.enter(&ours, Enter::Read).release(id(1)).unwrap());
        } else {
            assert!(fixture.enter(&ours, Enter::Unread).leave_waiting(&slot).unwrap());
        }
        assert!(!fixture.lock.exists());
        assert!(matches!(fixture.try_enter(&ours, Enter::Read), Entered::Absent));
        assert!(matches!(fixture.try_enter(&ours, Enter::Unread), Entered::Absent));
        assert!(!fixture.lock.exists(), "a look makes none");
        ours.remove(id(1));
    }
    drop(fixture.enter(&ours, Enter::Make));
    assert!(!fixture.lock.exists(), "nobody joined");
    fs::create_dir(&fixture.lock).unwrap();
    fs::write(fixture.lock.join("README"), "mine").unwrap();
    drop(fixture.enter(&ours, Enter::Read));
    assert_eq!(fs::read_to_string(fixture.lock.join("README")).unwrap(), "mine");
}

#[test]
fn one_is_inside_at_a_time_until_it_lets_others_in() {
    let (fixture, ours, theirs) = (Fixture::new(), Places::default(), Places::default());
    fixture.enqueue(&ours, &claim(1, MUTEX));
    let section = fixture.enter(&ours, Enter::Read);
    for how in [Enter::Read, Enter::Make, Enter::Unread] {
        assert!(matches!(fixture.try_enter(&theirs, how), Entered::Busy), "{how:?}");
    }
    section.unlock();
    fixture.enqueue(&theirs, &claim(2, MUTEX));
    assert_eq!(fixture.statuses(), (ids(&[1]), ids(&[2])));
    assert_eq!(section.queue.len(), 1, "it looks at what it has read");
}

#[test]
fn a_claim_that_is_put_behind_others_unread_waits_there() {
    let (fixture, ours, theirs) = (Fixture::new(), Places::default(), Places::default());
    fixture.enqueue(&ours, &claim(1, MUTEX));
    fixture.enqueue(&theirs, &claim(2, MUTEX));
    let mut section = fixture.enter(&ours, Enter::Unread);
    assert!(section.queue.is_empty(), "it is not read");
    let (slot, _file) = section.append(&claim(3, MUTEX), "me", false).unwrap().unwrap();
    drop(section);
    assert_eq!(slot.granted, None);
    assert_eq!(fixture.files().last(), Some(&slot));
    assert_eq!(fixture.statuses(), (ids(&[1]), ids(&[2, 3])));
}

#[test]
fn nobody_joins_while_another_counts() {
    let (fixture, ours) = (Fixture::new(), Places::default());
    fixture.enqueue(&ours, &claim(1, READ));
    let counter = fs::File::open(fixture.place.path().join(".fence")).unwrap();
    flock(&counter, FlockOperation::LockExclusive).unwrap();
    assert!(fixture.enter(&ours, Enter::Make).enqueue(&claim(2, READ), "me").unwrap().is_none());
    assert_eq!(fixture.statuses(), (ids(&[1]), ids(&[])));
}

#[test]
fn a_counter_at_its_highest_value_leaves_no_claim_and_disturbs_nobody() {
    let (fixture, ours) = (Fixture::new(), Places::default());
    let counter = fixture.place.path().join(".fence");
    fs::write(&counter, (u64::MAX - 1).to_string()).unwrap();
    let last = fixture.enqueue(&ours, &claim(1, READ));
    assert_eq!((last.number, last.granted.is_some()), (u64::MAX, true));
    for permits in [READ, WRITE] {
        let error = fixture.enter(&ours, Enter::Make).enqueue(&claim(2, permits), "me").unwrap_err();
        assert!(error.to_string().contains("no higher number"), "{error}");
    }
    assert_eq!(fixture.files(), [last]);
    // What the error advises, while the highest is still in use.
    fs::remove_file(&counter).unwrap();
    assert!(fixture.enter(&ours, Enter::Make).enqueue(&claim(2, READ), "me").is_err());
    assert_eq!(fixture.files(), [last]);
    fixture.enter(&ours, Enter::Read).release(id(1)).unwrap();
    ours.remove(id(1));
    assert!(fixture.enqueue(&ours, &claim(3, MUTEX)).granted.is_some());
}

#[test]
fn a_counter_that_is_lost_lets_nobody_in_front_of_those_who_are_there() {
    for (unread, lost) in [(false, ""), (true, ""), (false, "00000000000000000007"), (true, "garbage")] {
        let (fixture, ours, theirs) = (Fixture::new(), Places::default(), Places::default());
        // A clock that was ahead when they joined, and was set back.
        let counter = fixture.place.path().join(".fence");
        fs::write(&counter, "09000000000000000000").unwrap();
        let first = fixture.enqueue(&ours, &claim(1, MUTEX));
        fs::write(&counter, lost).unwrap();
        let next = if unread {
            let mut section = fixture.enter(&ours, Enter::Unread);
            section.append(&claim(2, MUTEX), "me", false).unwrap().unwrap().0
        } else {
            fixture.enqueue(&theirs, &claim(2, MUTEX))
        };
        assert!(next.number > first.number, "{lost:?}: {next:?}");
        assert_eq!(fixture.enter(&ours, Enter::Read).find(id(1)), Some(first));
        assert_eq!(fixture.files()[0], first, "{lost:?}: it still holds");
        assert!(
            fixture.files().iter().skip(1).all(|slot| slot.granted.is_none()),
            "{lost:?}: nobody else does"
        );
    }
}

#[test]
fn a_dead_claim_behind_a_living_one_is_taken_out_and_holds_up_nobody() {
    // The second, which is too large, dies while it waits; there is room for the third beside the first.
    let (fixture, ours, theirs) = (Fixture::new(), Places::default(), Places::default());
    fixture.enqueue(&ours, &claim(1, permits(1)));
    fixture.enqueue(&theirs, &claim(2, permits(3)));
    fixture.enqueue(&ours, &claim(3, permits(1)));
    assert_eq!(fixture.statuses(), (ids(&[1]), ids(&[2, 3])));
    theirs.remove(id(2));
    drop(fixture.enter(&ours, Enter::Read));
    assert_eq!(fixture.statuses(), (ids(&[1, 3]), ids(&[])));
}

#[test]
fn all_the_dead_between_two_who_live_are_taken_out() {
    let (fixture, ours, theirs) = (Fixture::new(), Places::default(), Places::default());
    fixture.enqueue(&ours, &claim(1, WRITE));
    for number in 2..6 {
        fixture.enqueue(&theirs, &claim(number, WRITE));
    }
    fixture.enqueue(&ours, &claim(6, WRITE));
    fixture.enqueue(&ours, &claim(7, WRITE));
    for number in 2..6 {
        theirs.remove(id(number));
    }
    assert!(fixture.enter(&ours, Enter::Read).release(id(1)).unwrap());
    assert_eq!(fixture.statuses(), (ids(&[6]), ids(&[7])));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_living_hold_as_if_the_dead_had_never_joined(
        claims in prop::collection::vec((shares(), any::<bool>()), 1..8),
    ) {
        let (fixture, ours, theirs) = (Fixture::new(), Places::default(), Places::default());
        let mut living = Vec::new();
        for (number, (permits, lives)) in (1..).zip(&claims) {
            fixture.enqueue(if *lives { &ours } else { &theirs }, &claim(number, *permits));
            if *lives {
                living.push((id(number), *permits));
            }
        }
        for (id, _) in theirs.all() {
            theirs.remove(id);
        }
        for entered in [&ours, &theirs] {
            let seen = matches!(fixture.try_enter(entered, Enter::Read), Entered::Inside(_));
            prop_assert!(seen || living.is_empty());
            let holding = admit(living.iter().map(|(_, permits)| *permits));
            let holders: Vec<ClaimId> = living[..holding].iter().map(|(id, _)| *id).collect();
            let (held, waiting) = fixture.statuses();
            prop_assert_eq!(held, holders);
            for (id, _) in &living[holding..] {
                prop_assert!(waiting.contains(id), "the living stay in the queue");
            }
        }
    }
}

#[test]
fn a_hold_is_over_at_its_end_and_no_earlier_whether_its_owner_lives_or_not() {
    let (fixture, ours) = (Fixture::new(), Places::default());
    let limited = Claim { max_hold: Some(Duration::from_secs(60)), ..claim(1, MUTEX) };
    let slot = fixture.enqueue(&ours, &limited);
    let end = slot.hold_ends().unwrap();
    assert_eq!(end, slot.granted.unwrap() + 60_000);
    let waiting = fixture.enqueue(&ours, &Claim { max_hold: limited.max_hold, ..claim(2, MUTEX) });
    let mut section = fixture.enter(&ours, Enter::Read);
    for (now, alive) in [(end - 1, true), (end, false), (end + 1, false)] {
        section.now = now;
        assert_eq!(section.is_alive(&slot), alive, "{}", now.abs_diff(end));
        assert!(section.is_alive(&waiting), "its time begins with its grant");
    }
    section.settle().unwrap();
    assert_eq!(section.find(id(1)), None);
    assert_eq!(section.find(id(2)).unwrap().granted, Some(end + 1), "the next one's begins now");
}

#[test]
fn a_claim_lives_as_long_as_its_file_is_locked() {
    let (fixture, ours, theirs) = (Fixture::new(), Places::default(), Places::default());
    let slot = fixture.enqueue(&theirs, &claim(1, MUTEX));
    let path = fixture.lock.join(slot.file());
    let section = fixture.enter(&ours, Enter::Read);
    assert!(section.is_alive(&slot));
    assert!(section.is_alive(&slot), "to have looked ends nothing");
    assert!(fcntl_getfd(section.open(&slot).unwrap()).unwrap().contains(FdFlags::CLOEXEC));
    theirs.remove(id(1));
    assert!(!section.is_alive(&slot), "its owner has closed it");
    fs::remove_file(&path).unwrap();
    assert!(!section.is_alive(&slot), "it is not there");
    // What cannot be looked at may be somebody's, and what is in its place is not followed or waited for.
    symlink("/dev/null", &path).unwrap();
    assert!(section.is_alive(&slot), "it is a link");
}

#[test]
fn whoever_waits_watches_those_in_front_that_keep_it_out() {
    let (fixture, ours) = (Fixture::new(), Places::default());
    let shares = [(1, READ), (2, WRITE), (3, READ), (4, READ), (5, WRITE)];
    let slots = shares.map(|(number, permits)| fixture.enqueue(&ours, &claim(number, permits)));
    let section = fixture.enter(&ours, Enter::Read);
    for (waiting, blockers) in [(0, vec![]), (1, vec![0]), (2, vec![1]), (3, vec![1]), (4, vec![3])] {
        let expected: Vec<Slot> = blockers.into_iter().map(|position: usize| slots[position]).collect();
        assert_eq!(section.blockers(&slots[waiting]), expected, "{waiting}");
    }
}

#[test]
fn while_those_in_front_live_a_look_at_them_changes_nothing() {
    let (fixture, ours, theirs) = (Fixture::new(), Places::default(), Places::default());
    let first = fixture.enqueue(&ours, &claim(1, MUTEX));
    let second = fixture.enqueue(&theirs, &claim(2, MUTEX));
    let mine = fixture.enqueue(&ours, &claim(3, MUTEX));
    fixture.enqueue(&theirs, &claim(4, MUTEX));
    theirs.remove(id(4));
    let mut section = fixture.enter(&ours, Enter::Read);
    assert!(section.still_there(&[first, second], &mine).unwrap());
    assert_eq!(fixture.statuses(), (ids(&[1]), ids(&[2, 3, 4])));
}

#[test]
fn those_who_died_together_in_front_of_a_waiter_are_taken_out_together() {
    let (fixture, ours, theirs) = (Fixture::new(), Places::default(), Places::default());
    // Of ours there are the one that holds, one that waits, and the fifth, which looks.
    for (number, of) in
        [(1, &ours), (2, &ours), (3, &theirs), (4, &theirs), (5, &ours), (6, &theirs), (7, &ours)]
    {
        fixture.enqueue(of, &claim(number, MUTEX));
    }
    for number in [3, 4, 6] {
        theirs.remove(id(number));
    }
    let mut section = fixture.enter(&ours, Enter::Read);
    let mine = section.find(id(5)).unwrap();
    let blockers = section.blockers(&mine);
    assert_eq!(blockers.iter().map(|slot| slot.id).collect::<Vec<_>>(), ids(&[4]));
    assert!(!section.still_there(&blockers, &mine).unwrap());
    // Nobody has looked at who is behind it.
    assert_eq!(fixture.statuses(), (ids(&[1]), ids(&[2, 5, 6, 7])));
    assert_eq!(section.queue, fixture.files());
    let blockers = section.blockers(&mine);
    assert_eq!(blockers.iter().map(|slot| slot.id).collect::<Vec<_>>(), ids(&[2]));
    assert!(section.still_there(&blockers, &mine).unwrap());
}

#[test]
fn the_last_of_those_in_front_to_die_lets_the_waiter_in() {
    let (fixture, ours, theirs) = (Fixture::new(), Places::default(), Places::default());
    let first = fixture.enqueue(&theirs, &claim(1, MUTEX));
    let mine = fixture.enqueue(&ours, &claim(2, MUTEX));
    let mut section = fixture.enter(&ours, Enter::Read);
    theirs.remove(id(1));
    assert!(!section.still_there(&[first], &mine).unwrap());
    assert_eq!(fixture.statuses(), (ids(&[2]), ids(&[])));
}

#[test]
fn an_owner_is_shown_as_it_wrote_and_nothing_else_is_read() {
    let (fixture, ours) = (Fixture::new(), Places::default());
    let slot = fixture.enqueue(&ours, &claim(1, MUTEX));
    let path = fixture.lock.join(slot.file());
    let section = fixture.enter(&ours, Enter::Read);
    let (text, written) = section.text(&slot);
    assert_eq!(text, "me");
    assert!(
        written.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap() > Duration::from_secs(1_600_000_000)
    );
    fs::write(&path, "x".repeat(5000)).unwrap();
    assert_eq!(section.text(&slot).0, "x".repeat(4096));
    fs::write(&path, [b'a', 0xff]).unwrap();
    assert_eq!(section.text(&slot).0, "a\u{fffd}");
    let elsewhere = fixture.place.path().join("elsewhere");
    fs::write(&elsewhere, "secret").unwrap();
    for put in [&|| {}, &|| symlink(&elsewhere, &path).unwrap(), &|| fs::create_dir(&path).unwrap(), &|| {
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    }] as [&dyn Fn(); 4]
    {
        let _ = fs::remove_file(&path);
        put();
        assert_eq!(section.text(&slot), (String::new(), None));
        let _ = fs::remove_dir(&path);
    }
}

proptest! {
    #[test]
    fn the_owner_and_the_name_are_read_back_from_a_claims_file(owner in "[^\n]{0,60}", name in "[^\0]{1,60}") {
        let name = Name::new(name).unwrap();
        let text = text_of(&Claim { owner: owner.as_str().into(), name: name.clone(), ..claim(1, MUTEX) });
        prop_assert_eq!(owner_and_name(&text), (owner.as_str(), Some(name)));
    }
}

#[test]
fn a_text_without_a_name_is_an_owner() {
    assert_eq!(owner_and_name(""), ("", None));
    assert_eq!(owner_and_name("{}"), ("{}", None));
    assert_eq!(owner_and_name("{}\n"), ("{}", None));
}

#[test]
fn moments_are_milliseconds_of_the_clock_that_all_processes_share() {
    let clock = || {
        let time = clock_gettime(ClockId::Monotonic);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap()).as_millis()
    };
    let (before, now, after) = (clock(), u128::from(now()), clock());
    assert!(before <= now && now <= after, "{before} {now} {after}");
}

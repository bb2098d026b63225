use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, MemfdFlags, SealFlags, fcntl_add_seals, memfd_create, mknodat};
use rustix::io::{FdFlags, fcntl_getfd};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

use super::super::open_files::OpenFile;
use super::*;
use crate::backend::WaitMode;
use crate::queue::Permits;
use crate::stores::address::Address;

const MUTEX: Permits = Permits::MUTEX;
const READ: Permits = Permits::READ;
const WRITE: Permits = Permits::WRITE;

fn permits(count: u32) -> Permits {
    Permits::new(count, 3)
}

/// A directory with the lock "a". Each [`OpenFiles`] stands for a process.
struct Fixture {
    root: TempDir,
    directory: Directory,
    lock: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        let address = Address::parse(&format!("file://{}", root.path().display())).unwrap();
        let directory = Directory::open(address).unwrap();
        let lock = root.path().join("a");
        Fixture { root, directory, lock }
    }

    fn try_enter<'a>(&'a self, ours: &'a OpenFiles, how: Enter) -> Entered<'a> {
        CriticalSection::enter(&self.directory, &self.lock, how, ours).unwrap()
    }

    fn enter<'a>(&'a self, ours: &'a OpenFiles, how: Enter) -> CriticalSection<'a> {
        match self.try_enter(ours, how) {
            Entered::Inside(section) => section,
            Entered::Absent => panic!("the lock has no directory"),
            Entered::Busy => panic!("another is inside"),
        }
    }

    /// Joins as the process `ours`, which keeps the claim's file open.
    fn enqueue(&self, ours: &OpenFiles, claim: &Claim) -> ClaimFile {
        let mut section = self.enter(ours, Enter::Make);
        let (file, opened) =
            section.enqueue(claim, "me").unwrap().expect("no other task counts").expect("it may wait");
        ours.insert(claim.id, OpenFile::new(opened, self.lock.clone(), file, "me".len()));
        file
    }

    /// The queue, from the names of its files.
    fn files(&self) -> Vec<ClaimFile> {
        let listed = fs::read_dir(&self.lock).into_iter().flatten();
        let names = listed.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<ClaimFile> = names.map(|name| ClaimFile::parse(&name).expect(&name)).collect();
        files.sort_unstable();
        files
    }

    /// The holders and the waiters, in the order of joining.
    fn statuses(&self) -> (Vec<ClaimId>, Vec<ClaimId>) {
        let (held, waiting): (Vec<ClaimFile>, Vec<ClaimFile>) =
            self.files().iter().partition(|file| file.granted.is_some());
        let ids = |files: Vec<ClaimFile>| files.iter().map(|file| file.id).collect();
        (ids(held), ids(waiting))
    }
}

fn any_permits() -> impl Strategy<Value = Permits> {
    prop::sample::select(vec![MUTEX, READ, WRITE, permits(1), permits(2)])
}

fn claim(number: u64, permits: Permits) -> Claim {
    Claim::new(id(number), Name::new("a").unwrap(), permits).with_owner("me")
}

fn id(number: u64) -> ClaimId {
    ClaimId::new(7, number)
}

fn ids(numbers: &[u64]) -> Vec<ClaimId> {
    numbers.iter().copied().map(id).collect()
}

#[test]
fn a_claim_that_fits_holds_and_one_that_does_not_fit_waits() {
    let (fixture, ours) = (Fixture::new(), OpenFiles::default());
    let files = [
        fixture.enqueue(&ours, &claim(1, READ)),
        fixture.enqueue(&ours, &claim(2, READ)),
        fixture.enqueue(&ours, &claim(3, WRITE)),
        fixture.enqueue(&ours, &claim(4, READ)),
    ];
    assert_eq!(files.map(|file| file.granted.is_some()), [true, true, false, false]);
    assert_eq!(fixture.statuses(), (ids(&[1, 2]), ids(&[3, 4])));
    assert!(files.is_sorted_by(|one, next| one.number < next.number), "tokens rise: {files:?}");
    let section = fixture.enter(&ours, Enter::Read);
    assert_eq!(section.find(id(2)), Some(files[1]));
    assert_eq!(section.find(id(5)), None);
    assert_eq!(section.path_of(&files[1]), fixture.lock.join(files[1].file_name()));
    assert!(section.path_of(&files[1]).exists());
}

#[test]
fn a_claim_that_may_not_wait_holds_at_once_or_leaves_no_file() {
    let (fixture, ours) = (Fixture::new(), OpenFiles::default());
    let trying = |number| Claim { wait_mode: WaitMode::Try, ..claim(number, MUTEX) };
    let file = fixture.enqueue(&ours, &trying(1));
    assert!(file.granted.is_some());
    assert!(fixture.enter(&ours, Enter::Make).enqueue(&trying(2), "me").unwrap().unwrap().is_none());
    assert_eq!(fixture.files(), [file]);
}

#[test]
fn a_release_grants_the_claims_that_fit_then() {
    let (fixture, ours) = (Fixture::new(), OpenFiles::default());
    for (number, permits) in [(1, WRITE), (2, READ), (3, READ), (4, WRITE)] {
        fixture.enqueue(&ours, &claim(number, permits));
    }
    let mut section = fixture.enter(&ours, Enter::Read);
    assert!(!section.release(id(9)).unwrap());
    assert_eq!(fixture.statuses(), (ids(&[1]), ids(&[2, 3, 4])));
    assert!(section.release(id(1)).unwrap());
    assert_eq!(fixture.statuses(), (ids(&[2, 3]), ids(&[4])));
    // The moment of a grant is that of its critical section.
    assert_eq!(fixture.files()[0].granted, Some(section.now()));
    assert!(!section.release(id(1)).unwrap(), "a second release finds nothing");
    assert!(section.release(id(2)).unwrap());
    assert_eq!(fixture.statuses(), (ids(&[3]), ids(&[4])), "a reader still holds");
    assert!(section.release(id(3)).unwrap());
    assert_eq!(fixture.statuses(), (ids(&[4]), ids(&[])));
}

#[test]
fn a_waiter_is_released_without_reading_the_queue_unless_it_was_granted() {
    let (fixture, ours) = (Fixture::new(), OpenFiles::default());
    fixture.enqueue(&ours, &claim(1, MUTEX));
    let (second, third) =
        (fixture.enqueue(&ours, &claim(2, MUTEX)), fixture.enqueue(&ours, &claim(3, MUTEX)));
    assert!(fixture.enter(&ours, Enter::Unread).release_waiting(&third).unwrap());
    assert!(!fixture.enter(&ours, Enter::Unread).release_waiting(&third).unwrap());
    assert_eq!(fixture.statuses(), (ids(&[1]), ids(&[2])));
    fixture.enter(&ours, Enter::Read).release(id(1)).unwrap();
    assert!(!fixture.enter(&ours, Enter::Unread).release_waiting(&second).unwrap(), "it was granted");
    assert_eq!(fixture.statuses(), (ids(&[2]), ids(&[])));
}

#[test]
fn a_file_that_has_no_room_for_a_notice_is_emptied() {
    for (seals, told, size) in [(SealFlags::empty(), Ok(()), 0), (SealFlags::SHRINK, Err(Errno::PERM), 4)] {
        let file = memfd_create("claim", MemfdFlags::ALLOW_SEALING).unwrap();
        write_all(&file, b"me\na").unwrap();
        fcntl_add_seals(&file, SealFlags::GROW | seals).unwrap();
        assert_eq!((write_notice(&file, "notice"), fstat(&file).unwrap().st_size), (told, size));
    }
}

#[test]
fn a_locks_directory_is_removed_after_its_last_claim_unless_it_has_other_files() {
    let (fixture, ours) = (Fixture::new(), OpenFiles::default());
    for read in [true, false] {
        let file = fixture.enqueue(&ours, &claim(1, MUTEX));
        if read {
            assert!(fixture.enter(&ours, Enter::Read).release(id(1)).unwrap());
        } else {
            assert!(fixture.enter(&ours, Enter::Unread).release_waiting(&file).unwrap());
        }
        assert!(!fixture.lock.exists());
        assert!(matches!(fixture.try_enter(&ours, Enter::Read), Entered::Absent));
        assert!(matches!(fixture.try_enter(&ours, Enter::Unread), Entered::Absent));
        assert!(!fixture.lock.exists(), "entering to read creates none");
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
fn a_critical_section_excludes_others_until_it_is_unlocked() {
    let (fixture, ours, theirs) = (Fixture::new(), OpenFiles::default(), OpenFiles::default());
    fixture.enqueue(&ours, &claim(1, MUTEX));
    let section = fixture.enter(&ours, Enter::Read);
    for how in [Enter::Read, Enter::Make, Enter::Unread] {
        assert!(matches!(fixture.try_enter(&theirs, how), Entered::Busy), "{how:?}");
    }
    section.unlock();
    fixture.enqueue(&theirs, &claim(2, MUTEX));
    assert_eq!(fixture.statuses(), (ids(&[1]), ids(&[2])));
    assert_eq!(section.queue.len(), 1, "it keeps the queue that it has read");
}

#[test]
fn a_claim_that_is_appended_to_an_unread_queue_waits() {
    let (fixture, ours, theirs) = (Fixture::new(), OpenFiles::default(), OpenFiles::default());
    fixture.enqueue(&ours, &claim(1, MUTEX));
    fixture.enqueue(&theirs, &claim(2, MUTEX));
    let mut section = fixture.enter(&ours, Enter::Unread);
    assert!(section.queue.is_empty(), "the queue is not read");
    let (file, _opened) = section.append(&claim(3, MUTEX), "me", false).unwrap().unwrap();
    drop(section);
    assert_eq!(file.granted, None);
    assert_eq!(fixture.files().last(), Some(&file));
    assert_eq!(fixture.statuses(), (ids(&[1]), ids(&[2, 3])));
}

#[test]
fn no_claim_joins_while_the_counter_is_locked() {
    let (fixture, ours) = (Fixture::new(), OpenFiles::default());
    fixture.enqueue(&ours, &claim(1, READ));
    let counter = fs::File::open(fixture.root.path().join(".fence")).unwrap();
    flock(&counter, FlockOperation::LockExclusive).unwrap();
    assert!(fixture.enter(&ours, Enter::Make).enqueue(&claim(2, READ), "me").unwrap().is_none());
    assert_eq!(fixture.statuses(), (ids(&[1]), ids(&[])));
}

#[test]
fn a_counter_at_its_highest_value_refuses_new_claims_and_keeps_the_others() {
    let (fixture, ours) = (Fixture::new(), OpenFiles::default());
    let counter = fixture.root.path().join(".fence");
    fs::write(&counter, (u64::MAX - 1).to_string()).unwrap();
    let last = fixture.enqueue(&ours, &claim(1, READ));
    assert_eq!((last.number, last.granted.is_some()), (u64::MAX, true));
    for permits in [READ, WRITE] {
        let error = fixture.enter(&ours, Enter::Make).enqueue(&claim(2, permits), "me").unwrap_err();
        assert!(error.to_string().contains("no higher number"), "{error}");
    }
    assert_eq!(fixture.files(), [last]);
    // The error's advice has no effect while the claim with the highest number is in the queue.
    fs::remove_file(&counter).unwrap();
    assert!(fixture.enter(&ours, Enter::Make).enqueue(&claim(2, READ), "me").is_err());
    assert_eq!(fixture.files(), [last]);
    fixture.enter(&ours, Enter::Read).release(id(1)).unwrap();
    ours.remove(id(1));
    assert!(fixture.enqueue(&ours, &claim(3, MUTEX)).granted.is_some());
}

#[test]
fn after_a_lost_counter_a_new_claim_is_still_behind_the_others() {
    for (unread, lost) in [(false, ""), (true, ""), (false, "00000000000000000007"), (true, "garbage")] {
        let (fixture, ours, theirs) = (Fixture::new(), OpenFiles::default(), OpenFiles::default());
        // The clock was ahead when the first claim joined, and was set back since.
        let counter = fixture.root.path().join(".fence");
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
            fixture.files().iter().skip(1).all(|file| file.granted.is_none()),
            "{lost:?}: no other claim holds"
        );
    }
}

#[test]
fn a_dead_claim_behind_a_live_one_is_removed_and_blocks_nobody() {
    // The second claim is too large to hold beside the first, and dies while it waits. The third fits.
    let (fixture, ours, theirs) = (Fixture::new(), OpenFiles::default(), OpenFiles::default());
    fixture.enqueue(&ours, &claim(1, permits(1)));
    fixture.enqueue(&theirs, &claim(2, permits(3)));
    fixture.enqueue(&ours, &claim(3, permits(1)));
    assert_eq!(fixture.statuses(), (ids(&[1]), ids(&[2, 3])));
    theirs.remove(id(2));
    drop(fixture.enter(&ours, Enter::Read));
    assert_eq!(fixture.statuses(), (ids(&[1, 3]), ids(&[])));
}

#[test]
fn all_dead_claims_between_two_live_ones_are_removed() {
    let (fixture, ours, theirs) = (Fixture::new(), OpenFiles::default(), OpenFiles::default());
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
    fn live_claims_hold_as_if_the_dead_ones_had_never_joined(
        claims in prop::collection::vec((any_permits(), any::<bool>()), 1..8),
    ) {
        let (fixture, ours, theirs) = (Fixture::new(), OpenFiles::default(), OpenFiles::default());
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
                prop_assert!(waiting.contains(id), "live claims stay in the queue");
            }
        }
    }
}

#[test]
fn a_max_hold_time_ends_a_claim_at_its_end_and_no_earlier_even_if_the_owner_lives() {
    let (fixture, ours) = (Fixture::new(), OpenFiles::default());
    let limited = Claim { max_hold: Some(Duration::from_secs(60)), ..claim(1, MUTEX) };
    let file = fixture.enqueue(&ours, &limited);
    let end = file.hold_ends().unwrap();
    assert_eq!(end, file.granted.unwrap() + 60_000);
    let waiting = fixture.enqueue(&ours, &Claim { max_hold: limited.max_hold, ..claim(2, MUTEX) });
    let mut section = fixture.enter(&ours, Enter::Read);
    for (now, alive) in [(end - 1, true), (end, false), (end + 1, false)] {
        section.now = now;
        assert_eq!(section.is_alive(&file), alive, "{}", now.abs_diff(end));
        assert!(section.is_alive(&waiting), "its time begins with the grant");
    }
    section.settle().unwrap();
    assert_eq!(section.find(id(1)), None);
    assert_eq!(section.find(id(2)).unwrap().granted, Some(end + 1), "the next claim's time begins now");
}

#[test]
fn a_claim_lives_as_long_as_its_file_is_locked() {
    let (fixture, ours, theirs) = (Fixture::new(), OpenFiles::default(), OpenFiles::default());
    let file = fixture.enqueue(&theirs, &claim(1, MUTEX));
    let path = fixture.lock.join(file.file_name());
    let section = fixture.enter(&ours, Enter::Read);
    assert!(section.is_alive(&file));
    assert!(section.is_alive(&file), "the check does not end it");
    assert!(fcntl_getfd(section.open(&file).unwrap()).unwrap().contains(FdFlags::CLOEXEC));
    theirs.remove(id(1));
    assert!(!section.is_alive(&file), "its owner has closed the file");
    fs::remove_file(&path).unwrap();
    assert!(!section.is_alive(&file), "the file is gone");
    // A file that cannot be opened may have an owner, so it counts as alive. A link in its place is not
    // followed.
    symlink("/dev/null", &path).unwrap();
    assert!(section.is_alive(&file), "the file is a link");
}

#[test]
fn the_blockers_of_a_waiter_are_the_claims_in_front_that_keep_it_out() {
    let (fixture, ours) = (Fixture::new(), OpenFiles::default());
    let claims = [(1, READ), (2, WRITE), (3, READ), (4, READ), (5, WRITE)];
    let files = claims.map(|(number, permits)| fixture.enqueue(&ours, &claim(number, permits)));
    let section = fixture.enter(&ours, Enter::Read);
    for (waiting, blockers) in [(0, vec![]), (1, vec![0]), (2, vec![1]), (3, vec![1]), (4, vec![3])] {
        let expected: Vec<ClaimFile> = blockers.into_iter().map(|position: usize| files[position]).collect();
        assert_eq!(section.blockers(&files[waiting]), expected, "{waiting}");
    }
}

#[test]
fn a_check_of_live_blockers_changes_nothing() {
    let (fixture, ours, theirs) = (Fixture::new(), OpenFiles::default(), OpenFiles::default());
    let first = fixture.enqueue(&ours, &claim(1, MUTEX));
    let second = fixture.enqueue(&theirs, &claim(2, MUTEX));
    let mine = fixture.enqueue(&ours, &claim(3, MUTEX));
    fixture.enqueue(&theirs, &claim(4, MUTEX));
    theirs.remove(id(4));
    let mut section = fixture.enter(&ours, Enter::Read);
    assert!(section.confirm_alive(&[first, second], &mine).unwrap());
    assert_eq!(fixture.statuses(), (ids(&[1]), ids(&[2, 3, 4])));
}

#[test]
fn claims_that_died_together_in_front_of_a_waiter_are_removed_together() {
    let (fixture, ours, theirs) = (Fixture::new(), OpenFiles::default(), OpenFiles::default());
    // This process has the holder (1), two waiters (2 and 7), and the waiter whose blockers are checked (5).
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
    assert_eq!(blockers.iter().map(|file| file.id).collect::<Vec<_>>(), ids(&[4]));
    assert!(!section.confirm_alive(&blockers, &mine).unwrap());
    // The claims behind it are not checked.
    assert_eq!(fixture.statuses(), (ids(&[1]), ids(&[2, 5, 6, 7])));
    assert_eq!(section.queue, fixture.files());
    let blockers = section.blockers(&mine);
    assert_eq!(blockers.iter().map(|file| file.id).collect::<Vec<_>>(), ids(&[2]));
    assert!(section.confirm_alive(&blockers, &mine).unwrap());
}

#[test]
fn a_waiter_is_granted_when_its_last_blocker_dies() {
    let (fixture, ours, theirs) = (Fixture::new(), OpenFiles::default(), OpenFiles::default());
    let first = fixture.enqueue(&theirs, &claim(1, MUTEX));
    let mine = fixture.enqueue(&ours, &claim(2, MUTEX));
    let mut section = fixture.enter(&ours, Enter::Read);
    theirs.remove(id(1));
    assert!(!section.confirm_alive(&[first], &mine).unwrap());
    assert_eq!(fixture.statuses(), (ids(&[2]), ids(&[])));
}

#[test]
fn the_owners_text_is_read_up_to_its_limit_and_only_from_a_regular_file() {
    let (fixture, ours) = (Fixture::new(), OpenFiles::default());
    let file = fixture.enqueue(&ours, &claim(1, MUTEX));
    let path = fixture.lock.join(file.file_name());
    let section = fixture.enter(&ours, Enter::Read);
    let (text, written) = section.text(&file);
    assert_eq!(text, "me");
    assert!(
        written.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap() > Duration::from_secs(1_600_000_000)
    );
    fs::write(&path, "x".repeat(5000)).unwrap();
    assert_eq!(section.text(&file).0, "x".repeat(4096));
    fs::write(&path, [b'a', 0xff]).unwrap();
    assert_eq!(section.text(&file).0, "a\u{fffd}");
    let elsewhere = fixture.root.path().join("elsewhere");
    fs::write(&elsewhere, "secret").unwrap();
    for put in [&|| {}, &|| symlink(&elsewhere, &path).unwrap(), &|| fs::create_dir(&path).unwrap(), &|| {
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    }] as [&dyn Fn(); 4]
    {
        let _ = fs::remove_file(&path);
        put();
        assert_eq!(section.text(&file), (String::new(), None));
        let _ = fs::remove_dir(&path);
    }
}

proptest! {
    #[test]
    fn the_owner_and_the_name_are_read_back_from_a_claims_file(
        owner in "[^\n]{0,60}",
        name in "[^\0]{1,60}",
    ) {
        let name = Name::new(name).unwrap();
        let text = text_of(&Claim { owner: owner.as_str().into(), name: name.clone(), ..claim(1, MUTEX) });
        prop_assert_eq!(owner_and_name(&text), (owner.as_str(), Some(name)));
    }
}

#[test]
fn a_text_without_a_newline_is_only_an_owner() {
    assert_eq!(owner_and_name(""), ("", None));
    assert_eq!(owner_and_name("{}"), ("{}", None));
    assert_eq!(owner_and_name("{}\n"), ("{}", None));
}

#[test]
fn now_is_in_milliseconds_of_the_clock_that_goes_on_while_the_host_is_suspended() {
    let clock = || {
        let time = clock_gettime(ClockId::Boottime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap()).as_millis()
    };
    let (before, now, after) = (clock(), u128::from(now()), clock());
    assert!(before <= now && now <= after, "{before} {now} {after}");
}

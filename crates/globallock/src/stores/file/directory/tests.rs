use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;
use rustix::io::{FdFlags, fcntl_getfd};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use tempfile::TempDir;

use super::*;

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn opened(path: &Path) -> Directory {
    Directory::open(address(&format!("file://{}", path.display()))).unwrap()
}

fn rights(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn with_rights(path: &Path, rights: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(rights)).unwrap();
}

/// Does something without what only root may do.
fn as_a_common_user<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let thread = || {
        let mut sets = capabilities(None).unwrap();
        sets.effective = CapabilitySet::empty();
        set_capabilities(None, sets).unwrap();
        act()
    };
    std::thread::scope(|scope| scope.spawn(thread).join().unwrap())
}

fn number(directory: &Directory) -> u64 {
    directory.next_number(None).unwrap().expect("nobody else counts")
}

/// What the directory is called, and its counter.
fn with_counter(text: &str) -> (TempDir, Directory, PathBuf) {
    let place = TempDir::new().unwrap();
    let counter = place.path().join(COUNTER);
    fs::write(&counter, text).unwrap();
    let directory = opened(place.path());
    (place, directory, counter)
}

#[test]
fn an_address_without_a_path_is_the_users_own_directory_whatever_the_environment() {
    let user = rustix::process::geteuid().as_raw();
    assert_eq!(default_directory(), Path::new(&format!("/tmp/globallock-{user}")));
}

#[test]
fn a_wrong_address_is_refused_with_the_remedy() {
    let place = TempDir::new().unwrap();
    let path = place.path().display();
    for (text, reason) in [
        (format!("file://host{path}"), "three slashes"),
        ("file:locks".to_owned(), "relative"),
        (format!("file://{path}?network=yes"), "one value: allow"),
        (format!("file://{path}?colour=red"), "network"),
    ] {
        let error = Directory::open(address(&text)).expect_err(&text);
        assert!(matches!(error, Error::InvalidAddress { .. }), "{text}: {error:?}");
        assert!(error.to_string().contains(reason), "{text}: {error}");
    }
    for text in [format!("file://{path}"), format!("file://{path}?network=allow")] {
        assert_eq!(Directory::open(address(&text)).unwrap().path(), place.path());
    }
}

#[test]
fn a_directory_is_made_but_not_its_parent() {
    let place = TempDir::new().unwrap();
    assert_eq!(opened(&place.path().join("a")).path(), place.path().join("a"));
    assert_eq!(rights(place.path().join("a")), 0o700);
    let error = Directory::prepare(place.path().join("b/c"), true).unwrap_err();
    assert!(error.to_string().contains("its parent does not exist"), "{error}");
}

#[test]
fn a_network_file_system_is_refused_with_its_name_and_the_way_to_allow_it() {
    let place = TempDir::new().unwrap();
    let directory = opened(place.path());
    directory.refuse_network(None, false).unwrap();
    directory.refuse_network(Some("NFS"), true).unwrap();
    let error = directory.refuse_network(Some("NFS"), false).unwrap_err();
    assert!(matches!(error, Error::FailedPrecondition { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("it is on NFS") && text.contains("?network=allow"), "{text}");
}

#[test]
fn network_file_systems_are_known_by_their_numbers() {
    for (number, kind) in [
        (0x6969_u32, "NFS"),
        (0x517b, "SMB"),
        (0xff53_4d42, "SMB"),
        (0xfe53_4d42, "SMB"),
        (0x0102_1997, "9p"),
        (0x6573_5546, "FUSE"),
        (0x00c3_6400, "Ceph"),
        (0x5346_414f, "AFS"),
        (0x6b41_4653, "AFS"),
        (0x0bd0_0bd0, "Lustre"),
        (0x4750_4653, "GPFS"),
        (0x7461_636f, "OCFS2"),
        (0x0116_1970, "GFS2"),
        (0x7375_7245, "Coda"),
        (0x1983_0326, "BeeGFS"),
        (0x786f_4256, "a VirtualBox folder"),
    ] {
        assert_eq!(network_kind(number), Some(kind));
        // The machines whose kernels have a field of 32 bits with a sign.
        assert_eq!(network_kind(number.cast_signed()), Some(kind));
    }
    for local in [0xef53_u32, 0x0102_1994, 0x5846_5342, 0x9123_683e, 0x794c_7630] {
        assert_eq!(network_kind(local), None);
    }
}

#[test]
fn the_default_directory_is_refused_where_others_could_have_put_something() {
    for (owner, user, rights, theirs) in [
        (7, 7, 0o700, false),
        (7, 7, 0o755, false),
        (0, 7, 0o700, true),
        (7, 0, 0o700, true),
        (7, 7, 0o720, true),
        (7, 7, 0o702, true),
        (7, 7, 0o1777, true),
    ] {
        assert_eq!(others_can_write(owner, user, Mode::from_raw_mode(rights)), theirs, "{rights:o}");
    }
    let place = TempDir::new().unwrap();
    let path = place.path().join("open");
    fs::create_dir(&path).unwrap();
    with_rights(&path, 0o777);
    let error = Directory::prepare(path.clone(), false).unwrap_err();
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
    assert!(error.to_string().contains("name another directory"), "{error}");
    Directory::prepare(path.clone(), true).expect("whoever names it may share it");
    with_rights(&path, 0o755);
    Directory::prepare(path, false).expect("to be read by others is no harm");
}

#[test]
fn a_lock_is_for_those_who_share_the_directory_and_nobody_else() {
    // The rights of the whole, of a lock's directory, and of a file.
    for (whole, lock, file) in [
        (0o700, 0o700, 0o600),
        (0o500, 0o700, 0o600),
        (0o770, 0o770, 0o660),
        (0o750, 0o750, 0o640),
        (0o707, 0o707, 0o606),
        (0o1777, 0o777, 0o666),
        // What is made in it belongs to its group.
        (0o2770, 0o2770, 0o660),
        (0o2700, 0o2700, 0o600),
    ] {
        let place = TempDir::new().unwrap();
        let path = place.path().join("locks");
        fs::create_dir(&path).unwrap();
        with_rights(&path, whole);
        let directory = opened(&path);
        with_rights(&path, whole | 0o700);
        let made = directory.open_lock(&path.join("a"), true).unwrap().unwrap();
        directory.create(&made, "claim").unwrap();
        number(&directory);
        assert_eq!(rights(path.join("a")), lock, "{whole:o}");
        assert_eq!([rights(path.join("a/claim")), rights(path.join(COUNTER))], [file; 2], "{whole:o}");
    }
}

#[test]
fn a_locks_directory_is_made_only_where_one_is_wanted() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("locks");
    let directory = opened(&path);
    let lock = path.join("a");
    assert!(directory.open_lock(&lock, false).unwrap().is_none());
    assert!(!lock.exists());
    let made = directory.open_lock(&lock, true).unwrap().expect("it is made");
    assert!(is_at(&made, &lock));
    for make in [false, true] {
        let again = directory.open_lock(&lock, make).unwrap().expect("it is there");
        assert!(is_at(&again, &lock));
    }
    // Somebody deleted all of it.
    fs::remove_dir_all(&path).unwrap();
    assert!(directory.open_lock(&lock, false).unwrap().is_none());
    assert!(is_at(&directory.open_lock(&lock, true).unwrap().unwrap(), &lock));
}

#[test]
fn what_another_user_is_just_making_is_waited_for_until_it_is_shared() {
    for (whole, lock, counter) in [(0o777, 0o777, 0o666), (0o770, 0o770, 0o660), (0o705, 0o705, 0o604)] {
        let place = TempDir::new().unwrap();
        with_rights(place.path(), whole);
        let directory = opened(place.path());
        let path = place.path().join("a");
        fs::create_dir(&path).unwrap();
        fs::write(place.path().join(COUNTER), "").unwrap();
        // As others see what belongs to its maker alone.
        with_rights(&path, 0);
        with_rights(&place.path().join(COUNTER), 0);
        as_a_common_user(|| {
            for make in [false, true] {
                assert!(directory.open_lock(&path, make).unwrap().is_none());
            }
            assert_eq!(directory.next_number(None).unwrap(), None);
            with_rights(&path, lock);
            with_rights(&place.path().join(COUNTER), counter);
            assert!(is_at(&directory.open_lock(&path, true).unwrap().unwrap(), &path));
            number(&directory);
        });
    }
}

#[test]
fn what_is_not_shared_is_denied_at_once() {
    let place = TempDir::new().unwrap();
    let whole = place.path().join("locks");
    let private = opened(&whole);
    with_rights(&whole, 0o777);
    let shared = opened(&whole);
    let path = whole.join("a");
    fs::create_dir(&path).unwrap();
    fs::write(whole.join(COUNTER), "").unwrap();
    with_rights(&path, 0);
    with_rights(&whole.join(COUNTER), 0);
    as_a_common_user(|| {
        let is_denied = |directory: &Directory| {
            for make in [false, true] {
                let error = directory.open_lock(&path, make).unwrap_err();
                assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
            }
            let error = directory.next_number(None).unwrap_err();
            assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
        };
        is_denied(&private);
        // A directory that was shared, and is not any more.
        with_rights(&whole, 0);
        is_denied(&shared);
    });
    with_rights(&whole, 0o700);
}

/// Does something at the same time as others do.
fn together(act: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(&act);
        }
    });
}

#[test]
fn those_who_make_a_locks_directory_and_those_who_remove_it_disturb_nobody() {
    let place = TempDir::new().unwrap();
    with_rights(place.path(), 0o777);
    let directory = opened(place.path());
    let path = place.path().join("a");
    together(|| {
        for _ in 0..300 {
            directory.open_lock(&path, true).unwrap().expect("it is made");
            let _ = fs::remove_dir(&path);
        }
    });
}

#[test]
fn those_who_come_first_count_together() {
    for whole in [0o700, 0o1777] {
        let place = TempDir::new().unwrap();
        with_rights(place.path(), whole);
        let directory = opened(place.path());
        for _ in 0..50 {
            let _ = fs::remove_file(place.path().join(COUNTER));
            together(|| {
                directory.next_number(None).unwrap();
            });
        }
    }
}

#[test]
fn what_is_no_directory_is_not_entered() {
    let place = TempDir::new().unwrap();
    let directory = opened(place.path());
    fs::write(place.path().join("file"), "").unwrap();
    symlink("/", place.path().join("link")).unwrap();
    for (name, make) in [("file", false), ("file", true), ("link", false), ("link", true)] {
        let error = directory.open_lock(&place.path().join(name), make).expect_err(name);
        assert!(error.to_string().contains("cannot be opened"), "{name}: {error}");
    }
    let error = Directory::prepare(place.path().join("file"), true).unwrap_err().to_string();
    assert!(error.contains("name a directory"), "{error}");
}

#[test]
fn no_program_that_is_started_inherits_a_lock() {
    let place = TempDir::new().unwrap();
    let directory = opened(place.path());
    let lock = directory.open_lock(&place.path().join("a"), true).unwrap().unwrap();
    let claim = directory.create(&lock, "claim").unwrap();
    for file in [lock, claim] {
        assert!(fcntl_getfd(&file).unwrap().contains(FdFlags::CLOEXEC));
    }
}

#[test]
fn a_file_of_a_claim_is_never_one_that_was_there() {
    let place = TempDir::new().unwrap();
    let directory = opened(place.path());
    let lock = directory.open_lock(&place.path().join("a"), true).unwrap().unwrap();
    let claim = directory.create(&lock, "claim").unwrap();
    assert_eq!(rustix::io::write(&claim, b"text"), Ok(4));
    symlink(place.path().join("elsewhere"), place.path().join("a/link")).unwrap();
    for name in ["claim", "link"] {
        let error = directory.create(&lock, name).expect_err(name);
        assert!(error.to_string().contains("cannot be written to"), "{error}");
    }
    assert!(!place.path().join("elsewhere").exists());
    assert_eq!(fs::read_to_string(place.path().join("a/claim")).unwrap(), "text");
}

#[test]
fn a_directory_that_was_replaced_is_told_from_the_one_that_was_opened() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("a");
    fs::create_dir(&path).unwrap();
    let opened = open_directory(&path).unwrap();
    assert!(is_at(&opened, &path));
    fs::rename(&path, place.path().join("b")).unwrap();
    assert!(!is_at(&opened, &path), "there is nothing");
    fs::create_dir(&path).unwrap();
    assert!(!is_at(&opened, &path), "there is another");
    assert!(is_at(&opened, &place.path().join("b")));
    fs::remove_dir(&path).unwrap();
    symlink(place.path().join("b"), &path).unwrap();
    assert!(!is_at(&opened, &path), "there is a link to it");
    // On another file system, with any number.
    assert!(!is_at(&opened, Path::new("/proc")));
}

#[test]
fn a_lock_that_another_has_is_not_waited_for() {
    let place = TempDir::new().unwrap();
    let open = || open_directory(place.path()).unwrap();
    let (one, other) = (open(), open());
    assert_eq!(try_lock(&one), Ok(true));
    assert_eq!(try_lock(&other), Ok(false));
    drop(one);
    assert_eq!(try_lock(&other), Ok(true));
}

#[test]
fn nobody_counts_while_another_does() {
    let (_place, directory, counter) = with_counter("");
    let other = fs::File::open(&counter).unwrap();
    flock(&other, FlockOperation::LockExclusive).unwrap();
    assert_eq!(directory.next_number(None).unwrap(), None);
    assert_eq!(fs::read_to_string(&counter).unwrap(), "");
    drop(other);
    number(&directory);
}

#[test]
fn a_counter_that_is_lost_or_damaged_goes_on_from_the_clock() {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    for damage in ["", "garbage", "\u{fffd}", "-1", "00000000000000000007", "99999999999999999999"] {
        let (_place, directory, counter) = with_counter(damage);
        let first = number(&directory);
        assert!(u128::from(first) >= clock, "{damage:?}: {first}");
        assert_eq!(fs::read_to_string(&counter).unwrap(), format!("{first:020}"));
        assert!(number(&directory) > first, "{damage:?}");
        fs::remove_file(&counter).unwrap();
        assert!(u128::from(number(&directory)) >= clock);
    }
}

#[test]
fn a_link_in_the_counters_place_is_not_followed() {
    let place = TempDir::new().unwrap();
    let elsewhere = place.path().join("elsewhere");
    fs::write(&elsewhere, "mine").unwrap();
    symlink(&elsewhere, place.path().join(COUNTER)).unwrap();
    let error = opened(place.path()).next_number(None).unwrap_err();
    assert!(error.to_string().contains("cannot count fencing tokens"), "{error}");
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "mine");
}

#[test]
fn a_counter_at_its_highest_value_refuses_rather_than_begins_again() {
    let (_place, directory, counter) = with_counter(&(u64::MAX - 1).to_string());
    assert_eq!(number(&directory), u64::MAX, "the highest is a number like others");
    for _ in 0..2 {
        let error = directory.next_number(None).unwrap_err();
        assert!(matches!(error, Error::FailedPrecondition { .. }) && !error.is_retryable(), "{error:?}");
        assert!(error.to_string().contains("delete .fence once nobody has a lock"), "{error}");
        assert_eq!(fs::read_to_string(&counter).unwrap(), u64::MAX.to_string());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn numbers_rise_above_the_counter_and_all_that_are_in_use(
        last in prop::option::of(any::<u64>()),
        used in prop::option::of(any::<u64>()),
    ) {
        let (_place, directory, _) = with_counter(&last.map_or(String::new(), |last| last.to_string()));
        let highest = last.max(used);
        match directory.next_number(used) {
            Ok(number) => {
                let first = number.expect("nobody else counts");
                prop_assert!(highest.is_none_or(|highest| first > highest));
                if first < u64::MAX {
                    prop_assert!(directory.next_number(None).unwrap().unwrap() > first);
                }
            }
            Err(_) => prop_assert_eq!(highest, Some(u64::MAX)),
        }
    }
}

#[test]
fn what_is_deleted_while_it_is_in_use_is_no_refusal() {
    let place = TempDir::new().unwrap();
    let directory = Directory::prepare(place.path().join("locks"), true).unwrap();
    let path = directory.path().join("a");
    let opened = directory.open_lock(&path, true).unwrap().expect("it is made");
    fs::remove_dir(&path).unwrap();
    let failure = directory.create(&opened, "claim").unwrap_err();
    assert!(failure.is_unavailable() && failure.to_string().contains("deleted"), "{failure:?}");
    let failure = directory.failure_within("cannot be read", Errno::NOSPC);
    assert!(
        matches!(failure, Error::FailedPrecondition { .. }) && failure.to_string().contains("make room"),
        "{failure:?}"
    );
}

#[test]
fn a_failure_says_what_to_do() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("lo\u{1b}cks");
    let directory = Directory::prepare(path, true).unwrap();
    let shown = format!("file://{}/lo\\u{{1b}}cks", place.path().display());
    assert_eq!(directory.shown(), shown);
    for (error, denied, remedy) in [
        (Errno::ACCESS, true, "give this user the right to read and write there"),
        (Errno::PERM, true, "give this user the right to read and write there"),
        (Errno::LOOP, true, "give this user the right to read and write there"),
        (Errno::NOSPC, false, "make room there"),
        (Errno::DQUOT, false, "make room there"),
        (Errno::MFILE, false, "raise the limit of open files"),
        (Errno::NFILE, false, "raise the limit of open files"),
        (Errno::NOTDIR, false, "name a directory"),
        (Errno::IO, false, ""),
    ] {
        let failure = directory.failure("cannot be opened", error);
        assert_eq!(matches!(failure, Error::PermissionDenied { .. }), denied, "{failure:?}");
        assert_eq!(matches!(failure, Error::FailedPrecondition { .. }), !denied, "{failure:?}");
        let text = failure.to_string();
        assert!(text.contains("it cannot be opened: ") && text.contains(remedy), "{text}");
        assert!(text.contains(&shown), "{text}");
        assert!(std::error::Error::source(&failure).is_some(), "{failure:?}");
    }
}

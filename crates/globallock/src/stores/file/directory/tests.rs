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

/// Runs `act` without root's capabilities.
fn without_capabilities<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let thread = || {
        let mut sets = capabilities(None).unwrap();
        sets.effective = CapabilitySet::empty();
        set_capabilities(None, sets).unwrap();
        act()
    };
    std::thread::scope(|scope| scope.spawn(thread).join().unwrap())
}

fn number(directory: &Directory) -> u64 {
    directory.next_number(None).unwrap().expect("no other task counts")
}

/// A directory with this text in its counter, and the counter's path.
fn with_counter(text: &str) -> (TempDir, Directory, PathBuf) {
    let root = TempDir::new().unwrap();
    let counter = root.path().join(COUNTER);
    fs::write(&counter, text).unwrap();
    let directory = opened(root.path());
    (root, directory, counter)
}

#[test]
fn an_address_without_a_path_is_the_users_own_directory_whatever_the_environment() {
    let user = rustix::process::geteuid().as_raw();
    assert_eq!(default_directory(), Path::new(&format!("/tmp/globallock-{user}")));
}

#[test]
fn a_wrong_address_is_refused_with_the_remedy() {
    let root = TempDir::new().unwrap();
    let path = root.path().display();
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
        assert_eq!(Directory::open(address(&text)).unwrap().path(), root.path());
    }
}

#[test]
fn a_directory_is_made_but_not_its_parent() {
    let root = TempDir::new().unwrap();
    assert_eq!(opened(&root.path().join("a")).path(), root.path().join("a"));
    assert_eq!(rights(root.path().join("a")), 0o700);
    let error = Directory::prepare(root.path().join("b/c"), true).unwrap_err();
    assert!(error.to_string().contains("its parent does not exist"), "{error}");
}

#[test]
fn a_network_file_system_is_refused_with_its_name_and_the_way_to_allow_it() {
    let root = TempDir::new().unwrap();
    let directory = opened(root.path());
    directory.refuse_network(None, false).unwrap();
    directory.refuse_network(Some("NFS"), true).unwrap();
    let error = directory.refuse_network(Some("NFS"), false).unwrap_err();
    assert!(matches!(error, Error::FailedPrecondition { .. }), "{error:?}");
    let sentence = format!(
        "file://{} cannot do this: it is on NFS, where the kernel may not tell other hosts who holds a lock; \
         choose a local directory, or add ?network=allow if this host alone uses it",
        root.path().display()
    );
    assert_eq!(error.to_string(), sentence);
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
        // On some machines the kernel's field is a signed 32-bit number.
        assert_eq!(network_kind(number.cast_signed()), Some(kind));
    }
    for local in [0xef53_u32, 0x0102_1994, 0x5846_5342, 0x9123_683e, 0x794c_7630] {
        assert_eq!(network_kind(local), None);
    }
}

#[test]
fn the_default_directory_is_refused_if_others_can_write_to_it() {
    for (owner, user, rights, expected) in [
        (7, 7, 0o700, false),
        (7, 7, 0o755, false),
        (0, 7, 0o700, true),
        (7, 0, 0o700, true),
        (7, 7, 0o720, true),
        (7, 7, 0o702, true),
        (7, 7, 0o1777, true),
    ] {
        assert_eq!(others_can_write(owner, user, Mode::from_raw_mode(rights)), expected, "{rights:o}");
    }
    let root = TempDir::new().unwrap();
    let path = root.path().join("open");
    fs::create_dir(&path).unwrap();
    with_rights(&path, 0o777);
    let error = Directory::prepare(path.clone(), false).unwrap_err();
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
    assert!(error.to_string().contains("name another directory"), "{error}");
    Directory::prepare(path.clone(), true).expect("a named directory may be shared");
    with_rights(&path, 0o755);
    Directory::prepare(path, false).expect("others may read it");
}

#[test]
fn only_users_who_share_the_directory_share_its_locks() {
    // The modes of the whole directory, of a lock's directory, and of a file.
    for (whole, lock, file) in [
        (0o700, 0o700, 0o600),
        (0o500, 0o700, 0o600),
        (0o770, 0o770, 0o660),
        (0o750, 0o750, 0o640),
        (0o707, 0o707, 0o606),
        (0o1777, 0o777, 0o666),
        // With the setgid bit: new files belong to the directory's group.
        (0o2770, 0o2770, 0o660),
        (0o2700, 0o2700, 0o600),
    ] {
        let root = TempDir::new().unwrap();
        let path = root.path().join("locks");
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
fn a_locks_directory_is_created_only_on_demand() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("locks");
    let directory = opened(&path);
    let lock = path.join("a");
    assert!(directory.open_lock(&lock, false).unwrap().is_none());
    assert!(!lock.exists());
    let made = directory.open_lock(&lock, true).unwrap().expect("it is created");
    assert!(is_at(&made, &lock));
    for make in [false, true] {
        let again = directory.open_lock(&lock, make).unwrap().expect("it is there");
        assert!(is_at(&again, &lock));
    }
    // The whole directory was deleted.
    fs::remove_dir_all(&path).unwrap();
    assert!(directory.open_lock(&lock, false).unwrap().is_none());
    assert!(is_at(&directory.open_lock(&lock, true).unwrap().unwrap(), &lock));
}

#[test]
fn a_directory_that_another_user_is_just_creating_is_waited_for_until_it_is_shared() {
    for (whole, lock, counter) in [(0o777, 0o777, 0o666), (0o770, 0o770, 0o660), (0o705, 0o705, 0o604)] {
        let root = TempDir::new().unwrap();
        with_rights(root.path(), whole);
        let directory = opened(root.path());
        let path = root.path().join("a");
        fs::create_dir(&path).unwrap();
        fs::write(root.path().join(COUNTER), "").unwrap();
        // What other users see before its mode is set.
        with_rights(&path, 0);
        with_rights(&root.path().join(COUNTER), 0);
        without_capabilities(|| {
            for make in [false, true] {
                assert!(directory.open_lock(&path, make).unwrap().is_none());
            }
            assert_eq!(directory.next_number(None).unwrap(), None);
            with_rights(&path, lock);
            with_rights(&root.path().join(COUNTER), counter);
            assert!(is_at(&directory.open_lock(&path, true).unwrap().unwrap(), &path));
            number(&directory);
        });
    }
}

#[test]
fn a_directory_that_is_not_shared_is_denied_at_once() {
    let root = TempDir::new().unwrap();
    let whole = root.path().join("locks");
    let private = opened(&whole);
    with_rights(&whole, 0o777);
    let shared = opened(&whole);
    let path = whole.join("a");
    fs::create_dir(&path).unwrap();
    fs::write(whole.join(COUNTER), "").unwrap();
    with_rights(&path, 0);
    with_rights(&whole.join(COUNTER), 0);
    without_capabilities(|| {
        let is_denied = |directory: &Directory| {
            for make in [false, true] {
                let error = directory.open_lock(&path, make).unwrap_err();
                assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
            }
            let error = directory.next_number(None).unwrap_err();
            assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
        };
        is_denied(&private);
        // A directory that is no longer shared.
        with_rights(&whole, 0);
        is_denied(&shared);
    });
    with_rights(&whole, 0o700);
}

/// Runs `act` on several threads at the same time.
fn together(act: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(&act);
        }
    });
}

#[test]
fn a_locks_directory_can_be_created_while_others_remove_it() {
    let root = TempDir::new().unwrap();
    with_rights(root.path(), 0o777);
    let directory = opened(root.path());
    let path = root.path().join("a");
    together(|| {
        for _ in 0..300 {
            directory.open_lock(&path, true).unwrap().expect("it is created");
            let _ = fs::remove_dir(&path);
        }
    });
}

#[test]
fn the_first_users_of_a_counter_can_create_it_together() {
    for whole in [0o700, 0o1777] {
        let root = TempDir::new().unwrap();
        with_rights(root.path(), whole);
        let directory = opened(root.path());
        for _ in 0..50 {
            let _ = fs::remove_file(root.path().join(COUNTER));
            together(|| {
                directory.next_number(None).unwrap();
            });
        }
    }
}

#[test]
fn a_file_or_a_link_in_the_directorys_place_is_not_entered() {
    let root = TempDir::new().unwrap();
    let directory = opened(root.path());
    fs::write(root.path().join("file"), "").unwrap();
    symlink("/", root.path().join("link")).unwrap();
    for (name, make) in [("file", false), ("file", true), ("link", false), ("link", true)] {
        let error = directory.open_lock(&root.path().join(name), make).expect_err(name);
        assert!(error.to_string().contains("cannot be opened"), "{name}: {error}");
    }
    let error = Directory::prepare(root.path().join("file"), true).unwrap_err().to_string();
    assert!(error.contains("name a directory"), "{error}");
}

#[test]
fn a_child_program_inherits_no_lock() {
    let root = TempDir::new().unwrap();
    let directory = opened(root.path());
    let lock = directory.open_lock(&root.path().join("a"), true).unwrap().unwrap();
    let claim = directory.create(&lock, "claim").unwrap();
    for file in [lock, claim] {
        assert!(fcntl_getfd(&file).unwrap().contains(FdFlags::CLOEXEC));
    }
}

#[test]
fn a_claims_file_is_always_a_new_file() {
    let root = TempDir::new().unwrap();
    let directory = opened(root.path());
    let lock = directory.open_lock(&root.path().join("a"), true).unwrap().unwrap();
    let claim = directory.create(&lock, "claim").unwrap();
    assert_eq!(rustix::io::write(&claim, b"text"), Ok(4));
    symlink(root.path().join("elsewhere"), root.path().join("a/link")).unwrap();
    for name in ["claim", "link"] {
        let error = directory.create(&lock, name).expect_err(name);
        assert!(error.to_string().contains("cannot be written to"), "{error}");
    }
    assert!(!root.path().join("elsewhere").exists());
    assert_eq!(fs::read_to_string(root.path().join("a/claim")).unwrap(), "text");
}

#[test]
fn a_directory_that_was_replaced_is_not_the_one_that_was_opened() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("a");
    fs::create_dir(&path).unwrap();
    let opened = open_directory(&path).unwrap();
    assert!(is_at(&opened, &path));
    fs::rename(&path, root.path().join("b")).unwrap();
    assert!(!is_at(&opened, &path), "nothing is there");
    fs::create_dir(&path).unwrap();
    assert!(!is_at(&opened, &path), "another directory is there");
    assert!(is_at(&opened, &root.path().join("b")));
    fs::remove_dir(&path).unwrap();
    symlink(root.path().join("b"), &path).unwrap();
    assert!(!is_at(&opened, &path), "a link to it is there");
    // On another file system, whatever its inode number is.
    assert!(!is_at(&opened, Path::new("/proc")));
}

#[test]
fn locking_a_locked_directory_fails_without_waiting() {
    let root = TempDir::new().unwrap();
    let open = || open_directory(root.path()).unwrap();
    let (one, other) = (open(), open());
    let locked = try_lock(one).unwrap().expect("nobody has locked it");
    assert!(try_lock(other).unwrap().is_none());
    let of_a_child = rustix::io::dup(&locked.0).unwrap();
    drop(locked);
    assert!(try_lock(open()).unwrap().is_some(), "a child's descriptor does not keep it locked");
    drop(of_a_child);
}

#[test]
fn a_counter_that_another_has_locked_gives_out_no_number() {
    let (_root, directory, counter) = with_counter("");
    let other = fs::File::open(&counter).unwrap();
    flock(&other, FlockOperation::LockExclusive).unwrap();
    assert_eq!(directory.next_number(None).unwrap(), None);
    assert_eq!(fs::read_to_string(&counter).unwrap(), "");
    drop(other);
    number(&directory);
}

#[test]
fn a_lost_or_damaged_counter_continues_from_the_clock() {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    for damage in ["", "garbage", "\u{fffd}", "-1", "00000000000000000007", "99999999999999999999"] {
        let (_root, directory, counter) = with_counter(damage);
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
    let root = TempDir::new().unwrap();
    let elsewhere = root.path().join("elsewhere");
    fs::write(&elsewhere, "mine").unwrap();
    symlink(&elsewhere, root.path().join(COUNTER)).unwrap();
    let error = opened(root.path()).next_number(None).unwrap_err();
    assert!(error.to_string().contains("cannot count fencing tokens"), "{error}");
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "mine");
}

#[test]
fn a_counter_at_its_highest_value_refuses_and_does_not_wrap_around() {
    let (_root, directory, counter) = with_counter(&(u64::MAX - 1).to_string());
    assert_eq!(number(&directory), u64::MAX, "the highest number is given out too");
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
    fn numbers_rise_above_the_counter_and_the_highest_in_use(
        last in prop::option::of(any::<u64>()),
        used in prop::option::of(any::<u64>()),
    ) {
        let (_root, directory, _) = with_counter(&last.map_or(String::new(), |last| last.to_string()));
        let highest = last.max(used);
        match directory.next_number(used) {
            Ok(number) => {
                let first = number.expect("no other task counts");
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
fn a_deletion_of_files_in_use_is_a_retryable_error() {
    let root = TempDir::new().unwrap();
    let directory = Directory::prepare(root.path().join("locks"), true).unwrap();
    let path = directory.path().join("a");
    let opened = directory.open_lock(&path, true).unwrap().expect("it is created");
    fs::remove_dir(&path).unwrap();
    let failure = directory.create(&opened, "claim").unwrap_err();
    assert!(failure.is_unavailable() && failure.to_string().contains("deleted"), "{failure:?}");
    let failure = directory.failure_within("cannot be read", Errno::IO);
    assert!(matches!(failure, Error::FailedPrecondition { .. }), "{failure:?}");
}

#[test]
fn a_failure_says_what_to_do() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("lo\u{1b}cks");
    let directory = Directory::prepare(path, true).unwrap();
    let shown = format!("file://{}/lo\\u{{1b}}cks", root.path().display());
    assert_eq!(directory.shown(), shown);
    let denied: fn(&Error) -> bool = |failure| matches!(failure, Error::PermissionDenied { .. });
    let precondition: fn(&Error) -> bool = |failure| matches!(failure, Error::FailedPrecondition { .. });
    let full: fn(&Error) -> bool = Error::is_retryable;
    for (error, is_kind, remedy) in [
        (Errno::ACCESS, denied, "give this user the right to read and write there"),
        (Errno::PERM, denied, "give this user the right to read and write there"),
        (Errno::LOOP, denied, "give this user the right to read and write there"),
        (Errno::NOSPC, full, "make room there"),
        (Errno::DQUOT, full, "make room there"),
        (Errno::MFILE, precondition, "raise the limit of open files"),
        (Errno::NFILE, precondition, "raise the limit of open files"),
        (Errno::NOTDIR, precondition, "name a directory, and not a link to one"),
        (Errno::ROFS, precondition, "name a directory that can be written to"),
        (Errno::NAMETOOLONG, precondition, "a shorter path"),
        (Errno::NOLCK, precondition, "that can lock files (flock)"),
        (Errno::NOSYS, precondition, "that can lock files (flock)"),
        (Errno::OPNOTSUPP, precondition, "that can lock files (flock)"),
        (Errno::NOENT, precondition, "make it again"),
        (Errno::IO, precondition, "check the disk"),
    ] {
        let failure = directory.failure("cannot be opened", error);
        assert!(is_kind(&failure), "{failure:?}");
        let text = failure.to_string();
        assert!(text.contains("it cannot be opened: ") && text.contains(remedy), "{text}");
        assert!(text.contains(&shown), "{text}");
        assert!(std::error::Error::source(&failure).is_some(), "{failure:?}");
    }
}

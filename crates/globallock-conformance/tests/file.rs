//! What only the file store has: its directory, its limits, and the processes of one host.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::FutureExt;
use globallock::{
    Eviction, LockManager, Loss, ManagerOptions, Name, Options, Owner, Release, StoreNoticeKind,
};
use globallock_conformance::child::{Owner as Child, Report};
use globallock_conformance::context::{Context, LIMIT, eventually};
use globallock_conformance::fixtures::{LEASE, observed};
use globallock_conformance::fleet::Fleet;
use globallock_conformance::golden::{claims, compare, fill, masked};
use globallock_conformance::store_under_test::StoreUnderTest;
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

fn url(directory: &Path) -> String {
    format!("file://{}", directory.display())
}

async fn manager(directory: &Path) -> LockManager {
    let locks = Options::new().lease(std::time::Duration::from_secs(1));
    let options = ManagerOptions::new().locks(locks);
    LockManager::connect_with(&url(directory), options).await.expect("the directory is fit")
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_refused_with_the_remedy() {
    let place = TempDir::new().unwrap();
    let plain = place.path().join("plain");
    fs::write(&plain, "text").unwrap();
    let link = place.path().join("link");
    std::os::unix::fs::symlink("/does/not/exist", &link).unwrap();
    for (url, text) in [
        (url(&place.path().join("a/b")), "its parent does not exist"),
        (url(&plain), "name a directory"),
        (url(&link), "cannot be opened"),
        ("file:///sys/globallock".to_owned(), "file:///sys/globallock"),
        ("file://host/directory".to_owned(), "three slashes"),
        ("file:locks".to_owned(), "relative"),
        ("file:///tmp/x?network=yes".to_owned(), "one value: allow"),
        ("file:///tmp/x?colour=red".to_owned(), "no option \"colour\""),
    ] {
        let refused = LockManager::connect(&url).await.expect_err(&url);
        assert!(!refused.is_retryable(), "{url}: {refused:?}");
        assert!(refused.to_string().contains(text), "{url}: {refused}");
    }
}

#[tokio::test]
async fn the_directory_is_private_unless_it_is_shared() {
    let place = TempDir::new().unwrap();
    let private = place.path().join("private");
    let guard = manager(&private).await.mutex("a").acquire().await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let claim = |directory: &Path| fs::read_dir(directory.join("a")).unwrap().next().unwrap().unwrap().path();
    assert_eq!([mode(&private), mode(&private.join("a")), mode(&claim(&private))], [0o700, 0o700, 0o600]);
    drop(guard);
    let shared = place.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    let _guard = manager(&shared).await.mutex("a").acquire().await.unwrap();
    assert_eq!([mode(&shared.join("a")), mode(&claim(&shared))], [0o777, 0o666]);
    assert_eq!(mode(&shared.join(".fence")), 0o666);
}

#[tokio::test]
async fn fencing_tokens_rise_after_the_counter_is_lost_or_damaged() {
    let place = TempDir::new().unwrap();
    let manager = manager(place.path()).await;
    let lock = manager.mutex("a");
    let mut last = 0;
    let counter = place.path().join(".fence");
    for damage in [None, Some(""), Some("garbage"), Some("00000000000000000007"), None] {
        match damage {
            Some(text) => fs::write(&counter, text).unwrap(),
            None => drop(fs::remove_file(&counter)),
        }
        let guard = lock.acquire().await.unwrap();
        assert!(guard.fencing_token() > last, "{damage:?}");
        last = guard.fencing_token();
        guard.release().await.unwrap();
    }
    // A clock that was set back does not set the counter back.
    fs::write(&counter, "09000000000000000000").unwrap();
    assert_eq!(lock.acquire().await.unwrap().fencing_token(), 9_000_000_000_000_000_001);
}

#[tokio::test]
async fn files_that_are_no_claims_are_kept() {
    let place = TempDir::new().unwrap();
    let manager = manager(place.path()).await;
    fs::create_dir(place.path().join("a")).unwrap();
    let stray = place.path().join("a/README");
    fs::write(&stray, "mine").unwrap();
    manager.mutex("a").acquire().await.unwrap().release().await.unwrap();
    assert_eq!(fs::read_to_string(stray).unwrap(), "mine");
}

/// An operator or a cleaner of temporary files deletes the lock's directory again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_deleted_meanwhile_are_created_again() {
    let place = TempDir::new().unwrap();
    let directory = place.path().join("locks");
    let manager = manager(&directory).await;
    let (running, path) = (Arc::new(AtomicBool::new(true)), directory.join("a"));
    let (run, granted) = (Arc::clone(&running), Arc::new(AtomicUsize::new(0)));
    let grants = Arc::clone(&granted);
    let deletes = std::thread::spawn(move || {
        let (mut deleted, mut before) = (0, 0);
        while run.load(Ordering::SeqCst) {
            // At a random moment of the acquires and releases below, each of which may take longer than this.
            std::thread::sleep(std::time::Duration::from_micros(500));
            let now = grants.load(Ordering::SeqCst);
            if now > before {
                deleted += u32::from(fs::remove_dir_all(&path).is_ok());
                before = now;
            }
        }
        deleted
    });
    let lock = manager.mutex("a");
    let acquired = async {
        for _ in 0..3000 {
            // A claim whose file is deleted while it is held is lost, and its release finds nothing.
            let guard = lock.acquire().await.expect("it is granted");
            granted.fetch_add(1, Ordering::SeqCst);
            guard.release().await.expect("it is released");
        }
    };
    let ended = tokio::time::timeout(LIMIT, AssertUnwindSafe(acquired).catch_unwind()).await;
    running.store(false, Ordering::SeqCst);
    assert!(deletes.join().unwrap() > 100, "the directory is deleted meanwhile");
    assert!(ended.expect("it is granted in the end").is_ok(), "a missing file is not refused");
}

/// A directory has taken the place of a claim's file, so that this cannot be deleted.
#[tokio::test]
async fn a_claim_that_cannot_be_deleted_is_released_and_that_is_told() {
    let place = TempDir::new().unwrap();
    let (manager, notices) = observed(&url(place.path()), LEASE).await;
    let guard = manager.mutex("a").acquire().await.unwrap();
    let claim = fs::read_dir(place.path().join("a")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(&claim).unwrap();
    fs::create_dir(&claim).unwrap();
    assert_eq!(guard.release().await.unwrap(), Release::Released);
    let told = notices.first(StoreNoticeKind::NotDeleted).await;
    assert_eq!(told.name.as_ref().map(Name::as_str), Some("a"));
    assert!(told.reason.contains("cannot be written to"), "{told:?}");
    fs::remove_dir(&claim).unwrap();
    assert!(manager.mutex("a").try_acquire().await.unwrap().is_some());
    assert_eq!(notices.of(StoreNoticeKind::NotDeleted).len(), 1);
}

/// The file that evictors touch is gone.
#[tokio::test]
async fn an_evicted_owner_that_cannot_be_woken_is_told_late_and_that_is_told() {
    let place = TempDir::new().unwrap();
    let owner = manager(place.path()).await;
    let (operator, notices) = observed(&url(place.path()), LEASE).await;
    let guard = owner.mutex("a").acquire().await.unwrap();
    fs::remove_file(place.path().join(".fence")).unwrap();
    let key = operator.inspect("a").await.unwrap().swap_remove(0).key;
    assert_eq!(operator.evict("a", &key, "it hangs").await.unwrap(), Release::Released);
    let told = notices.first(StoreNoticeKind::EvictionToldLate).await;
    assert!(told.reason.contains("No such file"), "{told:?}");
    assert!(matches!(guard.lost().await, Loss::Evicted(eviction) if eviction.reason == "it hangs"));
}

#[tokio::test]
async fn claims_of_dead_owners_are_removed() {
    let place = TempDir::new().unwrap();
    let manager = manager(place.path()).await;
    let guard = manager.mutex("a").acquire().await.unwrap();
    let claim = fs::read_dir(place.path().join("a")).unwrap().next().unwrap().unwrap().path();
    // What a killed owner leaves: its file, which nobody has open. It is in front of all others.
    let file = claim.file_name().unwrap().to_str().unwrap();
    let (_, permits) = file.split_at(20 + 1 + 32);
    let dead = claim.with_file_name(format!("{:020}.{}{permits}", guard.fencing_token() - 1, "0".repeat(32)));
    assert_eq!(manager.inspect("a").await.unwrap().len(), 1);
    assert!(!dead.exists());
}

#[tokio::test]
async fn a_critical_section_that_stays_busy_is_reported() {
    let place = TempDir::new().unwrap();
    let manager = manager(place.path()).await;
    let guard = manager.mutex("a").acquire().await.unwrap();
    let directory = fs::File::open(place.path().join("a")).unwrap();
    flock(&directory, FlockOperation::LockExclusive).unwrap();
    let short = manager_options().wait(Some(std::time::Duration::from_secs(6)));
    let refused = manager.mutex("a").with_options(short).acquire().await.unwrap_err();
    assert!(refused.is_unavailable(), "{refused:?}");
    assert!(refused.to_string().contains("fuser -v"), "{refused}");
    assert!(guard.is_held(), "a held lock is renewed without the critical section");
    drop(directory);
    guard.release().await.unwrap();
    assert!(manager.mutex("a").try_acquire().await.unwrap().is_some());
}

fn manager_options() -> Options {
    Options::new().store_timeout(Some(std::time::Duration::from_secs(3)))
}

#[tokio::test]
async fn a_deleted_directory_is_a_loss_and_is_created_again() {
    let place = TempDir::new().unwrap();
    let directory = place.path().join("locks");
    let manager = manager(&directory).await;
    let lock = manager.mutex("a");
    let guard = lock.acquire().await.unwrap();
    fs::remove_dir_all(&directory).unwrap();
    assert_eq!(guard.lost().await, Loss::Revoked);
    let next = lock.acquire().await.unwrap();
    assert!(next.is_held() && next.fencing_token() > guard.fencing_token());
}

#[tokio::test]
async fn a_process_at_its_limit_of_open_files_gets_an_error_that_says_so() {
    let place = TempDir::new().unwrap();
    let program = env!("CARGO_BIN_EXE_globallock-child");
    let script = format!("ulimit -n 9; exec {program} {} a mutex 1s", url(place.path()));
    let output = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
    let told =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("limit of open files") || told.contains("Too many open files"), "{told}");
    assert!(manager(place.path()).await.mutex("a").try_acquire().await.unwrap().is_some());
}

/// Only eviction ends the claim of a stopped process without a max hold time. Its file stays open and locked.
#[tokio::test]
async fn a_stopped_owner_is_evicted_and_told_when_it_goes_on() {
    let place = TempDir::new().unwrap();
    let child = PathBuf::from(env!("CARGO_BIN_EXE_globallock-child"));
    let store = StoreUnderTest::at("file", &url(&place.path().join("locks")), Some(child));
    let context = Context::new(&store, "a_stopped_owner", "mutex");
    let [operator, waits] = context.managers().await;
    let mut holder = Child::start(&context, "mutex", None);
    let token = holder.granted().await;
    let next = context.queued(context.lock(&waits), 1, 1).await;
    holder.stop().await;
    let key = context.queue(&operator).await.swap_remove(0).key;
    let evicted = operator.evict(context.name(), &key, "it is stopped").await.unwrap();
    assert_eq!(evicted, Release::Released);
    let next = next.await.unwrap().expect("it is granted while the other is stopped");
    assert!(next.fencing_token() > token);
    // Whoever comes now waits for the new holder, and not for the file that the stopped one keeps locked.
    let last = context.queued(context.lock(&operator), 1, 1).await;
    next.release().await.unwrap();
    last.await.unwrap().unwrap().release().await.unwrap();
    holder.go_on();
    match holder.next_report().await {
        Report::Lost(why) => assert!(why.contains("it is stopped"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(holder.next_report().await, Report::Released(false));
    assert!(!place.path().join("locks").join(context.name()).exists(), "nothing is left of it");
}

#[tokio::test]
async fn eight_processes_take_turns_and_never_overlap() {
    let place = TempDir::new().unwrap();
    let directory = place.path().join("locks");
    let mut fleet = Fleet::new();
    for _ in 0..8 {
        fleet.add_ours(env!("CARGO_BIN_EXE_globallock-child").as_ref(), &url(&directory), "a", "mutex");
    }
    let all = fleet.finish();
    let (fewest, most) = (all.iter().min().unwrap(), all.iter().max().unwrap());
    assert!(*fewest > 0 && most <= &(fewest * 2), "waiters in order have as many turns: {all:?}");
    eventually("no file is left", async || !directory.join("a").exists()).await;
}

/// All files below the directory, sorted, with their contents. In their names, moments and users are masked.
fn dump(directory: &Path, below: &str) -> String {
    let mut written = String::new();
    let mut entries: Vec<_> =
        fs::read_dir(directory.join(below.trim_start_matches('/'))).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = format!("{below}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            written += &format!("{}\n{}", without_user(&path), dump(directory, &path));
        } else {
            let held = String::from_utf8(fs::read(entry.path()).unwrap()).unwrap();
            let path = without_user(&path);
            let name: Vec<&str> = path.split('.').collect();
            let granted = name.last().filter(|granted| **granted != "0" && name.len() > 5);
            let name =
                granted.map_or(path.clone(), |granted| path.trim_end_matches(granted).to_owned() + "<ms>");
            written += &format!("{name}\n    {}\n", held.trim_matches(|c: char| c == '\0'));
        }
    }
    written
}

/// The path, with the user and the group masked if it is that of a spare directory.
fn without_user(path: &str) -> String {
    let Some(spare) = path.strip_prefix("/.spare-") else { return path.to_owned() };
    let (spare, below) = spare.split_once('/').unwrap_or((spare, ""));
    let mode = spare.split('-').next().unwrap();
    let below = if below.is_empty() { String::new() } else { format!("/{below}") };
    format!("/.spare-{mode}-<user>-<group>{below}")
}

#[tokio::test]
async fn the_names_and_contents_of_files_are_unchanged() {
    let place = TempDir::new().unwrap();
    let directory = place.path().join("locks");
    let backend = globallock::connect_backend(&url(&directory)).await.unwrap();
    fill(&*backend).await;
    let joined = dump(&directory, "");
    // Its owner has the file of an evicted claim open, as this test has.
    let first = &claims()[0];
    let is_first = |path: &PathBuf| path.to_str().unwrap().contains(&first.id.to_string());
    let mut files = fs::read_dir(directory.join("nightly")).unwrap().map(|entry| entry.unwrap().path());
    let mut open = fs::File::open(files.find(is_first).unwrap()).unwrap();
    let operator = Owner { host: "db2".to_owned(), pid: Some(34), label: Some("☃".to_owned()) };
    let eviction = Eviction::new(operator, "it \"hangs\"\nsince noon");
    assert_eq!(backend.evict(&first.name, &first.id.into(), &eviction).await.unwrap(), Release::Released);
    let mut evicted = String::new();
    open.read_to_string(&mut evicted).unwrap();
    for claim in claims() {
        backend.release(&claim).await.unwrap();
    }
    let evicted = evicted.replace('\0', "<NUL>");
    let written = format!("Joined:\n{joined}\nEvicted:\n{evicted}\n\nLeft:\n{}", dump(&directory, ""));
    compare(&masked(&written), include_str!("file.txt"));
}

/// Prints what a store in the directory of `GLOBALLOCK_URL` notices.
async fn print_what_is_noticed() {
    let (manager, notices) = observed(&std::env::var("GLOBALLOCK_URL").unwrap(), LEASE).await;
    manager.close().await;
    for notice in notices.of(StoreNoticeKind::NotShared) {
        println!("noticed: {}", notice.reason);
    }
}

/// Runs this program in an overlay for a root, which looks like a container's if it has the mark.
const OVERLAY: &str = "
    mkdir upper work root
    mount -t overlay overlay -o lowerdir=/,upperdir=$PWD/upper,workdir=$PWD/work root || exit 77
    mkdir root/locks root/mounted
    mount -t tmpfs tmpfs root/mounted
    cp $PROGRAM root/program
    rm -f root/.dockerenv root/run/.containerenv
    [ -z $MARK ] || touch root/$MARK
    export GLOBALLOCK_IN_OTHER_ROOT=yes
    exec chroot root /program --exact the_own_files_of_a_container_are_noticed --nocapture";

/// It runs itself in other roots.
#[tokio::test]
async fn the_own_files_of_a_container_are_noticed() {
    if std::env::var_os("GLOBALLOCK_IN_OTHER_ROOT").is_some() {
        return print_what_is_noticed().await;
    }
    for (mark, directory, is_noticed) in
        [(".dockerenv", "locks", true), (".dockerenv", "mounted", false), ("", "locks", false)]
    {
        let place = TempDir::new().unwrap();
        let mut shell = Command::new("sh");
        // Root needs no namespace of users, and others may need one.
        let private = if rustix::process::geteuid().is_root() { "" } else { "--map-root-user" };
        shell.args(["-c", &format!("unshare --mount {private} sh -ec '{OVERLAY}'")]);
        shell.current_dir(place.path());
        shell.env("PROGRAM", std::env::current_exe().unwrap()).env("MARK", mark);
        let ran = shell.env("GLOBALLOCK_URL", format!("file:///{directory}")).output().unwrap();
        let printed = String::from_utf8(ran.stdout).unwrap();
        let complaints = String::from_utf8_lossy(&ran.stderr);
        if ran.status.code() == Some(77) || complaints.contains("unshare:") {
            return println!("skipped: no overlay can be mounted here: {complaints}");
        }
        assert!(ran.status.success(), "{printed}{complaints}");
        let told = "noticed: it is among the container's own files, which no other container sees: to share \
                    locks, mount one directory into each\n";
        assert_eq!(printed.matches(told).count(), usize::from(is_noticed), "{mark:?} {directory}: {printed}");
    }
}

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::{FutureExt, TryStreamExt};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use tempfile::TempDir;
use tokio::time::timeout;

use super::super::RECHECK;
use super::*;
use crate::backend::{Backend, Claim, ClaimStatus};
use crate::error::Error;
use crate::queue::Permits;
use crate::stores::address::Address;

/// More than any of these tests takes.
const LIMIT: Duration = Duration::from_secs(60);

struct Fixture {
    root: TempDir,
}

impl Fixture {
    fn new() -> Self {
        Fixture { root: TempDir::new().unwrap() }
    }

    /// A store of this directory, as another process has it.
    fn store(&self) -> Arc<File> {
        let address = Address::parse(&format!("file://{}", self.root.path().display())).unwrap();
        File::open(address).unwrap()
    }

    /// The only file of the lock "a".
    fn file(&self) -> PathBuf {
        let mut files = read_dir(self.root.path().join("a")).unwrap();
        let file = files.next().unwrap().unwrap().path();
        assert!(files.next().is_none());
        file
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn claim(number: u64) -> Claim {
    Claim::new(ClaimId::new(7, number), name("a"), Permits::MUTEX).with_owner("me")
}

fn by(label: &str) -> Eviction {
    Eviction::new(Owner::default().with_label(label), "because")
}

async fn renewed(store: &File, claim: &Claim) -> ClaimStatus {
    store.renew(&[Arc::new(claim.clone())]).await.remove(0).unwrap()
}

async fn evict(store: &File, claim: &Claim, eviction: &Eviction) -> Release {
    store.evict(&claim.name, &claim.id.into(), eviction).await.unwrap()
}

fn held(status: &ClaimStatus) -> bool {
    matches!(status, ClaimStatus::Held(_))
}

fn told(eviction: Eviction) -> ClaimStatus {
    ClaimStatus::Evicted(Arc::new(eviction))
}

#[tokio::test]
async fn a_notice_counts_only_once_the_claim_is_out_of_the_queue() {
    let fixture = Fixture::new();
    let (owner, other) = (fixture.store(), fixture.store());
    assert!(held(&owner.enqueue(&claim(1)).await.unwrap()));
    // As if an evictor had written first and died before the deletion.
    let mut text = fs::read(fixture.file()).unwrap();
    text.extend(format!("\0{}", by("dead").to_text()).bytes());
    fs::write(fixture.file(), text).unwrap();
    assert!(held(&renewed(&owner, &claim(1)).await));
    assert!(held(&owner.enqueue(&claim(1)).await.unwrap()));
    assert_eq!(other.inspect(&name("a")).await.unwrap()[0].owner.label.as_deref(), Some("me"));
    assert_eq!(evict(&other, &claim(1), &by("live")).await, Release::Released);
    assert_eq!(renewed(&owner, &claim(1)).await, told(by("live")), "the last notice counts");
}

#[tokio::test]
async fn an_evicted_claim_does_not_join_again_whatever_its_owner_asks_first() {
    let fixture = Fixture::new();
    let (owner, other) = (fixture.store(), fixture.store());
    for (number, asked) in (1..).zip(["enqueue", "renew", "wait_for_change"]) {
        owner.enqueue(&claim(number)).await.unwrap();
        evict(&other, &claim(number), &by(asked)).await;
        let status = match asked {
            "enqueue" => owner.enqueue(&claim(number)).await.unwrap(),
            "renew" => renewed(&owner, &claim(number)).await,
            _ => owner.wait_for_change(&claim(number)).await.unwrap().unwrap(),
        };
        assert_eq!(status, told(by(asked)));
        assert_eq!(owner.enqueue(&claim(number)).await.unwrap(), told(by(asked)));
        assert!(other.inspect(&name("a")).await.unwrap().is_empty());
    }
}

/// As on NFS, where a file that is deleted while a process has it open gets another name.
#[tokio::test]
async fn a_holder_is_told_though_its_deleted_file_still_has_a_name() {
    let fixture = Fixture::new();
    let (owner, other) = (fixture.store(), fixture.store());
    owner.enqueue(&claim(1)).await.unwrap();
    fs::hard_link(fixture.file(), fixture.root.path().join("a/.nfs01")).unwrap();
    assert_eq!(evict(&other, &claim(1), &by("live")).await, Release::Released);
    assert_eq!(renewed(&owner, &claim(1)).await, told(by("live")));
}

#[tokio::test]
async fn a_waiter_is_told_at_once() {
    let fixture = Fixture::new();
    let (holder, owner) = (fixture.store(), fixture.store());
    holder.enqueue(&claim(1)).await.unwrap();
    owner.enqueue(&claim(2)).await.unwrap();
    let waiter = claim(2);
    let mut waiting = Box::pin(owner.wait_for_change(&waiter));
    // Until it has looked at the queue for the last time that is not due to an event.
    assert!(timeout(RECHECK * 5, &mut waiting).await.is_err());
    assert_eq!(evict(&holder, &claim(2), &by("live")).await, Release::Released);
    let status = timeout(LIMIT, waiting).await.expect("it is woken").unwrap();
    assert_eq!(status, Some(told(by("live"))));
}

#[tokio::test]
async fn a_claim_whose_file_was_only_deleted_is_gone_and_may_join_again() {
    let fixture = Fixture::new();
    let owner = fixture.store();
    assert!(held(&owner.enqueue(&claim(1)).await.unwrap()));
    fs::remove_file(fixture.file()).unwrap();
    assert_eq!(renewed(&owner, &claim(1)).await, ClaimStatus::Gone);
    assert!(held(&owner.enqueue(&claim(1)).await.unwrap()));
    fs::remove_file(fixture.file()).unwrap();
    assert!(held(&owner.enqueue(&claim(1)).await.unwrap()));
    assert_eq!(owner.release(&claim(1)).await.unwrap(), Release::Released);
}

#[tokio::test]
async fn an_owner_that_releases_an_evicted_claim_is_told_of_it_later_too() {
    let fixture = Fixture::new();
    let (owner, other) = (fixture.store(), fixture.store());
    owner.enqueue(&claim(1)).await.unwrap();
    evict(&other, &claim(1), &by("live")).await;
    assert_eq!(owner.release(&claim(1)).await.unwrap(), Release::NotHeld);
    assert_eq!(renewed(&owner, &claim(1)).await, told(by("live")));
    assert_eq!(owner.enqueue(&claim(1)).await.unwrap(), told(by("live")));
    assert_eq!(owner.wait_for_change(&claim(1)).await.unwrap(), Some(told(by("live"))));
    assert!(other.inspect(&name("a")).await.unwrap().is_empty());
}

#[tokio::test]
async fn without_room_for_a_notice_the_owner_is_told_of_the_eviction_alone() {
    let fixture = Fixture::new();
    let (owner, other) = (fixture.store(), fixture.store());
    owner.enqueue(&claim(1)).await.unwrap();
    // The longest file that the file system can have: nothing can be appended to it.
    let file = fs::File::options().write(true).open(fixture.file()).unwrap();
    let (mut fits, mut too_long) = (0, 1 << 63);
    while too_long - fits > 1 {
        let length = fits + (too_long - fits) / 2;
        if file.set_len(length).is_ok() { fits = length } else { too_long = length }
    }
    drop(file);
    assert_eq!(evict(&other, &claim(1), &by("live")).await, Release::Released);
    assert_eq!(renewed(&owner, &claim(1)).await, told(Eviction::new(Owner::default(), "")));
}

#[tokio::test]
async fn a_file_that_may_not_be_written_to_is_not_deleted_either() {
    let fixture = Fixture::new();
    let (owner, other) = (fixture.store(), fixture.store());
    owner.enqueue(&claim(1)).await.unwrap();
    fs::set_permissions(fixture.file(), fs::Permissions::from_mode(0o400)).unwrap();
    let refused = std::thread::scope(|scope| {
        let denied = || {
            // Root has the right to write everywhere.
            let mut sets = capabilities(None).unwrap();
            sets.effective = CapabilitySet::empty();
            set_capabilities(None, sets).unwrap();
            other.evict(&name("a"), &claim(1).id.into(), &by("live")).now_or_never().unwrap().unwrap_err()
        };
        scope.spawn(denied).join().unwrap()
    });
    assert!(matches!(refused, Error::PermissionDenied { .. }), "{refused:?}");
    assert!(held(&renewed(&owner, &claim(1)).await));
}

#[tokio::test]
async fn a_link_in_the_place_of_a_claim_is_taken_out_and_not_followed() {
    let fixture = Fixture::new();
    let (owner, other) = (fixture.store(), fixture.store());
    owner.enqueue(&claim(1)).await.unwrap();
    let elsewhere = fixture.root.path().join("elsewhere");
    fs::write(&elsewhere, "mine").unwrap();
    let file = fixture.file();
    fs::remove_file(&file).unwrap();
    symlink(&elsewhere, &file).unwrap();
    assert_eq!(other.enqueue(&claim(2)).await.unwrap(), ClaimStatus::Waiting);
    assert_eq!(evict(&other, &claim(1), &by("live")).await, Release::Released);
    assert!(held(&renewed(&other, &claim(2)).await));
    assert_eq!(fs::read_to_string(elsewhere).unwrap(), "mine");
    assert_eq!(renewed(&owner, &claim(1)).await, ClaimStatus::Gone);
}

#[tokio::test]
async fn a_dead_claim_is_removed_and_was_not_evicted() {
    let fixture = Fixture::new();
    let (holder, owner) = (fixture.store(), fixture.store());
    holder.enqueue(&claim(1)).await.unwrap();
    owner.enqueue(&claim(2)).await.unwrap();
    owner.open_files.remove(claim(2).id);
    assert_eq!(evict(&holder, &claim(2), &by("live")).await, Release::NotHeld);
    assert!(fixture.file().to_str().unwrap().contains(&claim(1).id.to_string()), "one file is left");
}

/// Four processes: the first holds, and each waits for the one in front of it.
#[tokio::test]
async fn who_waits_for_an_evicted_waiter_then_waits_for_the_next_in_front() {
    let fixture = Fixture::new();
    let stores = [fixture.store(), fixture.store(), fixture.store(), fixture.store()];
    for (number, store) in (1..).zip(&stores) {
        store.enqueue(&claim(number)).await.unwrap();
    }
    let (last, fourth) = (&stores[3], claim(4));
    let mut waiting = Box::pin(last.wait_for_change(&fourth));
    // Until it has looked at the queue for the last time that is not due to an event.
    assert!(timeout(RECHECK * 5, &mut waiting).await.is_err());
    // The third is stopped: it does not close its file.
    assert_eq!(evict(&stores[0], &claim(3), &by("live")).await, Release::Released);
    assert!(timeout(RECHECK * 5, &mut waiting).await.is_err());
    for (number, store) in (1..).zip(&stores[..2]) {
        store.open_files.remove(claim(number).id);
    }
    let status = timeout(LIMIT, waiting).await.expect("it is woken").unwrap();
    assert!(held(&status.unwrap()));
}

#[tokio::test]
async fn a_waiter_behind_many_of_its_own_process_is_told_at_once() {
    let fixture = Fixture::new();
    let (holder, owner) = (fixture.store(), fixture.store());
    holder.enqueue(&claim(1)).await.unwrap();
    for number in 2..30 {
        assert_eq!(owner.enqueue(&claim(number)).await.unwrap(), ClaimStatus::Waiting);
    }
    let changed = |number| {
        let owner = Arc::clone(&owner);
        tokio::spawn(async move { owner.wait_for_change(&claim(number)).await.unwrap() })
    };
    let (evicted, next) = (changed(28), changed(29));
    tokio::task::yield_now().await;
    assert_eq!(evict(&holder, &claim(28), &by("live")).await, Release::Released);
    let status = timeout(LIMIT, evicted).await.expect("it is told").unwrap();
    assert_eq!(status, Some(told(by("live"))));
    // All that are in front of the last one are evicted, and their owners do not ask.
    for number in (1..28).rev() {
        assert_eq!(evict(&holder, &claim(number), &by("live")).await, Release::Released);
    }
    let status = timeout(LIMIT, next).await.expect("it is granted").unwrap();
    assert!(held(&status.unwrap()));
}

/// Waits until evictions are watched, which is when the store has had a claim for a while.
async fn watched(store: &File) {
    let watched = async {
        while store.watches.should_watch_evictions() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, watched).await.expect("a claim is held for long");
}

/// Evicts a holder whose store waits for a hint. If `cleaned`, a cleaner deletes the counter before.
async fn is_hinted(cleaned: bool) {
    let fixture = Fixture::new();
    let (owner, other) = (fixture.store(), fixture.store());
    let [first, second] = [owner.session_lost_hint(), owner.session_lost_hint()];
    let waits = {
        let owner = Arc::clone(&owner);
        tokio::spawn(async move { owner.session_lost_hint().await })
    };
    tokio::task::yield_now().await;
    assert!(held(&owner.enqueue(&claim(1)).await.unwrap()));
    watched(&owner).await;
    if cleaned {
        let (deleted, kept) = (owner.watches.evicted(), fs::File::open(owner.directory.counter()).unwrap());
        fs::remove_file(owner.directory.counter()).unwrap();
        timeout(LIMIT, deleted).await.expect("it is told");
        tokio::task::yield_now().await;
        // The next claim creates it again. The watch ends only when nobody has the deleted file open.
        other.enqueue(&claim(2)).await.unwrap();
        other.release(&claim(2)).await.unwrap();
        drop(kept);
        let ended = async {
            while !owner.watches.should_watch_evictions() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LIMIT, ended).await.expect("the watch ends");
        watched(&owner).await;
    }
    assert_eq!(evict(&other, &claim(1), &by("live")).await, Release::Released);
    timeout(LIMIT, waits).await.expect("it is told").unwrap();
    // They tell of what has happened since the calls, not since they are polled first.
    timeout(LIMIT, async { tokio::join!(first, second) }).await.expect("all are told");
    let left = read_dir(fixture.root.path()).unwrap().map(|entry| entry.unwrap().path());
    let mut left: Vec<_> =
        left.filter(|path| !read_dir(path).is_ok_and(|files| files.count() == 0)).collect();
    left.retain(|path| *path != owner.directory.counter());
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(renewed(&owner, &claim(1)).await, told(by("live")));
}

#[tokio::test]
async fn a_store_is_hinted_to_ask_about_its_claims_when_one_was_evicted() {
    is_hinted(false).await;
}

#[tokio::test]
async fn a_store_is_hinted_although_the_counter_was_deleted_and_created_again() {
    is_hinted(true).await;
}

#[tokio::test]
async fn a_store_that_never_has_a_claim_for_long_watches_nothing() {
    let fixture = Fixture::new();
    let owner = fixture.store();
    let mut hint = owner.session_lost_hint();
    for number in 0..3 {
        assert!(held(&owner.enqueue(&claim(number)).await.unwrap()));
        assert!((&mut hint).now_or_never().is_none());
        assert_eq!(owner.release(&claim(number)).await.unwrap(), Release::Released);
    }
    assert!((&mut hint).now_or_never().is_none() && owner.watches.should_watch_evictions());
}

/// Owners release, and operators evict, the same claims at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_release_and_two_evictions_at_once_one_succeeds() {
    let fixture = Fixture::new();
    let stores = [fixture.store(), fixture.store(), fixture.store()];
    for number in 0..100 {
        assert!(held(&stores[0].enqueue(&claim(number)).await.unwrap()), "the last one has left no claim");
        let tasks = [0, 1, 2].map(|actor| {
            let store = Arc::clone(&stores[actor]);
            tokio::spawn(async move {
                match actor {
                    0 => store.release(&claim(number)).await.unwrap(),
                    _ => evict(&store, &claim(number), &by(&actor.to_string())).await,
                }
            })
        });
        let mut done = Vec::new();
        for task in tasks {
            done.push(task.await.unwrap() == Release::Released);
        }
        assert_eq!(done.iter().filter(|done| **done).count(), 1, "{done:?}");
        let status = renewed(&stores[0], &claim(number)).await;
        let evictor = (1..3).find(|actor| done[*actor]);
        assert_eq!(status, evictor.map_or(ClaimStatus::Gone, |actor| told(by(&actor.to_string()))));
    }
}

async fn listed(store: &File, prefix: &str) -> Vec<String> {
    let summaries: Vec<Summary> = store.list(prefix).try_collect().await.unwrap();
    let mut names: Vec<String> = summaries.iter().map(|summary| summary.name.as_str().to_owned()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn directories_that_are_no_locks_are_not_listed() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let long = "x".repeat(300);
    for (number, text) in (1..).zip(["a", &long]) {
        let claim = Claim::new(ClaimId::new(7, number), name(text), Permits::MUTEX);
        assert!(held(&store.enqueue(&claim).await.unwrap()));
    }
    // One that only root may enter, one whose claim names another lock, and a file.
    let root = fixture.root.path();
    fs::create_dir(root.join("lost+found")).unwrap();
    let wrong = root.join("wrong%%directory");
    fs::create_dir(&wrong).unwrap();
    fs::copy(fixture.file(), wrong.join(fixture.file().file_name().unwrap())).unwrap();
    fs::write(root.join("file"), "").unwrap();
    let copied = fs::File::open(read_dir(&wrong).unwrap().next().unwrap().unwrap().path()).unwrap();
    rustix::fs::flock(&copied, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert_eq!(listed(&store, "").await, ["a", &long]);
    assert_eq!(listed(&store, "x").await, [long]);
    assert!(root.join("lost+found").exists(), "and they are not removed");
}

#[tokio::test]
async fn what_vanishes_while_it_is_listed_is_missed_and_the_rest_is_listed() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let claim = |number: u64| Claim::new(ClaimId::new(7, number), name(&number.to_string()), Permits::MUTEX);
    // More than the kernel reports in one read of the directory.
    for number in 0..900 {
        assert!(held(&store.enqueue(&claim(number)).await.unwrap()));
    }
    let mut summaries = store.list("");
    let mut seen = Vec::new();
    while let Some(summary) = summaries.next().await {
        let number: u64 = summary.unwrap().name.as_str().parse().unwrap();
        seen.push(number);
        let even = number - number % 2;
        store.release(&claim(even)).await.unwrap();
    }
    seen.sort_unstable();
    seen.dedup();
    assert!((0..900).filter(|number| number % 2 == 1).all(|odd| seen.contains(&odd)), "{seen:?}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_read_is_an_error_and_one_that_was_deleted_is_empty() {
    let fixture = Fixture::new();
    let store = fixture.store();
    fs::remove_dir_all(fixture.root.path()).unwrap();
    assert!(listed(&store, "").await.is_empty());
    fs::write(fixture.root.path(), "").unwrap();
    let error = store.list("").next().await.unwrap().unwrap_err();
    assert!(error.to_string().contains("cannot be read"), "{error}");
    fs::remove_file(fixture.root.path()).unwrap();
}

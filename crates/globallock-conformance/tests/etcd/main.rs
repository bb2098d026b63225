//! What only etcd has: the queue shared with its own mutex, leases and keys that are deleted by hand, users,
//! TLS, and members that fail.

mod contents;
mod crowds;
mod deposed;
mod evicting;
mod full;
mod late;
mod listing;
mod notices;
mod users;
mod wire;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use globallock::{Error, Loss, Options};
use globallock_conformance::context::{LIMIT, eventually};
use globallock_conformance::fixtures::{
    calm_manager, connect, connect_for, deaths_of_leaders, manager, queue_is, release_without_majority, waits,
};
use globallock_conformance::proxy::{Flow, Proxy};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::certificates::Certificates;
use globallock_conformance::server::etcd::{self, Etcd};
use tempfile::TempDir;

/// Starts `etcdctl lock`, which holds the lock until it is stopped.
fn etcdctl_lock(cluster: &Etcd, name: &str) -> Child {
    let mut command = etcd::ctl(&cluster.endpoints());
    command.args(["lock", "--ttl", "2", &format!("/locks/_glocks/{name}")]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Stops it as Ctrl-C does, so that it releases the lock.
fn end(mut etcdctl: Child) {
    Command::new("kill").args(["-INT", &etcdctl.id().to_string()]).status().unwrap();
    etcdctl.wait().unwrap();
}

#[tokio::test]
async fn etcdctl_and_globallock_wait_in_one_queue() {
    let cluster = Etcd::start(1).unwrap();
    let manager = manager(&cluster.url()).await;
    let lock = manager.mutex("a");
    // Theirs holds, and ours waits.
    let theirs = etcdctl_lock(&cluster, "a");
    queue_is(&manager, "a", 1, 0).await;
    assert_eq!(manager.inspect("a").await.unwrap()[0].id, None);
    assert!(lock.try_acquire().await.unwrap().is_none());
    let ours = waits(&manager, "a");
    queue_is(&manager, "a", 1, 1).await;
    // Another of theirs waits behind ours.
    let behind = etcdctl_lock(&cluster, "a");
    queue_is(&manager, "a", 1, 2).await;
    end(theirs);
    let guard = ours.await.unwrap().unwrap();
    queue_is(&manager, "a", 1, 1).await;
    assert!(guard.is_held());
    guard.release().await.unwrap();
    eventually("theirs holds", async || {
        let queue = manager.inspect("a").await.unwrap();
        queue.len() == 1 && queue[0].held && queue[0].id.is_none()
    })
    .await;
    assert!(lock.try_acquire().await.unwrap().is_none());
    end(behind);
    assert!(lock.acquire().await.unwrap().is_held());
}

#[tokio::test]
async fn an_etcdctl_process_runs_its_command_only_after_our_release() {
    let cluster = Etcd::start(1).unwrap();
    let manager = manager(&cluster.url()).await;
    let guard = manager.mutex("a").acquire().await.unwrap();
    let directory = TempDir::new().unwrap();
    let mark = directory.path().join("ran");
    let mut theirs = etcd::ctl(&cluster.endpoints());
    theirs.args(["lock", "/locks/_glocks/a", "touch"]).arg(&mark);
    let mut theirs = theirs.stdout(Stdio::null()).spawn().unwrap();
    queue_is(&manager, "a", 1, 1).await;
    assert!(!mark.exists());
    guard.release().await.unwrap();
    assert!(theirs.wait().unwrap().success());
    assert!(mark.exists());
}

#[tokio::test]
async fn a_revoked_lease_is_reported_and_grants_nothing() {
    let cluster = Etcd::start(1).unwrap();
    let [holder, other] = [manager(&cluster.url()).await, manager(&cluster.url()).await];
    let guard = holder.mutex("a").acquire().await.unwrap();
    let waiter = waits(&other, "a");
    queue_is(&holder, "a", 1, 1).await;
    for lease in cluster.ctl(&["lease", "list"]).lines().skip(1) {
        assert!(cluster.ctl(&["lease", "revoke", lease]).contains("revoked"));
    }
    // The holder learns of its loss. The waiter's key is deleted too, so it joins again with another lease.
    assert_eq!(guard.lost().await, Loss::Revoked);
    let next = waiter.await.unwrap().unwrap();
    assert!(next.is_held() && next.fencing_token() > guard.fencing_token());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ends_while_claims_join_fails_none_of_them() {
    let cluster = Etcd::start(1).unwrap();
    let manager = manager(&cluster.url()).await;
    let is_done = Arc::new(AtomicBool::new(false));
    let tasks = (0..8).map(|number| {
        let (manager, is_done) = (manager.clone(), Arc::clone(&is_done));
        tokio::spawn(async move {
            let mutex = manager.mutex(number.to_string());
            while !is_done.load(Ordering::Relaxed) {
                // Lost or not: what counts is that it was granted.
                let _ = mutex.acquire().await.unwrap().release().await;
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    for _ in 0..10 {
        eventually("a lease", async || cluster.ctl(&["lease", "list"]).lines().count() > 1).await;
        for lease in cluster.ctl(&["lease", "list"]).lines().skip(1) {
            cluster.ctl(&["lease", "revoke", lease]);
        }
    }
    is_done.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_lease_that_ends_is_reported_long_before_its_renewal_is_due() {
    let cluster = Etcd::start(1).unwrap();
    let manager = connect_for(&cluster.url(), Duration::from_secs(60)).await.unwrap();
    let guard = manager.mutex("a").acquire().await.unwrap();
    let leases = || cluster.ctl(&["get", "--prefix", "--keys-only", "/locks/_glocks//"]);
    eventually("the lease has its sentinel key", async || !leases().is_empty()).await;
    let lease = leases().rsplit('/').next().unwrap().to_owned();
    let since = Instant::now();
    assert!(cluster.ctl(&["lease", "revoke", &lease]).contains("revoked"));
    assert_eq!(guard.lost().await, Loss::Revoked);
    assert!(since.elapsed() < Duration::from_secs(15), "its renewal is due after 20 s");
}

#[tokio::test]
async fn a_waiter_whose_key_was_deleted_is_not_granted_by_the_next_release() {
    let cluster = Etcd::start(1).unwrap();
    let [holder, other] = [manager(&cluster.url()).await, manager(&cluster.url()).await];
    for _ in 0..10 {
        let guard = holder.mutex("a").acquire().await.unwrap();
        let waiter = waits(&other, "a");
        queue_is(&holder, "a", 1, 1).await;
        let keys = ["get", "--prefix", "--keys-only", "--sort-by=CREATE", "/locks/_glocks/a/"];
        let waiting = cluster.ctl(&keys).lines().last().unwrap().to_owned();
        assert_eq!(cluster.ctl(&["del", &waiting]), "1");
        guard.release().await.unwrap();
        let next = waiter.await.unwrap().unwrap();
        let queue = holder.inspect("a").await.unwrap();
        assert_eq!(
            (queue.len(), queue[0].fencing_token),
            (1, next.fencing_token()),
            "its claim is in the store"
        );
        next.release().await.unwrap();
    }
}

#[tokio::test]
async fn a_claim_whose_lease_has_ended_is_not_granted() {
    let cluster = Etcd::start(1).unwrap();
    let manager = manager(&cluster.url()).await;
    for _ in 0..10 {
        // Holder and waiter are attached to one lease, so their keys are deleted in one transaction.
        let guard = manager.mutex("a").acquire().await.unwrap();
        let waiter = waits(&manager, "a");
        queue_is(&manager, "a", 1, 1).await;
        for lease in cluster.ctl(&["lease", "list"]).lines().skip(1) {
            cluster.ctl(&["lease", "revoke", lease]);
        }
        let next = waiter.await.unwrap().unwrap();
        let queue = manager.inspect("a").await.unwrap();
        assert_eq!(
            (queue.len(), queue[0].fencing_token),
            (1, next.fencing_token()),
            "its claim is in the store"
        );
        guard.lost().await;
        next.release().await.unwrap();
    }
}

#[tokio::test]
async fn with_interop_a_mutex_also_takes_the_python_etcd3_key() {
    let cluster = Etcd::start(1).unwrap();
    let manager = manager(&format!("{}?interop=python-etcd3", cluster.url())).await;
    let key = "/locks/_glocks/a/b";
    // python-etcd3 holds, so ours waits, though it is first in its queue.
    cluster.ctl(&["put", key, "somebody's 16 byte"]);
    assert!(manager.mutex("a/b").try_acquire().await.unwrap().is_none());
    let waiting = async |count| {
        eventually("so many wait", async || manager.inspect("a/b").await.unwrap().len() == count).await;
    };
    let first = waits(&manager, "a/b");
    waiting(1).await;
    let second = waits(&manager, "a/b");
    waiting(2).await;
    assert!(!first.is_finished() && !second.is_finished());
    assert_eq!(cluster.ctl(&["del", key]), "1");
    let guard = first.await.unwrap().unwrap();
    assert!(guard.is_held() && cluster.ctl(&["get", "--keys-only", key]).contains(key));
    // The key passes from one of our claims to the next, and is deleted with the last. Readers do not take
    // it.
    guard.release().await.unwrap();
    let guard = second.await.unwrap().unwrap();
    assert!(cluster.ctl(&["get", "--keys-only", key]).contains(key));
    guard.release().await.unwrap();
    let reader = manager.rwlock("a/b").read().acquire().await.unwrap();
    assert_eq!(cluster.ctl(&["get", "--keys-only", key]), "");
    reader.release().await.unwrap();
    let refused = connect(&format!("{}?interop=something", cluster.url())).await.unwrap_err();
    assert!(refused.to_string().contains("not python-etcd3"), "{refused}");
}

#[tokio::test]
async fn waiters_survive_the_compaction_of_history() {
    let cluster = Etcd::start(1).unwrap();
    let [holder, other] = [manager(&cluster.url()).await, manager(&cluster.url()).await];
    let guard = holder.mutex("a").acquire().await.unwrap();
    let waiter = waits(&other, "a");
    queue_is(&holder, "a", 1, 1).await;
    for _ in 0..5 {
        cluster.ctl(&["put", "unrelated", "x"]);
    }
    let status = cluster.ctl(&["get", "unrelated", "--write-out", "json"]);
    let revision =
        status.split("\"revision\":").nth(1).and_then(|rest| rest.split([',', '}']).next()).unwrap();
    assert!(cluster.ctl(&["compact", revision]).contains("compacted"));
    guard.release().await.unwrap();
    assert!(waiter.await.unwrap().unwrap().is_held());
}

#[tokio::test]
async fn after_a_broken_connection_waiters_read_again() {
    let cluster = Etcd::start(1).unwrap();
    let holder = manager(&cluster.url()).await;
    let port: u16 = cluster.url().rsplit(':').next().unwrap().parse().unwrap();
    let proxy = Proxy::start(port).await.unwrap();
    let other = manager(&format!("etcd://127.0.0.1:{}?timeout=500ms", proxy.port())).await;
    let guard = holder.mutex("a").acquire().await.unwrap();
    let waiter = waits(&other, "a");
    queue_is(&holder, "a", 1, 1).await;
    proxy.cut();
    eventually("the connection is cut", async || proxy.cuts() > 0).await;
    guard.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    // Then the network falls silent for longer than the lease.
    proxy.answers(Flow::Swallow);
    assert_eq!(guard.lost().await, Loss::Expired);
    assert!(holder.mutex("a").acquire().await.unwrap().is_held());
    assert!(proxy.swallowed() > 0);
}

#[tokio::test]
async fn a_request_that_arrives_late_does_not_enqueue_a_released_claim() {
    let cluster = Etcd::start(1).unwrap();
    let port: u16 = cluster.url().rsplit(':').next().unwrap().parse().unwrap();
    let proxy = Proxy::start(port).await.unwrap();
    let url = format!("etcd://127.0.0.1:{},127.0.0.1:{port}?timeout=1s", proxy.port());
    let manager = connect_for(&url, Duration::from_secs(60)).await.unwrap();
    // The lease exists already, so the first request that is delayed is the one that enqueues the claim.
    manager.mutex("b").acquire().await.unwrap().release().await.unwrap();
    // The delay is four times the timeout or more, so the request is given up, repeated with the other
    // member, and the claim is released before it arrives. Its cancellation is delayed too, so that it cannot
    // overtake the request.
    let proposals = || cluster.proposals(0).unwrap();
    let mut delay = Duration::from_secs(4);
    let before = loop {
        proxy.requests(Flow::Delay(delay));
        let begin = Instant::now();
        let guard = manager.mutex("a").acquire().await.unwrap();
        guard.release().await.unwrap();
        let tombstone = cluster.ctl(&["get", "--prefix", "--keys-only", "/locks/_glocks//"]);
        assert!(tombstone.contains("glocks//"));
        let before = proposals();
        // On a busy machine the request may have arrived before its claim was released.
        if begin.elapsed() < delay {
            break before;
        }
        delay *= 2;
        assert!(delay < Duration::from_secs(60), "the machine is too busy");
        proxy.requests(Flow::Pass);
        tokio::time::sleep(delay).await;
    };
    let carried_out = eventually("the request is carried out", async || proposals() > before);
    // An expiry would count as a proposal too, but no lease expires within this time.
    tokio::time::timeout(delay + Duration::from_secs(30), carried_out).await.expect("it arrives");
    assert_eq!(cluster.ctl(&["get", "--prefix", "--keys-only", "/locks/_glocks/a/"]), "");
    assert!(manager.mutex("a").try_acquire().await.unwrap().is_some());
    drop(manager);
    eventually("nothing is left", async || cluster.ctl(&["get", "--prefix", "--keys-only", "/"]).is_empty())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deaths_of_leaders_break_no_lock() {
    let mut cluster = Etcd::start(3).unwrap();
    let (turns, deaths) = deaths_of_leaders(&mut cluster).await;
    println!("{turns} turns, {deaths} deaths");
    assert!(deaths >= 5);
}

#[tokio::test]
async fn tls_with_a_client_certificate() {
    let directory = TempDir::new().unwrap();
    let files = Certificates::write(directory.path()).unwrap();
    let cluster = Etcd::start_with(1, Some(files.clone())).unwrap();
    let (ca, cert, key) = (files.ca.display(), files.client.display(), files.client_key.display());
    let url = cluster.url();
    let manager = manager(&format!("{url}?ca={ca}&cert={cert}&key={key}")).await;
    assert!(manager.mutex("a").acquire().await.unwrap().is_held());
    let other = files.other_ca.display();
    let mut timeout = Duration::from_millis(500);
    let refused = loop {
        let url = format!("{url}?ca={other}&cert={cert}&key={key}&timeout={}ms", timeout.as_millis());
        let refused = connect(&url).await.unwrap_err();
        // On a busy machine, the server may not have sent its certificate in time.
        if timeout > LIMIT || !refused.to_string().contains("in time") {
            break refused;
        }
        timeout *= 2;
    };
    assert!(refused.to_string().contains("certificate"), "{refused}");
    let refused = connect(&format!("{url}?ca={ca}")).await.unwrap_err();
    assert!(matches!(refused, Error::FailedPrecondition { .. }), "{refused:?}");
    let refused = connect(&format!("{url}?ca={ca}&cert={cert}")).await.unwrap_err();
    assert!(refused.to_string().contains("cert and key go together"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_without_an_answer_is_repeated_until_it_has_one() {
    release_without_majority(&mut Etcd::start(3).unwrap()).await;
}

#[tokio::test]
async fn a_cluster_grants_with_a_majority_and_refuses_without() {
    let mut cluster = Etcd::start(3).unwrap();
    cluster.kill(0);
    let manager = calm_manager(&cluster.url()).await;
    assert!(manager.mutex("a").acquire().await.unwrap().is_held());
    // Without a majority nothing can be promised, so nothing is granted.
    cluster.kill(1);
    let short = Options::new().wait(Some(Duration::from_secs(1)));
    let refused = manager.mutex("b").with_options(short).acquire().await.unwrap_err();
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused:?}");
}

#[tokio::test]
async fn bad_addresses_and_unreachable_clusters_are_errors() {
    for (url, text) in [
        ("etcd://", "needs hosts"),
        ("etcd://h/path", "no path"),
        ("etcd://user@h", "go together"),
        ("etcd://h?timeout=0", "zero"),
        ("etcd://h?colour=red", "known are: prefix"),
    ] {
        let refused = connect(url).await.expect_err(url);
        assert!(matches!(refused, Error::InvalidAddress { .. }), "{url}: {refused:?}");
        assert!(refused.to_string().contains(text), "{url}: {refused}");
    }
    let asked = Instant::now();
    let refused = connect("etcd://127.0.0.1:1?timeout=500ms").await.unwrap_err();
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused:?}");
    assert!(refused.to_string().contains("refused"), "{refused}");
    assert!(asked.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_dropped_manager_revokes_its_lease() {
    let cluster = Etcd::start(1).unwrap();
    let manager = manager(&cluster.url()).await;
    let guard = manager.mutex("a").acquire().await.unwrap();
    assert!(cluster.ctl(&["lease", "list"]).starts_with("found 1"));
    guard.release().await.unwrap();
    drop(manager);
    eventually("the lease is gone", async || cluster.ctl(&["lease", "list"]).starts_with("found 0")).await;
}

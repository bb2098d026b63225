//! Servers that answer garbage, too much, or never: each call ends soon with an error that names the store,
//! without a panic and without using much memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use globallock::{Error, LockManager, ManagerOptions, Options};
use globallock_conformance::hostile::{Hostile, in_any_protocol};
use globallock_conformance::stores::{Role, TestStore, kinds_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use globallock_conformance::garbage::panics;

/// Uses a hostile server as a store, and checks how each call ends.
async fn is_survived(scheme: &str, label: &str, behaviour: Hostile) {
    let (port, server) = behaviour.start().await;
    let url = format!("{scheme}://somebody:s3cret@127.0.0.1:{port}?timeout=500ms");
    let second = Duration::from_secs(1);
    let locks = Options::new().lease(second).wait(Some(second)).store_timeout(Some(second));
    let since = Instant::now();
    let used = async {
        let options = ManagerOptions::new().locks(locks);
        let manager = LockManager::connect_with(&url, options).await?;
        let inspected = manager.inspect("a").await.map(drop);
        let acquired = match manager.mutex("a").acquire().await {
            Ok(guard) => guard.release().await.map(drop),
            Err(error) => Err(error),
        };
        manager.close().await;
        inspected.and(acquired)
    };
    let ended = tokio::time::timeout(Duration::from_secs(30), used).await;
    let ended = ended.unwrap_or_else(|_| panic!("{scheme}, {label}: it hangs"));
    println!("{scheme}, {label}: {ended:?} after {:.1?}", since.elapsed());
    if let Err(error) = &ended {
        let text = format!("{error} {error:?}");
        assert!(!text.contains("s3cret"), "{scheme}, {label}: a secret is shown");
        assert!(!error.to_string().chars().any(char::is_control), "{scheme}, {label}: {error:?}");
        let names = error.to_string().contains(&port.to_string());
        assert!(names || matches!(error, Error::TimedOut { .. }), "{scheme}, {label}: no store in {error}");
    }
    server.abort();
}

/// The peak memory of this process, in MiB.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_servers_cause_errors_and_no_harm() {
    let panics = panics();
    let mut all = tokio::task::JoinSet::new();
    for kind in kinds_with(Role::Scenarios).filter(|kind| kind.servers > 0) {
        for (label, behaviour) in in_any_protocol().into_iter().chain((kind.hostile)()) {
            all.spawn(async move { is_survived(kind.scheme(), label, behaviour).await });
        }
    }
    let count = all.len();
    all.join_all().await;
    assert_eq!(panics.load(Ordering::SeqCst), 0, "nothing panicked, in no task");
    println!("{count} hostile servers, {} MiB at most", peak());
    assert!(peak() < 400, "{} MiB", peak());
}

/// A proxy in front of a real server that changes a byte of one answer in `rare`.
async fn garbling(server: u16, rare: u32, changed: Arc<AtomicUsize>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut seed = 0;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            seed += 1;
            let (mut random, changed) = (fastrand::Rng::with_seed(seed), Arc::clone(&changed));
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                    if random.u32(0..rare) == 0 {
                        let position = random.usize(0..count);
                        // Half of the digits are replaced by digits, so that wrong numbers are read without
                        // an error.
                        let digit = buffer[position].is_ascii_digit() && random.bool();
                        buffer[position] = if digit { random.u8(b'0'..=b'9') } else { random.u8(..) };
                        changed.fetch_add(1, Ordering::SeqCst);
                    }
                    if to_client.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// Uses a real server whose answers arrive changed, and afterwards the same server without changes.
async fn garbled(scheme: &str, store: &dyn TestStore, rounds: usize) {
    let server = store.ports()[0];
    let url_by = |port: u16| store.url_by(&[format!("127.0.0.1:{port}")]);
    let changed = Arc::new(AtomicUsize::new(0));
    let port = garbling(server, 8, Arc::clone(&changed)).await;
    let second = Duration::from_secs(1);
    let limit = Some(Duration::from_millis(300));
    let locks = Options::new().lease(second).wait(limit).store_timeout(limit);
    let options = ManagerOptions::new().locks(locks);
    let (mut grants, mut errors) = (0, 0);
    for _ in 0..rounds {
        let used = async {
            let url = format!("{}?timeout=200ms", url_by(port));
            let manager = LockManager::connect_with(&url, options.clone()).await?;
            manager.inspect("a").await?;
            for _ in 0..5 {
                let guard = manager.mutex("a").acquire().await?;
                guard.renew().await?;
                guard.release().await?;
            }
            Ok::<_, Error>(())
        };
        match tokio::time::timeout(Duration::from_secs(30), used).await.expect("it does not hang") {
            Ok(()) => grants += 5,
            Err(_) => errors += 1,
        }
    }
    let changed = changed.load(Ordering::SeqCst);
    println!("{scheme}: {changed} answers changed, {grants} grants or more, {errors} errors");
    assert!(changed > rounds / 4 && errors > 0, "the changes were seen");
    let options = Options::new().lease(second).wait(Some(second * 20));
    let manager = LockManager::connect(&url_by(server)).await.unwrap();
    let lock = manager.mutex("a").with_options(options);
    lock.acquire().await.expect("no claim is left behind").release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_answers_do_no_harm() {
    let panics = panics();
    let kinds: Vec<_> = kinds_with(Role::Scenarios).filter(|kind| kind.servers > 0).collect();
    let running: Vec<_> = kinds.iter().map(|kind| kind.started()).collect();
    join_all(kinds.iter().zip(&running).map(|(kind, store)| garbled(kind.scheme(), &**store, 40))).await;
    assert_eq!(panics.load(Ordering::SeqCst), 0, "nothing panicked, in no task");
}

//! Servers that answer garbage, too much, or never: each call ends soon with an error that names the store,
//! without a panic and without using much memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use globallock::{Error, LockManager, ManagerOptions, Options};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::Etcd;
use globallock_conformance::server::redis::Redis;
use globallock_conformance::server::zookeeper::ZooKeeper;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::panics;

/// The behaviour of a hostile server.
#[derive(Clone)]
enum Behaviour {
    /// Closes each connection.
    Closes,
    /// Reads, and answers nothing.
    Silent,
    /// Answers whatever arrives with the next of these, and then always with the last.
    Answers(Vec<Vec<u8>>),
    /// Answers a byte at a time, slowly.
    Dribbles(Vec<u8>),
    /// Lets ZooKeeper's handshake succeed, and then answers each request with a good header and these bytes.
    Greets(Vec<u8>),
}

async fn serve(mut stream: TcpStream, behaviour: Behaviour) -> Option<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut number = 0;
    loop {
        if matches!(behaviour, Behaviour::Closes) {
            return None;
        }
        let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        match &behaviour {
            Behaviour::Closes | Behaviour::Silent => {}
            Behaviour::Answers(answers) => {
                stream.write_all(&answers[number.min(answers.len() - 1)]).await.ok()?;
                number += 1;
            }
            Behaviour::Dribbles(answer) => {
                for byte in answer {
                    stream.write_all(&[*byte]).await.ok()?;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            Behaviour::Greets(body) => {
                number += 1;
                let answer = if number == 1 { greeting(2_000) } else { reply(&buffer[..count], body) };
                stream.write_all(&framed(&answer)).await.ok()?;
            }
        }
    }
}

/// The first answer of a ZooKeeper server: protocol, timeout, session, password.
fn greeting(timeout: i32) -> Vec<u8> {
    let mut answer = 0_i32.to_be_bytes().to_vec();
    answer.extend(timeout.to_be_bytes());
    answer.extend(7_i64.to_be_bytes());
    answer.extend(16_i32.to_be_bytes());
    answer.extend([1; 16]);
    answer.push(0);
    answer
}

/// An answer without error to the first request in `bytes`.
fn reply(bytes: &[u8], body: &[u8]) -> Vec<u8> {
    let mut answer = bytes.get(4..8).unwrap_or(&[0; 4]).to_vec();
    answer.extend(1_i64.to_be_bytes());
    answer.extend(0_i32.to_be_bytes());
    answer.extend(body);
    answer
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut frame = i32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    frame.extend(bytes);
    frame
}

/// Uses a hostile server as a store, and checks how each call ends.
async fn is_survived(scheme: &str, label: &str, behaviour: Behaviour) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, behaviour.clone()));
        }
    });
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

/// Behaviours that are hostile in every protocol.
fn any_protocol() -> Vec<(&'static str, Behaviour)> {
    let answers = |bytes: &[u8]| Behaviour::Answers(vec![bytes.to_vec()]);
    vec![
        ("closes", Behaviour::Closes),
        ("silent", Behaviour::Silent),
        ("HTTP", answers(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nno\n")),
        ("TLS alert", answers(&[21, 3, 3, 0, 2, 2, 40])),
        ("zeros", answers(&[0; 4096])),
        ("ones", answers(&[255; 4096])),
        ("not text", answers(b"\xc3\x28\xf0\x28\x8c\x28\r\n")),
        ("a byte at a time", Behaviour::Dribbles(b"+O\0\0\0\x10K\r\n".to_vec())),
    ]
}

fn redis() -> Vec<(&'static str, Behaviour)> {
    let answers = |bytes: &[u8]| Behaviour::Answers(vec![bytes.to_vec()]);
    vec![
        ("always OK", answers(b"+OK\r\n")),
        ("a string without end", answers(b"$999999999999\r\nabc")),
        ("an array without end", answers(b"*2147483647\r\n")),
        ("arrays in arrays", Behaviour::Answers(vec![b"*1\r\n".repeat(100_000)])),
        ("a negative length", answers(b"$-5\r\n")),
        ("no number", answers(b":seven\r\n")),
        ("null", answers(b"_\r\n")),
        ("a map", answers(b"%1\r\n+a\r\n+b\r\n")),
        ("a push", answers(b">3\r\n+message\r\n+a\r\n+b\r\n")),
        ("escapes in an error", answers(b"-ERR \x1b]52;c;aGk=\x07\x1b[31m\xe2\x80\xae\r\n")),
        ("numbers", answers(b":18446744073709551615\r\n")),
        ("two at once", answers(b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n")),
        ("cut short", answers(b"*3\r\n:1\r\n")),
        ("moved", answers(b"-MOVED 1 127.0.0.1:1\r\n")),
        ("loading", answers(b"-LOADING Redis is loading the dataset in memory\r\n")),
    ]
}

fn zookeeper() -> Vec<(&'static str, Behaviour)> {
    let answers = |bytes: &[u8]| Behaviour::Answers(vec![bytes.to_vec()]);
    let many = i32::MAX.to_be_bytes().to_vec();
    vec![
        ("a frame without end", answers(&i32::MAX.to_be_bytes())),
        ("a frame of less than nothing", answers(&(-5_i32).to_be_bytes())),
        ("an empty frame", answers(&0_i32.to_be_bytes())),
        ("a session of no time", Behaviour::Answers(vec![framed(&greeting(0))])),
        ("a session of less than no time", Behaviour::Answers(vec![framed(&greeting(-1))])),
        ("a greeting again and again", Behaviour::Answers(vec![framed(&greeting(2_000))])),
        ("a greeting cut short", Behaviour::Answers(vec![framed(&greeting(2_000)[..20])])),
        ("answers without a body", Behaviour::Greets(Vec::new())),
        ("a list without end", Behaviour::Greets(many.clone())),
        ("a list of less than nothing", Behaviour::Greets((-7_i32).to_be_bytes().to_vec())),
        ("a text without end", Behaviour::Greets([1_i32.to_be_bytes().to_vec(), many].concat())),
        ("no text", Behaviour::Greets([2_i32.to_be_bytes().to_vec(), vec![0xc3, 0x28]].concat())),
        ("much", Behaviour::Greets(vec![0x20; 4 * 1024 * 1024])),
    ]
}

fn etcd() -> Vec<(&'static str, Behaviour)> {
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let frame = |kind: u8, flags: u8, stream: u8, length: [u8; 3], body: &[u8]| {
        let mut bytes = settings.to_vec();
        bytes.extend(length);
        bytes.extend([kind, flags, 0, 0, 0, stream]);
        bytes.extend(body);
        Behaviour::Answers(vec![bytes])
    };
    // A header list of one field: `:status: 200`, as HPACK has it in its table.
    let ok = 0x88;
    vec![
        ("settings alone", Behaviour::Answers(vec![settings.to_vec()])),
        ("a frame without end", frame(0, 0, 1, [255, 255, 255], b"x")),
        ("go away", frame(7, 0, 0, [0, 0, 8], &[0, 0, 0, 0, 0, 0, 0, 2])),
        ("headers that are none", frame(1, 4, 1, [0, 0, 3], &[255, 255, 255])),
        ("an answer without a body", frame(1, 5, 1, [0, 0, 1], &[ok])),
        ("a stream that nobody opened", frame(1, 4, 99, [0, 0, 1], &[ok])),
    ]
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
    for (scheme, own) in [("redis", redis()), ("zookeeper", zookeeper()), ("etcd", etcd())] {
        for (label, behaviour) in any_protocol().into_iter().chain(own) {
            all.spawn(async move { is_survived(scheme, label, behaviour).await });
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
async fn garbled(scheme: &str, server: u16, rounds: usize) {
    let changed = Arc::new(AtomicUsize::new(0));
    let port = garbling(server, 8, Arc::clone(&changed)).await;
    let second = Duration::from_secs(1);
    let limit = Some(Duration::from_millis(300));
    let locks = Options::new().lease(second).wait(limit).store_timeout(limit);
    let options = ManagerOptions::new().locks(locks);
    let (mut grants, mut errors) = (0, 0);
    for _ in 0..rounds {
        let used = async {
            let url = format!("{scheme}://127.0.0.1:{port}?timeout=200ms");
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
    let manager = LockManager::connect(&format!("{scheme}://127.0.0.1:{server}")).await.unwrap();
    let lock = manager.mutex("a").with_options(options);
    lock.acquire().await.expect("no claim is left behind").release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_answers_do_no_harm() {
    let panics = panics();
    let (redis, etcd) = (Redis::start().unwrap(), Etcd::start(1).unwrap());
    let zookeeper = ZooKeeper::start(1).unwrap();
    tokio::join!(
        garbled("redis", redis.ports()[0], 40),
        garbled("etcd", etcd.ports()[0], 40),
        garbled("zookeeper", zookeeper.ports()[0], 40),
    );
    assert_eq!(panics.load(Ordering::SeqCst), 0, "nothing panicked, in no task");
}

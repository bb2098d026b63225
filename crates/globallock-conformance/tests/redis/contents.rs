//! Keys of wrong types, and foreign keys, in the place of locks in Redis.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use globallock_conformance::server::redis::Redis;

use globallock_conformance::garbage::panics;
use globallock_conformance::garbage::{Garbage, Pair, close, for_seeds, is_free, listed, pair, used};

/// A connection that can send any bytes.
struct Client(TcpStream);

impl Client {
    fn new(port: u16) -> Self {
        Client(TcpStream::connect(("127.0.0.1", port)).unwrap())
    }

    /// Sends a command, and reads the first line of the answer.
    fn send(&mut self, words: &[&[u8]]) -> String {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend(format!("${}\r\n", word.len()).into_bytes());
            bytes.extend(*word);
            bytes.extend(b"\r\n");
        }
        self.0.write_all(&bytes).unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n") {
            self.0.read_exact(&mut byte).unwrap();
            answer.extend(byte);
        }
        String::from_utf8_lossy(&answer).trim_end().to_owned()
    }
}

fn keys(name: &str) -> [String; 5] {
    let side = |side: &str| format!("{{_glocks:{name}}}:{side}");
    [format!("_glocks:{name}"), side("fence"), side("queue"), side("claims"), side("shared")]
}

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// The value of a lock's key, or garbage in place of it.
fn holder(garbage: &mut Garbage) -> Vec<u8> {
    let [fencing_token, granted, ends] = [(); 3].map(|()| garbage.number());
    let (count, capacity, owner) = (garbage.number(), garbage.number(), garbage.owner());
    let front = format!("{}:{fencing_token}:{granted}:{ends}:{count}/{capacity}:", garbage.digits(32));
    match garbage.random.u32(..6) {
        0 => owner,
        1 => b"glk1:".to_vec(),
        2 => joined(&[b"glk1+:", front.as_bytes(), &owner]),
        _ => joined(&[b"glk1:", front.as_bytes(), &owner]),
    }
}

/// A waiter entry, or garbage in place of it.
fn waiter_entry(garbage: &mut Garbage) -> Vec<u8> {
    let (lease, max_hold) = (garbage.number(), garbage.number());
    let (count, capacity, owner) = (garbage.number(), garbage.number(), garbage.owner());
    let node = garbage.one_of(&["globallock:wake:x", "x", "__keyspace@0__:x", "\u{1b}[2J"]);
    let front = format!("{} {node} {lease} {max_hold} {count}/{capacity}:", garbage.digits(32));
    if garbage.random.u32(..6) == 0 { owner } else { joined(&[front.as_bytes(), &owner]) }
}

/// The entry of a shared holder.
fn shared_entry(garbage: &mut Garbage) -> Vec<u8> {
    let numbers: Vec<String> = (0..6).map(|_| garbage.number()).collect();
    let front = format!("{} x {}/{}:", numbers.join(" "), garbage.number(), garbage.number());
    joined(&[front.as_bytes(), &garbage.owner()])
}

/// Puts garbage at a key, as a rule of the type that belongs there.
fn put(client: &mut Client, garbage: &mut Garbage, position: usize, key: &str, lock: &[u8]) {
    let key = key.as_bytes();
    let type_at = if garbage.random.u32(..4) == 0 { garbage.random.usize(..7) } else { position };
    for _ in 0..garbage.random.u32(1..4) {
        let answer = match type_at {
            0 if garbage.random.bool() => client.send(&[b"SET", key, lock, b"PX", b"700"]),
            0 => client.send(&[b"SET", key, lock]),
            1 => {
                let text = garbage.number() + garbage.one_of(&["", "w", "w", "ww", "\u{1b}"]);
                client.send(&[b"SET", key, text.as_bytes()])
            }
            2 | 4 => {
                let text = if type_at == 2 { waiter_entry(garbage) } else { garbage.digits(32).into_bytes() };
                // Redis refuses a score that is no number, and the next round tries another.
                client.send(&[b"ZADD", key, garbage.number().as_bytes(), &text])
            }
            3 => match garbage.random.u32(..3) {
                0 => client.send(&[b"HSET", key, garbage.digits(32).as_bytes(), &shared_entry(garbage)]),
                1 => client.send(&[b"HSET", key, garbage.digits(32).as_bytes(), garbage.number().as_bytes()]),
                _ => {
                    let (count, capacity) = (garbage.number(), garbage.number());
                    let group = [b"HSET", key, b"#value", lock, b"#weight", count.as_bytes()];
                    client.send(&group);
                    client.send(&[b"HSET", key, b"#capacity", capacity.as_bytes(), b"#mixed", b"1"])
                }
            },
            5 => client.send(&[b"RPUSH", key, &garbage.owner()]),
            _ => client.send(&[b"SADD", key, &garbage.owner()]),
        };
        assert!(
            answer.starts_with([':', '+']) || answer.starts_with("-ERR") || answer.starts_with("-WRONGTYPE"),
            "{answer}"
        );
    }
}

async fn fixture(seed: u64, port: u16, managers: Pair) {
    let (name, label) = (format!("lock-{seed}"), format!("redis, seed {seed}"));
    let mut garbage = Garbage::new(seed);
    let keys = keys(&name);
    {
        let mut client = Client::new(port);
        let lock = holder(&mut garbage);
        for (position, key) in keys.iter().enumerate() {
            if garbage.random.u32(..5) < 2 {
                put(&mut client, &mut garbage, position, key, &lock);
            }
        }
    }
    used(&label, &name, &managers).await;
    let words: Vec<&[u8]> =
        std::iter::once(b"DEL".as_slice()).chain(keys.iter().map(String::as_bytes)).collect();
    let answer = Client::new(port).send(&words);
    assert!(answer.starts_with(':'), "{answer}");
    is_free(&label, &name, &managers[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_keys_in_redis_do_no_harm() {
    let panics = panics();
    let server = Redis::start().unwrap();
    let port = server.port();
    let managers = Arc::new(pair(&server.url()).await);
    Client::new(port).send(&[b"SET", b"_glocks:\xff\xfe", b"x"]);
    Client::new(port).send(&[b"SET", b"_glocks:\x1b[2J\r\n", b"x"]);
    Client::new(port).send(&[b"SET", &[b"_glocks:".as_slice(), &[b'x'; 100_000]].concat(), b"x"]);
    assert_eq!(listed("redis", &managers[0]).await, ["\u{1b}[2J\r\n"]);
    for_seeds(0..150, |seed| fixture(seed, port, Arc::clone(&managers))).await;
    assert_eq!(panics.load(Ordering::SeqCst), 0, "nothing panicked, in no task");
    close(Arc::into_inner(managers).expect("all fixtures have ended")).await;
}

#[tokio::test]
async fn unreadable_sums_of_shared_holders_never_let_in_too_many() {
    let server = Redis::start().unwrap();
    let managers = pair(&server.url()).await;
    for (count, capacity) in
        [("-7", "9"), ("nan", "9"), ("x", "9"), ("0", "x"), ("0", "nan"), ("-1e300", "inf")]
    {
        let mut client = Client::new(server.port());
        let [lock, _, _, claims, shared] = keys("a");
        client.send(&[b"SET", lock.as_bytes(), b"group", b"PX", b"60000"]);
        let group = [
            claims.as_bytes(),
            b"#value",
            b"group",
            b"#weight",
            count.as_bytes(),
            b"#capacity",
            capacity.as_bytes(),
        ];
        client.send(&[&[b"HSET".as_slice()], group.as_slice()].concat());
        client.send(&[b"ZADD", shared.as_bytes(), b"9e15", b"somebody"]);
        let mut holders = 0;
        let mut guards = Vec::new();
        for manager in managers.iter().chain(&managers) {
            if let Ok(Some(guard)) = manager.semaphore("a", 2).permits(1).try_acquire().await {
                holders += usize::from(guard.is_held());
                guards.push(guard);
            }
        }
        assert!(holders <= 2, "{count}/{capacity}: {holders} of 2 permits");
        for guard in guards {
            guard.release().await.unwrap();
        }
        client.send(&[b"DEL", lock.as_bytes(), claims.as_bytes(), shared.as_bytes()]);
        is_free(count, "a", &managers[0]).await;
    }
    close(managers).await;
}

#[tokio::test]
async fn tokens_rise_over_a_garbled_counter() {
    let server = Redis::start().unwrap();
    let managers = pair(&server.url()).await;
    for text in ["9007199254740993", "99999999999999999999999999w", "1e300", "-7w", "nan", "w", ""] {
        Client::new(server.port()).send(&[b"SET", b"{_glocks:a}:fence", text.as_bytes()]);
        let mut last = 0;
        for manager in [&managers[0], &managers[1], &managers[0]] {
            let guard = manager.mutex("a").acquire().await.unwrap();
            assert!(guard.fencing_token() > last, "{text:?}: {} after {last}", guard.fencing_token());
            last = guard.fencing_token();
            guard.release().await.unwrap();
        }
    }
    close(managers).await;
}

#[tokio::test]
async fn what_stands_in_the_place_of_a_value_breaks_no_grant() {
    let server = Redis::start().unwrap();
    let managers = pair(&server.url()).await;
    let long = std::time::Duration::from_secs(600);
    let mut client = Client::new(server.port());
    let key = b"{_glocks:a}:glk-value".as_slice();
    let garbage: [&[&[u8]]; 8] = [
        &[b"SET", key, b"text"],
        &[b"RPUSH", key, b"1", b"2", b"3"],
        &[b"HSET", key, b"token", b"7"],
        &[b"HSET", key, b"token", b"-1", b"keep", b"x", b"bytes", b"text"],
        &[b"HSET", key, b"token", b"1e300", b"keep", b"5", b"bytes", b"text"],
        &[b"HSET", key, b"token", b"nan", b"keep", b"5", b"bytes", b"text"],
        &[b"HSET", key, b"token", b"7", b"keep", b"5", b"bytes", &[b'x'; 100_000]],
        &[b"SADD", key, b"token", b"7"],
    ];
    for words in garbage {
        let answer = client.send(words);
        assert!(!answer.starts_with('-'), "{answer}");
        let guard = managers[0].mutex("a").with_value().acquire().await.unwrap();
        assert_eq!(guard.value(), None, "{}", String::from_utf8_lossy(&words.concat()));
        let written = guard.set_value(b"new", long).await;
        if words[0] == b"HSET" {
            assert_eq!(written.unwrap(), globallock::ValueWrite::Written);
        } else {
            // It may be another program's lock.
            let refused = written.unwrap_err().to_string();
            assert!(refused.contains("choose another prefix"), "{refused}");
            assert_eq!(client.send(&[b"EXISTS", key]), ":1");
        }
        guard.release().await.unwrap();
        client.send(&[b"DEL", key]);
    }
    // One that an operator has made to stay is as old as it may get.
    let guard = managers[0].mutex("a").acquire().await.unwrap();
    guard.set_value(b"stays", long).await.unwrap();
    guard.release().await.unwrap();
    assert_eq!(client.send(&[b"PERSIST", key]), ":1");
    let guard = managers[1].mutex("a").with_value().acquire().await.unwrap();
    let value = guard.value().unwrap();
    assert!(value.bytes() == b"stays" && value.age() >= long, "{value:?}");
    guard.release().await.unwrap();
    close(managers).await;
}

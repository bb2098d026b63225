//! Uncontended pairs of acquire and release, and the raw round trips that they are compared with.

use std::time::{Duration, Instant};

use ::redis::aio::MultiplexedConnection;
use globallock::LockManager;

use crate::statistics::Times;

/// A connection for raw round trips, with the client crate and protocol that globallock uses.
pub(super) async fn connect(port: u16) -> MultiplexedConnection {
    let client =
        ::redis::Client::open(format!("redis://127.0.0.1:{port}/?protocol=resp3")).expect("the URL is valid");
    client.get_multiplexed_async_connection().await.expect("the server is there")
}

pub(super) async fn ping(connection: &mut MultiplexedConnection) -> Duration {
    let sent = Instant::now();
    let _: String = ::redis::cmd("PING").query_async(connection).await.expect("the server answers");
    sent.elapsed()
}

/// How many operations of one kind are timed in a row. Alternating would be unfair, because the first request
/// on a connection that was idle takes longer.
const ROW: usize = 20;

/// The times of three operations that were measured in turn.
#[derive(Default)]
pub(super) struct Interleaved {
    pub(super) pings: Times,
    /// The simplest lock, on the connection of the PINGs: `SET NX PX`, and a script that deletes the key if
    /// its value is ours. It has no queue and no fencing token.
    pub(super) plain: Times,
    pub(super) ours: Times,
}

impl Interleaved {
    pub(super) fn extend(&mut self, others: Interleaved) {
        self.pings.extend(others.pings);
        self.plain.extend(others.plain);
        self.ours.extend(others.ours);
    }
}

/// Times `count` PINGs, as many plain pairs, and as many pairs of globallock, a row of each in turn.
pub(super) async fn interleaved(port: u16, count: usize) -> Interleaved {
    let mut connection = connect(port).await;
    let delete =
        "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";
    let load = ::redis::cmd("SCRIPT").arg("LOAD").arg(delete).query_async(&mut connection).await;
    let delete: String = load.expect("the server loads scripts");
    let manager =
        LockManager::connect(&format!("redis://127.0.0.1:{port}")).await.expect("the server is there");
    let lock = manager.mutex("bench-pairs");
    let mut timed = Interleaved::default();
    // The first rows warm up.
    for row in 0..count / ROW + 20 {
        if row == 20 {
            timed = Interleaved::default();
        }
        for _ in 0..ROW {
            timed.pings.push(ping(&mut connection).await);
        }
        for _ in 0..ROW {
            timed.plain.push(plain_pair(&mut connection, &delete).await);
        }
        for _ in 0..ROW {
            let began = Instant::now();
            let guard = lock.acquire().await.expect("the lock is free");
            guard.release().await.expect("the lock is held");
            timed.ours.push(began.elapsed());
        }
    }
    timed
}

async fn plain_pair(connection: &mut MultiplexedConnection, delete: &str) -> Duration {
    let (key, value) = ("bench-plain", "0123456789abcdef0123456789abcdef");
    let began = Instant::now();
    let set: String = ::redis::cmd("SET")
        .arg(key)
        .arg(value)
        .arg("NX")
        .arg("PX")
        .arg(10_000)
        .query_async(connection)
        .await
        .expect("the key is free");
    let deleted: i64 = ::redis::cmd("EVALSHA")
        .arg(delete)
        .arg(1)
        .arg(key)
        .arg(value)
        .query_async(connection)
        .await
        .expect("it is ours");
    let pair = began.elapsed();
    assert_eq!((set.as_str(), deleted), ("OK", 1));
    pair
}

/// Times PINGs that each follow a pause of the sender, as a release follows a hold.
pub(super) async fn pings_after(port: u16, idle: Duration, count: usize) -> Times {
    let mut connection = connect(port).await;
    let mut times = Times::default();
    for _ in 0..count {
        crate::contend::pause(idle).await;
        times.push(ping(&mut connection).await);
    }
    times
}

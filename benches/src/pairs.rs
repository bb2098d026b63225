//! Uncontended pairs of acquire and release, and the raw round trip that they are held against.

use std::time::{Duration, Instant};

use globallock::LockManager;
use redis::aio::MultiplexedConnection;

use crate::statistics::Times;

/// A connection of the same client crate with the same protocol, for raw round trips.
pub(crate) async fn connect(port: u16) -> MultiplexedConnection {
    let client =
        redis::Client::open(format!("redis://127.0.0.1:{port}/?protocol=resp3")).expect("the URL is valid");
    client.get_multiplexed_async_connection().await.expect("the server is there")
}

pub(crate) async fn ping(connection: &mut MultiplexedConnection) -> Duration {
    let sent = Instant::now();
    let _: String = redis::cmd("PING").query_async(connection).await.expect("the server answers");
    sent.elapsed()
}

/// Times `count` PINGs and `count` pairs in turn.
pub(crate) async fn interleaved(port: u16, count: usize) -> (Times, Times) {
    let mut connection = connect(port).await;
    let manager =
        LockManager::connect(&format!("redis://127.0.0.1:{port}")).await.expect("the server is there");
    let lock = manager.mutex("bench-pairs").expect("the name is valid");
    let (mut pings, mut pairs) = (Times::default(), Times::default());
    for round in 0..count + count / 10 {
        let ping = ping(&mut connection).await;
        let began = Instant::now();
        let guard = lock.acquire().await.expect("the lock is free");
        guard.release().await.expect("the lock is held");
        let pair = began.elapsed();
        // The first tenth warms up.
        if round >= count / 10 {
            pings.push(ping);
            pairs.push(pair);
        }
    }
    (pings, pairs)
}

/// How many pairs a second `tasks` tasks do on one connection, each on a name of its own.
pub(crate) async fn per_second(port: u16, tasks: usize, run: Duration) -> f64 {
    let manager =
        LockManager::connect(&format!("redis://127.0.0.1:{port}")).await.expect("the server is there");
    let began = Instant::now();
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let lock = manager.mutex(format!("bench-task-{task}")).expect("the name is valid");
            tokio::spawn(async move {
                let mut done = 0_usize;
                while began.elapsed() < run {
                    let guard = lock.acquire().await.expect("the lock is free");
                    guard.release().await.expect("the lock is held");
                    done += 1;
                }
                done
            })
        })
        .collect();
    let mut done = 0;
    for task in running {
        done += task.await.expect("no task fails");
    }
    done as f64 / began.elapsed().as_secs_f64()
}

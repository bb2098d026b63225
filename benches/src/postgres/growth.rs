//! How large the tables are after many grants, whose rows come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use globallock::LockManager;
use globallock_conformance::server::postgres::Postgres;

use crate::report::{row, title};

/// The tables are measured after so many grants, after half and after a tenth of them. What is dead goes with
/// the next vacuum, which the server begins once a minute.
const GRANTS: u64 = 1_000_000;
/// How many owners at a time, each with a queue of its own but for every tenth grant.
const OWNERS: u64 = 8;
/// What the tables take, with their indexes.
const SIZE: &str = "SELECT sum(pg_total_relation_size(oid)) FROM pg_class \
                    WHERE relnamespace = 'globallock'::regnamespace AND relkind = 'r'";

/// The size of the tables after 100,000 grants, after half a million and after a million.
pub(crate) async fn run() {
    title("PostgreSQL, fsync off: the size of the tables after a million grants, a tenth of them contended");
    let server = Postgres::start().expect("the server starts");
    let manager = LockManager::connect(&server.url()).await.expect("the server is there");
    let (done, began) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut sizes = vec![];
    for until in [GRANTS / 10, GRANTS / 2, GRANTS] {
        let owners = (0..OWNERS).map(|owner| {
            let (manager, done) = (manager.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                loop {
                    let number = done.fetch_add(1, Ordering::Relaxed);
                    if number >= until {
                        break;
                    }
                    let name = if number % 10 == 0 { "common".to_owned() } else { format!("own-{owner}") };
                    let guard = manager.mutex(name).acquire().await.expect("it is granted");
                    guard.release().await.expect("it is held");
                }
            })
        });
        for owner in owners.collect::<Vec<_>>() {
            owner.await.expect("no owner fails");
        }
        done.store(until, Ordering::Relaxed);
        let size: f64 = server.sql(SIZE).parse().expect("it is a number");
        sizes.push(size);
        row(&format!("tables and indexes after {until} grants"), size / 1024.0, "KiB", "");
    }
    row("after 1,000,000 / after 500,000", sizes[2] / sizes[1], "x", "about 1");
    row("grants/s", GRANTS as f64 / began.elapsed().as_secs_f64(), "", "");
}

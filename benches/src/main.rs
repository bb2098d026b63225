//! Compares globallock with raw round trips and with the peers, in one run.
//!
//! `cargo run --release -p globallock-bench [-- SECTION…]`. The sections are `pairs`, `handoff`, `waiters`,
//! `tasks`, `peers` and `held`, all on Redis, and `file`, `etcd` and `zookeeper`. Without an argument, all
//! sections run.
//!
//! The figures to judge by are ratios to something that is measured in the same run and interleaved, because
//! the speed of a machine drifts.

mod contend;
mod coordinators;
mod etcd_raw;
mod held;
mod pairs;
mod peers;
mod raw;
mod sections;
mod statistics;
mod zookeeper_raw;

use globallock_conformance::server::redis::Redis;

fn main() {
    let sections: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |section: &str| sections.is_empty() || sections.iter().any(|wanted| wanted == section);
    let runtime = tokio::runtime::Runtime::new().expect("the runtime starts");
    runtime.block_on(async {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let directory = std::env::temp_dir();
        println!("Servers on loopback, their files in {}, {cores} cores, release build", directory.display());
        if ["pairs", "handoff", "waiters", "tasks", "peers", "held"].into_iter().any(wanted) {
            redis(wanted).await;
        }
        if wanted("file") {
            sections::file().await;
        }
        if wanted("etcd") {
            coordinators::etcd().await;
        }
        if wanted("zookeeper") {
            coordinators::zookeeper().await;
        }
    });
}

async fn redis(wanted: impl Fn(&str) -> bool) {
    let server = Redis::start().expect("redis-server starts");
    let port = server.port();
    println!("\nRedis {}", sections::version(port).await);
    if wanted("pairs") {
        sections::pairs(port).await;
    }
    if wanted("handoff") {
        sections::hand_off(port).await;
    }
    if wanted("waiters") {
        sections::waiters(port).await;
    }
    if wanted("tasks") {
        sections::tasks(port).await;
    }
    if wanted("peers") {
        peers::compare(port).await;
    }
    if wanted("held") {
        held::measure(port).await;
    }
}

//! Compares globallock with raw round trips and with the peers, in one run.
//!
//! `cargo run --release -p globallock-bench [-- SECTION…]`. The sections are `pairs`, `handoff`, `waiters`,
//! `tasks`, `peers`, `held` and `storm`, all on Redis, `file`, `etcd`, `postgres` and `zookeeper`, and
//! `metrics` in memory. Without an argument, all of these run. `growth`, of a million grants in PostgreSQL,
//! is run only by its name, because it takes minutes.
//!
//! The figures to judge by are ratios to something that is measured in the same run and interleaved, because
//! the speed of a machine drifts.

mod contend;
mod etcd;
mod file;
mod metrics;
mod pairs;
mod postgres;
mod programs;
mod redis;
mod report;
mod statistics;
mod zookeeper;

use globallock_conformance::stores::{Role, TestStore, kinds_with};

fn main() {
    let sections: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |section: &str| sections.is_empty() || sections.iter().any(|wanted| wanted == section);
    let runtime = tokio::runtime::Runtime::new().expect("the runtime starts");
    runtime.block_on(async {
        if let [process, url, pauses] = &sections[..]
            && process == redis::storm::PROCESS
        {
            return redis::storm::process(url, pauses).await;
        }
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let directory = std::env::temp_dir();
        println!("Servers on loopback, their files in {}, {cores} cores, release build", directory.display());
        if ["pairs", "handoff", "waiters", "tasks", "peers", "held", "storm"].into_iter().any(wanted) {
            redis::run(&wanted).await;
        }
        if wanted("metrics") {
            // In a task, as most work is, and so on a thread of the runtime.
            tokio::spawn(metrics::run()).await.expect("no measurement fails");
        }
        if wanted("file") {
            file::run().await;
        }
        if wanted("etcd") {
            etcd::run().await;
        }
        if wanted("postgres") {
            postgres::run().await;
        }
        if sections.iter().any(|section| section == "growth") {
            postgres::growth::run().await;
        }
        if wanted("zookeeper") {
            zookeeper::run().await;
        }
    });
}

/// Starts a store that scenarios run on.
fn started(name: &str) -> Box<dyn TestStore> {
    kinds_with(Role::Scenarios).find(|kind| kind.name == name).expect("it is known").started()
}

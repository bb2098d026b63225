//! Servers that fail.

use std::time::{Duration, Instant};

use globallock::{Error, Options};
use globallock_conformance::scene::{Turns, manager, queue_is};
use globallock_conformance::server::zookeeper::ZooKeeper;

#[tokio::test(flavor = "multi_thread")]
async fn the_deaths_of_leaders_break_no_lock() {
    let mut ensemble = ZooKeeper::start(3).unwrap();
    let turns = Turns::start(&ensemble.url(), "a", 16).await;
    let begin = Instant::now();
    turns.more(50).await;
    let mut deaths = 0;
    while begin.elapsed() < Duration::from_secs(60) {
        let leader = ensemble.leader().expect("one leads");
        ensemble.kill(leader);
        deaths += 1;
        turns.more(50).await;
        ensemble.resume_after_kill(leader).unwrap();
        turns.more(50).await;
    }
    let last = Instant::now();
    turns.more(50).await;
    let count = turns.finish(last).await;
    println!("{count} turns, {deaths} deaths");
    queue_is(&manager(&ensemble.url()).await, "a", 0, 0).await;
}

#[tokio::test]
async fn an_ensemble_of_which_servers_are_away() {
    let mut ensemble = ZooKeeper::start(3).unwrap();
    let url = ensemble.url();
    ensemble.kill(0);
    let manager = manager(&url).await;
    assert!(manager.mutex("a").unwrap().acquire().await.unwrap().is_held());
    // Without a majority nothing can be promised, and nothing is.
    ensemble.kill(1);
    let short = Options { wait: Some(Duration::from_secs(1)), ..Options::default() };
    let refused = manager.mutex("b").unwrap().with(short).unwrap().acquire().await.unwrap_err();
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused:?}");
}

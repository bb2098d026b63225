//! Many names are listed in few round trips.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt};
use globallock::backend::WaitMode;
use globallock::queue::Permits;
use globallock::{Error, LockKind, Name, Summary};
use globallock_conformance::fixtures::calm_manager;
use globallock_conformance::proxy::Flow;
use globallock_conformance::server::redis::Redis;

use crate::calls::{MUTEX, ONE_OF_TWO};
use crate::scripts::Store;
use crate::times::claim;

/// Makes so many names that have a holder each, and the counters that were left by as many that have not.
fn fill(server: &Redis, count: u32) {
    let script = "
        local now = redis.call('TIME')
        for number = 1, ARGV[1] do
            local value = string.format('glk1:%032x:%.0f::0:1/1:x', number, now[1] * 1000000 + number)
            redis.call('SET', '_glocks:many-' .. number, value, 'PX', 600000)
            redis.call('SET', '{_glocks:many-' .. number .. '}:fence', number, 'PX', 600000)
            redis.call('SET', '{_glocks:free-' .. number .. '}:fence', number, 'PX', 600000)
        end";
    assert_eq!(server.cli(&["EVAL", script, "0", &count.to_string()]), "");
}

#[tokio::test]
async fn thousands_of_names_are_listed_in_seconds_over_a_slow_network() {
    const NAMES: u32 = 5000;
    let server = Redis::start().unwrap();
    fill(&server, NAMES);
    let (proxy, url) = crate::behind_proxy(&server, "").await;
    let manager = calm_manager(&url).await;
    for flow in [Flow::Delay(Duration::from_millis(20)), Flow::Pass] {
        proxy.answers(flow);
        let since = Instant::now();
        let listed: Vec<Summary> = manager.list("many-").try_collect().await.unwrap();
        println!("{NAMES} names with {flow:?}: {:.1?}", since.elapsed());
        assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
        let mut names: Vec<&str> = listed.iter().map(|summary| summary.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), NAMES as usize);
        let is_one =
            |listed: &Summary| (listed.kind, listed.holders, listed.waiters) == (LockKind::Mutex, 1, 0);
        assert!(listed.iter().all(is_one));
    }
}

#[tokio::test]
async fn a_list_costs_a_scan_and_a_window_of_requests_a_page_and_nothing_before_it_is_read() {
    let server = Redis::start().unwrap();
    fill(&server, 3000);
    let (_proxy, url) = crate::behind_proxy(&server, "").await;
    let manager = calm_manager(&url).await;
    let before = server.cli(&["INFO", "commandstats"]);
    let mut listed = manager.list("many-");
    assert_eq!(
        server.cli(&["INFO", "commandstats"]).contains("cmdstat_scan"),
        before.contains("cmdstat_scan")
    );
    // The first names come before all have been read.
    assert!(listed.next().await.unwrap().is_ok());
    let scans = || crate::costs::count(&server, "scan");
    assert_eq!(scans(), 1);
    let rest = listed.count().await;
    assert!(rest >= 2999, "{rest}");
    // 9000 keys.
    assert!((9..=12).contains(&scans()), "{} pages", scans());
}

#[tokio::test]
async fn each_name_is_summed_up_as_its_queue_says() {
    let store = Store::new().await;
    let names = ["mutex", "shared", "foreign", "a{b}", "waits"];
    let permits = [MUTEX, ONE_OF_TWO, MUTEX, Permits::new(2, 3), MUTEX];
    for (number, (name, permits)) in (1..).zip(names.iter().zip(permits)) {
        if *name == "foreign" {
            store.server.cli(&["SET", "_glocks:foreign", "x"]);
        } else {
            store.holds(&claim(name, number, permits, WaitMode::Wait)).await;
        }
    }
    store.waits(&claim("waits", 10, ONE_OF_TWO, WaitMode::Wait)).await;
    let mut listed: Vec<Summary> = store.backend.list("").try_collect().await.unwrap();
    listed.sort_by(|one, other| one.name.cmp(&other.name));
    let ageless = |summary: &Summary| {
        (summary.name.clone(), summary.kind, summary.holders, summary.waiters, summary.fencing_token)
    };
    let mut expected = Vec::new();
    for name in names {
        let name = Name::new(name).unwrap();
        expected.extend(Summary::of(&name, &store.backend.inspect(&name).await.unwrap()));
    }
    expected.sort_by(|one, other| one.name.cmp(&other.name));
    assert_eq!(
        listed.iter().map(ageless).collect::<Vec<_>>(),
        expected.iter().map(ageless).collect::<Vec<_>>()
    );
    assert_eq!(listed.len(), names.len());
    let some: Vec<Summary> = store.backend.list("m").try_collect().await.unwrap();
    assert_eq!(some.iter().map(|summary| summary.name.as_str()).collect::<Vec<_>>(), ["mutex"]);
}

#[tokio::test]
async fn a_name_that_cannot_be_read_hides_none_of_the_others() {
    let store = Store::new().await;
    fill(&store.server, 50);
    store.server.cli(&["SET", "{_glocks:many-7}:queue", "what another program has put there"]);
    let listed: Vec<_> = store.backend.list("many-").collect().await;
    let (read, failed): (Vec<_>, Vec<_>) = listed.into_iter().partition(Result::is_ok);
    assert_eq!((read.len(), failed.len()), (49, 1));
    let error = failed.into_iter().next().unwrap().unwrap_err();
    assert!(matches!(error, Error::FailedPrecondition { .. }), "{error:?}");
    assert!(error.to_string().contains("choose another prefix"), "{error}");
}

#[tokio::test]
async fn a_list_goes_on_over_a_connection_that_breaks_and_a_server_that_forgets_its_scripts() {
    let server = Redis::start().unwrap();
    fill(&server, 3000);
    let (proxy, url) = crate::behind_proxy(&server, "?timeout=10s").await;
    let backend = globallock::connect_backend(&url).await.unwrap();
    let mut listed = backend.list("many-");
    let mut names = std::collections::BTreeSet::new();
    while let Some(summary) = listed.next().await {
        names.insert(summary.unwrap().name);
        if names.len() == 1000 {
            server.cli(&["SCRIPT", "FLUSH"]);
        } else if names.len() == 2000 {
            let before = proxy.ended();
            proxy.cut();
            globallock_conformance::context::eventually("it is cut", async || proxy.ended() > before).await;
        }
    }
    assert_eq!(names.len(), 3000);
    assert!(proxy.cuts() > 0);
}

#[tokio::test]
async fn a_list_from_a_server_that_has_gone_ends_with_one_error() {
    let mut server = Redis::start().unwrap();
    fill(&server, 3000);
    let backend = globallock::connect_backend(&format!("{}?timeout=300ms", server.url())).await.unwrap();
    let mut listed = backend.list("many-");
    assert!(listed.next().await.unwrap().is_ok());
    server.kill();
    let rest: Vec<_> = listed.filter(|summary| std::future::ready(summary.is_err())).collect().await;
    assert_eq!(rest.len(), 1, "{rest:?}");
    assert!(rest[0].as_ref().is_err_and(Error::is_unavailable), "{rest:?}");
}

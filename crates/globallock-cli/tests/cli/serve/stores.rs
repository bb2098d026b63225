//! Real servers: what is shown when they go away, and of whom they are asked.

use std::time::Duration;

use globallock::blocking::LockManager;
use globallock::{ManagerOptions, Options};
use globallock_conformance::server::redis::Redis;
use serde_json::json;

use super::{Server, served};
use crate::support::{ended, eventually};

#[test]
fn a_store_that_goes_away_is_told_and_comes_back_and_its_password_is_never_shown() {
    let mut redis = Redis::start_with(&["--requirepass", "CANARY"]).unwrap();
    let url = format!("redis://:CANARY@127.0.0.1:{}", redis.port());
    let manager = LockManager::connect(&url).unwrap();
    let held = manager.mutex("a").acquire().unwrap();
    let server = Server::of(&url, &["--timeout", "1s", "--allow-break"]);
    let mut page = server.connect();
    page.send("GET", "/api/events", &[], "");
    page.head().unwrap();
    let mut told = vec![page.event().unwrap().1];
    assert_eq!(told[0]["news"]["rows"][0]["name"], "a", "{told:?}");
    redis.kill();
    while told.last().unwrap()["news"]["failure"].is_null() {
        told.push(page.event().unwrap().1);
    }
    let metrics = server.get("/metrics").body;
    assert!(
        metrics.contains("globallock_store_up 0\n") && !metrics.contains("globallock_store_held"),
        "{metrics}"
    );
    assert_eq!(server.get("/healthz").status, 200, "the server itself is well");
    let locks = server.get("/api/locks");
    assert_eq!((locks.status, &locks.json()["locks"][0]["name"]), (200, &json!("a")), "the last known");
    assert!(locks.json()["failure"].as_str().unwrap().contains("unavailable"), "{locks:?}");
    let lock = server.get("/api/lock?name=a");
    let broken = server.break_claim("a", "1", "");
    assert_eq!(
        (lock.status, broken.status, &broken.json()["outcome"]),
        (503, 503, &json!("failed")),
        "{broken:?}"
    );
    assert!(broken.body.contains("; nothing was changed"), "{broken:?}");
    redis.resume_after_kill().unwrap();
    while !told.last().unwrap()["news"]["failure"].is_null() {
        if let (kind, data) = page.event().unwrap()
            && kind == "rows"
        {
            told.push(data);
        }
    }
    let all = [&*metrics, &locks.body, &lock.body, &broken.body, &server.get("/api/session").body];
    let told = serde_json::to_string(&told).unwrap();
    for text in all.into_iter().chain([&*told]) {
        assert!(!text.contains("CANARY"), "{text}");
    }
    server.running.signal("TERM");
    let (status, warned) = server.running.end_and_warned();
    assert_eq!((status, warned.iter().any(|line| line.contains("CANARY"))), (Some(0), false), "{warned:?}");
    let said = |text: &str| warned.iter().filter(|line| line.contains(text)).count();
    assert_eq!([said("not all locks can be listed: "), said("all locks can be listed again")], [1, 1]);
    drop(held);
}

#[test]
fn a_store_that_refuses_or_does_not_answer_is_told_at_the_start_and_locks_that_are_not_known_are_no_answer() {
    let redis = Redis::start_with(&["--requirepass", "CANARY"]).unwrap();
    let refused = format!("redis://:CANARY2@127.0.0.1:{}", redis.port());
    // Nothing listens at the first port.
    for (url, why) in [(&*refused, "denied access"), ("redis://127.0.0.1:1", "unavailable")] {
        let server = Server::of(url, &["--timeout", "1s"]);
        let said = server.running.warns("not all locks can be listed: ");
        assert!(said.contains(why), "{said}");
        for _ in 0..3 {
            let locks = server.get("/api/locks");
            let error = locks.json()["error"].as_str().unwrap().to_owned();
            assert_eq!(locks.status, 503, "{locks:?}");
            assert!(error.starts_with("the locks are not known yet: ") && error.contains(why), "{error}");
        }
        server.running.signal("TERM");
        let (status, warned) = server.running.end_and_warned();
        assert_eq!((status, warned), (Some(0), Vec::new()), "it is said once");
        assert!(!said.contains("CANARY"), "{said}");
    }
}

#[test]
fn a_deadlock_is_told_by_the_page_the_lock_and_the_events() {
    let redis = Redis::start().unwrap();
    let process = |process| {
        let options =
            ManagerOptions::new().process(process).locks(Options::new().wait(Duration::from_secs(60)));
        LockManager::connect_with(&redis.url(), options).unwrap()
    };
    let (one, two) = (process(1001), process(1002));
    let held = [one.mutex("a").acquire().unwrap(), two.mutex("b").acquire().unwrap()];
    let waits = [(one.clone(), "b"), (two.clone(), "a")];
    for (manager, name) in waits {
        std::thread::spawn(move || manager.mutex(name).acquire().map(drop));
    }
    let server = Server::of(&redis.url(), &["--allow-break"]);
    let cycle = eventually(|| {
        let waits = server.get("/api/waits").json();
        Some(waits["deadlocks"][0].clone()).filter(serde_json::Value::is_array)
    });
    let cycle = cycle.expect("it is found");
    assert_eq!(cycle.as_array().unwrap().len(), 2);
    assert_eq!(cycle[0]["blocker"], cycle[1]["waiter"]);
    assert_eq!(cycle[1]["blocker"], cycle[0]["waiter"]);
    assert_eq!(server.get("/api/lock?name=b").json()["deadlocks"], json!([cycle]));
    let mut page = server.connect();
    page.send("GET", "/api/events", &[], "");
    page.head().unwrap();
    let told = std::iter::from_fn(|| page.event()).find(|(_, data)| data["news"]["deadlocks"][0].is_array());
    let mut names: Vec<_> = told.unwrap().1["news"]["deadlocks"][0]
        .as_array()
        .unwrap()
        .iter()
        .map(|wait| wait["name"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["a", "b"]);
    assert!(server.get("/metrics").body.contains("globallock_store_deadlocks 1\n"));
    // Who is taken out of it lets the other go on.
    let claim = cycle[0]["claim"].as_str().unwrap();
    assert_eq!(server.break_claim(cycle[0]["name"].as_str().unwrap(), claim, "deadlock").status, 200);
    let ended = std::iter::from_fn(|| page.event()).find(|(_, data)| data["news"]["deadlocks"] == json!([]));
    assert!(ended.is_some());
    drop(held);
}

#[test]
fn a_wait_for_a_claim_of_the_same_process_is_told_as_inspect_tells_it() {
    let (store, server) = served(&[]);
    let manager = LockManager::connect(&store.url()).unwrap();
    let held = manager.mutex("own").acquire().unwrap();
    let waiting = std::thread::spawn(move || manager.mutex("own").acquire().map(drop));
    let lock = eventually(|| {
        let lock = server.get("/api/lock?name=own").json();
        Some(lock).filter(|lock| lock["claims"].as_array().is_some_and(|claims| claims.len() == 2))
    });
    let lock = lock.expect("it waits");
    assert_eq!(lock["waits"][0]["blocked_by"], lock["claims"][0]["claim"], "{lock}");
    assert_eq!(lock["deadlocks"], json!([]));
    let inspected = ended(store.command().args(["inspect", "-o", "json", "own"])).output;
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["waits"], lock["waits"]);
    held.release().unwrap();
    waiting.join().unwrap().unwrap();
}

/// How often each command was called, but those that keep a connection.
fn commands(redis: &Redis) -> Vec<String> {
    let statistics = redis.cli(&["INFO", "commandstats"]);
    let kept = |line: &&str| line.starts_with("cmdstat_") && !line.starts_with("cmdstat_info:");
    let calls = |line: &str| line.split(',').next().unwrap().to_owned();
    statistics.lines().map(str::trim).filter(kept).map(calls).filter(|line| !line.contains("ping")).collect()
}

#[test]
fn the_store_is_looked_at_only_while_somebody_wants_to_know() {
    let redis = Redis::start().unwrap();
    let server = Server::of(&redis.url(), &[]);
    let mut page = server.connect();
    page.send("GET", "/api/events", &[], "");
    page.head().unwrap();
    page.event().unwrap();
    let seen = commands(&redis);
    eventually(|| (commands(&redis) != seen).then_some(())).expect("it is looked at again and again");
    let viewers = |count: usize| {
        let line = format!("globallock_serve_viewers {count}\n");
        eventually(|| server.get("/metrics").body.contains(&line).then_some(()))
    };
    viewers(1).expect("a page is counted");
    drop(page);
    viewers(0).expect("and is not any more when it is closed");
    // A look may be under way. What does not happen has no event to wait for: ten intervals are enough.
    let pause = || std::thread::sleep(Duration::from_secs(1));
    pause();
    let seen = commands(&redis);
    pause();
    assert_eq!(commands(&redis), seen);
    let asked = server.get("/api/locks").json();
    assert!(commands(&redis) != seen && asked["look_age_seconds"].as_f64().unwrap() < 1.0, "{asked}");
}

#[test]
fn a_scrape_of_a_store_that_hangs_is_answered_before_prometheus_gives_up() {
    let redis = Redis::start().unwrap();
    // Of a client here an answer has 30 seconds, and this look would take longer.
    let server = Server::of(&redis.url(), &["--timeout", "60s"]);
    assert!(server.get("/metrics").body.contains("globallock_store_up 1\n"));
    redis.stop();
    // A look that is not older than the interval is still good enough for the first.
    let metrics = eventually(|| {
        let metrics = server.get("/metrics").body;
        metrics.contains("globallock_store_up 0\n").then_some(metrics)
    });
    let metrics = metrics.expect("it is told");
    assert!(!metrics.contains("store_names"), "{metrics}");
    redis.go_on();
    eventually(|| server.get("/metrics").body.contains("globallock_store_up 1\n").then_some(()))
        .expect("it is up again");
}

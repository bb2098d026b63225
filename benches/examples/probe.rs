//! p
use globallock::backend::*;
use globallock::queue::Share;
use globallock::{LockManager, Name};
use std::sync::Arc;
use std::time::Instant;
#[tokio::main]
async fn main() {
    let port = 7799;
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/?protocol=resp3")).unwrap();
    let mut c = client.get_multiplexed_async_connection().await.unwrap();
    let mut c2 = client.get_multiplexed_async_connection().await.unwrap();
    let manager = LockManager::connect(&format!("redis://127.0.0.1:{port}")).await.unwrap();
    let lock = manager.mutex("bench-pairs").unwrap();
    let backend = manager.backend().clone();
    let nop: String = redis::cmd("SCRIPT").arg("LOAD").arg("return 1").query_async(&mut c).await.unwrap();
    let base = "/work/main/crates/globallock/src/redis/";
    let cat = |names: &[&str]| {
        names.iter().map(|n| std::fs::read_to_string(format!("{base}{n}")).unwrap()).collect::<String>()
    };
    let j: String = redis::cmd("SCRIPT")
        .arg("LOAD")
        .arg(cat(&["join_plain.lua", "queue.lua", "join.lua"]))
        .query_async(&mut c)
        .await
        .unwrap();
    let l: String = redis::cmd("SCRIPT")
        .arg("LOAD")
        .arg(cat(&["leave_plain.lua", "queue.lua", "leave.lua"]))
        .query_async(&mut c)
        .await
        .unwrap();
    let keys =
        ["_glocks:b", "{_glocks:b}:fence", "{_glocks:b}:queue", "{_glocks:b}:claims", "{_glocks:b}:shared"];
    let id = "a".repeat(32);
    let mut jc = redis::cmd("EVALSHA");
    jc.arg(&j)
        .arg(5)
        .arg(&keys)
        .arg(&id)
        .arg(10000)
        .arg(0)
        .arg("1/1:{\"host\":\"vm\",\"pid\":1234}")
        .arg("1 globallock:wake:bbbbbbbbbbbbbbbbbbbb");
    let mut lc = redis::cmd("EVALSHA");
    lc.arg(&l).arg(5).arg(&keys).arg(&id);
    let med = |v: &mut Vec<u128>| {
        v.sort();
        v[v.len() / 2] as f64 / 1000.0
    };
    for _ in 0..3 {
        for mode in [3, 4, 5, 6, 7, 8] {
            let (mut a, mut b) = (vec![], vec![]);
            for n in 0..5000u64 {
                let t = Instant::now();
                let _: String = redis::cmd("PING").query_async(&mut c).await.unwrap();
                a.push(t.elapsed().as_nanos());
                let t = Instant::now();
                match mode {
                    0 => {
                        let g = lock.acquire().await.unwrap();
                        g.release().await.unwrap();
                    }
                    1 => {
                        let g = lock.try_acquire().await.unwrap().unwrap();
                        g.release().await.unwrap();
                    }
                    2 | 3 => {
                        let claim = Claim {
                            id: ClaimId::new(77, n),
                            name: Name::new("bench-pairs").unwrap(),
                            share: Share { weight: 1, capacity: 1 },
                            patience: if mode == 2 { Patience::Queue } else { Patience::Once },
                            lease: std::time::Duration::from_secs(10),
                            max_hold: None,
                            owner: Arc::from("{\"host\":\"vm\",\"pid\":1234}"),
                        };
                        backend.join(&claim).await.unwrap();
                        backend.leave(&claim).await.unwrap();
                    }
                    7 => {
                        let _: i64 = jc.query_async(&mut c2).await.unwrap();
                        let _: i64 = lc.query_async(&mut c2).await.unwrap();
                    }
                    8 => {
                        let _: i64 = jc.query_async(&mut c).await.unwrap();
                        let _: i64 = lc.query_async(&mut c).await.unwrap();
                    }
                    5 => {
                        for _ in 0..2 {
                            let _: String = redis::cmd("PING").query_async(&mut c2).await.unwrap();
                        }
                    }
                    6 => {
                        for _ in 0..2 {
                            let _: String = redis::cmd("PING").query_async(&mut c).await.unwrap();
                        }
                    }
                    _ => {
                        for _ in 0..2 {
                            let _: i64 = redis::cmd("EVALSHA")
                                .arg(&nop)
                                .arg(5)
                                .arg("_glocks:b")
                                .arg("{_glocks:b}:fence")
                                .arg("{_glocks:b}:queue")
                                .arg("{_glocks:b}:claims")
                                .arg("{_glocks:b}:shared")
                                .query_async(&mut c)
                                .await
                                .unwrap();
                        }
                    }
                }
                b.push(t.elapsed().as_nanos());
            }
            let (a, b) = (med(&mut a), med(&mut b));
            println!(
                "{} ping {a:.1} pair {b:.1} ratio {:.2}",
                [
                    "acquire",
                    "try",
                    "backend queue",
                    "backend once",
                    "nop x2",
                    "ping x2 other",
                    "ping x2 same",
                    "raw other",
                    "raw same"
                ][mode],
                b / a
            );
        }
    }
}

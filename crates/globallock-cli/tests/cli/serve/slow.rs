//! Clients that take their time.

use std::time::{Duration, Instant};

use super::http::Connection;
use super::{Server, holder, served};
use crate::support::{LIMIT, eventually};

/// The memory that a process uses, in KiB.
fn memory(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.running.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn five_hundred_clients_that_never_end_their_requests_stop_nobody_and_are_sent_away() {
    let (store, server) = served(&["--allow-break"]);
    let _held = holder(&store, "a");
    let before = memory(&server);
    let token = server.token();
    let mut slow: Vec<Connection> = (0..500).map(|_| server.connect()).collect();
    let begun = Instant::now();
    for (number, client) in slow.iter_mut().enumerate() {
        let host = format!("host: 127.0.0.1:{}\r\n", server.port);
        match number % 5 {
            0 => {}
            1 => client.write(b"G"),
            2 => client.write(format!("GET / HTTP/1.1\r\n{host}x: ").as_bytes()),
            3 => client.write(
                format!(
                    "POST /api/break HTTP/1.1\r\n{host}content-type: application/json\r\n\
                     content-length: 999\r\nx-globallock-token: {token}\r\n\r\n{{"
                )
                .as_bytes(),
            ),
            // It reads nothing of what it has asked for.
            _ => client.write(format!("GET /page.js HTTP/1.1\r\n{host}\r\n").repeat(50).as_bytes()),
        }
    }
    for _ in 0..20 {
        let asked = Instant::now();
        assert_eq!(server.get("/api/locks").json()["names"], 1);
        assert_eq!(server.get("/").status, 200);
        assert!(asked.elapsed() < Duration::from_secs(5), "the others wait for {:?}", asked.elapsed());
    }
    let more = memory(&server).saturating_sub(before);
    assert!(more < 100 * 1024, "{more} KiB for 500 clients");
    // Byte by byte is no way to stay either.
    let trickle = || {
        for client in slow.iter_mut().skip(2).step_by(5) {
            client.try_write(b"x");
        }
        let head = slow[2].stream();
        head.set_nonblocking(true).unwrap();
        let is_open = |error: std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        let is_closed = !head.peek(&mut [0; 1]).is_err_and(is_open);
        is_closed.then_some(())
    };
    eventually(trickle).expect("a client that never ends its request is sent away");
    assert!(begun.elapsed() > Duration::from_secs(5), "each had its time");
    let closed = |index: usize| {
        slow[index].stream().set_nonblocking(false).unwrap();
        slow[index].stream().set_read_timeout(Some(LIMIT)).unwrap();
        let mut taken = 0;
        while let Ok(read @ 1..) = std::io::Read::read(&mut slow[index].stream(), &mut [0; 4096]) {
            taken += read;
        }
        taken
    };
    for index in [0, 1] {
        closed(index);
    }
    assert!(closed(3) > 0, "a body that does not come is answered");
}

#[test]
fn a_page_that_does_not_read_costs_no_memory_and_catches_up_by_the_newest() {
    let (store, server) = served(&[]);
    let mut asleep: Vec<Connection> = (0..20).map(|_| server.connect()).collect();
    for page in &mut asleep {
        page.send("GET", "/api/events", &[], "");
    }
    let before = memory(&server);
    let mut last = String::new();
    for round in 0..40 {
        last = format!("lock-{round}-{}", "x".repeat(200));
        let held = holder(&store, &last);
        if round < 39 {
            assert_eq!(held.end(), Some(0));
        } else {
            let page = &mut asleep[0];
            page.head().unwrap();
            let is_last = |data: &serde_json::Value| {
                let news = &data["news"];
                let rows = [&news["rows"], &news["changed"]].map(|rows| rows.as_array().cloned());
                rows.into_iter().flatten().flatten().any(|row| row["name"] == *last)
            };
            assert!(std::iter::from_fn(|| page.event()).any(|(_, data)| is_last(&data)));
            drop(held);
        }
    }
    let more = memory(&server).saturating_sub(before);
    assert!(more < 20 * 1024, "{more} KiB for 20 pages that sleep; the last lock is {last}");
}

//! What is seen of real stores, and what keys do there.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use globallock::ManagerOptions;
use globallock::blocking::LockManager;
use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::Etcd;
use globallock_conformance::server::redis::Redis;
use globallock_conformance::server::zookeeper::ZooKeeper;

use super::window::Window;
use crate::support::{LIMIT, Running, TestStore, eventually, kill};

/// Starts a run that holds a lock until it is told to end.
fn holds(store: &TestStore, url: &str, label: &str, name: &str) -> Running {
    let mut command = store.command();
    command.args(["run", "--url", url, "--label", label, name, "--"]);
    Running::start(command.args(["sh", "-c", "echo ready; read _; read _"]))
}

/// A lock appears, changes hands, and is broken by keys.
fn appears_changes_hands_and_is_broken(url: &str) {
    let store = TestStore::new();
    let window = Window::open(&store, 80, 24);
    let syslog = store.path("syslog");
    let log = UnixDatagram::bind(&syslog).unwrap();
    window.line(&format!("$TOP --url '{url}' --syslog '{}'", syslog.display()));
    window.until("Nobody holds a lock, and nobody waits for one.");
    let first = holds(&store, url, "first", "team/job");
    first.says("ready");
    window.until_it(|screen| screen.contains("team/job") && screen.contains(" first (pid "));
    let second = holds(&store, url, "second", "team/job");
    window.until("1 held, 1 waited for");
    window.keys(&["Enter"]);
    let page =
        window.until_it(|screen| screen.contains("1 holder, 1 waiter") && screen.contains("No deadlock"));
    let [holder, waiter] = ["holds mutex   first (pid ", "1     mutex   second (pid "];
    assert!(page.contains(holder) && page.contains(waiter), "{page}");
    window.keys(&["u"]);
    window.text("it hangs");
    window.keys(&["Enter"]);
    window.text("y");
    let asked = window.until("y, or the name, breaks it: y");
    assert!(asked.contains("label    first") && asked.contains("waiters  1"), "{asked}");
    window.keys(&["Enter"]);
    let said = first.warns("is lost: it was broken by ");
    assert!(said.contains(": it hangs; "), "{said}");
    assert_eq!(first.end(), Some(76));
    second.says("ready");
    window.until_it(|screen| {
        screen.contains("team/job: broken. first (pid ") && screen.contains("holds mutex   second (pid ")
    });
    // Back in the table, it changes hands.
    window.keys(&["Escape"]);
    window.until_not("holds mutex");
    window.until_it(|screen| screen.contains("1 held, 0 waited for") && screen.contains(" second (pid "));
    drop(second);
    window.until("Nobody holds a lock, and nobody waits for one.");
    window.keys(&["q"]);
    // What was broken stays on the screen, and in the system's log.
    window.prompt();
    let screen = window.unwrapped();
    log.set_read_timeout(Some(LIMIT)).unwrap();
    let mut bytes = [0; 1000];
    let length = log.recv(&mut bytes).unwrap();
    let (_, told) = std::str::from_utf8(&bytes[..length]).unwrap().split_once("]: ").unwrap();
    assert!(told.starts_with("\"team/job\": claim ") && told.contains(" of first (pid "), "{told}");
    assert!(told.contains(" is broken by ") && told.contains(": it hangs; store "), "{told}");
    assert!(screen.contains(&format!("globallock: {told}")), "{screen}");
}

#[test]
fn a_lock_of_a_directory() {
    let store = TestStore::new();
    appears_changes_hands_and_is_broken(&store.url());
}

#[test]
fn a_lock_of_redis() {
    let server = Redis::start().unwrap();
    appears_changes_hands_and_is_broken(&server.url());
}

#[test]
fn a_lock_of_etcd() {
    let cluster = Etcd::start(1).unwrap();
    appears_changes_hands_and_is_broken(&format!("etcd://127.0.0.1:{}", cluster.ports()[0]));
}

#[test]
fn a_lock_of_zookeeper() {
    let ensemble = ZooKeeper::start(1).unwrap();
    appears_changes_hands_and_is_broken(&format!("zookeeper://{}", ensemble.hosts()));
}

#[test]
fn names_are_found_and_the_screen_may_have_any_size() {
    let store = TestStore::new();
    let held: Vec<Running> =
        ["a/one", "a/two", "b/one"].into_iter().map(|name| holds(&store, &store.url(), "x", name)).collect();
    held.iter().for_each(|run| drop(run.says("ready")));
    let window = Window::open(&store, 80, 24);
    window.line("$TOP --sort name a/");
    let screen = window.until("2 names, 2 held");
    assert!(screen.contains(" a/*, by name") && !screen.contains("b/one"), "{screen}");
    window.text("/tw");
    window.until_not("a/one");
    window.keys(&["Enter"]);
    window.until("only named *tw*: 1 shown");
    window.text("c");
    window.until("a/one");
    window.resize(40, 10);
    let screen = window.until_it(|screen| screen.lines().count() == 10 && screen.contains("? help"));
    assert!(screen.contains("a/one") && screen.lines().all(|line| line.chars().count() <= 40), "{screen}");
    window.resize(20, 5);
    window.until("This screen is too");
    window.resize(120, 40);
    window.until("2 names, 2 held, 0 waited for");
    window.text(" ");
    window.until("PAUSED");
    drop(held);
    window.text(" ");
    window.until("Nobody holds a lock whose name begins with a/, and nobody waits for one.");
}

#[test]
fn escape_is_a_key_also_while_much_else_happens() {
    let store = TestStore::new();
    let run = holds(&store, &store.url(), "x", "job");
    run.says("ready");
    let window = Window::open(&store, 80, 24);
    window.line("$TOP");
    window.until("1 held, 0 waited for");
    window.keys(&["Enter"]);
    window.until("1 holder, 0 waiters");
    let child = window.child();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Far more often than what is waited for the rest of a key.
        let storm = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                assert!(kill("WINCH", &child));
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let closed = catch_unwind(AssertUnwindSafe(|| {
            window.keys(&["Escape"]);
            window.until_not("1 holder, 0 waiters")
        }));
        is_over.store(true, Ordering::Relaxed);
        storm.join().unwrap();
        closed.unwrap();
    });
}

#[test]
fn a_deadlock_is_seen_on_the_page_of_its_lock() {
    let store = TestStore::new();
    let manager = |process: u32| {
        let options = ManagerOptions::new().label(format!("job{process}")).process(process);
        LockManager::connect_with(&store.url(), options).unwrap()
    };
    let (one, two) = (manager(1001), manager(1002));
    let (a, b) = (one.mutex("a").acquire().unwrap(), two.mutex("b").acquire().unwrap());
    let waits = |manager: &LockManager, name: &str| drop(manager.mutex(name).wait(Some(LIMIT)).acquire());
    std::thread::scope(|scope| {
        scope.spawn(|| waits(&one, "b"));
        scope.spawn(|| waits(&two, "a"));
        let window = Window::open(&store, 100, 30);
        window.line("$TOP --sort name");
        window.until("2 held, 2 waited for");
        window.keys(&["Enter"]);
        let page = window.until(" DEADLOCK\n");
        for (waiter, name, blocker) in [(1002, "a", 1001), (1001, "b", 1002)] {
            let wait = format!("* job{waiter} (pid {waiter} on ");
            assert!(page.contains(&wait), "{page}");
            assert!(
                page.contains(&format!(") waits for {name}, held by job{blocker} (pid {blocker} on ")),
                "{page}"
            );
        }
        one.close();
        two.close();
    });
    drop((a, b));
}

#[test]
fn a_store_that_goes_away_is_told_without_its_password_and_comes_back() {
    let mut server = Redis::start_with_users(&["user ops on >sekret ~* &* +@all"]).unwrap();
    let url = format!("redis://ops:sekret@127.0.0.1:{}", server.port());
    let store = TestStore::new();
    let window = Window::open(&store, 80, 24);
    let record = window.record();
    let run = holds(&store, &url, "x", "job");
    run.says("ready");
    fs::write(store.path("url"), &url).unwrap();
    window.line(&format!("$TOP --timeout 300ms --url-file '{}'", store.path("url").display()));
    window.until(" x (pid ");
    server.kill();
    let screen = window.until("is unavailable: ");
    assert!(screen.contains("What is shown is ") && screen.contains(" x (pid "), "{screen}");
    window.keys(&["Enter"]);
    window.until("Its queue cannot be read: ");
    window.keys(&["Escape"]);
    server.resume_after_kill().unwrap();
    window.until_not("What is shown is ");
    window.keys(&["q"]);
    window.prompt();
    assert!(!fs::read_to_string(record).unwrap().contains("sekret"));
}

#[test]
fn what_others_wrote_does_nothing_to_the_terminal() {
    let store = TestStore::new();
    let bad = "\u{1b}]0;title\u{7}\u{1b}[31mred\u{202e}";
    let run = holds(&store, &store.url(), bad, bad);
    run.says("ready");
    let window = Window::open(&store, 120, 30);
    let record = window.record();
    window.line("$TOP");
    window.until(r"\u{1b}]0;title\u{7}\u{1b}[31mred\u{202e}");
    window.keys(&["Enter"]);
    window.until("1 holder, 0 waiters");
    window.keys(&["u"]);
    window.until("Break this claim?");
    window.keys(&["C-c"]);
    window.prompt();
    let written = fs::read_to_string(record).unwrap();
    let shown = &written[written.find("\u{1b}[?1049h").unwrap()..written.find("\u{1b}[?1049l").unwrap()];
    assert!(shown.contains("globallock top"));
    for bad in ["\u{1b}]", "\u{7}", "\u{1b}[31m", "\u{202e}"] {
        assert!(!shown.contains(bad), "{bad:?}: {shown:?}");
    }
}

#[test]
fn there_are_colours_unless_the_user_wants_none() {
    let store = TestStore::new();
    let first = holds(&store, &store.url(), "first", "job");
    first.says("ready");
    let _second = holds(&store, &store.url(), "second", "job");
    let window = Window::open(&store, 80, 24);
    let record = window.record();
    let written = |line: &str| {
        fs::write(&record, "").unwrap();
        window.line(line);
        window.until("1 waited for");
        window.keys(&["u"]);
        window.until("Break this claim?");
        window.keys(&["C-c"]);
        window.prompt();
        let written = || fs::read_to_string(&record).ok().filter(|text| text.contains("\u{1b}[?1049l"));
        eventually(written).unwrap()
    };
    let is_colour = |text: &str| ["\u{1b}[38;", "\u{1b}[48;"].iter().any(|code| text.contains(code));
    assert!(is_colour(&written("$TOP")));
    let plain = written("NO_COLOR=1 $TOP");
    assert!(!is_colour(&plain) && plain.contains("\u{1b}[7m"), "{plain:?}");
}

#[test]
fn it_takes_next_to_no_time_of_the_processor() {
    let store = TestStore::new();
    let window = Window::open(&store, 80, 24);
    window.line(&format!("{} top", env!("CARGO_BIN_EXE_globallock")));
    window.until("Nobody holds a lock");
    let process = window.child();
    // The clock ticks of the processor, a hundred a second.
    let ticks = || -> u64 {
        let fields = crate::support::stat_fields(&process).unwrap();
        [11, 12].into_iter().map(|field| fields[field].parse::<u64>().unwrap()).sum()
    };
    let before = ticks();
    std::thread::sleep(Duration::from_secs(3));
    let used = ticks() - before;
    assert!(used < 30, "{used} hundredths of a second in three seconds");
    window.keys(&["q"]);
}

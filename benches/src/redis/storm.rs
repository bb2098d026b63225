//! How a fleet comes back when its server restarts.

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use globallock::internals::stop_jitter;
use globallock::{LockManager, Options};
use globallock_conformance::server::redis::Redis;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::info;
use crate::report::{row, title};

/// The first argument of a process of the fleet.
pub(crate) const PROCESS: &str = "storm-process";

/// The pauses between tries to connect: with a random part, and as they were before they had one.
const JITTERED: &str = "jittered";
const WHOLE: &str = "whole";

const PROCESSES: usize = 20;
const MANAGERS: usize = 50;
/// How long the server is away.
const AWAY: Duration = Duration::from_secs(2);
/// The steps in which connections are counted.
const STEP: Duration = Duration::from_millis(20);

/// A server that is killed and started again under a fleet, each of whose managers then wants a lock: without
/// the random part of the pauses between their tries, and with it.
pub(crate) async fn measure() {
    for pauses in [WHOLE, JITTERED] {
        measure_with(pauses).await;
    }
}

async fn measure_with(pauses: &str) {
    title(&format!(
        "A server that is away for {AWAY:?} under {} managers in {PROCESSES} processes, with {pauses} pauses",
        PROCESSES * MANAGERS
    ));
    let mut server = Redis::start().expect("the server starts");
    let mut fleet = Vec::new();
    for _ in 0..PROCESSES {
        fleet.push(start(&server.url(), pauses).await);
    }
    server.kill();
    for (child, _) in &mut fleet {
        let asked = child.stdin.as_mut().expect("it is piped").write_all(b"go\n").await;
        asked.expect("the process of the fleet is there");
    }
    sleep(AWAY).await;
    server.resume_after_kill().expect("the server starts again");
    let began = SystemTime::now();
    let counted = tokio::spawn(connections(server.port()));
    let mut back = Vec::new();
    for (_, output) in &mut fleet {
        let mut text = String::new();
        output.read_to_string(&mut text).await.expect("the process of the fleet writes text");
        let times: Vec<Duration> =
            serde_json::from_str(&text).expect("it writes when its managers were back");
        let began = began.duration_since(SystemTime::UNIX_EPOCH).expect("the clock is set");
        back.extend(times.into_iter().map(|time| time.saturating_sub(began)));
    }
    back.sort_unstable();
    assert_eq!(back.len(), PROCESSES * MANAGERS, "a manager did not come back");
    let counted = counted.await.expect("the server answers");
    // Not of a single step, since one may hold what several brought.
    let most = |span: Duration| {
        let steps = usize::try_from(span.as_millis() / STEP.as_millis()).expect("it is short");
        counted.windows(steps + 1).map(|window| window[steps] - window[0]).max().unwrap_or(0)
    };
    row("half of them hold a lock again after", back[back.len() / 2].as_secs_f64(), "s", "");
    let goal = if pauses == JITTERED { "goal <= 3" } else { "" };
    row("all of them after", back[back.len() - 1].as_secs_f64(), "s", goal);
    row("most connections in a tenth of a second", most(Duration::from_millis(100)) as f64, "", "");
    row("most connections in a second", most(Duration::from_secs(1)) as f64, "", "");
}

/// Starts a process of the fleet, and waits until its managers are connected.
async fn start(url: &str, pauses: &str) -> (Child, BufReader<ChildStdout>) {
    let program = std::env::current_exe().expect("this program has a path");
    let mut child = Command::new(program)
        .args([PROCESS, url, pauses])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("this program starts");
    let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut line = String::new();
    output.read_line(&mut line).await.expect("the process of the fleet says that it is ready");
    (child, output)
}

/// How many connections the server has accepted, at every step of the first seconds.
async fn connections(port: u16) -> Vec<u64> {
    let (end, mut counted) = (Instant::now() + Duration::from_secs(4), Vec::new());
    while Instant::now() < end {
        counted.push(info(port, "stats").await.get("total_connections_received").unwrap_or(0));
        sleep(STEP).await;
    }
    // Each count made one connection of its own.
    counted.iter().zip(1..).map(|(count, own)| count - own).collect()
}

/// A process of the fleet. It is told when the server has been killed.
pub(crate) async fn process(url: &str, pauses: &str) {
    if pauses == WHOLE {
        stop_jitter();
    }
    let mut managers = Vec::new();
    for _ in 0..MANAGERS {
        managers.push(LockManager::connect(url).await.expect("the server is there"));
    }
    println!("ready");
    let mut line = String::new();
    BufReader::new(tokio::io::stdin()).read_line(&mut line).await.expect("the benchmark says when");
    let mut tasks = JoinSet::new();
    for (number, manager) in managers.into_iter().enumerate() {
        let options = Options::new().store_timeout(Duration::from_secs(60));
        let lock = manager.mutex(format!("storm-{}-{number}", std::process::id())).with_options(options);
        tasks.spawn(async move {
            let guard = lock.acquire().await.expect("the server comes back");
            let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is set");
            guard.release().await.expect("the lock is held");
            drop(manager);
            time
        });
    }
    println!("{}", serde_json::to_string(&tasks.join_all().await).expect("times have a form"));
}

//! The host is suspended for longer than the lease: the owner sees at its first look that it has lost the
//! lock, and is told at once.
//!
//! A host cannot be suspended in a test. So the owner is stopped, and a library that is loaded into it gives
//! its clocks the difference that a suspension makes.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use globallock_conformance::context::eventually;
use globallock_conformance::fixtures::queue_is;
use globallock_conformance::pauses::Pauses;
use globallock_conformance::server::clock::Clock;
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::store::{BUSY, Store, connect};

/// The lease, or the max hold time. Without being told, the owner would learn of its loss by its next
/// renewal, a second or two later, or at its old deadline, which is later still.
const ENDS: Duration = Duration::from_secs(6);
/// How late an owner may learn that it has lost the lock.
const LATE: Duration = Duration::from_millis(500);

/// By how much the time for which its clock stood still may differ from the suspension. It reads two clocks
/// one after the other.
const NEAR: Duration = Duration::from_secs(1);

/// What ends the hold of the suspended owner.
#[derive(Clone, Copy, Debug)]
enum End {
    Lease,
    MaxHold,
}

/// Which threads the suspended owner has.
#[derive(Clone, Copy, Debug)]
enum Threads {
    One,
    Several,
}

/// A suspended owner.
struct Owner {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    clock: Clock,
}

/// What the clock shows that goes on while a host is suspended.
fn going_on() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

impl Owner {
    async fn start(directory: &Path, url: &str, name: &str, end: End, threads: Threads) -> Self {
        let clock = Clock::new(directory, name).unwrap();
        let ends = format!("{}ms", ENDS.as_millis());
        let mut command = Command::new(env!("CARGO_BIN_EXE_globallock-holder"));
        let verb = match threads {
            Threads::One => "believe-alone",
            Threads::Several => "believe",
        };
        command.args([verb, url, name]);
        match end {
            End::Lease => command.arg(ends),
            End::MaxHold => command.args([&format!("{}ms", 2 * ENDS.as_millis()), &ends]),
        };
        command.envs(clock.environment()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut owner = Owner { child, lines, clock };
        assert_eq!(owner.next_line().await, "granted");
        owner
    }

    async fn next_line(&mut self) -> String {
        self.lines.next_line().await.unwrap().expect("the owner is alive")
    }

    fn signal(&self, signal: Signal) -> u32 {
        let id = self.child.id().unwrap();
        kill_process(Pid::from_raw(id.try_into().unwrap()).unwrap(), signal).unwrap();
        id
    }

    /// Suspends it until `meanwhile` is done. Returns when it goes on, and for how long it was suspended.
    async fn suspend(&self, meanwhile: impl Future<Output = ()>) -> (Duration, Duration) {
        let stat = format!("/proc/{}/stat", self.signal(Signal::STOP));
        eventually("the owner is stopped", async || std::fs::read_to_string(&stat).unwrap().contains(") T "))
            .await;
        let since = going_on();
        meanwhile.await;
        let awake = going_on();
        self.clock.suspended_for(awake - since).unwrap();
        self.signal(Signal::CONT);
        (awake, awake - since)
    }
}

async fn is_lost_in(store: &Store, directory: &Path, end: End, threads: Threads) {
    let name = format!("{end:?}-{threads:?}");
    let next = connect(&store.url(), ENDS).await.unwrap();
    let mut owner = Owner::start(directory, &store.url(), &name, end, threads).await;
    let since = going_on();
    let lock = next.mutex(&name);
    let waiter = tokio::spawn(async move { lock.acquire().await.unwrap() });
    queue_is(&next, &name, 1, 1).await;
    let pauses = Pauses::watch();
    let (awake, length) = owner
        .suspend(async {
            let granted =
                Pauses::watch().within(ENDS * 2 + BUSY, waiter).await.expect("it is granted").unwrap();
            assert!(granted.is_held());
            // The owner of a max hold time that ends by another's clock counts from before its grant.
            let left = (since + ENDS).saturating_sub(going_on());
            tokio::time::sleep(left).await;
            granted.release().await.unwrap();
        })
        .await;
    let before = pauses.spent();
    let line = owner.next_line().await;
    let busy = pauses.spent() - before;
    let mut words = line.split(' ').map(|word| word.parse().map(Duration::from_nanos));
    let mut moment = || words.next().unwrap().unwrap();
    let (believed, doubted, told, slept) = (moment(), moment(), moment(), moment());
    println!(
        "{}, {name}: not held {:.0?} and told {:.0?} after the host woke: {line}",
        store.kind,
        doubted - awake,
        told.saturating_sub(awake)
    );
    // Otherwise it was only stopped, and lost the lock as anybody does who does not renew it.
    assert!(slept.abs_diff(length) < NEAR, "its clock stood still for {slept:?}, not {length:?}");
    assert!(believed < awake, "it held the lock for {:?} more: {line}", believed - awake);
    assert!(told < awake + LATE + busy, "it was told {:?} later: {line}", told - awake);
}

pub(crate) async fn a_lock_is_lost_at_the_first_look_after_a_suspension(store: Store) {
    let directory = TempDir::new().unwrap();
    // The owner of a file has it for as long as it lives.
    let ends = if store.kind == "file" { &[End::MaxHold][..] } else { &[End::MaxHold, End::Lease] };
    let owners = ends.iter().flat_map(|end| [(*end, Threads::One), (*end, Threads::Several)]);
    let lost = owners.map(|(end, threads)| is_lost_in(&store, directory.path(), end, threads));
    join_all(lost).await;
}

//! Owner processes that a case can kill and stop.

use std::process::Stdio;
use std::time::Duration;

use globallock::internals::duration;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::context::Context;

/// What an owner process tells, one JSON line each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// It is connected and asks for the lock now.
    Asking,
    /// It holds the lock, with this fencing token.
    Granted(u64),
    /// It has lost the lock, for this reason.
    Lost(String),
    /// It has released the lock, and this is whether it still held it.
    Released(bool),
    /// It could not get the lock.
    Failed(String),
}

/// A process that acquires one lock, and tells what happens.
#[derive(Debug)]
pub struct Owner {
    child: Child,
    commands: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Owner {
    /// Starts a process that asks for the lock of this context.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(context: &Context, kind: &str, max_hold: Option<Duration>) -> Self {
        let subject = context.subject();
        let program = subject.child.as_ref().expect("the runner knows the owner's program");
        let url = subject.url.as_ref().expect("the store has an address");
        let lease = subject.lease.as_millis();
        let mut command = Command::new(program);
        command.args([url, context.name(), kind, &format!("{lease}ms")]);
        command.args(max_hold.map(|hold| format!("{}ms", hold.as_millis())));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the owner's program starts");
        let commands = child.stdin.take().expect("it has a standard input");
        let lines = BufReader::new(child.stdout.take().expect("it has a standard output")).lines();
        Owner { child, commands, lines }
    }

    /// Waits for what it tells next.
    ///
    /// # Panics
    /// When it ends instead.
    pub async fn told(&mut self) -> Told {
        let line = self.lines.next_line().await.expect("the owner's output is text");
        let line = line.expect("the owner goes on");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("the owner says {line:?}: {error}"))
    }

    /// Waits until it holds, and returns its fencing token.
    ///
    /// # Panics
    /// When it does not come to hold.
    pub async fn granted(&mut self) -> u64 {
        assert_eq!(self.told().await, Told::Asking);
        match self.told().await {
            Told::Granted(fencing_token) => fencing_token,
            other => panic!("the owner says {other:?}"),
        }
    }

    /// Tells it to release the lock.
    ///
    /// # Panics
    /// When it has ended.
    pub async fn release(&mut self) {
        self.commands.write_all(b"release\n").await.expect("the owner goes on");
    }

    /// Kills it as a crash does, and waits until it is gone.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("the owner can be killed");
    }

    /// Stops it without ending it, and waits until it is stopped, or has ended by itself.
    ///
    /// # Panics
    /// When it has ended.
    pub async fn stop(&self) {
        self.signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", self.pid().as_raw_nonzero());
        crate::context::eventually("the owner is stopped", async || {
            // One that has ended meanwhile does nothing any more either.
            std::fs::read_to_string(&stat).is_ok_and(|text| text.contains(") T ") || text.contains(") Z "))
        })
        .await;
    }

    /// Lets a stopped one go on.
    ///
    /// # Panics
    /// When it has ended.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn pid(&self) -> Pid {
        let id = self.child.id().expect("the owner goes on");
        Pid::from_raw(i32::try_from(id).expect("a process id")).expect("a process id")
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the owner can be signalled");
    }
}

/// What an owner process does: the whole of its program.
///
/// Arguments: address, name, kind (`mutex`, `read`, `write` or `K/N` permits), lease, and the longest hold if any.
///
/// # Panics
/// When the arguments are wrong.
///
/// # Cancel safety
/// Not meant to be dropped.
pub async fn run(arguments: &[String]) {
    let tell = |told: &Told| println!("{}", serde_json::to_string(told).expect("it can be written"));
    let failed = |error: globallock::Error| tell(&Told::Failed(error.to_string()));
    let span = |text: &String| duration::parse(text).expect("a span of time");
    let options = globallock::Options {
        lease: span(&arguments[3]),
        max_hold: arguments.get(4).map(span),
        ..globallock::Options::default()
    };
    let options = globallock::ManagerOptions { locks: options, label: Some("child".to_owned()) };
    let acquired = async {
        let manager = globallock::LockManager::connect_with(&arguments[0], options).await?;
        let lock = crate::context::lock_of(&manager, &arguments[1], &arguments[2])?;
        tell(&Told::Asking);
        lock.acquire().await
    };
    let guard = match acquired.await {
        Ok(guard) => guard,
        Err(error) => return failed(error),
    };
    tell(&Told::Granted(guard.fencing_token()));
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    tokio::select! {
        loss = guard.lost() => tell(&Told::Lost(loss.to_string())),
        command = commands.next_line() => {
            if !matches!(command, Ok(Some(_))) {
                return;
            }
        }
    }
    match guard.release().await {
        Ok(departure) => tell(&Told::Released(departure == globallock::Release::Released)),
        Err(error) => failed(error),
    }
}

/// Takes turns with others, for so many seconds: what the owner's program does with `turns` as the first argument.
///
/// Arguments: address, name, kind, seconds, and a file that only one owner at a time can make; a reader only looks that
/// there is none. Prints how often it had the lock, and how often somebody else had the file.
///
/// # Panics
/// When the arguments are wrong, or the store does not answer.
///
/// # Cancel safety
/// Not meant to be dropped.
pub async fn take_turns(arguments: &[String]) {
    let seconds = duration::parse(&format!("{}s", arguments[3])).expect("a span of time");
    let manager = globallock::LockManager::connect(&arguments[0]).await.expect("the store answers");
    let lock = crate::context::lock_of(&manager, &arguments[1], &arguments[2]).expect("a good name");
    let file = &arguments[4];
    let (mut turns, mut overlaps) = (0_u64, 0_u64);
    let until = std::time::Instant::now() + seconds;
    while std::time::Instant::now() < until {
        let guard = lock.acquire().await.expect("the store answers");
        let inside = Duration::from_millis(1 + turns % 3);
        if arguments[2] == "read" {
            // Readers are together, but not with a writer.
            let with_writer = std::fs::exists(file).expect("the directory is there");
            tokio::time::sleep(inside).await;
            overlaps += u64::from(with_writer || std::fs::exists(file).expect("the directory is there"));
        } else if std::fs::File::create_new(file).is_ok() {
            tokio::time::sleep(inside).await;
            std::fs::remove_file(file).expect("the file is there");
        } else {
            overlaps += 1;
        }
        guard.release().await.expect("the store answers");
        turns += 1;
        tokio::time::sleep(Duration::from_millis(5 + turns % 15)).await;
    }
    println!("{turns} {overlaps}");
}

//! Owner processes that a case can kill and stop.

use std::process::Stdio;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use globallock::internals::duration;
use globallock::{Options, Schemes};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::context::Context;

/// What an owner process reports, as one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// It is connected and now asks for the lock.
    Asking,
    /// It holds the lock, with this fencing token.
    Granted(u64),
    /// It has lost the lock, for this reason.
    Lost(String),
    /// It has released the lock; true if it still held it.
    Released(bool),
    /// It did not get the lock, or could not release it, for this reason.
    Failed(String),
}

/// A process that acquires one lock and reports what happens.
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
        Self::start_with(context, kind, &context.options().max_hold(max_hold))
    }

    /// Starts a process that asks for the lock of this context with these options: the lease, the max hold
    /// time, and the time for which it is held at least.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_with(context: &Context, kind: &str, options: &Options) -> Self {
        Self::start_on(context, context.name(), kind, options)
    }

    /// Starts a process as [`Owner::start_with`] does, which asks for a lock of this name.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_on(context: &Context, name: &str, kind: &str, options: &Options) -> Self {
        let store = context.store();
        let program = store.child.as_ref().expect("the runner knows the owner's program");
        let url = store.url.as_ref().expect("the store has an address");
        let mut command = Command::new(program);
        let text = |span: Option<Duration>| span.map_or("-".into(), |span| format!("{}ms", span.as_millis()));
        command.args([url, name, kind]);
        command.args([Some(options.lease), options.max_hold, options.hold_at_least].map(text));
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

    /// Waits for its next report.
    ///
    /// # Panics
    /// When it ends instead.
    pub async fn next_report(&mut self) -> Report {
        let line = self.lines.next_line().await.expect("the owner's output is text");
        let line = line.expect("the owner is alive");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("the owner says {line:?}: {error}"))
    }

    /// Waits until it holds the lock, and returns its fencing token.
    ///
    /// # Panics
    /// When it reports anything else.
    pub async fn granted(&mut self) -> u64 {
        assert_eq!(self.next_report().await, Report::Asking);
        match self.next_report().await {
            Report::Granted(fencing_token) => fencing_token,
            other => panic!("the owner says {other:?}"),
        }
    }

    /// Tells it to release the lock.
    ///
    /// # Panics
    /// When it has ended.
    pub async fn release(&mut self) {
        self.commands.write_all(b"release\n").await.expect("the owner is alive");
    }

    /// Tells it to ask for another lock of the same kind as well, and waits until it does. It reports when it
    /// has that too, and keeps both.
    ///
    /// # Panics
    /// When it has ended, or reports anything else.
    pub async fn ask_also(&mut self, name: &str) {
        self.commands.write_all(format!("also {name}\n").as_bytes()).await.expect("the owner is alive");
        assert_eq!(self.next_report().await, Report::Asking);
    }

    /// Its process.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.child.id().expect("the owner is alive")
    }

    /// Kills it, as a crash does, and waits for its end.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("the owner can be killed");
    }

    /// Stops it without ending it (SIGSTOP), and waits until it is stopped or has ended by itself.
    ///
    /// # Panics
    /// When it has ended before.
    pub async fn stop(&self) {
        self.signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", self.pid().as_raw_nonzero());
        crate::context::eventually("the owner is stopped", async || {
            // An owner that has ended meanwhile runs no code either, so it counts as stopped.
            std::fs::read_to_string(&stat).is_ok_and(|text| text.contains(") T ") || text.contains(") Z "))
        })
        .await;
    }

    /// Continues a stopped owner (SIGCONT).
    ///
    /// # Panics
    /// When it has ended.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn pid(&self) -> Pid {
        let id = self.child.id().expect("the owner is alive");
        Pid::from_raw(i32::try_from(id).expect("a process id")).expect("a process id")
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the owner can be signalled");
    }
}

/// Runs an owner process: acquires a lock, and releases it when the line `release` arrives on standard input.
/// With the line `also NAME` it asks for one more lock.
///
/// Arguments: address, name, kind (`mutex`, `read`, `write` or `K/N` permits), lease, max hold time, and the
/// time for which the lock is held at least; `-` where there is none.
///
/// # Panics
/// When the arguments are wrong.
///
/// # Cancel safety
/// Not meant to be dropped.
pub async fn run(arguments: &[String]) {
    run_by(&Schemes::default(), arguments).await;
}

/// Runs an owner process as [`run`] does, of a store of one's own.
///
/// # Panics
/// When the arguments are wrong.
///
/// # Cancel safety
/// Not meant to be dropped.
pub async fn run_by(schemes: &Schemes, arguments: &[String]) {
    let report = |report: &Report| println!("{}", serde_json::to_string(report).expect("it can be written"));
    let failed = |error: globallock::Error| report(&Report::Failed(error.to_string()));
    let span = |at: usize| {
        let text = arguments.get(at).filter(|text| *text != "-");
        text.map(|text| duration::parse(text).expect("a span of time"))
    };
    let lease = span(3).expect("a lease");
    let options = Options::default().lease(lease).max_hold(span(4)).hold_at_least(span(5));
    let options = globallock::ManagerOptions::new().locks(options).label("child");
    let acquired = async {
        let manager = globallock::LockManager::connect_by(schemes, &arguments[0], options).await?;
        let lock = crate::context::lock_of(&manager, &arguments[1], &arguments[2])?;
        report(&Report::Asking);
        Ok((lock.acquire().await?, manager))
    };
    let (guard, manager) = match acquired.await {
        Ok(acquired) => acquired,
        Err(error) => return failed(error),
    };
    report(&Report::Granted(guard.fencing_token()));
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    let (mut asked, mut also) = (FuturesUnordered::new(), Vec::<globallock::Guard>::new());
    loop {
        tokio::select! {
            loss = guard.lost() => break report(&Report::Lost(loss.to_string())),
            Some(acquired) = asked.next() => match acquired {
                Ok::<globallock::Guard, _>(guard) => {
                    report(&Report::Granted(guard.fencing_token()));
                    also.push(guard);
                }
                Err(error) => failed(error),
            },
            command = commands.next_line() => {
                let Ok(Some(command)) = command else { return };
                let Some(name) = command.strip_prefix("also ") else { break };
                let lock = crate::context::lock_of(&manager, name, &arguments[2]).expect("a good kind");
                asked.push(async move { lock.acquire().await });
                report(&Report::Asking);
            }
        }
    }
    drop((asked, also));
    match guard.release().await {
        Ok(release) => report(&Report::Released(release == globallock::Release::Released)),
        Err(error) => failed(error),
    }
    manager.close().await;
}

/// Takes turns with other owners for a number of seconds. The owner's program calls this when its first
/// argument is `turns`.
///
/// Arguments: address, name, kind, seconds, and the path of a file. An exclusive owner makes the file while
/// it holds the lock; a reader only checks that the file does not exist. Prints how many turns it had, and in
/// how many of them the file showed another owner inside.
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
            // Readers may be inside together, but never with a writer.
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

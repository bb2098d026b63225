//! Runs `globallock` as a user does.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a test waits for an event that must happen.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The store of one test: a directory.
pub(crate) struct TestStore {
    directory: TempDir,
}

/// The result of a run that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: Option<i32>,
    pub(crate) output: String,
    pub(crate) error: String,
}

impl TestStore {
    pub(crate) fn new() -> Self {
        TestStore { directory: TempDir::new().unwrap() }
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.path("locks").display())
    }

    /// The claim files of a lock.
    pub(crate) fn claims(&self, name: &str) -> Vec<PathBuf> {
        let listed = std::fs::read_dir(self.path("locks").join(name));
        listed.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    }

    /// Runs `globallock run`, with this store, to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = self.command();
        command.arg("run").args(arguments);
        ended(&mut command)
    }

    /// Starts `globallock run` with this store.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        let mut command = self.command();
        Running::start(command.arg("run").args(arguments))
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = globallock();
        command.env("GLOBALLOCK_URL", self.url());
        command
    }
}

/// The program, without the variables of this process's environment that would change what it does.
pub(crate) fn globallock() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_globallock"));
    command
        .env_remove("GLOBALLOCK_URL")
        .env_remove("GLOBALLOCK_URL_FILE")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command
}

/// A command line on a terminal of its own, of this kind. What is written to it arrives as if typed.
pub(crate) fn on_terminal(store: &TestStore, terminal: &str, line: &str) -> Command {
    let mut command = Command::new("script");
    command.args(["-qefc", line, "/dev/null"]).env("GLOBALLOCK_URL", store.url()).env("TERM", terminal);
    // Without it, `script` takes the system's `sh`. Some of these wait beside their last command, and end by
    // the signal themselves.
    command.env("SHELL", "/bin/bash");
    command
}

/// Runs a command to its end, with no input.
pub(crate) fn ended(command: &mut Command) -> Ended {
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    let [output, error] =
        [read_to_end(child.stdout.take().unwrap()), read_to_end(child.stderr.take().unwrap())];
    let status = end_of(&mut child);
    Ended { status: as_shells_have_it(status), output: said(&output), error: said(&error) }
}

/// The exit status, or 128 and the number of the signal that ended the process.
fn as_shells_have_it(status: ExitStatus) -> Option<i32> {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal))
}

/// Waits for the end of a process, and kills it when it does not end in time.
pub(crate) fn end_of(child: &mut Child) -> ExitStatus {
    eventually(|| child.try_wait().unwrap()).unwrap_or_else(|| {
        child.kill().unwrap();
        panic!("process {} has not ended within {LIMIT:?}", child.id());
    })
}

/// Reads a stream to its end, on its own thread.
fn read_to_end(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let _ = sender.send(bytes);
    });
    receiver
}

/// The output of a process that has ended. Fails when another process that it left behind keeps the stream
/// open.
fn said(stream: &Receiver<Vec<u8>>) -> String {
    let bytes = stream.recv_timeout(LIMIT).expect("the stream ends with the process");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A run in progress. It is killed when this is dropped.
pub(crate) struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<String>,
    error: Receiver<String>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let input = child.stdin.take();
        let output = lines(child.stdout.take().unwrap());
        let error = lines(child.stderr.take().unwrap());
        Running { child, input, output, error }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of output that contains `text`.
    pub(crate) fn says(&self, text: &str) -> String {
        find(&self.output, text)
    }

    /// Waits for a line of standard error that contains `text`.
    pub(crate) fn warns(&self, text: &str) -> String {
        find(&self.error, text)
    }

    /// All lines of output, up to the end.
    pub(crate) fn all_said(mut self) -> Vec<String> {
        self.close_input();
        end_of(&mut self.child);
        self.output.iter().collect()
    }

    /// The lines of standard error up to one that contains `text`.
    pub(crate) fn all_warned_until(&self, text: &str) -> Vec<String> {
        let mut said: Vec<String> = Vec::new();
        while said.last().is_none_or(|line| !line.contains(text)) {
            said.push(
                self.error.recv_timeout(LIMIT).unwrap_or_else(|error| panic!("{error} after {said:?}")),
            );
        }
        said
    }

    /// The lines of output up to this one.
    pub(crate) fn all_until(&self, last: &str) -> Vec<String> {
        let mut said = Vec::new();
        while said.last().is_none_or(|line| line != last) {
            said.push(
                self.output.recv_timeout(LIMIT).unwrap_or_else(|error| panic!("{error} after {said:?}")),
            );
        }
        said
    }

    /// The lines of output that are left, up to its end.
    pub(crate) fn rest(&self) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            match self.output.recv_timeout(LIMIT) {
                Ok(line) => said.push(line),
                Err(RecvTimeoutError::Disconnected) => return said,
                Err(error) => panic!("{error} after {said:?}"),
            }
        }
    }

    /// The first line of output; none if it ends without one.
    pub(crate) fn first(&self) -> Option<String> {
        match self.output.recv_timeout(LIMIT) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(error) => panic!("nothing is said: {error}"),
        }
    }

    pub(crate) fn write(&mut self, text: &str) {
        self.input.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn close_input(&mut self) {
        self.input = None;
    }

    /// Sends a signal by its name, as `kill` does.
    pub(crate) fn signal(&self, signal: &str) {
        assert!(
            !ignores(signal),
            "SIG{signal} is ignored here, as below nohup: run this by cargo, which resets it"
        );
        assert!(kill(signal, &self.id().to_string()));
    }

    /// Waits for its end, and returns its exit status and all lines of standard error.
    pub(crate) fn end_and_warned(mut self) -> (Option<i32>, Vec<String>) {
        self.close_input();
        let status = as_shells_have_it(end_of(&mut self.child));
        (status, self.error.iter().collect())
    }

    /// Waits for its end and returns its exit status, or 128 and the number of the signal that ended it.
    pub(crate) fn end(mut self) -> Option<i32> {
        self.close_input();
        as_shells_have_it(end_of(&mut self.child))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether this process, and so each process that it starts, ignores a signal.
fn ignores(signal: &str) -> bool {
    let listed = Command::new("kill").args(["-l", signal]).output().unwrap().stdout;
    let number: u32 = String::from_utf8_lossy(&listed).trim().parse().unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(set.trim(), 16).unwrap() >> (number - 1) & 1 == 1
}

/// Sends a signal. Returns false when the process is gone.
pub(crate) fn kill(signal: &str, id: &str) -> bool {
    let mut command = Command::new("kill");
    command.args([&format!("-{signal}"), "--", id]).stderr(Stdio::null()).status().unwrap().success()
}

/// Waits for the end of a process.
pub(crate) fn wait_gone(id: &str) {
    let id = id.trim_start_matches('-');
    // A zombie, whose parent has not waited for it yet, has ended too.
    let is_gone = || stat_fields(id).is_none_or(|fields| fields[0] == "Z");
    assert!(eventually(|| is_gone().then_some(())).is_some(), "process {id} goes on");
}

/// What the kernel says of a process behind its name: its state, its parent, its group, and so on.
pub(crate) fn stat_fields(id: &str) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_ascii_whitespace().map(str::to_owned).collect())
}

/// Looks again and again until there is an answer. Of processes that are not this one's children, nothing
/// tells when they change.
pub(crate) fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + LIMIT;
    loop {
        let seen = look();
        if seen.is_some() || Instant::now() >= until {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn find(lines: &Receiver<String>, text: &str) -> String {
    let mut seen = Vec::new();
    loop {
        match lines.recv_timeout(LIMIT) {
            Ok(line) if line.contains(text) => return line,
            Ok(line) => seen.push(line),
            Err(error) => panic!("{text:?} is not said ({error}) after {seen:?}"),
        }
    }
}

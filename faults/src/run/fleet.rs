//! The owner processes of a run, and the registers that they write to.

use std::fmt::Write;
use std::fs::File;
use std::io::{Error, Read, Result, Seek, SeekFrom};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use globallock_conformance::server::clock::Clock;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout};

use super::network::Network;
use super::{CROWD_LEASE, WAITERS};
use crate::history::{Kind, OwnerEvent};
use crate::owner::{LockSpec, Plan};

/// How long an owner may take to end as it should. It waits up to a lease for answers that may never come.
const END: Duration = Duration::from_secs(30);

/// How much of an owner's log is read to see what it does now, in bytes. A lock that it has held for longer
/// than it took to write that is not seen.
const LAST: u64 = 64 * 1024;

/// The owner in Python.
const OWNER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/owner.py");

/// The processes.
pub(super) struct Fleet {
    program: PathBuf,
    /// An interpreter with the package, for every third owner.
    python: Option<PathBuf>,
    network: Option<Network>,
    plan: Plan,
    directory: PathBuf,
    members: Vec<Member>,
    next: u32,
    /// The registers, and the pipe to them: they live until it is closed.
    registers: (Child, Option<ChildStdin>),
}

struct Member {
    number: u32,
    is_pythons: bool,
    child: Child,
    clock: Clock,
    /// The owner ends when this is closed.
    _pipe: ChildStdin,
}

/// An owner's log, which is read while the owner writes it.
pub(super) struct OpenLog {
    file: File,
    /// The beginning of a line whose end has not been read yet.
    rest: Vec<u8>,
}

impl OpenLog {
    /// The events that have been logged since the last call.
    pub(super) fn next_events(&mut self) -> Result<Vec<OwnerEvent>> {
        self.file.read_to_end(&mut self.rest)?;
        let complete = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines: Vec<u8> = self.rest.drain(..complete).collect();
        // The very first line may be cut.
        Ok(lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }
}

impl Fleet {
    /// Starts the registers; `plan` is the part of the plan that all owners have in common.
    pub(super) async fn start(
        plan: Plan,
        directory: &Path,
        python: Option<PathBuf>,
        network: Option<Network>,
    ) -> Result<Self> {
        let beside = |name: &str| Ok::<_, Error>(std::env::current_exe()?.with_file_name(name));
        let mut command = Command::new(beside("globallock-registers")?);
        let address: IpAddr =
            if network.is_some() { Network::registers() } else { Ipv4Addr::LOCALHOST.into() };
        command.arg(directory.join("register.jsonl")).arg(address.to_string());
        let mut child = start(&mut command, &directory.join("register.err"))?;
        let pipe = child.stdin.take().ok_or_else(|| Error::other("it has a standard input"))?;
        let output = child.stdout.take().ok_or_else(|| Error::other("it has a standard output"))?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).await?;
        let registers = line.trim().parse().map_err(Error::other)?;
        Ok(Fleet {
            program: beside("globallock-owner")?,
            python,
            network,
            plan: Plan { registers, ..plan },
            directory: directory.to_owned(),
            members: Vec::new(),
            next: 0,
            registers: (child, Some(pipe)),
        })
    }

    /// Starts one more owner.
    pub(super) async fn add(&mut self) -> Result<()> {
        let python = self.python.clone().filter(|_| self.next % 3 == 2);
        let member = self.launch(self.plan.clone(), python).await?;
        self.members.push(member);
        Ok(())
    }

    /// Lets many claims with a short lease wait for one lock for a while, and then ends them.
    pub(super) async fn crowd(&mut self, length: Duration) -> Result<()> {
        let spec = LockSpec { name: "crowd".to_owned(), kind: Kind::Mutex, capacity: 1 };
        let plan = Plan {
            lease: CROWD_LEASE,
            long: 0,
            values: 0,
            evictions: 0,
            locks: vec![spec; WAITERS],
            ..self.plan.clone()
        };
        let member = self.launch(plan, None).await?;
        self.members.push(member);
        sleep(length).await;
        let Some(Member { number, mut child, _pipe: pipe, .. }) = self.members.pop() else { return Ok(()) };
        drop(pipe);
        let status = timeout(END, child.wait()).await;
        ended_well(&self.directory, number, status)
    }

    /// Starts an owner with the next number.
    async fn launch(&mut self, plan: Plan, python: Option<PathBuf>) -> Result<Member> {
        let number = self.next;
        self.next += 1;
        let log = self.directory.join(format!("owner-{number}.jsonl"));
        let plan = Plan { log, owner: number, ..plan };
        let clock = Clock::new(&self.directory, &format!("owner-{number}"))?;
        let (mut words, is_pythons) = (Vec::new(), python.is_some());
        if self.network.is_some() {
            words.extend(["unshare", "--net", "--"].map(PathBuf::from));
        }
        match python {
            Some(python) => words.extend([python, OWNER.into()]),
            None => words.push(self.program.clone()),
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(serde_json::to_string(&plan)?).envs(clock.environment());
        let mut child = start(&mut command, &self.directory.join(format!("owner-{number}.err")))?;
        let pipe = child.stdin.take().ok_or_else(|| Error::other("it has a standard input"))?;
        if let (Some(network), Some(process)) = (&mut self.network, child.id()) {
            network.link(number, process).await?;
        }
        Ok(Member { number, is_pythons, child, clock, _pipe: pipe })
    }

    /// Sets an owner's wall clock, and returns what the owner logged about it.
    pub(super) async fn set_clock(&self, member: usize, seconds: i64) -> Result<String> {
        let mut log = self.log_of(member)?;
        // It may have logged the same step before.
        log.next_events()?;
        self.members[member].clock.set(seconds)?;
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let steps = log.next_events()?.into_iter().filter_map(|event| match event {
                OwnerEvent::Clock { step, .. } => Some(step),
                _ => None,
            });
            let mut seen = String::new();
            for step in steps.filter(|step| (step - seconds).abs() <= 1) {
                let _ = write!(seen, "a step of {step} s");
            }
            if !seen.is_empty() || Instant::now() > until {
                return Ok(seen);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Opens an owner's log near its end.
    pub(super) fn log_of(&self, member: usize) -> Result<OpenLog> {
        let number = self.members[member].number;
        let mut file = File::open(self.directory.join(format!("owner-{number}.jsonl")))?;
        let from = file.metadata()?.len().saturating_sub(LAST);
        file.seek(SeekFrom::Start(from))?;
        Ok(OpenLog { file, rest: Vec::new() })
    }

    /// Chooses a living owner in Rust by a number of any size. To those in Python a suspension cannot be
    /// shown: they compute moments of a clock at which the kernel, which counts on, shall wake them.
    pub(super) fn choose_in_rust(&self, number: u64) -> Option<usize> {
        let in_rust = |member: &usize| !self.members[*member].is_pythons;
        let members: Vec<usize> = (0..self.members.len()).filter(in_rust).collect();
        members.get(usize::try_from(number).unwrap_or(0) % members.len().max(1)).copied()
    }

    /// Shows a stopped owner that its host was suspended for this long, and lets it go on.
    pub(super) fn wake(&self, member: usize, suspended: Duration) -> Result<()> {
        self.members[member].clock.suspended_for(suspended)?;
        self.go_on(member)
    }

    /// Sets an owner's wall clock right again.
    pub(super) fn mend_clock(&self, member: usize) -> Result<()> {
        self.members[member].clock.set(0)
    }

    /// The network links of the owners, if they can be taken down.
    pub(super) fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// Chooses a living owner by a number of any size.
    pub(super) fn choose(&self, number: u64) -> usize {
        usize::try_from(number).unwrap_or(0) % self.members.len()
    }

    pub(super) fn number(&self, member: usize) -> u32 {
        self.members[member].number
    }

    /// Kills an owner, and returns its exit status.
    pub(super) async fn kill(&mut self, member: usize) -> Result<String> {
        let mut member = self.members.swap_remove(member);
        member.child.start_kill()?;
        Ok(member.child.wait().await?.to_string())
    }

    /// Stops an owner, and returns the state of its process then.
    pub(super) async fn stop(&self, member: usize) -> Result<String> {
        self.signal(member, Signal::STOP)?;
        let pid = self.pid(member)?.as_raw_nonzero();
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
            if state == Some('T') || Instant::now() > until {
                return Ok(format!("state {}", state.unwrap_or('?')));
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    pub(super) fn go_on(&self, member: usize) -> Result<()> {
        self.signal(member, Signal::CONT)
    }

    fn pid(&self, member: usize) -> Result<Pid> {
        let id = self.members[member].child.id().and_then(|id| i32::try_from(id).ok());
        id.and_then(Pid::from_raw).ok_or_else(|| self.ended(member))
    }

    fn signal(&self, member: usize, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid(member)?, signal)?)
    }

    fn ended(&self, member: usize) -> Error {
        let number = self.members[member].number;
        let errors = std::fs::read_to_string(self.directory.join(format!("owner-{number}.err")));
        Error::other(format!("owner {number} ended by itself: {}", errors.unwrap_or_default()))
    }

    /// Checks that all owners that were not killed still run.
    pub(super) fn check(&mut self) -> Result<()> {
        for member in 0..self.members.len() {
            if self.members[member].child.try_wait()?.is_some() {
                return Err(self.ended(member));
            }
        }
        Ok(())
    }

    /// Ends all owners as they should, and then the registers.
    pub(super) async fn finish(mut self) -> Result<()> {
        let directory = &self.directory;
        let numbers: Vec<u32> = self.members.iter().map(|member| member.number).collect();
        let members = std::mem::take(&mut self.members);
        let ends = members.into_iter().map(|Member { mut child, _pipe: pipe, .. }| async move {
            drop(pipe);
            timeout(END, child.wait()).await
        });
        let ends = futures_util::future::join_all(ends).await;
        for (number, end) in numbers.into_iter().zip(ends) {
            ended_well(directory, number, end)?;
        }
        self.registers.1 = None;
        self.registers.0.wait().await?;
        Ok(())
    }
}

impl Drop for Fleet {
    /// Kills all processes and waits for their end, so that the logs of a run that was cut short do not
    /// change while they are read.
    fn drop(&mut self) {
        for child in self.members.iter_mut().map(|member| &mut member.child).chain([&mut self.registers.0]) {
            let _ = child.start_kill();
            while matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Checks that an owner ended as it should.
fn ended_well(
    directory: &Path,
    number: u32,
    end: std::result::Result<Result<ExitStatus>, Elapsed>,
) -> Result<()> {
    let errors = || std::fs::read_to_string(directory.join(format!("owner-{number}.err")));
    let late = |_| Error::other(format!("owner {number} does not end: {}", errors().unwrap_or_default()));
    let status = end.map_err(late)??;
    if status.success() {
        return Ok(());
    }
    let errors = errors()?;
    Err(Error::other(format!("owner {number}: {status}: {errors}")))
}

/// Starts a program that ends with this one, and writes its errors to a file.
fn start(command: &mut Command, errors: &Path) -> Result<Child> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(errors)?);
    command.kill_on_drop(true).spawn()
}

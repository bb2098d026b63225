//! One cell of the table: a layout, a way to be started, and something that happens.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::events::Event;
use super::shell::{Kind, Shell};
use crate::support::{LIMIT, TestStore, eventually, stat_fields};

/// How the command is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrapper {
    Bare,
    Globallock,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Terminal,
    Pipe,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Terminal,
    Pipe,
}

/// How the job is started, and where the shell puts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    Foreground,
    Background,
    InScript,
    InPipeline,
    /// Started with `&`, then `fg`.
    BroughtForward,
    /// Ctrl-Z, then `fg`.
    Continued,
    /// Ctrl-Z, then `bg`.
    SentBack,
}

impl Start {
    pub(super) fn is_foreground(self) -> bool {
        !matches!(self, Start::Background | Start::SentBack)
    }
}

/// What the command does with signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// Nothing: their default actions.
    Plain,
    /// It writes each into a file, and ends at USR1.
    Counting,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) shell: Kind,
    pub(super) input: Input,
    pub(super) output: Output,
    pub(super) start: Start,
    pub(super) probe: Probe,
    pub(super) event: Event,
}

impl Cell {
    /// Whether the shell's status is left to chance.
    pub(super) fn has_no_status(&self) -> bool {
        match self.start {
            // It is that of what is behind the pipe, which reads its end or is ended, whichever comes first.
            Start::InPipeline => true,
            // Zsh forgets it if the job ends before it begins to wait.
            Start::Background | Start::SentBack => self.shell == Kind::Zsh,
            _ => false,
        }
    }
}

/// The command. Two processes of its own stay behind if nobody ends them: one in its group, one in a session
/// of its own. The argument of `sleep` marks all three.
const PLAIN: &str = "#!/bin/sh
setsid sleep $MARK >/dev/null 2>&1 &
sleep $MARK >/dev/null 2>&1 &
echo $$ > $HERE/new; mv $HERE/new $HERE/command
exec sleep $MARK
";

/// What is behind the pipe.
const BEHIND: &str = "#!/bin/sh
echo $$ > $HERE/behind-new; mv $HERE/behind-new $HERE/behind-id
exec cat
";

/// In Perl, because a shell may begin to wait just after a signal has come, and handles it after the wait.
const COUNTING: &str = "#!/usr/bin/perl
my ($here, $mark) = @ENV{qw(HERE MARK)};
sub note { open my $file, '>>', \"$here/signals\"; syswrite $file, \"$_[0]\\n\" }
for my $command (['setsid', 'sleep', $mark], ['sleep', $mark]) {
    next if fork;
    open STDOUT, '>', '/dev/null'; open STDERR, '>', '/dev/null';
    exec @$command;
}
for my $signal (qw(HUP INT QUIT TERM USR2 ALRM WINCH)) { $SIG{$signal} = sub { note $signal } }
$SIG{USR1} = sub { exit 7 };
open my $new, '>', \"$here/new\"; print $new $$; close $new;
rename \"$here/new\", \"$here/command\";
sleep 1 while 1;
";

/// A cell in progress.
pub(super) struct Running {
    pub(super) cell: Cell,
    pub(super) wrapper: Wrapper,
    pub(super) shell: Shell,
    pub(super) store: TestStore,
    /// The command.
    pub(super) command: Pid,
    /// What the shell or a supervisor takes for the command.
    pub(super) front: Pid,
    directory: TempDir,
    mark: String,
}

impl Running {
    /// Starts the command as the cell says.
    pub(super) fn start(cell: Cell, wrapper: Wrapper, number: usize) -> Self {
        let directory = TempDir::new().unwrap();
        let here = directory.path();
        let store = TestStore::new();
        let mark = format!("{}.{}{number}", 1_000_000 + std::process::id(), cell.shell as u8);
        script(&here.join("probe"), if cell.probe == Probe::Plain { PLAIN } else { COUNTING });
        for pipe in ["in", "out"] {
            nix::unistd::mkfifo(&here.join(pipe), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        let input = match cell.input {
            Input::Terminal => "",
            Input::Pipe => " <in",
            Input::Closed => " <&-",
        };
        let output = match cell.output {
            Output::Terminal => "",
            Output::Pipe => " >out",
        };
        let url = store.url();
        let run = match wrapper {
            Wrapper::Bare => String::new(),
            Wrapper::Globallock => {
                format!("{} run --url {url} --grace 2s job -- ", program())
            }
        };
        let line = format!("{run}./probe{input}{output}");
        script(&here.join("behind"), BEHIND);
        script(&here.join("script"), &format!("#!/bin/sh\n{line}\necho $? >$HERE/went-on\n"));
        let variables = [("HERE", here.to_str().unwrap()), ("MARK", &mark)];
        let mut shell = Shell::start(cell.shell, here, &variables);
        // The pipes have somebody at their other ends.
        shell.line("exec 8<>in 9<>out");
        shell.prompt();
        match cell.start {
            Start::Foreground | Start::Continued | Start::SentBack => shell.line(&line),
            Start::Background | Start::BroughtForward => shell.line(&format!("{line} &")),
            Start::InScript => shell.line("./script"),
            Start::InPipeline => shell.line(&format!("{line} | ./behind")),
        }
        let command = read_id(&here.join("command"));
        if cell.start == Start::InPipeline {
            // A shell that has not become another program yet takes a key differently.
            read_id(&here.join("behind-id"));
        }
        let front = match wrapper {
            Wrapper::Bare => command,
            Wrapper::Globallock => front_of(command),
        };
        let mut running = Running { cell, wrapper, shell, store, command, front, directory, mark };
        running.put();
        running
    }

    /// Brings the job to where the cell wants it.
    fn put(&mut self) {
        match self.cell.start {
            Start::Foreground | Start::InScript | Start::InPipeline => {}
            Start::Background => drop(self.shell.prompt()),
            Start::BroughtForward => {
                self.shell.prompt();
                self.shell.line("fg");
            }
            Start::Continued | Start::SentBack => {
                self.stop();
                self.shell.line(if self.cell.start == Start::Continued { "fg" } else { "bg" });
                self.wait_until("it goes on", |running| !stopped(running.command));
                if self.cell.start == Start::SentBack {
                    self.shell.prompt();
                }
            }
        }
        if self.cell.start.is_foreground() {
            // The shell gives the terminal to the job before it continues it.
            self.wait_until("it has the terminal", |running| {
                let [_, group, _, terminal] = stat(running.command).unwrap();
                group == terminal
            });
        }
    }

    /// Presses Ctrl-Z, and waits until the shell has its job back.
    pub(super) fn stop(&mut self) {
        self.shell.keys("\u{1a}");
        self.shell.prompt();
        self.wait_until("it is stopped", |running| stopped(running.command));
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// The signals that the command has counted.
    pub(super) fn signals(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("signals")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(super) fn send(&self, id: Pid, signal: Signal) {
        kill(id, signal).unwrap();
    }

    /// The processes of the command that live.
    pub(super) fn left(&self) -> Vec<Pid> {
        let words = [b"sleep\0", self.mark.as_bytes(), b"\0"].concat();
        let ids = fs::read_dir("/proc").unwrap().flatten();
        let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let left = ids.filter(|id| fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| line == words));
        left.map(Pid::from_raw).filter(|id| alive(*id)).collect()
    }

    fn kill_left(&self) {
        for id in self.left() {
            let _ = kill(id, Signal::SIGKILL);
        }
    }

    pub(super) fn wait_until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        if eventually(|| holds(self).then_some(())).is_none() {
            let processes = [self.front, self.command].map(|id| (id, state(id), stat(id)));
            panic!("{what}: not within {LIMIT:?}; {processes:?}; left are {:?}", self.left());
        }
    }

    /// Waits until a next holder is granted the lock, and fails if anything of the command lives beside it.
    ///
    /// What the command has left and nobody has asked to end keeps the lock, and is killed here.
    pub(super) fn next_holder_is_alone(&self) {
        self.wait_until("the next holder is granted", |running| {
            let sleeps = format!("sleep {}", running.mark);
            let holder = running.store.run(&["--no-wait", "job", "--", "pgrep", "-x", "-f", &sleeps]);
            match holder.status {
                Some(1) => true,
                Some(0) => panic!("{} run beside the next holder", holder.output.replace('\n', " ")),
                Some(75) => {
                    running.kill_left();
                    false
                }
                status => panic!("{status:?}: {}", holder.error),
            }
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_left();
        let _ = kill(self.command, Signal::SIGKILL);
    }
}

fn script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn read_id(path: &Path) -> Pid {
    let text = eventually(|| fs::read_to_string(path).ok());
    Pid::from_raw(text.expect("the command starts").trim().parse().unwrap())
}

fn state(id: Pid) -> Option<char> {
    stat_fields(&id.to_string())?.first()?.chars().next()
}

/// The parent, the group, the session, and the group that has the terminal.
pub(super) fn stat(id: Pid) -> Option<[Pid; 4]> {
    let fields = stat_fields(&id.to_string())?;
    Some([1, 2, 3, 5].map(|at| Pid::from_raw(fields[at].parse().unwrap())))
}

pub(super) fn alive(id: Pid) -> bool {
    !matches!(state(id), None | Some('Z' | 'X'))
}

pub(super) fn stopped(id: Pid) -> bool {
    state(id) == Some('T')
}

/// The program to test. Another can be named, to see what it would do.
fn program() -> String {
    std::env::var("GLOBALLOCK_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_globallock").to_owned())
}

/// The uppermost process of `globallock` above its command.
fn front_of(command: Pid) -> Pid {
    let is_ours = |id: Pid| {
        let words = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        words.starts_with(program().as_bytes())
    };
    let mut front = command;
    loop {
        match stat(front).unwrap()[0] {
            parent if is_ours(parent) => front = parent,
            _ => return front,
        }
    }
}

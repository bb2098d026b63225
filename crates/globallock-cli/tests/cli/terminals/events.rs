//! What happens to a job, and what is to be seen of it afterwards.

use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::cells::{Cell, Probe, Running, Wrapper, alive, stat, stopped};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    CtrlC,
    CtrlBackslash,
    CtrlZ,
    HangUp,
    /// A signal to the process that the shell knows.
    ToOne(Signal),
    /// A signal to its group.
    ToGroup(Signal),
    /// A signal to all processes of the session, the shell among them.
    ToSession(Signal),
    /// The lock is lost.
    Loss,
    /// The lock is lost while the job is stopped.
    LossWhileStopped,
}

impl Event {
    /// Whether the event is `globallock`'s own, so that there is nothing to compare with.
    pub(super) fn is_ours(self) -> bool {
        matches!(self, Event::Loss | Event::LossWhileStopped)
    }

    /// Whether all that the command has started must end without being asked to.
    fn ends_all(self) -> bool {
        self.is_ours()
            || matches!(
                self,
                Event::ToOne(Signal::SIGKILL)
                    | Event::ToGroup(Signal::SIGKILL)
                    | Event::ToSession(Signal::SIGKILL)
            )
    }
}

/// What was seen.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The exit status that the shell has.
    pub(super) status: String,
    /// Whether the script went on after the command.
    went_on: bool,
    /// Which signals a counting command has received, sorted.
    signals: Vec<String>,
}

/// Runs a cell to its end.
pub(super) fn see(cell: Cell, wrapper: Wrapper, number: usize) -> Seen {
    let mut running = Running::start(cell, wrapper, number);
    let mut seen = Seen::default();
    let background = !cell.start.is_foreground();
    let shell_ends = matches!(cell.event, Event::HangUp | Event::ToSession(Signal::SIGKILL));
    let is_key = matches!(cell.event, Event::CtrlC | Event::CtrlBackslash | Event::CtrlZ);
    if background && !shell_ends && !is_key {
        running.shell.line("wait $!");
    }
    happen(&mut running, background);
    if is_key && background {
        // Nothing happens to the command. The shell has seen the key when it answers.
        running.shell.answers();
    }
    if cell.probe == Probe::Counting {
        if cell.event != Event::HangUp && !(is_key && background) {
            running.wait_until("the signal arrives", |running| !running.signals().is_empty());
        }
        count(&running, &mut seen);
    } else if cell.event == Event::CtrlZ || (is_key && background) {
        assert!(alive(running.command), "it goes on");
        running.send(running.front, Signal::SIGKILL);
    }
    running.wait_until("the command ends", |running| !alive(running.command));
    if wrapper == Wrapper::Globallock && cell.event.ends_all() {
        running.wait_until("all of it has ended", |running| running.left().is_empty());
    }
    if !shell_ends {
        if !background {
            running.shell.prompt();
        }
        seen.status = running.shell.status();
        if cell.has_no_status() {
            seen.status.clear();
        }
        seen.went_on = running.path("went-on").exists();
    }
    if wrapper == Wrapper::Globallock {
        running.next_holder_is_alone();
    }
    seen
}

fn happen(running: &mut Running, background: bool) {
    let [_, group, session, _] = stat(running.command).unwrap();
    match running.cell.event {
        Event::CtrlC => running.shell.keys("\u{3}"),
        Event::CtrlBackslash => running.shell.keys("\u{1c}"),
        Event::CtrlZ if background => running.shell.keys("\u{1a}"),
        Event::CtrlZ => {
            running.stop();
            if running.wrapper == Wrapper::Globallock {
                let next = running.store.run(&["--no-wait", "job", "--", "true"]);
                assert_eq!(next.status, Some(75), "a stopped job keeps its lock: {}", next.error);
            }
            running.shell.line("fg");
            running.wait_until("it goes on", |running| !stopped(running.command));
        }
        Event::HangUp => running.shell.hang_up(),
        Event::ToOne(signal) => running.send(running.front, signal),
        Event::ToGroup(signal) => running.send(Pid::from_raw(-group.as_raw()), signal),
        Event::ToSession(signal) => {
            let mut sent = Command::new("pkill");
            sent.args([&format!("-{}", signal as i32), "-s", &session.to_string()]);
            assert!(sent.status().unwrap().success());
        }
        Event::Loss => lose(running),
        Event::LossWhileStopped => {
            running.stop();
            lose(running);
            running.wait_until("all of it has ended", |running| running.left().is_empty());
            running.shell.line("");
        }
    }
}

fn lose(running: &Running) {
    for claim in running.store.claims("job") {
        std::fs::remove_file(claim).unwrap();
    }
}

/// Waits until a counting command has all the signals of the event, and lets it end.
fn count(running: &Running, seen: &mut Seen) {
    // What was on its way when this was sent arrives before it.
    running.send(running.front, Signal::SIGWINCH);
    let last = |running: &Running| running.signals().iter().any(|signal| signal == "WINCH");
    running.wait_until("the last signal arrives", last);
    seen.signals = running.signals();
    seen.signals.sort();
    if matches!(running.cell.event, Event::HangUp | Event::ToSession(_)) {
        // A hang-up is told by the kernel, and by the shell too, so that how often it is received is left to
        // chance. Who signals all processes of a session may be interrupted between two of them.
        seen.signals.dedup();
    }
    running.send(running.front, Signal::SIGUSR1);
}

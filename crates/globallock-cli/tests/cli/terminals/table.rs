//! The whole table.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::Signal;

use super::cells::{Cell, Input, Output, Probe, Start, Wrapper};
use super::events::{Event, see};
use super::shell::Kind;

/// How many cells are in progress at a time. They wait for most of their time.
const SIDE_BY_SIDE: usize = 6;

const STARTS: [Start; 7] = [
    Start::Foreground,
    Start::Background,
    Start::InScript,
    Start::InPipeline,
    Start::BroughtForward,
    Start::Continued,
    Start::SentBack,
];

/// What happens to a command that does nothing about it.
const EVENTS: [Event; 10] = [
    Event::CtrlC,
    Event::CtrlBackslash,
    Event::CtrlZ,
    Event::ToOne(Signal::SIGTERM),
    Event::ToGroup(Signal::SIGTERM),
    Event::ToOne(Signal::SIGKILL),
    Event::ToGroup(Signal::SIGKILL),
    Event::ToSession(Signal::SIGKILL),
    Event::Loss,
    Event::LossWhileStopped,
];

/// What a command counts.
const COUNTED: [Event; 7] = [
    Event::CtrlC,
    Event::CtrlBackslash,
    Event::HangUp,
    Event::ToOne(Signal::SIGTERM),
    Event::ToOne(Signal::SIGUSR2),
    Event::ToGroup(Signal::SIGTERM),
    Event::ToSession(Signal::SIGTERM),
];

fn cells(shell: Kind, layouts: &[(Input, Output)]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for &(input, output) in layouts {
        for start in STARTS {
            for (probe, events) in [(Probe::Plain, &EVENTS[..]), (Probe::Counting, &COUNTED)] {
                for &event in events {
                    cells.push(Cell { shell, input, output, start, probe, event });
                }
            }
        }
    }
    cells.retain(Cell::is_possible);
    // To look at one cell: a part of what its failure prints.
    if let Ok(wanted) = std::env::var("GLOBALLOCK_CELL") {
        cells.retain(|cell| format!("{cell:?}").contains(&wanted));
    }
    cells
}

impl Cell {
    fn is_possible(&self) -> bool {
        // What is behind the pipe ends at once when nothing is written into it.
        if self.start == Start::InPipeline && self.output == Output::Pipe {
            return false;
        }
        match self.event {
            // A job that has been brought to the background cannot be stopped by a key.
            Event::LossWhileStopped => self.start.is_foreground(),
            _ => true,
        }
    }

    /// The difference between what was seen and what should have been.
    fn differs(self, number: usize) -> Option<String> {
        let ours = see(self, Wrapper::Globallock, 2 * number);
        if self.event.is_ours() {
            let status = if self.start == Start::Foreground && self.event == Event::Loss { "76" } else { "" };
            return (!ours.status.contains(status)).then(|| format!("{ours:?}"));
        }
        let bare = see(self, Wrapper::Bare, 2 * number + 1);
        (ours != bare).then(|| format!("{ours:?} instead of {bare:?}"))
    }
}

fn check(shell: Kind, layouts: &[(Input, Output)]) {
    let cells = cells(shell, layouts);
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(cell) = cells.get(number) else { return };
                    let differs = std::panic::catch_unwind(|| cell.differs(number));
                    let differs = differs.unwrap_or_else(|_| Some("panicked, see above".to_owned()));
                    if let Some(differs) = differs {
                        eprintln!("{cell:?}: {differs}");
                        wrong.lock().unwrap().push(format!("{cell:?}: {differs}"));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    println!("{shell:?}: {} cells, {} wrong", cells.len(), wrong.len());
    assert!(wrong.is_empty(), "{} of {} cells:\n{}", wrong.len(), cells.len(), wrong.join("\n"));
}

#[test]
fn bash_sees_what_it_sees_without() {
    let inputs = [Input::Terminal, Input::Pipe, Input::Closed];
    let layouts = inputs.map(|input| [(input, Output::Terminal), (input, Output::Pipe)]);
    check(Kind::Bash, layouts.as_flattened());
}

#[test]
fn dash_sees_what_it_sees_without() {
    check(Kind::Dash, &[(Input::Terminal, Output::Terminal), (Input::Pipe, Output::Pipe)]);
}

#[test]
fn zsh_sees_what_it_sees_without() {
    check(Kind::Zsh, &[(Input::Terminal, Output::Terminal), (Input::Pipe, Output::Pipe)]);
}

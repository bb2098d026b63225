//! What a process has started, directly or not, by the kernel's list of processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::sync::Once;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid, getpid};

use crate::log;

/// How long to wait before looking again for processes that were started while the others were ended.
const AGAIN: Duration = Duration::from_millis(5);
/// The same, where some of them cannot be killed.
const AGAIN_LATER: Duration = Duration::from_millis(200);

/// What the kernel says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    parent: i32,
    session: i32,
    foreground: bool,
    ended: bool,
    stopped: bool,
}

/// Reads a line of `/proc/<id>/stat`.
fn parse(stat: &str) -> Option<Process> {
    // The second field is the name in parentheses, which may itself have spaces and parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?;
    let session = fields.next()?.parse().ok()?;
    // Behind the terminal: the group in its foreground.
    let foreground = fields.nth(1)? == group;
    let (ended, stopped) = (matches!(state, "Z" | "X"), matches!(state, "T" | "t"));
    Some(Process { parent, session, foreground, ended, stopped })
}

fn process(id: i32) -> Option<Process> {
    // Longer than any line. A second read, as for a file of unknown length, would double what this costs.
    let mut line = [0; 1024];
    let length = fs::File::open(format!("/proc/{id}/stat")).ok()?.read(&mut line).ok()?;
    parse(&String::from_utf8_lossy(&line[..length]))
}

/// This process and those above it, which have started it, directly or not.
pub(crate) fn above() -> Vec<Pid> {
    let parent = |id: &i32| process(*id).map(|process| process.parent).filter(|parent| *parent > 0);
    std::iter::successors(Some(getpid().as_raw()), parent).map(Pid::from_raw).collect()
}

/// The words that a process was started with; none of one that has ended.
pub(crate) fn words(id: Pid) -> Vec<String> {
    let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let words = line.split(|byte| *byte == 0);
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// Whether a process is stopped.
pub(crate) fn is_stopped(id: Pid) -> bool {
    process(id.as_raw()).is_some_and(|process| process.stopped)
}

/// Whether a process is in the group that has its terminal.
pub(crate) fn is_in_foreground(id: u32) -> bool {
    process(id.cast_signed()).is_some_and(|process| process.foreground)
}

/// All processes.
pub(crate) fn all() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw).collect()
}

fn processes() -> BTreeMap<i32, Process> {
    all().into_iter().filter_map(|id| Some((id.as_raw(), process(id.as_raw())?))).collect()
}

/// The processes below `root` that have not ended.
pub(crate) fn below(root: Pid) -> Vec<Pid> {
    descendants(&processes(), root.as_raw(), None).into_iter().map(Pid::from_raw).collect()
}

/// The processes below `root` that have not ended, without those of the session `except`.
fn descendants(processes: &BTreeMap<i32, Process>, root: i32, except: Option<i32>) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (id, process) in processes {
        children.entry(process.parent).or_default().push(*id);
    }
    let (mut found, mut seen, mut next) = (Vec::new(), BTreeSet::from([root]), vec![root]);
    while let Some(parent) = next.pop() {
        for child in children.get(&parent).into_iter().flatten() {
            let process = processes[child];
            if Some(process.session) == except || !seen.insert(*child) {
                continue;
            }
            next.push(*child);
            if !process.ended {
                found.push(*child);
            }
        }
    }
    found
}

/// The processes of a group below `root` that a signal ends, and which have not ended: it has not reached
/// them, or is about to end them.
pub(crate) fn not_ended_by(signal: Signal, root: Pid, group: Pid) -> Vec<Pid> {
    let mut found = below(root);
    found.retain(|id| {
        getpgid(Some(*id)) == Ok(group)
            && fs::read_to_string(format!("/proc/{id}/status"))
                .is_ok_and(|status| is_ended_by(signal, &status))
    });
    found
}

/// Whether a process with this text in `/proc/<id>/status` neither catches nor ignores nor blocks a signal.
fn is_ended_by(signal: Signal, status: &str) -> bool {
    let mut masks = ["SigBlk:", "SigIgn:", "SigCgt:"].into_iter().map(|field| {
        let mask = status.lines().find_map(|line| line.strip_prefix(field))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    });
    masks.all(|mask| mask.is_some_and(|mask| mask >> (signal as u32 - 1) & 1 == 0))
}

/// The name of a process, for people.
pub(crate) fn name(id: Pid) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{id}/comm")).ok()?;
    Some(name.trim_end().escape_debug().to_string())
}

/// Sends a signal to each.
pub(crate) fn signal(processes: &[Pid], signal: Signal) {
    for process in processes {
        // It has ended meanwhile, or is another user's: then it cannot be helped here.
        let _ = kill(*process, signal);
    }
}

/// Kills what is below this process, without the session `except`, and takes note of its children that have
/// ended. Returns `None` when nothing is left. Otherwise some may have started others meanwhile, or are
/// another user's and end by themselves: to be called again after the time that is returned.
pub(crate) fn kill_all_below(except: Option<Pid>) -> Option<Duration> {
    let (processes, root, except) = (processes(), getpid().as_raw(), except.map(Pid::as_raw));
    let left: Vec<Pid> = descendants(&processes, root, except).into_iter().map(Pid::from_raw).collect();
    let denied = |id: &Pid| kill(*id, Signal::SIGKILL) == Err(Errno::EPERM);
    let denied: Vec<Pid> = left.iter().copied().filter(denied).collect();
    for (id, process) in processes {
        if process.ended && process.parent == root && Some(process.session) != except {
            let _ = waitpid(Pid::from_raw(id), Some(WaitPidFlag::WNOHANG));
        }
    }
    match (left.is_empty(), denied.len() == left.len()) {
        (true, _) => None,
        (false, true) => {
            tell_of(&denied);
            Some(AGAIN_LATER)
        }
        (false, false) => Some(AGAIN),
    }
}

/// Says once that processes cannot be killed.
fn tell_of(denied: &[Pid]) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        let names = denied.iter().filter_map(|id| Some(format!("{} {id}", name(*id)?)));
        let names = names.collect::<Vec<_>>().join(", ");
        log::error("not_killed")
            .say(format_args!("another user's processes cannot be killed, and are waited for: {names}"));
    });
}

/// What `waitpid` tells of any child, if there is something to tell: `Err(ECHILD)` when there is none left.
pub(crate) fn changed() -> Result<WaitStatus, Errno> {
    let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED | WaitPidFlag::WCONTINUED;
    waitpid(None::<Pid>, Some(flags))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_of_the_kernel_is_read_whatever_the_name_is() {
        let process = Process { parent: 7, session: 5, foreground: false, ended: false, stopped: false };
        assert_eq!(parse("12 (sh) S 7 12 5 0 -1 4194560 1"), Some(process));
        assert_eq!(parse("12 (a) Z 1 2 (b) S 7 12 5 0 -1"), Some(process));
        assert_eq!(parse("12 (sh) Z 7 12 5 0 -1"), Some(Process { ended: true, ..process }));
        assert_eq!(parse("12 (sh) T 7 12 5 0 -1"), Some(Process { stopped: true, ..process }));
        let foreground = Some(Process { foreground: true, ..process });
        assert_eq!(parse("12 (sh) S 7 12 5 34816 12 4194560"), foreground);
        assert_eq!(parse("12 (sh) S 7"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_signal_ends_who_neither_catches_nor_ignores_nor_blocks_it() {
        let status = |blocked: u64, ignored: u64, caught: u64| {
            format!("Name:\tsh\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n")
        };
        let term = 1 << 14;
        assert!(is_ended_by(Signal::SIGTERM, &status(0, 0, 0)));
        assert!(is_ended_by(Signal::SIGTERM, &status(!term, !term, !term)));
        for masks in [(term, 0, 0), (0, term, 0), (0, 0, term)] {
            assert!(!is_ended_by(Signal::SIGTERM, &status(masks.0, masks.1, masks.2)), "{masks:?}");
        }
        assert!(!is_ended_by(Signal::SIGTERM, "Name:\tsh\n"), "what is not known is left alone");
    }

    proptest! {
        #[test]
        fn the_tree_is_what_can_be_reached_from_its_root(
            parents in prop::collection::vec((0_i32..30, 0_i32..3, any::<bool>()), 1..30),
        ) {
            let processes: BTreeMap<i32, Process> = parents
                .iter()
                .zip(1..)
                .map(|(&(parent, session, ended), id)| {
                    (id, Process { parent, session, foreground: false, ended, stopped: false })
                })
                .collect();
            let found = descendants(&processes, 1, Some(2));
            let is_below = |id: i32| {
                let mut at = id;
                for _ in 0..=processes.len() {
                    match processes.get(&at) {
                        Some(process) if at != 1 && process.session != 2 => at = process.parent,
                        _ => break,
                    }
                }
                id != 1 && at == 1
            };
            for (id, process) in &processes {
                prop_assert_eq!(found.contains(id), is_below(*id) && !process.ended, "{}", id);
            }
        }
    }
}

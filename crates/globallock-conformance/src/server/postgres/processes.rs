//! The processes of a server: the first one, and its children, most of which serve a connection.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::super::Process;

/// The pause before processes that have not ended yet are looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Sends a signal to a process that may have ended.
pub(super) fn signal(pid: Pid, signal: Signal) {
    let _ = kill_process(pid, signal);
}

/// Stops a process and its children, and returns these. The first process is stopped first, so that it
/// neither starts more nor notices what happens to them.
pub(super) fn stop(first: Pid) -> Vec<Pid> {
    signal(first, Signal::STOP);
    let mut stopped = Vec::new();
    loop {
        // It may have been starting one.
        let children = children_of(first);
        if children.len() == stopped.len() && state(first) != Some('R') {
            return stopped;
        }
        for child in &children {
            signal(*child, Signal::STOP);
        }
        stopped = children;
    }
}

/// Continues a process and its children.
pub(super) fn go_on(first: Pid) {
    for child in children_of(first) {
        signal(child, Signal::CONT);
    }
    signal(first, Signal::CONT);
}

/// Whether a server's process has ended, though its guardian may not know it yet.
pub(super) fn has_ended(process: &Process) -> bool {
    matches!(state(process.id()), None | Some('Z' | 'X'))
}

/// Waits until none of these processes runs any more. They have been killed.
pub(super) fn wait_for_the_end_of(processes: &[Pid]) {
    while processes.iter().any(|pid| !matches!(state(*pid), None | Some('Z' | 'X'))) {
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn children_of(parent: Pid) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    pids.filter(|pid| parent_of(*pid) == Some(parent.as_raw_nonzero().get())).collect()
}

/// The letter of a process's state, as in `/proc`.
fn state(pid: Pid) -> Option<char> {
    fields(pid)?.split(' ').next()?.chars().next()
}

fn parent_of(pid: Pid) -> Option<i32> {
    fields(pid)?.split(' ').nth(1)?.parse().ok()
}

/// The fields of a process behind its name, which may have spaces and brackets.
fn fields(pid: Pid) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    text.rsplit_once(") ").map(|(_, fields)| fields.to_owned())
}

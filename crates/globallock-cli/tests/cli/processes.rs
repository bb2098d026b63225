//! The processes of a run: whoever is killed, nothing of the command is left beside a next holder.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::support::{Running, TestStore, ended, globallock, kill, stat_fields, wait_gone};

/// A command that starts a process in a session of its own, and one that ignores TERM.
const TREE: &str = "setsid sleep 1000 >/dev/null 2>&1 & echo $!; (trap '' TERM; exec sleep 1000) & echo $!; \
                    echo $$; exec sleep 1000";

/// The parent of a process.
fn parent(id: &str) -> String {
    stat_fields(id).unwrap().swap_remove(1)
}

/// Starts the tree. Returns its three processes; the command is the last.
fn tree(store: &TestStore, options: &[&str]) -> (Running, [String; 3]) {
    let run = store.start(&[options, &["a", "--", "sh", "-c", TREE]].concat());
    let ids = [run.says(""), run.says(""), run.says("")];
    (run, ids)
}

/// Fails if one of these lives when the next holder is granted the lock.
fn next_is_alone(store: &TestStore, ids: &[String]) {
    let alive = format!("for id in {}; do kill -0 $id 2>/dev/null && echo $id; done", ids.join(" "));
    let next = store.run(&["a", "--", "sh", "-c", &alive]);
    assert_eq!(next.output, "", "{}", next.error);
}

#[test]
fn everything_ends_with_a_killed_globallock() {
    let store = TestStore::new();
    let (run, ids) = tree(&store, &[]);
    run.signal("KILL");
    next_is_alone(&store, &ids);
    assert_eq!(run.end(), Some(137));
}

#[test]
fn everything_ends_with_a_killed_guardian() {
    let store = TestStore::new();
    let (run, ids) = tree(&store, &[]);
    let guardian = parent(&parent(&ids[2]));
    assert_eq!(parent(&guardian), run.id().to_string());
    assert!(kill("KILL", &guardian));
    run.warns("globallock: the process that kept the lock was killed, and so the command is too");
    ids.iter().for_each(|id| wait_gone(id));
    assert_eq!(run.end(), Some(76));
}

#[test]
fn everything_ends_with_a_killed_starter() {
    let store = TestStore::new();
    let (run, ids) = tree(&store, &[]);
    assert!(kill("KILL", &parent(&ids[2])));
    next_is_alone(&store, &ids);
    assert_eq!(run.end(), Some(137));
}

#[test]
fn killing_all_that_is_named_globallock_ends_the_command() {
    let store = TestStore::new();
    let (run, ids) = tree(&store, &[]);
    let guardian = parent(&parent(&ids[2]));
    let named = |id: &str| std::fs::read_to_string(format!("/proc/{id}/comm")).unwrap();
    assert_eq!(named(&run.id().to_string()), "globallock\n");
    assert!(!named(&guardian).contains("globallock"), "killall and pkill would find it");
    run.signal("KILL");
    next_is_alone(&store, &ids);
}

#[test]
fn the_lock_is_kept_until_what_the_command_has_left_has_ended() {
    let store = TestStore::new();
    let script = "setsid sleep 1000 >/dev/null 2>&1 & echo $!; exit 5";
    let run = store.start(&["a", "--", "sh", "-c", script]);
    let left = run.says("");
    let said = run.warns("globallock: the command has left processes behind");
    assert!(said.contains(&format!("(sleep {left}): \"a\" is kept until they end")), "{said}");
    assert_eq!(run.end(), Some(5), "the command has ended, and so does the run");
    assert_eq!(store.run(&["-n", "a", "--", "true"]).status, Some(75), "the lock is kept");
    assert!(kill("KILL", &left));
    assert_eq!(store.run(&["a", "--", "true"]).status, Some(0));
}

#[test]
fn what_the_command_has_left_can_be_killed_or_ignored() {
    let store = TestStore::new();
    let script = "setsid sleep 1000 >/dev/null 2>&1 & echo $!; exit 5";
    let ignored = store.run(&["--leftovers", "release", "a", "--", "sh", "-c", script]);
    assert_eq!((ignored.status, ignored.error.as_str()), (Some(5), ""));
    assert_eq!(store.run(&["-n", "a", "--", "true"]).status, Some(0), "the lock is free");
    assert!(kill("KILL", ignored.output.trim()), "it lives");
    let killed = store.run(&["--leftovers", "kill", "a", "--", "sh", "-c", script]);
    assert_eq!((killed.status, killed.error.as_str()), (Some(5), ""));
    assert!(!kill("0", killed.output.trim()), "it was killed before the lock was released");
    assert_eq!(store.run(&["-n", "a", "--", "true"]).status, Some(0));
}

#[test]
fn a_loss_ends_what_the_command_has_left() {
    let store = TestStore::new();
    let script = "(trap '' TERM; exec sleep 1000) >/dev/null 2>&1 & echo $!";
    let run = store.start(&["--grace", "100ms", "a", "--", "sh", "-c", script]);
    let left = run.says("");
    run.warns("has left processes behind");
    for claim in store.claims("a") {
        std::fs::remove_file(claim).unwrap();
    }
    wait_gone(&left);
}

#[test]
fn a_daemon_that_was_left_keeps_no_output_open() {
    let store = TestStore::new();
    let script = "setsid sleep 1000 <&- >&- 2>&- & echo $!";
    // `ended` reads the output to its end, as `$(…)` does.
    let run = store.run(&["-q", "a", "--", "sh", "-c", script]);
    assert_eq!(run.status, Some(0));
    assert!(kill("KILL", run.output.trim()));
}

#[test]
fn the_next_is_let_in_after_a_planned_end_and_not_before() {
    let store = TestStore::new();
    let (gone, here) = (store.path("gone"), store.path("here"));
    let script = format!(
        "trap 'read _ <{0}; echo gone >{1}; exit 0' TERM; mkfifo {0}; echo ready; \
         while :; do sleep 0.01; done",
        here.display(),
        gone.display()
    );
    let options = ["--max-hold", "200ms", "--grace", "60s", "a", "--"];
    let run = store.start(&[&options[..], &["sh", "-c", &script]].concat());
    run.says("ready");
    let next = store.start(&["a", "--", "cat", gone.to_str().unwrap()]);
    run.warns("the command is told to end");
    assert_eq!(store.run(&["-n", "a", "--", "true"]).status, Some(75), "it still has the lock");
    std::fs::write(here, "\n").unwrap();
    next.says("gone");
    assert_eq!(run.end(), Some(76));
    assert_eq!(next.end(), Some(0));
}

#[test]
fn the_run_ends_by_the_signal_that_has_ended_the_command() {
    let store = TestStore::new();
    // Python tells a signal from a status. Where a signal is ignored, as INT is below `&`, it has to stay so.
    let script = format!(
        "import signal, subprocess\n\
         for number in 'SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT':\n    \
             number = getattr(signal, number)\n    \
             signal.signal(number, signal.SIG_DFL)\n    \
             words = ['{}', 'run', 'a', '--', 'sh', '-c', 'echo ready; exec sleep 1000']\n    \
             run = subprocess.Popen(words, stdout=subprocess.PIPE)\n    \
             run.stdout.readline(); run.send_signal(number); print(run.wait())",
        env!("CARGO_BIN_EXE_globallock")
    );
    let mut python = Command::new("python3");
    let said = ended(python.args(["-c", &script]).env("GLOBALLOCK_URL", store.url()));
    assert_eq!(said.output, "-2\n-15\n-1\n-3\n", "{}", said.error);
}

#[test]
fn as_the_first_process_it_reaps_forwards_and_ends_all() {
    let store = TestStore::new();
    let first = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]);
        command.arg(globallock().get_program()).args(["run", "a", "--", "sh", "-c", script]);
        ended(command.env("GLOBALLOCK_URL", store.url()))
    };
    let orphans =
        "for i in 1 2 3 4 5; do (sleep 0.01 & ); done; sleep 0.3; grep -l '^State:.Z' /proc/*/status";
    let reaped = first(orphans);
    assert_eq!((reaped.status, reaped.output.as_str()), (Some(1), ""), "no zombies: {}", reaped.error);
    let told = first("trap 'echo told; exit 7' TERM; kill -TERM 1; while :; do sleep 0.01; done");
    assert_eq!((told.status, told.output.as_str()), (Some(7), "told\n"), "{}", told.error);
    let left = first("setsid sleep 1000 & exit 3");
    assert_eq!(left.status, Some(3), "{}", left.error);
    assert!(store.claims("a").is_empty(), "the lock is released before the container ends");
}

/// A command that this `globallock` may not kill, and the command line in front of `globallock` for that.
///
/// For root, that is a process of another user when `globallock` has lost the right to kill those. Everybody
/// else needs root for a process of another user.
fn beyond_reach() -> ([&'static [&'static str]; 2], &'static str) {
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        let without = &["setpriv", "--bounding-set", "-kill", "--inh-caps", "-all"];
        let other = &["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "sleep", "1000"];
        ([without, other], "sleep")
    } else {
        ([&["env"], &["sudo", "-n", "sleep", "1000"]], "sudo")
    }
}

#[test]
fn a_process_of_another_user_is_told_and_keeps_the_lock() {
    let store = TestStore::new();
    let ([before, command], name) = beyond_reach();
    let mut run = Command::new(before[0]);
    run.args(&before[1..]).arg(env!("CARGO_BIN_EXE_globallock")).env("GLOBALLOCK_URL", store.url());
    run.args(["run", "--max-hold", "300ms", "--grace", "100ms", "a", "--"]).args(command);
    let run = Running::start(&mut run);
    let said = run.all_warned_until("cannot be killed");
    let told = "globallock: another user's processes cannot be killed, and are waited for: ";
    let who = said.last().unwrap().strip_prefix(told).unwrap_or_else(|| panic!("{said:?}"));
    assert!(who.starts_with(&format!("{name} ")), "{who}");
    let ids: Vec<String> = who.split(", ").map(|one| one.rsplit_once(' ').unwrap().1.to_owned()).collect();
    assert!(ids.iter().all(|id| stat_fields(id).unwrap()[0] != "Z"), "{who}");
    assert_eq!(store.run(&["--no-wait", "a", "--", "true"]).status, Some(75), "the lock is kept");
    let kill = if name == "sudo" { &["sudo", "-n", "kill", "-KILL"][..] } else { &["kill", "-KILL"] };
    assert!(Command::new(kill[0]).args(&kill[1..]).args(&ids).status().unwrap().success());
    next_is_alone(&store, &ids);
    let (status, rest) = run.end_and_warned();
    assert_eq!((status, rest), (Some(76), vec![]), "it is told once");
}

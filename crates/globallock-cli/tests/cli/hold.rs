//! `globallock hold`: locks for parts of scripts, in real shells.

use std::path::Path;
use std::process::Command;

use crate::support::{Running, TestStore, ended, eventually, globallock, kill, stat_fields, wait_gone};

const SHELLS: [&[&str]; 4] = [&["bash"], &["dash"], &["zsh"], &["zsh", "--emulate", "sh"]];

/// A shell that finds this `globallock` and the store.
fn shell(store: &TestStore, shell: &[&str], script: &str) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_globallock")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(shell[0]);
    command.args(&shell[1..]).args(["-c", script]);
    command.env("PATH", path).env("GLOBALLOCK_URL", store.url()).env_remove("GLOBALLOCK_URL_FILE");
    command
}

fn is_taken(store: &TestStore) -> bool {
    match store.run(&["--no-wait", "a", "--", "true"]).status {
        Some(75) => true,
        Some(0) => false,
        status => panic!("{status:?}"),
    }
}

fn becomes_free(store: &TestStore) {
    assert_eq!(store.run(&["--wait", "30s", "a", "--", "true"]).status, Some(0));
}

/// Takes the lock away, as a store does that has lost its data.
fn lose(store: &TestStore) {
    for claim in store.claims("a") {
        std::fs::remove_file(claim).unwrap();
    }
}

#[test]
fn a_script_holds_the_lock_until_it_ends() {
    for words in SHELLS {
        let store = TestStore::new();
        let script = "globallock hold --background a || exit; echo held; read _; exit 3";
        let run = Running::start(&mut shell(&store, words, script));
        run.says("held");
        assert!(is_taken(&store), "{words:?}");
        assert_eq!(run.end(), Some(3), "{words:?}");
        becomes_free(&store);
    }
}

#[test]
fn a_killed_script_holds_no_lock() {
    for words in SHELLS {
        let store = TestStore::new();
        let run =
            Running::start(&mut shell(&store, words, "globallock hold -b a || exit; echo held; read _; :"));
        run.says("held");
        run.signal("KILL");
        becomes_free(&store);
        assert_eq!(run.end(), Some(137));
    }
}

#[test]
fn what_stands_in_parentheses_holds_the_lock_and_what_follows_does_not() {
    for words in SHELLS {
        let store = TestStore::new();
        let script = "( globallock hold -b a || exit; echo held; read _; exit 4 ); echo part $?; read _; :";
        let mut run = Running::start(&mut shell(&store, words, script));
        run.says("held");
        assert!(is_taken(&store), "{words:?}");
        run.write("\n");
        run.says("part 4");
        becomes_free(&store);
    }
}

#[test]
fn a_script_that_is_refused_learns_it() {
    let store = TestStore::new();
    let first = store.start(&["a", "--", "sh", "-c", "echo ready; read _"]);
    first.says("ready");
    for words in SHELLS {
        for (options, status) in [("-n", 75), ("--wait 50ms", 75), ("-n -E 9", 9), ("--lease 1ms", 64)] {
            let script = format!("globallock hold -b {options} a || exit; echo went on");
            let refused = ended(&mut shell(&store, words, &script));
            assert_eq!((refused.status, refused.output.as_str()), (Some(status), ""), "{words:?} {options}");
            assert!(refused.error.starts_with("globallock: "), "{}", refused.error);
            let quiet = ended(&mut shell(&store, words, &script.replace("-b", "-b -q")));
            assert_eq!(quiet.error.is_empty(), status != 64, "{}", quiet.error);
        }
    }
}

#[test]
fn kinds_of_locks_are_held_as_by_run() {
    let store = TestStore::new();
    let script = "globallock hold -b --shared a && globallock hold -b -n -s a && echo both; \
                  globallock hold -b -n a || echo refused; \
                  globallock hold -b --permits 2/3 b && globallock hold -b -n --permits 3 b && echo three; \
                  globallock hold -b -n --permits 1/3 b || echo refused";
    let ended = ended(&mut shell(&store, &["dash"], script));
    assert_eq!(ended.output, "both\nrefused\nthree\nrefused\n", "{}", ended.error);
}

#[test]
fn the_fencing_token_rises() {
    for words in SHELLS {
        let store = TestStore::new();
        let part = "token=$(globallock hold -b --pid $$ --print-token a) || exit; echo $token; read _; :";
        let tokens = [(), ()].map(|()| {
            let run = Running::start(&mut shell(&store, words, part));
            let token: u64 = run.says("").parse().unwrap();
            assert!(is_taken(&store), "{words:?}");
            run.end();
            token
        });
        assert!(tokens[0] < tokens[1], "{words:?}: {tokens:?}");
    }
}

#[test]
fn others_see_the_script_as_the_holder() {
    let store = TestStore::new();
    let script = "globallock hold -b $OPTIONS a || exit; echo held; read _; :";
    for (options, label) in [("", "bash"), ("--label nightly", "nightly")] {
        let mut command = shell(&store, &["bash"], script);
        let run = Running::start(command.env("OPTIONS", options));
        run.says("held");
        let refused = store.run(&["--no-wait", "a", "--", "true"]);
        let shown = format!("held by {label} (pid {}", run.id());
        assert!(refused.error.contains(&shown), "{shown}: {}", refused.error);
        run.end();
        becomes_free(&store);
    }
}

#[test]
fn a_loss_ends_the_script_and_what_it_has_started() {
    for words in SHELLS {
        let store = TestStore::new();
        let script = "globallock hold -b --lease 300ms a || exit; sleep 1000 & echo $!; sleep 1000; echo on";
        let run = Running::start(&mut shell(&store, words, script));
        let started = run.says("");
        lose(&store);
        let said = run.warns("\"a\" is lost: the store has no such claim any more; process ");
        assert!(said.ends_with(&format!("{} and what it has started are sent TERM", run.id())), "{said}");
        wait_gone(&started);
        assert_eq!(run.end(), Some(143), "{words:?}");
    }
}

#[test]
fn a_script_can_handle_a_loss() {
    for words in SHELLS {
        let store = TestStore::new();
        let script = "trap 'echo told' USR1; trap 'echo wrong' TERM; \
                      globallock hold -b --lease 300ms --loss-signal usr1 a || exit; \
                      echo held; sleep 1000; echo went on";
        let run = Running::start(&mut shell(&store, words, script));
        run.says("held");
        lose(&store);
        assert_eq!(run.all_until("went on"), ["told", "went on"], "{words:?}");
    }
}

#[test]
fn a_script_that_cleans_up_after_a_signal_to_its_group_still_has_the_lock() {
    let trap = "trap 'globallock run -q -n a -- true; echo taken $?; exit 5' TERM";
    let background = "globallock hold -b a || exit";
    let coprocess = "coproc LOCK { exec globallock hold a; }; read -r token <&${LOCK[0]} || exit";
    let holds = SHELLS.map(|words| (words, background));
    for (words, holds) in holds.into_iter().chain([(SHELLS[0], coprocess)]) {
        let store = TestStore::new();
        let script = format!("{trap}; {holds}; echo held; while :; do sleep 0.01; done");
        let inner = shell(&store, words, &script);
        let mut command = Command::new("setsid");
        command.arg(inner.get_program()).args(inner.get_args());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let run = Running::start(&mut command);
        run.says("held");
        assert!(kill("TERM", &format!("-{}", run.id())));
        run.says("taken 75");
        assert_eq!(run.end(), Some(5), "{words:?}");
        becomes_free(&store);
    }
}

#[test]
fn a_job_that_is_stopped_while_it_waits_takes_no_lock() {
    let store = TestStore::new();
    let script = Running::start(Command::new("sh").args(["-c", "echo ready; read _; :"]));
    script.says("ready");
    let first = store.start(&["a", "--", "sh", "-c", "echo ready; read _"]);
    first.says("ready");
    let mut command = store.command();
    let waits = Running::start(command.args(["hold", "-b", "-v", "--pid", &script.id().to_string(), "a"]));
    waits.warns("waiting for");
    waits.signal("STOP");
    assert!(eventually(|| (stat_fields(&waits.id().to_string())?[0] == "T").then_some(())).is_some());
    assert_eq!(first.end(), Some(1));
    becomes_free(&store);
    waits.signal("CONT");
    assert_eq!(waits.end(), Some(0));
    assert!(is_taken(&store));
    assert_eq!(script.end(), Some(0));
    becomes_free(&store);
}

#[test]
fn whoever_ends_while_it_waits_leaves_the_queue() {
    for signal in ["KILL", "TERM", "INT"] {
        let store = TestStore::new();
        let first = store.start(&["a", "--", "sh", "-c", "echo ready; read _"]);
        first.says("ready");
        let mut command = store.command();
        let waits = Running::start(command.args(["hold", "-b", "-v", "a"]));
        waits.warns("waiting for");
        assert_eq!(store.claims("a").len(), 2);
        waits.signal(signal);
        assert!(eventually(|| (store.claims("a").len() == 1).then_some(())).is_some(), "{signal}");
        assert!(waits.end().is_some_and(|status| status > 128));
    }
}

#[test]
fn a_coprocess_of_bash_holds_the_lock_until_its_input_is_closed() {
    let store = TestStore::new();
    let script = "coproc LOCK { exec globallock hold a; }; holder=$LOCK_PID; \
                  read -r token <&${LOCK[0]} || { wait $holder; exit; }; echo held $token; \
                  sleep 1000 & started=$!; read _; \
                  exec {LOCK[1]}>&-; wait $holder; echo released $?; kill $started; read _; :";
    let mut run = Running::start(&mut shell(&store, &["bash"], script));
    let token: u64 = run.says("held ").trim_start_matches("held ").parse().unwrap();
    assert!(token > 0 && is_taken(&store));
    run.write("\n");
    // What bash has started meanwhile has no end of the pipe.
    run.says("released 0");
    becomes_free(&store);
}

#[test]
fn a_pipe_with_a_name_holds_the_lock_in_any_shell_until_all_have_closed_it() {
    for words in SHELLS {
        let store = TestStore::new();
        let script = format!(
            "mkfifo {0} && exec 9<>{0} && rm {0} || exit; globallock hold --background --fd 9 a || exit; \
             echo held; sleep 1000 & echo $!; read _; exec 9>&-; echo closed; read _; :",
            store.path("fifo").display()
        );
        let mut run = Running::start(&mut shell(&store, words, &script));
        run.says("held");
        let started = run.says("");
        assert!(is_taken(&store), "{words:?}");
        run.write("\n");
        run.says("closed");
        assert!(is_taken(&store), "what was started before has the pipe too: {words:?}");
        assert!(kill("KILL", &started));
        becomes_free(&store);
    }
}

#[test]
fn two_holds_of_one_script_end_on_their_own() {
    let store = TestStore::new();
    let script = format!(
        "for n in 8 9; do mkfifo {0}; eval \"exec $n<>{0}\"; rm {0}; globallock hold -b --fd $n a$n || exit; \
         done; exec 8>&-; globallock run --wait 30s a8 -- echo first is free; \
         globallock run -q -n a9 -- true; echo second $?",
        store.path("fifo").display()
    );
    let ended = ended(&mut shell(&store, &["dash"], &script));
    assert_eq!(ended.output, "first is free\nsecond 75\n", "{}", ended.error);
}

#[test]
fn a_script_that_waits_for_its_own_lock_is_told() {
    for words in SHELLS {
        for again in [
            "globallock run a -- echo granted",
            "( globallock hold -b a && echo granted )",
            "globallock run b -- globallock run --shared a -- echo granted",
            "globallock run a -- echo granted & wait",
        ] {
            let store = TestStore::new();
            let script = format!("globallock hold -b --label part a || exit; {again}; :");
            let mut run = Running::start(&mut shell(&store, words, &script));
            let said = run.warns("globallock: ");
            let holder = format!("\"a\" is held by globallock hold for part (pid {} on ", run.id());
            assert!(said.starts_with(&format!("globallock: {holder}")), "{words:?} {again}: {said}");
            assert!(said.contains("if it waits for this process, both wait without end"), "{said}");
            // Who has started the wait in the background, and ends, lets it go on.
            run.signal("KILL");
            run.close_input();
            assert_eq!(run.rest(), ["granted"], "{words:?} {again}");
            becomes_free(&store);
        }
    }
}

#[test]
fn whoever_waits_for_the_lock_of_another_script_is_not_told_so() {
    let store = TestStore::new();
    let script = "globallock hold -b a || exit; echo held; read _; :";
    let holder = Running::start(&mut shell(&store, &["bash"], script));
    holder.says("held");
    let waits = "globallock hold -b other || exit; globallock run --log-format json -v a -- echo granted";
    let waits = Running::start(&mut shell(&store, &["bash"], waits));
    // The holder and the place are looked at before this is said, and again two seconds later.
    let mut said = waits.all_warned_until("\"waiting\"");
    let third = store.start(&["a", "--", "true"]);
    assert!(eventually(|| (store.claims("a").len() == 3).then_some(())).is_some());
    said.extend(waits.all_warned_until("\"waiters\":2"));
    holder.signal("KILL");
    waits.says("granted");
    said.extend(waits.all_warned_until("released"));
    assert!(said.iter().all(|line| !line.contains("held_around")), "{said:?}");
    assert_eq!(third.end(), Some(0));
}

/// Starts `hold` with these arguments and a pipe, and waits until the lock is held.
fn held(store: &TestStore, arguments: &[&str]) -> Running {
    let mut command = store.command();
    let hold = Running::start(command.arg("hold").args(arguments));
    let token: u64 = hold.says("").parse().unwrap();
    assert!(token > 0 && is_taken(store));
    hold
}

#[test]
fn the_end_of_standard_input_releases_the_lock() {
    let store = TestStore::new();
    let mut hold = held(&store, &["a"]);
    hold.write("text that nobody reads\n");
    assert!(is_taken(&store));
    hold.close_input();
    assert_eq!(hold.end(), Some(0));
    assert!(!is_taken(&store));
}

#[test]
fn a_signal_releases_the_lock() {
    let store = TestStore::new();
    for (signal, status) in [("TERM", 143), ("INT", 130), ("HUP", 129), ("QUIT", 131)] {
        let hold = held(&store, &["a"]);
        hold.signal(signal);
        // A process that was killed leaves its claim's file.
        let released = || store.claims("a").is_empty().then_some(());
        assert!(eventually(released).is_some(), "{signal}");
        assert_eq!(hold.end(), Some(status), "{signal}");
    }
}

#[test]
fn a_lost_lock_ends_the_hold() {
    let store = TestStore::new();
    let hold = held(&store, &["--lease", "300ms", "a"]);
    lose(&store);
    let said = hold.warns("globallock: \"a\" is lost: the store has no such claim any more");
    assert!(said.ends_with("any more"), "there is no process to be told: {said}");
    assert_eq!(hold.end(), Some(76));
}

#[test]
fn a_hold_lasts_until_the_first_of_a_process_and_a_descriptor_ends() {
    let store = TestStore::new();
    let other = Running::start(Command::new("sh").args(["-c", "echo ready; read _; :"]));
    other.says("ready");
    let pid = other.id().to_string();
    let hold = held(&store, &["--pid", &pid, "--fd", "0", "a"]);
    assert_eq!(hold.end(), Some(0), "its input is closed");
    let mut hold = held(&store, &["--pid", &pid, "a"]);
    hold.close_input();
    assert!(is_taken(&store), "its input does not count");
    assert_eq!(other.end(), Some(0));
    becomes_free(&store);
    assert_eq!(hold.end(), Some(0));
}

#[test]
fn a_hold_that_would_end_at_once_is_refused() {
    let store = TestStore::new();
    let gone = Running::start(&mut Command::new("true"));
    let pid = gone.id().to_string();
    assert_eq!(gone.end(), Some(0));
    for (arguments, text) in [
        (&["a"][..], "standard input is at its end at once"),
        (&["--fd", "0", "a"], "--fd 0: it is at its end at once"),
        (&["--fd", "77", "a"], "--fd 77: No such file"),
        (&["--pid", &pid, "a"], "there is no such process"),
        (&["--pid", "0", "a"], "0 is not in 1.."),
        (&["-b", "--loss-signal", "LOUD", "a"], "such as TERM or USR1"),
        (&["-b", "--print-token", "a"], "--pid"),
        (&["-b", ""], "it is empty"),
        (&["-b", "--url", "ftp://h", "a"], "known are memory, file, redis"),
        (&["-b", "--wait", "1s", "--no-wait", "a"], "cannot be used with"),
    ] {
        let refused = ended(store.command().arg("hold").args(arguments));
        assert_eq!(refused.status, Some(64), "{arguments:?}: {}", refused.error);
        assert!(refused.error.contains(text), "{arguments:?}: {}", refused.error);
        assert_eq!(refused.output, "");
    }
    let unreachable = ended(globallock().args([
        "hold",
        "-b",
        "-n",
        "--lease",
        "300ms",
        "--url",
        "redis://127.0.0.1:1",
        "a",
    ]));
    assert_eq!(unreachable.status, Some(69), "{}", unreachable.error);
}

#[test]
fn a_token_that_nobody_can_read_releases_the_lock() {
    let store = TestStore::new();
    let script = "globallock hold -b --pid $$ --print-token a >/dev/full; echo status $?; \
                  globallock run --wait 30s a -- echo free";
    let ended = ended(&mut shell(&store, &["dash"], script));
    assert_eq!(ended.output, "status 70\nfree\n", "{}", ended.error);
    assert!(ended.error.contains("No space left"), "{}", ended.error);
}

#[test]
fn the_examples_of_the_help_of_hold_work() {
    let help = ended(globallock().args(["hold", "--help"])).output;
    let (_, examples) = help.split_once("Examples:\n").unwrap();
    let (examples, _) = examples.split_once("Exit status:").unwrap();
    let scripts: Vec<String> = examples
        .split("\n  ")
        .fold(vec![String::new()], |mut scripts: Vec<String>, line| {
            match line.strip_prefix("  ") {
                Some(line) => *scripts.last_mut().unwrap() += &format!("{line}\n"),
                None => scripts.push(String::new()),
            }
            scripts
        })
        .into_iter()
        .filter(|script| !script.is_empty())
        .collect();
    assert_eq!(scripts.len(), 4, "{scripts:?}");
    for script in scripts {
        let store = TestStore::new();
        // The deployment shows that it is alone; what holds until the end of the script shows it at the end.
        let deploy = "globallock run -q -n deploy -- true; echo taken $?";
        let script = match script.contains("./deploy.sh") {
            true => script.replace("./deploy.sh", deploy),
            false => script + deploy,
        };
        let shells = if script.contains("coproc") { &SHELLS[..1] } else { &SHELLS[..] };
        for words in shells {
            let ended = ended(&mut shell(&store, words, &script));
            assert_eq!(ended.output, "taken 75\n", "{words:?}: {script}{}", ended.error);
        }
        assert_eq!(store.run(&["--wait", "30s", "deploy", "--", "true"]).status, Some(0));
    }
}

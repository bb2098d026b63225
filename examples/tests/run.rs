//! Every example is run, and says what its comments promise.

use std::process::Command;

/// Runs an example to its successful end, and returns what it printed.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let shown = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    assert!(output.status.success(), "{}\n{}", shown(&output.stdout), shown(&output.stderr));
    shown(&output.stdout)
}

#[test]
fn a_mutex_is_held_while_the_report_is_written() {
    let printed = run(env!("CARGO_BIN_EXE_mutex"), &[]);
    assert_eq!(printed, "the report has 3 lines\nthe report has 3 lines again\n");
}

#[test]
fn a_late_write_is_refused_by_its_fencing_token() {
    let printed = run(env!("CARGO_BIN_EXE_guarded_write"), &[]);
    assert!(printed.starts_with("the new write: Ok(())\nthe late write: Err(\"token "), "{printed}");
}

#[test]
fn two_replicas_lead_one_after_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file:{}", directory.path().display());
    let (one, other) = std::thread::scope(|scope| {
        let replica = || scope.spawn(|| run(env!("CARGO_BIN_EXE_leader"), &[&url]));
        let (one, other) = (replica(), replica());
        (one.join().unwrap(), other.join().unwrap())
    });
    let mut tokens = Vec::new();
    for printed in [one, other] {
        assert!(printed.contains("term 3 ended after 3 steps"), "{printed}");
        let told = printed.lines().filter_map(|line| line.split_once("fencing token "));
        tokens.extend(told.map(|(_, token)| token.parse::<u64>().unwrap()));
    }
    tokens.sort_unstable();
    assert_eq!(tokens.len(), 6);
    assert!(tokens.windows(2).all(|pair| pair[0] < pair[1]), "each term has a token of its own: {tokens:?}");
}

#[test]
fn no_more_than_three_licences_are_in_use() {
    let printed = run(env!("CARGO_BIN_EXE_semaphore"), &[]);
    let most: u32 =
        printed.trim().strip_prefix("at most ").unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((1..=3).contains(&most), "{printed}");
}

#[test]
fn an_hour_passes_at_once_in_paused_time() {
    let printed = run(env!("CARGO_BIN_EXE_paused_time"), &[]);
    assert!(printed.starts_with("more than an hour and ten minutes passed in "), "{printed}");
}

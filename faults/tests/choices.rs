//! The decisions of an owner depend only on the run's seed and the owner's number, not on what happens.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use globallock::{LockManager, ManagerOptions, Memory, Options};
use globallock_faults::history::{Kind, Mode, OwnerEvent};
use globallock_faults::owner::{Choice, Plan, run_over};
use globallock_faults::{registers, run};
use tempfile::TempDir;
use tokio::sync::watch;

fn plan(directory: &Path, seed: u64, owner: u32) -> Plan {
    Plan {
        url: String::new(),
        registers: ([127, 0, 0, 1], 1).into(),
        log: directory.join(format!("owner-{owner}.jsonl")),
        owner,
        seed,
        lease: 400_000,
        limit: 3_000_000,
        long: 30,
        values: 300,
        evictions: 50_000,
        locks: run::locks(),
    }
}

/// The decisions of the owners of a run, from their logs: one list for each owner and lock.
async fn decided(seed: u64) -> Vec<Vec<(Kind, u32, Mode)>> {
    let directory = TempDir::new().unwrap();
    let log = directory.path().join("register.jsonl");
    let registers = registers::start(&log, [127, 0, 0, 1].into()).await.unwrap();
    let (stopping, stop) = watch::channel(false);
    let memory = Memory::new();
    let mut owners = Vec::new();
    for owner in 0..2 {
        let locks = Options::new().lease(Duration::from_millis(400));
        let options = ManagerOptions::new().locks(locks);
        let manager = LockManager::with_backend(memory.clone(), options).unwrap();
        let plan = Plan { registers, ..plan(directory.path(), seed, owner) };
        owners.push(tokio::spawn(run_over(manager, plan, stop.clone())));
    }
    let mut lists = Vec::new();
    // However slow the machine is, this waits until each list is long enough to be compared.
    while lists.iter().map(Vec::len).min().is_none_or(|least| least < 30) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        lists = (0..2)
            .flat_map(|owner| invoked(&directory.path().join(format!("owner-{owner}.jsonl"))))
            .collect();
    }
    stopping.send_replace(true);
    for owner in owners {
        owner.await.unwrap().unwrap();
    }
    lists
}

/// What the owner of a plan has decided at each lock, from its log.
fn invoked(log: &Path) -> Vec<Vec<(Kind, u32, Mode)>> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let events = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let mut lists = vec![Vec::new(); run::locks().len()];
    for event in events {
        if let OwnerEvent::Invoke { name, kind, count, mode, .. } = serde_json::from_str(event).unwrap() {
            let position = run::locks().iter().position(|spec| spec.name == name).unwrap();
            lists[position].push((kind, count, mode));
        }
    }
    lists
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_of_two_runs_with_one_seed_decide_the_same() {
    let (first, second, other) = (decided(7).await, decided(7).await, decided(8).await);
    let same =
        |one: &[(Kind, u32, Mode)], two: &[(Kind, u32, Mode)]| one.iter().zip(two).all(|(a, b)| a == b);
    for ((first, second), other) in first.iter().zip(&second).zip(&other) {
        assert!(same(first, second) && !same(first, other), "{first:?}\n{second:?}\n{other:?}");
    }
}

#[test]
fn owners_in_python_decide_as_owners_in_rust() {
    for (seed, owner) in [(0, 0), (7, 3), (u64::MAX, 41)] {
        let plan = plan(Path::new(""), seed, owner);
        for (position, spec) in plan.locks.iter().enumerate() {
            let drawn = (0..200).map(|step| format!("{}\n", Choice::draw(&plan, spec, position, step)));
            let program = concat!(env!("CARGO_MANIFEST_DIR"), "/choices.py");
            let text = serde_json::to_string(&plan).unwrap();
            let output = Command::new("python3")
                .args([program, &text, &position.to_string(), "200"])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), drawn.collect::<String>());
        }
    }
}

#[test]
fn an_owner_that_replaces_a_killed_one_decides_by_the_seed_and_its_own_number() {
    let parent = TempDir::new().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_globallock-faults"))
        .args(["run", "file", "--only", "owner_kill", "--for", "1s", "--owners", "2", "--seed", "7"])
        .arg("--directory")
        .arg(parent.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    // The crowd has the number between the first two owners and the one that replaced one of them.
    for owner in [0, 1, 3] {
        let log = parent.path().join(format!("faults-file-7/owner-{owner}.jsonl"));
        let plan = Plan { lease: 2_000_000, limit: 20_000_000, long: 1, ..plan(Path::new(""), 7, owner) };
        let lists = invoked(&log);
        assert!(lists.iter().all(|list| !list.is_empty()), "owner {owner} has taken all locks");
        for ((position, spec), list) in plan.locks.iter().enumerate().zip(lists) {
            for (step, (kind, count, mode)) in (0..).zip(list) {
                let choice = Choice::draw(&plan, spec, position, step);
                assert_eq!(mode, choice.mode, "owner {owner}, {}, step {step}", spec.name);
                match spec.kind {
                    Kind::Permits => assert_eq!(count, choice.permits),
                    Kind::Read => assert_eq!(kind == Kind::Write, choice.writes),
                    _ => {}
                }
            }
        }
    }
}

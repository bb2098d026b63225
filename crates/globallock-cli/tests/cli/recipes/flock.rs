//! The table of what to write in place of `flock`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::{Stage, section};
use crate::support::{Ended, Running, ended};

/// The cells of the table's rows, as they are read on the page.
fn rows() -> Vec<[String; 2]> {
    let rows = section("From flock").lines().filter(|line| line.starts_with("| `"));
    let cells = |row: &str| {
        let row = row.replace("\\|", "\u{0}");
        let cells = row
            .trim_matches('|')
            .split(" | ")
            .map(|cell| cell.trim().trim_matches('`').replace('\u{0}', "|"));
        cells.collect::<Vec<_>>().try_into().unwrap()
    };
    rows.map(cells).collect()
}

/// Runs a cell as a script of its own. What only locks is followed by the job.
fn run(stage: &Stage, cell: &str) -> Ended {
    let job = if cell.contains("job") { "" } else { "job" };
    let script = stage.path("script");
    fs::write(&script, format!("#!/bin/sh\n{}\n{job}\n", stage.adapted(cell))).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let script = script.display().to_string();
    ended(stage.bare(&script).arg("argument").env("GLOBALLOCK_URL", stage.store.url()))
}

#[test]
fn what_stands_in_place_of_flock_does_what_flock_does() {
    let rows = rows();
    assert_eq!(rows.len(), 10);
    let mut refused = 0;
    for cells in rows {
        let stage = Stage::new();
        stage.program("job", "echo ran; exit 3");
        let [by_flock, ours] = cells.each_ref().map(|cell| run(&stage, cell));
        assert_eq!(
            (by_flock.status, by_flock.output.as_str()),
            (ours.status, ours.output.as_str()),
            "{cells:?}"
        );
        assert_eq!(ours.output, "ran\n", "{cells:?}: {}", ours.error);
        assert_eq!(ours.error, "", "{cells:?}");
        // Both are free again.
        let waits = !["-n", "-w"].iter().any(|option| cells[1].contains(option));
        let holder = stage.holder("nightly");
        let file = stage.path("nightly");
        let held = Running::start(Command::new("flock").arg(file).args(["sh", "-c", "echo ready; read _"]));
        held.says("ready");
        if waits {
            // It would wait for as long as the lock is held.
            let script =
                |cell: &str| stage.adapted(cell).replace("run ", "run -n ").replace("hold ", "hold -n ");
            let ours = ended(
                stage.bare("sh").args(["-c", &script(&cells[1])]).env("GLOBALLOCK_URL", stage.store.url()),
            );
            assert!(ours.status == Some(75) && ours.output.is_empty(), "{cells:?}: {ours:?}");
        } else {
            refused += 1;
            // It is refused for sure, so the test need not wait for long.
            let hurried = |cell: &String| run(&stage, &cell.replace("-w 10", "-w 0.2"));
            let [by_flock, ours] = cells.each_ref().map(hurried);
            let said = |ended: &Ended| (ended.status, ended.output.clone(), ended.error.clone());
            assert_eq!(said(&by_flock), said(&ours), "{cells:?}");
            assert!(ours.status != Some(0) && ours.output.is_empty());
        }
        assert_eq!((holder.end(), held.end()), (Some(1), Some(1)));
    }
    assert_eq!(refused, 5);
}

//! Scripts that lock themselves, and parts of scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::{Stage, assert_ended, blocks, section};
use crate::support::ended;

/// The shells that a script without a word about bash is for.
const SHELLS: [&[&str]; 4] = [&["bash"], &["dash"], &["zsh"], &["zsh", "--emulate", "sh"]];

/// A stage where the job says whether it has a lock, and which token it was given.
fn stage() -> Stage {
    let stage = Stage::new();
    let taken = "globallock run -q -n nightly -- true; echo \"taken $? ${TOKEN:+token}\"";
    stage.program("job", &format!("{taken}; for word; do echo \"$word\"; done; exit 3"));
    stage
}

fn block(index: usize) -> &'static str {
    blocks(section("Scripts"))[index]
}

fn in_shell(stage: &Stage, shell: &[&str], script: &str) -> Command {
    let mut command = stage.bare(shell[0]);
    command.args(&shell[1..]).args(["-c", script]).env("GLOBALLOCK_URL", stage.store.url());
    command
}

#[test]
fn a_script_locks_itself() {
    for shell in ["/bin/sh", "/usr/bin/env bash", "/usr/bin/env zsh"] {
        let stage = stage();
        let file = stage.path("script");
        fs::write(&file, block(0).replace("#!/bin/sh", &format!("#!{shell}"))).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let script = || {
            let mut command = stage.bare(&file.display().to_string());
            ended(command.args(["a b", "c"]).env("GLOBALLOCK_URL", stage.store.url()))
        };
        assert_ended(&script(), 3, "taken 75 \na b\nc\n");
        let holder = stage.holder("nightly");
        let refused = script();
        assert_eq!((refused.status, refused.output.as_str()), (Some(75), ""), "{}", refused.error);
        assert_eq!(holder.end(), Some(1));
    }
}

#[test]
fn a_script_holds_the_lock_from_here_to_its_end() {
    for shell in SHELLS {
        let stage = stage();
        assert_ended(&ended(&mut in_shell(&stage, shell, block(1))), 3, "taken 75 \n");
        stage.becomes_free("nightly");
    }
}

#[test]
fn parts_of_a_script_hold_the_lock() {
    for (index, shells) in [(2, &SHELLS[..]), (3, &SHELLS), (4, &SHELLS[..1])] {
        for shell in shells {
            let stage = stage();
            // The job's status ends the part in parentheses.
            stage.program("job", "globallock run -q -n nightly -- true; echo \"taken $? ${TOKEN:+token}\"");
            let token = if index == 4 { "token" } else { "" };
            let ran = ended(&mut in_shell(&stage, shell, block(index)));
            assert_ended(&ran, 0, &format!("taken 75 {token}\nthe lock is free again\n"));
            let holder = stage.holder("nightly");
            // None of them goes on without the lock.
            let refused = ended(&mut in_shell(&stage, shell, &block(index).replace("hold ", "hold -q -n ")));
            assert_ended(&refused, 75, "");
            assert_eq!(holder.end(), Some(1));
        }
    }
}

#[test]
fn the_address_stands_in_a_file_and_the_token_in_the_environment() {
    for (index, expected) in [(5, "taken 75 \n"), (6, "taken 75 token\n")] {
        let stage = stage();
        let ran = ended(&mut in_shell(&stage, &["sh"], &stage.adapted(block(index))));
        assert_ended(&ran, 3, expected);
    }
}

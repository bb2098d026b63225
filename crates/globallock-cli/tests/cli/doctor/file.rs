//! A directory, and the memory of a process.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tempfile::TempDir;

use super::{examined, examined_by, names};
use crate::support::TestStore;

#[test]
fn a_directory_that_is_well_is_told_so_and_nothing_is_left_in_it() {
    let store = TestStore::new();
    let found = examined(&store.url(), &[]);
    found.is_well();
    found.has("ok", "file system", "the processes of this host share the locks");
    found.has("ok", "access", "this user alone may take and break locks in it (mode 0700");
    found.has("ok", "parents", "nobody else");
    found.has("ok", "space", " MiB are free");
    found.has("ok", "open files", "");
    assert_eq!(found.on("inotify").count(), 1);
    assert_eq!(names(&store.url()), [""; 0]);
    let left = std::fs::read_dir(store.path("locks")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|file| file.starts_with('.')), "{left:?}");
}

#[test]
fn who_else_may_break_the_locks_is_told() {
    let store = TestStore::new();
    std::fs::create_dir(store.path("locks")).unwrap();
    let rights = |path: &str, mode| set_permissions(store.path(path), Permissions::from_mode(mode)).unwrap();
    rights("locks", 0o777);
    let shared = examined(&store.url(), &[]);
    shared.is_well();
    shared.has("note", "access", "all users of this host may take and break locks in it");
    rights("", 0o777);
    let replaceable = examined(&store.url(), &[]);
    replaceable.ends_with(69);
    replaceable.has("bad", "parents", "all users may put another directory in its place");
}

/// An examination where a script has made a file system at `$1`, by somebody who may do only what the modes
/// of files say.
fn in_a_file_system(script: &str, at: &TempDir) -> Command {
    let mut command = Command::new("unshare");
    let whole = format!(
        "mount -t tmpfs -o mode=755,size=64m none \"$1\"\n{script}\nshift\n\
         exec setpriv --bounding-set=-all --inh-caps=-all \"$0\" \"$@\""
    );
    command.args(["--map-root-user", "--mount", "sh", "-ec", &whole, env!("CARGO_BIN_EXE_globallock")]);
    command.arg(at.path()).args(["doctor", "-o", "json"]);
    command.env("GLOBALLOCK_URL", format!("file://{}/locks", at.path().display()));
    command
}

#[test]
fn a_directory_without_rights_or_room_is_told_with_what_to_change() {
    let at = TempDir::new().unwrap();
    let denied = examined_by(&mut in_a_file_system("mkdir $1/locks; chmod a-w \"$1/locks\"", &at));
    denied.ends_with(77);
    denied.has("denied", "lock", "give this user the right to read and write there");
    let denied = examined_by(&mut in_a_file_system("chmod a-w \"$1\"", &at));
    denied.ends_with(77);
    denied.has("denied", "connection", "it cannot be created: Permission denied");
    let on_tmpfs = examined_by(&mut in_a_file_system("true", &at));
    on_tmpfs.is_well();
    on_tmpfs.has("ok", "file system", "tmpfs: the processes of this host share the locks");
    let full = "mkdir $1/locks; head -c 100000000 /dev/zero >\"$1/full\" 2>/dev/null || true";
    let full = examined_by(&mut in_a_file_system(full, &at));
    full.ends_with(69);
    full.has("bad", "space", "new locks are refused");
}

#[test]
fn the_memory_of_a_process_is_told_to_be_its_own() {
    let found = examined("memory:x", &[]);
    found.is_well();
    found.has("note", "sharing", "no other process sees these locks");
}

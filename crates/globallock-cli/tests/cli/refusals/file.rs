//! A directory.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::{command_is_told, refused};

#[test]
fn a_directory_that_cannot_be_used() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| format!("file://{}", directory.path().join(name).display());
    std::fs::write(directory.path().join("file"), "").unwrap();
    symlink(directory.path(), directory.path().join("link")).unwrap();
    for (name, reason) in [
        ("missing/locks", "its parent does not exist: create that first"),
        (
            "file",
            "it cannot be opened: Not a directory (os error 20); name a directory, and not a link to one",
        ),
        (
            "file/locks",
            "it cannot be created: Not a directory (os error 20); name a directory, and not a link to one",
        ),
        (
            "link",
            "it cannot be opened: Not a directory (os error 20); name a directory, and not a link to one",
        ),
    ] {
        refused(&path(name), &format!("{} cannot do this: {reason}", path(name)));
    }
}

/// The command line, run where a script has made a file system at `$1`, by somebody who may do only what the
/// modes of files say.
fn in_a_file_system(script: &str, at: &Path) -> Command {
    let mut command = Command::new("unshare");
    let whole = format!(
        "mount -t tmpfs none \"$1\"\n{script}\nshift\n\
         exec setpriv --bounding-set=-all --inh-caps=-all \"$0\" \"$@\""
    );
    command.args(["--map-root-user", "--mount", "sh", "-ec", &whole, env!("CARGO_BIN_EXE_globallock")]);
    command.arg(at).env_remove("RUST_LOG");
    command
}

#[test]
fn a_directory_that_cannot_be_written_to() {
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let read_only = "Read-only file system (os error 30); name a directory that can be written to, or have \
                     this file system mounted for writing";
    let no_right = "Permission denied (os error 13); give this user the right to read and write there";
    for (script, tells, reason, status) in [
        ("mkdir $1/made; mount -o remount,ro \"$1\"", "cannot do this", read_only, 69),
        ("mkdir $1/made; chmod a-w \"$1/made\" \"$1\"", "denied access", no_right, 77),
    ] {
        for (name, what) in [("new", "created"), ("made", "written to")] {
            let url = format!("file://{}/{name}", at.display());
            let sentence = format!("{url} {tells}: it cannot be {what}: {reason}");
            command_is_told(|| in_a_file_system(script, at), &url, &sentence, status);
        }
    }
}

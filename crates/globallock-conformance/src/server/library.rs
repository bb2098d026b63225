//! Libraries that are preloaded into a program to change what it sees of its host.

use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds a library from its source in C, in `directory` under `name`, if it is not there. `what` needs it.
///
/// # Errors
/// When there is no C compiler.
pub(super) fn built(directory: &Path, name: &str, source: &str, what: &str) -> Result<PathBuf> {
    let library = directory.join(format!("{name}.so"));
    if library.exists() {
        return Ok(library);
    }
    let file = directory.join(format!("{name}.c"));
    std::fs::write(&file, source)?;
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"]).arg(&library).arg(&file);
    let built = compiler.output().map_err(|error| {
        Error::other(format!("{what} need a C compiler ({error}): run apt-get install gcc"))
    })?;
    if built.status.success() {
        return Ok(library);
    }
    let errors = String::from_utf8_lossy(&built.stderr).into_owned();
    Err(Error::other(format!("{name}.c cannot be compiled: {errors}")))
}

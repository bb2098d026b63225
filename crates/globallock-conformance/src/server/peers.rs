//! Lock clients of other projects, and servers of other versions, for tests of compatibility. They are
//! installed where they are missing.

use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Prevents two tests from installing at once.
static INSTALLING: Mutex<()> = Mutex::new(());

/// The directory that the peers are installed in: in cargo's target directory.
fn home() -> Result<PathBuf> {
    let executable = std::env::current_exe()?;
    let profile = executable.ancestors().find(|path| path.ends_with("debug") || path.ends_with("release"));
    let target = profile.and_then(Path::parent);
    Ok(target.ok_or_else(|| Error::other("the program is not in cargo's target directory"))?.join("peers"))
}

/// A Python interpreter that has redis-py and kazoo.
///
/// # Errors
/// When it cannot be installed; the error has the command that failed.
pub fn python() -> Result<PathBuf> {
    python_with("python", "redis, kazoo", &["redis==8.1.0", "kazoo==2.11.0"])
}

/// A Python interpreter that has python-etcd3, which needs old releases of its dependencies.
///
/// # Errors
/// When it cannot be installed; the error has the command that failed.
pub fn python_etcd3() -> Result<PathBuf> {
    python_with("python-etcd3", "etcd3", &["etcd3==0.12.0", "protobuf==3.20.3", "tenacity==6.3.1"])
}

/// An interpreter with django-pglock and sqlalchemy-dlock, and the driver of PostgreSQL that both use.
///
/// # Errors
/// When they cannot be installed; the error has the command that failed.
pub fn postgres_locks() -> Result<PathBuf> {
    let packages = [
        "django==5.2.19",
        "django-pglock==1.8.0",
        "psycopg[binary]==3.3.9",
        "sqlalchemy==2.1.9",
        "sqlalchemy-dlock==0.9.0",
    ];
    python_with("postgres-locks", "django, pglock, psycopg, sqlalchemy_dlock", &packages)
}

/// The server of this version, one that `scripts/redis-server.sh` lists: of Redis, or of `valkey-` and a
/// version.
///
/// # Errors
/// When it cannot be installed; the error has the command that failed.
pub fn redis(version: &str) -> Result<String> {
    let _one = INSTALLING.lock();
    let home = home()?;
    let target = home.parent().expect("it is in cargo's target directory");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/redis-server.sh");
    let printed = call(Command::new("sh").args([script, version]).env("CARGO_TARGET_DIR", target))?;
    Ok(printed.trim_end().to_owned())
}

fn python_with(directory: &str, modules: &str, packages: &[&str]) -> Result<PathBuf> {
    let _one = INSTALLING.lock();
    let home = home()?.join(directory);
    let python = home.join("bin/python");
    if call(Command::new(&python).args(["-c", &format!("import {modules}")])).is_err() {
        call(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
        call(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages))?;
    }
    Ok(python)
}

/// A directory of node modules that has node-redlock and ioredis.
///
/// # Errors
/// When it cannot be installed; the error has the command that failed.
pub fn node_modules() -> Result<PathBuf> {
    let _one = INSTALLING.lock();
    let home = home()?.join("node");
    let modules = home.join("node_modules");
    if !modules.join("redlock").exists() {
        std::fs::create_dir_all(&home)?;
        let install = ["install", "--silent", "--no-save", "redlock@4.2.0", "ioredis@6.0.0"];
        call(Command::new("npm").arg("--prefix").arg(&home).args(install))?;
    }
    Ok(modules)
}

/// Runs a command, and returns what it printed.
fn call(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(|error| Error::other(format!("{command:?}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::other(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim_end())))
}

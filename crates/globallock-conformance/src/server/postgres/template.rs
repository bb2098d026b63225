//! The data that servers begin with, and the programs by which they run.

use std::ffi::OsStr;
use std::io::{Error, Result, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tempfile::TempDir;

use super::super::Process;
use super::{PASSWORD, SUPERUSER, USER};

/// The users that a server can run as where root starts it, which it refuses to run as.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

/// The path of a program: in the directory that the environment variable `GLOBALLOCK_POSTGRES` names, or of
/// the newest release that Debian's packages have installed, or else in the search path.
pub(super) fn program(name: &str) -> PathBuf {
    if let Some(directory) = std::env::var_os("GLOBALLOCK_POSTGRES") {
        let path = Path::new(&directory).join(name);
        if path.exists() {
            return path;
        }
    }
    let releases = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let with_number = releases.filter_map(|release| {
        let path = release.path();
        Some((path.file_name()?.to_str()?.parse::<u32>().ok()?, path.join("bin").join(name)))
    });
    let newest = with_number.filter(|(_, path)| path.exists()).max();
    newest.map_or_else(|| name.into(), |(_, path)| path)
}

/// A user that servers can run as, if this process is root: its numbers.
fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let numbers = |name: &&str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    UNPRIVILEGED.iter().find_map(numbers)
}

/// The words before a command that make it run as [`unprivileged`].
fn before() -> Vec<String> {
    let Some((user, group)) = unprivileged() else { return Vec::new() };
    // The guardian's wish to end with its owner does not survive the change of the user.
    let words = ["setpriv", &format!("--reuid={user}"), &format!("--regid={group}"), "--clear-groups"];
    let words = words.into_iter().chain(["--pdeathsig", "KILL"]);
    words.map(str::to_owned).collect()
}

/// Makes the user that servers run as the owner of a file.
pub(super) fn give(path: &Path) -> Result<()> {
    match unprivileged() {
        Some((user, group)) => std::os::unix::fs::chown(path, Some(user), Some(group)),
        None => Ok(()),
    }
}

/// Starts a program of PostgreSQL as [`Process::start_in`] does, as a user that it accepts.
pub(super) fn start<'a, A: AsRef<OsStr>>(
    environment: impl IntoIterator<Item = (&'a str, &'a OsStr)>,
    name: &str,
    package: &str,
    arguments: impl IntoIterator<Item = A>,
    log: &Path,
) -> Result<Process> {
    let program = program(name);
    if unprivileged().is_none() {
        return Process::start_in(environment, &program.display().to_string(), package, arguments, log);
    }
    if Command::new(&program).arg("--version").stdout(Stdio::null()).status().is_err() {
        return Err(Error::other(format!("{name} is not installed: run apt-get install {package}")));
    }
    let mut words = before().into_iter();
    let first = words.next().unwrap_or_default();
    let words = words.map(Into::into).chain([program.into_os_string()]);
    let arguments = words.chain(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
    Process::start_in(environment, &first, "util-linux", arguments, log)
}

/// Runs a program of PostgreSQL to its end as a user that it accepts, with this input.
pub(super) fn run<A: AsRef<OsStr>>(
    name: &str,
    arguments: impl IntoIterator<Item = A>,
    input: &str,
) -> Result<()> {
    let mut words: Vec<_> = before().into_iter().map(Into::into).collect();
    words.push(program(name).into_os_string());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let missing =
        |error| Error::other(format!("{name} does not run ({error}): run apt-get install postgresql"));
    let mut child = command.spawn().map_err(missing)?;
    if let Some(mut pipe) = child.stdin.take() {
        // What ends at once tells so below.
        let _ = pipe.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    Err(Error::other(format!("{name} has failed: {text}")))
}

/// Data with [`USER`] and its database, which servers begin with as a copy: to make it takes a while.
#[derive(Clone, Debug)]
pub(super) struct Template(Arc<TempDir>);

impl Template {
    /// The one of this process, which lasts for as long as somebody has it.
    pub(super) fn shared() -> Result<Self> {
        static SHARED: Mutex<Weak<TempDir>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(directory) = shared.upgrade() {
            return Ok(Template(directory));
        }
        let template = Template(Arc::new(make()?));
        *shared = Arc::downgrade(&template.0);
        Ok(template)
    }

    /// Copies it, with the owner and the rights of its files.
    pub(super) fn copy_to(&self, data: &Path) -> Result<()> {
        let copied = Command::new("cp").arg("-a").arg(self.0.path().join("data")).arg(data).status()?;
        if copied.success() { Ok(()) } else { Err(Error::other("the data cannot be copied")) }
    }
}

fn make() -> Result<TempDir> {
    let directory = TempDir::new()?;
    give(directory.path())?;
    let data = directory.path().join("data").display().to_string();
    let options = ["--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C"];
    // Small segments, because each copy has some of them.
    let options = options.into_iter().chain(["--wal-segsize=1", "--no-sync"]);
    run("initdb", ["-D", &data, "-U", SUPERUSER].into_iter().chain(options), "")?;
    // A line is a statement.
    let statements = format!(
        "CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'\nCREATE DATABASE {USER}\n\
         GRANT CREATE ON DATABASE {USER} TO {USER}\n"
    );
    run("postgres", ["--single", "-D", &data, "-c", "fsync=off", "postgres"], &statements)?;
    Ok(directory)
}

//! Whether programs of this user may be traced, which some machines forbid.

use std::io::{Error, ErrorKind, Read, Result};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long strace may take to attach, or to say why it cannot.
const LIMIT: Duration = Duration::from_secs(20);

/// A process that is killed when this is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Attaches strace to a process that it has not started, and lets go of it again.
///
/// # Errors
/// Why that is not possible. The error is of the kind [`ErrorKind::PermissionDenied`] if the system does not
/// permit it.
pub fn may_trace() -> Result<()> {
    let target = Killed(Command::new("sleep").arg("600").stdin(Stdio::null()).spawn()?);
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-o", "/dev/null", "-p", &target.0.id().to_string()]);
    let strace = strace.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut strace = Killed(strace.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::other("strace is not installed: run apt-get install strace"),
        _ => error,
    })?);
    let tracer = format!("TracerPid:\t{}", strace.0.id());
    let until = Instant::now() + LIMIT;
    loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", target.0.id()))?;
        if status.lines().any(|line| line == tracer) {
            return Ok(());
        }
        if strace.0.try_wait()?.is_some() || Instant::now() > until {
            let _ = strace.0.kill();
            let mut why = String::new();
            if let Some(mut errors) = strace.0.stderr.take() {
                errors.read_to_string(&mut why)?;
            }
            // So say the kernel without the right to it, and sandboxes that have no such system call.
            let forbids = ["Operation not permitted", "Permission denied", "Function not implemented"];
            let is_forbidden = forbids.iter().any(|words| why.contains(words));
            let kind = if is_forbidden { ErrorKind::PermissionDenied } else { ErrorKind::Other };
            return Err(Error::new(kind, format!("strace does not attach to a process: {}", why.trim())));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

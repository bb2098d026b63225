//! Numbers about the runs of a lock, in a file that Prometheus' node exporter reads.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, Permissions, TryLockError};
use std::io::{Error, ErrorKind, Read, Result, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::log;

/// How long a run waits for another one that writes the same file, and for the file system.
const LIMIT: Duration = Duration::from_secs(2);
/// How long it waits between two looks.
const AGAIN: Duration = Duration::from_millis(5);

/// The metrics: their names, types and help.
const METRICS: &[(&str, &str, &str)] = &[
    ("last_start_timestamp_seconds", "gauge", "When the command was started last."),
    ("last_end_timestamp_seconds", "gauge", "When the command ended last."),
    ("last_success_timestamp_seconds", "gauge", "When the command ended last with status 0."),
    ("last_exit_status", "gauge", "The exit status of the last run that started the command."),
    ("last_wait_seconds", "gauge", "How long the last run waited for the lock."),
    ("last_held_seconds", "gauge", "How long the last run held the lock."),
    ("starts_total", "counter", "How often the command was started."),
    ("successes_total", "counter", "How often the command ended with status 0."),
    (
        "skipped_total",
        "counter",
        "How often the command was not started, because of the lock or of an earlier success.",
    ),
    ("errors_total", "counter", "How often the command was not started, because of an error."),
    ("lost_total", "counter", "How often the lock was lost while the command ran."),
    ("renewals_failed_total", "counter", "How often a renewal of the lock failed."),
];

/// The longest file that is taken for one of these.
const MAX_BYTES: u64 = 1024 * 1024;

const PREFIX: &str = "globallock_run_";

/// The values by metric and lock, as labels have it.
type Values = BTreeMap<(String, String), f64>;

/// What has changed: a value, or what is added to one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Set(&'static str, f64),
    Add(&'static str, f64),
}

/// The file of `--metrics-file`, if there is one.
#[derive(Debug)]
pub(super) struct Metrics {
    file: Option<PathBuf>,
    label: String,
}

impl Metrics {
    pub(super) fn new(file: Option<&Path>, name: &str) -> Self {
        let label = name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        Metrics { file: file.map(Path::to_owned), label }
    }

    /// Changes the file. A failure is told, and concerns neither the lock nor the command.
    pub(super) async fn change(&self, changes: impl IntoIterator<Item = Change>) {
        let Some(file) = self.file.clone() else { return };
        let (label, changes) = (self.label.clone(), changes.into_iter().collect::<Vec<_>>());
        // The file system may hang, and the lock is renewed by this thread.
        let path = file.clone();
        let done = spawn_blocking(move || update(&path, &label, &changes));
        let done = match timeout(LIMIT * 2, done).await {
            Ok(Ok(done)) => done,
            Ok(Err(panicked)) => Err(Error::other(panicked)),
            Err(_) => Err(ErrorKind::TimedOut.into()),
        };
        if let Err(error) = done {
            log::warning("metrics").say(format_args!("--metrics-file {}: {error}", file.display()));
        }
    }
}

/// Now, as Prometheus has it.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Replaces the file by one with these changes, in one step.
///
/// # Errors
/// Among others, when there is something else than a file of these metrics: it is left as it is.
fn update(file: &Path, label: &str, changes: &[Change]) -> Result<()> {
    // What a link points to is replaced, and not the link.
    let file = &fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let directory = match file.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    let name = file.file_name().ok_or_else(|| Error::other("it is no name of a file"))?;
    let _locked = lock(&File::open(directory)?)?;
    let (mut values, mode) = read(file)?;
    for change in changes {
        let (Change::Set(metric, number) | Change::Add(metric, number)) = *change;
        let value = values.entry((metric.to_owned(), label.to_owned())).or_default();
        *value = if let Change::Add(..) = change { *value + number } else { number };
    }
    // The collector reads only names that end in .prom.
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".new");
    let new = directory.join(hidden);
    let replaced = write(&new, &render(&values), mode).and_then(|()| fs::rename(&new, file));
    if replaced.is_err() {
        let _ = fs::remove_file(&new);
    }
    replaced
}

/// The values in a file and its mode; of one that is not there, none and a mode with which others may read
/// it.
fn read(file: &Path) -> Result<(Values, Permissions)> {
    let metadata = match fs::metadata(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok((Values::new(), Permissions::from_mode(0o644)));
        }
        metadata => metadata?,
    };
    let foreign = || Error::other("something else is there, and is left as it is: choose another name");
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Err(foreign());
    }
    let mut text = String::new();
    File::open(file)?.take(MAX_BYTES).read_to_string(&mut text).map_err(|_| foreign())?;
    let is_ours = |line: &str| {
        line.starts_with(PREFIX) || line.strip_prefix("# ").is_some_and(|rest| rest.contains(PREFIX))
    };
    if !text.lines().all(is_ours) {
        return Err(foreign());
    }
    Ok((parse(&text), metadata.permissions()))
}

/// Writes a file that was not there. What stands in its place, such as a link of somebody else, is removed.
fn write(new: &Path, text: &str, mode: Permissions) -> Result<()> {
    match fs::remove_file(new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::create_new(new)?;
    file.set_permissions(mode)?;
    file.write_all(text.as_bytes())
}

/// Keeps out the other runs that change files of this directory, as long as the result lives.
fn lock(directory: &File) -> Result<File> {
    let until = Instant::now() + LIMIT;
    let directory = directory.try_clone()?;
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(directory),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(AGAIN),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::other("another process keeps its directory locked"));
            }
        }
    }
}

/// The values in a file that `render` has written. What is none of them is left out.
fn parse(text: &str) -> Values {
    let sample = |line: &str| {
        let (metric, rest) = line.strip_prefix(PREFIX)?.split_once("{name=\"")?;
        let (label, value) = rest.rsplit_once("\"} ")?;
        METRICS.iter().find(|(name, ..)| *name == metric)?;
        let value = value.parse::<f64>().ok().filter(|value| value.is_finite())?;
        Some(((metric.to_owned(), label.to_owned()), value))
    };
    text.lines().filter_map(sample).collect()
}

fn render(values: &Values) -> String {
    let mut text = String::new();
    for (metric, kind, help) in METRICS {
        let mut samples = values.iter().filter(|((name, _), _)| name == metric).peekable();
        if samples.peek().is_some() {
            let _ = writeln!(text, "# HELP {PREFIX}{metric} {help}\n# TYPE {PREFIX}{metric} {kind}");
        }
        for ((_, label), value) in samples {
            let _ = writeln!(text, "{PREFIX}{metric}{{name=\"{label}\"}} {value}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn runs_of_several_locks_share_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("runs.prom");
        let counted = [Change::Add("starts_total", 1.0), Change::Set("last_exit_status", 3.0)];
        std::thread::scope(|scope| {
            for label in ["a", "b\\\"", "a", "a"] {
                let file = &file;
                scope.spawn(move || update(file, label, &counted).unwrap());
            }
        });
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(
            text,
            "# HELP globallock_run_last_exit_status The exit status of the last run that started the \
             command.\n\
             # TYPE globallock_run_last_exit_status gauge\n\
             globallock_run_last_exit_status{name=\"a\"} 3\n\
             globallock_run_last_exit_status{name=\"b\\\"\"} 3\n\
             # HELP globallock_run_starts_total How often the command was started.\n\
             # TYPE globallock_run_starts_total counter\n\
             globallock_run_starts_total{name=\"a\"} 3\n\
             globallock_run_starts_total{name=\"b\\\"\"} 1\n"
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            names in prop::collection::vec("[a-z\"\\\\} ]{1,9}", 1..4),
            value: u32,
        ) {
            let labels = names.iter().map(|name| Metrics::new(None, name).label);
            let values: Values = labels
                .zip(METRICS.iter().cycle())
                .map(|(label, (metric, ..))| ((metric.to_string(), label), f64::from(value) / 8.0))
                .collect();
            prop_assert_eq!(parse(&render(&values)), values);
        }

        #[test]
        fn any_file_is_read(text in any::<String>(), line in "globallock_run_starts_total.{0,30}") {
            let _ = parse(&text);
            let _ = parse(&line);
        }
    }
}

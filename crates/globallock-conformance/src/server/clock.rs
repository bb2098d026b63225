//! Clocks that can be set for a single program, and that show it a suspension of the host.

use std::fs::File;
use std::io::{Error, Result};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::library;

/// The library that replaces the clocks in a program.
const SOURCE: &str = include_str!("clock.c");

/// The clocks of one program, or of several programs that stand for one host.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    step: PathBuf,
    file: File,
    /// For how long its host seems to have been suspended, in nanoseconds.
    suspended: AtomicI64,
}

impl Clock {
    /// Makes clocks that show the right time, with its files in `directory` under `name`.
    ///
    /// # Errors
    /// When there is no C compiler.
    pub fn new(directory: &Path, name: &str) -> Result<Self> {
        let library = library::built(directory, "clock", SOURCE, "clocks that can be set")?;
        let step = directory.join(format!("{name}.clock"));
        let file = File::create(&step)?;
        let clock = Clock { library, step, file, suspended: AtomicI64::new(0) };
        clock.set(0)?;
        clock.suspended_for(Duration::ZERO)?;
        Ok(clock)
    }

    /// Sets the wall clock this many seconds ahead of the host's clock, or behind it when negative. It takes
    /// effect at once.
    ///
    /// # Errors
    /// When its file cannot be written.
    pub fn set(&self, seconds: i64) -> Result<()> {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0)
    }

    /// Shows that the host was suspended for this long, in addition to earlier suspensions. The program is
    /// stopped meanwhile, until after this call.
    ///
    /// # Errors
    /// When its file cannot be written.
    pub fn suspended_for(&self, length: Duration) -> Result<()> {
        let length = i64::try_from(length.as_nanos()).map_err(Error::other)?;
        let sum = self.suspended.fetch_add(length, Ordering::Relaxed) + length;
        self.file.write_all_at(&sum.to_ne_bytes(), 8)
    }

    /// The environment variables of the programs that use this clock.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("GLOBALLOCK_CLOCK", &self.step)]
    }
}

//! A wall clock that can be set for a single program.

use std::fs::File;
use std::io::{Error, Result};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The library that replaces the clock in a program.
const SOURCE: &str = include_str!("clock.c");

/// The clock of one program, or of several programs that stand for one host.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    step: PathBuf,
    file: File,
}

impl Clock {
    /// Makes a clock that shows the right time, with its files in `directory` under `name`.
    ///
    /// # Errors
    /// When there is no C compiler.
    pub fn new(directory: &Path, name: &str) -> Result<Self> {
        let library = directory.join("clock.so");
        if !library.exists() {
            let source = directory.join("clock.c");
            std::fs::write(&source, SOURCE)?;
            let mut compiler = Command::new("cc");
            compiler.args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(&source);
            if !compiler.status().is_ok_and(|status| status.success()) {
                return Err(Error::other(
                    "clocks that can be set need a C compiler: run apt-get install gcc",
                ));
            }
        }
        let step = directory.join(format!("{name}.clock"));
        let file = File::create(&step)?;
        let clock = Clock { library, step, file };
        clock.set(0)?;
        Ok(clock)
    }

    /// Sets it this many seconds ahead of the host's clock, or behind it when negative. It takes effect at
    /// once.
    ///
    /// # Errors
    /// When its file cannot be written.
    pub fn set(&self, seconds: i64) -> Result<()> {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0)
    }

    /// The environment variables of the programs that use this clock.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("GLOBALLOCK_CLOCK", &self.step)]
    }
}

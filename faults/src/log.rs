//! A log that survives its writer: each line is written by one call, and needs nobody to be flushed.

use std::fs::{File, OpenOptions};
use std::io::{Result, Write};
use std::path::Path;

use serde::Serialize;

/// The log of one process.
#[derive(Debug)]
pub struct Log {
    file: File,
}

impl Log {
    /// Begins a log.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Log { file: OpenOptions::new().create_new(true).append(true).open(path)? })
    }

    /// Goes on with a log.
    ///
    /// # Errors
    /// When it is not there.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Log { file: OpenOptions::new().append(true).open(path)? })
    }

    /// Appends one event.
    ///
    /// # Panics
    /// When it cannot be written: what follows would prove nothing.
    pub fn write(&self, event: &impl Serialize) {
        let mut line = serde_json::to_vec(event).expect("events can be written as JSON");
        line.push(b'\n');
        // With O_APPEND the lines of several threads do not mix.
        (&self.file).write_all(&line).expect("the log can be written");
    }
}

//! A log that survives its writer: one system call writes each line, and nothing is buffered.

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
    /// Creates a log.
    ///
    /// # Errors
    /// When the file exists or cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Log { file: OpenOptions::new().create_new(true).append(true).open(path)? })
    }

    /// Opens a log to append to it.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Log { file: OpenOptions::new().append(true).open(path)? })
    }

    /// Appends one event.
    ///
    /// # Panics
    /// When it cannot be written, because a history with gaps proves nothing.
    pub fn write(&self, event: &impl Serialize) {
        let mut line = serde_json::to_vec(event).expect("events can be written as JSON");
        line.push(b'\n');
        // The file is open with O_APPEND, so the lines of several threads do not mix.
        (&self.file).write_all(&line).expect("the log can be written");
    }
}

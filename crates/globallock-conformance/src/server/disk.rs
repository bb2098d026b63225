//! Disks that can be full for a single program.

use std::fs::File;
use std::io::Result;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::library;

/// The library that fills the disk of a program.
const SOURCE: &str = include_str!("disk.c");

/// The disk of one program.
#[derive(Debug)]
pub struct Disk {
    library: PathBuf,
    switch: PathBuf,
    file: File,
}

impl Disk {
    /// Makes a disk that has room, with its files in `directory`.
    ///
    /// # Errors
    /// When there is no C compiler.
    pub fn new(directory: &Path) -> Result<Self> {
        let library = library::built(directory, "disk", SOURCE, "disks that can be full")?;
        let switch = directory.join("disk.full");
        let disk = Disk { library, file: File::create(&switch)?, switch };
        disk.be_full(false)?;
        Ok(disk)
    }

    /// Makes it full, so that no file becomes longer, or makes room again. It takes effect at once.
    ///
    /// # Errors
    /// When its file cannot be written.
    pub fn be_full(&self, full: bool) -> Result<()> {
        self.file.write_all_at(&[u8::from(full)], 0)
    }

    /// The environment variables of the program that has this disk.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("GLOBALLOCK_DISK", &self.switch)]
    }
}

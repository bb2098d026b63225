//! A password in a file, which is changed now and then.

use std::io::Result;
use std::path::PathBuf;

use tempfile::TempDir;

/// The user of the owners, where they log in.
pub(super) const USER: &str = "owner";
/// The password at first.
pub(super) const FIRST: &str = "password-0";

/// The file, and what is in it.
#[derive(Debug)]
pub(super) struct PasswordFile {
    directory: TempDir,
    number: u32,
}

impl PasswordFile {
    /// Makes a file with the first password.
    pub(super) fn new() -> Result<Self> {
        let file = PasswordFile { directory: TempDir::new()?, number: 0 };
        file.write()?;
        Ok(file)
    }

    /// An address with the user and the file in it.
    pub(super) fn url(&self, scheme: &str, hosts: &str) -> String {
        self.url_of(USER, scheme, hosts)
    }

    /// An address with another user and the file in it.
    pub(super) fn url_of(&self, user: &str, scheme: &str, hosts: &str) -> String {
        format!("{scheme}://{user}@{hosts}?password_file={}", self.path().display())
    }

    /// The password in the file.
    pub(super) fn password(&self) -> String {
        format!("password-{}", self.number)
    }

    /// Chooses the next password and returns it. It is not in the file yet.
    pub(super) fn choose_next(&mut self) -> String {
        self.number += 1;
        self.password()
    }

    /// Puts the chosen password into the file, at one blow.
    pub(super) fn write(&self) -> Result<()> {
        let draft = self.directory.path().join("draft");
        std::fs::write(&draft, self.password() + "\n")?;
        std::fs::rename(draft, self.path())
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("password")
    }
}

//! The directory that the locks live in: where it is, whether it is fit for locks, and the counter of fencing tokens.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, fchmod, flock, fstat, fstatfs, mkdirat, openat, statat,
};
use rustix::io::{Errno, pread, pwrite};

use crate::error::{Error, Result};
use crate::stores::address::Address;

/// The file that keeps the last number given out.
const COUNTER: &str = ".fence";
/// How every file is opened: programs that are started do not inherit it, since a copy would keep the claim of an
/// owner that died, and a link in its place is not followed.
pub(super) const OPEN: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW);
/// How a file is made.
const NEW: OFlags = OPEN.union(OFlags::RDWR).union(OFlags::CREATE).union(OFlags::EXCL);
/// The rights of a file until they are those that the directory gives.
const PRIVATE: Mode = Mode::from_raw_mode(0o600);
/// The most that a directory gives to a file, and to the directory of a lock.
const FILE: Mode = Mode::from_raw_mode(0o666);
const LOCK: Mode = Mode::from_raw_mode(0o777);
/// How often a lock that somebody has for a few microseconds is tried before the task steps aside.
const TRIES: usize = 40;

/// A directory that has been looked over.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// The rights of a lock's directory: as those of the whole, so that whoever shares the one shares the others.
    mode: Mode,
}

impl Directory {
    /// Finds or makes the directory of an address.
    pub(super) fn open(mut address: Address) -> Result<Self> {
        let network = match address.take("network").as_deref() {
            None => false,
            Some("allow") => true,
            Some(_) => return Err(address.wrong("the option network has one value: allow")),
        };
        address.finish(&["network"])?;
        if !address.hosts.is_empty() {
            return Err(
                address.wrong("a file: address has no host; write file:///directory, with three slashes")
            );
        }
        let given = !address.path.is_empty();
        let path = if given { PathBuf::from(&address.path) } else { default_directory() };
        if !path.is_absolute() {
            return Err(address.wrong("the directory is relative; write it from the root: file:///directory"));
        }
        let directory = Self::prepare(path, given)?;
        let found = fstatfs(directory.open_directory(&directory.path)?)
            .map_err(|error| directory.failure("cannot be read", error))?;
        directory.refuse_network(network_kind(found.f_type), network)?;
        Ok(directory)
    }

    /// Refuses a directory on a network file system of this kind, if any, unless the user allowed it.
    fn refuse_network(&self, kind: Option<&str>, allowed: bool) -> Result<()> {
        match kind {
            Some(kind) if !allowed => Err(Error::failed_precondition(
                self.shown(),
                format!(
                    "it is on {kind}, where the kernel may not tell other hosts who holds a lock; choose a local \
                     directory, or add ?network=allow if this host alone uses it"
                ),
            )),
            _ => Ok(()),
        }
    }

    fn prepare(path: PathBuf, given: bool) -> Result<Self> {
        let mut directory = Directory { path, mode: Mode::RWXU };
        match mkdirat(CWD, &directory.path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(Errno::NOENT) => {
                return Err(Error::failed_precondition(
                    directory.shown(),
                    "its parent does not exist: create that first",
                ));
            }
            Err(error) => return Err(directory.failure("cannot be created", error)),
        }
        let found = fstat(directory.open_directory(&directory.path)?)
            .map_err(|error| directory.failure("cannot be read", error))?;
        let user = rustix::process::geteuid().as_raw();
        let rights = Mode::from_raw_mode(found.st_mode);
        if !given && others_can_write(found.st_uid, user, rights) {
            return Err(Error::permission_denied(
                directory.shown(),
                "others can write to it; remove it, or name another directory: file:///directory",
            ));
        }
        // Whether what is made in it belongs to its group is passed on too, or that group could not queue.
        directory.mode = (rights & Mode::from_raw_mode(0o2777)) | Mode::RWXU;
        Ok(directory)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How the directory is named in errors.
    pub(super) fn shown(&self) -> String {
        format!("file://{}", self.path.display().to_string().escape_debug())
    }

    /// Opens a lock's directory, made if need be; `None` where there is none and none is wanted, and while another
    /// user makes it.
    pub(super) fn open_lock(&self, path: &Path, make: bool) -> Result<Option<OwnedFd>> {
        loop {
            match self.open_shared(path, OFlags::DIRECTORY, LOCK) {
                Err(Errno::NOENT) if !make => return Ok(None),
                Err(Errno::NOENT) => {}
                opened => return opened.map_err(|error| self.failure("cannot be opened", error)),
            }
            match mkdirat(CWD, path, Mode::RWXU) {
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => drop(Self::prepare(self.path.clone(), true)?),
                Err(error) => return Err(self.failure("cannot be written to", error)),
                Ok(()) if self.is_shared() => {
                    // What the umask took away is given back, or those who share the directory could not queue.
                    match open_directory(path).and_then(|opened| fchmod(&opened, self.mode)) {
                        // Whoever looked at it meanwhile has removed it, since it is empty, and another user may
                        // have made it again.
                        Err(Errno::NOENT | Errno::ACCESS | Errno::PERM) => {}
                        shared => shared.map_err(|error| self.failure("cannot be shared", error))?,
                    }
                }
                Ok(()) => {}
            }
        }
    }

    fn open_directory(&self, path: &Path) -> Result<OwnedFd> {
        open_directory(path).map_err(|error| self.failure("cannot be opened", error))
    }

    /// Opens what is given its rights a moment after it was made; `None` while another user is between the two.
    fn open_shared(&self, path: &Path, flags: OFlags, most: Mode) -> Result<Option<OwnedFd>, Errno> {
        // A file that denied us, and has all its rights when we look, got them in between or was made again.
        for _ in 0..TRIES {
            match openat(CWD, path, OPEN | flags, Mode::empty()) {
                Err(Errno::ACCESS) if self.is_shared() => {}
                opened => return opened.map(Some),
            }
            let found = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
            if !Mode::from_raw_mode(found.st_mode).contains(self.rights(most)) {
                return Ok(None);
            }
        }
        Err(Errno::ACCESS)
    }

    /// The rights that are given to what is made here, which are these at most.
    fn rights(&self, most: Mode) -> Mode {
        self.mode & most
    }

    fn is_shared(&self) -> bool {
        self.mode.intersects(Mode::from_raw_mode(0o077))
    }

    /// Makes a file that is there for the first time, with the rights that the directory gives.
    pub(super) fn create(&self, at: &OwnedFd, file: &str) -> Result<OwnedFd> {
        let made = openat(at, file, NEW, PRIVATE)
            .map_err(|error| self.failure_within("cannot be written to", error))?;
        self.permits(&made)?;
        Ok(made)
    }

    /// Says what it means that something below this directory failed. What is not there has been deleted since it was
    /// found, as by a cleaner of temporary files, and the next try makes it again.
    pub(super) fn failure_within(&self, what: &str, error: Errno) -> Error {
        match error {
            Errno::NOENT => Error::unavailable(self.shown(), "its files were deleted while they were in use"),
            error => self.failure(what, error),
        }
    }

    fn permits(&self, file: &OwnedFd) -> Result<()> {
        if self.is_shared() {
            fchmod(file, self.rights(FILE)).map_err(|error| self.failure("cannot be shared", error))?;
        }
        Ok(())
    }

    /// Gives out the next number: above every earlier one, and not below the clock in microseconds, so that a
    /// counter that was lost begins above what it had given out. Where the clock was set back too, it is still above
    /// `used`, the highest that is in use: or whoever joins would be in front of those who hold. `None` while
    /// somebody else is at it.
    pub(super) fn next_number(&self, used: Option<u64>) -> Result<Option<u64>> {
        let fails = |error| self.failure("cannot count fencing tokens", error);
        let Some(counter) = self.open_counter()? else {
            return Ok(None);
        };
        if !try_lock(&counter).map_err(fails)? {
            return Ok(None);
        }
        let mut digits = [0; 20];
        let read = pread(&counter, &mut digits, 0).map_err(fails)?;
        let last =
            std::str::from_utf8(&digits[..read]).ok().and_then(|text| text.trim().parse().ok()).max(used);
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let next = last.map_or(Some(0), |last: u64| last.checked_add(1)).ok_or_else(|| {
            let reason =
                format!("it has no higher number to give out: delete {COUNTER} once nobody has a lock");
            Error::failed_precondition(self.shown(), reason)
        })?;
        let number = next.max(u64::try_from(clock).unwrap_or(0));
        let text = format!("{number:020}");
        let written = pwrite(&counter, text.as_bytes(), 0).map_err(fails)?;
        if written < text.len() {
            return Err(fails(Errno::NOSPC));
        }
        Ok(Some(number))
    }

    /// Opens the counter, made if need be; `None` while somebody else makes it.
    fn open_counter(&self) -> Result<Option<OwnedFd>> {
        let fails = |error| self.failure_within("cannot count fencing tokens", error);
        let path = self.path.join(COUNTER);
        match self.open_shared(&path, OFlags::RDWR, FILE) {
            Err(Errno::NOENT) => {}
            opened => return opened.map_err(fails),
        }
        match openat(CWD, &path, NEW, PRIVATE) {
            Err(Errno::EXIST) => Ok(None),
            made => {
                let made = made.map_err(fails)?;
                self.permits(&made)?;
                Ok(Some(made))
            }
        }
    }

    /// Says what a failed system call means to the user.
    pub(super) fn failure(&self, what: &str, error: Errno) -> Error {
        let remedy = match error {
            Errno::ACCESS | Errno::PERM | Errno::LOOP => {
                let reason = format!("it {what}: {error}; give this user the right to read and write there");
                return Error::permission_denied(self.shown(), reason)
                    .with_source(std::io::Error::from(error));
            }
            Errno::NOSPC | Errno::DQUOT => "; make room there",
            Errno::MFILE | Errno::NFILE => "; raise the limit of open files: every claim needs one",
            Errno::NOTDIR => "; name a directory",
            _ => "",
        };
        Error::failed_precondition(self.shown(), format!("it {what}: {error}{remedy}"))
            .with_source(std::io::Error::from(error))
    }
}

/// Where the locks of an address without a directory live: the same place for all of a user's processes.
///
/// Not `$XDG_RUNTIME_DIR`: cron jobs and services do not have it, so that they and a login would lock apart, and it is
/// deleted when its user logs out.
#[must_use]
fn default_directory() -> PathBuf {
    PathBuf::from(format!("/tmp/globallock-{}", rustix::process::geteuid().as_raw()))
}

/// Locks a file or directory unless somebody keeps it for longer than a moment.
pub(super) fn try_lock(file: &OwnedFd) -> Result<bool, Errno> {
    for _ in 0..TRIES {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::yield_now(),
            Err(Errno::INTR) => {}
            other => return other.map(|()| true),
        }
    }
    Ok(false)
}

/// Whether `opened` is what the path names now.
pub(super) fn is_at(opened: &OwnedFd, path: &Path) -> bool {
    match (fstat(opened), statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)) {
        (Ok(opened), Ok(named)) => (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino),
        _ => false,
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    openat(CWD, path, OPEN | OFlags::DIRECTORY, Mode::empty())
}

/// Whether somebody else could have put what is in a directory there.
fn others_can_write(owner: u32, user: u32, rights: Mode) -> bool {
    owner != user || rights.intersects(Mode::from_raw_mode(0o022))
}

/// The name of a file system that is shared over a network or served by a process, by its number in `statfs`.
fn network_kind(number: impl Into<i128>) -> Option<&'static str> {
    // The kernel gives 32 bits of meaning in a field whose width differs between machines.
    Some(match number.into() & 0xffff_ffff {
        0x6969 => "NFS",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x0102_1997 => "9p",
        0x6573_5546 => "FUSE",
        0x00c3_6400 => "Ceph",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x0bd0_0bd0 => "Lustre",
        0x4750_4653 => "GPFS",
        0x7461_636f => "OCFS2",
        0x0116_1970 => "GFS2",
        0x7375_7245 => "Coda",
        0x1983_0326 => "BeeGFS",
        0x786f_4256 => "a VirtualBox folder",
        _ => return None,
    })
}

#[cfg(test)]
mod tests;

//! Examination: what a person should know of a directory before trusting it with locks.

use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags};
use rustix::fs::{Stat, fstat, fstatfs, fstatvfs, stat};
use rustix::process::{Resource, geteuid, getrlimit};

use super::container::is_own_of_container;
use super::directory::{Directory, network_kind};
use crate::backend::Finding;
use crate::error::Result;

/// From how many inodes, and how many bytes, on a file system has room for locks.
const ROOM: (u64, u64) = (1_000, 16 << 20);
/// The fewest files that a process with many locks should be able to open.
const OPEN_FILES: u64 = 1_024;
/// The fewest inotify instances that should be left to a user.
const INSTANCES: u64 = 8;
/// The permission to write, of the group and of all others, and the bit of a directory in which everybody may
/// only delete what is his own.
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Finds out all that can be found out with the rights of this user.
///
/// # Errors
/// When the directory cannot be opened.
pub(super) fn findings(directory: &Directory) -> Result<Vec<Finding>> {
    let opened = directory.open_directory(directory.path())?;
    let unread = |error| directory.failure("cannot be read", error);
    let (system, found) = (fstatfs(&opened).map_err(unread)?, fstat(&opened).map_err(unread)?);
    let room = fstatvfs(&opened).map_err(unread)?;
    let mut all = vec![
        file_system(system.f_type, is_own_of_container(system.f_type, found.st_dev)),
        access(&found, directory.is_shared()),
    ];
    all.extend(parents(directory.path()));
    all.push(space(room.f_favail, room.f_files, room.f_bavail.saturating_mul(room.f_frsize)));
    all.push(watches());
    all.push(open_files(getrlimit(Resource::Nofile).current));
    all.push(Finding::good("clock", "the store's clock is this host's"));
    Ok(all)
}

/// What the file system means for locks.
fn file_system(kind: impl Into<i128>, is_of_container: bool) -> Finding {
    let kind = kind.into() & 0xffff_ffff;
    if let Some(network) = network_kind(kind) {
        let text = format!("it is on {network}: only processes of this one host exclude each other");
        return Finding::note("file system", text).remedy("between hosts, use Redis, etcd or ZooKeeper");
    }
    if is_of_container {
        let text = "it is among the container's own files, which no other container sees";
        return Finding::note("file system", text)
            .remedy("mount one directory into each that is to share locks");
    }
    let name = match kind {
        0xef53 => "ext4",
        0x5846_5342 => "XFS",
        0x9123_683e => "Btrfs",
        0x2fc1_2fc1 => "ZFS",
        0xf2f5_2010 => "F2FS",
        0x794c_7630 => "overlay",
        0x0102_1994 => {
            let text = "tmpfs: the processes of this host share the locks; a reboot forgets values, and \
                        fencing tokens go on from the clock";
            return Finding::good("file system", text);
        }
        _ => "local",
    };
    Finding::good("file system", format!("{name}: the processes of this host share the locks"))
}

/// Who else may take and break the locks.
fn access(found: &Stat, is_shared: bool) -> Finding {
    let mode = found.st_mode & 0o7777;
    let (who, looks) = match mode {
        mode if mode & OTHERS_WRITE != 0 => ("all users of this host", ""),
        mode if mode & GROUP_WRITES != 0 => ("all users of its group", ""),
        _ if found.st_uid != geteuid().as_raw() => ("its owner and root alone", ""),
        _ if is_shared => ("this user alone", ", and others may look at them"),
        _ => ("this user alone", ""),
    };
    let text =
        format!("{who} may take and break locks in it{looks} (mode {mode:04o}, user {})", found.st_uid);
    if mode & (OTHERS_WRITE | GROUP_WRITES) == 0 {
        return Finding::good("access", text);
    }
    Finding::note("access", text).remedy("take the right to write from those who need no locks (chmod)")
}

/// Who may put another directory in the place of this one.
fn parents(path: &Path) -> Vec<Finding> {
    let user = geteuid().as_raw();
    let mut found = Vec::new();
    for parent in path.ancestors().skip(1) {
        let Ok(of_parent) = stat(parent) else { continue };
        let mode = of_parent.st_mode;
        let shown = parent.display().to_string();
        let shown = shown.escape_debug();
        // In a sticky directory, nobody moves what belongs to another user.
        if mode & STICKY == 0 && mode & (OTHERS_WRITE | GROUP_WRITES) != 0 {
            let who = if mode & OTHERS_WRITE != 0 { "all users" } else { "all users of its group" };
            let text =
                format!("{who} may put another directory in its place, because they may write to {shown}");
            let finding = if mode & OTHERS_WRITE != 0 { Finding::bad } else { Finding::note };
            found.push(
                finding("parents", text).remedy(format!("chmod go-w {shown}, or name another directory")),
            );
        } else if of_parent.st_uid != 0 && of_parent.st_uid != user {
            let text = format!(
                "the user {} may put another directory in its place, as the owner of {shown}",
                of_parent.st_uid
            );
            found.push(
                Finding::note("parents", text).remedy("name a directory below those of root or this user"),
            );
        }
    }
    if found.is_empty() {
        found.push(Finding::good("parents", "nobody else may put another directory in its place"));
    }
    found
}

/// Whether there is room for new claims.
fn space(inodes: u64, all_inodes: u64, bytes: u64) -> Finding {
    // Some file systems have as many as are wanted, and say 0.
    let counted = all_inodes > 0;
    let text = match counted {
        true => format!("{inodes} inodes and {} MiB are free", bytes >> 20),
        false => format!("{} MiB are free", bytes >> 20),
    };
    let remedy = "make room there, or free inodes";
    match (counted && inodes == 0 || bytes == 0, counted && inodes < ROOM.0 || bytes < ROOM.1) {
        (true, _) => Finding::bad("space", format!("{text}: new locks are refused")).remedy(remedy),
        (_, true) => Finding::note("space", text).remedy(remedy),
        _ => Finding::good("space", text),
    }
}

/// Whether waiters can be woken by the kernel.
fn watches() -> Finding {
    let read = |name: &str| -> Option<u64> {
        std::fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok()?.trim().parse().ok()
    };
    let limit = read("max_user_instances");
    let remedy = "raise sysctl fs.inotify.max_user_instances";
    if inotify::init(CreateFlags::CLOEXEC).is_err() {
        let text = "no inotify instance is left: each waiter keeps a thread, and evictions are told late";
        return Finding::note("inotify", text).remedy(remedy);
    }
    match limit.map(|limit| (limit, instances())) {
        Some((limit, used)) if limit.saturating_sub(used) < INSTANCES => {
            let text = format!(
                "{used} of {limit} inotify instances of this user are in use: a process with waiters has one"
            );
            Finding::note("inotify", text).remedy(remedy)
        }
        Some((limit, used)) => {
            Finding::good("inotify", format!("{used} of {limit} instances of this user are in use"))
        }
        None => Finding::good("inotify", "waiters are woken by the kernel"),
    }
}

/// How many inotify instances the processes of this user have open.
fn instances() -> u64 {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    let user = geteuid().as_raw();
    let processes = entries(Path::new("/proc")).filter(|process| {
        process.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok())
            && stat(process.path()).is_ok_and(|found| found.st_uid == user)
    });
    let files = processes.flat_map(|process| entries(&process.path().join("fd")).collect::<Vec<_>>());
    let watching = files.filter(|file| {
        std::fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == "anon_inode:inotify")
    });
    watching.count() as u64
}

/// How many claims one process can have.
fn open_files(limit: Option<u64>) -> Finding {
    match limit {
        Some(limit) if limit < OPEN_FILES => {
            let text = format!("a process may open {limit}, and each claim needs one");
            Finding::note("open files", text).remedy("raise the limit of open files (ulimit -n)")
        }
        Some(limit) => {
            Finding::good("open files", format!("a process may open {limit}, and each claim needs one"))
        }
        None => Finding::good("open files", "as many as are wanted"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Verdict;

    #[test]
    fn file_systems_are_told_by_what_they_mean() {
        assert_eq!(
            file_system(0xef53_i64, false),
            Finding::good("file system", "ext4: the processes of this host share the locks")
        );
        assert!(file_system(0x0102_1994_i64, false).text.starts_with("tmpfs: "));
        assert!(file_system(0x1_i64, false).text.starts_with("local: "));
        assert_eq!(file_system(0x794c_7630_i64, true).verdict, Verdict::Note);
        let network = file_system(0x6969_i64, false);
        assert_eq!(network.verdict, Verdict::Note);
        assert!(network.text.contains("NFS"), "{network}");
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_worth_a_note() {
        let mut found = stat("/").unwrap();
        found.st_uid = geteuid().as_raw();
        let said = |mode: u32, is_shared| {
            let mut found = found;
            found.st_mode = 0o040_000 | mode;
            let said = access(&found, is_shared);
            (said.verdict, said.text)
        };
        let (user, ending) = (found.st_uid, "may take and break locks in it");
        assert_eq!(
            said(0o700, false),
            (Verdict::Good, format!("this user alone {ending} (mode 0700, user {user})"))
        );
        let looked_at =
            format!("this user alone {ending}, and others may look at them (mode 0755, user {user})");
        assert_eq!(said(0o755, true), (Verdict::Good, looked_at));
        assert_eq!(
            said(0o770, true),
            (Verdict::Note, format!("all users of its group {ending} (mode 0770, user {user})"))
        );
        assert_eq!(said(0o1777, true).0, Verdict::Note);
    }

    #[test]
    fn a_parent_that_all_may_write_to_is_bad_unless_it_is_sticky() {
        let directory = tempfile::tempdir().unwrap();
        let parent = directory.path().join("parent");
        std::fs::create_dir(&parent).unwrap();
        let verdict = |mode: u32| {
            let rights = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(&parent, rights).unwrap();
            parents(&parent.join("locks")).iter().map(|found| found.verdict).max()
        };
        assert_eq!(verdict(0o755), Some(Verdict::Good));
        assert_eq!(verdict(0o1777), Some(Verdict::Good));
        assert_eq!(verdict(0o775), Some(Verdict::Note));
        assert_eq!(verdict(0o777), Some(Verdict::Bad));
    }

    #[test]
    fn room_for_locks_is_told_in_inodes_and_bytes() {
        let verdict = |inodes, all, mebibytes: u64| space(inodes, all, mebibytes << 20).verdict;
        assert_eq!(verdict(100_000, 200_000, 1_000), Verdict::Good);
        assert_eq!(verdict(0, 0, 1_000), Verdict::Good, "it counts no inodes");
        assert_eq!(verdict(999, 200_000, 1_000), Verdict::Note);
        assert_eq!(verdict(100_000, 200_000, 15), Verdict::Note);
        assert_eq!(verdict(0, 200_000, 1_000), Verdict::Bad);
        assert_eq!(verdict(100_000, 200_000, 0), Verdict::Bad);
        assert_eq!(open_files(Some(256)).verdict, Verdict::Note);
        assert_eq!(open_files(Some(1_024)).verdict, Verdict::Good);
    }
}

//! What is passed on: an empty directory to the next lock, and what root has made to the directory's owner.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::stores::address::Address;
use crate::stores::file::critical_section::{CriticalSection, Enter, Entered};
use crate::stores::file::open_files::OpenFiles;

/// Another user, as a rule nobody.
const SERVICE: u32 = 65534;

struct Fixture {
    root: TempDir,
    ours: OpenFiles,
}

impl Fixture {
    fn new() -> Self {
        Fixture { root: TempDir::new().unwrap(), ours: OpenFiles::default() }
    }

    fn directory(&self) -> Directory {
        let address = Address::parse(&format!("file://{}", self.root.path().display())).unwrap();
        Directory::open(address).unwrap()
    }

    fn path(&self, file: &str) -> PathBuf {
        self.root.path().join(file)
    }

    /// Enters and leaves the critical section of a lock; returns the number of the lock's directory.
    fn visit(&self, directory: &Directory, lock: &str, inside: impl FnOnce(&CriticalSection<'_>)) -> u64 {
        let path = self.path(lock);
        let entered = CriticalSection::enter(directory, &path, Enter::Make, &self.ours).unwrap();
        let Entered::Inside(section) = entered else { panic!("nobody else is there") };
        let number = fs::metadata(&path).unwrap().ino();
        inside(&section);
        number
    }

    fn names(&self) -> Vec<String> {
        let listed = fs::read_dir(self.root.path()).unwrap();
        let mut names: Vec<_> =
            listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn the_directory_of_a_lock_that_is_free_becomes_that_of_the_next_lock() {
    let fixture = Fixture::new();
    let directory = fixture.directory();
    let spare = directory.spare.path.file_name().unwrap().to_str().unwrap().to_owned();
    let first = fixture.visit(&directory, "a", |_| assert_eq!(fixture.names(), ["a"]));
    assert_eq!(fixture.names(), [spare.as_str()]);
    let second = fixture.visit(&directory, "b", |_| {
        assert_eq!(fixture.names(), ["b"]);
        // One is enough: the directory of the lock that is free last is kept, the other one removed.
        fixture.visit(&directory, "c", |_| assert_eq!(fixture.names(), ["b", "c"]));
        assert_eq!(fixture.names(), [spare.as_str(), "b"]);
    });
    assert_eq!((first, fixture.names()), (second, vec![spare]));
}

#[test]
fn a_directory_that_may_have_files_is_not_passed_on() {
    let fixture = Fixture::new();
    let directory = fixture.directory();
    fixture.visit(&directory, "a", |section| {
        // Whoever enters next may leave files there.
        section.unlock();
        fs::write(fixture.path("a/file"), "").unwrap();
    });
    assert_eq!(fixture.names(), ["a"]);
    fixture.visit(&directory, "a", |_| {});
    assert_eq!(fixture.names(), ["a"], "it still has a file");
    fs::remove_file(fixture.path("a/file")).unwrap();
    fixture.visit(&directory, "a", |_| {});
    assert_ne!(fixture.names(), ["a"]);
}

#[test]
fn a_directory_is_passed_on_only_with_the_rights_that_the_next_one_needs() {
    let fixture = Fixture::new();
    let rights = |path: &str, mode| {
        fs::set_permissions(fixture.path(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    let modes = |path: &str| fs::metadata(fixture.path(path)).unwrap().permissions().mode() & 0o7777;
    rights("", 0o755);
    let directory = fixture.directory();
    let spare = |mode: &str| {
        let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        format!(".spare-{mode}-{user}-{group}")
    };
    fixture.visit(&directory, "a", |_| {});
    assert_eq!(fixture.names(), [spare("755")]);
    // The directory is opened to a group.
    rights("", 0o2775);
    let shared = fixture.directory();
    fixture.visit(&shared, "a", |_| assert_eq!(modes("a"), 0o2775));
    assert_eq!(fixture.names(), [spare("2775"), spare("755")]);
    // Somebody has changed the rights of one lock's directory.
    fs::remove_dir(fixture.path(&spare("2775"))).unwrap();
    fs::create_dir(fixture.path("a")).unwrap();
    rights("a", 0o700);
    fixture.visit(&shared, "a", |_| assert_eq!(modes("a"), 0o700));
    assert_eq!(fixture.names(), [spare("755")]);
    // The directory is given away: what its owner before has left is not used.
    if chown(fixture.root.path(), Some(SERVICE), Some(SERVICE)).is_ok() {
        let given = fixture.directory();
        assert_ne!(given.spare.path, shared.spare.path);
        fixture.visit(&given, "b", |_| {
            assert_eq!(fs::metadata(fixture.path("b")).unwrap().uid(), SERVICE);
        });
    }
}

#[test]
fn a_directory_that_is_passed_on_is_locked_by_nobody() {
    let fixture = Fixture::new();
    let directory = fixture.directory();
    let path = fixture.path("a");
    let entered = CriticalSection::enter(&directory, &path, Enter::Make, &fixture.ours).unwrap();
    let Entered::Inside(section) = entered else { panic!("nobody else is there") };
    // As a child has it that another thread forks meanwhile.
    let of_a_child = section.duplicate();
    drop(section);
    fixture.visit(&directory, "b", |_| assert_eq!(fixture.names(), ["b"]));
    drop(of_a_child);
}

#[test]
fn a_directory_that_took_the_place_of_a_deleted_one_is_not_passed_on() {
    let fixture = Fixture::new();
    let directory = fixture.directory();
    fixture.visit(&directory, "a", |_| {
        // A cleaner of files deletes it, and another process makes it again and joins.
        fs::remove_dir(fixture.path("a")).unwrap();
        fs::create_dir(fixture.path("a")).unwrap();
        fs::write(fixture.path("a/claim"), "").unwrap();
    });
    assert_eq!(fixture.names(), ["a"]);
    assert!(fixture.path("a/claim").exists());
}

#[test]
fn what_root_makes_belongs_to_the_owner_of_the_directory() {
    let fixture = Fixture::new();
    let owner = |path: &str| {
        fs::symlink_metadata(fixture.path(path)).map(|found| (found.uid(), found.gid())).unwrap()
    };
    let user = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    // Only root can give something away: for others, what they make is theirs.
    let expected = match chown(fixture.root.path(), Some(SERVICE), Some(SERVICE)) {
        Ok(()) => (SERVICE, SERVICE),
        Err(_) => user,
    };
    assert_eq!(expected == user, user.0 != 0, "as root, the directory can be given away");
    fs::set_permissions(fixture.root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let directory = fixture.directory();
    assert!(directory.next_number(None).unwrap().is_some());
    fixture.visit(&directory, "a", |section| {
        let opened = open_directory(&fixture.path("a")).unwrap();
        drop(directory.create(&opened, "claim").unwrap());
        section.unlock();
    });
    for path in ["a", "a/claim", COUNTER] {
        assert_eq!(owner(path), expected, "{path}");
    }
}

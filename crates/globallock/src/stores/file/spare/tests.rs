use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use rustix::fs::{FileType, mknodat};
use tempfile::TempDir;

use super::*;
use crate::backend::{Claim, ClaimId};
use crate::name::Name;
use crate::queue::Permits;
use crate::stores::address::Address;
use crate::stores::file::critical_section::{Enter, Entered};
use crate::stores::file::directory::Directory;
use crate::stores::file::open_files::{OpenFile, OpenFiles};

/// The locks of one directory, and the claims of one process.
struct Fixture {
    root: TempDir,
    directory: Directory,
    ours: OpenFiles,
}

impl Fixture {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        let address = Address::parse(&format!("file://{}", root.path().display())).unwrap();
        Fixture { directory: Directory::open(address).unwrap(), root, ours: OpenFiles::default() }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.root.path().join(file)
    }

    fn inside<T>(&self, lock: &str, how: Enter, act: impl FnOnce(&mut CriticalSection<'_>) -> T) -> T {
        let path = self.path(lock);
        let entered = CriticalSection::enter(&self.directory, &path, how, &self.ours).unwrap();
        let Entered::Inside(mut section) = entered else { panic!("nobody else is there") };
        act(&mut section)
    }

    /// Joins a lock, and returns the path of the claim's file.
    fn join(&self, lock: &str, number: u64, text: &str) -> PathBuf {
        let claim = Claim::new(ClaimId::new(7, number), Name::new(lock).unwrap(), Permits::READ);
        self.inside(lock, Enter::Make, |section| {
            let (file, opened) = section.enqueue(&claim, text).unwrap().unwrap().expect("it may wait");
            let path = self.path(lock);
            self.ours.insert(claim.id, OpenFile::new(opened, path.clone(), file, text.len()));
            path.join(file.file_name())
        })
    }

    fn release(&self, lock: &str, number: u64) {
        let id = ClaimId::new(7, number);
        assert!(self.inside(lock, Enter::Release(id), |section| section.release(id).unwrap()));
        self.ours.remove(id);
    }

    fn spare_file(&self) -> PathBuf {
        self.directory.spare.path.join(SPARE_FILE)
    }
}

fn number_of(file: &Path) -> u64 {
    fs::symlink_metadata(file).unwrap().ino()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_file_of_the_last_claim_becomes_that_of_the_next_with_its_own_text() {
    let fixture = Fixture::new();
    let first = number_of(&fixture.join("a", 1, "the first text"));
    fixture.release("a", 1);
    assert_eq!(number_of(&fixture.spare_file()), first);
    for (claim, text) in [(2, "shorter"), (3, "longer than all before it"), (4, "of the same length, here.")]
    {
        let file = fixture.join("b", claim, text);
        assert_eq!((number_of(&file), fs::read_to_string(&file).unwrap()), (first, text.to_owned()));
        assert_eq!(names(&fixture.path("b")), [file.file_name().unwrap().to_str().unwrap()]);
        assert!(fixture.ours.get(ClaimId::new(7, claim)).unwrap().is_untouched());
        fixture.release("b", claim);
    }
    assert_eq!(names(&fixture.directory.spare.path), [SPARE_FILE]);
}

#[test]
fn only_the_last_claim_of_a_lock_leaves_its_file_and_only_if_no_other_lock_has() {
    let fixture = Fixture::new();
    let (first, second) = (fixture.join("a", 1, ""), number_of(&fixture.join("a", 2, "")));
    let third = number_of(&fixture.join("b", 3, ""));
    fixture.release("a", 1);
    assert!(!first.exists());
    assert_eq!(names(&fixture.path("a")).len(), 1, "the second claim");
    fixture.release("a", 2);
    assert_eq!(number_of(&fixture.spare_file()), second);
    fixture.release("b", 3);
    assert_eq!(number_of(&fixture.spare_file()), second);
    assert!(!fixture.path("b").exists(), "there was a spare directory already");
    // The third lock takes it, so that the fourth can leave one.
    let taken = number_of(&fixture.join("c", 4, ""));
    let fourth = number_of(&fixture.join("d", 5, ""));
    assert!(taken == second && fourth != second);
    fixture.release("d", 5);
    fixture.release("c", 4);
    assert!([third, fourth].contains(&number_of(&fixture.spare_file())));
    assert!(!fixture.path("c").exists() && !fixture.path("d").exists());
}

/// As a cleaner, an error or another user leaves it.
#[test]
fn a_file_that_is_not_like_a_new_one_is_deleted_and_another_is_made() {
    type Spoil = fn(&Path);
    let spoil: [(&str, Spoil); 7] = [
        ("open to others", |file| fs::set_permissions(file, fs::Permissions::from_mode(0o666)).unwrap()),
        ("with another name", |file| fs::hard_link(file, file.with_file_name("../other")).unwrap()),
        ("a link", |file| symlink("/etc/hostname", file).unwrap()),
        ("a link to nothing", |file| symlink("/nowhere", file).unwrap()),
        ("a pipe", |file| mknodat(CWD, file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap()),
        ("deleted", |_| {}),
        ("of nobody", |file| {
            fs::write(file, "").unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
            // Others than root cannot give it away: then it has another mode.
            if std::os::unix::fs::chown(file, Some(65534), None).is_err() {
                fs::set_permissions(file, fs::Permissions::from_mode(0o640)).unwrap();
            }
        }),
    ];
    for (case, spoil) in spoil {
        let fixture = Fixture::new();
        let mode = fs::metadata(fixture.join("a", 1, "first")).unwrap().mode();
        fixture.release("a", 1);
        let spare = fixture.spare_file();
        if !matches!(case, "open to others" | "with another name") {
            fs::remove_file(&spare).unwrap();
        }
        let before = fs::read("/etc/hostname").ok();
        spoil(&spare);
        let file = fixture.join("b", 2, "second");
        let found = fs::symlink_metadata(&file).unwrap();
        assert!(found.nlink() == 1 && found.mode() == mode, "{case}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "second", "{case}");
        assert_eq!(names(&fixture.path("b")).len(), 1, "{case}: only the claim is there");
        assert_eq!(fs::read("/etc/hostname").ok(), before, "{case}");
        fixture.release("b", 2);
        assert!(!fixture.path("b").exists(), "{case}");
    }
}

#[test]
fn a_child_that_has_the_file_of_a_released_claim_does_not_keep_the_next_claim_alive() {
    let fixture = Fixture::new();
    let first = number_of(&fixture.join("a", 1, ""));
    // As a child has it that is forked while the claim holds.
    let of_a_child = rustix::io::dup(&fixture.ours.get(ClaimId::new(7, 1)).unwrap().opened).unwrap();
    fixture.release("a", 1);
    assert_eq!(number_of(&fixture.join("b", 2, "")), first);
    // Its owner dies.
    fixture.ours.remove(ClaimId::new(7, 2));
    fixture.inside("b", Enter::Read, |section| assert!(section.queue.is_empty()));
    drop(of_a_child);
}

#[test]
fn a_file_that_somebody_has_locked_is_not_used() {
    let fixture = Fixture::new();
    let first = number_of(&fixture.join("a", 1, ""));
    fixture.release("a", 1);
    let other = fs::File::open(fixture.spare_file()).unwrap();
    flock(&other, FlockOperation::LockShared).unwrap();
    let second = fixture.join("b", 2, "");
    assert_ne!(number_of(&second), first);
    assert_eq!(names(&fixture.path("b")).len(), 1);
}

#[test]
fn a_lock_whose_owner_died_while_it_left_the_file_is_free() {
    let fixture = Fixture::new();
    let file = fixture.join("a", 1, "");
    fs::rename(&file, file.with_file_name(SPARE_FILE)).unwrap();
    fixture.ours.remove(ClaimId::new(7, 1));
    fixture.inside("a", Enter::Read, |section| assert!(section.queue.is_empty()));
    assert!(!fixture.path("a").exists());
    assert_eq!(names(&fixture.directory.spare.path), [SPARE_FILE]);
}

/// While one lock leaves its directory, a second may take it and a third leave its own.
#[test]
fn of_many_locks_that_come_and_go_at_once_no_directory_is_left() {
    const THREADS: usize = 8;
    let fixture = Fixture::new();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let fixture = &fixture;
            scope.spawn(move || {
                for round in 0..4000 {
                    // A name of its own, so that nobody else tidies up there.
                    let path = fixture.path(&format!("lock-{thread}-{round}"));
                    let ours = OpenFiles::default();
                    let enter = || CriticalSection::enter(&fixture.directory, &path, Enter::Make, &ours);
                    // Whoever leaves the directory has it locked for a moment longer.
                    while !matches!(enter().unwrap(), Entered::Inside(_)) {}
                }
            });
        }
    });
    let left = names(fixture.root.path());
    let locks: Vec<&String> = left.iter().filter(|name| name.starts_with("lock")).collect();
    assert!(locks.is_empty(), "{locks:?}");
}

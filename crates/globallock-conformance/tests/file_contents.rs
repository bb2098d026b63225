//! Foreign files, links, pipes and directories in the place of claim files.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{CWD, FileType, FlockOperation, Mode, flock, mknodat};
use tempfile::TempDir;

use globallock_conformance::garbage::panics;
use globallock_conformance::garbage::{Garbage, Pair, close, for_seeds, is_free, listed, pair, used};

/// The name of a claim file, or garbage in place of it.
fn claim(garbage: &mut Garbage) -> String {
    let number = match garbage.random.u32(..4) {
        0 => "18446744073709551615".to_owned(),
        1 => "00000000000000000000".to_owned(),
        2 => garbage.number(),
        _ => format!("{:020}", garbage.random.u64(..)),
    };
    let fields: Vec<String> = (0..4)
        .map(|_| match garbage.random.u32(..10) {
            0 => garbage.number(),
            1 => u32::MAX.to_string(),
            2 => "0".to_owned(),
            3 => u64::MAX.to_string(),
            _ => "1".to_owned(),
        })
        .collect();
    let name = format!("{number}.{}.{}", garbage.digits(32), fields.join("."));
    match garbage.random.u32(..8) {
        0 => name + ".7",
        1 => "\u{1b}[2J\n".to_owned(),
        _ => name,
    }
}

/// Puts garbage at `path`. Returns the file if it must stay open.
fn put(garbage: &mut Garbage, path: &Path) -> Option<File> {
    if fs::symlink_metadata(path).is_ok() {
        return None;
    }
    match garbage.random.u32(..9) {
        0 => fs::create_dir(path).unwrap(),
        1 => symlink("/dev/zero", path).unwrap(),
        2 => symlink("/does/not/exist", path).unwrap(),
        3 | 4 => {
            mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
            if garbage.random.bool() {
                symlink(path, path.with_file_name(claim(garbage))).ok()?;
            }
        }
        kind => {
            fs::write(path, garbage.owner()).unwrap();
            let file = File::options().write(true).open(path).unwrap();
            if kind > 6 {
                // So long that no program could read it into memory.
                file.set_len(1 << 38).unwrap();
            }
            // Locked like the claim file of a living owner.
            flock(&file, FlockOperation::LockExclusive).unwrap();
            return Some(file);
        }
    }
    None
}

async fn fixture(seed: u64, locks: Arc<TempDir>, managers: Pair) {
    let (name, label) = (format!("lock-{seed}"), format!("file, seed {seed}"));
    let mut garbage = Garbage::new(seed);
    let directory = locks.path().join(&name);
    let mut kept = Vec::new();
    match garbage.random.u32(..12) {
        0 => fs::write(&directory, "text").unwrap(),
        1 => symlink("/does/not/exist", &directory).unwrap(),
        2 => symlink("/proc/self/fd", &directory).unwrap(),
        3 => mknodat(CWD, &directory, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap(),
        _ => {
            fs::create_dir(&directory).unwrap();
            for _ in 0..garbage.random.usize(1..5) {
                let path = directory.join(claim(&mut garbage));
                kept.extend(put(&mut garbage, &path));
            }
        }
    }
    used(&label, &name, &managers).await;
    // The locks on the claim files last until here.
    drop(kept);
    match fs::symlink_metadata(&directory) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(&directory).unwrap(),
        Ok(_) => fs::remove_file(&directory).unwrap(),
        Err(_) => {}
    }
    is_free(&label, &name, &managers[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_files_do_no_harm() {
    let panics = panics();
    let locks = Arc::new(TempDir::new().unwrap());
    let managers = Arc::new(pair(&format!("file://{}", locks.path().display())).await);
    for_seeds(0..60, |seed| fixture(seed, Arc::clone(&locks), Arc::clone(&managers))).await;
    assert_eq!(panics.load(Ordering::SeqCst), 0, "nothing panicked, in no task");
    close(Arc::into_inner(managers).expect("all fixtures have ended")).await;
}

#[tokio::test]
async fn foreign_files_are_not_listed_and_hide_nothing() {
    let locks = TempDir::new().unwrap();
    let managers = pair(&format!("file://{}", locks.path().display())).await;
    fs::write(locks.path().join("README"), "text").unwrap();
    symlink("/dev/zero", locks.path().join("link")).unwrap();
    mknodat(CWD, locks.path().join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    fs::create_dir(locks.path().join("%1B%5B2J")).unwrap();
    fs::write(locks.path().join("%1B%5B2J/x"), "text").unwrap();
    let guard = managers[0].mutex("\u{1b}[2J\u{202e}").acquire().await.unwrap();
    assert_eq!(listed("file", &managers[1]).await, ["\u{1b}[2J\u{202e}"]);
    guard.release().await.unwrap();
    close(managers).await;
}

#[tokio::test]
async fn an_exhausted_token_counter_is_an_error() {
    let locks = TempDir::new().unwrap();
    let managers = pair(&format!("file://{}", locks.path().display())).await;
    let counter = locks.path().join(".fence");
    fs::write(&counter, u64::MAX.to_string()).unwrap();
    let refused = managers[0].mutex("a").acquire().await.unwrap_err();
    assert!(matches!(refused, globallock::Error::FailedPrecondition { .. }), "{refused:?}");
    assert!(refused.to_string().contains(".fence"), "{refused}");
    for damage in ["\u{1b}[2J", "99999999999999999999", "-1", ""] {
        fs::write(&counter, damage).unwrap();
        managers[1].mutex("a").acquire().await.unwrap().release().await.unwrap();
    }
    fs::remove_file(&counter).unwrap();
    for foreign in ["link", "pipe", "directory"] {
        match foreign {
            "link" => symlink("/dev/zero", &counter).unwrap(),
            "pipe" => mknodat(CWD, &counter, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap(),
            _ => fs::create_dir(&counter).unwrap(),
        }
        let refused = managers[0].mutex("a").acquire().await.unwrap_err();
        assert!(!refused.is_retryable(), "{foreign}: {refused:?}");
        if foreign == "directory" { fs::remove_dir(&counter) } else { fs::remove_file(&counter) }.unwrap();
    }
    is_free("file", "a", &managers[1]).await;
    close(managers).await;
}

/// The value of the lock "a", as its next holder reads it.
async fn value(manager: &globallock::LockManager) -> Option<Vec<u8>> {
    let guard = manager.mutex("a").with_value().acquire().await.unwrap();
    let value = guard.value().map(|value| value.bytes().to_owned());
    guard.release().await.unwrap();
    value
}

#[tokio::test]
async fn what_stands_in_the_place_of_a_value_breaks_no_grant() {
    const LONG: Duration = Duration::from_secs(600);
    let locks = TempDir::new().unwrap();
    let managers = pair(&format!("file://{}", locks.path().display())).await;
    fs::create_dir(locks.path().join(".values")).unwrap();
    let [at, new] = [".values/a", ".values/a~"].map(|file| locks.path().join(file));
    for place in [&at, &new] {
        for foreign in ["text", "link", "pipe", "huge"] {
            match foreign {
                "text" => fs::write(place, "glk1v:7:8:x:").unwrap(),
                "link" => symlink("/dev/zero", place).unwrap(),
                "pipe" => mknodat(CWD, place, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap(),
                _ => File::create(place).unwrap().set_len(1 << 38).unwrap(),
            }
            assert_eq!(value(&managers[1]).await, None, "{foreign}");
            assert!(listed("file", &managers[0]).await.is_empty(), "{foreign}");
            let guard = managers[0].mutex("a").acquire().await.unwrap();
            guard.set_value(b"new", LONG).await.unwrap();
            guard.release().await.unwrap();
            assert_eq!(value(&managers[1]).await.as_deref(), Some(&b"new"[..]), "{foreign}");
            assert!(!new.exists());
            fs::remove_file(&at).unwrap();
        }
    }
    fs::create_dir(&at).unwrap();
    assert_eq!(value(&managers[1]).await, None);
    let guard = managers[0].mutex("a").acquire().await.unwrap();
    let refused = guard.set_value(b"new", LONG).await.unwrap_err();
    assert!(!refused.is_retryable() && !new.exists(), "{refused}");
    guard.release().await.unwrap();
    close(managers).await;
}

#[tokio::test]
async fn the_value_of_another_user_can_be_replaced_where_only_owners_may_rename() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::process::Command;

    let locks = TempDir::new().unwrap();
    fs::set_permissions(locks.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let managers = pair(&format!("file://{}", locks.path().display())).await;
    let guard = managers[0].mutex("a").acquire().await.unwrap();
    guard.set_value(b"one", Duration::from_secs(600)).await.unwrap();
    guard.release().await.unwrap();
    let (values, at) = (locks.path().join(".values"), locks.path().join(".values/a"));
    assert_eq!(fs::metadata(&values).unwrap().mode() & 0o7777, 0o777, "and not sticky");
    assert_eq!(fs::metadata(&at).unwrap().mode() & 0o7777, 0o666);
    assert_eq!(value(&managers[1]).await.as_deref(), Some(&b"one"[..]));
    // What another user does who writes or deletes one.
    let script = format!("touch '{0}~' && mv -f '{0}~' '{0}' && rm '{0}'", at.display());
    let as_nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c", &script];
    if fs::metadata(locks.path()).unwrap().uid() == 0 {
        assert!(Command::new("setpriv").args(as_nobody).status().unwrap().success());
        assert_eq!(value(&managers[1]).await, None);
    }
    close(managers).await;
}

#[tokio::test]
async fn only_values_of_locks_are_deleted() {
    let locks = TempDir::new().unwrap();
    let managers = pair(&format!("file://{}", locks.path().display())).await;
    let ended = "glk1v:7:1:1:an old value";
    fs::create_dir(locks.path().join(".values")).unwrap();
    let [of_lock, unfinished] = [".values/a%2Fb", ".values/b~"].map(|file| locks.path().join(file));
    let others = [".values/~", ".values/.spare-700-0-0", ".values/a b", ".value-a", "value-a"];
    for file in others {
        fs::write(locks.path().join(file), ended).unwrap();
    }
    fs::write(&of_lock, ended).unwrap();
    fs::write(&unfinished, "").unwrap();
    assert!(listed("file", &managers[0]).await.is_empty());
    assert!(!of_lock.exists() && !unfinished.exists());
    for file in others {
        assert_eq!(fs::read(locks.path().join(file)).unwrap(), ended.as_bytes(), "{file}");
    }
    close(managers).await;
}

//! Foreign files, links, pipes and directories in the place of claim files.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

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

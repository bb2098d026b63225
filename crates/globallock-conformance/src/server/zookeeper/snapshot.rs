//! Changes the child counter of a node in one of ZooKeeper's snapshots, which otherwise takes years of locks.
//!
//! A snapshot is the tree and a seal: the tree's Adler-32 and a slash. Since 3.6, a digest of the tree and a
//! second seal, over everything before it, follow. A wrong digest is harmless: the server only logs it.

use std::io::{Error, Result};
use std::path::Path;

/// The length of a seal: eight bytes of checksum, and a slash as a string.
const SEAL: usize = 13;
/// The length of the digest: zxid, version and digest.
const DIGEST: usize = 20;

/// Sets the number that the next sequential child of `path` gets, in the newest snapshot of a server's
/// directory.
pub(super) fn set_sequence(home: &Path, path: &str, next: i32) -> Result<()> {
    let files = std::fs::read_dir(home.join("version-2"))?.filter_map(|file| Some(file.ok()?.path()));
    let number = |file: &Path| {
        let name = file.file_name()?.to_str()?.strip_prefix("snapshot.")?;
        u64::from_str_radix(name, 16).ok()
    };
    let newest = files.filter(|file| number(file).is_some()).max_by_key(|file| number(file));
    let newest = newest.ok_or_else(|| Error::other("there is no snapshot"))?;
    let mut bytes = std::fs::read(&newest)?;
    let tree = [SEAL + DIGEST + SEAL, SEAL]
        .into_iter()
        .filter_map(|behind| bytes.len().checked_sub(behind))
        .find(|&tree| seal(&bytes, tree).is_ok_and(|seal| bytes[tree..].starts_with(&seal)))
        .ok_or_else(|| Error::other("the snapshot is not sealed as expected"))?;
    let counter =
        counter(&bytes[..tree], path).ok_or_else(|| Error::other("the snapshot has no such node"))?;
    bytes[counter..counter + 4].copy_from_slice(&next.to_be_bytes());
    let mut at = Some(tree);
    while let Some(end) = at {
        let seal = seal(&bytes, end)?;
        bytes[end..end + seal.len()].copy_from_slice(&seal);
        let next = end + SEAL + DIGEST;
        at = (next < bytes.len()).then_some(next);
    }
    std::fs::write(newest, bytes)
}

/// The offset of a node's child counter: behind its path and data, in the middle of its stat.
fn counter(tree: &[u8], path: &str) -> Option<usize> {
    let length = |text: &[u8]| Some(u32::try_from(text.len()).ok()?.to_be_bytes());
    let entry = [&length(path.as_bytes())?, path.as_bytes()].concat();
    let found = tree.windows(entry.len()).position(|window| window == entry)? + entry.len();
    let data = i32::from_be_bytes(tree.get(found..found + 4)?.try_into().ok()?);
    // The ACL's number, czxid, mzxid, ctime, mtime, and the data's version.
    Some(found + 4 + usize::try_from(data).unwrap_or(0) + 8 + 4 * 8 + 4)
}

/// The seal of the bytes before `end`.
fn seal(bytes: &[u8], end: usize) -> Result<[u8; 8]> {
    let (mut low, mut high) = (1_u32, 0_u32);
    for byte in bytes.get(..end).ok_or_else(|| Error::other("the snapshot is too short"))? {
        low = (low + u32::from(*byte)) % 65_521;
        high = (high + low) % 65_521;
    }
    Ok(u64::from(high << 16 | low).to_be_bytes())
}

//! Ports of this host that no other test uses.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// The ports below the range of ephemeral ones, so that the kernel does not give them to a client.
const FIRST: u16 = 20_000;
/// How many blocks there are, and how many ports each has.
const BLOCKS: u16 = 240;
const SIZE: u16 = 50;

/// A port that is free now, that the next calls in this process do not return, and that no other test program
/// gets while this one runs: a server that was killed is often waited for, and another one at its port would
/// be taken for it.
///
/// # Panics
/// When no port is free.
#[must_use]
pub fn free_port() -> u16 {
    static PORTS: Mutex<Ports> = Mutex::new(Ports::new());
    PORTS.lock().unwrap_or_else(PoisonError::into_inner).next().expect("no port is free")
}

/// The ports of one program, block by block. A block is its own while it keeps the block's file locked.
struct Ports {
    left: VecDeque<u16>,
    used: Vec<u16>,
    blocks: Vec<File>,
}

impl Ports {
    const fn new() -> Self {
        Ports { left: VecDeque::new(), used: Vec::new(), blocks: Vec::new() }
    }

    fn next(&mut self) -> Option<u16> {
        let mut tried = 0;
        while tried < BLOCKS * SIZE {
            if self.left.is_empty() && !self.take_block() {
                // All are taken: its own once more.
                self.left.extend(self.used.drain(..));
            }
            let port = self.left.pop_front()?;
            self.used.push(port);
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return Some(port);
            }
            tried += 1;
        }
        None
    }

    /// Takes a block that no other program has.
    fn take_block(&mut self) -> bool {
        let directory = directory();
        // Other users' tests may have made it, or it cannot be made: then nothing is known of others.
        let _ = std::fs::create_dir_all(&directory);
        // Programs that begin at the same time begin at different blocks.
        let first = u16::try_from(std::process::id() % u32::from(BLOCKS)).unwrap_or(0);
        for block in (0..BLOCKS).map(|number| (first + number) % BLOCKS) {
            let file = OpenOptions::new().create(true).append(true).open(directory.join(block.to_string()));
            let Ok(file) = file else { continue };
            if file.try_lock().is_ok() {
                self.blocks.push(file);
                self.left.extend((0..SIZE).map(|number| FIRST + block * SIZE + number));
                return true;
            }
        }
        if self.blocks.is_empty() && self.used.is_empty() {
            self.left.extend((0..SIZE).map(|number| FIRST + first * SIZE + number));
        }
        !self.left.is_empty()
    }
}

/// The directory of the blocks' files, which all test programs of the host share, whatever `TMPDIR` is.
fn directory() -> PathBuf {
    PathBuf::from("/tmp/globallock-test-ports")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_port_is_another_programs() {
        let (mut first, mut second) = (Ports::new(), Ports::new());
        let count = usize::from(SIZE) * 2;
        let ports = |ports: &mut Ports| (0..count).map(|_| ports.next().unwrap()).collect::<BTreeSet<_>>();
        let (first, second) = (ports(&mut first), ports(&mut second));
        assert_eq!((first.len(), second.len()), (count, count));
        assert!(first.is_disjoint(&second));
    }
}

//! The resource that the locks guard: a register that refuses old tokens, and a control that accepts
//! everything.
//!
//! The check is the one of Martin Kleppmann, "How to do distributed locking" (2016), extended to shared
//! locks: a shared holder reads instead of writing, and its read is refused after a write with a newer token.

use std::collections::HashMap;
use std::io::Result;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::history::{ClaimNumber, RegisterEvent, now};
use crate::log::Log;

/// The registers of all names.
#[derive(Debug, Default)]
pub struct Registers {
    names: HashMap<String, Newest>,
}

/// The newest tokens that one register has accepted.
#[derive(Debug, Default)]
struct Newest {
    write: u64,
    write_or_read: u64,
}

impl Registers {
    /// Serves a write or a read, and says whether its token is new enough.
    pub fn serve(&mut self, name: &str, fencing_token: u64, exclusive: bool) -> bool {
        let newest = self.names.entry(name.to_owned()).or_default();
        let accepted = fencing_token >= if exclusive { newest.write_or_read } else { newest.write };
        if accepted {
            newest.write_or_read = newest.write_or_read.max(fencing_token);
            if exclusive {
                newest.write = fencing_token;
            }
        }
        accepted
    }
}

/// Serves owners at an address of this host until this process's standard input ends; prints the bound
/// address.
///
/// # Errors
/// When no port is free, or the log cannot be made.
///
/// # Cancel safety
/// Not meant to be dropped.
pub async fn run(log: &Path, address: IpAddr) -> Result<()> {
    println!("{}", start(log, address).await?);
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}

/// Serves owners in the background, and returns the bound address.
///
/// # Errors
/// When no port is free, or the log cannot be made.
///
/// # Cancel safety
/// A dropped call leaves nothing behind.
pub async fn start(log: &Path, address: IpAddr) -> Result<SocketAddr> {
    let state = Arc::new(Mutex::new((Registers::default(), Log::create(log)?)));
    let listener = TcpListener::bind((address, 0)).await?;
    let bound = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&state)));
        }
    });
    Ok(bound)
}

async fn serve(stream: TcpStream, state: Arc<Mutex<(Registers, Log)>>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let (from, mut to) = stream.into_split();
    let mut lines = BufReader::new(from).lines();
    while let Some(line) = lines.next_line().await.ok()? {
        let [name, owner, claim, fencing_token, verb] =
            line.split(' ').collect::<Vec<_>>().try_into().ok()?;
        let (fencing_token, exclusive) = (fencing_token.parse().ok()?, verb == "write");
        let by = ClaimNumber { owner: owner.parse().ok()?, claim: claim.parse().ok()? };
        let accepted = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let accepted = state.0.serve(name, fencing_token, exclusive);
            let name = name.to_owned();
            state.1.write(&RegisterEvent {
                at: now(),
                name,
                by,
                fencing_token,
                exclusive,
                accepted,
                stale: !accepted,
            });
            accepted
        };
        let answer: &[u8] = if accepted { b"accepted\n" } else { b"refused\n" };
        to.write_all(answer).await.ok()?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::Registers;

    #[test]
    fn a_write_is_refused_after_a_newer_write_or_read_and_a_read_after_a_newer_write() {
        let mut registers = Registers::default();
        assert!(registers.serve("a", 3, true) && registers.serve("a", 3, true));
        assert!(!registers.serve("a", 2, true) && !registers.serve("a", 2, false));
        assert!(registers.serve("a", 5, false) && registers.serve("a", 4, false));
        assert!(!registers.serve("a", 4, true) && registers.serve("a", 5, true));
        assert!(registers.serve("b", 1, true), "each name has a register of its own");
    }
}

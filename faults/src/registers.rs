//! What the locks guard, in small: a register that refuses old tokens, and beside it one that takes everything.
//!
//! The check is that of Martin Kleppmann, "How to do distributed locking" (2016), made fit for locks that are shared: who
//! shares one does not write but look, which nobody may have written past.

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
    names: HashMap<String, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    written: u64,
    /// Written or looked at.
    seen: u64,
}

impl Registers {
    /// Serves a write or a look, and says whether the token is as new as has to be.
    pub fn serve(&mut self, name: &str, fencing_token: u64, exclusive: bool) -> bool {
        let register = self.names.entry(name.to_owned()).or_default();
        let accepted = fencing_token >= if exclusive { register.seen } else { register.written };
        if accepted {
            register.seen = register.seen.max(fencing_token);
            if exclusive {
                register.written = fencing_token;
            }
        }
        accepted
    }
}

/// Serves owners at an address of this host until this process's standard input ends; prints where.
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

/// Serves owners in the background, and says where.
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
    fn a_write_is_refused_after_a_newer_write_or_look_and_a_look_after_a_newer_write() {
        let mut registers = Registers::default();
        assert!(registers.serve("a", 3, true) && registers.serve("a", 3, true));
        assert!(!registers.serve("a", 2, true) && !registers.serve("a", 2, false));
        assert!(registers.serve("a", 5, false) && registers.serve("a", 4, false));
        assert!(!registers.serve("a", 4, true) && registers.serve("a", 5, true));
        assert!(registers.serve("b", 1, true), "names are apart");
    }
}

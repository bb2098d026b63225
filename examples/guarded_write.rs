//! A write that is refused when it comes too late: the resource checks the fencing token.
//!
//! A lock alone cannot stop a write that is already under way when the lock is lost, for example by a process
//! that was suspended. The resource can: it remembers the highest token that it has seen, and refuses lower
//! ones.
//!
//! `cargo run -p globallock-examples --bin guarded_write`

use std::sync::Mutex;

use globallock::LockManager;

/// What the lock guards: a row of a database would have the token in a column of its own, and
/// `UPDATE … SET value = $1, token = $2 WHERE id = $3 AND token <= $2`.
#[derive(Debug, Default)]
struct Account {
    row: Mutex<(u64, i64)>,
}

impl Account {
    /// Sets the balance, unless a write with a higher token has been here before.
    fn set(&self, balance: i64, token: u64) -> Result<(), String> {
        let mut row = self.row.lock().map_err(|error| error.to_string())?;
        if token < row.0 {
            return Err(format!("token {token} is older than {}", row.0));
        }
        *row = (token, balance);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> globallock::Result<()> {
    let account = Account::default();
    let manager = LockManager::connect("memory:example").await?;

    // A writer takes the lock and its token, and is then suspended for too long.
    let suspended = manager.mutex("account-7").acquire().await?;
    let old_token = suspended.fencing_token();
    suspended.release().await?;

    // Meanwhile another one writes.
    let guard = manager.mutex("account-7").acquire().await?;
    println!("the new write: {:?}", account.set(250, guard.fencing_token()));

    // The first one goes on as if nothing had happened, and the account refuses it.
    println!("the late write: {:?}", account.set(100, old_token));
    guard.release().await?;
    Ok(())
}

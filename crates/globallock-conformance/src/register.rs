//! A small example of a resource that a lock guards: a register that checks fencing tokens.

use std::sync::Mutex;

/// A value that accepts writes of the newest owner only.
///
/// This check makes a lock safe against owners that were stopped while they held it. It is described by
/// Martin Kleppmann in "How to do distributed locking" (2016).
#[derive(Debug, Default)]
pub struct Register {
    state: Mutex<(u64, String)>,
}

impl Register {
    /// Writes `value` for the owner with this fencing token, unless a newer owner has written. Returns
    /// whether it did.
    ///
    /// # Panics
    /// When an earlier call panicked.
    pub fn write(&self, token: u64, value: &str) -> bool {
        let mut state = self.state.lock().expect("no write panics");
        let newest = token >= state.0;
        if newest {
            *state = (token, value.to_owned());
        }
        newest
    }

    /// The value that was written last.
    ///
    /// # Panics
    /// When an earlier call panicked.
    #[must_use]
    pub fn read(&self) -> String {
        self.state.lock().expect("no write panics").1.clone()
    }
}

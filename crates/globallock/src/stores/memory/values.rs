//! The values beside the queues.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Value, ValueWrite};
use crate::name::Name;
use crate::sync::Instant;

/// The values of all names, each until it ends.
#[derive(Default)]
pub(super) struct Values {
    by_name: HashMap<Name, Kept>,
    ends: BTreeSet<(Instant, Name)>,
}

struct Kept {
    bytes: Arc<[u8]>,
    fencing_token: u64,
    written: Instant,
    ends: Instant,
}

impl Values {
    /// The value of a name, as it is read now.
    pub(super) fn get(&mut self, name: &Name, now: Instant) -> Option<Value> {
        self.drop_ended(now);
        let kept = self.by_name.get(name)?;
        let age = now.saturating_duration_since(kept.written);
        Some(Value::new(Arc::clone(&kept.bytes), kept.fencing_token, age))
    }

    /// Writes the value of a name for the holder with this token.
    pub(super) fn set(
        &mut self,
        name: &Name,
        fencing_token: u64,
        bytes: &[u8],
        keep: Duration,
        now: Instant,
    ) -> ValueWrite {
        self.drop_ended(now);
        if let Some(before) = self.by_name.get(name) {
            if before.fencing_token > fencing_token {
                return ValueWrite::Outranked;
            }
            self.ends.remove(&(before.ends, name.clone()));
        }
        let ends = now + keep;
        self.ends.insert((ends, name.clone()));
        self.by_name.insert(name.clone(), Kept { bytes: bytes.into(), fencing_token, written: now, ends });
        ValueWrite::Written
    }

    fn drop_ended(&mut self, now: Instant) {
        while self.ends.first().is_some_and(|(ends, _)| *ends <= now) {
            if let Some((_, name)) = self.ends.pop_first() {
                self.by_name.remove(&name);
            }
        }
    }
}

//! Looks at single keys for many waiters at a time, in few transactions.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::Shared;
use super::reading::Seen;
use crate::error::{Error, Result};

/// The looks that have been asked for and are not under way yet.
#[derive(Debug, Default)]
pub(super) struct Looks {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    asked: Vec<Asked>,
    /// Whether a task carries them out.
    is_busy: bool,
}

#[derive(Debug)]
struct Asked {
    keys: Vec<Vec<u8>>,
    answer: oneshot::Sender<Result<Vec<Seen>>>,
}

impl Looks {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all that have been asked for; where there are none, the task is at its end.
    fn take(&self) -> Option<Vec<Asked>> {
        let mut state = self.state();
        state.is_busy = !state.asked.is_empty();
        state.is_busy.then(|| std::mem::take(&mut state.asked))
    }
}

impl Shared {
    /// As `look`, together with all others who look meanwhile.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn look_together(self: &Arc<Self>, keys: Vec<Vec<u8>>) -> Result<Vec<Seen>> {
        let (answer, answered) = oneshot::channel();
        let starts = {
            let mut state = self.looks.state();
            state.asked.push(Asked { keys, answer });
            !std::mem::replace(&mut state.is_busy, true)
        };
        if starts {
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                while let Some(asked) = shared.looks.take() {
                    shared.answer(asked).await;
                }
            });
        }
        answered.await.unwrap_or(Err(Error::Closed))
    }

    async fn answer(&self, asked: Vec<Asked>) {
        let keys: Vec<Vec<u8>> = asked.iter().flat_map(|asked| &asked.keys).cloned().collect();
        let seen = self.look(&keys).await;
        let mut seen = seen.map(Vec::into_iter);
        for Asked { keys, answer } in asked {
            let each = match &mut seen {
                Ok(seen) => Ok(seen.take(keys.len()).collect()),
                Err(error) => Err(Error::unavailable(&self.link.config().shown, error.to_string())),
            };
            // Who does not wait for it any more needs no answer.
            let _ = answer.send(each);
        }
    }
}

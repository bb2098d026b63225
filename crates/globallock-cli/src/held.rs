//! The end of a lock that was held, and of what is known of its store.

use std::time::Duration;

use globallock::{Guard, LockManager, Release};
use tokio::time::timeout;

use crate::log;

/// How long this program waits at its end for releases that the store does not answer.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);

/// Releases the lock. Returns false if the store says that it was not held any more: it was lost before what
/// this names.
pub(crate) async fn release(guard: Guard, before: &str) -> bool {
    let name = guard.name().clone();
    let was_held = guard.is_held();
    match guard.release().await {
        Ok(Release::Released) => log::info("released").say(format_args!("{name} is released")),
        Ok(Release::NotHeld) => {
            if was_held {
                log::error("lost")
                    .say(format_args!("{name} was lost before {before}: the store did not hold it any more"));
            }
            return false;
        }
        Err(error) => {
            log::error("release").say(format_args!("{name} could not be released yet: {error}"));
        }
    }
    true
}

/// Waits for what is still to be released.
pub(crate) async fn close(manager: &LockManager) {
    if timeout(CLOSE_LIMIT, manager.close()).await.is_err() {
        log::error("release_unanswered").say("the store has not released the lock; the lease will");
    }
}

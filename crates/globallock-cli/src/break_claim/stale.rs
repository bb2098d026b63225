//! Whether a claim gives no signs of life, as far as a while of looking can tell.

use std::time::Duration;

use globallock::backend::Instant;
use globallock::internals::duration::Shown;
use globallock::{Entry, LockManager, Name};
use tokio::time::sleep;

use crate::exit::Failure;
use crate::log;
use crate::onlook::board::{Signs, has_signs};

use super::Refused;

/// How often the claim is looked at.
const EVERY: Duration = Duration::from_millis(500);

/// Looks until its lease is more than half gone, and returns the queue at that time; or says why it is not.
pub(super) async fn watch(
    manager: &LockManager,
    name: &Name,
    claim: &Entry,
) -> Result<Refused<Vec<Entry>>, Failure> {
    let Some(left) = claim.expires_in.filter(|_| has_signs(manager)) else {
        return Ok(Err(format!(
            "{} has no lease from which --stale could tell whether the owner is alive",
            manager.backend().address()
        )));
    };
    log::info("watched").more_on_a_terminal().say(format_args!(
        "looking for signs of life for up to {}",
        Shown(left / 2 + Duration::from_secs(2))
    ));
    let mut signs = Signs::next(None, claim, Instant::now());
    loop {
        sleep(EVERY).await;
        let queue = manager.inspect(name).await?;
        let Some(seen) = queue.iter().find(|entry| entry.key == claim.key) else {
            return Ok(Err("the claim has just ended by itself".to_owned()));
        };
        let now = Instant::now();
        signs = Signs::next(signs.as_ref(), seen, now);
        match &signs {
            Some(signs) if signs.are_missing() => return Ok(Ok(queue)),
            Some(signs) if signs.known_in(now).is_some() => {}
            _ => return Ok(Err("its owner is alive: it has just renewed its lease".to_owned())),
        }
    }
}

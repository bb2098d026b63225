//! What all claims of one length share, a lease or a session: one at hand, or else one that is made.

use crate::error::Result;

/// Returns what is at hand, or else makes it.
///
/// One caller makes it, which holds `making`; the others wait and find it at hand.
///
/// # Cancel safety
/// As `make`; the next caller makes it then.
pub(crate) async fn at_hand_or_made<T>(
    making: &tokio::sync::Mutex<()>,
    at_hand: impl Fn() -> Option<T>,
    make: impl Future<Output = Result<T>>,
) -> Result<T> {
    if let Some(found) = at_hand() {
        return Ok(found);
    }
    let _one = making.lock().await;
    match at_hand() {
        Some(found) => Ok(found),
        None => make.await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use futures_util::FutureExt;

    use super::*;
    use crate::error::Error;

    #[tokio::test]
    async fn one_caller_makes_it_and_after_a_failure_the_next_one_does() {
        let making = tokio::sync::Mutex::new(());
        let (made, tries) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let at_hand = || Some(made.load(SeqCst)).filter(|made| *made > 0);
        let get = |is_made: bool| {
            let (made, tries) = (&made, &tries);
            at_hand_or_made(&making, at_hand, async move {
                tries.fetch_add(1, SeqCst);
                tokio::task::yield_now().await;
                if !is_made {
                    return Err(Error::Closed);
                }
                made.store(7, SeqCst);
                Ok(7)
            })
        };
        let (failed, first, second) = tokio::join!(get(false), get(true), get(true));
        assert!(failed.is_err());
        assert_eq!((first.unwrap(), second.unwrap(), tries.load(SeqCst)), (7, 7, 2));
        // What is at hand needs neither a wait nor a request.
        let _busy = making.lock().await;
        assert_eq!(get(true).now_or_never().unwrap().unwrap(), 7);
    }
}

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

//! What becomes of a claim that is to be broken.

use std::pin::pin;
use std::time::Duration;

use globallock::{Error, Release, Result};
use tokio::time::timeout;

use super::{UNANSWERED, done};
use crate::log::{self, Line};

/// How long the store's answer is still waited for when this process is to end.
const LAST: Duration = Duration::from_secs(2);

/// What has become of a claim that was to be broken.
#[derive(Debug)]
pub(crate) enum Outcome<C> {
    Broken,
    /// It was not there any more. Nothing was changed.
    Gone,
    /// It was seen to wait, and holds the lock by now, as this tells. Nothing was changed.
    Granted(C),
    /// Nothing was changed, for this reason.
    Failed(Error),
    /// The store has not answered: it may be broken or not.
    Unknown(Error),
}

impl<C> Outcome<C> {
    /// What the store has answered to an eviction.
    pub(crate) fn of(evicted: Result<Release>) -> Self {
        match evicted {
            Ok(Release::Released) => Outcome::Broken,
            Ok(Release::NotHeld) => Outcome::Gone,
            Err(error) if error.is_unavailable() => Outcome::Unknown(error),
            Err(error) => Outcome::Failed(error),
        }
    }

    /// The line that is due, and what it says was done to a claim that held or not; none where nothing was
    /// done.
    pub(crate) fn deed(&self, held: bool) -> Option<(Line, &'static str)> {
        match self {
            Outcome::Broken => Some((log::warning("broken"), done(held))),
            Outcome::Unknown(_) => Some((log::error("broken_unanswered"), UNANSWERED)),
            Outcome::Gone | Outcome::Granted(_) | Outcome::Failed(_) => None,
        }
    }
}

/// Waits for an answer, and only briefly once this process is to end. Returns the answer, if it has come, and
/// what asked this process to end, if anything has.
///
/// # Cancel safety
/// As that of the work.
pub(crate) async fn answered<T, E>(
    work: impl Future<Output = T>,
    end: impl Future<Output = E>,
) -> (Option<T>, Option<E>) {
    let mut work = pin!(work);
    let end = tokio::select! {
        biased;
        answer = &mut work => return (Some(answer), None),
        end = end => end,
    };
    (timeout(LAST, work).await.ok(), Some(end))
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test]
    async fn an_answer_is_waited_for_and_only_briefly_once_this_is_to_end() {
        let later = || async {
            sleep(LAST / 20).await;
            "answer"
        };
        assert_eq!(answered(later(), pending::<()>()).await, (Some("answer"), None));
        assert_eq!(answered(later(), ready("end")).await, (Some("answer"), Some("end")));
        assert_eq!(answered(ready("answer"), ready("end")).await, (Some("answer"), None));
        let begun = Instant::now();
        assert_eq!(answered(pending::<()>(), ready("end")).await, (None, Some("end")));
        assert!(begun.elapsed() >= LAST);
    }

    #[test]
    fn only_what_was_done_or_may_have_been_is_due_to_be_told() {
        let away = || Error::unavailable("redis://db", "it does not answer");
        let of = |evicted| Outcome::<()>::of(evicted).deed(true).map(|(_, done)| done);
        assert_eq!(of(Ok(Release::Released)), Some("is broken"));
        assert_eq!(of(Ok(Release::NotHeld)), None);
        assert_eq!(of(Err(away())), Some(UNANSWERED));
        assert_eq!(of(Err(Error::Closed)), None);
        assert!(Outcome::Granted(()).deed(true).is_none());
    }
}

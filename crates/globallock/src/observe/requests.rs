//! How long requests to the store take, for those observers that want to know.

use super::{Answer, Event, Observers, Operation};
use crate::error::{Error, Result};
use crate::sync::{Instant, now};

/// A request that is under way. One that is dropped was not waited for to its end.
#[must_use]
pub(crate) struct Request<'a> {
    operation: Operation,
    /// Who hears of it, and when it was sent; `None` if nobody does.
    heard: Option<(&'a Observers, Instant)>,
}

impl Request<'_> {
    /// It is not sent yet, and nobody hears of it.
    pub(crate) fn withdraw(&mut self) {
        self.heard = None;
    }

    /// It was answered without an error, or with this one.
    pub(crate) fn answered(mut self, error: Option<&Error>) {
        if self.heard.is_some() {
            self.tell(answer(error), now());
        }
    }

    /// It was answered at this moment.
    pub(crate) fn answered_at(mut self, error: Option<&Error>, at: Instant) {
        self.tell(answer(error), at);
    }

    fn tell(&mut self, answer: Answer<'_>, at: Instant) {
        if let Some((observers, sent)) = self.heard.take() {
            let took = at.saturating_duration_since(sent);
            observers.tell_request(&Event::Request { operation: self.operation, answer, took });
        }
    }
}

fn answer(error: Option<&Error>) -> Answer<'_> {
    error.map_or(Answer::Given, Answer::Failed)
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        if self.heard.is_some() {
            self.tell(Answer::NotAwaited, now());
        }
    }
}

impl Observers {
    /// Begins a request.
    pub(crate) fn request(&self, operation: Operation) -> Request<'_> {
        let heard = self.hear_requests().then(|| (self, now()));
        Request { operation, heard }
    }

    /// Begins a request at this moment: to read the clock takes a large part of what a request to memory
    /// does.
    pub(crate) fn request_at(&self, operation: Operation, at: Instant) -> Request<'_> {
        let heard = self.hear_requests().then_some((self, at));
        Request { operation, heard }
    }

    /// Makes one request.
    ///
    /// # Cancel safety
    /// As that of the request.
    pub(crate) async fn asking<T>(
        &self,
        operation: Operation,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let under_way = self.request(operation);
        let answer = request.await;
        under_way.answered(answer.as_ref().err());
        answer
    }
}

//! Requests that say what they do, over a session: what each sends, and what its answer means.

use std::sync::Arc;

use super::failure::{Failure, Outcome};
use super::session::{Sent, Session};
use super::wire::{Acl, ErrorCode, Malformed, Mode, OpCode, Reader, Request, Stat};
use crate::stores::watched::inbox::Inbox;

/// How many requests are sent before their answers are waited for.
pub(super) const WINDOW: usize = 500;

/// A request that has been sent, and how its answer is read. What is sent after it is written after it. It is
/// not written any more if this is dropped before.
#[must_use]
#[derive(Debug)]
pub(super) struct Pending<'a, T> {
    session: &'a Session,
    sent: Sent,
    read: fn(Outcome) -> Result<T, Failure>,
}

impl<T> Pending<'_, T> {
    /// Waits for the answer.
    pub(super) async fn answer(self) -> Result<T, Failure> {
        (self.read)(self.session.answer(self.sent).await)
    }
}

impl Pending<'_, ()> {
    /// Waits for the answer, and then for that to a later request.
    pub(super) async fn then<T>(self, later: Pending<'_, T>) -> Result<T, Failure> {
        self.answer().await?;
        later.answer().await
    }
}

/// A node as it was read.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) text: String,
    pub(super) stat: Stat,
}

/// A node that another user may have written.
pub(super) enum Readable {
    Missing,
    /// Its writer does not let this user read it.
    Hidden,
    Text(String),
}

/// What became of several changes at once.
pub(super) enum Replaced {
    All,
    /// Nothing was done, because the node that this creation is for is there.
    Exists(usize),
    /// Nothing was done, because a node is missing.
    Missing,
}

impl Session {
    fn request<T>(&self, request: Request, read: fn(Outcome) -> Result<T, Failure>) -> Pending<'_, T> {
        Pending { session: self, sent: self.send(request), read }
    }

    /// Sends a request for each of these paths, as many at a time as a window has, and waits for all answers.
    pub(super) async fn each<'a, T>(
        &'a self,
        paths: &[String],
        ask: fn(&'a Session, &str) -> Pending<'a, T>,
    ) -> Result<Vec<T>, Failure> {
        let mut answers = Vec::with_capacity(paths.len());
        for window in paths.chunks(WINDOW) {
            let pending: Vec<_> = window.iter().map(|path| ask(self, path)).collect();
            for pending in pending {
                answers.push(pending.answer().await?);
            }
        }
        Ok(answers)
    }

    /// Makes the member that answers catch up with the leader.
    pub(super) fn sync(&self, path: &str) -> Pending<'_, ()> {
        self.request(Request::sync(path), |outcome| outcome.map(drop))
    }

    /// Asks whether a node is there.
    pub(super) fn exists(&self, path: &str) -> Pending<'_, bool> {
        self.request(Request::read(OpCode::Exists, path, false), is_there)
    }

    /// Reads a node, if there is one.
    pub(super) fn data(&self, path: &str) -> Pending<'_, Option<Found>> {
        self.request(Request::read(OpCode::GetData, path, false), data)
    }

    /// The bytes of a node and its metadata, if there is one.
    pub(super) fn bytes(&self, path: &str) -> Pending<'_, Option<(Vec<u8>, Stat)>> {
        let read = |outcome| found(outcome, |mut reader| Ok((reader.buffer()?.to_vec(), reader.stat()?)));
        self.request(Request::read(OpCode::GetData, path, false), read)
    }

    /// Reads a node that another user may have written.
    pub(super) fn data_if_allowed(&self, path: &str) -> Pending<'_, Readable> {
        self.request(Request::read(OpCode::GetData, path, false), |outcome| match outcome {
            Err(Failure::Refused(ErrorCode::NO_AUTH)) => Ok(Readable::Hidden),
            outcome => Ok(data(outcome)?.map_or(Readable::Missing, |found| Readable::Text(found.text))),
        })
    }

    /// A transaction that changes nothing: it is answered when a majority has written it down, and then what
    /// is read after it is no older.
    pub(super) fn confirm(&self) -> Pending<'_, ()> {
        self.request(Request::multi(&[Request::check("/")]), |outcome| outcome.map(drop))
    }

    /// The names of a node's children: none if there is no such node.
    pub(super) fn children(&self, path: &str) -> Pending<'_, Vec<String>> {
        self.request(Request::read(OpCode::GetChildren, path, false), children)
    }

    /// The names of a node's children, as the leader knows them.
    pub(super) async fn children_synced(&self, path: &str) -> Result<Vec<String>, Failure> {
        self.sync(path).then(self.children(path)).await
    }

    /// Asks whether a node is there, and has its deletion notified to an inbox.
    pub(super) fn watch(&self, path: &str, inbox: &Arc<Inbox>) -> Pending<'_, bool> {
        self.put_into(inbox, path);
        self.request(Request::read(OpCode::GetData, path, true), is_there)
    }

    /// Asks whether a node is there, and has its creation or deletion notified to an inbox.
    pub(super) fn watch_existence(&self, path: &str, inbox: &Arc<Inbox>) -> Pending<'_, bool> {
        self.put_into(inbox, path);
        self.request(Request::read(OpCode::Exists, path, true), is_there)
    }

    /// The names of a node's children; has it notified to an inbox when there are others.
    pub(super) fn watch_children(&self, path: &str, inbox: &Arc<Inbox>) -> Pending<'_, Vec<String>> {
        self.put_into(inbox, path);
        self.request(Request::read(OpCode::GetChildren, path, true), children)
    }

    /// Creates a claim's node, and returns its path, to which the server appends a sequence number, and its
    /// metadata; `None` if the lock's node is not there.
    pub(super) fn create_claim(
        &self,
        path: &str,
        text: &str,
        acl: &[Acl],
    ) -> Pending<'_, Option<(String, Stat)>> {
        let request = Request::create(Mode::EphemeralSequential, path, text.as_bytes(), acl);
        self.request(request, |outcome| found(outcome, |mut reader| reader.created()))
    }

    /// Creates a node that the servers delete some time after its last child, if it is not there.
    pub(super) fn create_container(&self, path: &str, acl: &[Acl]) -> Pending<'_, ()> {
        self.request(Request::create(Mode::Container, path, &[], acl), |outcome| match outcome {
            Err(Failure::Refused(ErrorCode::NODE_EXISTS)) => Ok(()),
            outcome => outcome.map(drop),
        })
    }

    /// Deletes a node, and returns whether it was there.
    pub(super) async fn delete(&self, path: &str) -> Result<bool, Failure> {
        is_there(self.ask(Request::delete(path)).await)
    }

    /// Deletes a node, and returns whether it is gone: it stays if it has children.
    pub(super) async fn delete_if_empty(&self, path: &str) -> Result<bool, Failure> {
        match self.delete(path).await {
            Err(Failure::Refused(ErrorCode::NOT_EMPTY)) => Ok(false),
            deleted => deleted.map(|_| true),
        }
    }

    /// Creates these containers and a node with a text that is deleted with its session, and deletes other
    /// nodes: all of it in this order, or nothing.
    pub(super) async fn replace(
        &self,
        deleted: &[String],
        created: Option<(&str, &str)>,
        containers: &[String],
        acl: &[Acl],
    ) -> Result<Replaced, Failure> {
        let containers = containers.iter().map(|path| Request::create(Mode::Container, path, &[], acl));
        let created =
            created.map(|(path, text)| Request::create(Mode::Ephemeral, path, text.as_bytes(), acl));
        let deleted = deleted.iter().map(|path| Request::delete(path));
        let changes: Vec<_> = containers.chain(created).chain(deleted).collect();
        let answer = self.ask(Request::multi(&changes)).await?;
        match Reader(&answer).refused()? {
            None => Ok(Replaced::All),
            Some((nth, ErrorCode::NODE_EXISTS)) => Ok(Replaced::Exists(nth)),
            Some((_, ErrorCode::NO_NODE)) => Ok(Replaced::Missing),
            Some((_, code)) => Err(Failure::Refused(code)),
        }
    }
}

/// Reads what an answer says of a node, if that is there.
fn found<T>(
    outcome: Outcome,
    read: impl FnOnce(Reader<'_>) -> Result<T, Malformed>,
) -> Result<Option<T>, Failure> {
    match outcome {
        Ok(answer) => Ok(Some(read(Reader(&answer))?)),
        Err(Failure::Refused(ErrorCode::NO_NODE)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn is_there(outcome: Outcome) -> Result<bool, Failure> {
    Ok(found(outcome, |_| Ok(()))?.is_some())
}

fn data(outcome: Outcome) -> Result<Option<Found>, Failure> {
    found(outcome, |mut reader| reader.data().map(|(text, stat)| Found { text, stat }))
}

fn children(outcome: Outcome) -> Result<Vec<String>, Failure> {
    Ok(found(outcome, |mut reader| reader.children())?.unwrap_or_default())
}

//! How claims are made, also those whose making got no answer.

use std::sync::Arc;

use super::connection::Failure;
use super::naming::Listed;
use super::places::{Company, Node, Place};
use super::reading::Snapshot;
use super::session::Session;
use super::wire::{Reader, Refusal, Request, Stat};
use super::{Shared, delete};
use crate::backend::{Claim, ClaimStatus, WaitMode};
use crate::error::Result;

/// How often a joining is begun again when what it stands on vanishes: the lock's node, or the session.
const TRIES: usize = 5;

impl Shared {
    pub(super) async fn enqueue(self: &Arc<Self>, claim: &Claim) -> Result<ClaimStatus> {
        let mut lost = false;
        for _ in 0..TRIES {
            let place = self.place(claim.id);
            if let Some(Place { session, node, .. }) = place.as_ref().filter(|place| place.session.is_over())
            {
                self.places().found_gone(claim.id, session, node.as_ref());
            }
            let joined = match place.filter(|place| !place.session.is_over()) {
                Some(Place { session, node: Some(node), .. }) => {
                    session.sign_of_life(claim.lease);
                    self.read_again(claim, &node, &session).await.map(Some)
                }
                Some(Place { session, node: None, .. }) => match self.find_mine(claim, &session).await {
                    Ok(Some(node)) => {
                        self.places().made(claim.id, &session, node.clone());
                        self.read_again(claim, &node, &session).await.map(Some)
                    }
                    Ok(None) => self.create(claim, &session).await,
                    Err(failure) => Err(failure),
                },
                None => {
                    let session = self.sessions.get(claim.lease).await?;
                    self.create(claim, &session).await
                }
            };
            match joined {
                Ok(Some(status)) => return Ok(status),
                // The lock's node has vanished meanwhile, or the session has.
                Ok(None) | Err(Failure::Expired) => {}
                // A connection that ends is often the first sign of a session that has.
                Err(Failure::Lost(_)) if !lost => lost = true,
                Err(failure) => return Err(self.error(failure)),
            }
        }
        Err(self.error(Failure::Lost("the session or the lock's node vanished again and again".to_owned())))
    }

    /// Puts the claim at the end of the queue and learns where it stands, in one round trip where no other claim of ours
    /// is there; `None` if the lock's node had to be made first.
    ///
    /// What the queue holds is asked for along with the making unless a claim of ours is in front: an exclusive claim can
    /// wait for that one, and those that share read the queue together.
    async fn create(
        self: &Arc<Self>,
        claim: &Claim,
        session: &Arc<Session>,
    ) -> Result<Option<ClaimStatus>, Failure> {
        let lock = self.config.layout.lock(&claim.name);
        let path = format!("{lock}/{}", self.config.layout.claim(claim));
        let company = self.places().begin(claim, session);
        session.sign_of_life(claim.lease);
        let data = format!("{} {}", session.timeout().as_millis(), claim.owner);
        let created = session.send(Request::create_claim(&path, data.as_bytes(), &self.config.acl));
        let excludes = claim.permits.count == claim.permits.capacity;
        let (listed, looked) = match company {
            Company::UnderWay | Company::Known(_) if claim.wait_mode == WaitMode::Wait => (None, None),
            // One that does not wait must know that somebody is in front of it now.
            Company::Known(last) if excludes => (None, Some(session.send(Request::exists(&last)))),
            _ => (Some(session.send(Request::children(&lock))), None),
        };
        let asked_at = created.asked_at;
        let node = match session.answer(created).await {
            Ok(answer) => {
                let (path, stat) = Reader(&answer).created()?;
                if self.config.layout.has_last_number(&path) {
                    return self.begin_anew(session, &lock, &path).await.map(|()| None);
                }
                self.node(path, stat)?
            }
            Err(Failure::Refused(Refusal::NO_NODE)) => {
                self.places().never_made(claim.id, session);
                return self.make_parents(session, &lock).await.map(|()| None);
            }
            Err(failure) => return Err(failure),
        };
        self.places().made(claim.id, session, node.clone());
        if let Some(listed) = listed {
            let children = session.answer(listed).await?;
            let snapshot = Snapshot::new(&self.config.layout, &Reader(&children).children()?, asked_at);
            return Ok(Some(self.places().note(claim, &node, &snapshot)));
        }
        let is_there = match looked {
            None => true,
            Some(looked) => match session.answer(looked).await {
                Ok(_) => true,
                Err(Failure::Refused(Refusal::NO_NODE)) => false,
                Err(failure) => return Err(failure),
            },
        };
        let known = if is_there { self.places().settle(claim, asked_at) } else { None };
        match known {
            Some(status) => Ok(Some(status)),
            None => self.read_again(claim, &node, session).await.map(Some),
        }
    }

    /// The node of a claim of ours.
    fn node(&self, path: String, stat: Stat) -> Result<Node, Failure> {
        let listed = path.rsplit('/').next().and_then(|name| self.config.layout.parse(name));
        let listed =
            listed.ok_or_else(|| Failure::Lost(format!("it made {path}, which was not asked for")))?;
        Ok(Node { path, created: stat.created, listed })
    }

    /// Takes out a claim with the last number there is, and the lock's node, whose next one counts from 0.
    ///
    /// Servers stay at that number (3.8 was seen to), so that a second claim with it would be as old as the first.
    async fn begin_anew(&self, session: &Session, lock: &str, claim: &str) -> Result<(), Failure> {
        delete(session, claim).await?;
        match delete(session, lock).await {
            Err(Failure::Refused(Refusal::NOT_EMPTY)) => Err(Failure::Lost(format!(
                "the numbers of claims below {lock} are used up: they begin anew once nothing is below it"
            ))),
            other => other.map(drop),
        }
    }

    /// Makes the lock's node, and those above it, to vanish when they are empty.
    async fn make_parents(&self, session: &Session, lock: &str) -> Result<(), Failure> {
        let ends = lock.match_indices('/').map(|(at, _)| at).skip(1).chain([lock.len()]);
        let pending: Vec<_> =
            ends.map(|end| session.send(Request::create_container(&lock[..end], &self.config.acl))).collect();
        let mut made = Ok(());
        for pending in pending {
            made = match session.answer(pending).await {
                Ok(_) | Err(Failure::Refused(Refusal::NODE_EXISTS)) => Ok(()),
                // A parent that cannot be seen or made may be there all the same: only the last one's answer counts.
                Err(failure @ Failure::Refused(_)) => Err(failure),
                Err(failure) => return Err(failure),
            };
        }
        made
    }

    /// Looks for the node of a claim that was asked for without an answer.
    ///
    /// One of an earlier session is taken out: it would end with that.
    async fn find_mine(
        self: &Arc<Self>,
        claim: &Claim,
        session: &Arc<Session>,
    ) -> Result<Option<Node>, Failure> {
        let mut mine = None;
        for path in self.nodes_of(claim, session).await? {
            let stat = match session.ask(Request::data(&path, false)).await {
                Ok(answer) => Reader(&answer).data()?.1,
                Err(Failure::Refused(Refusal::NO_NODE)) => continue,
                Err(failure) => return Err(failure),
            };
            if stat.session == session.id() && mine.is_none() && !self.config.layout.has_last_number(&path) {
                mine = Some(self.node(path, stat)?);
            } else {
                delete(session, &path).await?;
            }
        }
        Ok(mine)
    }

    /// The nodes that carry the claim's id; as the leader knows them.
    pub(super) async fn nodes_of(
        self: &Arc<Self>,
        claim: &Claim,
        session: &Arc<Session>,
    ) -> Result<Vec<String>, Failure> {
        let lock = self.config.layout.lock(&claim.name);
        let snapshot = self.read(session, &lock).await?;
        let path = |listed: &Listed| format!("{lock}/{}", listed.node);
        Ok(snapshot.of(claim.id).map(path).collect())
    }

    /// Reads the queue of a claim whose node is known.
    pub(super) async fn read_again(
        self: &Arc<Self>,
        claim: &Claim,
        node: &Node,
        session: &Arc<Session>,
    ) -> Result<ClaimStatus, Failure> {
        let snapshot = self.read(session, &self.config.layout.lock(&claim.name)).await?;
        Ok(self.places().note(claim, node, &snapshot))
    }
}

//! The store in ZooKeeper: ephemeral sequential nodes below a node for each lock, as in the recipes of kazoo and Curator.
//!
//! `docs/zookeeper.md` says what it promises, what it costs and how it fails.

mod config;
mod connection;
mod departure;
mod driver;
mod failure;
mod login;
mod looking;
mod naming;
mod session;
mod sessions;
mod tls;
mod watch;
mod wire;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};

use self::config::Config;
use self::connection::Failure;
use self::naming::Listed;
use self::session::Session;
use self::sessions::Sessions;
use self::watch::Watched;
use self::wire::{Reader, Refusal, Request};
use crate::address::Address;
use crate::backend::{
    Backend, Claim, ClaimId, CrashRelease, Departure, Entry, Grant, Patience, Profile, Standing,
};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::queue::admit;

/// How often a joining is begun anew when what it stands on vanishes: the lock's node, or the session.
const TRIES: usize = 5;

/// A store in one ZooKeeper ensemble.
pub struct ZooKeeper {
    shared: Arc<Shared>,
}

/// What requests that outlive their callers need.
struct Shared {
    config: Arc<Config>,
    sessions: Sessions,
    places: Mutex<HashMap<ClaimId, Place>>,
}

/// A claim of this store: asked for, or in its queue as last read.
#[derive(Clone, Debug)]
struct Place {
    session: Arc<Session>,
    /// How many connections the session had lost when the claim was asked for.
    losses: u64,
    /// Its node; `None` as long as no answer has told it.
    node: Option<Node>,
    /// No later than the grant; `None` while the claim waits.
    granted: Option<Instant>,
    /// Those in front of it, or more: who was in front only ever leaves.
    ahead: Vec<Listed>,
    /// Whether its owner is taking it out.
    leaves: bool,
    /// Whether a task of its own goes on with that.
    leaves_later: bool,
}

/// The node of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    path: String,
    /// The transaction that made it, which is the fencing token.
    created: i64,
}

impl ZooKeeper {
    /// Connects to the ensemble that `address` names.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`]; as the ensemble answers otherwise.
    ///
    /// # Cancel safety
    /// A dropped call leaves no session behind.
    pub async fn connect(address: Address) -> Result<Arc<Self>> {
        let config = Arc::new(Config::new(address)?);
        let sessions = Sessions::open(Arc::clone(&config)).await?;
        Ok(Arc::new(ZooKeeper { shared: Arc::new(Shared { config, sessions, places: Mutex::default() }) }))
    }
}

impl Shared {
    fn places(&self) -> MutexGuard<'_, HashMap<ClaimId, Place>> {
        // No code panics while it holds the lock, so a poisoned map is still whole.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, id: ClaimId) -> Option<Place> {
        self.places().get(&id).cloned()
    }

    /// Forgets a claim that is gone.
    fn forget(&self, id: ClaimId) {
        if let Some(place) = self.places().remove(&id) {
            place.session.remove_claim();
        }
    }

    fn error(&self, failure: Failure) -> Error {
        self.config.error(failure)
    }

    async fn join(&self, claim: &Claim) -> Result<Standing> {
        let mut lost = false;
        for _ in 0..TRIES {
            let place = self.place(claim.id).filter(|place| !place.session.is_over());
            let joined = match place {
                Some(Place { session, node: Some(_), .. }) => {
                    session.sign_of_life(claim.lease);
                    self.read_again(claim, &session).await
                }
                Some(Place { session, node: None, .. }) => match self.find_mine(claim, &session).await {
                    Ok(true) => self.read_again(claim, &session).await,
                    Ok(false) => self.create(claim, &session).await,
                    Err(failure) => Err(failure),
                },
                None => {
                    self.forget(claim.id);
                    let session = self.sessions.get(claim.lease).await?;
                    self.create(claim, &session).await
                }
            };
            match joined {
                Ok(Some(standing)) => return Ok(standing),
                // The lock's node has vanished meanwhile, or the session has.
                Ok(None) | Err(Failure::Expired) => {}
                // A connection that ends is often the first sign of a session that has.
                Err(Failure::Lost(_)) if !lost => lost = true,
                Err(failure) => return Err(self.error(failure)),
            }
        }
        Err(self.error(Failure::Lost("the session or the lock's node vanished again and again".to_owned())))
    }

    /// Puts the claim at the end of the queue and reads that, in one round trip; `None` if the lock's node had to be
    /// made first.
    async fn create(&self, claim: &Claim, session: &Arc<Session>) -> Result<Option<Standing>, Failure> {
        let lock = self.config.layout.lock(&claim.name);
        let path = format!("{lock}/{}", self.config.layout.claim(claim));
        let place = Place {
            session: Arc::clone(session),
            losses: session.losses(),
            node: None,
            granted: None,
            ahead: Vec::new(),
            leaves: false,
            leaves_later: false,
        };
        if self.places().insert(claim.id, place).is_none() {
            session.add_claim();
        }
        session.sign_of_life(claim.lease);
        let data = format!("{} {}", session.timeout().as_millis(), claim.owner);
        let created = session.send(Request::create_claim(&path, data.as_bytes(), &self.config.acl));
        let listed = session.send(Request::children(&lock));
        let asked_at = created.asked_at;
        match session.answer(created).await {
            Ok(answer) => {
                let (path, stat) = Reader(&answer).created()?;
                if self.config.layout.has_last_number(&path) {
                    return self.begin_anew(session, &lock, &path).await.map(|()| None);
                }
                self.set_node(claim.id, Node { path, created: stat.created });
            }
            Err(Failure::Refused(Refusal::NO_NODE)) => {
                return self.make_parents(session, &lock).await.map(|()| None);
            }
            Err(failure) => return Err(failure),
        }
        let children = session.answer(listed).await?;
        Ok(Some(self.note(claim, &Reader(&children).children()?, asked_at)))
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

    fn set_node(&self, id: ClaimId, node: Node) {
        if let Some(place) = self.places().get_mut(&id) {
            place.node = Some(node);
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
    async fn find_mine(&self, claim: &Claim, session: &Arc<Session>) -> Result<bool, Failure> {
        let mut mine = None;
        for path in self.nodes_of(claim, session).await? {
            let stat = match session.ask(Request::data(&path, false)).await {
                Ok(answer) => Reader(&answer).data()?.1,
                Err(Failure::Refused(Refusal::NO_NODE)) => continue,
                Err(failure) => return Err(failure),
            };
            if stat.session == session.id() && mine.is_none() && !self.config.layout.has_last_number(&path) {
                mine = Some(Node { path, created: stat.created });
            } else {
                delete(session, &path).await?;
            }
        }
        let found = mine.is_some();
        if let Some(node) = mine {
            self.set_node(claim.id, node);
        }
        Ok(found)
    }

    /// The nodes that carry the claim's id, in their order; as the leader knows them.
    async fn nodes_of(&self, claim: &Claim, session: &Session) -> Result<Vec<String>, Failure> {
        let lock = self.config.layout.lock(&claim.name);
        let synced = session.send(Request::sync(&lock));
        let listed = session.send(Request::children(&lock));
        session.answer(synced).await?;
        let children = match session.answer(listed).await {
            Ok(children) => Reader(&children).children()?,
            Err(Failure::Refused(Refusal::NO_NODE)) => Vec::new(),
            Err(failure) => return Err(failure),
        };
        let queue = self.config.layout.queue(&children, None).into_iter();
        let mine = queue.filter(|listed| listed.id == Some(claim.id));
        Ok(mine.map(|listed| format!("{lock}/{}", listed.node)).collect())
    }

    /// Takes note of the queue as it was read, and says where the claim stands in it.
    fn note(&self, claim: &Claim, children: &[String], asked_at: Instant) -> Standing {
        let mut places = self.places();
        let Some(place) = places.get_mut(&claim.id) else {
            return Standing::Gone;
        };
        let name = place.node.as_ref().and_then(|node| node.path.rsplit('/').next());
        let mut queue = self.config.layout.queue(children, name);
        let Some(position) = queue.iter().position(|listed| Some(listed.node.as_str()) == name) else {
            place.session.remove_claim();
            places.remove(&claim.id);
            return Standing::Gone;
        };
        queue.truncate(position);
        if place.granted.is_none() && holds(&queue, claim) {
            place.granted = Some(asked_at);
        }
        place.ahead = queue;
        standing(claim, place)
    }

    /// Reads the queue of a claim whose node is known, after the leader has told that the session lives.
    async fn read_again(&self, claim: &Claim, session: &Session) -> Result<Option<Standing>, Failure> {
        let lock = self.config.layout.lock(&claim.name);
        let synced = session.send(Request::sync(&lock));
        let listed = session.send(Request::children(&lock));
        let asked_at = synced.asked_at;
        session.answer(synced).await?;
        let children = match session.answer(listed).await {
            Ok(children) => Reader(&children).children()?,
            Err(Failure::Refused(Refusal::NO_NODE)) => Vec::new(),
            Err(failure) => return Err(failure),
        };
        Ok(Some(self.note(claim, &children, asked_at)))
    }

    /// Takes note that nodes in front of a waiting claim are gone, and says whether it surely holds by that.
    ///
    /// The end of another claim of this store that nobody took out may be the end of the session of both: that has to
    /// be asked.
    fn advance(&self, claim: &Claim, gone: &[Vec<u8>]) -> Option<Standing> {
        let mut places = self.places();
        let node = |path: &Vec<u8>| path.rsplit(|byte| *byte == b'/').next().map(<[u8]>::to_vec);
        let gone: Vec<Vec<u8>> = gone.iter().filter_map(node).collect();
        let taken = |id: ClaimId| places.get(&id).is_none_or(|place| place.leaves);
        let gone_ids =
            gone.iter().filter_map(|node| self.config.layout.parse(str::from_utf8(node).ok()?)?.id);
        if !gone_ids.into_iter().all(taken) {
            return None;
        }
        let place = places.get_mut(&claim.id)?;
        place.ahead.retain(|listed| !gone.iter().any(|node| node == listed.node.as_bytes()));
        if !holds(&place.ahead, claim) {
            return None;
        }
        place.granted.get_or_insert_with(Instant::now);
        Some(standing(claim, place))
    }

    async fn changed(&self, claim: &Claim) -> Result<Option<Standing>> {
        loop {
            let Some(place) = self.place(claim.id).filter(|place| !place.session.is_over()) else {
                return Ok(Some(Standing::Gone));
            };
            if place.granted.is_some() {
                return Ok(Some(standing(claim, &place)));
            }
            let watched = Watched::new(&self.config.layout.lock(&claim.name), &place, claim);
            let gone = watched.gone().await.map_err(|failure| self.error(failure))?;
            if let Some(gone) = gone
                && !watched.is_mine_in(&gone)
                && let Some(standing) = self.advance(claim, &gone)
            {
                return Ok(Some(standing));
            }
            match self.read_again(claim, &place.session).await {
                Ok(None | Some(Standing::Waiting)) => {}
                Ok(standing) => return Ok(standing),
                Err(Failure::Expired) => return Ok(Some(Standing::Gone)),
                Err(failure) => return Err(self.error(failure)),
            }
        }
    }

    /// Keeps a session alive, and looks whether the nodes of its claims are there.
    async fn renew(&self, session: &Session, claims: &[&Claim]) -> Result<Vec<Standing>, Failure> {
        for claim in claims {
            session.sign_of_life(claim.lease);
        }
        let synced = session.send(Request::sync("/"));
        let places: Vec<Option<Place>> = claims.iter().map(|claim| self.place(claim.id)).collect();
        let mut pending = Vec::with_capacity(claims.len());
        for place in &places {
            let node = place.as_ref().and_then(|place| place.node.as_ref());
            pending.push(node.map(|node| session.send(Request::exists(&node.path))));
        }
        session.answer(synced).await?;
        let mut standings = Vec::with_capacity(claims.len());
        for (claim, pending) in claims.iter().zip(pending) {
            let found = match pending {
                None => false,
                Some(pending) => match session.answer(pending).await {
                    Ok(_) => true,
                    Err(Failure::Refused(Refusal::NO_NODE)) => false,
                    Err(failure) => return Err(failure),
                },
            };
            // The grant may have come while the server was asked.
            standings.push(match self.place(claim.id) {
                Some(place) if found => standing(claim, &place),
                _ => {
                    self.forget(claim.id);
                    Standing::Gone
                }
            });
        }
        Ok(standings)
    }
}

/// Whether a claim holds behind these.
fn holds(ahead: &[Listed], claim: &Claim) -> bool {
    admit(ahead.iter().map(|listed| listed.share).chain([claim.share])) > ahead.len()
}

fn standing(claim: &Claim, place: &Place) -> Standing {
    match (place.granted, &place.node) {
        (Some(granted), Some(node)) => Standing::Held(Grant {
            fence: node.created.unsigned_abs(),
            expires: Some(place.session.expires()),
            hold_ends: claim.max_hold.map(|hold| granted + hold),
        }),
        _ => Standing::Waiting,
    }
}

/// Takes out a node, and says whether it was there.
async fn delete(session: &Session, path: &str) -> Result<bool, Failure> {
    match session.ask(Request::delete(path)).await {
        Ok(_) => Ok(true),
        Err(Failure::Refused(Refusal::NO_NODE)) => Ok(false),
        Err(failure) => Err(failure),
    }
}

#[async_trait]
impl Backend for ZooKeeper {
    fn profile(&self) -> Profile {
        Profile::new("zookeeper", CrashRelease::Lease)
    }

    async fn join(&self, claim: &Claim) -> Result<Standing> {
        if self.shared.place(claim.id).is_some_and(|place| place.leaves) {
            // A try that had to leave again, and was not answered: a request that takes it out is on its way, so that
            // what holds by now would not hold for long.
            self.shared.leave(claim).await?;
            return Ok(Standing::Gone);
        }
        let standing = self.shared.join(claim).await?;
        if standing == Standing::Waiting && claim.patience == Patience::Once {
            self.shared.leave(claim).await?;
            return Ok(Standing::Gone);
        }
        Ok(standing)
    }

    async fn changed(&self, claim: &Claim) -> Result<Option<Standing>> {
        self.shared.changed(claim).await
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<Standing>> {
        let mut by_session: HashMap<i64, (Arc<Session>, Vec<usize>)> = HashMap::new();
        for (index, claim) in claims.iter().enumerate() {
            if let Some(place) = self.shared.place(claim.id) {
                let group =
                    by_session.entry(place.session.id()).or_insert_with(|| (place.session, Vec::new()));
                group.1.push(index);
            }
        }
        let mut answers: Vec<Result<Standing>> = claims.iter().map(|_| Ok(Standing::Gone)).collect();
        for (session, indices) in by_session.into_values() {
            let group: Vec<&Claim> = indices.iter().map(|index| &*claims[*index]).collect();
            let renewed = self.shared.renew(&session, &group).await;
            for (position, index) in indices.into_iter().enumerate() {
                answers[index] = match &renewed {
                    Ok(standings) => Ok(standings[position]),
                    Err(Failure::Expired) => {
                        self.shared.forget(claims[index].id);
                        Ok(Standing::Gone)
                    }
                    Err(failure) => Err(self.shared.error(failure.clone())),
                };
            }
        }
        answers
    }

    async fn disturbed(&self) {
        self.shared.sessions.ended().await;
    }

    async fn leave(&self, claim: &Claim) -> Result<Departure> {
        self.shared.leave(claim).await
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        let session = self.shared.sessions.any().await?;
        self.shared.inspect(&session, name).await.map_err(|failure| self.shared.error(failure))
    }

    fn names<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Name>> {
        let listed = async move {
            let session = self.shared.sessions.any().await?;
            self.shared.names(&session, prefix).await.map_err(|failure| self.shared.error(failure))
        };
        let each = |listed: Result<Vec<Name>>| match listed {
            Ok(names) => names.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        };
        stream::once(listed).flat_map(move |listed| stream::iter(each(listed))).boxed()
    }
}

impl fmt::Debug for ZooKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeper").field("address", &self.shared.config.shown).finish_non_exhaustive()
    }
}

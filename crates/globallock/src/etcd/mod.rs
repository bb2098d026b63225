//! The store in etcd: the queue of etcd's own mutex, by the order in which its keys were created.
//!
//! `docs/etcd.md` says what it promises, what it costs and how it fails.

mod config;
mod departure;
mod keys;
mod lease;
mod link;
mod looking;
mod marker;
mod messages;
mod places;
mod single;
mod slots;
mod value;
mod watch;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};

use self::config::Config;
use self::lease::Leases;
use self::link::{Link, is_lease_over};
use self::messages::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, Empty, KeyValue, LeaseRequest, PutRequest,
    RangeRequest, RangeResponse, Request, RequestOp, Response, TxnRequest, TxnResponse,
};
use self::places::{Place, holds};
use self::slots::Slots;
use self::watch::Watches;
use tokio::sync::Notify;

use crate::address::Address;
use crate::backend::{Backend, Claim, ClaimId, CrashRelease, Departure, Entry, Patience, Profile, Standing};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::news::News;
use crate::queue::blockers;

/// How many keys one transaction asks for: etcd allows 128 operations unless it is told otherwise.
const TOGETHER: usize = 100;
const TRANSACTION: &str = "/etcdserverpb.KV/Txn";

/// A store in one etcd cluster.
pub struct Etcd {
    shared: Arc<Shared>,
}

/// What requests that outlive their callers need.
struct Shared {
    link: Arc<Link>,
    leases: Leases,
    watches: Arc<Watches>,
    slots: Slots,
    places: Mutex<HashMap<ClaimId, Place>>,
    /// The claims that are being joined: a departure must not overtake.
    joining: Mutex<HashMap<ClaimId, Arc<tokio::sync::Mutex<()>>>>,
    /// The claims that a request without an answer may yet put, and under which leases.
    unanswered: Mutex<HashMap<ClaimId, BTreeSet<i64>>>,
    /// The claims that a task of their own takes out.
    leaving_later: Mutex<HashSet<ClaimId>>,
    /// Told when a lease has ended unasked.
    disturbed: Notify,
}

impl Etcd {
    /// Connects to the cluster that `address` names.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`]; as the cluster answers otherwise.
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    pub async fn connect(address: Address) -> Result<Arc<Self>> {
        let link = Link::connect(Config::new(address)?).await?;
        Ok(Arc::new(Etcd { shared: Arc::new(Shared::new(link)) }))
    }
}

impl Shared {
    fn new(link: Link) -> Self {
        Shared {
            link: Arc::new(link),
            leases: Leases::default(),
            watches: Arc::default(),
            slots: Slots::default(),
            places: Mutex::default(),
            joining: Mutex::default(),
            unanswered: Mutex::default(),
            leaving_later: Mutex::default(),
            disturbed: Notify::new(),
        }
    }

    fn places(&self) -> MutexGuard<'_, HashMap<ClaimId, Place>> {
        // No code panics while it holds the lock, so a poisoned map is still whole.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One after the other for each claim: a departure waits until the joining has been answered.
    fn turn(&self, id: ClaimId) -> Arc<tokio::sync::Mutex<()>> {
        let mut joining = self.joining.lock().unwrap_or_else(PoisonError::into_inner);
        joining.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(joining.entry(id).or_default())
    }

    fn unanswered(&self) -> MutexGuard<'_, HashMap<ClaimId, BTreeSet<i64>>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prefix(&self) -> &str {
        &self.link.config().prefix
    }

    async fn transaction(&self, request: TxnRequest) -> Result<TxnResponse> {
        self.link.unary(TRANSACTION, request).await
    }

    async fn delete(&self, key: Vec<u8>) -> Result<bool> {
        let request = DeleteRangeRequest { key };
        let answer: DeleteRangeResponse = self.link.unary("/etcdserverpb.KV/DeleteRange", request).await?;
        Ok(answer.deleted > 0)
    }

    async fn range(&self, key: Vec<u8>, range_end: Vec<u8>, keys_only: bool) -> Result<RangeResponse> {
        self.link.unary("/etcdserverpb.KV/Range", RangeRequest { key, range_end, keys_only }).await
    }

    async fn join(self: &Arc<Self>, claim: &Claim) -> Result<Standing> {
        let key = self.slots.take(self.prefix(), claim);
        loop {
            let (lease, is_new) = self.leases.get(&self.link, claim.lease).await?;
            if is_new {
                self.watch_over(lease);
            }
            match self.join_under(claim, &key, lease.id).await {
                // It ended, and nobody has been told yet.
                Err(error) if is_lease_over(&error) => {
                    self.lease_is_over(lease.id);
                    if is_new {
                        return Err(error);
                    }
                }
                joined => return joined,
            }
        }
    }

    async fn join_under(&self, claim: &Claim, key: &[u8], lease: i64) -> Result<Standing> {
        let sent = Instant::now();
        let (answer, unanswered) =
            self.link.ask::<_, TxnResponse>(TRANSACTION, self.put_or_find(claim, key, lease)).await;
        if unanswered {
            self.leases.retire(lease);
            self.unanswered().entry(claim.id).or_default().insert(lease);
        }
        let answer = answer?;
        let read_at = answer.header.map_or(0, |header| header.revision);
        let found: Vec<KeyValue> = ranges(answer.responses).flatten().collect();
        let standing = self.note(claim, key, &found, read_at, sent);
        if standing == Standing::Gone {
            let was_there = self.delete(key.to_vec()).await?;
            self.places().remove(&claim.id);
            if was_there {
                // It hung on a lease of before that is dead: it begins anew, at the end.
                return Err(self.link.error(tonic::Status::unavailable("the claim's lease had ended")));
            }
        }
        if standing == Standing::Waiting && self.single_key(claim).is_some() {
            return self.take_single_now(claim, &found).await;
        }
        Ok(standing)
    }

    /// One transaction that puts the claim into the queue, unless it is there, and reads the queue.
    fn put_or_find(&self, claim: &Claim, key: &[u8], lease: i64) -> TxnRequest {
        let start = keys::queue(self.prefix(), &claim.name);
        let value = value::write(claim);
        let put = operation(Request::Put(PutRequest { key: key.to_vec(), value, lease }));
        let range_end = keys::end(&start);
        let read =
            operation(Request::Range(RangeRequest { key: start.into_bytes(), range_end, keys_only: true }));
        let absent = |key: Vec<u8>| Compare::created(key, 0);
        let compare = vec![absent(key.to_vec()), absent(keys::bar(self.prefix(), claim.id, lease))];
        let mut request = TxnRequest { compare, success: vec![put, read.clone()], failure: vec![read] };
        self.also_take_single(claim, lease, &mut request);
        request
    }

    /// Reads the queue of a claim that waits.
    async fn read_again(&self, claim: &Claim) -> Result<Standing> {
        let start = keys::queue(self.prefix(), &claim.name);
        let end = keys::end(&start);
        let sent = Instant::now();
        let answer = self.range(start.into_bytes(), end, true).await?;
        let read_at = answer.header.map_or(0, |header| header.revision);
        Ok(match self.slots.key(claim.id) {
            Some(key) => self.note(claim, &key, &answer.kvs, read_at, sent),
            None => Standing::Gone,
        })
    }

    async fn changed(&self, claim: &Claim) -> Result<Option<Standing>> {
        loop {
            let Some(place) = self.places().get(&claim.id).cloned() else {
                return Ok(Some(Standing::Gone));
            };
            if place.granted.is_some() {
                return Ok(Some(self.standing(claim, &place)));
            }
            if holds(&place.ahead, claim) {
                match self.take_single(claim, &place).await? {
                    Some(standing) => return Ok(Some(standing)),
                    None => continue,
                }
            }
            let shares: Vec<_> = place.ahead.iter().map(|listed| listed.share).collect();
            let blockers = blockers(&shares, claim.share).into_iter().map(|blocker| {
                let listed = &place.ahead[blocker];
                (listed.key.clone(), listed.revision)
            });
            // Its own key too: changes are told in their order, so that a claim which was taken out first is not granted
            // by what leaves next.
            let Some(mine) = self.slots.key(claim.id) else {
                return Ok(Some(Standing::Gone));
            };
            // Its own is read last: it was there when those before it were found gone.
            let watched: Vec<(Vec<u8>, i64)> = blockers.chain([(mine.clone(), place.revision)]).collect();
            let keys = watched.iter().map(|(key, _)| key.clone());
            let subscription = self.watches.subscribe(&self.link, keys, place.read_at);
            let news = loop {
                let news = match subscription.news(claim.lease).await {
                    Some(news) => news,
                    None => self.looked(&watched).await?,
                };
                if !news.is_none() {
                    break news;
                }
            };
            if !news.read_again
                && !news.deleted.contains(&mine)
                && let Some(standing) = self.advance(claim, &news.deleted)
            {
                return Ok(Some(standing));
            }
            match self.read_again(claim).await? {
                Standing::Waiting => {}
                standing => return Ok(Some(standing)),
            }
        }
    }

    /// What there is to tell of these keys and their revisions, in case nobody was told.
    async fn looked(&self, watched: &[(Vec<u8>, i64)]) -> Result<News> {
        let created = self.created(watched.iter().map(|(key, _)| key.clone()).collect()).await?;
        // A key may be there again for another claim.
        let gone = watched.iter().zip(created).filter(|((_, revision), created)| created != revision);
        Ok(News { deleted: gone.map(|((key, _), _)| key.clone()).collect(), read_again: false })
    }

    /// Says for each key at which revision it was created; 0 where it is not there.
    async fn created(&self, keys: Vec<Vec<u8>>) -> Result<Vec<i64>> {
        let mut created = Vec::with_capacity(keys.len());
        for keys in keys.chunks(TOGETHER) {
            let read = |key: &Vec<u8>| {
                operation(Request::Range(RangeRequest {
                    key: key.clone(),
                    range_end: Vec::new(),
                    keys_only: true,
                }))
            };
            let request = TxnRequest { success: keys.iter().map(read).collect(), ..TxnRequest::default() };
            let answer = self.transaction(request).await?;
            created
                .extend(ranges(answer.responses).map(|kvs| kvs.first().map_or(0, |kv| kv.create_revision)));
        }
        Ok(created)
    }

    /// Keeps the leases of these claims alive, and looks whether the claims are there.
    async fn renew(&self, claims: &[Arc<Claim>]) -> Result<Vec<Standing>> {
        let held: Vec<Option<Place>> =
            { claims.iter().map(|claim| self.places().get(&claim.id).cloned()).collect() };
        let leases: BTreeSet<i64> = held.iter().flatten().map(|place| place.lease).collect();
        for lease in leases {
            self.leases.keep_alive(&self.link, lease).await?;
        }
        // A claim that has no key has no place either: any key will do for it.
        let key = |claim: &Arc<Claim>| self.slots.key(claim.id).unwrap_or_else(|| self.prefix().into());
        let created = self.created(claims.iter().map(key).collect()).await?;
        let standing = |((claim, place), created): ((&Arc<Claim>, Option<Place>), i64)| {
            // The grant may have come while the cluster was asked.
            let place = self.places().get(&claim.id).cloned().or(place);
            match place {
                Some(place) if place.revision == created => self.standing(claim, &place),
                _ => {
                    self.places().remove(&claim.id);
                    Standing::Gone
                }
            }
        };
        Ok(claims.iter().zip(held).zip(created).map(standing).collect())
    }
}

fn operation(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// The key-values of each answered range.
fn ranges(responses: Vec<messages::ResponseOp>) -> impl Iterator<Item = Vec<KeyValue>> {
    responses.into_iter().filter_map(|response| match response.response {
        Some(Response::Range(range)) => Some(range.kvs),
        _ => None,
    })
}

#[async_trait]
impl Backend for Etcd {
    fn profile(&self) -> Profile {
        Profile::new("etcd", CrashRelease::Lease)
    }

    async fn join(&self, claim: &Claim) -> Result<Standing> {
        // On a task of its own: a request that was given up could arrive after the departure that follows it.
        let (shared, claim) = (Arc::clone(&self.shared), claim.clone());
        let turn = shared.turn(claim.id).lock_owned().await;
        let joined = tokio::spawn(async move {
            let _turn = turn;
            if shared.is_leaving(claim.id) {
                // A try that had to leave again, and was not answered: a request that takes it out is on its way, so
                // that what holds by now would not hold for long.
                shared.leave(&claim).await?;
                return Ok(Standing::Gone);
            }
            let standing = shared.join(&claim).await?;
            if standing == Standing::Waiting && claim.patience == Patience::Once {
                shared.leave(&claim).await?;
                return Ok(Standing::Gone);
            }
            Ok(standing)
        });
        joined.await.unwrap_or_else(|_| Err(Error::Closed))
    }

    async fn changed(&self, claim: &Claim) -> Result<Option<Standing>> {
        self.shared.changed(claim).await
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<Standing>> {
        match self.shared.renew(claims).await {
            Ok(standings) => standings.into_iter().map(Ok).collect(),
            Err(error) => {
                let shown = &self.shared.link.config().shown;
                let again = |_: &Arc<Claim>| Err(Error::unavailable(shown, error.to_string()));
                claims.iter().map(again).collect()
            }
        }
    }

    async fn disturbed(&self) {
        self.shared.disturbed.notified().await;
    }

    async fn leave(&self, claim: &Claim) -> Result<Departure> {
        let turn = self.shared.turn(claim.id);
        let _turn = turn.lock().await;
        self.shared.leave(claim).await
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        self.shared.inspect(name).await
    }

    fn names<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Name>> {
        let each = |listed: Result<BTreeSet<Name>>| match listed {
            Ok(names) => names.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        };
        stream::once(self.shared.names(prefix)).flat_map(move |listed| stream::iter(each(listed))).boxed()
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").field("address", &self.shared.link.config().shown).finish_non_exhaustive()
    }
}

/// Gives back the leases, with whatever hangs on them.
impl Drop for Etcd {
    fn drop(&mut self) {
        let leases = self.shared.leases.take_all();
        let link = Arc::clone(&self.shared.link);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                for id in leases {
                    // Otherwise it ends by itself.
                    let _: Result<Empty> =
                        link.unary("/etcdserverpb.Lease/LeaseRevoke", LeaseRequest { id }).await;
                }
            });
        }
    }
}

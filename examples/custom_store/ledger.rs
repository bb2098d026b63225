//! A store of one's own: a directory with files in which all claims stand, the ledgers.
//!
//! Each request locks the ledger of its name, reads it, changes it, and puts the new one in its place. Who is
//! concerned by the change is told through a socket, so that nobody polls. It serves the processes of one
//! host; a claim outlives its owner by its lease. After a restart of the host all claims are gone.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use globallock::backend::{
    Capabilities, Claim, ClaimId, ClaimStatus, CrashRelease, Grant, Instant, WaitMode,
};
use globallock::queue::{Permits, admit};
use globallock::{
    Address, Backend, Entry, EntryKey, Error, Eviction, Name, Owner, Release, Result, Schemes, Summary,
};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::net::UnixDatagram;
use tokio::sync::Mutex;

/// How many ledgers a directory has. Names that fall into the same share one, and wait for each other's
/// requests.
const LEDGERS: usize = 64;
/// The requests of one process take turns, and only one of them waits for those of other processes.
static TURNS: [Mutex<()>; LEDGERS] = [const { Mutex::const_new(()) }; LEDGERS];
/// How long a request waits for those of others.
const LIMIT: Duration = Duration::from_secs(5);
/// How much longer than its lease it is remembered that a claim was evicted.
const REMEMBERED: Duration = Duration::from_secs(60);

/// A span of time, or a moment of the host's clock that goes on while it is suspended (as that of [`Instant`]
/// does), in nanoseconds.
type Nanoseconds = u64;

/// A claim, as a ledger has it.
#[derive(Serialize, Deserialize)]
struct Line {
    id: String,
    count: u32,
    capacity: u32,
    lease: Nanoseconds,
    max_hold: Option<Nanoseconds>,
    owner: String,
    /// The order of joining, and the fencing token.
    number: u64,
    joined: Nanoseconds,
    granted: Option<Nanoseconds>,
    expires: Nanoseconds,
}

/// All that a ledger says.
#[derive(Default, Serialize, Deserialize)]
struct State {
    /// Which start of the host the moments belong to.
    boot: String,
    last_number: u64,
    queues: BTreeMap<String, Vec<Line>>,
    /// By name and id of the claim: who did it and why, and until when that is remembered.
    evicted: BTreeMap<String, (String, Nanoseconds)>,
    /// The numbers of the claims whose owners are told to look once the change is written.
    #[serde(skip)]
    news: Vec<u64>,
    /// Whether it must be written.
    #[serde(skip)]
    changed: bool,
}

/// The moment of a request, by both clocks.
struct Moment {
    asked: Instant,
    now: Nanoseconds,
}

/// A connection to the ledgers of a directory.
#[derive(Debug)]
pub(crate) struct Ledgers {
    address: String,
    directory: PathBuf,
}

/// A socket in the directory at which somebody waits to be told.
struct Door {
    path: PathBuf,
    socket: UnixDatagram,
}

/// The stores of this build, and ledgers: `ledger:///directory`.
pub(crate) fn schemes() -> Schemes {
    Schemes::default().with_form("ledger", "ledger:///directory (the processes of one host)", |address| {
        Ok(Ledgers::open(&address)? as Arc<dyn Backend>)
    })
}

/// Under what an eviction is remembered.
fn key(name: &Name, id: ClaimId) -> String {
    format!("{} {id}", name.as_str())
}

fn nanoseconds(span: Duration) -> Nanoseconds {
    span.as_nanos().try_into().unwrap_or(u64::MAX / 4)
}

impl Moment {
    /// A moment that is not past, by the clock of this process.
    fn after(&self, moment: Nanoseconds) -> Instant {
        self.asked + Duration::from_nanos(moment.saturating_sub(self.now))
    }
}

impl Line {
    fn permits(&self) -> Permits {
        Permits::new(self.count, self.capacity)
    }

    fn hold_ends(&self) -> Option<Nanoseconds> {
        Some(self.granted? + self.max_hold?)
    }

    fn ends(&self) -> Nanoseconds {
        self.hold_ends().map_or(self.expires, |end| end.min(self.expires))
    }

    fn status(&self, at: &Moment) -> ClaimStatus {
        let instant = |moment| at.after(moment);
        let held = Grant::new(self.number).with_expires(instant(self.expires));
        let held = ClaimStatus::Held(held.with_hold_ends(self.hold_ends().map(instant)));
        self.granted.map_or(ClaimStatus::Waiting, |_| held)
    }

    fn entry(&self, now: Nanoseconds) -> Entry {
        let span = |from: Nanoseconds, to: Nanoseconds| Some(Duration::from_nanos(to.saturating_sub(from)));
        let (key, owner) = (EntryKey::new(self.id.as_str()), Owner::from_text(&self.owner));
        let mut entry = Entry::new(key, self.granted.is_some(), self.permits(), owner);
        entry.fencing_token = self.number;
        entry.age = span(self.granted.unwrap_or(self.joined), now);
        entry.expires_in = span(now, self.ends());
        entry
    }
}

impl State {
    /// Drops the claims that are dead, and grants those that fit.
    fn settle(&mut self, now: Nanoseconds) {
        let before = (self.evicted.len(), self.queues.values().map(Vec::len).sum::<usize>());
        self.evicted.retain(|_, (_, until)| *until > now);
        self.queues.retain(|_, queue| {
            queue.retain(|line| line.ends() > now);
            let holding = admit(queue.iter().map(Line::permits));
            for line in queue.iter_mut().take(holding).filter(|line| line.granted.is_none()) {
                line.granted = Some(now);
                self.news.push(line.number);
            }
            !queue.is_empty()
        });
        let after = (self.evicted.len(), self.queues.values().map(Vec::len).sum::<usize>());
        self.changed |= before != after || !self.news.is_empty();
    }

    fn find(&mut self, claim: &Claim) -> Option<&mut Line> {
        let id = claim.id.to_string();
        self.queues.get_mut(claim.name.as_str())?.iter_mut().find(|line| line.id == id)
    }

    fn status(&mut self, claim: &Claim, at: &Moment) -> ClaimStatus {
        if let Some(line) = self.find(claim) {
            return line.status(at);
        }
        let evicted = self.evicted.get(&key(&claim.name, claim.id));
        evicted
            .map_or(ClaimStatus::Gone, |(text, _)| ClaimStatus::Evicted(Arc::new(Eviction::from_text(text))))
    }

    /// Gives a claim that is in its queue one more lease, and says its status.
    fn renew(&mut self, claim: &Claim, at: &Moment) -> ClaimStatus {
        if let Some(line) = self.find(claim) {
            line.expires = at.now + nanoseconds(claim.lease);
            self.changed = true;
        }
        self.status(claim, at)
    }

    fn remove(&mut self, name: &Name, id: ClaimId, now: Nanoseconds) -> Option<Line> {
        let queue = self.queues.get_mut(name.as_str())?;
        let position = queue.iter().position(|line| line.id == id.to_string())?;
        let line = queue.remove(position);
        self.changed = true;
        self.settle(now);
        Some(line)
    }

    fn inspect(&self, name: &str, now: Nanoseconds) -> Vec<Entry> {
        self.queues.get(name).into_iter().flatten().map(|line| line.entry(now)).collect()
    }
}

impl Ledgers {
    /// Opens the ledgers of a directory, which is made if it is not there.
    fn open(address: &Address) -> Result<Arc<Self>> {
        address.finish(&[])?;
        if !address.hosts.is_empty() || !address.path.starts_with('/') {
            return Err(address.wrong("write ledger:///directory"));
        }
        let (shown, directory) = (address.to_string(), PathBuf::from(&address.path));
        std::fs::create_dir_all(&directory).map_err(|error| failure(&shown, &error))?;
        Ok(Arc::new(Ledgers { address: shown, directory }))
    }

    /// Which ledger has a name. Programs of all versions must agree on it, so it is no hash of the library.
    fn number_of(name: &Name) -> usize {
        name.as_str().bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31) + u32::from(byte)) as usize
            % LEDGERS
    }

    /// Reads the ledger of a name, and writes what `change` made of it, while no other request can.
    async fn change<T>(&self, name: &Name, change: impl FnOnce(&mut State, &Moment) -> T) -> Result<T> {
        self.change_numbered(Self::number_of(name), change).await
    }

    async fn change_numbered<T>(
        &self,
        number: usize,
        change: impl FnOnce(&mut State, &Moment) -> T,
    ) -> Result<T> {
        let changed = async {
            let _turn = TURNS[number].lock().await;
            let lock = File::create(self.directory.join(format!("{number}.lock")))?;
            // The lock is free as soon as its process ends, so only a stopped process is waited for in vain.
            while let Err(refused) = lock.try_lock() {
                match refused {
                    TryLockError::Error(error) => return Err(error),
                    TryLockError::WouldBlock => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
            self.change_locked(number, change)
        };
        match tokio::time::timeout(LIMIT, changed).await {
            Ok(changed) => changed.map_err(|error| failure(&self.address, &error)),
            Err(_) => Err(Error::unavailable(&self.address, "another process keeps a ledger locked")),
        }
    }

    /// No await is in here: what is begun is also done when the request is dropped.
    fn change_locked<T>(
        &self,
        number: usize,
        change: impl FnOnce(&mut State, &Moment) -> T,
    ) -> io::Result<T> {
        let [ledger, draft] = ["json", "draft"].map(|end| self.directory.join(format!("{number}.{end}")));
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let mut state: State = match std::fs::read(&ledger) {
            Err(error) if error.kind() == ErrorKind::NotFound => State::default(),
            read => serde_json::from_slice(&read?)?,
        };
        if state.boot != boot {
            state = State { boot, last_number: state.last_number, ..State::default() };
        }
        // In this order: the moment by the first clock is never later than by the other.
        let asked = Instant::now();
        let time = clock_gettime(ClockId::Boottime);
        let now = Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32);
        let at = Moment { asked, now: nanoseconds(now) };
        state.settle(at.now);
        let changed = change(&mut state, &at);
        if state.changed {
            std::fs::write(&draft, serde_json::to_vec(&state)?)?;
            std::fs::rename(&draft, &ledger)?;
        }
        for claim in state.news {
            self.tell(&format!("{number}-{claim}.door"));
        }
        Ok(changed)
    }

    /// Tells those behind a door to look. Who does not hear it is dead, or finds it out at the next renewal.
    fn tell(&self, door: &str) {
        let path = self.directory.join(door);
        let told = std::os::unix::net::UnixDatagram::unbound().and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.send_to(b"look", &path)
        });
        if told.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
            // Its owner was killed.
            let _ = std::fs::remove_file(&path);
        }
    }

    fn door(&self, name: &str) -> Result<Door> {
        let path = self.directory.join(name);
        let socket = UnixDatagram::bind(&path).map_err(|error| failure(&self.address, &error))?;
        Ok(Door { path, socket })
    }
}

impl Door {
    async fn told(&self) {
        let _ = self.socket.recv(&mut [0]).await;
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn failure(address: &str, error: &io::Error) -> Error {
    match error.kind() {
        ErrorKind::PermissionDenied => Error::permission_denied(address, error.to_string()),
        _ => Error::failed_precondition(address, error.to_string()),
    }
}

#[async_trait]
impl Backend for Ledgers {
    fn address(&self) -> &str {
        &self.address
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("ledger", CrashRelease::Lease)
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        let join = |state: &mut State, at: &Moment| {
            let status = state.renew(claim, at);
            if status != ClaimStatus::Gone {
                return status;
            }
            let queue = state.queues.entry(claim.name.as_str().to_owned()).or_default();
            let holds = admit(queue.iter().map(Line::permits).chain([claim.permits])) > queue.len();
            if !holds && claim.wait_mode == WaitMode::Try {
                return ClaimStatus::Gone;
            }
            state.last_number += 1;
            state.changed = true;
            queue.push(Line {
                id: claim.id.to_string(),
                count: claim.permits.count,
                capacity: claim.permits.capacity,
                lease: nanoseconds(claim.lease),
                max_hold: claim.max_hold.map(nanoseconds),
                owner: claim.owner.to_string(),
                number: state.last_number,
                joined: at.now,
                granted: holds.then_some(at.now),
                expires: at.now + nanoseconds(claim.lease),
            });
            state.status(claim, at)
        };
        self.change(&claim.name, join).await
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        let mut door = None;
        loop {
            let look = |state: &mut State, at: &Moment| {
                let number = state.find(claim).map(|line| line.number).unwrap_or_default();
                let queue = state.queues.get(claim.name.as_str()).into_iter().flatten();
                let end = queue.take_while(|line| line.number != number).map(Line::ends).min();
                let wake = at.after(end.unwrap_or(at.now));
                (state.status(claim, at), number, wake)
            };
            let (status, number, wake) = self.change(&claim.name, look).await?;
            if status != ClaimStatus::Waiting {
                return Ok(Some(status));
            }
            match &door {
                // Nobody tells of a claim in front that dies.
                Some(door) => drop(tokio::time::timeout(wake - Instant::now(), Door::told(door)).await),
                // It looks once more, because before the door is there it is told nothing.
                None => {
                    door = Some(self.door(&format!("{}-{number}.door", Self::number_of(&claim.name)))?);
                }
            }
        }
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        let mut statuses = Vec::new();
        for claim in claims {
            statuses.push(self.change(&claim.name, |state, at| state.renew(claim, at)).await);
        }
        statuses
    }

    async fn session_lost_hint(&self) {
        match self.door(&format!("{:016x}.hint", RandomState::new().build_hasher().finish())) {
            Ok(door) => door.told().await,
            Err(_) => std::future::pending().await,
        }
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        let remove = |state: &mut State, at: &Moment| state.remove(&claim.name, claim.id, at.now);
        let removed = self.change(&claim.name, remove).await?;
        Ok(if removed.is_some() { Release::Released } else { Release::NotHeld })
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        self.change(name, |state, at| state.inspect(name.as_str(), at.now)).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        let page = move |state: &mut State, at: &Moment| -> Vec<Result<Summary>> {
            let names = state.queues.keys().filter(|name| name.starts_with(prefix));
            let sum_up =
                |name: &String| Summary::of(&Name::new(name).ok()?, &state.inspect(name, at.now)).map(Ok);
            names.filter_map(sum_up).collect()
        };
        let pages = stream::iter(0..LEDGERS).then(move |number| self.change_numbered(number, page));
        pages.map_ok(stream::iter).try_flatten().boxed()
    }

    async fn evict(&self, name: &Name, entry: &EntryKey, eviction: &Eviction) -> Result<Release> {
        let Some(id) = entry.claim_id() else { return Ok(Release::NotHeld) };
        let take_out = |state: &mut State, at: &Moment| {
            let Some(line) = state.remove(name, id, at.now) else { return Release::NotHeld };
            let until = at.now + line.lease + nanoseconds(REMEMBERED);
            state.evicted.insert(key(name, id), (eviction.to_text(), until));
            state.news.push(line.number);
            Release::Released
        };
        let found = self.change(name, take_out).await?;
        if found == Release::Released {
            // A holder does not wait at a door of its own, so all that hold anything look after their claims.
            let files = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
            let names = files.filter_map(|file| file.file_name().into_string().ok());
            names.filter(|name| name.ends_with(".hint")).for_each(|hint| self.tell(&hint));
        }
        Ok(found)
    }
}

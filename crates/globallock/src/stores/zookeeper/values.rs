//! The values of the names: reading them with a grant, and writing them.
//!
//! A value is a persistent node below `%values`, because it must outlive its writer's session. It says for
//! how long it is kept. The servers do not delete it then, so whoever finds it does: a claim that asks for
//! it, and a list.

use std::time::Duration;

use super::Shared;
use super::client::Pending;
use super::failure::Failure;
use super::naming::Layout;
use super::positions::Position;
use super::session::Session;
use super::wire::{ErrorCode, Mode, OpCode, Reader, Request, Stat};
use crate::backend::{Claim, ClaimStatus, Value, ValueWrite};
use crate::error::Result as Answer;
use crate::name::Name;
use crate::stores::record::{Record, milliseconds, wall_clock};
use crate::sync::Instant;

/// How many times a value is written again that others have changed meanwhile.
const ATTEMPTS: usize = 5;
/// How the node begins by whose creation the servers' time is read.
const NOW: &str = "%now-";

/// A value as it was read, with its node's metadata.
pub(super) type ReadValue = Option<(Vec<u8>, Stat)>;

/// A moment on the servers' clock, and here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    server_ms: u64,
    here: Instant,
}

impl Clock {
    /// The servers' clock, by the metadata of a node that was just created.
    pub(super) fn of(created: &Stat) -> Self {
        Clock { server_ms: unsigned(created.ctime), here: Instant::now() }
    }

    fn now(&self) -> u64 {
        self.server_ms.saturating_add(milliseconds(self.here.elapsed()))
    }
}

fn unsigned(milliseconds: i64) -> u64 {
    u64::try_from(milliseconds).unwrap_or(0)
}

/// The record in a node, written when the servers say.
fn record((content, stat): &(Vec<u8>, Stat)) -> Option<Record<'_>> {
    Some(Record { written: unsigned(stat.mtime), ..Record::parse(content)? })
}

impl Layout {
    /// The path of the value of a name. A percent sign ends it, so that no version takes it for a claim.
    fn value(&self, name: &Name) -> String {
        let lock = self.lock(name);
        let below = lock.strip_prefix(&self.root).unwrap_or(&lock);
        format!("{}/{}%", self.values(), below.trim_start_matches('/').replace('/', "%2F"))
    }
}

impl Session {
    /// Asks for the value of a name.
    pub(super) fn value_of(&self, layout: &Layout, name: &Name) -> Pending<'_, ReadValue> {
        self.bytes(&layout.value(name))
    }
}

impl Shared {
    /// The servers' time, and whether it is known here: otherwise it is this host's.
    fn now(&self) -> (u64, bool) {
        let clock = *self.clock.lock();
        (clock.as_ref().map_or_else(wall_clock, Clock::now), clock.is_some())
    }

    /// The status with the value, if it is a grant of a claim that asks for it. `read` is the value where it
    /// was read after what has granted the claim.
    pub(super) async fn with_value(
        &self,
        claim: &Claim,
        status: ClaimStatus,
        read: Option<ReadValue>,
    ) -> Answer<ClaimStatus> {
        let grant = match status {
            ClaimStatus::Held(grant) if claim.wants_value => grant,
            status => return Ok(status),
        };
        let session = match self.positions.lock().get(claim.id) {
            Some(position) => position.session.clone(),
            None => return Ok(ClaimStatus::Gone),
        };
        let read = match read {
            Some(read) => read,
            None => {
                let read = session.value_of(&self.config.layout, &claim.name).answer().await;
                read.map_err(|failure| self.config.error(failure))?
            }
        };
        let (now, is_servers) = self.now();
        let value = match read.as_ref().and_then(|read| Some((record(read)?, read.1))) {
            Some((record, stat)) if record.has_ended(now) => {
                // By this host's clock, which may be wrong, nothing is deleted.
                if is_servers {
                    let path = self.config.layout.value(&claim.name);
                    // Without the right to it, or an answer, it stays for the next one.
                    let _ = session.ask(delete_at(&path, stat.version)).await;
                }
                None
            }
            found => found.map(|(record, _)| record.value(record.age(now))),
        };
        Ok(ClaimStatus::Held(grant.with_value(value)))
    }

    /// Writes the value of a claim's name, if the claim holds.
    ///
    /// One transaction checks that the claim's node is there, and that the value is the one that was seen. A
    /// claim that holds goes on to hold as long as its node is there.
    ///
    /// # Cancel safety
    /// The value may have been written or not.
    pub(super) async fn write_value(
        &self,
        claim: &Claim,
        bytes: &[u8],
        keep: Duration,
    ) -> Answer<ValueWrite> {
        Value::check(bytes, keep)?;
        match self.try_write(claim, bytes, keep).await {
            Err(Failure::Expired) => Ok(ValueWrite::NotHeld),
            written => written.map_err(|failure| self.config.error(failure)),
        }
    }

    async fn try_write(&self, claim: &Claim, bytes: &[u8], keep: Duration) -> Result<ValueWrite, Failure> {
        let (layout, acl) = (&self.config.layout, &self.config.acl);
        let (path, above) = (layout.value(&claim.name), layout.values());
        // The node above is there nearly always, and not every user may create it.
        let mut lacks_above = false;
        for _ in 0..ATTEMPTS {
            let held = {
                let positions = self.positions.lock();
                let position = positions.get(claim.id).filter(|position| !position.releasing);
                position.filter(|position| is_held(position, claim)).cloned()
            };
            let Some(Position { session, node: Some(node), .. }) = held else {
                return Ok(ValueWrite::NotHeld);
            };
            let before = session.bytes(&path).answer().await?;
            let fencing_token = node.czxid.unsigned_abs();
            if before.as_ref().and_then(record).is_some_and(|known| known.fencing_token > fencing_token) {
                return Ok(ValueWrite::Outranked);
            }
            let content = Record::now(fencing_token, keep, bytes).to_bytes();
            let mut changes = vec![Request::check(&node.path)];
            match &before {
                Some((_, stat)) => changes.push(set_data(&path, &content, stat.version)),
                None => {
                    // A container is not created by itself, because servers never delete one that had no
                    // child.
                    let container = || Request::create(Mode::Container, &above, &[], acl);
                    changes.extend(lacks_above.then(container));
                    changes.push(Request::create(Mode::Persistent, &path, &content, acl));
                }
            }
            let answer = session.ask(Request::multi(&changes)).await?;
            match Reader(&answer).refused()? {
                None => return Ok(ValueWrite::Written),
                Some((0, ErrorCode::NO_NODE)) => return Ok(ValueWrite::NotHeld),
                // Or another has deleted the value meanwhile.
                Some((1, ErrorCode::NO_NODE)) => lacks_above = before.is_none(),
                // Another has written or deleted it meanwhile, or created the node above.
                Some((_, ErrorCode::BAD_VERSION | ErrorCode::NODE_EXISTS | ErrorCode::NO_NODE)) => {
                    lacks_above = false;
                }
                Some((_, code)) => return Err(Failure::Refused(code)),
            }
        }
        Err(Failure::Lost("the value changed in every attempt".to_owned()))
    }

    /// Deletes the values that have ended by the servers' clock.
    pub(super) async fn delete_ended(&self, session: &Session) -> Result<(), Failure> {
        let above = self.config.layout.values();
        let children = session.children(&above).answer().await?;
        let paths: Vec<String> = children.into_iter().map(|child| format!("{above}/{child}")).collect();
        let found = session.each(&paths, Session::bytes).await?;
        let ended = |now: u64| {
            let ended = move |found: &ReadValue| {
                let found = found.as_ref()?;
                record(found)?.has_ended(now).then_some(found.1.version)
            };
            paths.iter().zip(&found).filter_map(move |(path, found)| Some((path, ended(found)?)))
        };
        if ended(wall_clock()).next().is_none() {
            return Ok(());
        }
        // Our clock may be wrong, and a value that has not ended must not be lost for that.
        let created = session.create_claim(&format!("{above}/{NOW}"), "", &self.config.acl).answer().await?;
        let Some((path, stat)) = created else { return Ok(()) };
        session.delete(&path).await?;
        for (path, version) in ended(Clock::of(&stat).now()) {
            // Another may have written or deleted it meanwhile.
            let _ = session.ask(delete_at(path, version)).await;
        }
        Ok(())
    }
}

fn is_held(position: &Position, claim: &Claim) -> bool {
    !position.session.is_expired() && matches!(position.status(claim), ClaimStatus::Held(_))
}

fn set_data(path: &str, data: &[u8], version: i32) -> Request {
    Request::new(OpCode::SetData, |writer| writer.text(path).buffer(data).int(version))
}

fn delete_at(path: &str, version: i32) -> Request {
    Request::new(OpCode::Delete, |writer| writer.text(path).int(version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::zookeeper::naming::Naming;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_two_names_share_a_value_and_none_looks_like_a_claim(
            one in "[ab%/.]{1,6}(__lock__0000000001)?",
            other in "[ab%/.]{1,6}(__lock__0000000001)?",
        ) {
            for naming in [Naming::Kazoo, Naming::Curator] {
                let layout = Layout { root: "/locks".to_owned(), naming };
                let path = layout.value(&Name::new(&one).unwrap());
                let own = path.strip_prefix("/locks/%values/").unwrap();
                prop_assert!(!own.contains('/') && layout.parse(own).is_none(), "{}", path);
            }
            let layout = Layout { root: String::new(), naming: Naming::Kazoo };
            let [first, second] = [&one, &other].map(|name| layout.value(&Name::new(name).unwrap()));
            prop_assert_eq!(first == second, one == other);
        }
    }

    #[test]
    fn a_value_is_a_node_that_can_be_read() {
        let layout = Layout { root: "/locks".to_owned(), naming: Naming::Kazoo };
        for (name, path) in [
            ("nightly", "/locks/%values/nightly%"),
            ("a/b", "/locks/%values/a%2Fb%"),
            ("a%b", "/locks/%values/a%25b%"),
            (".", "/locks/%values/%2E%"),
        ] {
            assert_eq!(layout.value(&Name::new(name).unwrap()), path);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_servers_clock_goes_on_here() {
        let stat = Stat { czxid: 1, ctime: 1000, mtime: 2000, version: 3, ephemeral_owner: 0 };
        let clock = Clock::of(&stat);
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(clock.now(), 1250);
        let read = (b"glk1v:7:60000:5:a".to_vec(), stat);
        let record = record(&read).unwrap();
        assert_eq!((record.written, record.keep, record.bytes), (2000, 60_000, &b"a"[..]));
        assert!(super::record(&(b"garbage".to_vec(), stat)).is_none());
    }
}

//! Examination: what a person should know of a server before trusting it with locks.
//!
//! It has a connection of its own, because the store's refuses a server at the first thing that is wrong with
//! it, and here all of them are told.

mod rights;
mod server;

use std::time::Duration;

use futures_util::stream::{FuturesOrdered, StreamExt};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Value, cmd};

use self::server::Settings;
use super::config::{Place, Target};
use super::failure::Failure;
use super::{Redis, facts, keys};
use crate::backend::{ClaimId, Finding};
use crate::error::Result;
use crate::name::Name;
use crate::stores::examination::{Reading, encryption, round_trips};

/// What a difference between the clocks means here.
const CLOCKS: &str = "leases do not depend on that, but after a failover to a server whose clock is behind, \
                      fencing tokens may fall";

impl Redis {
    /// Finds out all that can be found out with the rights of this user.
    pub(super) async fn examined(&self, name: &Name) -> Result<Vec<Finding>> {
        keys::check(self.prefix(), name)?;
        let mut found = self.sentinels().await;
        let settings = || {
            AsyncConnectionConfig::new()
                .set_response_timeout(Some(self.connection.config().timeout))
                .set_push_sender(|_| Ok::<(), ()>(()))
        };
        let opened =
            self.connection.config().connect(settings).await.map_err(|failure| self.error(failure))?;
        let mut connection = opened.connection.clone();
        let (facts, info) = facts::read(&mut connection).await.map_err(|failure| self.error(failure))?;
        let server = match facts::judge(&facts) {
            Ok(server) => server,
            Err(failure) => {
                found.push(Finding::bad("server", self.connection.config().reason(&failure)));
                return Ok(found);
            }
        };
        let settings = Settings::read(&mut connection).await;
        found.extend(server::findings(&facts, server.may_drop_locks, info.as_ref(), &settings));
        found.push(self.encryption());
        let asked = self.asked(&mut connection, &mut found, name).await;
        if let Err(failure) = asked {
            let reason = self.connection.config().reason(&failure);
            found.push(Finding::bad("answers", format!("the examination ended early: {reason}")));
        }
        Ok(found)
    }

    async fn asked(
        &self,
        connection: &mut MultiplexedConnection,
        found: &mut Vec<Finding>,
        name: &Name,
    ) -> Result<(), Failure> {
        found.push(clock(connection).await?);
        found.push(ping(connection).await?);
        found.extend(self.rights(connection, name).await?);
        Ok(())
    }

    /// What the sentinels say, if there are any: each is asked, also those after the first that answers.
    async fn sentinels(&self) -> Vec<Finding> {
        let config = self.connection.config();
        let Target::Sentinels(sentinels) = &config.target else { return Vec::new() };
        let mut asked = FuturesOrdered::new();
        for host in &sentinels.hosts {
            asked.push_back(config.ask_sentinel(host, sentinels));
        }
        let answers: Vec<_> = asked.collect().await;
        let count = answers.len();
        let (named, failed): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        let mut found: Vec<Finding> = failed
            .into_iter()
            .filter_map(Result::err)
            .map(|failure| Finding::bad("sentinels", config.reason(&failure)))
            .collect();
        let mut places: Vec<String> =
            named.into_iter().filter_map(Result::ok).map(|place| shown(&place)).collect();
        let answered = places.len();
        places.sort_unstable();
        places.dedup();
        let said = format!("{answered} of {count} answer; the primary is {}", places.join(" or "));
        found.push(match (places.len(), count) {
            (0, _) => return found,
            (1, 3..) => Finding::good("sentinels", said),
            (1, _) => Finding::note("sentinels", said)
                .remedy("name three sentinels or more: fewer cannot agree on a failover when one is lost"),
            _ => Finding::bad("sentinels", said).remedy("wait until the sentinels agree, or restart them"),
        });
        found
    }

    /// Deletes the counter of a name that has no claims, and the notices for claims that were evicted.
    ///
    /// Not in one step with the look at the claims: one that comes in between is given its token by the
    /// clock.
    pub(super) async fn drop_remains(&self, name: &Name, evicted: &[ClaimId]) -> Result<()> {
        let [lock, counter, queue, claims, shared] = keys::keys(self.prefix(), name);
        let used = self.request(cmd("EXISTS").arg(&[lock, queue, claims, shared])).await?;
        if used == Value::Int(0) {
            self.request(cmd("DEL").arg(counter)).await?;
        }
        for id in evicted {
            self.request(cmd("DEL").arg(keys::notice(self.prefix(), name, *id))).await?;
        }
        Ok(())
    }

    fn encryption(&self) -> Finding {
        let config = self.connection.config();
        let hosts: Vec<&str> = match &config.target {
            Target::Server(Place::Tcp(host, _)) => vec![host],
            Target::Server(Place::Unix(_)) => vec![],
            Target::Sentinels(sentinels) => sentinels.hosts.iter().map(|(host, _)| &**host).collect(),
        };
        let scheme = match (config.kind, &config.target) {
            ("valkey", Target::Sentinels(_)) => "valkeys+sentinel",
            ("valkey", _) => "valkeys",
            (_, Target::Sentinels(_)) => "rediss+sentinel",
            _ => "rediss",
        };
        encryption(config.transport.has_tls(), hosts, scheme)
    }
}

fn shown(place: &Place) -> String {
    match place {
        Place::Tcp(host, port) => crate::stores::address::authority(host, *port),
        Place::Unix(path) => path.display().to_string(),
    }
}

async fn ping(connection: &MultiplexedConnection) -> Result<Finding, Failure> {
    let pings = round_trips("pings", || {
        let mut connection = connection.clone();
        async move {
            let pong: Result<Value, _> =
                cmd("PING").query_async(&mut connection).await.map_err(Failure::from);
            pong.map(drop)
        }
    });
    match pings.await {
        Err(failure) if failure.is_refused() => Ok(Finding::unknown("round trip", "this user may not PING")),
        pings => pings,
    }
}

async fn clock(connection: &mut MultiplexedConnection) -> Result<Finding, Failure> {
    let time = cmd("TIME");
    let (time, reading) = Reading::of(Duration::ZERO, time.query_async::<(u64, u32)>(connection)).await;
    match time.map_err(Failure::from) {
        Ok((seconds, micros)) => {
            let theirs = Duration::from_secs(seconds) + Duration::from_micros(micros.into());
            Ok(reading(theirs).finding(CLOCKS))
        }
        Err(failure) if failure.is_refused() => {
            Ok(Finding::unknown("clock", "this user may not ask for the TIME"))
        }
        Err(failure) => Err(failure),
    }
}

//! The tables and functions: making them, and finding out whether they are ours.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::calls::{Calls, script};
use super::config::Durability;
use super::connection::Connection;
use super::failure::{Failure, Kind};
use super::{Postgres, not_ours};
use crate::error::Result;
use crate::sync::jittered;

/// How long a manager waits before it sweeps.
const PAUSE: Duration = Duration::from_secs(60);

/// What the comment on the table of claims says of its version.
const VERSION: &str = "globallock 1";

impl Postgres {
    /// Refuses tables of another version or another program, and those that forget more than the address
    /// says. Asked once: a request that finds them gone later says so itself.
    pub(super) async fn are_ours(&self) -> Result<()> {
        if self.is_ours.get().is_some() {
            return Ok(());
        }
        match self.found().await? {
            Err(failure) if failure.kind == Kind::NotSetUp && self.config().sets_up => {
                self.make().await?;
                self.found().await?.map_err(|failure| self.error(failure))?;
            }
            found => found.map_err(|failure| self.error(failure))?,
        }
        self.is_ours.get_or_init(|| {
            tokio::spawn(sweep(Arc::downgrade(&self.connection), Arc::clone(&self.calls)));
        });
        Ok(())
    }

    /// What is wrong with the tables, if anything.
    pub(super) async fn found(&self) -> Result<std::result::Result<(), Failure>> {
        let row = self.row(&self.calls.facts, &[]).await?;
        let read = || -> Option<_> {
            Some((
                row.try_get::<_, bool>(0).ok()?,
                row.try_get::<_, Option<String>>(1).ok()?,
                row.try_get::<_, Option<String>>(2).ok()?,
                row.try_get::<_, bool>(3).ok()?,
                row.try_get::<_, String>(4).ok()?,
            ))
        };
        let Some((has_tables, version, persistence, has_functions, encoding)) = read() else {
            return Ok(Err(not_ours()));
        };
        let has_functions = has_functions || self.config().is_plain;
        let facts = Facts { has_tables, version, persistence, has_functions, encoding };
        Ok(judge(&facts, &self.config().schema, self.config().durability))
    }

    /// Makes the tables and functions.
    pub(super) async fn made(&self) -> Result<String> {
        self.make().await?;
        self.are_ours().await?;
        let what = if self.config().is_plain { "tables" } else { "tables and functions" };
        Ok(format!("the {what} of version 1 are in the schema {}", self.config().schema))
    }

    async fn make(&self) -> Result<()> {
        self.connection.run(&self.script()).await.map_err(|failure| self.error(failure))
    }

    pub(super) fn script(&self) -> String {
        let config = self.config();
        script(&config.schema, config.durability != Durability::Unlogged, config.is_plain)
    }
}

/// Sweeps away what has ended and nobody asks for, now and then, for as long as the store is used.
async fn sweep(connection: Weak<Connection>, calls: Arc<Calls>) {
    loop {
        // Managers that begin together need not sweep together.
        tokio::time::sleep(jittered(PAUSE)).await;
        let Some(connection) = connection.upgrade() else { return };
        if connection.supervisor.is_live() {
            // What this one cannot do, the next one does.
            drop(connection.query(&calls.sweep, &[]).await);
        }
    }
}

/// What is there of a schema.
struct Facts {
    has_tables: bool,
    version: Option<String>,
    persistence: Option<String>,
    has_functions: bool,
    encoding: String,
}

fn judge(facts: &Facts, schema: &str, durability: Durability) -> std::result::Result<(), Failure> {
    let wrong = |reason: String| Err(Failure::new(Kind::FailedPrecondition, reason));
    let is_logged = facts.persistence.as_deref() == Some("p");
    if !matches!(facts.encoding.as_str(), "UTF8" | "SQL_ASCII") {
        let encoding = &facts.encoding;
        return wrong(format!(
            "the database keeps text as {encoding}, which has not all characters that names have: use a \
             database with the encoding UTF8"
        ));
    }
    match (facts.has_tables, facts.version.as_deref()) {
        (false, _) => Err(Failure::new(
            Kind::NotSetUp,
            format!(
                "the schema {schema} has no tables of globallock: run `globallock setup` once for this \
                 address"
            ),
        )),
        (true, Some(VERSION)) if !facts.has_functions => Err(Failure::new(
            Kind::NotSetUp,
            format!(
                "the schema {schema} lacks the functions of globallock: run `globallock setup` once more, or \
                 add plain=yes to the address where functions are not allowed"
            ),
        )),
        (true, Some(VERSION)) if durability == Durability::Wal && !is_logged => wrong(
            "its tables are unlogged, so that a crash of the server forgets all locks: run `globallock \
             setup` with this address, or say that this is meant by ?durability=unlogged"
                .to_owned(),
        ),
        (true, Some(VERSION)) => Ok(()),
        (true, Some(other)) if other.starts_with("globallock ") => wrong(format!(
            "the tables in the schema {schema} are those of {other:?}, and this is version 1: use the same \
             release of globallock everywhere, or another schema"
        )),
        (true, _) => wrong(format!(
            "the schema {schema} has a table \"claims\" of another program: name another schema by \
             ?schema=NAME"
        )),
    }
}

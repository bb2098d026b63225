//! Examination: what a person should know of a database before trusting it with locks.

use std::time::Duration;

use tokio_postgres::Row;

use super::config::Durability;
use super::failure::Kind;
use super::{Postgres, not_ours};
use crate::backend::Finding;
use crate::error::Result;
use crate::name::Name;
use crate::stores::examination::{Reading, round_trips};

/// What a difference between the clocks means here.
const CLOCKS: &str = "leases do not depend on that, but after a failover to a server whose clock is behind, \
                      leases last longer and fencing tokens may fall";

/// What the server is, as far as every user may ask.
const SERVER: &str = "SELECT current_setting('server_version'), \
    floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint, \
    current_setting('fsync') = 'on', current_setting('full_page_writes') = 'on', \
    current_setting('synchronous_commit'), current_setting('synchronous_standby_names'), \
    current_setting('autovacuum') = 'on' AND current_setting('track_counts') = 'on', \
    current_setting('max_connections')::int, \
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::int, \
    (SELECT coalesce(floor(extract(epoch FROM max(clock_timestamp() - xact_start))), 0)::bigint \
        FROM pg_stat_activity WHERE backend_type = 'client backend'), \
    coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false), inet_server_addr() IS NULL, \
    coalesce(inet_client_addr() = inet_server_addr(), true)";

/// From how many seconds on a transaction of others is worth a note.
const LONG: u64 = 600;

impl Postgres {
    /// Finds out all that can be found out with the rights of this user.
    pub(super) async fn examined(&self, _name: &Name) -> Result<Vec<Finding>> {
        let (row, reading) = Reading::of(Duration::from_millis(1), self.row(SERVER, &[])).await;
        let server = Server::read(&row?).ok_or_else(|| self.error(not_ours()))?;
        let mut found = server.findings(self.config().durability);
        found.push(reading(server.clock).finding(CLOCKS));
        found.push(self.pushes());
        let trips = round_trips("statements", || async { self.query("SELECT 1", &[]).await.map(drop) });
        found.push(trips.await?);
        found.push(match self.found().await? {
            Ok(()) => Finding::good("tables", format!("version 1, in the schema {}", self.config().schema)),
            Err(failure) => {
                let is_missing = failure.kind == Kind::NotSetUp;
                let reason = self.config().reason(&failure);
                let finding = Finding::bad("tables", reason);
                if is_missing { finding.remedy("globallock setup makes them") } else { finding }
            }
        });
        found.extend(self.rights().await?);
        Ok(found)
    }

    fn pushes(&self) -> Finding {
        if self.connection.listens() {
            return Finding::good("pushes", "a connection listens, so that waiters are woken at once");
        }
        let why =
            if self.connection.is_pooled() { "a pooler is between" } else { "the address says listen=no" };
        let text = format!("no connection listens, because {why}: waiters look up to 40 times a second");
        Finding::note("pushes", text)
            .remedy("name the server itself by ?listen=HOST:PORT, which only the listening connection uses")
    }

    /// The rights that locks need, one by one.
    async fn rights(&self) -> Result<Vec<Finding>> {
        let schema = format!("\"{}\"", self.config().schema);
        let statement = RIGHTS.replace("{schema}", &schema);
        let rows = self.query(&statement, &[]).await?;
        let mut lacks = Vec::new();
        for row in &rows {
            if let (Ok(what), Ok(false)) = (row.try_get::<_, String>(0), row.try_get::<_, bool>(1)) {
                lacks.push(what);
            }
        }
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        Ok(vec![match &lacks[..] {
            [] => Finding::good("rights", "this user may do all that locks need"),
            [..] => {
                let lacks = lacks.join(", ");
                Finding::denied("rights", format!("this user lacks {lacks}")).remedy(format!(
                    "GRANT USAGE ON SCHEMA {schema} TO this user, and SELECT, INSERT, UPDATE, DELETE ON ALL \
                     TABLES and USAGE, UPDATE ON ALL SEQUENCES and EXECUTE ON ALL FUNCTIONS in it"
                ))
            }
        }])
    }
}

/// Each right with whether this user has it.
const RIGHTS: &str = "SELECT 'USAGE on the schema', \
    has_schema_privilege(to_regnamespace('{schema}'), 'USAGE') \
    WHERE to_regnamespace('{schema}') IS NOT NULL \
    UNION ALL SELECT format('%s on %s', p, t), has_table_privilege(to_regclass(t), p) \
    FROM unnest(ARRAY['{schema}.claims', '{schema}.evictions', '{schema}.transactions', \
        '{schema}.\"values\"']) AS t, \
        unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p WHERE to_regclass(t) IS NOT NULL \
    UNION ALL SELECT format('%s on the sequence', p), \
        has_sequence_privilege(to_regclass('{schema}.numbers'), p) \
    FROM unnest(ARRAY['USAGE', 'UPDATE']) AS p WHERE to_regclass('{schema}.numbers') IS NOT NULL";

/// Whether somebody between can read what is sent.
enum Encryption {
    Tls,
    NotNeeded,
    None,
}

struct Server {
    version: String,
    clock: Duration,
    /// Whether what is written outlasts a crash of the host.
    is_safe: bool,
    synchronous_commit: String,
    standbys: String,
    vacuums: bool,
    connections: (i32, i32),
    /// How long the longest transaction of all has lasted, in seconds.
    longest: u64,
    encryption: Encryption,
}

impl Server {
    fn read(row: &Row) -> Option<Self> {
        Some(Server {
            version: row.try_get(0).ok()?,
            clock: Duration::from_millis(super::answers::whole(row.try_get(1).ok()?)),
            is_safe: row.try_get(2).ok()? && row.try_get(3).ok()?,
            synchronous_commit: row.try_get(4).ok()?,
            standbys: row.try_get(5).ok()?,
            vacuums: row.try_get(6).ok()?,
            connections: (row.try_get(8).ok()?, row.try_get(7).ok()?),
            longest: super::answers::whole(row.try_get(9).ok()?),
            encryption: match (row.try_get(10).ok()?, row.try_get(11).ok()?, row.try_get(12).ok()?) {
                (true, _, _) => Encryption::Tls,
                (false, is_socket, is_same_host) if is_socket || is_same_host => Encryption::NotNeeded,
                _ => Encryption::None,
            },
        })
    }

    fn findings(&self, durability: Durability) -> Vec<Finding> {
        vec![
            Finding::good("version", format!("PostgreSQL {}", self.version)),
            self.durability(durability),
            self.replication(),
            self.vacuum(),
            self.room(),
            self.transactions(),
            self.encryption(),
        ]
    }

    fn durability(&self, durability: Durability) -> Finding {
        let forgets = |text: &str| Finding::note("durability", text);
        match durability {
            _ if !self.is_safe => forgets(
                "fsync or full_page_writes is off: a crash of the host may lose locks, or the whole database",
            )
            .remedy("set both to on, unless a crash of the host ends the owners too"),
            Durability::Wal => Finding::good("durability", "each grant is on the disk before it is told"),
            Durability::Async => {
                forgets("durability=async: a crash of the server forgets the last grants and renewals")
            }
            Durability::Unlogged => forgets("durability=unlogged: a crash or a failover forgets all locks"),
        }
    }

    fn replication(&self) -> Finding {
        if self.standbys.is_empty() {
            return Finding::note(
                "replication",
                "no standby is waited for: a failover may forget the last grants, which fencing tokens tell",
            )
            .remedy("set synchronous_standby_names where a standby may be promoted");
        }
        let waits = matches!(self.synchronous_commit.as_str(), "on" | "remote_apply");
        let text = format!("synchronous_standby_names is {:?}", self.standbys);
        match waits {
            true => Finding::good("replication", text),
            false => Finding::note("replication", format!("{text}, but synchronous_commit is not on"))
                .remedy("set synchronous_commit to on, so that a failover forgets no grant"),
        }
    }

    fn vacuum(&self) -> Finding {
        match self.vacuums {
            true => Finding::good("vacuum", "autovacuum is on"),
            false => {
                Finding::bad("vacuum", "autovacuum is off: the tables grow with every lock that is taken")
                    .remedy("set autovacuum and track_counts to on")
            }
        }
    }

    fn room(&self) -> Finding {
        let (used, most) = self.connections;
        let text = format!("{used} of {most} are used");
        if used * 10 < most * 9 {
            return Finding::good("connections", text);
        }
        Finding::note("connections", format!("{text}: a manager that connects then is refused"))
            .remedy("raise max_connections, or put a pooler between")
    }

    fn transactions(&self) -> Finding {
        match self.longest {
            ..LONG => Finding::good("transactions", "none is open for long"),
            longest => Finding::note(
                "transactions",
                format!(
                    "one is open for {} min: while it is, dead rows are kept, and busy locks become slower",
                    longest / 60
                ),
            )
            .remedy("end it; idle_in_transaction_session_timeout ends those that were forgotten"),
        }
    }

    fn encryption(&self) -> Finding {
        match self.encryption {
            Encryption::Tls => Finding::good("encryption", "the connection is encrypted (TLS)"),
            Encryption::NotNeeded => {
                Finding::good("encryption", "none (TLS), and none is needed on one host")
            }
            Encryption::None => Finding::note(
                "encryption",
                "the connection is not encrypted: who can read it reads passwords and locks",
            )
            .remedy("write ?sslmode=verify-full unless the network between is trusted"),
        }
    }
}

//! A primary with a replica.

use std::io::{Error, Result};

use rustix::process::{Pid, Signal};

use super::super::{Cluster, wait_ready};
use super::{Postgres, SUPERUSER, set_up, template, url_by};

/// A primary and the replica that follows it, asynchronously or not. The two may change places.
#[derive(Debug)]
pub struct Pair {
    servers: [Postgres; 2],
}

impl Pair {
    /// Starts both, and waits until the replica follows.
    ///
    /// # Errors
    /// When they do not start.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts a pair in which a commit waits until the replica has it too.
    ///
    /// # Errors
    /// As [`Pair::start`].
    pub fn start_synchronous() -> Result<Self> {
        Self::start_with(&["synchronous_standby_names=*"])
    }

    fn start_with(settings: &[&str]) -> Result<Self> {
        let primary = Postgres::start_bare(settings)?;
        let mut replica = Postgres::launched_with(settings)?;
        follow(&mut replica, &primary)?;
        set_up(&primary.url())?;
        Ok(Pair { servers: [primary, replica] })
    }

    /// One of the servers.
    ///
    /// # Panics
    /// When it is neither 0 nor 1.
    #[must_use]
    pub fn server(&self, number: usize) -> &Postgres {
        &self.servers[number]
    }

    /// The number of the server that accepts writes, if one answers so.
    #[must_use]
    pub fn primary(&self) -> Option<usize> {
        (0..2).find(|number| self.servers[*number].sql("SELECT pg_is_in_recovery()") == "f")
    }

    /// Makes the replica the primary, and the old primary its replica. Everything is replicated before if it
    /// is `planned`. Otherwise the primary crashes, and what it committed since the replica was cut off is
    /// lost.
    ///
    /// Returns how many bytes of the log have been lost.
    ///
    /// # Errors
    /// When there is no primary, or a server does not start.
    pub fn change_places(&mut self, planned: bool, meanwhile: impl FnOnce()) -> Result<u64> {
        let old = self.primary().ok_or_else(|| Error::other("there is no primary"))?;
        let new = 1 - old;
        let mut lost = 0;
        if planned {
            // The primary may have been restarted a moment ago.
            self.wait_for_the_replica(old)?;
            self.servers[old].shut_down()?;
        } else {
            self.servers[new].sql("ALTER SYSTEM SET primary_conninfo = ''; SELECT pg_reload_conf()");
            let is_cut_off = || {
                self.servers[new].sql("SELECT count(*) FROM pg_stat_wal_receiver") == "0"
                    && self.servers[old].sql("SELECT count(*) FROM pg_stat_replication") == "0"
            };
            wait_ready("the cut to the replica", &self.servers[new].log(), is_cut_off)?;
            meanwhile();
            let written = self.servers[old].sql("SELECT pg_current_wal_lsn()");
            let received = "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())";
            let received = self.servers[new].sql(received);
            let difference = format!("SELECT '{written}'::pg_lsn - '{received}'::pg_lsn");
            lost = self.servers[old].sql(&difference).parse().unwrap_or(0);
            self.servers[old].kill();
        }
        self.servers[new].sql("SELECT pg_promote()");
        wait_ready("the new primary", &self.servers[new].log(), || self.primary() == Some(new))?;
        self.follow(old)?;
        Ok(lost)
    }

    /// Waits until the other server follows this primary.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_for_the_replica(&self, primary: usize) -> Result<()> {
        wait_for(&self.servers[1 - primary], &self.servers[primary])
    }

    /// Makes a server that does not run the replica of the other one.
    ///
    /// # Errors
    /// When it does not start.
    pub fn follow(&mut self, number: usize) -> Result<()> {
        let [first, second] = &mut self.servers;
        if number == 0 { follow(first, second) } else { follow(second, first) }
    }
}

/// Makes a server that does not run a replica with the data of the primary, and waits until it follows.
fn follow(replica: &mut Postgres, primary: &Postgres) -> Result<()> {
    let data = replica.data();
    if data.exists() {
        std::fs::remove_dir_all(&data)?;
    }
    let (from, port) = (primary.directory().display().to_string(), primary.port().to_string());
    let to = data.display().to_string();
    let source = ["-h", &from, "-p", &port, "-U", SUPERUSER, "-D", &to];
    let how = ["-R", "-X", "stream", "-c", "fast", "--no-sync"];
    template::run("pg_basebackup", source.into_iter().chain(how), "")?;
    replica.resume_after_kill()?;
    wait_for(replica, primary)
}

/// Waits until the replica follows.
fn wait_for(replica: &Postgres, primary: &Postgres) -> Result<()> {
    let follows = || primary.sql("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1";
    wait_ready("the replica", &replica.log(), follows)
}

impl Cluster for Pair {
    fn url(&self) -> String {
        let hosts: Vec<_> =
            self.servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
        url_by(&hosts)
    }

    fn ports(&self) -> Vec<u16> {
        self.servers.iter().map(Postgres::port).collect()
    }

    fn leader(&self) -> Option<usize> {
        self.primary()
    }

    fn id(&self, server: usize) -> Option<Pid> {
        Cluster::id(&self.servers[server], 0)
    }

    fn signal(&self, server: usize, signal: Signal) {
        Cluster::signal(&self.servers[server], 0, signal);
    }

    fn kill(&mut self, server: usize) {
        self.servers[server].kill();
    }

    fn resume_after_kill(&mut self, server: usize) -> Result<()> {
        self.servers[server].resume_after_kill()
    }
}

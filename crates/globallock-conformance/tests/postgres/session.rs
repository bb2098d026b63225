//! Sessions of users of the database, beside the locks.

use globallock_conformance::context::eventually;
use globallock_conformance::server::postgres::Postgres;
use tokio_postgres::{Client, Error, NoTls, SimpleQueryMessage};

/// A session, in which whatever is sent is one transaction until it ends.
pub(crate) struct Session(Client);

impl Session {
    pub(crate) async fn open(url: &str) -> Self {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        tokio::spawn(connection);
        Session(client)
    }

    /// One that has begun a transaction.
    pub(crate) async fn begin(url: &str) -> Self {
        let session = Session::open(url).await;
        session.run("BEGIN").await;
        session
    }

    pub(crate) async fn run(&self, statement: &str) {
        self.0.batch_execute(statement).await.unwrap();
    }

    /// The only value of the answer.
    pub(crate) async fn value(&self, statement: &str) -> Result<Option<String>, Error> {
        let answer = self.0.simple_query(statement).await?;
        let row = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(row.and_then(|row| row.get(0)).map(str::to_owned))
    }

    /// Takes a lock in its transaction, and returns its token.
    pub(crate) async fn lock(&self, name: &str, wait_ms: &str) -> Option<u64> {
        let statement = format!("SELECT globallock.transaction_lock_1('{name}', {wait_ms})");
        let token = self.value(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        token.map(|token| token.parse().unwrap())
    }

    /// Whether it gets this advisory lock at once.
    pub(crate) async fn takes(&self, key: &str) -> bool {
        self.value(&format!("SELECT pg_try_advisory_lock({key})")).await.unwrap().unwrap() == "t"
    }
}

/// Waits until so many sessions do the statement that has this in it.
pub(crate) async fn are_in(server: &Postgres, statement: &str, count: usize) {
    let counted = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() \
         AND query LIKE '%{statement}%'"
    );
    let count = count.to_string();
    eventually(&format!("{count} are in {statement}"), async || server.sql(&counted) == count).await;
}

//! Raw statements, and the server's own session locks as users write them: globallock is compared with these.

use std::time::{Duration, Instant};

use futures_util::stream;
use futures_util::{StreamExt, TryStreamExt};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, NoTls, Statement};

use crate::contend::{Contender, pause};
use crate::statistics::Times;

/// The key of the session lock.
const KEY: i64 = 7;
/// The pause of those that poll.
const POLL: Duration = Duration::from_millis(10);

/// Inserts a row, and deletes it.
const PAIR: [&str; 2] = [
    "INSERT INTO globallock.bench_raw (id, name, owner, joined) \
     VALUES ($1, 'bench', 'me', clock_timestamp())",
    "DELETE FROM globallock.bench_raw WHERE id = $1",
];

/// A connection, and what it is notified of.
pub(crate) struct Raw {
    client: Client,
    notified: UnboundedReceiver<Instant>,
}

impl Raw {
    pub(crate) async fn connect(url: &str) -> Self {
        let (client, mut connection) =
            tokio_postgres::connect(url, NoTls).await.expect("the server is there");
        let (sender, notified) = unbounded_channel();
        tokio::spawn(async move {
            let messages = stream::poll_fn(move |context| connection.poll_message(context));
            let heard = messages.try_for_each(|message| {
                if matches!(message, AsyncMessage::Notification(_)) {
                    // Whoever does not listen has no use for it.
                    let _ = sender.send(Instant::now());
                }
                async { Ok(()) }
            });
            // It ends with its client.
            let _ = heard.await;
        });
        Raw { client, notified }
    }

    /// Runs statements that answer nothing of interest.
    pub(crate) async fn run(&self, statements: &str) {
        self.client.batch_execute(statements).await.expect("the server does it");
    }

    /// Inserts a row and deletes it, each in a transaction of its own, by statements that the server is sent
    /// whole, as through a pooler.
    pub(crate) async fn pair(&self, number: i64) {
        for statement in PAIR {
            self.typed(statement, number).await;
        }
    }

    /// Has the server prepare the two statements of a pair, as it does for locks.
    pub(crate) async fn prepare(&self) -> Vec<Statement> {
        stream::iter(PAIR)
            .then(|text| self.client.prepare(text))
            .try_collect()
            .await
            .expect("the server does it")
    }

    /// The same pair by prepared statements.
    pub(crate) async fn prepared_pair(&self, pair: &[Statement], number: i64) {
        for statement in pair {
            self.client.execute(statement, &[&number]).await.expect("the server does it");
        }
    }

    async fn typed(&self, statement: &str, number: i64) {
        self.client.query_typed(statement, &[(&number, Type::INT8)]).await.expect("the server does it");
    }

    /// How long it takes from the request to notify until another connection has heard it, while as many
    /// `others` listen for something else. There is a pause before each request, as between hand-offs: a
    /// processor that has slept takes longer.
    pub(crate) async fn notifications(url: &str, count: usize, others: usize, rest: Duration) -> Times {
        let (teller, mut listener) = (Raw::connect(url).await, Raw::connect(url).await);
        listener.run("LISTEN bench_told").await;
        let others = connections(url, others).await;
        for other in &others {
            other.run("LISTEN bench_other").await;
        }
        let mut times = Times::default();
        for _ in 0..count {
            pause(rest).await;
            let began = Instant::now();
            teller.typed("SELECT pg_notify('bench_told', $1::text)", 7).await;
            let heard = listener.notified.recv().await.expect("the connection lives");
            times.push(heard.duration_since(began));
        }
        times
    }
}

/// An owner that waits in `pg_advisory_lock`, a connection each.
pub(crate) struct Blocking(pub(crate) Raw);

impl Contender for Blocking {
    type Held = ();

    async fn acquire(&mut self) {
        self.0.typed("SELECT pg_advisory_lock($1)", KEY).await;
    }

    async fn release(&mut self, (): ()) {
        self.0.typed("SELECT pg_advisory_unlock($1)", KEY).await;
    }
}

/// An owner that polls by `pg_try_advisory_lock`, as libraries without a thread to block do.
pub(crate) struct Polling(pub(crate) Raw);

impl Contender for Polling {
    type Held = ();

    async fn acquire(&mut self) {
        loop {
            let tried =
                self.0.client.query_typed("SELECT pg_try_advisory_lock($1)", &[(&KEY, Type::INT8)]).await;
            if tried.expect("the server answers")[0].get(0) {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn release(&mut self, (): ()) {
        self.0.typed("SELECT pg_advisory_unlock($1)", KEY).await;
    }
}

/// Several connections.
pub(crate) async fn connections(url: &str, count: usize) -> Vec<Raw> {
    stream::iter(0..count).then(|_| Raw::connect(url)).collect().await
}

//! How requests are sent.
//!
//! Every request is one transaction, and leaves nothing in the session. So it does not matter which
//! connection it takes, or whether a pooler gives it another session each time.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{join, join3, join5};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row, Statement};

use super::arguments::Argument;
use super::calls::{ANSWER, Call, FREQUENT, Plain};
use super::connection::{Connection, Live, timed_out};
use super::failure::{Failure, Kind};
use super::server::Opened;
use crate::stores::supervised::Supervised as _;
use crate::sync::Backoff;

/// How often a request is repeated because transactions were in each other's way.
const CONFLICTS: u32 = 5;
/// The shortest and the longest pause before that.
const CONFLICT: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));
/// How long a script may take that sets up the schema.
const SET_UP: Duration = Duration::from_secs(30);
/// Begins a transaction where it would be another one by itself.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// The parameters of a statement, and their types.
pub(super) type Parameters<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// What is sent.
#[derive(Clone, Copy)]
enum Request<'a> {
    Statement(&'a str, Parameters<'a>),
    Call(&'a Call, &'a [Argument<'a>]),
}

/// The statements that one connection has prepared.
#[derive(Default)]
pub(super) struct Prepared {
    statements: [OnceLock<Statement>; FREQUENT],
    is_begun: [AtomicBool; FREQUENT],
    /// Whether the server has forgotten them, as it does for a pooler that nobody has noticed.
    is_forgotten: AtomicBool,
}

impl Connection {
    /// Carries out one statement.
    pub(super) async fn query(
        self: &Arc<Self>,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Failure> {
        let request = Request::Statement(statement, parameters);
        self.request(request, request).await
    }

    /// Carries out a call, and returns its answer; `None` if that is of another shape. What is repeated on a
    /// new connection, because it may have been carried out though its answer was lost, has the arguments
    /// `again`.
    pub(super) async fn call(
        self: &Arc<Self>,
        call: &Call,
        arguments: &[Argument<'_>],
        again: &[Argument<'_>],
    ) -> Result<Option<String>, Failure> {
        let rows = self.request(Request::Call(call, arguments), Request::Call(call, again)).await?;
        Ok(rows.first().and_then(|row| row.try_get(0).ok()))
    }

    /// Carries out a request. Repeats it once on a new connection, and some times after a conflict with other
    /// transactions. Every request may be repeated safely.
    async fn request(
        self: &Arc<Self>,
        request: Request<'_>,
        again: Request<'_>,
    ) -> Result<Vec<Row>, Failure> {
        let (mut request, mut again, mut conflicts) = (request, Some(again), 0);
        let mut backoff = Backoff::new(CONFLICT);
        loop {
            let live = self.live().await?;
            match self.send(&live, request).await {
                Err(failure) if failure.kind == Kind::Disconnected => {
                    let Some(again) = again.take() else { return Err(failure) };
                    request = again;
                }
                Err(failure) if failure.is_conflict() && conflicts < CONFLICTS => {
                    conflicts += 1;
                    tokio::time::sleep(backoff.pause()).await;
                }
                Err(failure)
                    if failure.is_of_isolation() && !self.is_explicit.swap(true, Ordering::Relaxed) => {}
                other => return other,
            }
        }
    }

    /// Carries out several statements in one transaction. Not repeated.
    pub(super) async fn run(self: &Arc<Self>, script: &str) -> Result<(), Failure> {
        let live = self.live().await?;
        let mut busy = self.take(&live).await;
        let explicit;
        let script = if self.is_explicit(busy.opened()) {
            explicit = format!("SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;\n{script}");
            &explicit
        } else {
            script
        };
        let ran =
            timeout(SET_UP.max(self.config().timeout), busy.opened().client.batch_execute(script)).await;
        busy.answered();
        self.judge(&live, busy.opened(), ran)
    }

    async fn send(self: &Arc<Self>, live: &Live, request: Request<'_>) -> Result<Vec<Row>, Failure> {
        let mut busy = self.take(live).await;
        let opened = busy.opened();
        let is_explicit = self.is_explicit(opened);
        let asked = at_once(opened, async {
            match request {
                Request::Statement(statement, parameters) if is_explicit => {
                    explicitly(&opened.client, statement, parameters).await
                }
                Request::Statement(statement, parameters) => {
                    opened.client.query_typed(statement, parameters).await
                }
                Request::Call(Call { plain: Some(plain), .. }, arguments) => {
                    plainly(&opened.client, plain, arguments).await
                }
                Request::Call(call, arguments) => {
                    let parameters: Vec<_> = arguments.iter().map(Argument::parameter).collect();
                    if is_explicit {
                        let text = if opened.facts.is_pooled { &call.pooled } else { &call.function };
                        return explicitly(&opened.client, text, &parameters).await;
                    }
                    prepared(opened, call, &parameters).await
                }
            }
        });
        let answer = timeout(self.config().timeout, asked).await;
        busy.answered();
        self.judge(live, busy.opened(), answer)
    }

    fn is_explicit(&self, opened: &Opened) -> bool {
        opened.facts.is_explicit || self.is_explicit.load(Ordering::Relaxed)
    }

    /// Turns an error of the client into a failure, and gives up the connection if it is not usable any more.
    fn judge<T>(
        self: &Arc<Self>,
        live: &Live,
        opened: &Arc<Opened>,
        answer: Result<Result<T, Error>, tokio::time::error::Elapsed>,
    ) -> Result<T, Failure> {
        let failure = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Failure::from(error),
            Err(_) => {
                // What the server still does for this request may block others.
                let (this, opened) = (Arc::clone(self), Arc::clone(opened));
                tokio::spawn(async move { this.config().cancel(&opened).await });
                timed_out()
            }
        };
        if failure.kind == Kind::Disconnected {
            self.lose(live, opened, failure.clone());
        }
        Err(failure)
    }
}

/// Sends what a request sends at first, which is all of it, with nothing of another one in between: that
/// would be in the transaction of this one.
async fn at_once<T>(opened: &Opened, request: impl Future<Output = T>) -> T {
    let (mut request, mut is_sent) = (pin!(request), false);
    poll_fn(|context| {
        let _turn = (!std::mem::replace(&mut is_sent, true)).then(|| opened.sending.lock());
        request.as_mut().poll(context)
    })
    .await
}

/// Carries out a statement in a transaction that says what it is. All is sent at once, so that this takes one
/// round trip too.
async fn explicitly(client: &Client, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Error> {
    let (begun, answer, ended) =
        join3(client.batch_execute(BEGIN), client.query_typed(statement, parameters), end(client)).await;
    begun?;
    let answer = answer?;
    ended.map(|()| answer)
}

/// Carries out a call without a function, in one round trip.
async fn plainly(client: &Client, plain: &Plain, arguments: &[Argument<'_>]) -> Result<Vec<Row>, Error> {
    let settings: Vec<String> = arguments.iter().map(Argument::setting).collect();
    let settings: Vec<_> =
        settings.iter().map(|setting| (setting as &(dyn ToSql + Sync), Type::TEXT)).collect();
    let (begun, given, done, answer, ended) = join5(
        client.batch_execute(BEGIN),
        client.query_typed(&plain.gives, &settings),
        client.batch_execute(&plain.does),
        client.query_typed(ANSWER, &[]),
        end(client),
    )
    .await;
    begun?;
    given?;
    done?;
    let answer = answer?;
    ended.map(|()| answer)
}

fn end(client: &Client) -> impl Future<Output = Result<(), Error>> {
    client.batch_execute("COMMIT")
}

/// Calls a function by a statement that the server has prepared, or else has it prepare one beside this call.
/// What is prepared stays with the session, so that a pooler gets none.
async fn prepared(opened: &Opened, call: &Call, parameters: Parameters<'_>) -> Result<Vec<Row>, Error> {
    let (client, prepared) = (&opened.client, &opened.prepared);
    if opened.facts.is_pooled {
        return client.query_typed(&call.pooled, parameters).await;
    }
    let is_forgotten = prepared.is_forgotten.load(Ordering::Relaxed);
    let Some(place) = call.frequent.filter(|_| !is_forgotten) else {
        return client.query_typed(&call.function, parameters).await;
    };
    if let Some(statement) = prepared.statements[place].get() {
        let values: Vec<_> = parameters.iter().map(|(value, _)| *value).collect();
        match client.query(statement, &values).await {
            Err(error) if error.code() == Some(&SqlState::INVALID_SQL_STATEMENT_NAME) => {
                prepared.is_forgotten.store(true, Ordering::Relaxed);
            }
            answer => return answer,
        }
    } else if !prepared.is_begun[place].swap(true, Ordering::Relaxed) {
        let types: Vec<_> = parameters.iter().map(|(_, kind)| kind.clone()).collect();
        let asked = client.query_typed(&call.function, parameters);
        let (answer, statement) = join(asked, client.prepare_typed(&call.function, &types)).await;
        if let Ok(statement) = statement {
            let _ = prepared.statements[place].set(statement);
        }
        return answer;
    }
    client.query_typed(&call.function, parameters).await
}

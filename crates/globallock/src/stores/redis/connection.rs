//! The connection: one for all requests and pushes of a store, made again whenever it breaks.
//!
//! The client crate's own connection manager can neither follow a failover by sentinels nor say that a
//! subscription was interrupted. Both matter here, so this supervises the crate's plain multiplexed
//! connection.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, PushInfo, PushKind, Value};
use tokio::sync::watch;

use super::config::Config;
use super::failure::{Failure, Kind};
use super::scripts::Scripts;
use super::texts::EVERYBODY;
use crate::backend::StoreNoticeKind;
use crate::stores::notices::StoreNotices;
use crate::sync::Backoff;

/// The shortest and the longest pause between two tries to connect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// A connection that breaks within this time is not replaced at once, because the next one may break as soon.
/// The second value is the longest pause before it is replaced.
const STEADY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(100));
/// How many requests may be queued for the socket.
const QUEUED_REQUESTS: usize = 4096;

/// What a connection reports to its store.
pub(super) trait Listener: Send + Sync + 'static {
    /// A message has arrived on the store's channel, or on that of all stores.
    fn message(&self, text: &str);
    /// The subscription was interrupted: messages may have been lost.
    fn resubscribed(&self);
}

/// A supervised connection.
pub(super) struct Connection {
    config: Config,
    channel: String,
    scripts: Scripts,
    state: watch::Sender<State>,
    listener: Arc<dyn Listener>,
    pub(super) notices: StoreNotices,
}

/// Whether the connection is usable now, and what was tried since it broke.
#[derive(Clone)]
struct State {
    live: Option<Live>,
    /// How many tries to connect have failed since it broke.
    failed: u64,
    /// Why the last try failed, or why the connection broke.
    failure: Option<Failure>,
    /// How long the first try waited.
    pause: Duration,
}

#[derive(Clone)]
struct Live {
    number: u64,
    since: Instant,
    connection: MultiplexedConnection,
}

impl Connection {
    /// Connects, subscribes to `channel`, and checks that the server can serve.
    pub(super) async fn connect(
        config: Config,
        channel: String,
        listener: Arc<dyn Listener>,
    ) -> Result<Arc<Self>, Failure> {
        let state = State { live: None, failed: 0, failure: None, pause: Duration::ZERO };
        let this = Arc::new(Connection {
            config,
            channel,
            scripts: Scripts::new(),
            state: watch::Sender::new(state),
            listener,
            notices: StoreNotices::default(),
        });
        this.open(1).await?;
        Ok(this)
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn scripts(&self) -> &Scripts {
        &self.scripts
    }

    /// Sends one request. Repeats it once on a new connection, and once after loading the scripts again.
    /// Every request may be repeated safely.
    pub(super) async fn request(self: &Arc<Self>, command: &Cmd) -> Result<Value, Failure> {
        self.request_or(command, || command.clone()).await
    }

    /// The same; but what is repeated on a new connection, because it may have been carried out though its
    /// answer was lost, is what `again` makes.
    pub(super) async fn request_or(
        self: &Arc<Self>,
        command: &Cmd,
        again: impl FnOnce() -> Cmd + Send,
    ) -> Result<Value, Failure> {
        let (mut again, mut repeated, mut loaded) = (Some(again), None, false);
        loop {
            let live = self.live().await?;
            match self.send(&live, repeated.as_ref().unwrap_or(command)).await {
                Err(failure) if failure.kind == Kind::NoScript && !loaded => {
                    loaded = true;
                    self.load_scripts(&live).await?;
                }
                Err(failure) if failure.kind == Kind::Disconnected => {
                    let Some(again) = again.take() else { return Err(failure) };
                    repeated = Some(again());
                }
                other => return other,
            }
        }
    }

    async fn send(self: &Arc<Self>, live: &Live, command: &Cmd) -> Result<Value, Failure> {
        let answer = live.connection.clone().send_packed_command(command).await;
        self.judge(live, answer.and_then(Value::extract_error))
    }

    /// Sends several requests at once and returns their answers in the same order.
    pub(super) async fn requests(
        self: &Arc<Self>,
        commands: &redis::Pipeline,
        count: usize,
    ) -> Vec<Result<Value, Failure>> {
        let once = async || {
            let live = self.live().await?;
            let answers = live.connection.clone().send_packed_commands(commands, 0, count).await;
            let answers = self.judge(&live, answers)?;
            let answers: Vec<_> =
                answers.into_iter().map(|answer| self.judge(&live, answer.extract_error())).collect();
            if answers
                .iter()
                .any(|answer| answer.as_ref().is_err_and(|failure| failure.kind == Kind::NoScript))
            {
                self.load_scripts(&live).await?;
                return Err(Failure::new(Kind::NoScript, "it has forgotten a script"));
            }
            Ok(answers)
        };
        let mut answers = once().await;
        if answers.as_ref().is_err_and(|failure| failure.kind == Kind::NoScript) {
            answers = once().await;
        }
        match answers {
            Ok(answers) => answers,
            Err(failure) => vec![Err(failure); count],
        }
    }

    async fn load_scripts(self: &Arc<Self>, live: &Live) -> Result<(), Failure> {
        for script in self.scripts.all() {
            self.judge(live, script.load_async(&mut live.connection.clone()).await)?;
        }
        Ok(())
    }

    /// Turns an error of the client into a failure, and gives up the connection if it is not usable any more.
    fn judge<T>(self: &Arc<Self>, live: &Live, answer: redis::RedisResult<T>) -> Result<T, Failure> {
        answer.map_err(|error| {
            let failure = Failure::from(error);
            if failure.kind == Kind::Disconnected {
                self.give_up(live.number, failure.clone());
            }
            failure
        })
    }

    /// Returns the connection. While it is broken, waits for the result of the next try to connect.
    async fn live(&self) -> Result<Live, Failure> {
        if let Some(live) = &self.state.borrow().live {
            return Ok(live.clone());
        }
        let mut state = self.state.subscribe();
        let failed = state.borrow_and_update().failed;
        let settled = state.wait_for(|state| state.live.is_some() || state.failed > failed);
        match tokio::time::timeout(self.config.timeout, settled).await {
            Ok(Ok(state)) => match (&state.live, &state.failure) {
                (Some(live), _) => Ok(live.clone()),
                (None, Some(failure)) => Err(failure.clone()),
                (None, None) => Err(timed_out()),
            },
            Ok(Err(_)) | Err(_) => Err(timed_out()),
        }
    }

    /// Declares connection `number` broken and starts to connect again, unless that has been done already.
    fn give_up(self: &Arc<Self>, number: u64, failure: Failure) {
        let mut first = Duration::ZERO;
        let broke = self.state.send_if_modified(|state| {
            let Some(live) = state.live.take_if(|live| live.number == number) else { return false };
            if live.since.elapsed() < STEADY.0 {
                first = (state.pause * 2).clamp(PAUSE.0, STEADY.1);
            }
            self.notices.say(StoreNoticeKind::ConnectionLost, failure.reason());
            *state = State { live: None, failed: 0, failure: Some(failure), pause: first };
            true
        });
        if broke {
            tokio::spawn(reconnect(Arc::downgrade(self), number + 1, first));
        }
    }

    /// Opens connection `number` and makes it the current one.
    async fn open(self: &Arc<Self>, number: u64) -> Result<(), Failure> {
        let client = self.config.client().await?;
        let this = Arc::downgrade(self);
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.config.timeout))
            .set_response_timeout(Some(self.config.timeout))
            .set_pipeline_buffer_size(QUEUED_REQUESTS)
            .set_push_sender(move |push| {
                if let Some(this) = this.upgrade() {
                    this.pushed(number, &push);
                }
                Ok::<(), ()>(())
            });
        let mut connection = client.get_multiplexed_async_connection_with_config(&settings).await?;
        self.check(&mut connection).await?;
        connection.subscribe(&self.channel).await?;
        match connection.subscribe(EVERYBODY).await.map_err(Failure::from) {
            // Evicted owners learn of it at their next renewal.
            Err(failure) if failure.kind == Kind::PermissionDenied => {}
            subscribed => subscribed?,
        }
        self.state.send_modify(|state| {
            let live = Some(Live { number, since: Instant::now(), connection });
            *state = State { live, failed: 0, failure: None, pause: state.pause };
        });
        Ok(())
    }

    /// Refuses a server that cannot serve, and warns of one that may drop locks.
    async fn check(&self, connection: &mut MultiplexedConnection) -> Result<(), Failure> {
        let info: redis::RedisResult<redis::InfoDict> = redis::cmd("INFO").query_async(connection).await;
        let info = match info.map_err(Failure::from) {
            Ok(info) => info,
            // The user may lack the right to INFO: then trust that the operator has checked the server.
            Err(failure) if failure.kind == Kind::PermissionDenied => return Ok(()),
            Err(failure) => return Err(failure),
        };
        let Some(version) = info.get::<String>("redis_version") else {
            return Err(Failure::new(
                Kind::FailedPrecondition,
                "it does not answer as Redis does: check the address",
            ));
        };
        if version.split('.').next().and_then(|major| major.parse().ok()).is_some_and(|major: u32| major < 7)
        {
            return Err(Failure::new(
                Kind::FailedPrecondition,
                format!("it is Redis {version}: globallock needs 7 or newer"),
            ));
        }
        let policy: String = info.get("maxmemory_policy").unwrap_or_default();
        let limit: u64 = info.get("maxmemory").unwrap_or_default();
        if limit > 0 && policy != "noeviction" {
            let policy = policy.escape_debug();
            let reason = format!(
                "it may evict locks when its memory is full: set maxmemory-policy to noeviction, not {policy}"
            );
            self.notices.say(StoreNoticeKind::MayLoseClaims, &reason);
        }
        Ok(())
    }

    fn is_current(&self, number: u64) -> bool {
        self.state.borrow().live.as_ref().is_some_and(|live| live.number == number)
    }

    fn pushed(self: &Arc<Self>, number: u64, push: &PushInfo) {
        match push.kind {
            PushKind::Disconnection => {
                self.give_up(
                    number,
                    Failure::new(Kind::Disconnected, "the server has closed the connection"),
                );
            }
            // A connection that was given up may stay subscribed until its last request is answered. Its
            // messages are ignored: the next connection receives them too, and once it is subscribed all
            // waiters ask the server again.
            PushKind::Message if self.is_current(number) => {
                let text = push.data.get(1).and_then(|value| match value {
                    Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
                    _ => None,
                });
                if let Some(text) = text {
                    self.listener.message(text);
                }
            }
            _ => {}
        }
    }
}

fn timed_out() -> Failure {
    Failure::new(Kind::Disconnected, "no connection could be made in time")
}

/// Tries to connect until it succeeds or the store is dropped.
async fn reconnect(connection: Weak<Connection>, number: u64, first: Duration) {
    tokio::time::sleep(first).await;
    let mut backoff = Backoff::new((PAUSE.0.max(first * 2), PAUSE.1));
    loop {
        let Some(connection) = connection.upgrade() else { return };
        match connection.open(number).await {
            Ok(()) => return connection.listener.resubscribed(),
            Err(failure) => {
                connection.notices.say(StoreNoticeKind::NotConnected, failure.reason());
                connection.state.send_modify(|state| {
                    state.failed += 1;
                    state.failure = Some(failure);
                });
            }
        }
        drop(connection);
        tokio::time::sleep(backoff.pause()).await;
    }
}

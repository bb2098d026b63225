//! The connection: one for all requests and pushes of a store, made again whenever it breaks.
//!
//! The client crate's own connection manager can neither follow a failover by sentinels nor say that a
//! subscription was interrupted. Both matter here, so this supervises the crate's plain multiplexed
//! connection.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, PushInfo, PushKind, Value};

use super::config::Config;
use super::facts;
use super::failure::{Failure, Kind};
use super::scripts::{Commands, Scripts, all_rewritten, rewritten, scripts};
use super::server::Opened;
use super::texts::EVERYBODY;
use crate::backend::StoreNoticeKind;
use crate::stores::supervised::{Supervised, Supervisor};
use crate::stores::transport::IN_TIME;

/// How many requests may be queued for the socket.
const QUEUED_REQUESTS: usize = 4096;

/// What a connection reports to its store.
pub(super) trait Listener: Send + Sync + 'static {
    /// A message has arrived on the store's channel, or on that of all stores.
    fn message(&self, text: &str);
    /// A key that the server watches has changed; all may have changed without a key.
    fn changed(&self, key: Option<&str>);
    /// The subscription was interrupted: messages may have been lost.
    fn resubscribed(&self);
}

/// A supervised connection.
pub(super) struct Connection {
    config: Config,
    channel: String,
    pub(super) supervisor: Supervisor<Live, Failure>,
    listener: Arc<dyn Listener>,
}

#[derive(Clone)]
pub(super) struct Live {
    number: u64,
    commands: Commands,
    /// Whether the server watches keys.
    watches: bool,
    opened: Arc<Opened>,
}

impl Connection {
    /// A connection that is made by the first request. It then subscribes to `channel`, and checks that the
    /// server can serve.
    pub(super) fn new(config: Config, channel: String, listener: Arc<dyn Listener>) -> Arc<Self> {
        Arc::new(Connection { config, channel, supervisor: Supervisor::new(), listener })
    }

    /// Whether the server says when a key changes that it was asked to watch.
    pub(super) fn watches(&self) -> bool {
        self.supervisor.is_some_and(|live| live.watches)
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// The scripts that requests call. A connection to an older server rewrites what it sends.
    pub(super) fn scripts(&self) -> &'static Scripts {
        scripts(Commands::Redis7)
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
                    Box::pin(self.load_scripts(&live)).await?;
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
        let mut connection = live.opened.connection.clone();
        let answer = match live.commands {
            Commands::Redis7 => connection.send_packed_command(command).await,
            Commands::Redis6 => {
                let rewritten = rewritten(command);
                Box::pin(connection.send_packed_command(&rewritten)).await
            }
        };
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
            let mut connection = live.opened.connection.clone();
            let answers = match live.commands {
                Commands::Redis7 => connection.send_packed_commands(commands, 0, count).await,
                Commands::Redis6 => connection.send_packed_commands(&all_rewritten(commands), 0, count).await,
            };
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
        for script in scripts(live.commands).all() {
            self.judge(live, script.load_async(&mut live.opened.connection.clone()).await)?;
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

    /// Refuses a server that cannot serve, and warns of one that may drop locks. Returns which commands it
    /// has.
    async fn check(&self, connection: &mut MultiplexedConnection) -> Result<Commands, Failure> {
        let server = facts::ask(connection).await?;
        if let Some(reason) = server.may_drop_locks {
            self.supervisor.notices.say(StoreNoticeKind::MayLoseClaims, &reason);
        }
        Ok(self.config.commands.unwrap_or(server.commands))
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
            PushKind::Message if self.supervisor.is_current(number) => {
                let text = push.data.get(1).and_then(|value| match value {
                    Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
                    _ => None,
                });
                if let Some(text) = text {
                    self.listener.message(text);
                }
            }
            PushKind::Invalidate if self.supervisor.is_current(number) => match push.data.first() {
                Some(Value::Array(keys)) => keys.iter().for_each(|key| {
                    if let Value::BulkString(key) = key {
                        self.listener.changed(std::str::from_utf8(key).ok());
                    }
                }),
                _ => self.listener.changed(None),
            },
            _ => {}
        }
    }
}

impl Supervised for Connection {
    type Live = Live;
    type Failure = Failure;

    fn supervisor(&self) -> &Supervisor<Live, Failure> {
        &self.supervisor
    }

    async fn open(self: &Arc<Self>, number: u64) -> Result<Live, Failure> {
        let settings = || {
            let this = Arc::downgrade(self);
            AsyncConnectionConfig::new()
                .set_response_timeout(Some(self.config.timeout))
                .set_pipeline_buffer_size(QUEUED_REQUESTS)
                .set_push_sender(move |push| {
                    if let Some(this) = this.upgrade() {
                        this.pushed(number, &push);
                    }
                    Ok::<(), ()>(())
                })
        };
        let opened = Arc::new(self.config.connect(settings).await?);
        let mut connection = opened.connection.clone();
        let commands = self.check(&mut connection).await?;
        connection.subscribe(&self.channel).await?;
        match connection.subscribe(EVERYBODY).await.map_err(Failure::from) {
            // Evicted owners learn of it at their next renewal.
            Err(failure) if failure.kind == Kind::PermissionDenied => {}
            subscribed => subscribed?,
        }
        // Without the right to publish, no waiter would learn of its grant. It is better to know it now.
        let published: redis::RedisResult<Value> =
            redis::cmd("PUBLISH").arg(&self.channel).arg("").query_async(&mut connection).await;
        published?;
        let watches = self.config.gap.is_some() && watches_keys(&mut connection).await;
        Ok(Live { number, commands, watches, opened })
    }

    /// The client does not tell. The next request finds out.
    fn ended(_live: &Live) -> Option<Failure> {
        None
    }

    fn given_up(&self, _live: &Live) {}

    fn reopened(&self) {
        self.listener.resubscribed();
    }

    fn longest_try(&self) -> Duration {
        self.config.longest_try()
    }

    fn timed_out() -> Failure {
        Failure::new(Kind::Disconnected, IN_TIME)
    }

    fn may_heal(failure: &Failure) -> bool {
        failure.may_heal()
    }

    fn reason(&self, failure: &Failure) -> String {
        self.config.reason(failure)
    }
}

/// Makes the server ready to watch the keys that it is asked to. A user without the right to it polls.
///
/// The server also tells of our own writes: with NOLOOP it would not, and would watch the key no longer.
async fn watches_keys(connection: &mut MultiplexedConnection) -> bool {
    let mut command = redis::cmd("CLIENT");
    command.arg("TRACKING").arg("ON").arg("OPTIN");
    command.query_async::<Value>(connection).await.is_ok()
}

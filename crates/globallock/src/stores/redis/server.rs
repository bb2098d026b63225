//! One connection to the server that takes writes: the one that the address names, or that sentinels name.

use std::time::Duration;

use futures_util::future::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult, Value,
    cmd,
};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::config::{Config, Login, Place, Sentinels, Target};
use super::facts;
use super::failure::{Failure, Kind};
use crate::stores::address::authority;
use crate::stores::address::password::NoLogin;
use crate::stores::transport::{Heard, IN_TIME, Transport};

/// What an answer in RESP3 begins with.
const TYPES: &[u8] = b"+-:$*_,#!=(%~>|";

/// A connection after its login. It is closed when this is dropped, also while an answer is awaited.
pub(super) struct Opened {
    pub(super) connection: MultiplexedConnection,
    driver: AbortHandle,
}

/// A step on the way to a primary: a sentinel has named one, or one was tried.
enum Step {
    Named(Result<Place, Failure>),
    Tried(Result<Opened, Failure>),
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Config {
    /// Connects to the server that takes writes now, and logs in.
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    pub(super) async fn connect(
        &self,
        settings: impl Fn() -> AsyncConnectionConfig + Sync,
    ) -> Result<Opened, Failure> {
        match &self.target {
            Target::Server(place) => {
                self.open(&self.transport, place, &self.login, self.db, settings()).await
            }
            Target::Sentinels(sentinels) => self.connect_to_primary(sentinels, settings).await,
        }
    }

    /// Asks all sentinels at once, and takes the first server that one names and that says itself that it
    /// is the primary: a sentinel that was cut off may name an earlier one.
    async fn connect_to_primary(
        &self,
        sentinels: &Sentinels,
        settings: impl Fn() -> AsyncConnectionConfig + Sync,
    ) -> Result<Opened, Failure> {
        let settings = &settings;
        let mut steps = FuturesUnordered::new();
        for host in &sentinels.hosts {
            steps.push(async move { Step::Named(self.ask_sentinel(host, sentinels).await) }.boxed());
        }
        let (mut tried, mut failures, mut of_sentinels) = (Vec::new(), Vec::new(), Vec::new());
        // The others are heard while one primary is tried, so that a dead one costs no sentinel its say.
        while let Some(step) = steps.next().await {
            match step {
                Step::Named(Ok(place)) if tried.contains(&place) => {}
                Step::Named(Ok(place)) => {
                    tried.push(place.clone());
                    let opening =
                        async move { Step::Tried(self.open_primary(&place, settings()).await) }.boxed();
                    steps.push(opening);
                }
                Step::Tried(Ok(opened)) => return Ok(opened),
                Step::Tried(Err(failure)) => failures.push(failure),
                Step::Named(Err(failure)) => of_sentinels.push(failure),
            }
        }
        // What the primaries say counts. That a sentinel is dead is no reason to try a wrong password again.
        if !failures.iter().any(Failure::is_of_server) {
            failures.append(&mut of_sentinels);
        }
        Err(Failure::of_all(&failures))
    }

    async fn open_primary(&self, place: &Place, settings: AsyncConnectionConfig) -> Result<Opened, Failure> {
        let mut opened = self.open(&self.transport, place, &self.login, self.db, settings).await?;
        is_primary(&mut opened.connection).await?;
        Ok(opened)
    }

    /// Asks one sentinel where the primary is.
    pub(super) async fn ask_sentinel(
        &self,
        host: &(String, u16),
        sentinels: &Sentinels,
    ) -> Result<Place, Failure> {
        let (host, port) = host;
        let named = async {
            let settings = AsyncConnectionConfig::new().set_response_timeout(Some(self.timeout));
            let place = Place::Tcp(host.clone(), *port);
            let mut opened = self.open(&self.to_sentinels, &place, &sentinels.login, 0, settings).await?;
            let asked = cmd("SENTINEL").arg("MASTER").arg(&sentinels.service).clone();
            let known: Value = asked.query_async(&mut opened.connection).await?;
            primary_in(known)
        };
        named.await.map_err(|failure: Failure| failure.of_sentinel(&authority(host, *port)))
    }

    /// Connects to one server and logs in, with the password as it is now.
    async fn open(
        &self,
        transport: &Transport,
        place: &Place,
        login: &Login,
        db: i64,
        settings: AsyncConnectionConfig,
    ) -> Result<Opened, Failure> {
        let login = login.read(self.timeout).await?;
        let failure = match self.open_by(ProtocolVersion::RESP3, transport, place, &login, db, settings).await
        {
            Err(failure) if !failure.may_heal() => failure,
            opened => return opened,
        };
        // A server that is too old says only that it does not know HELLO; a sentinel or a node of a cluster,
        // only that it has no databases. INFO says what they are.
        let protocol = match (failure.lacks_resp3(), failure.is_of_database()) {
            (true, _) => ProtocolVersion::RESP2,
            (false, true) => ProtocolVersion::RESP3,
            (false, false) => return Err(failure),
        };
        let settings = AsyncConnectionConfig::new().set_response_timeout(Some(self.timeout));
        Err(match self.open_by(protocol, transport, place, &login, 0, settings).await {
            Ok(mut opened) => facts::refusal(&mut opened.connection).await.unwrap_or(failure),
            Err(_) => failure,
        })
    }

    async fn open_by(
        &self,
        protocol: ProtocolVersion,
        transport: &Transport,
        place: &Place,
        LoginNow { login, password }: &LoginNow<'_>,
        db: i64,
        settings: AsyncConnectionConfig,
    ) -> Result<Opened, Failure> {
        let opened = timeout(self.timeout, async {
            let stream = match place {
                Place::Tcp(host, port) => transport.connect(host, *port).await?,
                Place::Unix(path) => Transport::connect_unix(path).await?,
            };
            let mut info = RedisConnectionInfo::default()
                .set_db(db)
                .set_protocol(protocol)
                .set_lib_name("globallock", env!("CARGO_PKG_VERSION"));
            if let Some(user) = &login.user {
                info = info.set_username(user);
            }
            if let Some(password) = password {
                info = info.set_password(password);
            }
            let (heard, connected_in) = (stream.heard(), stream.connected_in());
            let greeting = Box::pin(MultiplexedConnection::new_with_config(&info, stream, settings));
            let greeted = match place {
                Place::Tcp(host, port) => {
                    transport.greeted((host, *port), (&heard, connected_in), greeting).await?
                }
                Place::Unix(_) => greeting.await,
            };
            match greeted {
                Ok((connection, driver)) => {
                    transport.accept(&heard);
                    login.accepted();
                    Ok(Opened { connection, driver: tokio::spawn(driver).abort_handle() })
                }
                Err(error) => Err(refusal(transport, place, error, &heard).await),
            }
        });
        match (opened.await, place) {
            (Ok(Ok(opened)), _) => Ok(opened),
            (Ok(Err(failure)), _) => Err(login.judged(failure, password.as_deref(), self.timeout).await),
            (Err(_), Place::Tcp(host, port)) => Err(transport.silent(host, *port).await.into()),
            (Err(_), Place::Unix(_)) => Err(Failure::new(Kind::Disconnected, IN_TIME)),
        }
    }
}

/// Why a server, or something that is none, did not accept the connection.
async fn refusal(transport: &Transport, place: &Place, error: RedisError, heard: &Heard) -> Failure {
    if let Some(unreached) = transport.explain(Some(&error), heard) {
        return unreached.into();
    }
    let said = heard.bytes();
    // A greeting that begins as one of Redis was cut off with the connection.
    if error.kind() == ErrorKind::Parse && !said.first().is_some_and(|byte| TYPES.contains(byte)) {
        let words = heard.words();
        let reason = format!("it does not answer as Redis does, but \"{words}\": check host and port");
        return transport.refused(reason).into();
    }
    let failure = Failure::from(error);
    if failure.kind != Kind::Disconnected {
        return failure;
    }
    // What a server says to everybody who connects, before it closes the connection: that it has too many
    // clients, or accepts none from other hosts.
    match (redis::parse_redis_value(&said).and_then(Value::extract_error), place) {
        (Err(error), _) if error.code().is_some() => error.into(),
        (_, Place::Tcp(host, port)) if said.is_empty() => {
            transport.closed_without_a_word(host, *port).await.into()
        }
        _ => failure,
    }
}

/// A login with the password as it is now, if there is one.
struct LoginNow<'a> {
    login: &'a Login,
    password: Option<String>,
}

impl Login {
    /// Reads the password, if there is one. A server would not wait for that, so it comes first.
    async fn read(&self, limit: Duration) -> Result<LoginNow<'_>, Failure> {
        let Some(password) = &self.password else { return Ok(LoginNow { login: self, password: None }) };
        match password.read_for_login(limit).await {
            Ok(read) => Ok(LoginNow { login: self, password: Some(read) }),
            Err(NoLogin { why, may_heal: true }) => Err(Failure::new(Kind::NotNow, why)),
            Err(NoLogin { why, may_heal: false }) => Err(Failure::new(Kind::PermissionDenied, why)),
        }
    }

    fn accepted(&self) {
        if let Some(password) = &self.password {
            password.accepted();
        }
    }

    /// What a failed login with this password means, which may be another one now.
    async fn judged(&self, failure: Failure, used: Option<&str>, limit: Duration) -> Failure {
        match (&self.password, used) {
            (Some(password), Some(used)) if failure.is_wrong_login() => {
                failure.of_login(password.refused(used, limit).await)
            }
            _ => failure,
        }
    }
}

/// Reads what a sentinel knows of a primary, which is a map.
fn primary_in(known: Value) -> Result<Place, Failure> {
    let known: std::collections::HashMap<String, String> =
        redis::from_redis_value(known).map_err(RedisError::from)?;
    let field = |name: &str| known.get(name).map(String::as_str).unwrap_or_default();
    let is_down = field("flags").split(',').any(|flag| matches!(flag, "s_down" | "o_down"));
    match (field("ip"), field("port").parse()) {
        _ if is_down => Err(Failure::new(
            Kind::Disconnected,
            "the primary is down, and no other is chosen yet: check that a majority of the sentinels \
                 runs, and a replica that they know",
        )),
        (host, Ok(port)) if !host.is_empty() => Ok(Place::Tcp(host.to_owned(), port)),
        _ => Err(Failure::new(Kind::FailedPrecondition, "it does not answer as a sentinel does")),
    }
}

/// Asks a server whether it is the primary. A server that does not say is found out by the
/// first request.
async fn is_primary(connection: &mut MultiplexedConnection) -> Result<(), Failure> {
    let role: RedisResult<Vec<Value>> = cmd("ROLE").query_async(connection).await;
    match role.map_err(Failure::from) {
        Ok(role) if role.first() == Some(&Value::BulkString(b"master".to_vec())) => Ok(()),
        Ok(_) => Err(Failure::new(Kind::Disconnected, "the sentinels name a server that is no primary yet")),
        Err(failure) if failure.may_heal() => Err(failure),
        Err(_) => Ok(()),
    }
}

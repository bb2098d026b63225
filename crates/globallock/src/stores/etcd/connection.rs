//! Requests to a cluster: to one member after the other until one answers, with a fresh token where one is wanted.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use tokio::time::{Instant, timeout_at};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
#[cfg(not(test))]
use tonic::transport::Channel as Member;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::config::Config;
use super::messages::{AuthenticateRequest, AuthenticateResponse, Empty, StatusResponse};
#[cfg(test)]
use super::scripted::Member;
use crate::error::{Error, Result};

/// How long to wait before the same members are asked again, in an election for example.
const PAUSE: Duration = Duration::from_millis(100);
/// How many tokens are asked for on behalf of one request: the users may change while it is on its way.
const TOKENS: u32 = 3;

/// The members of one cluster.
pub(super) struct Connection {
    config: Config,
    /// The member that answered last.
    member: AtomicUsize,
    token: Mutex<Option<Token>>,
    /// One asks for a token, the others wait for it.
    authenticating: tokio::sync::Mutex<()>,
    /// Asked in the place of all members.
    #[cfg(test)]
    scripted: Option<Member>,
}

/// What the cluster knows a user by, for a while.
pub(super) type Token = MetadataValue<Ascii>;

impl Connection {
    /// A link that has not asked for anything yet.
    pub(super) fn new(config: Config) -> Self {
        let (member, token) = (AtomicUsize::new(0), Mutex::new(None));
        Connection {
            config,
            member,
            token,
            authenticating: tokio::sync::Mutex::new(()),
            #[cfg(test)]
            scripted: None,
        }
    }

    #[cfg(test)]
    pub(super) fn script(&mut self, member: Member) {
        self.scripted = Some(member);
    }

    /// Checks that the cluster answers, knows the user, and is new enough.
    pub(super) async fn connect(config: Config) -> Result<Self> {
        let connection = Connection::new(config);
        if connection.config.login.is_some() {
            connection.authenticate().await.map_err(|status| connection.error(status))?;
        }
        let status: StatusResponse = connection.unary("/etcdserverpb.Maintenance/Status", Empty {}).await?;
        let mut parts = status.version.split('.').map_while(|part| part.parse::<u32>().ok());
        if let (Some(major), Some(minor)) = (parts.next(), parts.next())
            && (major, minor) < (3, 4)
        {
            let version = status.version;
            return Err(Error::failed_precondition(
                &connection.config.shown,
                format!("it is etcd {version}: globallock needs 3.4 or newer"),
            ));
        }
        Ok(connection)
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Sends one request, which must bear repetition, until a member answers it or the time for it is over.
    pub(super) async fn unary<Q, A>(&self, path: &'static str, request: Q) -> Result<A>
    where
        Q: Message + Clone + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.ask(path, request).await.0
    }

    /// As `unary`, and says whether the request was sent without being answered, so that it may yet arrive.
    pub(super) async fn ask<Q, A>(&self, path: &'static str, request: Q) -> (Result<A>, bool)
    where
        Q: Message + Clone + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut unanswered = false;
        let answer = self.try_members(path, request, &mut unanswered).await;
        (answer, unanswered)
    }

    async fn try_members<Q, A>(&self, path: &'static str, request: Q, unanswered: &mut bool) -> Result<A>
    where
        Q: Message + Clone + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let give_up = Instant::now() + self.config.timeout;
        let (mut tried, mut tokens) = (0, 0);
        loop {
            let member = self.member.load(Ordering::Relaxed);
            // A member that is silent must leave time for the others.
            let per_member =
                if self.config.channels.len() > 1 { self.config.timeout / 2 } else { self.config.timeout };
            let limit = give_up.min(Instant::now() + per_member);
            let token = self.token();
            let answer = timeout_at(limit, self.once(member, path, request.clone(), token.clone())).await;
            let mut status = match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("it did not answer in time"),
            };
            if tokens < TOKENS {
                match self.refresh_token(&status, token).await {
                    Ok(true) => {
                        tokens += 1;
                        continue;
                    }
                    Ok(false) => {}
                    Err(failed) => status = failed,
                }
            }
            tried += 1;
            if !matches!(
                status.code(),
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown
            ) {
                return Err(self.error(status));
            }
            *unanswered = true;
            self.next_member(member);
            if tried % self.config.channels.len() == 0 {
                if Instant::now() + PAUSE >= give_up {
                    return Err(self.error(status));
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn once<Q, A>(
        &self,
        member: usize,
        path: &'static str,
        request: Q,
        token: Option<Token>,
    ) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut client = self.client(member).await?;
        let request = signed(Request::new(request), token);
        let path = PathAndQuery::from_static(path);
        Ok(client.unary(request, path, ProstCodec::default()).await?.into_inner())
    }

    /// Opens a stream in both directions with the member that answered last.
    pub(super) async fn stream<Q, A>(
        &self,
        path: &'static str,
        requests: impl futures_util::Stream<Item = Q> + Send + 'static,
    ) -> Result<Streaming<A>, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let member = self.member.load(Ordering::Relaxed);
        let mut client = self.client(member).await?;
        let request = signed(Request::new(requests), self.token());
        let path = PathAndQuery::from_static(path);
        let opened = client.streaming(request, path, ProstCodec::default()).await;
        if opened.is_err() {
            self.next_member(member);
        }
        Ok(opened?.into_inner())
    }

    async fn client(&self, member: usize) -> Result<tonic::client::Grpc<Member>, Status> {
        let member = self.config.channels[member % self.config.channels.len()].clone();
        #[cfg(test)]
        let member = self.scripted.clone().unwrap_or(Member::Real(member));
        let mut client = tonic::client::Grpc::new(member);
        client.ready().await.map_err(|error| Status::unavailable(cause(&error)))?;
        Ok(client)
    }

    /// Goes on to the next member, unless somebody has done so.
    fn next_member(&self, member: usize) {
        let _ = self.member.compare_exchange(member, member + 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Asks for a token if a request failed for want of a good one, and says whether it is worth repeating.
    ///
    /// The old token stays until there is another: whoever uses it meanwhile comes here too.
    pub(super) async fn refresh_token(&self, failed: &Status, used: Option<Token>) -> Result<bool, Status> {
        if self.config.login.is_none() || !is_token_error(failed) {
            return Ok(false);
        }
        let _one = self.authenticating.lock().await;
        if self.token() == used {
            self.authenticate().await?;
        }
        Ok(true)
    }

    async fn authenticate(&self) -> Result<(), Status> {
        let Some((name, password)) = self.config.login.clone() else {
            return Ok(());
        };
        let mut last = Status::unavailable("no member");
        for _ in 0..self.config.channels.len() {
            let member = self.member.load(Ordering::Relaxed);
            let request = AuthenticateRequest { name: name.clone(), password: password.clone() };
            let limit = Instant::now() + self.config.timeout;
            let answer =
                timeout_at(limit, self.once(member, "/etcdserverpb.Auth/Authenticate", request, None)).await;
            match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("it did not answer in time"))) {
                Ok(AuthenticateResponse { token }) => {
                    let token = token.parse().map_err(|_| Status::internal("its token is not text"))?;
                    self.set_token(Some(token));
                    return Ok(());
                }
                // It asks nobody who they are, until that is switched on again.
                Err(status) if status.message().contains("authentication is not enabled") => {
                    self.set_token(None);
                    return Ok(());
                }
                Err(status) => last = status,
            }
            if last.code() != Code::Unavailable && last.code() != Code::DeadlineExceeded {
                break;
            }
            self.next_member(member);
        }
        Err(last)
    }

    pub(super) fn token(&self) -> Option<Token> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_token(&self, token: Option<Token>) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// What a failed request means to the user.
    pub(super) fn error(&self, status: Status) -> Error {
        let store = &self.config.shown;
        let message = match std::error::Error::source(&status).map(cause) {
            Some(cause) => format!("{}: {}", status.message().escape_debug(), cause.escape_debug()),
            None => status.message().escape_debug().to_string(),
        };
        let error = match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
                Error::unavailable(store, message)
            }
            // A lease that ended: another try asks for another.
            Code::NotFound => Error::unavailable(store, message),
            Code::Unauthenticated | Code::PermissionDenied => Error::permission_denied(
                store,
                format!(
                    "{message}: check user and password, and grant the user's role read and write on the prefix"
                ),
            ),
            Code::InvalidArgument if message.contains("user name") || message.contains("auth") => {
                Error::permission_denied(
                    store,
                    format!(
                        "{message}: put user and password into the address, as the cluster asks for them"
                    ),
                )
            }
            // Its members have not caught up with what they agreed on.
            Code::ResourceExhausted if message.contains("too many requests") => {
                Error::unavailable(store, message)
            }
            Code::ResourceExhausted => Error::failed_precondition(
                store,
                format!("{message}: compact and defragment it, or raise its quota"),
            ),
            _ => Error::failed_precondition(store, message),
        };
        error.with_source(status)
    }
}

/// Puts the token to a request, and the wish that a member without a leader refuses it.
fn signed<T>(mut request: Request<T>, token: Option<Token>) -> Request<T> {
    let metadata = request.metadata_mut();
    metadata.insert("hasleader", MetadataValue::from_static("true"));
    if let Some(token) = token {
        metadata.insert("authorization", token);
    }
    request
}

/// Whether the token was over, older than the users are, or missing since nobody was asked for one.
fn is_token_error(status: &Status) -> bool {
    status.code() == Code::Unauthenticated
        || status.code() == Code::InvalidArgument
            && ["user name is empty", "revision of auth store is old"]
                .iter()
                .any(|reason| status.message().contains(reason))
}

/// Whether a request failed because the lease that it named is over.
pub(super) fn is_lease_expired(error: &Error) -> bool {
    let status = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Status>());
    status.is_some_and(|status| status.code() == Code::NotFound)
}

/// The innermost of an error's causes: what the operating system or TLS said.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

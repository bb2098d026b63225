//! Requests to a cluster.
//!
//! A request goes to the member that answered last, and on to the next ones until one answers. If the cluster
//! asks for a login, requests carry a token, which is fetched again when it has expired.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
#[cfg(not(test))]
use tonic::transport::Channel as Member;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::config::Config;
use super::messages::{AuthenticateRequest, AuthenticateResponse, Method, StatusRequest};
#[cfg(test)]
use super::scripted::Member;
use crate::error::{Error, Result};
use crate::sync::Mutex;

/// The pause before all members are tried again: during an election, for example, none of them answers.
const PAUSE: Duration = Duration::from_millis(100);
/// How many tokens one request may fetch: a fresh one expires at once if somebody changes the users
/// meanwhile.
const TOKENS: u32 = 3;

/// The connection to the members of one cluster.
pub(super) struct Connection {
    config: Config,
    /// The member that answered last.
    member: AtomicUsize,
    token: Mutex<Option<Token>>,
    /// Held by the request that fetches a token; the others wait and use the same one.
    authenticating: tokio::sync::Mutex<()>,
    /// Takes the place of all members in tests.
    #[cfg(test)]
    scripted: Option<Member>,
}

/// The token by which the cluster knows a user, for a while.
pub(super) type Token = MetadataValue<Ascii>;

impl Connection {
    /// A connection that has sent no request yet.
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

    /// Connects, and checks that the cluster answers, accepts the login and is new enough.
    pub(super) async fn connect(config: Config) -> Result<Self> {
        let connection = Connection::new(config);
        if connection.config.login.is_some() {
            connection.authenticate().await.map_err(|status| connection.error(status))?;
        }
        let status = connection.unary(StatusRequest {}).await?;
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

    /// Sends one request to member after member until one answers it, or the timeout passes.
    ///
    /// The request must be one that may be repeated safely.
    pub(super) async fn unary<Q: Method>(&self, request: Q) -> Result<Q::Answer> {
        self.ask(request).await.0
    }

    /// As `unary`. Also returns whether any try had no answer: that one may still arrive at the cluster.
    pub(super) async fn ask<Q: Method>(&self, request: Q) -> (Result<Q::Answer>, bool) {
        let mut unanswered = false;
        let answer = self.try_members(request, &mut unanswered).await;
        (answer, unanswered)
    }

    async fn try_members<Q: Method>(&self, request: Q, unanswered: &mut bool) -> Result<Q::Answer> {
        let give_up = Instant::now() + self.config.timeout;
        let (mut tried, mut tokens) = (0, 0);
        loop {
            let member = self.member.load(Ordering::Relaxed);
            // A silent member must leave time for the others.
            let per_member =
                if self.config.channels.len() > 1 { self.config.timeout / 2 } else { self.config.timeout };
            let limit = give_up.min(Instant::now() + per_member);
            let token = self.token();
            let answer = timeout_at(limit, self.once(member, request.clone(), token.clone())).await;
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

    async fn once<Q: Method>(
        &self,
        member: usize,
        request: Q,
        token: Option<Token>,
    ) -> Result<Q::Answer, Status> {
        let mut client = self.client(member).await?;
        let request = with_metadata(Request::new(request), token);
        let path = PathAndQuery::from_static(Q::PATH);
        Ok(client.unary(request, path, ProstCodec::default()).await?.into_inner())
    }

    /// Opens a bidirectional stream with the member that answered last.
    pub(super) async fn stream<Q: Method>(
        &self,
        requests: impl futures_util::Stream<Item = Q> + Send + 'static,
    ) -> Result<Streaming<Q::Answer>, Status> {
        let member = self.member.load(Ordering::Relaxed);
        let mut client = self.client(member).await?;
        let request = with_metadata(Request::new(requests), self.token());
        let path = PathAndQuery::from_static(Q::PATH);
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

    /// Moves on to the next member, unless another request has done so already.
    fn next_member(&self, member: usize) {
        let _ = self.member.compare_exchange(member, member + 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Fetches another token if a request failed for lack of a valid one; returns whether the request must be
    /// repeated.
    ///
    /// The old token stays until another has arrived. Requests that use it meanwhile fail too, and wait here
    /// for that.
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
            let answer = timeout_at(limit, self.once(member, request, None)).await;
            match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("it did not answer in time"))) {
                Ok(AuthenticateResponse { token }) => {
                    let token = token.parse().map_err(|_| Status::internal("its token is not text"))?;
                    self.set_token(Some(token));
                    return Ok(());
                }
                // Authentication is switched off, so requests need no token, until it is switched on again.
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
        self.token.lock().clone()
    }

    fn set_token(&self, token: Option<Token>) {
        *self.token.lock() = token;
    }

    /// Turns a failed request into the error that the user sees.
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
            // The lease has ended. A repeated request gets another lease.
            Code::NotFound => Error::unavailable(store, message),
            Code::Unauthenticated | Code::PermissionDenied => Error::permission_denied(
                store,
                format!(
                    "{message}: check user and password, and grant the user's role read and write on \
                     the prefix"
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
            // The leader is behind in applying what the cluster agreed on. That passes.
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

/// Adds the token to a request, and etcd's `hasleader`, so that a member without a leader refuses it at once.
fn with_metadata<T>(mut request: Request<T>, token: Option<Token>) -> Request<T> {
    let metadata = request.metadata_mut();
    metadata.insert("hasleader", MetadataValue::from_static("true"));
    if let Some(token) = token {
        metadata.insert("authorization", token);
    }
    request
}

/// Whether a request failed for lack of a valid token.
///
/// The token has expired, or is older than the last change of users, or is missing because authentication was
/// off.
fn is_token_error(status: &Status) -> bool {
    status.code() == Code::Unauthenticated
        || status.code() == Code::InvalidArgument
            && ["user name is empty", "revision of auth store is old"]
                .iter()
                .any(|reason| status.message().contains(reason))
}

/// Whether a request failed because the lease that it named has expired or was revoked.
pub(super) fn is_lease_expired(error: &Error) -> bool {
    let status = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Status>());
    status.is_some_and(|status| status.code() == Code::NotFound)
}

/// The innermost cause of an error: what the operating system or TLS reported.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

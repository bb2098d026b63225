//! Requests to a cluster.
//!
//! A request goes to the member that answered last, and on to the next ones until one answers. If the cluster
//! asks for a login, requests carry a token, which is fetched again when it has expired.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
#[cfg(not(test))]
use tonic::transport::Channel as Member;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::config::Config;
use super::login::{LoggedIn, Token, is_of_login};
use super::messages::{Method, StatusRequest};
#[cfg(test)]
use super::scripted::Member;
use super::server::{Failures, Server, is_refusal};
use super::version::{OLDEST, Version};
use crate::backend::StoreNoticeKind;
use crate::error::{Error, Result};
use crate::stores::address::printable;
use crate::stores::notices::StoreNotices;
use crate::stores::transport::causes;
use crate::sync::{Instant, timeout_at};

/// The pause before all members are tried again: during an election, for example, none of them answers.
const PAUSE: Duration = Duration::from_millis(100);
/// How many tokens one request may fetch: a fresh one expires at once if somebody changes the users
/// meanwhile.
const TOKENS: u32 = 3;

/// What members answer that have no leader, or hear nothing from the others.
const LEADERLESS: [&str; 4] = [
    "etcdserver: no leader",
    "etcdserver: leader changed",
    "etcdserver: request timed out",
    "etcdserver: request timed out, possibly due to connection lost",
];

/// The connection to the members of one cluster.
pub(super) struct Connection {
    config: Config,
    /// The member that answered last.
    pub(super) member: AtomicUsize,
    pub(super) logged_in: LoggedIn,
    /// Set once the cluster has been found fit.
    checked: OnceCell<()>,
    /// What was noticed of it then.
    pub(super) notices: StoreNotices,
    /// Takes the place of all members in tests.
    #[cfg(test)]
    scripted: Option<Member>,
}

/// How long all members are tried again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rounds {
    /// Twice, and as long as one of them can be reached, within the timeout. Whoever asks for a connection
    /// asks again for as long as it has time, and then knows why there was none. The second time is for a
    /// server that closes the connection while its reason is on the way, which can get lost.
    WhileReached,
    UntilTimeout,
}

impl Connection {
    /// A connection that has sent no request yet.
    pub(super) fn new(config: Config) -> Self {
        Connection {
            config,
            member: AtomicUsize::new(0),
            logged_in: LoggedIn::default(),
            checked: OnceCell::new(),
            notices: StoreNotices::default(),
            #[cfg(test)]
            scripted: None,
        }
    }

    #[cfg(test)]
    pub(super) fn script(&mut self, member: Member) {
        self.scripted = Some(member);
        self.checked = OnceCell::new_with(Some(()));
    }

    pub(super) fn is_checked(&self) -> bool {
        self.checked.initialized()
    }

    /// Connects, and checks that the cluster answers, accepts the login and is new enough; unless that has
    /// been done.
    pub(super) async fn ready(&self) -> Result<()> {
        self.checked.get_or_try_init(|| self.check()).await.copied()
    }

    async fn check(&self) -> Result<()> {
        if self.config.login.is_some() && self.token().is_none() {
            self.authenticate().await.map_err(|status| self.error(status))?;
        }
        let status = self.try_members(StatusRequest {}, Rounds::WhileReached, &mut false).await?;
        let Some(found) = Version::parse(&status.version) else { return Ok(()) };
        if found < OLDEST {
            let version = status.version.escape_debug();
            return Err(Error::failed_precondition(
                &self.config.shown,
                format!("it is etcd {version}: globallock needs 3.4 or newer"),
            ));
        }
        if let Some(Version(major, minor, patch)) = found.mended() {
            let version = status.version.escape_debug();
            let reason =
                format!("it is etcd {version}: {major}.{minor}.{patch} mends faults that can break locks");
            self.notices.say(StoreNoticeKind::KnownFaults, &reason);
        }
        Ok(())
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
        if let Err(error) = self.ready().await {
            return (Err(error), false);
        }
        let mut unanswered = false;
        let answer = self.try_members(request, Rounds::UntilTimeout, &mut unanswered).await;
        (answer, unanswered)
    }

    async fn try_members<Q: Method>(
        &self,
        request: Q,
        rounds: Rounds,
        unanswered: &mut bool,
    ) -> Result<Q::Answer> {
        let give_up = Instant::now() + self.config.timeout;
        let (mut tried, mut tokens) = (0, 0);
        let mut failures = Failures::of(self.config.servers.len());
        loop {
            let member = self.member.load(Ordering::Relaxed);
            let limit = give_up.min(Instant::now() + self.per_member());
            let token = self.token();
            let answer = timeout_at(limit, self.once(member, request.clone(), token.clone())).await;
            let mut status = match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => status,
                Err(_) => self.server(member).silent().await,
            };
            if tokens < TOKENS {
                match self.refresh_token(&status, token, give_up).await {
                    Ok(true) => {
                        tokens += 1;
                        continue;
                    }
                    Ok(false) => {}
                    Err(failed) => status = failed,
                }
            }
            tried += 1;
            if !has_no_answer(&status) {
                return Err(self.error(status));
            }
            *unanswered |= !is_refusal(&status);
            failures.add(member, status);
            self.next_member(member);
            if tried % self.config.servers.len() == 0 {
                let is_twice = tried / self.config.servers.len() >= 2;
                let is_last = rounds == Rounds::WhileReached && is_twice && failures.none_reached()
                    || Instant::now() + PAUSE >= give_up;
                let failed = failures.as_one();
                if is_last || is_refusal(&failed) {
                    return Err(self.error(failed));
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    pub(super) async fn once<Q: Method>(
        &self,
        member: usize,
        request: Q,
        token: Option<Token>,
    ) -> Result<Q::Answer, Status> {
        let server = self.server(member);
        if server.is_right() {
            return self.asked(member, request, token).await;
        }
        Box::pin(server.unless_other(Box::pin(self.asked(member, request, token)))).await
    }

    async fn asked<Q: Method>(
        &self,
        member: usize,
        request: Q,
        token: Option<Token>,
    ) -> Result<Q::Answer, Status> {
        let server = self.server(member);
        let mut client = self.client(member).await?;
        let request = with_metadata(Request::new(request), token);
        let path = PathAndQuery::from_static(Q::PATH);
        match client.unary(request, path, ProstCodec::default()).await {
            Ok(answer) => {
                server.answered();
                Ok(answer.into_inner())
            }
            // An answer needs no explanation.
            Err(status) if !has_no_answer(&status) => Err(status),
            Err(status) => Err(server.explained(status).await),
        }
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

    /// Sends one request on a stream of its own to the member that answered last, and returns the first
    /// answer.
    ///
    /// If there is none, the next request goes to another member.
    pub(super) async fn first_answer<Q: Method>(&self, request: Q) -> Result<Q::Answer> {
        let token = self.token();
        let give_up = Instant::now() + self.config.timeout;
        let answer = match self.first_answer_of(request.clone()).await {
            Err(status) => match self.refresh_token(&status, token, give_up).await {
                Ok(true) => self.first_answer_of(request).await,
                Ok(false) => Err(status),
                Err(failed) => Err(failed),
            },
            answer => answer,
        };
        answer.map_err(|status| self.error(status))
    }

    async fn first_answer_of<Q: Method>(&self, request: Q) -> Result<Q::Answer, Status> {
        let member = self.member.load(Ordering::Relaxed);
        let answered = async {
            let mut answers = self.stream(stream::once(std::future::ready(request))).await?;
            let ended = || Status::unavailable("it ended the request without an answer");
            answers.message().await?.ok_or_else(ended)
        };
        let answer = timeout(self.per_member(), answered).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("it did not answer in time")));
        if answer.as_ref().is_err_and(has_no_answer) {
            self.next_member(member);
        }
        answer
    }

    /// How long one member may take to answer: a silent one must leave time for the others.
    pub(super) fn per_member(&self) -> Duration {
        if self.config.servers.len() > 1 { self.config.timeout / 2 } else { self.config.timeout }
    }

    async fn client(&self, member: usize) -> Result<tonic::client::Grpc<Member>, Status> {
        let server = self.server(member);
        let member = server.channel.clone();
        #[cfg(test)]
        let member = self.scripted.clone().unwrap_or(Member::Real(member));
        let mut client = tonic::client::Grpc::new(member);
        match client.ready().await {
            Ok(()) => Ok(client),
            Err(error) => Err(server.explained(Status::from_error(Box::new(error))).await),
        }
    }

    pub(super) fn server(&self, member: usize) -> &Server {
        &self.config.servers[member % self.config.servers.len()]
    }

    /// Moves on to the next member, unless another request has done so already.
    pub(super) fn next_member(&self, member: usize) {
        let _ = self.member.compare_exchange(member, member + 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The same error for another caller whom it concerns too: of the same kind, with the same text and
    /// cause.
    pub(super) fn again(&self, error: &Error) -> Error {
        let store = &self.config.shown;
        let again = match error {
            Error::Unavailable { reason, .. } => Error::unavailable(store, reason),
            Error::PermissionDenied { reason, .. } => Error::permission_denied(store, reason),
            Error::FailedPrecondition { reason, .. } => Error::failed_precondition(store, reason),
            Error::Closed => return Error::Closed,
            other => return Error::unavailable(store, other.to_string()),
        };
        match status(error) {
            Some(status) => again.with_source(status.clone()),
            None => again,
        }
    }

    /// Turns a failed request into the error that the user sees.
    pub(super) fn error(&self, status: Status) -> Error {
        let store = &self.config.shown;
        let message = match causes(&status).skip(1).last().map(ToString::to_string) {
            Some(cause) if !status.message().contains(&cause) => {
                format!("{}: {}", printable(status.message()), printable(&cause))
            }
            _ => printable(status.message()),
        };
        let error = match status.code() {
            _ if is_refusal(&status) => Error::failed_precondition(store, message),
            Code::Unavailable if LEADERLESS.contains(&status.message()) => Error::unavailable(
                store,
                format!(
                    "{message}: check that a majority of its members runs, and that they reach each other"
                ),
            ),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
                Error::unavailable(store, message)
            }
            // The lease has ended. A repeated request gets another lease.
            Code::NotFound => Error::unavailable(store, message),
            Code::InvalidArgument if message.contains("user name is empty") => Error::permission_denied(
                store,
                format!(
                    "it wants a login: put user and password into the address, as in {}",
                    self.with_login()
                ),
            ),
            _ if is_of_login(&status) => Error::permission_denied(store, message),
            Code::Unauthenticated | Code::PermissionDenied => Error::permission_denied(
                store,
                format!(
                    "the user lacks a right ({message}): grant its role read and write on the prefix, by \
                     etcdctl role grant-permission ROLE --prefix=true readwrite {}",
                    printable(&self.config.prefix)
                ),
            ),
            Code::InvalidArgument if message.contains("auth") => {
                Error::permission_denied(store, format!("{message}: check user and password in the address"))
            }
            Code::Unimplemented => Error::failed_precondition(
                store,
                format!("it does not know the requests of etcd ({message}): check host and port"),
            ),
            // The leader is behind in applying what the cluster agreed on. That passes.
            Code::ResourceExhausted if message.contains("too many requests") => {
                Error::unavailable(store, message)
            }
            // What has expired or is released makes room again only when an operator does the rest.
            Code::ResourceExhausted if is_out_of_space(&status) => Error::unavailable(
                store,
                format!(
                    "its database is full ({message}): compact and defragment it, or raise \
                     --quota-backend-bytes; then run etcdctl alarm disarm"
                ),
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

/// Whether a request failed without an answer to it. It may be repeated, and may have been carried out.
pub(super) fn has_no_answer(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown)
}

/// Whether a request failed because the lease that it named has expired or was revoked.
pub(super) fn is_lease_expired(error: &Error) -> bool {
    status(error).is_some_and(|status| status.code() == Code::NotFound)
}

/// Whether a request failed because the cluster's database is full. Then reads, keep-alives and deletions
/// go on.
pub(super) fn is_full(error: &Error) -> bool {
    status(error).is_some_and(is_out_of_space)
}

fn is_out_of_space(status: &Status) -> bool {
    status.code() == Code::ResourceExhausted && status.message().contains("space exceeded")
}

/// What the cluster answered, as the cause of an error.
fn status(error: &Error) -> Option<&Status> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref::<Status>())
}

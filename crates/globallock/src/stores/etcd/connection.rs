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
use tonic::metadata::{Ascii, MetadataValue};
#[cfg(not(test))]
use tonic::transport::Channel as Member;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::config::Config;
use super::messages::{AuthenticateRequest, AuthenticateResponse, Method, StatusRequest};
#[cfg(test)]
use super::scripted::Member;
use crate::backend::StoreNoticeKind;
use crate::error::{Error, Result};
use crate::stores::notices::StoreNotices;
use crate::sync::{Instant, Mutex, timeout_at};

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
    /// Set once the cluster has been found fit.
    checked: OnceCell<()>,
    /// What was noticed of it then.
    pub(super) notices: StoreNotices,
    /// Takes the place of all members in tests.
    #[cfg(test)]
    scripted: Option<Member>,
}

/// A release of etcd: `3.4.23`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Release(u32, u32, u32);

/// The oldest release that is supported.
const OLDEST: Release = Release(3, 4, 0);
/// Those in which the last known fault was mended that can break a lock: see `docs/etcd.md`.
const MENDED: [Release; 3] = [Release(3, 4, 42), Release(3, 5, 28), Release(3, 6, 9)];

impl Release {
    fn parse(version: &str) -> Option<Self> {
        let mut parts = version.split('.').map(|part| {
            let digits = part.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(part.len());
            part[..digits].parse().ok()
        });
        Some(Release(parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
    }

    /// The release to change to, if this one has a known fault.
    fn mended(self) -> Option<Self> {
        MENDED.into_iter().find(|mended| (mended.0, mended.1) == (self.0, self.1) && self < *mended)
    }
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
        let status = self.try_members(StatusRequest {}, &mut false).await?;
        let Some(release) = Release::parse(&status.version) else { return Ok(()) };
        let version = status.version.escape_debug();
        if release < OLDEST {
            return Err(Error::failed_precondition(
                &self.config.shown,
                format!("it is etcd {version}: globallock needs 3.4 or newer"),
            ));
        }
        if let Some(Release(major, minor, patch)) = release.mended() {
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
        let answer = self.try_members(request, &mut unanswered).await;
        (answer, unanswered)
    }

    async fn try_members<Q: Method>(&self, request: Q, unanswered: &mut bool) -> Result<Q::Answer> {
        let give_up = Instant::now() + self.config.timeout;
        let (mut tried, mut tokens) = (0, 0);
        loop {
            let member = self.member.load(Ordering::Relaxed);
            let limit = give_up.min(Instant::now() + self.per_member());
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
            if !has_no_answer(&status) {
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

    /// Sends one request on a stream of its own to the member that answered last, and returns the first
    /// answer.
    ///
    /// If there is none, the next request goes to another member.
    pub(super) async fn first_answer<Q: Method>(&self, request: Q) -> Result<Q::Answer> {
        let token = self.token();
        let answer = match self.first_answer_of(request.clone()).await {
            Err(status) => match self.refresh_token(&status, token).await {
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
    fn per_member(&self) -> Duration {
        if self.config.channels.len() > 1 { self.config.timeout / 2 } else { self.config.timeout }
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
fn has_no_answer(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown)
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

/// The innermost cause of an error: what the operating system or TLS reported.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_with_known_faults_are_told_from_those_where_they_are_mended() {
        for (version, mended) in [
            ("3.4.23", Some(MENDED[0])),
            ("3.4.41", Some(MENDED[0])),
            ("3.4.42", None),
            ("3.5.1", Some(MENDED[1])),
            ("3.5.28", None),
            ("3.6.0-rc.1", Some(MENDED[2])),
            ("3.6", Some(MENDED[2])),
            ("3.6.10", None),
            ("3.7.0", None),
            ("4.5.6+git", None),
        ] {
            assert_eq!(Release::parse(version).unwrap().mended(), mended, "{version}");
        }
        for none in ["", "3", "a.b", "not decided"] {
            assert_eq!(Release::parse(none), None, "{none}");
        }
        assert!(Release::parse("3.3.27").unwrap() < OLDEST && Release::parse("3.4.0").unwrap() >= OLDEST);
    }
}

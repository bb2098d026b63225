//! The login: the token by which the cluster knows a user for a while, fetched again when it has expired.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Status};

use super::connection::{Connection, has_no_answer};
use super::messages::{AuthenticateRequest, AuthenticateResponse};
use super::server::Failures;
use crate::stores::address::password::NoLogin;
use crate::sync::{Instant, Mutex, timeout_at};

/// The token of a user.
pub(super) type Token = MetadataValue<Ascii>;

/// Whether the user is logged in.
#[derive(Default)]
pub(super) struct LoggedIn {
    token: Mutex<Option<Token>>,
    /// Held by the request that fetches a token; the others wait and use the same one, or have failed like
    /// it.
    authenticating: tokio::sync::Mutex<Option<(Instant, Status)>>,
}

impl Connection {
    /// Fetches another token if a request failed for lack of a valid one; returns whether the request must be
    /// repeated.
    ///
    /// The old token stays until another has arrived. Requests that use it meanwhile fail too, and wait here
    /// for that.
    pub(super) async fn refresh_token(
        &self,
        failed: &Status,
        used: Option<Token>,
        give_up: Instant,
    ) -> Result<bool, Status> {
        if self.config().login.is_none() || !is_token_error(failed) {
            return Ok(false);
        }
        let asked_at = Instant::now();
        let fetched = async {
            let mut last_failure = self.logged_in.authenticating.lock().await;
            if self.token() != used {
                return Ok(());
            }
            match &*last_failure {
                Some((at, failure)) if *at >= asked_at => return Err(failure.clone()),
                _ => {}
            }
            let fetched = self.authenticate().await;
            *last_failure = fetched.clone().err().map(|failure| (Instant::now(), failure));
            fetched
        };
        let fetched = timeout_at(give_up, Box::pin(fetched)).await;
        fetched.unwrap_or_else(|_| Err(Status::deadline_exceeded("its login did not end in time")))?;
        Ok(true)
    }

    /// Fetches a token.
    pub(super) async fn authenticate(&self) -> Result<(), Status> {
        let Some((name, source)) = &self.config().login else {
            return Ok(());
        };
        let limit = self.config().timeout;
        let password = source.read_for_login(limit).await.map_err(no_login)?;
        let mut failures = Failures::of(self.config().servers.len());
        for _ in 0..self.config().servers.len() {
            let member = self.member.load(Ordering::Relaxed);
            let request = AuthenticateRequest { name: name.clone(), password: password.clone() };
            let give_up = Instant::now() + self.per_member();
            let answer = timeout_at(give_up, self.once(member, request, None)).await;
            let answer = match answer {
                Ok(answer) => answer,
                Err(_) => Err(self.server(member).silent().await),
            };
            match answer {
                Ok(AuthenticateResponse { token }) => {
                    let token = token.parse().map_err(|_| Status::internal("its token is not text"))?;
                    self.set_token(Some(token));
                    source.accepted();
                    return Ok(());
                }
                // Authentication is switched off, so requests need no token, until it is switched on again.
                Err(status) if status.message().contains("authentication is not enabled") => {
                    self.set_token(None);
                    return Ok(());
                }
                Err(status) if status.message().contains("authentication failed") => {
                    return Err(no_login(source.refused(&password, limit).await));
                }
                Err(status) if !has_no_answer(&status) => return Err(status),
                Err(status) => failures.add(member, status),
            }
            self.next_member(member);
        }
        Err(failures.as_one())
    }

    pub(super) fn token(&self) -> Option<Token> {
        self.logged_in.token.lock().clone()
    }

    fn set_token(&self, token: Option<Token>) {
        *self.logged_in.token.lock() = token;
    }

    /// The form of an address that logs in.
    pub(super) fn with_login(&self) -> &'static str {
        if self.config().shown.starts_with("etcds:") {
            "etcds://user:password@host"
        } else {
            "etcd://user:password@host"
        }
    }
}

/// Why a login cannot succeed before somebody has changed something.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

fn no_login(NoLogin { why, may_heal }: NoLogin) -> Status {
    if may_heal {
        return Status::unavailable(why);
    }
    let mut status = Status::unauthenticated(&why);
    status.set_source(Arc::new(Refused(why)));
    status
}

/// Whether a request failed because the login cannot succeed, in words of its own.
pub(super) fn is_of_login(status: &Status) -> bool {
    std::error::Error::source(status).and_then(|source| source.downcast_ref::<Refused>()).is_some()
}

/// Whether a request failed for lack of a valid token.
///
/// The token has expired, or is older than the last change of users, or is missing because authentication was
/// off.
fn is_token_error(status: &Status) -> bool {
    status.code() == Code::Unauthenticated && !is_of_login(status)
        || status.code() == Code::InvalidArgument
            && ["user name is empty", "revision of auth store is old"]
                .iter()
                .any(|reason| status.message().contains(reason))
}

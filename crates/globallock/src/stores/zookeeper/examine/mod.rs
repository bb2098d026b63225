//! Examination: what a person should know of an ensemble before trusting it with locks.

mod rights;
mod servers;

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::config::Config;
use super::failure::Failure;
use super::session::Session;
use crate::backend::{ClaimId, DEFAULT_LEASE, Finding};
use crate::duration::Shown;
use crate::error::{Error, Result};
use crate::name::Name;
use crate::stores::examination::{encryption, round_trips};

/// What sessions are asked for, to learn the shortest and the longest that the servers grant.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Finds out all that can be found out with the rights of this user.
///
/// # Errors
/// When there is no session with the servers.
pub(super) async fn examine(store: &Arc<Shared>, name: &Name) -> Result<Vec<Finding>> {
    let config = &store.config;
    let session = store.sessions.any().await?;
    let mut found = servers::findings(config).await;
    found.push(encryption(
        config.transport.has_tls(),
        config.hosts.iter().map(|(host, _)| &**host),
        "zookeepers",
    ));
    found.extend(access(config));
    let asked = [
        sessions(config).await,
        round_trips("transactions that a majority confirms", || session.confirm().answer()).await,
    ];
    for answer in asked {
        found.push(answer.unwrap_or_else(|failure| Finding::bad("answers", reason(config, failure))));
    }
    // In a task of its own, so that what it has made is deleted though this is dropped.
    let (of_rights, name) = (Arc::clone(store), name.clone());
    let tried = tokio::spawn(async move { rights::findings(&of_rights.config, &session, &name).await });
    found.extend(tried.await.unwrap_or_default());
    Ok(found)
}

/// Deletes the nodes of a lock without claims, and the notices for claims that were evicted.
pub(super) async fn forget(store: &Shared, name: &Name, evicted: &[ClaimId]) -> Result<()> {
    let (config, session) = (&store.config, store.sessions.any().await?);
    let forgotten = async {
        rights::delete_empty(&config.layout, &session, name).await?;
        for id in evicted {
            let (notice, [all, of_manager]) = config.layout.notice(*id);
            session.delete(&notice).await?;
            // Those of others may be below it.
            if session.delete_if_empty(&of_manager).await? {
                session.delete_if_empty(&all).await?;
            }
        }
        Ok(())
    };
    forgotten.await.map_err(|failure| config.error(failure))
}

/// Who may do what with the nodes that are made.
fn access(config: &Config) -> Option<Finding> {
    let is_open = config.acl.iter().any(|rule| rule.scheme == "world");
    is_open.then(|| {
        let text = "all who reach the servers may take and break locks (acl=open)";
        Finding::note("access", text).remedy("log in, and add ?acl=creator, to share them with one user only")
    })
}

/// How long sessions last, and with them the claims of an owner that died.
async fn sessions(config: &Arc<Config>) -> Result<Finding, Failure> {
    let granted =
        async |asked| Session::open(config, asked, &Arc::default()).await.map(|session| session.timeout());
    let (shortest, longest) = (granted(SHORTEST).await?, granted(LONGEST).await?);
    let text = format!(
        "they last from {} to {}, and so do the claims of an owner that has died, whatever its lease",
        Shown(shortest),
        Shown(longest)
    );
    Ok(match shortest > DEFAULT_LEASE {
        false => Finding::good("sessions", text),
        true => Finding::note("sessions", text).remedy("lower minSessionTimeout of the servers, or tickTime"),
    })
}

/// What a failure means, without the address that everything here is about.
fn reason(config: &Config, failure: Failure) -> String {
    match config.error(failure) {
        Error::Unavailable { reason, .. }
        | Error::PermissionDenied { reason, .. }
        | Error::FailedPrecondition { reason, .. } => reason,
        other => other.to_string(),
    }
}

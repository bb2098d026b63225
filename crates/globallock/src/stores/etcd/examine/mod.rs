//! Examination: what a person should know of a cluster before trusting it with locks.

mod clock;
mod members;
mod rights;

use futures_util::TryFutureExt;

use super::connection::Connection;
use super::keys;
use super::messages::{AlarmRequest, MemberListRequest, RangeRequest, StatusResponse};
use crate::backend::Finding;
use crate::error::{Error, Result};
use crate::name::Name;
use crate::stores::examination::{encryption, round_trips};

/// The limit of a database where the operator has set none.
const DEFAULT_QUOTA: u64 = 2 << 30;
/// The number of the alarm that a database is full.
const NO_SPACE: i32 = 1;

/// Finds out all that can be found out with the rights of this user.
///
/// # Errors
/// When no member of the cluster can be asked.
pub(super) async fn examine(connection: &Connection, name: &Name) -> Result<Vec<Finding>> {
    connection.ready().await?;
    let statuses = members::statuses(connection).await;
    let members = connection.unary(MemberListRequest {}).await.map(|answer| answer.members).ok();
    let mut found = members::findings(connection, &statuses, members.as_deref());
    found.extend(alarms(connection).await);
    let answered: Vec<&StatusResponse> = statuses.iter().filter_map(|status| status.as_ref().ok()).collect();
    found.extend(answered.iter().max_by_key(|status| status.db_size).map(|status| database(status)));
    let servers = &connection.config().servers;
    let hosts = servers.iter().map(|server| &*server.host().0);
    found.push(encryption(servers.iter().any(|server| server.transport().has_tls()), hosts, "etcds"));
    found.push(clock::finding(connection).await);
    match reads(connection, name).await {
        Ok(round_trip) => found.push(round_trip),
        // The rights tell what is refused.
        Err(Error::PermissionDenied { .. }) => {}
        Err(error) => found.push(Finding::bad("answers", without_store(&error))),
    }
    found.extend(rights::findings(connection, name).await);
    Ok(found)
}

/// How long reads take that a majority has confirmed.
async fn reads(connection: &Connection, name: &Name) -> Result<Finding> {
    let start = keys::queue(&connection.config().prefix, name);
    round_trips("reads that a majority confirms", || connection.unary(below(&start)).map_ok(drop)).await
}

/// A read of whether there is any key below this.
fn below(start: &str) -> RangeRequest {
    RangeRequest {
        key: start.into(),
        range_end: keys::end(start),
        limit: 1,
        keys_only: true,
        ..RangeRequest::default()
    }
}

/// The alarms of the cluster, which stop writes.
async fn alarms(connection: &Connection) -> Option<Finding> {
    let remedy = "compact and defragment the database, or raise --quota-backend-bytes; then run etcdctl \
                  alarm disarm";
    match connection.unary(AlarmRequest {}).await {
        Ok(answer) if answer.alarms.is_empty() => Some(Finding::good("alarms", "none")),
        Ok(answer) if answer.alarms.iter().any(|alarm| alarm.kind == NO_SPACE) => {
            let text = "NOSPACE: the database is full, and new locks are refused";
            Some(Finding::bad("alarms", text).remedy(remedy))
        }
        Ok(answer) => {
            let members: Vec<String> =
                answer.alarms.iter().map(|alarm| format!("{:x}", alarm.member)).collect();
            let text =
                format!("CORRUPT: the data of {} differs from that of the others", members.join(" and "));
            Some(Finding::bad("alarms", text).remedy("replace that member; then run etcdctl alarm disarm"))
        }
        Err(error) => Some(Finding::unknown("alarms", without_store(&error))),
    }
}

/// How full the database is.
fn database(status: &StatusResponse) -> Finding {
    let size = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
    let (used, quota) = (size(status.db_size), size(status.db_size_quota));
    let (quota, known) = if quota > 0 { (quota, "") } else { (DEFAULT_QUOTA, ", unless it was set") };
    let percent = used.saturating_mul(100) / quota;
    let text = format!(
        "{} MiB, of which {} MiB are in use; the quota is {} MiB{known}",
        used >> 20,
        size(status.db_size_in_use) >> 20,
        quota >> 20
    );
    match percent {
        80.. => Finding::note("database", format!("{text}: new locks are refused once it is full")).remedy(
            "compact and defragment it (--auto-compaction-retention), or raise --quota-backend-bytes",
        ),
        _ => Finding::good("database", text),
    }
}

/// What an error says, without the address that everything here is about.
fn without_store(error: &Error) -> String {
    match error {
        Error::Unavailable { reason, .. }
        | Error::PermissionDenied { reason, .. }
        | Error::FailedPrecondition { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Verdict;

    #[test]
    fn a_database_that_is_nearly_full_is_worth_a_note() {
        let status = |db_size: i64, db_size_quota| StatusResponse {
            db_size: db_size << 20,
            db_size_in_use: 1 << 20,
            db_size_quota,
            ..StatusResponse::default()
        };
        let good = database(&status(20, 0));
        let text = "20 MiB, of which 1 MiB are in use; the quota is 2048 MiB, unless it was set";
        assert_eq!(good, Finding::good("database", text));
        assert_eq!(database(&status(20, 24 << 20)).verdict, Verdict::Note);
        assert_eq!(database(&status(20, 100 << 20)).verdict, Verdict::Good);
    }
}

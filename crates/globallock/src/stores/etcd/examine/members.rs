//! What the members say of themselves.

use futures_util::stream::{FuturesOrdered, StreamExt};
use tonic::Status;

use crate::backend::Finding;
use crate::stores::address::{authority, printable};
use crate::stores::etcd::connection::Connection;
use crate::stores::etcd::messages::{Member, StatusRequest, StatusResponse};
use crate::stores::etcd::version::Version;
use crate::sync::{now, timeout_at};

/// Asks every member that the address names, all at once.
pub(super) async fn statuses(connection: &Connection) -> Vec<Result<StatusResponse, Status>> {
    let mut asked = FuturesOrdered::new();
    let limit = now() + connection.per_member();
    for member in 0..connection.config().servers.len() {
        asked.push_back(async move {
            let status = connection.once(member, StatusRequest {}, connection.token());
            match timeout_at(limit, status).await {
                Ok(status) => status,
                Err(_) => Err(connection.server(member).silent().await),
            }
        });
    }
    asked.collect().await
}

/// What is said of the version, and of who answers and leads.
pub(super) fn findings(
    connection: &Connection,
    statuses: &[Result<StatusResponse, Status>],
    members: Option<&[Member]>,
) -> Vec<Finding> {
    let answered: Vec<&StatusResponse> = statuses.iter().filter_map(|status| status.as_ref().ok()).collect();
    let away: Vec<String> = statuses
        .iter()
        .zip(&connection.config().servers)
        .filter_map(|(status, server)| {
            let (host, port) = server.host();
            let reason = printable(status.as_ref().err()?.message());
            Some(format!("{} does not answer: {reason}", authority(host, *port)))
        })
        .collect();
    let mut found: Vec<Finding> = version(&answered).into_iter().collect();
    let remedy = "start it, or take it out of the address";
    found.extend(away.into_iter().map(|away| Finding::bad("members", away).remedy(remedy)));
    found.push(cluster(&answered, statuses.len(), members));
    found.extend(leader(&answered));
    found
}

/// The versions of the members, and whether one of them has faults that can break locks.
fn version(answered: &[&StatusResponse]) -> Option<Finding> {
    let mut versions: Vec<&str> = answered.iter().map(|status| &*status.version).collect();
    versions.sort_unstable();
    versions.dedup();
    let text = format!("etcd {}", versions.join(" and ").escape_debug());
    let mended = versions.iter().find_map(|version| Version::parse(version)?.mended());
    Some(match mended {
        _ if versions.is_empty() => return None,
        Some(Version(major, minor, patch)) => {
            Finding::note("version", format!("{text} has known faults that can break locks"))
                .remedy(format!("use {major}.{minor}.{patch} or newer, in which they are mended"))
        }
        None if versions.len() > 1 => Finding::note("version", text)
            .remedy("bring all members to one version, once the upgrade is done"),
        None => Finding::good("version", text),
    })
}

/// How many members there are.
fn cluster(answered: &[&StatusResponse], named: usize, members: Option<&[Member]>) -> Finding {
    let voting = members.map(|members| members.iter().filter(|member| !member.is_learner).count());
    let count = voting.unwrap_or(named);
    let text = match voting {
        Some(count) => {
            format!("{} of {named} that the address names answer; the cluster has {count}", answered.len())
        }
        None => format!("{} of {named} that the address names answer", answered.len()),
    };
    if answered.iter().any(|status| status.is_learner) {
        return Finding::note("members", format!("{text}; one is a learner, which serves no locks"))
            .remedy("promote the learner, or take it out of the address");
    }
    match count {
        1 => Finding::note(
            "members",
            format!("{text}: while it is away, locks are refused, and lost after their lease"),
        )
        .remedy("a cluster of three goes on when one is away"),
        count if count.is_multiple_of(2) => Finding::note("members", format!("{text}, as good as one less"))
            .remedy("use an odd number of members"),
        count if named < count => Finding::note("members", text)
            .remedy("name all members in the address, so that one of them can be away"),
        _ => Finding::good("members", text),
    }
}

/// Who leads.
fn leader(answered: &[&StatusResponse]) -> Option<Finding> {
    let mut leaders: Vec<u64> = answered.iter().map(|status| status.leader).collect();
    leaders.sort_unstable();
    leaders.dedup();
    Some(match leaders[..] {
        [] => return None,
        [0, ..] => Finding::bad("leader", "a member knows no leader, and grants nothing")
            .remedy("check that a majority of the members runs, and that they reach each other"),
        [leader] => Finding::good("leader", format!("member {leader:x}")),
        _ => Finding::note(
            "leader",
            "the members name different leaders: an election is under way, or a member is cut off",
        )
        .remedy("look again in a moment"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Verdict;

    fn status(version: &str, leader: u64) -> StatusResponse {
        StatusResponse { version: version.to_owned(), leader, ..StatusResponse::default() }
    }

    #[test]
    fn a_release_with_known_faults_is_told_with_the_one_to_change_to() {
        let told = |versions: &[&str]| {
            let statuses: Vec<_> = versions.iter().map(|version| status(version, 1)).collect();
            version(&statuses.iter().collect::<Vec<_>>())
        };
        let old = told(&["3.6.9", "3.4.23"]).unwrap();
        assert_eq!(old.text, "etcd 3.4.23 and 3.6.9 has known faults that can break locks");
        assert!(old.remedy.unwrap().contains("3.4.42"));
        assert_eq!(told(&["3.6.9"]).unwrap(), Finding::good("version", "etcd 3.6.9"));
        assert_eq!(told(&["3.6.9", "3.6.10"]).unwrap().verdict, Verdict::Note);
        assert_eq!(told(&[]), None);
    }

    #[test]
    fn a_cluster_is_best_with_an_odd_number_of_members_that_are_all_named() {
        let member = |is_learner| Member { is_learner, ..Member::default() };
        let verdict = |named, members: usize| {
            let statuses = vec![status("3.6.9", 1); named];
            cluster(&statuses.iter().collect::<Vec<_>>(), named, Some(&vec![member(false); members])).verdict
        };
        assert_eq!([verdict(3, 3), verdict(5, 5)], [Verdict::Good; 2]);
        assert_eq!([verdict(1, 1), verdict(1, 3), verdict(4, 4)], [Verdict::Note; 3]);
        let learner = StatusResponse { is_learner: true, ..status("3.6.9", 1) };
        assert_eq!(cluster(&[&learner], 1, None).verdict, Verdict::Note);
    }

    #[test]
    fn a_member_without_a_leader_is_bad_and_two_leaders_are_worth_a_note() {
        let verdict = |leaders: &[u64]| {
            let statuses: Vec<_> = leaders.iter().map(|leader| status("3.6.9", *leader)).collect();
            leader(&statuses.iter().collect::<Vec<_>>()).map(|found| found.verdict)
        };
        assert_eq!(verdict(&[7, 7]), Some(Verdict::Good));
        assert_eq!(verdict(&[7, 8]), Some(Verdict::Note));
        assert_eq!(verdict(&[7, 0]), Some(Verdict::Bad));
        assert_eq!(verdict(&[]), None);
    }
}

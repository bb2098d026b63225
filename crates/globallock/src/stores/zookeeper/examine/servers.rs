//! What the servers say of themselves.

use futures_util::stream::{FuturesOrdered, StreamExt};

use crate::backend::Finding;
use crate::stores::address::{authority, printable};
use crate::stores::zookeeper::config::Config;
use crate::stores::zookeeper::connection::Connection;
use crate::stores::zookeeper::failure::Failure;
use crate::sync::{now, timeout_at};

/// The oldest release that has all that locks need, as its two numbers.
const OLDEST: (u32, u32) = (3, 5);

/// What a server answers to `srvr`.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// Its version, and its mode: leader, follower, observer or standalone.
    Serves(String, String),
    /// It is starting, or has no majority.
    ServesNot,
    /// The operator has not allowed the command.
    Silent,
}

/// Asks every server that the address names, all at once.
pub(super) async fn findings(config: &Config) -> Vec<Finding> {
    let mut asked = FuturesOrdered::new();
    let limit = now() + config.timeout;
    for host in &config.hosts {
        asked.push_back(async move {
            let state = timeout_at(limit, Connection::state(config, host)).await;
            (
                authority(&host.0, host.1),
                state.unwrap_or_else(|_| Err(Failure::Lost("it is silent".to_owned()))),
            )
        });
    }
    let answers: Vec<(String, Result<String, Failure>)> = asked.collect().await;
    let mut found = Vec::new();
    let mut answered = Vec::new();
    for (host, answer) in answers {
        match answer.as_deref().map(Answer::of) {
            Ok(Answer::ServesNot) => found.push(
                Finding::bad(
                    "servers",
                    format!("{host} does not serve now: it is starting, or has no majority"),
                )
                .remedy("check that most of the servers run, and that they reach each other"),
            ),
            Ok(answer) => answered.push(answer),
            Err(failure) => found.push(
                Finding::bad(
                    "servers",
                    format!("{host} does not answer: {}", printable(&failure.to_string())),
                )
                .remedy("start it, or take it out of the address"),
            ),
        }
    }
    found.extend(said(&answered, config.hosts.len()));
    found
}

impl Answer {
    fn of(text: &str) -> Self {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let version = field("Zookeeper version:").and_then(|version| version.split(['-', ',', ' ']).next());
        match (version, field("Mode:")) {
            (Some(version), Some(mode)) => Answer::Serves(printable(version), printable(mode)),
            _ if text.contains("not currently serving") => Answer::ServesNot,
            _ => Answer::Silent,
        }
    }
}

/// What is said of the servers that answer, of so many that the address names.
fn said(answered: &[Answer], named: usize) -> Vec<Finding> {
    let serving = answered.iter().filter_map(|answer| match answer {
        Answer::Serves(version, mode) => Some((&**version, &**mode)),
        Answer::ServesNot | Answer::Silent => None,
    });
    let (mut versions, modes): (Vec<&str>, Vec<&str>) = serving.unzip();
    if versions.is_empty() {
        let text = "no server answers srvr: version and mode are not known";
        return match answered.is_empty() {
            true => Vec::new(),
            false => vec![
                Finding::unknown("version", text).remedy("allow it: 4lw.commands.whitelist=srvr in zoo.cfg"),
            ],
        };
    }
    versions.sort_unstable();
    versions.dedup();
    vec![version(&versions), ensemble(&modes, named)]
}

fn version(versions: &[&str]) -> Finding {
    let text = format!("ZooKeeper {}", versions.join(" and "));
    let is_old = |version: &&str| {
        let mut numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
        matches!((numbers.next(), numbers.next()), (Some(major), Some(minor)) if (major, minor) < OLDEST)
    };
    match versions {
        versions if versions.iter().any(is_old) => {
            Finding::bad("version", format!("{text}: globallock needs 3.5 or newer"))
                .remedy("upgrade the servers")
        }
        [_] => Finding::good("version", text),
        _ => Finding::note("version", text)
            .remedy("bring all servers to one version, once the upgrade is done"),
    }
}

fn ensemble(modes: &[&str], named: usize) -> Finding {
    let text =
        format!("{} of {named} that the address names tell their mode: {}", modes.len(), modes.join(", "));
    match modes {
        _ if modes.contains(&"standalone") => Finding::note(
            "servers",
            format!("{text}: while it is away, locks are refused, and lost with their sessions"),
        )
        .remedy("an ensemble of three goes on when one is away"),
        _ if named == 1 => {
            Finding::note("servers", format!("{text}: the address names one server of an ensemble"))
                .remedy("name all servers in the address, so that one of them can be away")
        }
        _ if named.is_multiple_of(2) => {
            Finding::note("servers", format!("{text}; an even number is as good as one less"))
                .remedy("use an odd number")
        }
        _ => Finding::good("servers", text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Verdict;

    fn serves(version: &str, mode: &str) -> Answer {
        Answer::Serves(version.to_owned(), mode.to_owned())
    }

    #[test]
    fn the_answer_of_a_server_has_its_version_and_its_mode() {
        let answer = "Zookeeper version: 3.8.0-5a02a05eddb59aee6ac762f7ea82e92a68eb9c0f, built on 2022\n\
                      Latency min/avg/max: 0/0.0/0\nMode: follower\nNode count: 5\n";
        assert_eq!(Answer::of(answer), serves("3.8.0", "follower"));
        let closed = "This ZooKeeper instance is not currently serving requests\n";
        assert_eq!(Answer::of(closed), Answer::ServesNot);
        for other in ["", "srvr is not executed because it is not in the whitelist.\n", "Mode: \n"] {
            assert_eq!(Answer::of(other), Answer::Silent, "{other}");
        }
    }

    #[test]
    fn servers_are_judged_by_their_versions_and_how_many_they_are() {
        let verdicts = |answered: &[Answer], named| -> Vec<(&str, Verdict)> {
            said(answered, named).iter().map(|found| (found.subject, found.verdict)).collect()
        };
        let follower = || serves("3.8.0", "follower");
        let good = [("version", Verdict::Good), ("servers", Verdict::Good)];
        assert_eq!(verdicts(&[serves("3.8.0", "leader"), follower(), follower()], 3), good);
        let note = [("version", Verdict::Good), ("servers", Verdict::Note)];
        assert_eq!(verdicts(&[serves("3.8.0", "standalone")], 1), note);
        assert_eq!(verdicts(&[follower()], 1), note);
        assert_eq!(verdicts(&[follower(), follower()], 2), note);
        let old = verdicts(&[serves("3.4.13", "follower"), follower(), follower()], 3);
        assert_eq!(old[0], ("version", Verdict::Bad));
        let mixed = verdicts(&[serves("3.9.2", "follower"), follower(), follower()], 3);
        assert_eq!(mixed[0], ("version", Verdict::Note));
        assert_eq!(verdicts(&[Answer::Silent], 1), [("version", Verdict::Unknown)]);
        assert_eq!(verdicts(&[], 1), []);
    }
}

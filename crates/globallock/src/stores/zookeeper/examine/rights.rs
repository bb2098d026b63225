//! The rights of the user, each tried at a lock that nobody uses, of which nothing is left.

use std::time::Duration;

use super::reason;
use crate::backend::Finding;
use crate::name::Name;
use crate::stores::examination::Reading;
use crate::stores::zookeeper::client::Readable;
use crate::stores::zookeeper::config::Config;
use crate::stores::zookeeper::failure::Failure;
use crate::stores::zookeeper::naming::Layout;
use crate::stores::zookeeper::session::Session;
use crate::stores::zookeeper::wire::ErrorCode;

/// What a difference between the clocks means here.
const MATTERS: &str = "locks do not depend on that, but the age of a claim is told by the servers' clock";

/// Tries to make a claim, to read it and to delete it, and reads the servers' clock from it.
pub(super) async fn findings(config: &Config, session: &Session, name: &Name) -> Vec<Finding> {
    let mut trial = Trial { config, session, found: Vec::new() };
    let tried = trial.claim(name).await;
    // Whatever has become of it.
    let cleaned = delete_empty(&config.layout, session, name).await;
    let mut found = trial.found;
    match (tried, cleaned) {
        (Ok(Some(clock)), Ok(())) => {
            found.push(clock);
            let text =
                format!("this user may make, read and delete claims below {}", shown(&config.layout.root));
            if !found.iter().any(|finding| finding.verdict.is_bad()) {
                found.push(Finding::good("rights", text));
            }
        }
        (Ok(clock), Err(failure)) => {
            found.extend(clock);
            found.extend(
                refused(&failure, || {
                    format!(
                        "this user may not delete {} and the nodes in it",
                        shown(&config.layout.lock(name))
                    )
                })
                .or_else(|| Some(Finding::bad("answers", reason(config, failure)))),
            );
        }
        (Ok(None), Ok(())) => {}
        (Err(failure), _) => found.push(Finding::bad("answers", reason(config, failure))),
    }
    found
}

/// Deletes the node of a lock and those above it, up to the root of all locks, as far as they are empty.
pub(super) async fn delete_empty(layout: &Layout, session: &Session, name: &Name) -> Result<(), Failure> {
    let lock = layout.lock(name);
    let above: Vec<&str> = ends(&lock).filter(|path| path.len() > layout.root.len()).collect();
    for path in above.into_iter().rev() {
        if !session.delete_if_empty(path).await? {
            break;
        }
    }
    Ok(())
}

/// The path of a node, after those of all nodes above it.
fn ends(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]).map(|end| &path[..end])
}

/// The path as people read it: the root of the tree has none.
fn shown(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}

/// The right that is missing, if the servers have refused it.
fn refused(failure: &Failure, text: impl FnOnce() -> String) -> Option<Finding> {
    (*failure == Failure::Refused(ErrorCode::NO_AUTH)).then(|| {
        Finding::denied("rights", text())
            .remedy("give the user read, create and delete there (setAcl), or let it log in as the owner")
    })
}

struct Trial<'a> {
    config: &'a Config,
    session: &'a Session,
    found: Vec<Finding>,
}

impl Trial<'_> {
    /// Notes a right that is missing. Other failures are passed on.
    fn note<T>(
        &mut self,
        answer: Result<T, Failure>,
        text: impl FnOnce() -> String,
    ) -> Result<Option<T>, Failure> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(failure) => match refused(&failure, text) {
                Some(finding) => {
                    self.found.push(finding);
                    Ok(None)
                }
                None => Err(failure),
            },
        }
    }

    /// Makes a node as a claim has it, and deletes it. Returns what the servers' clock showed then.
    async fn claim(&mut self, name: &Name) -> Result<Option<Finding>, Failure> {
        let Trial { config, session, .. } = *self;
        let (root, lock) = (shown(&config.layout.root), config.layout.lock(name));
        if session.exists(root).answer().await? {
            let listed = session.children(root).answer().await;
            self.note(listed, || format!("this user may not list {root}"))?;
        } else {
            self.found
                .push(Finding::good("root", format!("{root} is not there yet: the first lock makes it")));
        }
        let mut above = "/";
        for path in ends(&lock) {
            let made = session.create_container(path, &config.acl).answer().await;
            // A node that is there may stand below one that this user may not write to.
            let made = match made {
                Err(failure) if session.exists(path).answer().await.unwrap_or(false) => {
                    let _ = failure;
                    Ok(())
                }
                made => made,
            };
            if self.note(made, || format!("this user may not make nodes below {above}"))?.is_none() {
                return Ok(None);
            }
            above = path;
        }
        let (made, reading) = Reading::of(
            Duration::from_millis(1),
            session.create_claim(&format!("{lock}/globallock-doctor-"), "", &config.acl).answer(),
        )
        .await;
        let made =
            self.note(made, || format!("this user may not make nodes below {lock}, which it has made"))?;
        let Some(Some((path, stat))) = made else { return Ok(None) };
        if let Readable::Hidden = session.data_if_allowed(&path).answer().await? {
            self.found.push(
                Finding::denied("rights", format!("this user may not read {path}, which it has made"))
                    .remedy("add the user to the option acl"),
            );
        }
        let deleted = session.delete(&path).await;
        self.note(deleted, || format!("this user may not delete nodes below {lock}, which it has made"))?;
        let since_1970 = Duration::from_millis(stat.ctime.try_into().unwrap_or_default());
        Ok(Some(reading(since_1970).finding(MATTERS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_others_above_it() {
        assert_eq!(ends("/a/b/c").collect::<Vec<_>>(), ["/a", "/a/b", "/a/b/c"]);
        assert_eq!(ends("/a").collect::<Vec<_>>(), ["/a"]);
        assert_eq!((shown(""), shown("/a")), ("/", "/a"));
    }
}

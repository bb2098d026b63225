//! What onlookers see of all locks: a walk over the tree, in pages.

use std::sync::Arc;

use futures_util::stream::{self, Stream};

use super::Shared;
use super::client::WINDOW;
use super::failure::Failure;
use super::session::Session;
use crate::backend::Summary;
use crate::error::Result as Answer;

/// A walk over the tree.
struct Walk {
    session: Arc<Session>,
    /// The paths of the nodes that have not been visited, the next of them last.
    paths: Vec<String>,
}

impl Shared {
    /// Sums up the locks whose names begin with `prefix`, page by page.
    ///
    /// A page takes two round trips: one for the children of its nodes, and one for their claims.
    pub(super) fn pages<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Stream<Item = Answer<Vec<Answer<Summary>>>> + Send + 'a {
        stream::try_unfold(None, move |walk| async move {
            let mut walk = match walk {
                Some(walk) => walk,
                None => self.walk().await?,
            };
            if walk.paths.is_empty() {
                return Ok(None);
            }
            let page = self.page(&mut walk, prefix).await.map_err(|failure| self.error(failure))?;
            Ok(Some((page.into_iter().map(Ok).collect(), Some(walk))))
        })
    }

    fn root(&self) -> &str {
        let root = self.config.layout.root.as_str();
        if root.is_empty() { "/" } else { root }
    }

    async fn walk(&self) -> Answer<Walk> {
        let session = self.sessions.any().await?;
        session.sync(self.root()).answer().await.map_err(|failure| self.error(failure))?;
        Ok(Walk { session, paths: vec![self.root().to_owned()] })
    }

    async fn page(&self, walk: &mut Walk, prefix: &str) -> Result<Vec<Summary>, Failure> {
        let Walk { session, paths } = walk;
        let layout = &self.config.layout;
        let visited = paths.split_off(paths.len().saturating_sub(WINDOW));
        let children = session.each(&visited, Session::children).await?;
        let mut locks = Vec::new();
        for (path, children) in visited.into_iter().zip(children) {
            let is_root = path == self.root();
            let (claims, inner): (Vec<String>, Vec<String>) =
                children.into_iter().partition(|child| !is_root && layout.parse(child).is_some());
            let above = path.trim_end_matches('/');
            let inner = inner.into_iter().map(|child| format!("{above}/{child}"));
            paths.extend(inner.filter(|path| !layout.is_notices(path) && self.may_lead_to(path, prefix)));
            let name =
                layout.name(&path).filter(|name| !claims.is_empty() && name.as_str().starts_with(prefix));
            locks.extend(name.map(|name| (name, (path, layout.queue(&claims)))));
        }
        let (names, queues): (Vec<_>, Vec<_>) = locks.into_iter().unzip();
        let entries = self.entries(session, &queues).await?;
        Ok(names.iter().zip(entries).filter_map(|(name, entries)| Summary::of(name, &entries)).collect())
    }

    /// Whether names that begin with `prefix` may be at this path or below it.
    fn may_lead_to(&self, path: &str, prefix: &str) -> bool {
        self.config.layout.name(path).is_none_or(|name| {
            let rest = prefix.strip_prefix(name.as_str());
            name.as_str().starts_with(prefix) || rest.is_some_and(|rest| rest.starts_with('/'))
        })
    }
}

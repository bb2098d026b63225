//! What onlookers see of all locks: a walk over the tree, in pages.

use std::sync::Arc;

use super::client::WINDOW;
use super::failure::Failure;
use super::inspect::Onlooker;
use super::naming::Layout;
use super::session::Session;
use crate::backend::Summary;

/// A walk over the tree, for the locks whose names begin with `prefix`.
pub(super) struct Walk<'a> {
    onlooker: Onlooker<'a>,
    prefix: &'a str,
    root: &'a str,
    /// The paths of the nodes that have not been visited, the next of them last.
    paths: Vec<String>,
    /// Whether there may be values that nobody has looked at yet.
    has_values: bool,
}

impl<'a> Walk<'a> {
    pub(super) async fn start(
        layout: &'a Layout,
        session: Arc<Session>,
        prefix: &'a str,
    ) -> Result<Self, Failure> {
        let root = if layout.root.is_empty() { "/" } else { &layout.root };
        session.sync(root).answer().await?;
        Ok(Walk {
            onlooker: Onlooker { layout, session },
            prefix,
            root,
            paths: vec![root.to_owned()],
            has_values: false,
        })
    }

    /// The session by which ended values are to be deleted, once.
    pub(super) fn session_to_values(&mut self) -> Option<Arc<Session>> {
        std::mem::take(&mut self.has_values).then(|| Arc::clone(&self.onlooker.session))
    }

    /// Sums up the locks of the next page; `None` if there is none.
    ///
    /// It takes two round trips: one for the children of its nodes, and one for their claims.
    pub(super) async fn page(&mut self) -> Result<Option<Vec<Summary>>, Failure> {
        if self.paths.is_empty() {
            return Ok(None);
        }
        let Onlooker { layout, session } = &self.onlooker;
        let visited = self.paths.split_off(self.paths.len().saturating_sub(WINDOW));
        let children = session.each(&visited, Session::children).await?;
        let (mut names, mut queues) = (Vec::new(), Vec::new());
        for (path, children) in visited.into_iter().zip(children) {
            let is_root = path == self.root;
            let (claims, inner): (Vec<String>, Vec<String>) =
                children.into_iter().partition(|child| !is_root && layout.parse(child).is_some());
            let above = path.trim_end_matches('/');
            let mut inner: Vec<String> = inner.into_iter().map(|child| format!("{above}/{child}")).collect();
            let before = inner.len();
            inner.retain(|path| *path != layout.values());
            self.has_values |= inner.len() < before;
            let inner = inner.into_iter();
            let leads = |path: &String| !layout.is_notices(path) && may_lead_to(layout, path, self.prefix);
            self.paths.extend(inner.filter(leads));
            let name = layout.name(&path).filter(|name| name.as_str().starts_with(self.prefix));
            if let Some(name) = name.filter(|_| !claims.is_empty()) {
                names.push(name);
                queues.push((path, layout.queue(&claims)));
            }
        }
        let entries = self.onlooker.entries(&queues).await?;
        let summaries = names.iter().zip(entries).filter_map(|(name, entries)| Summary::of(name, &entries));
        Ok(Some(summaries.collect()))
    }
}

/// Whether names that begin with `prefix` may be at this path or below it.
fn may_lead_to(layout: &Layout, path: &str, prefix: &str) -> bool {
    layout.name(path).is_none_or(|name| {
        let rest = prefix.strip_prefix(name.as_str());
        name.as_str().starts_with(prefix) || rest.is_some_and(|rest| rest.starts_with('/'))
    })
}

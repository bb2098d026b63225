//! Sums up the names that have claims, page by page.

use futures_util::stream::{self, Stream, TryStreamExt};

use super::connection::Connection;
use super::inspect::{Remaining, entries};
use super::keys;
use super::messages::{KeyValue, RangeRequest};
use super::reading::{PAGE_SIZE, all_below};
use crate::backend::Summary;
use crate::error::Result;

/// What one page has, and where the next one begins.
struct Page {
    /// Whole queues, sorted by key.
    found: Vec<KeyValue>,
    next: Option<Vec<u8>>,
}

/// Sums up the names that begin with `names`. A page is read when the stream is polled for it.
pub(super) fn list<'a>(
    connection: &'a Connection,
    names: &'a str,
) -> impl Stream<Item = Result<Summary>> + Send + 'a {
    let start = keys::of_names(&connection.config().prefix, names);
    let end = keys::end(&start);
    let pages = stream::try_unfold(Some(start.into_bytes()), move |start| {
        let end = end.clone();
        async move {
            let Some(start) = start else { return Ok(None) };
            let page = page(connection, start, end).await?;
            let summaries = sum_up(connection, &page.found, names).into_iter().map(Ok);
            Ok(Some((stream::iter(summaries), page.next)))
        }
    });
    pages.try_flatten()
}

/// Reads the queues that follow each other from `start` on.
///
/// A queue that the limit has cut is read again with the next page, so that every queue is summed up as
/// of one revision. One that alone is longer than a page is read by itself.
async fn page(connection: &Connection, start: Vec<u8>, range_end: Vec<u8>) -> Result<Page> {
    let prefix = &connection.config().prefix;
    let request = RangeRequest { key: start, range_end, limit: PAGE_SIZE, ..RangeRequest::default() };
    let answer = connection.unary(request).await?;
    let mut found = answer.kvs;
    let Some(last) = found.last().filter(|_| answer.more).map(|last| last.key.clone()) else {
        return Ok(Page { found, next: None });
    };
    let Some(queue) = keys::queue_of(prefix, &last) else {
        // The next page begins at the smallest key after this one, which is in no queue.
        return Ok(Page { found, next: Some([&last[..], &[0]].concat()) });
    };
    // Whatever is in front of that queue is whole.
    found.truncate(found.partition_point(|kv| &kv.key[..] < queue.as_bytes()));
    if keys::name(prefix, &last).is_none() {
        // Sentinel keys and their like, of which there may be many.
        return Ok(Page { found, next: Some(keys::end(queue)) });
    }
    if !found.is_empty() {
        return Ok(Page { found, next: Some(queue.into()) });
    }
    Ok(Page { found: all_below(connection, queue, false).await?, next: Some(keys::end(queue)) })
}

fn sum_up(connection: &Connection, found: &[KeyValue], names: &str) -> Vec<Summary> {
    let prefix = &connection.config().prefix;
    let queues =
        found.chunk_by(|one, other| keys::queue_of(prefix, &one.key) == keys::queue_of(prefix, &other.key));
    let summary = |queue: &[KeyValue]| {
        let name = keys::name(prefix, &queue.first()?.key)?;
        let entries = entries(connection, queue, &Remaining::new());
        Summary::of(&name, &entries).filter(|_| name.as_str().starts_with(names))
    };
    queues.filter_map(summary).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kind::LockKind;
    use crate::stores::etcd::Shared;
    use crate::stores::etcd::claims::tests::found;
    use crate::stores::etcd::messages::RangeResponse;
    use crate::stores::etcd::reading::queue_request;
    use crate::stores::etcd::scripted::{Cluster, as_of, soon};

    const PREFIX: &str = "/locks/_glocks/";

    fn key(below: &str, created: i64) -> KeyValue {
        found(format!("{PREFIX}{below}").as_bytes(), created, 9)
    }

    /// Expects a page from `start` to `end`, and answers it.
    async fn answer(cluster: &mut Cluster, [start, end]: [&str; 2], kvs: &[KeyValue], more: bool) {
        let (asked, call) = cluster.asked::<RangeRequest>("KV/Range").await;
        let (start, range_end) = (format!("{PREFIX}{start}").into(), end.into());
        assert_eq!(
            asked,
            RangeRequest { key: start, range_end, limit: PAGE_SIZE, ..RangeRequest::default() }
        );
        call.answer(&RangeResponse { header: as_of(50), kvs: kvs.to_vec(), more });
    }

    /// The names that begin with `names`, with their holders and waiters.
    async fn listed(
        shared: &Arc<Shared>,
        names: &str,
        answers: impl Future<Output = ()>,
    ) -> Vec<(String, usize, usize)> {
        let listed =
            soon(async { tokio::join!(list(&shared.connection, names).try_collect::<Vec<_>>(), answers) })
                .await
                .0;
        let each = |summary: Summary| (summary.name.as_str().to_owned(), summary.holders, summary.waiters);
        listed.unwrap().into_iter().map(each).collect()
    }

    fn is(name: &str, holders: usize, waiters: usize) -> (String, usize, usize) {
        (name.to_owned(), holders, waiters)
    }

    #[tokio::test(start_paused = true)]
    async fn every_queue_is_read_whole_and_keys_of_no_queue_are_passed_over() {
        let (mut cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
        let end = "/locks/_glocks0";
        let answers = async {
            // A sentinel key is the last one: all of its kind are skipped.
            answer(&mut cluster, ["", end], &[key("-/1", 1), key("/1f", 2), key("/2f", 3)], true).await;
            let cut = [key("a/1", 9), key("a/2", 8), key("b/1", 7)];
            answer(&mut cluster, ["0", end], &cut, true).await;
            let long = [key("b/1", 7), key("b/2", 6)];
            answer(&mut cluster, ["b/", end], &long, true).await;
            let (asked, call) = cluster.asked::<RangeRequest>("KV/Range").await;
            let start = format!("{PREFIX}b/");
            assert_eq!(asked, RangeRequest { keys_only: false, ..queue_request(&start, PAGE_SIZE) });
            let kvs = vec![key("b/1", 7), key("b/2", 6), key("b/3", 5)];
            call.answer(&RangeResponse { header: as_of(51), kvs, more: false });
            answer(&mut cluster, ["b0", end], &[key("c/1", 4), key("plain", 3)], true).await;
            answer(&mut cluster, ["plain\0", end], &[key("q/1", 2)], false).await;
        };
        let names = [is("-", 1, 0), is("a", 1, 1), is("b", 1, 2), is("c", 1, 0), is("q", 1, 0)];
        assert_eq!(listed(&shared, "", answers).await, names);
        assert!(cluster.is_idle().await);
    }

    #[tokio::test(start_paused = true)]
    async fn only_names_that_begin_as_asked_for_are_read() {
        for (names, start, end) in [("a/b", "a%2Fb", "a%2Fc"), ("a/b%", "a%2Fb", "a%2Fc"), ("%", "", "/")] {
            let (mut cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
            let end = if names == "%" { "/locks/_glocks0".to_owned() } else { format!("{PREFIX}{end}") };
            // The percent sign as we write it, and as another program does.
            let found = [key("a%2Fb%/1", 1), key("a%2Fb%25/1", 2), key("a%2Fbc/1", 3)];
            let answers = async { answer(&mut cluster, [start, &end], &found, false).await };
            let listed = listed(&shared, names, answers).await;
            let begin = [is("a/b%", 1, 0), is("a/b%", 1, 0), is("a/bc", 1, 0)];
            assert_eq!(
                listed,
                begin.into_iter().filter(|(name, ..)| name.starts_with(names)).collect::<Vec<_>>()
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_is_read_when_it_is_wanted() {
        let (mut cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
        let mut listed = Box::pin(list(&shared.connection, ""));
        assert!(cluster.is_idle().await);
        let found = [key("a/1", 1), key("b/1", 2), key("c/1", 3)];
        let answers = async { answer(&mut cluster, ["", "/locks/_glocks0"], &found, true).await };
        let (first, ()) = soon(async { tokio::join!(listed.try_next(), answers) }).await;
        let first = first.unwrap().unwrap();
        assert_eq!((first.name.as_str(), first.kind), ("a", LockKind::Mutex));
        assert_eq!(soon(listed.try_next()).await.unwrap().unwrap().name.as_str(), "b");
        assert!(cluster.is_idle().await, "the next page is not wanted yet");
        let refuses = async {
            let (_, call) = cluster.asked::<RangeRequest>("KV/Range").await;
            call.fail(tonic::Status::permission_denied("not for you"));
        };
        let (failed, ()) = soon(async { tokio::join!(listed.try_next(), refuses) }).await;
        assert!(failed.unwrap_err().to_string().contains("not for you"));
    }

    #[tokio::test(start_paused = true)]
    async fn with_interop_the_key_of_python_etcd3_is_no_claim() {
        let (mut cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1?interop=python-etcd3");
        let found = [key("a", 1), key("a/0123456789abcdef", 2), key("a/b", 3), key("c/d", 4)];
        let answers = async { answer(&mut cluster, ["", "/locks/_glocks0"], &found, false).await };
        assert_eq!(listed(&shared, "", answers).await, [is("a", 1, 0)]);
    }
}

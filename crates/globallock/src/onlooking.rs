//! What onlookers ask of the store: asked again while it does not answer, as a lock would be.

use std::future::ready;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use futures_util::{TryFutureExt, TryStreamExt};

use crate::backend::{Change, Entry, Summary, WaitMode};
use crate::context::Context;
use crate::error::Result;
use crate::name::Name;
use crate::observe::Operation;
use crate::sync::{Backoff, RETRY, now, sleep_until, timeout_at};
use crate::waits::WaitGraph;

/// Asks until the store answers, or has not answered for the store timeout of the manager's options. What it
/// says is returned at once, and so is what cannot heal.
///
/// `operation` is what the observers of requests hear; without it, nothing but a connection is asked for.
///
/// The first request is not cut at the store timeout, because each store bounds its requests, and one about
/// very many claims takes its time. A closed manager asks once.
///
/// # Cancel safety
/// As that of a request.
pub(crate) async fn answered<T, F>(
    context: &Context,
    operation: Option<Operation>,
    ask: impl Fn() -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let limit = now() + context.options.silence_limit(WaitMode::Try);
    let mut closed = context.subscribe_closed();
    let mut backoff = Backoff::new(RETRY);
    let mut failure = None;
    loop {
        let asked = async {
            if !context.backend.is_ready() {
                context.observers.asking(Operation::Connect, context.backend.ready()).await?;
            }
            match operation {
                Some(operation) => context.observers.asking(operation, ask()).await,
                None => ask().await,
            }
        };
        let answer = match failure.take() {
            None => asked.await,
            Some(failure) => timeout_at(limit, asked).await.unwrap_or(Err(failure)),
        };
        context.health.note(&answer);
        let error = match answer {
            Err(error) if error.is_retryable() => error,
            answer => return answer,
        };
        let left = limit.saturating_duration_since(now());
        let Some(pause) = backoff.pause_within(Some(left)) else { return Err(error) };
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => return Err(error),
            () = sleep_until(now() + pause) => failure = Some(error),
        }
    }
}

/// Lists as the store does. It begins again only while nothing has been listed, because a list that was begun
/// twice would tell of two moments as if they were one.
pub(crate) fn list<'a>(context: &'a Context, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
    let begun = answered(context, Some(Operation::List), move || async move {
        let mut rest = context.backend.list(prefix);
        match rest.next().await {
            Some(Err(error)) if error.is_retryable() => Err(error),
            // What cannot heal may concern one name alone: the others follow.
            first => Ok(stream::iter(first).chain(rest)),
        }
    });
    begun.try_flatten_stream().boxed()
}

/// How many queues are asked for at a time.
const ASKED_AT_ONCE: usize = 32;

/// Who waits for whom, over the names that begin with `prefix`; deadlocks are looked at twice.
///
/// # Cancel safety
/// Nothing is lost.
pub(crate) async fn waits(context: &Context, prefix: &str) -> Result<WaitGraph> {
    let contended = list(context, prefix).try_filter(|summary| ready(summary.waiters > 0));
    let queues = queues(context, contended.map_ok(|summary| summary.name)).await?;
    let mut graph = WaitGraph::of(queues.iter().map(|(name, queue)| (name, &queue[..])));
    if !graph.cycles().is_empty() {
        let seen = queues.into_iter().flat_map(|(_, queue)| queue).map(|entry| entry.key).collect();
        let again = self::queues(context, stream::iter(graph.stuck().to_vec()).map(Ok)).await?;
        graph.confirm(&seen, again);
    }
    Ok(graph)
}

/// Reads the queues of names, several at a time, and sorts them by name.
async fn queues(
    context: &Context,
    names: impl Stream<Item = Result<Name>>,
) -> Result<Vec<(Name, Vec<Entry>)>> {
    let queues = names.map_ok(|name| async move {
        let queue = answered(context, Some(Operation::Inspect), || context.backend.inspect(&name)).await?;
        Ok((name, queue))
    });
    let mut queues: Vec<(Name, Vec<Entry>)> =
        queues.try_buffer_unordered(ASKED_AT_ONCE).try_collect().await?;
    // So that two looks at the same queues tell the same.
    queues.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    Ok(queues)
}

/// Watches as the store does, once it can be reached. If it cannot within the store timeout, that is told
/// first.
pub(crate) fn watch<'a>(
    context: &'a Context,
    prefix: &'a str,
    every: Duration,
) -> BoxStream<'a, Result<Change>> {
    let reached = stream::once(answered(context, None, || async { Ok(()) }));
    let changes = reached.flat_map(move |reached| {
        let changes = || context.backend.watch(prefix, every);
        match reached {
            Ok(()) => changes(),
            Err(error) if error.is_retryable() => stream::iter([Err(error)]).chain(changes()).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    });
    changes.boxed()
}

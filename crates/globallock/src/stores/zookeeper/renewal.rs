//! How claims are renewed: their sessions are kept alive, and their nodes are looked for.

use std::collections::HashMap;
use std::sync::Arc;

use super::Shared;
use super::enqueue::Queued;
use super::failure::Failure;
use super::notice::eviction;
use super::positions::Node;
use super::session::Session;
use crate::backend::{Claim, ClaimStatus};
use crate::error::Result as Answer;

/// A claim to renew: its index among them, and the node that is asked for. If the claim is requested again in
/// the meantime, it has another node, and the answer says nothing about that one.
type Renewed<'a> = (usize, &'a Claim, Option<Node>);

/// Renews claims, and returns the status of each.
pub(super) async fn renew(store: &Arc<Shared>, claims: &[Arc<Claim>]) -> Vec<Answer<ClaimStatus>> {
    let mut answers = Vec::with_capacity(claims.len());
    let mut by_session: HashMap<i64, (Arc<Session>, Vec<Renewed<'_>>)> = HashMap::new();
    for (index, claim) in claims.iter().enumerate() {
        let positions = store.positions.lock();
        answers.push(Ok(positions.absent(claim.id)));
        if let Some(position) = positions.get(claim.id).cloned() {
            let of = position.session.id();
            let (_, group) = by_session.entry(of).or_insert_with(|| (position.session, vec![]));
            group.push((index, claim, position.node));
        }
    }
    for (session, group) in by_session.into_values() {
        let renewed = renew_all_of(&session, store, &group).await;
        // Read after the answers, because claims may have been granted since the request.
        let positions = store.positions.lock();
        for (index, claim, node) in group {
            answers[index] = match &renewed {
                // It stays recorded, so that `enqueue` finds out whether it was evicted.
                Err(Failure::Expired) if positions.is_current(claim.id, &session, node.as_ref()) => {
                    Ok(positions.absent(claim.id))
                }
                Ok(()) | Err(Failure::Expired) => Ok(positions.status(claim)),
                Err(failure) => Err(store.config.error(failure.clone())),
            };
        }
    }
    answers
}

/// Keeps a session alive, and forgets those of its claims whose nodes are gone.
async fn renew_all_of(
    session: &Arc<Session>,
    store: &Arc<Shared>,
    claims: &[Renewed<'_>],
) -> Result<(), Failure> {
    for (_, claim, _) in claims {
        session.keep_alive_for(claim.lease);
    }
    let confirmed = session.confirm();
    let exist = |(_, _, node): &Renewed<'_>| node.as_ref().map(|node| session.exists(&node.path));
    let pending: Vec<_> = claims.iter().map(exist).collect();
    confirmed.answer().await?;
    let mut gone = Vec::new();
    for ((_, claim, node), pending) in claims.iter().zip(pending) {
        // Without a node, its creation is in flight, and the answer to that will say it.
        if let Some(pending) = pending
            && !pending.answer().await?
        {
            gone.push((claim, node, store.notices.ask(session, claim.id)));
        }
    }
    for (claim, node, notice) in gone {
        let eviction = eviction(notice.answer().await?);
        Queued { store, claim }.forget(session, node.as_ref(), eviction);
    }
    Ok(())
}

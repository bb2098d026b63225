//! A key for each lease whose end tells at once that the lease is over, however many claims hang on it.

use std::sync::Arc;

use super::lease::Lease;
use super::messages::{PutRequest, PutResponse, RangeRequest, RangeResponse};
use super::{Shared, keys};
use crate::error::Result;

impl Shared {
    /// Watches over a lease in the background; whoever hangs on it is told when it ends.
    ///
    /// A lease that ends unseen is noticed at the next renewal all the same.
    pub(super) fn watch_over(self: &Arc<Self>, lease: Lease) {
        let shared = Arc::downgrade(self);
        let key = keys::marker(self.prefix(), lease.id);
        tokio::spawn(async move {
            let put = PutRequest { key: key.clone(), value: Vec::new(), lease: lease.id };
            let Some(mut read_at) = async { shared.upgrade()?.put_marker(put).await.ok() }.await else {
                return;
            };
            loop {
                let Some(subscription) = shared
                    .upgrade()
                    .filter(|shared| shared.leases.find(lease.id).is_some())
                    .map(|shared| shared.watches.subscribe(&shared.link, [(key.clone(), None)], read_at))
                else {
                    return;
                };
                let news = subscription.news_within(lease.length()).await;
                drop(subscription);
                let Some(shared) = shared.upgrade() else { return };
                let is_gone = news.is_some_and(|news| !news.deleted.is_empty());
                let there = if is_gone { Ok((false, 0)) } else { shared.marker(&key).await };
                match there {
                    Ok((true, revision)) => read_at = revision,
                    Ok((false, _)) => {
                        shared.lease_is_over(lease.id);
                        return;
                    }
                    // The cluster does not answer: the claims' renewals see to it.
                    Err(_) => tokio::time::sleep(shared.link.config().timeout).await,
                }
            }
        });
    }

    /// Takes note that the cluster has ended a lease, and tells whoever hangs on it.
    pub(super) fn lease_is_over(&self, lease: i64) {
        self.leases.forget(lease);
        self.disturbed.notify_one();
    }

    async fn put_marker(&self, put: PutRequest) -> Result<i64> {
        let answer: PutResponse = self.link.unary("/etcdserverpb.KV/Put", put).await?;
        Ok(answer.header.map_or(0, |header| header.revision))
    }

    /// Whether a marker is there, and as of which revision that is so.
    async fn marker(&self, key: &[u8]) -> Result<(bool, i64)> {
        let request = RangeRequest { key: key.to_vec(), keys_only: true, ..RangeRequest::default() };
        let answer: RangeResponse = self.link.unary("/etcdserverpb.KV/Range", request).await?;
        Ok((!answer.kvs.is_empty(), answer.header.map_or(0, |header| header.revision)))
    }
}

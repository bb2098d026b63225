//! Reads single keys for many waiters together, in few transactions.
//!
//! While one transaction is in flight, further requests for keys are collected; the next transaction reads
//! them all.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Shared;
use super::reading::KeyState;
use crate::error::{Error, Result};
use crate::sync::{Mutex, MutexGuard};

/// The reads of keys that are wanted and not yet sent.
#[derive(Debug, Default)]
pub(super) struct KeyReads {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pending: Vec<Pending>,
    /// Whether a task sends them.
    is_busy: bool,
}

/// The keys that one caller wants to read, and where the answer goes.
#[derive(Debug)]
struct Pending {
    keys: Vec<Vec<u8>>,
    answer: oneshot::Sender<Result<Vec<KeyState>>>,
}

impl KeyReads {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Takes all pending reads. `None` if there are none: then the task must end, and the next read starts
    /// another.
    fn take(&self) -> Option<Vec<Pending>> {
        let mut state = self.state();
        state.is_busy = !state.pending.is_empty();
        state.is_busy.then(|| std::mem::take(&mut state.pending))
    }
}

impl Shared {
    /// Reads keys as `read_keys` does, in one transaction with all other reads that are wanted meanwhile.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn read_keys_batched(self: &Arc<Self>, keys: Vec<Vec<u8>>) -> Result<Vec<KeyState>> {
        let (answer, answered) = oneshot::channel();
        let starts = {
            let mut state = self.key_reads.state();
            state.pending.push(Pending { keys, answer });
            !std::mem::replace(&mut state.is_busy, true)
        };
        if starts {
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                while let Some(pending) = shared.key_reads.take() {
                    shared.answer(pending).await;
                }
            });
        }
        answered.await.unwrap_or(Err(Error::Closed))
    }

    async fn answer(&self, pending: Vec<Pending>) {
        let keys: Vec<Vec<u8>> = pending.iter().flat_map(|pending| &pending.keys).cloned().collect();
        let states = self.read_keys(&keys).await;
        let mut states = states.map(Vec::into_iter);
        for Pending { keys, answer } in pending {
            let each = match &mut states {
                Ok(states) => Ok(states.take(keys.len()).collect()),
                Err(error) => Err(Error::unavailable(&self.connection.config().shown, error.to_string())),
            };
            // A caller that has given up needs no answer.
            let _ = answer.send(each);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::stores::etcd::messages::{RangeResponse, Response, ResponseOp, TxnRequest, TxnResponse};
    use crate::stores::etcd::positions::tests::found;
    use crate::stores::etcd::reading::key_request;
    use crate::stores::etcd::scripted::{Call, Cluster, as_of, soon};

    fn keys<const N: usize>(keys: [&str; N]) -> Vec<Vec<u8>> {
        keys.map(Into::into).to_vec()
    }

    /// Expects a read of these keys.
    async fn expect_key_read(cluster: &mut Cluster, keys: &[Vec<u8>]) -> Call {
        let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
        let success = keys.iter().map(|key| key_request(key)).collect();
        assert_eq!(asked, TxnRequest { success, ..TxnRequest::default() });
        call
    }

    /// Answers that the keys were created at these revisions.
    fn answer(created: &[i64]) -> TxnResponse {
        let each = |created: &i64| {
            let kvs = vec![found(b"", *created, 1)];
            ResponseOp { response: Some(Response::Range(RangeResponse { kvs, ..RangeResponse::default() })) }
        };
        let responses = created.iter().map(each).collect();
        TxnResponse { header: as_of(9), succeeded: true, responses }
    }

    #[tokio::test(start_paused = true)]
    async fn reads_that_are_wanted_during_another_read_share_the_next_transaction() {
        let (mut cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
        for _ in 0..2 {
            let read = async |wanted| {
                let seen = shared.read_keys_batched(wanted).await.unwrap();
                seen.iter().map(|seen| seen.created).collect::<Vec<_>>()
            };
            let first = async { read(keys(["a"])).await };
            let others = async {
                let call = expect_key_read(&mut cluster, &keys(["a"])).await;
                let answers = async {
                    call.answer(&answer(&[1]));
                    expect_key_read(&mut cluster, &keys(["b", "c", "d"])).await.answer(&answer(&[2, 3, 4]));
                };
                let ((one, other), ()) =
                    tokio::join!(async { tokio::join!(read(keys(["b", "c"])), read(keys(["d"]))) }, answers);
                (one, other)
            };
            let (first, (one, other)) = soon(async { tokio::join!(first, others) }).await;
            assert_eq!((first, one, other), (vec![1], vec![2, 3], vec![4]));
            assert!(cluster.is_idle().await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_caller_of_a_failed_read_gets_the_error() {
        let (mut cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
        let fails = async {
            let call = expect_key_read(&mut cluster, &keys(["a", "b"])).await;
            call.fail(tonic::Status::permission_denied("not for you"));
        };
        let reads = async {
            tokio::join!(shared.read_keys_batched(keys(["a"])), shared.read_keys_batched(keys(["b"])))
        };
        let ((one, other), ()) = soon(async { tokio::join!(reads, fails) }).await;
        for failed in [one, other] {
            assert!(failed.unwrap_err().to_string().contains("not for you"));
        }
    }
}

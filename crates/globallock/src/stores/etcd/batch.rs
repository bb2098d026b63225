//! Looks at single keys for many waiters at a time, in few transactions.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::Shared;
use super::reading::KeyState;
use crate::error::{Error, Result};

/// The looks that have been asked for and are not under way yet.
#[derive(Debug, Default)]
pub(super) struct KeyReads {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    asked: Vec<Pending>,
    /// Whether a task carries them out.
    is_busy: bool,
}

#[derive(Debug)]
struct Pending {
    keys: Vec<Vec<u8>>,
    answer: oneshot::Sender<Result<Vec<KeyState>>>,
}

impl KeyReads {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all that have been asked for; where there are none, the task is at its end.
    fn take(&self) -> Option<Vec<Pending>> {
        let mut state = self.state();
        state.is_busy = !state.asked.is_empty();
        state.is_busy.then(|| std::mem::take(&mut state.asked))
    }
}

impl Shared {
    /// As `look`, together with all others who look meanwhile.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn read_keys_batched(self: &Arc<Self>, keys: Vec<Vec<u8>>) -> Result<Vec<KeyState>> {
        let (answer, answered) = oneshot::channel();
        let starts = {
            let mut state = self.key_reads.state();
            state.asked.push(Pending { keys, answer });
            !std::mem::replace(&mut state.is_busy, true)
        };
        if starts {
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                while let Some(asked) = shared.key_reads.take() {
                    shared.answer(asked).await;
                }
            });
        }
        answered.await.unwrap_or(Err(Error::Closed))
    }

    async fn answer(&self, asked: Vec<Pending>) {
        let keys: Vec<Vec<u8>> = asked.iter().flat_map(|asked| &asked.keys).cloned().collect();
        let seen = self.read_keys(&keys).await;
        let mut seen = seen.map(Vec::into_iter);
        for Pending { keys, answer } in asked {
            let each = match &mut seen {
                Ok(seen) => Ok(seen.take(keys.len()).collect()),
                Err(error) => Err(Error::unavailable(&self.connection.config().shown, error.to_string())),
            };
            // Who does not wait for it any more needs no answer.
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

    /// Somebody looks at these keys.
    async fn looks(cluster: &mut Cluster, keys: &[Vec<u8>]) -> Call {
        let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
        let success = keys.iter().map(|key| key_request(key)).collect();
        assert_eq!(asked, TxnRequest { success, ..TxnRequest::default() });
        call
    }

    /// They were created as of these revisions.
    fn answer(created: &[i64]) -> TxnResponse {
        let each = |created: &i64| {
            let kvs = vec![found(b"", *created, 1)];
            ResponseOp { response: Some(Response::Range(RangeResponse { kvs, ..RangeResponse::default() })) }
        };
        let responses = created.iter().map(each).collect();
        TxnResponse { header: as_of(9), succeeded: true, responses }
    }

    #[tokio::test(start_paused = true)]
    async fn who_looks_while_others_do_is_served_together_with_those_who_come_meanwhile() {
        let (mut cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
        for _ in 0..2 {
            let look = async |wanted| {
                let seen = shared.read_keys_batched(wanted).await.unwrap();
                seen.iter().map(|seen| seen.created).collect::<Vec<_>>()
            };
            let first = async { look(keys(["a"])).await };
            let others = async {
                let call = looks(&mut cluster, &keys(["a"])).await;
                let answers = async {
                    call.answer(&answer(&[1]));
                    looks(&mut cluster, &keys(["b", "c", "d"])).await.answer(&answer(&[2, 3, 4]));
                };
                let ((one, other), ()) =
                    tokio::join!(async { tokio::join!(look(keys(["b", "c"])), look(keys(["d"]))) }, answers);
                (one, other)
            };
            let (first, (one, other)) = soon(async { tokio::join!(first, others) }).await;
            assert_eq!((first, one, other), (vec![1], vec![2, 3], vec![4]));
            assert!(cluster.is_idle().await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_is_told_that_a_look_failed() {
        let (mut cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
        let fails = async {
            let call = looks(&mut cluster, &keys(["a", "b"])).await;
            call.fail(tonic::Status::permission_denied("not for you"));
        };
        let looks = async {
            tokio::join!(shared.read_keys_batched(keys(["a"])), shared.read_keys_batched(keys(["b"])))
        };
        let ((one, other), ()) = soon(async { tokio::join!(looks, fails) }).await;
        for failed in [one, other] {
            assert!(failed.unwrap_err().to_string().contains("not for you"));
        }
    }
}

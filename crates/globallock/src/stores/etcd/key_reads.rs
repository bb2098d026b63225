//! Reads of single keys, for many waiters together in few transactions.
//!
//! While one transaction is in flight, further requests for keys are collected; the next transaction reads
//! them all.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt};
use tokio::sync::oneshot;

use super::connection::{Connection, is_full};
use super::messages::{
    Header, RangeRequest, RangeResponse, Request, RequestOp, TxnRequest, operation, revision,
};
use super::reading::ranges;
use crate::error::{Error, Result};
use crate::sync::Mutex;

/// How many keys one transaction reads. etcd allows 128 operations by default.
pub(super) const KEYS_PER_TRANSACTION: usize = 100;

/// How many keys are read at the same time where each needs a request of its own.
const SINGLE_READS: usize = 32;

/// What a read found of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyState {
    /// The revision at which the key was created; 0 if it does not exist.
    pub(super) created: i64,
    /// The revision as of which it was read.
    pub(super) read_at: i64,
}

impl KeyState {
    /// What the read of one key as of this revision has found.
    fn new(found: &RangeResponse, read_at: i64) -> Self {
        KeyState { created: found.kvs.first().map_or(0, |kv| kv.create_revision), read_at }
    }

    /// Whether this proves that the key which was created at `revision` is gone.
    ///
    /// A read that is older than the key proves nothing.
    pub(super) fn proves_gone(self, revision: i64) -> bool {
        self.created != revision && revision <= self.read_at
    }
}

/// The request for one key, without its value.
pub(super) fn key_request(key: &[u8]) -> RequestOp {
    operation(Request::Range(key_range(key)))
}

/// The request for one key with its value.
pub(super) fn value_request(key: Vec<u8>) -> RequestOp {
    operation(Request::Range(RangeRequest { key, ..RangeRequest::default() }))
}

fn key_range(key: &[u8]) -> RangeRequest {
    RangeRequest { key: key.to_vec(), keys_only: true, ..RangeRequest::default() }
}

/// Reads when each key was created. `answered` gets the header of each answer as it arrives: what that one
/// confirms stays confirmed, whatever becomes of the requests for the other keys.
pub(super) async fn read_keys(
    connection: &Connection,
    keys: &[Vec<u8>],
    mut answered: impl FnMut(Option<&Header>) + Send,
) -> Result<Vec<KeyState>> {
    let mut states = Vec::with_capacity(keys.len());
    for keys in keys.chunks(KEYS_PER_TRANSACTION) {
        let reads = keys.iter().map(|key| key_request(key)).collect();
        match connection.unary(TxnRequest::of(reads)).await {
            Ok(answer) => {
                answered(answer.header.as_ref());
                let read_at = revision(answer.header.as_ref());
                states.extend(ranges(answer.responses).iter().map(|range| KeyState::new(range, read_at)));
            }
            // Before 3.4.20 and 3.5.7, a cluster that is full refuses even transactions that only read.
            Err(error) if is_full(&error) => {
                let reads: Vec<RangeRequest> = keys.iter().map(|key| key_range(key)).collect();
                let reads = stream::iter(reads).map(|read| connection.unary(read));
                let mut reads = reads.buffered(SINGLE_READS);
                while let Some(range) = reads.next().await {
                    let range = range?;
                    answered(range.header.as_ref());
                    states.push(KeyState::new(&range, revision(range.header.as_ref())));
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(states)
}

/// The reads of keys that are wanted and not yet sent.
pub(super) struct KeyReads {
    connection: Arc<Connection>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pending: Vec<Pending>,
    /// Whether a task sends them.
    is_busy: bool,
}

/// The keys that one caller wants to read, and where the answer goes.
struct Pending {
    keys: Vec<Vec<u8>>,
    answer: oneshot::Sender<Result<Vec<KeyState>>>,
}

impl KeyReads {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        KeyReads { connection, state: Mutex::default() }
    }

    /// Reads when each key was created, in one transaction with all other reads that are wanted meanwhile.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn read(self: &Arc<Self>, keys: Vec<Vec<u8>>) -> Result<Vec<KeyState>> {
        let (answer, answered) = oneshot::channel();
        let starts = {
            let mut state = self.state.lock();
            state.pending.push(Pending { keys, answer });
            !std::mem::replace(&mut state.is_busy, true)
        };
        if starts {
            let reads = Arc::clone(self);
            tokio::spawn(async move {
                while let Some(pending) = reads.take() {
                    reads.answer(pending).await;
                }
            });
        }
        answered.await.unwrap_or(Err(Error::Closed))
    }

    /// Takes all pending reads. `None` if there are none: then the task must end, and the next read starts
    /// another.
    fn take(&self) -> Option<Vec<Pending>> {
        let mut state = self.state.lock();
        state.is_busy = !state.pending.is_empty();
        state.is_busy.then(|| std::mem::take(&mut state.pending))
    }

    async fn answer(&self, pending: Vec<Pending>) {
        let keys: Vec<Vec<u8>> = pending.iter().flat_map(|pending| &pending.keys).cloned().collect();
        let mut states = read_keys(&self.connection, &keys, |_| {}).await.map(Vec::into_iter);
        for Pending { keys, answer } in pending {
            let each = match &mut states {
                Ok(states) => Ok(states.take(keys.len()).collect()),
                Err(error) => Err(self.connection.again(error)),
            };
            // A caller that has given up needs no answer.
            let _ = answer.send(each);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::etcd::claims::tests::found;
    use crate::stores::etcd::messages::{RangeResponse, Response, ResponseOp, TxnResponse};

    use crate::stores::etcd::scripted::{Call, Cluster, as_of, in_term, soon};

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
                let seen = shared.key_reads.read(wanted).await.unwrap();
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
    async fn keys_are_read_in_as_few_transactions_as_the_cluster_allows() {
        let (mut cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
        let keys: Vec<Vec<u8>> = (0..150).map(|number| number.to_string().into_bytes()).collect();
        let answers = async {
            for (keys, read_at) in [(&keys[..100], 7), (&keys[100..], 8)] {
                let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
                let success = keys.iter().map(|key| key_request(key)).collect();
                assert_eq!(asked, TxnRequest { success, ..TxnRequest::default() });
                // Every second key exists.
                let exists = |(number, key): (usize, &Vec<u8>)| {
                    let kvs = if number % 2 == 0 { vec![found(key, 5, 1)] } else { Vec::new() };
                    ResponseOp {
                        response: Some(Response::Range(RangeResponse { kvs, ..RangeResponse::default() })),
                    }
                };
                let responses = keys.iter().enumerate().map(exists).collect();
                call.answer(&TxnResponse { header: as_of(read_at), succeeded: true, responses });
            }
        };
        let (states, ()) =
            soon(async { tokio::join!(read_keys(&shared.connection, &keys, |_| {}), answers) }).await;
        let exists = |number| KeyState {
            created: if number % 2 == 0 { 5 } else { 0 },
            read_at: if number < 100 { 7 } else { 8 },
        };
        assert_eq!(states.unwrap(), (0..150).map(exists).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_read_one_by_one_if_a_full_cluster_refuses_transactions() {
        let (mut cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
        let (keys, connection) = (keys(["a", "b"]), &shared.connection);
        let answers = async {
            let (_, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
            call.fail(tonic::Status::resource_exhausted("etcdserver: mvcc: database space exceeded"));
            for (key, header, created) in [("a", in_term(1, 2), 5), ("b", in_term(1, 3), 0)] {
                let (asked, call) = cluster.asked::<RangeRequest>("KV/Range").await;
                assert_eq!(asked, key_range(key.as_bytes()));
                let kvs = if created > 0 { vec![found(key.as_bytes(), created, 1)] } else { Vec::new() };
                call.answer(&RangeResponse { header, kvs, more: false });
            }
        };
        let mut headers = Vec::new();
        let reads = read_keys(connection, &keys, |header| headers.push(header.cloned()));
        let (read, ()) = soon(async { tokio::join!(reads, answers) }).await;
        assert_eq!(read.unwrap(), [5, 0].map(|created| KeyState { created, read_at: 9 }));
        assert_eq!(headers, [in_term(1, 2), in_term(1, 3)]);
        assert!(cluster.is_idle().await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_although_the_read_of_other_keys_fails() {
        let (mut cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
        let keys: Vec<Vec<u8>> = (0..150).map(|number| format!("{number:03}").into_bytes()).collect();
        let mut headers = Vec::new();
        let answers = async {
            let (_, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
            call.answer(&TxnResponse { header: in_term(1, 2), succeeded: true, responses: Vec::new() });
            let (_, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
            call.fail(tonic::Status::permission_denied("not any more"));
        };
        let reads = read_keys(&shared.connection, &keys, |header| headers.push(header.cloned()));
        let (read, ()) = soon(async { tokio::join!(reads, answers) }).await;
        assert!(read.is_err());
        assert_eq!(headers, [in_term(1, 2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn every_caller_of_a_failed_read_gets_the_error() {
        let (mut cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
        let fails = async {
            let call = expect_key_read(&mut cluster, &keys(["a", "b"])).await;
            call.fail(tonic::Status::permission_denied("not for you"));
        };
        let reads =
            async { tokio::join!(shared.key_reads.read(keys(["a"])), shared.key_reads.read(keys(["b"]))) };
        let ((one, other), ()) = soon(async { tokio::join!(reads, fails) }).await;
        for failed in [one, other] {
            assert!(failed.unwrap_err().to_string().contains("not for you"));
        }
    }
}

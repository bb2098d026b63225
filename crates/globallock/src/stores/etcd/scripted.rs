//! A scripted cluster for tests: without a network, it answers each request when and as the test says.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream;
use prost::Message;
use prost::bytes::{Buf, BufMut};
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::codec::{DecodeBuf, Decoder, EncodeBody, EncodeBuf, Encoder, SingleMessageCompressionOverride};
use tonic::codegen::http::{Request, Response};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::config::Config;
use super::connection::Connection;
use super::messages::{Header, WatchAction, WatchCreate, WatchRequest};
use super::owner::Shared;
use crate::stores::address::Address;

/// A member of a real cluster, or the one that stands for all members of a scripted cluster.
#[derive(Clone)]
pub(super) enum Member {
    Real(Channel),
    Scripted(mpsc::UnboundedSender<Call>),
}

impl tonic::codegen::Service<Request<Body>> for Member {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        match self {
            Member::Real(channel) => channel.poll_ready(context),
            Member::Scripted(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self {
            Member::Real(channel) => Box::pin(channel.call(request)),
            Member::Scripted(calls) => {
                let (answers, given) = mpsc::unbounded_channel();
                let method = request.uri().path().to_owned();
                let token = request.headers().get("authorization").map(|token| token.as_bytes().to_vec());
                let requests = Streaming::new_request(Plain, request.into_body(), None, None);
                // A failure means that the test has ended, so nobody waits for an answer.
                let _ = calls.send(Call { method, token, requests, answers });
                let given = stream::unfold(given, async |mut given| Some((given.recv().await?, given)));
                let compressed = SingleMessageCompressionOverride::default();
                let body = EncodeBody::new_server(Plain, Box::pin(given), None, compressed, None);
                Box::pin(std::future::ready(Ok(Response::new(Body::new(body)))))
            }
        }
    }
}

/// The codec of messages that are encoded already.
struct Plain;

impl Encoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}

/// A request, or a stream of requests, that waits for its answers. Dropping it ends it without an error.
pub(super) struct Call {
    method: String,
    /// The token that came with the request.
    pub(super) token: Option<Vec<u8>>,
    requests: Streaming<Vec<u8>>,
    answers: mpsc::UnboundedSender<Result<Vec<u8>, Status>>,
}

impl Call {
    /// Whether the caller still waits for an answer.
    fn is_awaited(&self) -> bool {
        !self.answers.is_closed()
    }

    /// The next request of a stream.
    pub(super) async fn request<Q: Message + Default>(&mut self) -> Q {
        let request = self.requests.message().await.unwrap().expect("one more request");
        Q::decode(&request[..]).unwrap()
    }

    /// Sends the only answer to a request.
    pub(super) fn answer(self, answer: &impl Message) {
        self.say(answer);
    }

    /// Sends one of many answers.
    pub(super) fn say(&self, answer: &impl Message) {
        // The caller may have given up.
        let _ = self.answers.send(Ok(answer.encode_to_vec()));
    }

    pub(super) fn fail(self, status: Status) {
        let _ = self.answers.send(Err(status));
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a call of {}", self.method)
    }
}

/// The cluster's side of a test.
pub(super) struct Cluster {
    calls: mpsc::UnboundedReceiver<Call>,
    /// Calls of other methods that came before the one that the test waited for.
    skipped: VecDeque<Call>,
}

impl Cluster {
    /// A scripted cluster, and a store that uses it.
    pub(super) fn with_store(address: &str) -> (Self, Arc<Shared>) {
        let mut connection = Connection::new(Config::new(Address::parse(address).unwrap()).unwrap());
        let (sender, calls) = mpsc::unbounded_channel();
        connection.script(Member::Scripted(sender));
        (Cluster { calls, skipped: VecDeque::new() }, Arc::new(Shared::new(connection)))
    }

    /// The next request to this method, such as `KV/Range`.
    pub(super) async fn asked<Q: Message + Default>(&mut self, method: &str) -> (Q, Call) {
        let mut call = self.call(method).await;
        (call.request().await, call)
    }

    async fn call(&mut self, method: &str) -> Call {
        let is_it = |call: &Call| call.method.strip_prefix("/etcdserverpb.") == Some(method);
        self.skipped.retain(Call::is_awaited);
        if let Some(index) = self.skipped.iter().position(is_it) {
            return self.skipped.remove(index).unwrap();
        }
        loop {
            let call = self.calls.recv().await.expect("the store to live");
            if is_it(&call) && call.is_awaited() {
                return call;
            }
            self.skipped.push_back(call);
        }
    }

    /// Whether no unanswered call is left, after every task has run as far as it can.
    pub(super) async fn is_idle(&mut self) -> bool {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        self.skipped.extend(std::iter::from_fn(|| self.calls.try_recv().ok()));
        self.skipped.retain(Call::is_awaited);
        self.skipped.is_empty()
    }
}

/// The header of an answer as of this revision.
pub(super) fn as_of(revision: i64) -> Option<Header> {
    Some(Header { revision, ..Header::default() })
}

/// The header of a member's answer in this term.
pub(super) fn in_term(member: u64, term: u64) -> Option<Header> {
    Some(Header { member, term, revision: 9 })
}

/// Waits for a future that must take no time by the test's clock, which stands still while any task can run.
pub(super) fn soon<T>(future: impl Future<Output = T>) -> impl Future<Output = T> {
    let future = Box::pin(future);
    async { tokio::time::timeout(Duration::from_secs(1), future).await.expect("it takes no time") }
}

/// The watch that a request creates.
pub(super) fn created_watch(request: WatchRequest) -> WatchCreate {
    match request.action {
        Some(WatchAction::Create(create)) => create,
        other => panic!("{other:?} creates no watch"),
    }
}

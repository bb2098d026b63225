//! A cluster for tests, which answers each request when and as the test says, without a network.

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

use super::Shared;
use super::config::Config;
use super::connection::Connection;
use super::messages::{Header, WatchAction, WatchCreate, WatchRequest};
use crate::stores::address::Address;

/// A member of a cluster: a real one, or what stands for all members of a scripted one.
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
                // After the end of its test there is nobody to answer.
                let _ = calls.send(Call { method, token, requests, answers });
                let given = stream::unfold(given, async |mut given| Some((given.recv().await?, given)));
                let compressed = SingleMessageCompressionOverride::default();
                let body = EncodeBody::new_server(Plain, Box::pin(given), None, compressed, None);
                Box::pin(std::future::ready(Ok(Response::new(Body::new(body)))))
            }
        }
    }
}

/// Messages as they are encoded.
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

/// A request, or a stream of them, that waits for its answers; it ends well once it is dropped.
pub(super) struct Call {
    method: String,
    /// What the user is known by.
    pub(super) token: Option<Vec<u8>>,
    requests: Streaming<Vec<u8>>,
    answers: mpsc::UnboundedSender<Result<Vec<u8>, Status>>,
}

impl Call {
    /// Whether who asked has not given up.
    fn is_awaited(&self) -> bool {
        !self.answers.is_closed()
    }

    /// The next request of a stream.
    pub(super) async fn request<Q: Message + Default>(&mut self) -> Q {
        let request = self.requests.message().await.unwrap().expect("one more request");
        Q::decode(&request[..]).unwrap()
    }

    /// The one answer to a request.
    pub(super) fn answer(self, answer: &impl Message) {
        self.say(answer);
    }

    /// One of many answers.
    pub(super) fn say(&self, answer: &impl Message) {
        // Who asked may have given up.
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

/// The side of the cluster.
pub(super) struct Cluster {
    calls: mpsc::UnboundedReceiver<Call>,
    /// What came before that which the test waited for.
    passed: VecDeque<Call>,
}

impl Cluster {
    /// A store whose members are this cluster.
    pub(super) fn with_store(address: &str) -> (Self, Arc<Shared>) {
        let mut connection = Connection::new(Config::new(Address::parse(address).unwrap()).unwrap());
        let (sender, calls) = mpsc::unbounded_channel();
        connection.script(Member::Scripted(sender));
        (Cluster { calls, passed: VecDeque::new() }, Arc::new(Shared::new(connection)))
    }

    /// The next request to this method, such as `KV/Range`.
    pub(super) async fn asked<Q: Message + Default>(&mut self, method: &str) -> (Q, Call) {
        let mut call = self.call(method).await;
        (call.request().await, call)
    }

    async fn call(&mut self, method: &str) -> Call {
        let is_it = |call: &Call| call.method.strip_prefix("/etcdserverpb.") == Some(method);
        self.passed.retain(Call::is_awaited);
        if let Some(index) = self.passed.iter().position(is_it) {
            return self.passed.remove(index).unwrap();
        }
        loop {
            let call = self.calls.recv().await.expect("the store to live");
            if is_it(&call) && call.is_awaited() {
                return call;
            }
            self.passed.push_back(call);
        }
    }

    /// Whether nobody has asked for anything that was not looked at, after all that could be done at once has been.
    pub(super) async fn is_idle(&mut self) -> bool {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        self.passed.extend(std::iter::from_fn(|| self.calls.try_recv().ok()));
        self.passed.retain(Call::is_awaited);
        self.passed.is_empty()
    }
}

/// As of a revision.
pub(super) fn as_of(revision: i64) -> Option<Header> {
    Some(Header { revision })
}

/// Waits for what must not take long: by the clock of the test, which stands still while anything can be done.
pub(super) fn soon<T>(future: impl Future<Output = T>) -> impl Future<Output = T> {
    let future = Box::pin(future);
    async { tokio::time::timeout(Duration::from_secs(1), future).await.expect("it takes no time") }
}

/// The watch that a request asks for.
pub(super) fn creates(request: WatchRequest) -> WatchCreate {
    match request.action {
        Some(WatchAction::Create(create)) => create,
        other => panic!("{other:?} creates no watch"),
    }
}

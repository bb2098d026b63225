//! Raw calls of etcd, encoded by hand without a client library: globallock's round trips are compared with
//! them.

use std::time::Duration;

use bytes::{Buf, BufMut};
use tonic::Status;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};

use crate::contend::Contender;

/// A connection to one member.
#[derive(Clone)]
pub(crate) struct Raw(Grpc<Channel>);

impl Raw {
    pub(crate) async fn connect(url: &str) -> Self {
        let endpoint = Endpoint::from_shared(url.replace("etcd://", "http://")).expect("the URL is valid");
        let channel = endpoint.tcp_nodelay(true).connect().await.expect("the member is there");
        Raw(Grpc::new(channel))
    }

    async fn call(&mut self, path: &'static str, message: Vec<u8>) -> Vec<u8> {
        self.0.ready().await.expect("the connection lives");
        let request = tonic::Request::new(message);
        let answer = self.0.unary(request, PathAndQuery::from_static(path), Bytes).await;
        answer.expect("the member answers").into_inner()
    }

    pub(crate) async fn lease(&mut self, ttl: Duration) -> u64 {
        let answer = self.call("/etcdserverpb.Lease/LeaseGrant", number(1, ttl.as_secs())).await;
        find_number(&answer, 2)
    }

    /// Puts a key that is attached to a lease, unless it exists, and reads the keys below the same name, in
    /// one transaction.
    pub(crate) async fn put_and_range(&mut self, name: &str, key: &str, lease: u64) {
        let absent = [number(2, 1), field(3, key.as_bytes()), number(5, 0)].concat();
        let put = [field(1, key.as_bytes()), field(2, b"value"), number(3, lease)].concat();
        let end = name.replace('/', "0");
        let range = field(1, &[field(1, name.as_bytes()), field(2, end.as_bytes()), number(8, 1)].concat());
        let message =
            [field(1, &absent), field(2, &field(2, &put)), field(2, &range), field(3, &range)].concat();
        self.call("/etcdserverpb.KV/Txn", message).await;
    }

    pub(crate) async fn delete(&mut self, key: &str) {
        self.call("/etcdserverpb.KV/DeleteRange", field(1, key.as_bytes())).await;
    }

    pub(crate) async fn put(&mut self, key: &str) {
        self.call("/etcdserverpb.KV/Put", [field(1, key.as_bytes()), field(2, b"value")].concat()).await;
    }
}

/// An owner that uses the cluster's Lock service: etcd's own mutex, run by the server.
pub(crate) struct LockService {
    pub(crate) raw: Raw,
    pub(crate) lease: u64,
}

impl Contender for LockService {
    type Held = Vec<u8>;

    async fn acquire(&mut self) -> Self::Held {
        let message = [field(1, b"bench-lock-service"), number(2, self.lease)].concat();
        find(&self.raw.call("/v3lockpb.Lock/Lock", message).await, 2)
    }

    async fn release(&mut self, held: Self::Held) {
        self.raw.call("/v3lockpb.Lock/Unlock", field(1, &held)).await;
    }
}

fn varint(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn field(tag: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(tag << 3 | 2, &mut bytes);
    varint(content.len() as u64, &mut bytes);
    bytes.extend(content);
    bytes
}

fn number(tag: u64, value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(tag << 3, &mut bytes);
    varint(value, &mut bytes);
    bytes
}

fn read_varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes.get_u8();
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

/// The fields of a message that has only numbers and buffers, as (tag, number or length, content).
fn fields(mut message: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = read_varint(&mut message);
        let value = read_varint(&mut message);
        let mut content = Vec::new();
        if tag & 7 == 2 {
            content = message[..value as usize].to_vec();
            message.advance(value as usize);
        }
        found.push((tag >> 3, value, content));
    }
    found
}

fn find(message: &[u8], tag: u64) -> Vec<u8> {
    let found = fields(message).into_iter().find(|(found, ..)| *found == tag);
    found.expect("the answer has the field").2
}

fn find_number(message: &[u8], tag: u64) -> u64 {
    let found = fields(message).into_iter().find(|(found, ..)| *found == tag);
    found.expect("the answer has the field").1
}

/// A codec that passes messages unchanged.
#[derive(Clone, Copy, Debug)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Bytes;
    type Decoder = Bytes;

    fn encoder(&mut self) -> Self::Encoder {
        *self
    }

    fn decoder(&mut self) -> Self::Decoder {
        *self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}

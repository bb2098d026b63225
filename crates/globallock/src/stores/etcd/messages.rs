//! The messages of etcd's API that are used here, by their field numbers in its `rpc.proto` and `kv.proto`.
//!
//! They are written by hand rather than generated, so that the build needs no protocol compiler. Unused
//! fields are left out, which the encoding allows.

use prost::{Enumeration, Message, Oneof};

/// A request, to the method of the cluster that it is for.
pub(super) trait Method: Message + Clone + 'static {
    type Answer: Message + Default + 'static;
    const PATH: &'static str;
}

macro_rules! methods {
    ($($request:ident => $answer:ident by $path:literal;)*) => {$(
        impl Method for $request {
            type Answer = $answer;
            const PATH: &'static str = concat!("/etcdserverpb.", $path);
        }
    )*};
}

methods! {
    RangeRequest => RangeResponse by "KV/Range";
    PutRequest => PutResponse by "KV/Put";
    DeleteRangeRequest => DeleteRangeResponse by "KV/DeleteRange";
    TxnRequest => TxnResponse by "KV/Txn";
    WatchRequest => WatchResponse by "Watch/Watch";
    LeaseGrantRequest => LeaseGrantResponse by "Lease/LeaseGrant";
    LeaseRequest => LeaseResponse by "Lease/LeaseKeepAlive";
    LeaseTimeToLiveRequest => LeaseTimeToLiveResponse by "Lease/LeaseTimeToLive";
    LeaseRevokeRequest => Empty by "Lease/LeaseRevoke";
    AuthenticateRequest => AuthenticateResponse by "Auth/Authenticate";
    StatusRequest => StatusResponse by "Maintenance/Status";
    AlarmRequest => AlarmResponse by "Maintenance/Alarm";
    MemberListRequest => MemberListResponse by "Cluster/MemberList";
}

/// Each field with its type, and how it is encoded.
macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident {
        $($(#[$note:meta])* $field:ident: $type:ty = [$($encoding:tt)*];)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Message)]
        pub(super) struct $name {
            $($(#[$note])* #[prost($($encoding)*)] pub(super) $field: $type,)*
        }
    )*};
}

messages! {
    Header {
        /// The member that answers.
        member: u64 = [uint64, tag = "2"];
        revision: i64 = [int64, tag = "3"];
        /// The term of the last entry of the cluster's log that the member has applied.
        term: u64 = [uint64, tag = "4"];
    }

    KeyValue {
        key: Vec<u8> = [bytes = "vec", tag = "1"];
        create_revision: i64 = [int64, tag = "2"];
        mod_revision: i64 = [int64, tag = "3"];
        value: Vec<u8> = [bytes = "vec", tag = "5"];
        lease: i64 = [int64, tag = "6"];
    }

    RangeRequest {
        key: Vec<u8> = [bytes = "vec", tag = "1"];
        range_end: Vec<u8> = [bytes = "vec", tag = "2"];
        /// How many keys the answer has at most; 0: all.
        limit: i64 = [int64, tag = "3"];
        /// The revision as of which the keys are read; 0: the newest.
        revision: i64 = [int64, tag = "4"];
        sort_order: i32 = [enumeration = "SortOrder", tag = "5"];
        sort_target: i32 = [enumeration = "SortTarget", tag = "6"];
        keys_only: bool = [bool, tag = "8"];
        /// Only keys that were created at this revision or later; 0: all.
        min_create_revision: i64 = [int64, tag = "12"];
        /// Only keys that were created at this revision or before; 0: all.
        max_create_revision: i64 = [int64, tag = "13"];
    }

    RangeResponse {
        header: Option<Header> = [message, optional, tag = "1"];
        kvs: Vec<KeyValue> = [message, repeated, tag = "2"];
        /// Whether the limit has left keys out.
        more: bool = [bool, tag = "3"];
    }

    PutRequest {
        key: Vec<u8> = [bytes = "vec", tag = "1"];
        value: Vec<u8> = [bytes = "vec", tag = "2"];
        lease: i64 = [int64, tag = "3"];
        /// Leaves the value as it is: the key must exist.
        ignore_value: bool = [bool, tag = "5"];
    }

    PutResponse {
        header: Option<Header> = [message, optional, tag = "1"];
    }

    DeleteRangeRequest {
        key: Vec<u8> = [bytes = "vec", tag = "1"];
    }

    DeleteRangeResponse {
        deleted: i64 = [int64, tag = "2"];
    }

    RequestOp {
        request: Option<Request> = [oneof = "Request", tags = "1, 2, 3, 4"];
    }

    ResponseOp {
        response: Option<Response> = [oneof = "Response", tags = "1, 2, 3, 4"];
    }

    /// A comparison for equality of one property of a key. Equality is the default of the field that is left
    /// out.
    Compare {
        target: i32 = [enumeration = "Target", tag = "2"];
        key: Vec<u8> = [bytes = "vec", tag = "3"];
        create_revision: Option<i64> = [int64, optional, tag = "5"];
        mod_revision: Option<i64> = [int64, optional, tag = "6"];
        value: Option<Vec<u8>> = [bytes = "vec", optional, tag = "7"];
        /// Compares all keys of the range that ends here, unless it is empty.
        ///
        /// With a creation revision of 0, this holds if the range has no keys.
        range_end: Vec<u8> = [bytes = "vec", tag = "64"];
    }

    TxnRequest {
        compare: Vec<Compare> = [message, repeated, tag = "1"];
        success: Vec<RequestOp> = [message, repeated, tag = "2"];
        failure: Vec<RequestOp> = [message, repeated, tag = "3"];
    }

    TxnResponse {
        header: Option<Header> = [message, optional, tag = "1"];
        succeeded: bool = [bool, tag = "2"];
        responses: Vec<ResponseOp> = [message, repeated, tag = "3"];
    }

    WatchRequest {
        action: Option<WatchAction> = [oneof = "WatchAction", tags = "1, 2"];
    }

    WatchCreate {
        key: Vec<u8> = [bytes = "vec", tag = "1"];
        /// Watches all keys of the range that ends here, unless it is empty.
        range_end: Vec<u8> = [bytes = "vec", tag = "2"];
        start_revision: i64 = [int64, tag = "3"];
        /// 0 filters out puts, 1 deletions.
        filters: Vec<i32> = [int32, repeated, tag = "5"];
        watch_id: i64 = [int64, tag = "7"];
    }

    WatchCancel {
        watch_id: i64 = [int64, tag = "1"];
    }

    WatchResponse {
        header: Option<Header> = [message, optional, tag = "1"];
        watch_id: i64 = [int64, tag = "2"];
        created: bool = [bool, tag = "3"];
        canceled: bool = [bool, tag = "4"];
        events: Vec<Event> = [message, repeated, tag = "11"];
    }

    Event {
        kv: Option<KeyValue> = [message, optional, tag = "2"];
    }

    LeaseGrantRequest {
        /// In seconds.
        ttl: i64 = [int64, tag = "1"];
    }

    LeaseGrantResponse {
        header: Option<Header> = [message, optional, tag = "1"];
        id: i64 = [int64, tag = "2"];
        ttl: i64 = [int64, tag = "3"];
    }

    /// Keeps a lease alive.
    LeaseRequest {
        id: i64 = [int64, tag = "1"];
    }

    LeaseTimeToLiveRequest {
        id: i64 = [int64, tag = "1"];
    }

    LeaseRevokeRequest {
        id: i64 = [int64, tag = "1"];
    }

    /// The answer to `LeaseKeepAlive`.
    LeaseResponse {
        /// As of the moment before the lease was renewed.
        header: Option<Header> = [message, optional, tag = "1"];
        /// In seconds; 0 or less if the lease has ended.
        ttl: i64 = [int64, tag = "3"];
    }

    LeaseTimeToLiveResponse {
        /// In seconds; below 0 if there is no such lease.
        ttl: i64 = [int64, tag = "3"];
        /// How long it lives after a renewal, in seconds.
        granted_ttl: i64 = [int64, tag = "4"];
    }

    Empty {}

    StatusRequest {}

    StatusResponse {
        version: String = [string, tag = "2"];
        /// In bytes, as the next two.
        db_size: i64 = [int64, tag = "3"];
        /// The member that leads; 0: none.
        leader: u64 = [uint64, tag = "4"];
        db_size_in_use: i64 = [int64, tag = "9"];
        is_learner: bool = [bool, tag = "10"];
        /// The limit of `db_size`; 0: an older release, which does not tell.
        db_size_quota: i64 = [int64, tag = "12"];
    }

    /// Asks for all alarms.
    AlarmRequest {}

    AlarmResponse {
        alarms: Vec<Alarm> = [message, repeated, tag = "2"];
    }

    Alarm {
        member: u64 = [uint64, tag = "1"];
        /// 1: no space; 2: corrupt.
        kind: i32 = [int32, tag = "2"];
    }

    MemberListRequest {}

    MemberListResponse {
        members: Vec<Member> = [message, repeated, tag = "2"];
    }

    Member {
        name: String = [string, tag = "2"];
        is_learner: bool = [bool, tag = "5"];
    }

    AuthenticateRequest {
        name: String = [string, tag = "1"];
        password: String = [string, tag = "2"];
    }

    AuthenticateResponse {
        token: String = [string, tag = "2"];
    }
}

/// The revision as of which an answer is.
pub(super) fn revision(header: Option<&Header>) -> i64 {
    header.map_or(0, |header| header.revision)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub(super) enum SortOrder {
    None = 0,
    Ascend = 1,
    Descend = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub(super) enum SortTarget {
    Key = 0,
    Create = 2,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Request {
    #[prost(message, tag = "1")]
    Range(RangeRequest),
    #[prost(message, tag = "2")]
    Put(PutRequest),
    #[prost(message, tag = "3")]
    Delete(DeleteRangeRequest),
    #[prost(message, tag = "4")]
    Transaction(TxnRequest),
}

impl PutRequest {
    /// Writes this value under this lease.
    pub(super) fn new(key: Vec<u8>, value: Vec<u8>, lease: i64) -> Self {
        PutRequest { key, value, lease, ignore_value: false }
    }
}

pub(super) fn operation(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Response {
    #[prost(message, tag = "1")]
    Range(RangeResponse),
    #[prost(message, tag = "2")]
    Put(PutResponse),
    #[prost(message, tag = "3")]
    Delete(DeleteRangeResponse),
    #[prost(message, tag = "4")]
    Transaction(TxnResponse),
}

impl Compare {
    /// Holds if the key was created at this revision; 0: if it does not exist.
    pub(super) fn created(key: Vec<u8>, revision: i64) -> Self {
        Compare { target: Target::Create.into(), key, create_revision: Some(revision), ..Compare::default() }
    }

    /// Holds if the key was last written at this revision; 0: if it does not exist.
    pub(super) fn modified(key: Vec<u8>, revision: i64) -> Self {
        Compare { target: Target::Mod.into(), key, mod_revision: Some(revision), ..Compare::default() }
    }

    /// Holds if the key has this value.
    pub(super) fn has_value(key: Vec<u8>, value: Vec<u8>) -> Self {
        Compare { target: Target::Value.into(), key, value: Some(value), ..Compare::default() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub(super) enum Target {
    Version = 0,
    Create = 1,
    Mod = 2,
    Value = 3,
}

impl TxnRequest {
    /// Does all of this, whatever there is.
    pub(super) fn of(operations: Vec<RequestOp>) -> Self {
        TxnRequest { success: operations, ..TxnRequest::default() }
    }
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum WatchAction {
    #[prost(message, tag = "1")]
    Create(WatchCreate),
    #[prost(message, tag = "2")]
    Cancel(WatchCancel),
}

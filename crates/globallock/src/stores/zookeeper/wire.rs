//! The messages of ZooKeeper's protocol that this store uses. The order of fields is that of ZooKeeper's
//! `zookeeper.jute`.
//!
//! Integers are big-endian. Buffers and texts follow their length, which is -1 for none. A frame follows its
//! length.

use std::fmt;

/// The longest frame that is accepted. Servers accept requests of 1 MiB at most, but a list of children may
/// be longer.
const MAX_FRAME: usize = 64 << 20;

/// Whichever version a node has.
const ANY_VERSION: i32 = -1;

/// The xids that the protocol reserves for messages that are no numbered request or answer.
pub(super) const NOTIFICATION_XID: i32 = -1;
pub(super) const PING_XID: i32 = -2;
pub(super) const AUTH_XID: i32 = -4;

/// The type of a request: `ZooDefs.OpCode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum OpCode {
    Delete = 2,
    Exists = 3,
    GetData = 4,
    SetData = 5,
    GetChildren = 8,
    Sync = 9,
    Ping = 11,
    Check = 13,
    Multi = 14,
    Create2 = 15,
    CreateContainer = 19,
    Auth = 100,
    Sasl = 102,
    CloseSession = -11,
}

impl OpCode {
    /// Whether it is answered when a majority has written it down. Members and the leader answer other
    /// requests alone.
    pub(super) fn is_transaction(self) -> bool {
        matches!(self, OpCode::Create2 | OpCode::Delete | OpCode::SetData | OpCode::Multi)
    }

    fn changes_nothing(self) -> bool {
        use OpCode::{Check, Exists, GetChildren, GetData, Sync};
        matches!(self, Exists | GetData | GetChildren | Sync | Check)
    }
}

/// Why a server refuses a request: `KeeperException.Code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ErrorCode(pub(super) i32);

impl ErrorCode {
    pub(super) const UNIMPLEMENTED: ErrorCode = ErrorCode(-6);
    pub(super) const NO_NODE: ErrorCode = ErrorCode(-101);
    pub(super) const NO_AUTH: ErrorCode = ErrorCode(-102);
    pub(super) const BAD_VERSION: ErrorCode = ErrorCode(-103);
    pub(super) const NODE_EXISTS: ErrorCode = ErrorCode(-110);
    pub(super) const NOT_EMPTY: ErrorCode = ErrorCode(-111);
    pub(super) const SESSION_EXPIRED: ErrorCode = ErrorCode(-112);
    pub(super) const INVALID_ACL: ErrorCode = ErrorCode(-114);
    pub(super) const AUTH_FAILED: ErrorCode = ErrorCode(-115);
    pub(super) const SESSION_MOVED: ErrorCode = ErrorCode(-118);
    pub(super) const QUOTA_EXCEEDED: ErrorCode = ErrorCode(-125);
    pub(super) const THROTTLED: ErrorCode = ErrorCode(-127);
}

/// A message that ends too early, or has an impossible length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl std::error::Error for Malformed {}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it sent something that is not an answer of a ZooKeeper server")
    }
}

/// Writes messages one after the other.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn int(&mut self, number: i32) -> &mut Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    pub(super) fn long(&mut self, number: i64) -> &mut Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    pub(super) fn bool(&mut self, flag: bool) -> &mut Self {
        self.0.push(u8::from(flag));
        self
    }

    pub(super) fn buffer(&mut self, bytes: &[u8]) -> &mut Self {
        self.int(i32::try_from(bytes.len()).expect("requests are short"));
        self.0.extend(bytes);
        self
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.buffer(text.as_bytes())
    }

    /// Writes `message` behind its length.
    pub(super) fn frame(&mut self, message: &[u8]) -> &mut Self {
        self.buffer(message)
    }
}

/// Reads fields one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub(super) fn int(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(super) fn long(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    pub(super) fn buffer(&mut self) -> Result<&'a [u8], Malformed> {
        match self.int()? {
            -1 => Ok(&[]),
            length => self.take(usize::try_from(length).map_err(|_| Malformed)?),
        }
    }

    pub(super) fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.buffer()?.to_vec()).map_err(|_| Malformed)
    }
}

/// Takes the first frame out of the received bytes, if it is complete.
pub(super) fn take_frame(received: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Malformed> {
    let Some(length) = received.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| Malformed)?;
    if length > MAX_FRAME {
        return Err(Malformed);
    }
    if received.len() < 4 + length {
        return Ok(None);
    }
    let rest = received.split_off(4 + length);
    let mut frame = std::mem::replace(received, rest);
    frame.drain(..4);
    Ok(Some(frame))
}

/// One rule of a node's access control list: who may do everything with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl {
    pub(super) scheme: String,
    pub(super) id: String,
}

/// What kind of node is created: `CreateMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Mode {
    /// It stays until it is deleted.
    Persistent = 0,
    /// It is deleted with its session.
    Ephemeral = 1,
    /// It is deleted with its session, and the server appends a sequence number to its path.
    EphemeralSequential = 3,
    /// The servers delete it some time after its last child.
    Container = 4,
}

/// One request, without the xid that the connection gives it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) code: OpCode,
    pub(super) body: Vec<u8>,
    /// Whether it may be repeated safely without an answer, because it changes nothing.
    pub(super) may_be_repeated: bool,
}

impl Request {
    pub(super) fn new(code: OpCode, write: impl FnOnce(&mut Writer) -> &mut Writer) -> Self {
        let mut writer = Writer::default();
        write(&mut writer);
        Request { code, body: writer.0, may_be_repeated: code.changes_nothing() }
    }

    /// A request of this kind that has no fields.
    pub(super) fn bare(code: OpCode) -> Self {
        Self::new(code, |writer| writer)
    }

    /// Reads whether a node exists, its data or its children. With `watch`, the server notifies once of the
    /// next change: of a node that is missing when it is created, if that is asked for its existence.
    pub(super) fn read(code: OpCode, path: &str, watch: bool) -> Self {
        Self::new(code, |writer| writer.text(path).bool(watch))
    }

    pub(super) fn create(mode: Mode, path: &str, data: &[u8], acl: &[Acl]) -> Self {
        /// Read, write, create, delete and administer.
        const ALL: i32 = 31;
        let code = if mode == Mode::Container { OpCode::CreateContainer } else { OpCode::Create2 };
        Self::new(code, |writer| {
            writer.text(path).buffer(data).int(i32::try_from(acl.len()).expect("few rules"));
            for Acl { scheme, id } in acl {
                writer.int(ALL).text(scheme).text(id);
            }
            writer.int(mode as i32)
        })
    }

    pub(super) fn delete(path: &str) -> Self {
        Self::new(OpCode::Delete, |writer| writer.text(path).int(ANY_VERSION))
    }

    /// Compares nothing but that the node is there. Only as part of several changes.
    pub(super) fn check(path: &str) -> Self {
        Self::new(OpCode::Check, |writer| writer.text(path).int(ANY_VERSION))
    }

    /// Carries out all of these changes, in their order, or none.
    pub(super) fn multi(changes: &[Request]) -> Self {
        let multi = Self::new(OpCode::Multi, |writer| {
            for change in changes {
                writer.int(change.code as i32).bool(false).int(-1).0.extend(&change.body);
            }
            writer.int(-1).bool(true).int(-1)
        });
        Request { may_be_repeated: changes.iter().all(|change| change.may_be_repeated), ..multi }
    }

    /// Makes the member that answers catch up with the leader.
    pub(super) fn sync(path: &str) -> Self {
        Self::new(OpCode::Sync, |writer| writer.text(path))
    }

    pub(super) fn sasl(token: &[u8]) -> Self {
        Self::new(OpCode::Sasl, |writer| writer.buffer(token))
    }

    pub(super) fn auth(scheme: &str, credentials: &[u8]) -> Self {
        Self::new(OpCode::Auth, |writer| writer.int(0).text(scheme).buffer(credentials))
    }

    /// Writes the request as a frame with this xid.
    pub(super) fn write(&self, xid: i32, frames: &mut Writer) {
        let mut message = Writer::default();
        message.int(xid).int(self.code as i32).0.extend(&self.body);
        frames.frame(&message.0);
    }
}

/// The metadata of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// The transaction that created it.
    pub(super) czxid: i64,
    /// When it was created, in milliseconds since 1970 by the server's clock.
    pub(super) ctime: i64,
    /// When its data was written, by the same clock.
    pub(super) mtime: i64,
    /// How many times its data was written since its creation.
    pub(super) version: i32,
    /// The session that it is deleted with; 0 for none.
    pub(super) ephemeral_owner: i64,
}

impl Reader<'_> {
    pub(super) fn stat(&mut self) -> Result<Stat, Malformed> {
        let (czxid, _mzxid) = (self.long()?, self.long()?);
        let (ctime, mtime) = (self.long()?, self.long()?);
        let (version, _others) = (self.int()?, (self.int()?, self.int()?));
        let ephemeral_owner = self.long()?;
        Ok(Stat { czxid, ctime, mtime, version, ephemeral_owner })
    }

    /// The answer to a creation: the node's path and metadata.
    pub(super) fn created(&mut self) -> Result<(String, Stat), Malformed> {
        Ok((self.text()?, self.stat()?))
    }

    /// The answer to a read of a node: its data, as text, and metadata.
    pub(super) fn data(&mut self) -> Result<(String, Stat), Malformed> {
        let text = String::from_utf8_lossy(self.buffer()?).into_owned();
        Ok((text, self.stat()?))
    }

    /// The answer to several changes at once: which one was refused, and why; `None` if all were carried out.
    pub(super) fn refused(&mut self) -> Result<Option<(usize, ErrorCode)>, Malformed> {
        /// The type of a result that is an error.
        const ERROR: i32 = -1;
        for nth in 0.. {
            let (kind, done, _) = (self.int()?, self.array::<1>()? != [0], self.int()?);
            // If one change is refused, there is an error for each, and 0 for those before it.
            if done || kind != ERROR {
                return Ok(None);
            }
            match self.int()? {
                0 => {}
                code => return Ok(Some((nth, ErrorCode(code)))),
            }
        }
        Err(Malformed)
    }

    pub(super) fn children(&mut self) -> Result<Vec<String>, Malformed> {
        let count = self.int()?;
        (0..count).map(|_| self.text()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_frame_is_taken_once_it_is_complete() {
        let mut received = Vec::new();
        let mut frames = Writer::default();
        frames.frame(b"one").frame(b"");
        for (index, byte) in frames.0.iter().enumerate() {
            received.push(*byte);
            let complete = match index {
                6 => Some(b"one".to_vec()),
                10 => Some(Vec::new()),
                _ => None,
            };
            assert_eq!(take_frame(&mut received), Ok(complete), "{index}");
        }
        assert!(received.is_empty());
        assert_eq!(take_frame(&mut vec![0x7f, 0, 0, 0]), Err(Malformed));
        assert_eq!(take_frame(&mut vec![0xff, 0, 0, 0]), Err(Malformed));
    }

    /// The numbers in ZooKeeper's `ZooDefs.OpCode` and `KeeperException.Code`.
    #[test]
    fn operations_and_errors_have_the_numbers_of_the_protocol() {
        let codes = [
            OpCode::Delete,
            OpCode::Exists,
            OpCode::GetData,
            OpCode::SetData,
            OpCode::GetChildren,
            OpCode::Sync,
            OpCode::Ping,
        ];
        assert_eq!(codes.map(|code| code as i32), [2, 3, 4, 5, 8, 9, 11]);
        let codes =
            [OpCode::Create2, OpCode::CreateContainer, OpCode::Auth, OpCode::Sasl, OpCode::CloseSession];
        assert_eq!(codes.map(|code| code as i32), [15, 19, 100, 102, -11]);
        assert_eq!(OpCode::Multi as i32, 14);
        assert_eq!([NOTIFICATION_XID, PING_XID, AUTH_XID], [-1, -2, -4]);
        for (error, number) in [
            (ErrorCode::UNIMPLEMENTED, -6),
            (ErrorCode::NO_NODE, -101),
            (ErrorCode::NO_AUTH, -102),
            (ErrorCode::BAD_VERSION, -103),
            (ErrorCode::NODE_EXISTS, -110),
            (ErrorCode::NOT_EMPTY, -111),
            (ErrorCode::SESSION_EXPIRED, -112),
            (ErrorCode::INVALID_ACL, -114),
            (ErrorCode::AUTH_FAILED, -115),
            (ErrorCode::SESSION_MOVED, -118),
            (ErrorCode::QUOTA_EXCEEDED, -125),
            (ErrorCode::THROTTLED, -127),
        ] {
            assert_eq!(error.0, number);
        }
    }

    #[test]
    fn only_requests_that_change_nothing_may_be_repeated() {
        let repeatable = [OpCode::Exists, OpCode::GetData, OpCode::GetChildren, OpCode::Sync];
        assert!(repeatable.into_iter().all(|code| Request::bare(code).may_be_repeated));
        for code in
            [OpCode::Delete, OpCode::Create2, OpCode::CreateContainer, OpCode::Auth, OpCode::CloseSession]
        {
            assert!(!Request::bare(code).may_be_repeated, "{code:?}");
        }
        let multi = |requests: &[Request]| Request::multi(requests).may_be_repeated;
        assert!(multi(&[Request::check("/a"), Request::check("/b")]));
        assert!(!multi(&[Request::check("/a"), Request::delete("/b")]));
    }

    #[test]
    fn requests_have_the_fields_of_the_protocol_in_their_order() {
        let path = *b"\0\0\0\x02/a";
        assert_eq!(Request::read(OpCode::GetData, "/a", true).body, [&path[..], &[1]].concat());
        assert_eq!(Request::read(OpCode::GetData, "/a", false).body, [&path[..], &[0]].concat());
        assert_eq!(Request::read(OpCode::GetChildren, "/a", false).body, [&path[..], &[0]].concat());
        assert_eq!(Request::delete("/a").body, [&path[..], &[0xff; 4]].concat(), "whichever version it has");
        assert_eq!(Request::sync("/a").body, path);
        assert_eq!(Request::read(OpCode::Exists, "/a", true).body, [&path[..], &[1]].concat());
        let exists = Request::read(OpCode::Exists, "/a", false);
        assert_eq!((exists.code, exists.body), (OpCode::Exists, [&path[..], &[0]].concat()));
        let container = Request::create(Mode::Container, "/a", b"", &[]);
        assert_eq!(container.code, OpCode::CreateContainer);
        assert_eq!(container.body, [&path[..], &[0; 8], &[0, 0, 0, 4]].concat(), "no data and no rule");
        let sequential = Request::create(Mode::EphemeralSequential, "/a", b"", &[]);
        assert_eq!(sequential.code, OpCode::Create2);
        assert_eq!(sequential.body, [&path[..], &[0; 8], &[0, 0, 0, 3]].concat());
        let mut frames = Writer::default();
        Request::sync("/a").write(7, &mut frames);
        let expected = [&[0, 0, 0, 14, 0, 0, 0, 7, 0, 0, 0, 9][..], &path[..]].concat();
        assert_eq!(frames.0, expected, "length, xid, operation");
    }

    #[test]
    fn several_changes_are_one_request_and_the_one_that_is_refused_is_found() {
        let made = Request::create(Mode::Ephemeral, "/b", b"x", &[]);
        assert_eq!(made.body, *b"\0\0\0\x02/b\0\0\0\x01x\0\0\0\0\0\0\0\x01", "no rule, and ephemeral");
        let request = Request::multi(&[made, Request::delete("/a")]);
        let mut expected = Writer::default();
        expected.int(15).bool(false).int(-1).text("/b").buffer(b"x").int(0).int(1);
        expected.int(2).bool(false).int(-1).text("/a").int(-1).int(-1).bool(true).int(-1);
        assert_eq!((request.code, request.body), (OpCode::Multi, expected.0));
        let refused = |codes: &[i32]| {
            let mut answer = Writer::default();
            for code in codes {
                answer.int(-1).bool(false).int(*code).int(*code);
            }
            answer.int(-1).bool(true).int(-1);
            Reader(&answer.0).refused()
        };
        assert_eq!(refused(&[-101, -2]), Ok(Some((0, ErrorCode::NO_NODE))));
        assert_eq!(refused(&[0, 0, -110, -2]), Ok(Some((2, ErrorCode::NODE_EXISTS))));
        assert_eq!(refused(&[]), Ok(None));
        let mut answer = Writer::default();
        answer.int(1).bool(false).int(0).text("/b").int(2).bool(false).int(0).int(-1).bool(true).int(-1);
        assert_eq!(Reader(&answer.0).refused(), Ok(None), "all were carried out");
        assert_eq!(Reader(&[0, 0]).refused(), Err(Malformed));
    }

    #[test]
    fn a_frame_may_be_as_long_as_the_longest_and_no_longer() {
        let received = |length: usize| i32::try_from(length).unwrap().to_be_bytes().to_vec();
        assert_eq!(take_frame(&mut received(MAX_FRAME)), Ok(None));
        assert_eq!(take_frame(&mut received(MAX_FRAME + 1)), Err(Malformed));
        assert!(Malformed.to_string().contains("ZooKeeper"), "it says what the peer is not");
    }

    #[test]
    fn a_node_is_read_from_its_fields() {
        let mut writer = Writer::default();
        writer.text("/a").long(11).long(12).long(13).long(14).int(1).int(2).int(3).long(15);
        let stat = Stat { czxid: 11, ctime: 13, mtime: 14, version: 1, ephemeral_owner: 15 };
        assert_eq!(Reader(&writer.0).created(), Ok(("/a".to_owned(), stat)));
        let mut writer = Writer::default();
        writer.int(-1).long(1).long(2).long(3).long(4).int(5).int(6).int(7).long(8);
        let stat = Stat { czxid: 1, ctime: 3, mtime: 4, version: 5, ephemeral_owner: 8 };
        assert_eq!(Reader(&writer.0).data(), Ok((String::new(), stat)));
        let mut writer = Writer::default();
        writer.int(2).text("a").text("b");
        assert_eq!(Reader(&writer.0).children(), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(Reader(&[0, 0, 0, 1]).children(), Err(Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Reader(&bytes).created();
            let _ = Reader(&bytes).data();
            let _ = Reader(&bytes).children();
            let _ = Reader(&bytes).refused();
            let _ = take_frame(&mut bytes.clone());
        }
    }
}

//! The messages of ZooKeeper's protocol that are used here, by their order of fields in its `zookeeper.jute`.
//!
//! Numbers are big-endian; buffers and texts have their length in front, -1 for none; a frame has its own in front.

use std::fmt;

/// The longest frame that is believed: a server's own limit for what it takes is 1 MiB, and lists may be longer.
const MAX_FRAME: usize = 64 << 20;

/// The numbers that the protocol gives to what has no number of its own.
pub(super) const EVENT: i32 = -1;
pub(super) const PING: i32 = -2;
pub(super) const AUTH: i32 = -4;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Code {
    Delete = 2,
    Exists = 3,
    GetData = 4,
    GetChildren = 8,
    Sync = 9,
    Ping = 11,
    Create2 = 15,
    CreateContainer = 19,
    Auth = 100,
    Sasl = 102,
    CloseSession = -11,
}

impl Code {
    /// Whether an answer proves that the leader knows of the session: the others are answered by any member.
    pub(super) fn asks_leader(self) -> bool {
        matches!(self, Code::Create2 | Code::Delete | Code::Sync)
    }

    /// Whether a request that got no answer is simply made again: nobody can tell twice from once.
    pub(super) fn only_looks(self) -> bool {
        matches!(self, Code::Exists | Code::GetData | Code::GetChildren | Code::Sync)
    }
}

/// What a server refuses a request for, by its own number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) i32);

impl Refusal {
    pub(super) const UNIMPLEMENTED: Refusal = Refusal(-6);
    pub(super) const NO_NODE: Refusal = Refusal(-101);
    pub(super) const NO_AUTH: Refusal = Refusal(-102);
    pub(super) const NODE_EXISTS: Refusal = Refusal(-110);
    pub(super) const NOT_EMPTY: Refusal = Refusal(-111);
    pub(super) const SESSION_EXPIRED: Refusal = Refusal(-112);
    pub(super) const INVALID_ACL: Refusal = Refusal(-114);
    pub(super) const AUTH_FAILED: Refusal = Refusal(-115);
    pub(super) const SESSION_MOVED: Refusal = Refusal(-118);
    pub(super) const QUOTA_EXCEEDED: Refusal = Refusal(-125);
    pub(super) const THROTTLED: Refusal = Refusal(-127);
}

/// A message that ends too early, or has a length that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it sent what is no answer of a ZooKeeper server")
    }
}

/// Writes one message after the other.
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
        self.int(i32::try_from(bytes.len()).expect("what is sent is short"));
        self.0.extend(bytes);
        self
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.buffer(text.as_bytes())
    }

    /// Puts `message` behind its length.
    pub(super) fn frame(&mut self, message: &[u8]) -> &mut Self {
        self.buffer(message)
    }
}

/// Reads one field after the other.
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

/// Takes the first frame out of what has been received, if it is there as a whole.
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

/// Who may do what with a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl {
    pub(super) scheme: String,
    pub(super) id: String,
}

/// One request, without the number that the connection gives it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) code: Code,
    pub(super) body: Vec<u8>,
}

impl Request {
    fn new(code: Code, write: impl FnOnce(&mut Writer) -> &mut Writer) -> Self {
        let mut writer = Writer::default();
        write(&mut writer);
        Request { code, body: writer.0 }
    }

    /// Makes a node that ends with its session; the server puts a number behind `path`.
    pub(super) fn create_claim(path: &str, data: &[u8], acl: &[Acl]) -> Self {
        Self::create(Code::Create2, path, data, acl, 3)
    }

    /// Makes a node that ends when its last child has gone.
    pub(super) fn create_container(path: &str, acl: &[Acl]) -> Self {
        Self::create(Code::CreateContainer, path, &[], acl, 4)
    }

    fn create(code: Code, path: &str, data: &[u8], acl: &[Acl], mode: i32) -> Self {
        /// Read, write, create, delete and administer.
        const ALL: i32 = 31;
        Self::new(code, |writer| {
            writer.text(path).buffer(data).int(i32::try_from(acl.len()).expect("few rules"));
            for Acl { scheme, id } in acl {
                writer.int(ALL).text(scheme).text(id);
            }
            writer.int(mode)
        })
    }

    pub(super) fn delete(path: &str) -> Self {
        /// Whichever version the node has.
        const ANY: i32 = -1;
        Self::new(Code::Delete, |writer| writer.text(path).int(ANY))
    }

    pub(super) fn exists(path: &str) -> Self {
        Self::new(Code::Exists, |writer| writer.text(path).bool(false))
    }

    /// Reads a node, and is told once of its change or end where that is wished.
    pub(super) fn data(path: &str, watch: bool) -> Self {
        Self::new(Code::GetData, |writer| writer.text(path).bool(watch))
    }

    pub(super) fn children(path: &str) -> Self {
        Self::new(Code::GetChildren, |writer| writer.text(path).bool(false))
    }

    /// Has the member that answers catch up with the leader.
    pub(super) fn sync(path: &str) -> Self {
        Self::new(Code::Sync, |writer| writer.text(path))
    }

    pub(super) fn close() -> Self {
        Self::new(Code::CloseSession, |writer| writer)
    }

    pub(super) fn sasl(token: &[u8]) -> Self {
        Self::new(Code::Sasl, |writer| writer.buffer(token))
    }

    pub(super) fn auth(scheme: &str, credentials: &[u8]) -> Self {
        Self::new(Code::Auth, |writer| writer.int(0).text(scheme).buffer(credentials))
    }

    pub(super) fn ping() -> Self {
        Self::new(Code::Ping, |writer| writer)
    }

    /// The request as a frame with this number.
    pub(super) fn write(&self, number: i32, frames: &mut Writer) {
        let mut message = Writer::default();
        message.int(number).int(self.code as i32).0.extend(&self.body);
        frames.frame(&message.0);
    }
}

/// What is known of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// The number of the transaction that made it.
    pub(super) created: i64,
    /// When that was, in milliseconds since 1970 by the server's clock.
    pub(super) created_at: i64,
    /// The session that it ends with; 0 for none.
    pub(super) session: i64,
}

impl Reader<'_> {
    pub(super) fn stat(&mut self) -> Result<Stat, Malformed> {
        let (created, _modified) = (self.long()?, self.long()?);
        let (created_at, _modified_at) = (self.long()?, self.long()?);
        let _versions = (self.int()?, self.int()?, self.int()?);
        let session = self.long()?;
        Ok(Stat { created, created_at, session })
    }

    /// The answer to a creation: the node's path, and what is known of it.
    pub(super) fn created(&mut self) -> Result<(String, Stat), Malformed> {
        Ok((self.text()?, self.stat()?))
    }

    /// The answer to the reading of a node.
    pub(super) fn data(&mut self) -> Result<(Vec<u8>, Stat), Malformed> {
        let data = self.buffer()?.to_vec();
        Ok((data, self.stat()?))
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
    fn a_frame_is_taken_once_it_is_whole() {
        let mut received = Vec::new();
        let mut frames = Writer::default();
        frames.frame(b"one").frame(b"");
        for (index, byte) in frames.0.iter().enumerate() {
            received.push(*byte);
            let whole = match index {
                6 => Some(b"one".to_vec()),
                10 => Some(Vec::new()),
                _ => None,
            };
            assert_eq!(take_frame(&mut received), Ok(whole), "{index}");
        }
        assert!(received.is_empty());
        assert_eq!(take_frame(&mut vec![0x7f, 0, 0, 0]), Err(Malformed));
        assert_eq!(take_frame(&mut vec![0xff, 0, 0, 0]), Err(Malformed));
    }

    /// ZooKeeper's own numbers, from `ZooDefs.OpCode` and `KeeperException.Code`.
    #[test]
    fn requests_and_refusals_have_the_numbers_of_the_protocol() {
        let codes = [Code::Delete, Code::Exists, Code::GetData, Code::GetChildren, Code::Sync, Code::Ping];
        assert_eq!(codes.map(|code| code as i32), [2, 3, 4, 8, 9, 11]);
        let codes = [Code::Create2, Code::CreateContainer, Code::Auth, Code::Sasl, Code::CloseSession];
        assert_eq!(codes.map(|code| code as i32), [15, 19, 100, 102, -11]);
        assert_eq!([EVENT, PING, AUTH], [-1, -2, -4]);
        for (refusal, number) in [
            (Refusal::UNIMPLEMENTED, -6),
            (Refusal::NO_NODE, -101),
            (Refusal::NO_AUTH, -102),
            (Refusal::NODE_EXISTS, -110),
            (Refusal::NOT_EMPTY, -111),
            (Refusal::SESSION_EXPIRED, -112),
            (Refusal::INVALID_ACL, -114),
            (Refusal::AUTH_FAILED, -115),
            (Refusal::SESSION_MOVED, -118),
            (Refusal::QUOTA_EXCEEDED, -125),
            (Refusal::THROTTLED, -127),
        ] {
            assert_eq!(refusal.0, number);
        }
    }

    #[test]
    fn what_changes_nothing_may_be_asked_twice() {
        let looks = [Code::Exists, Code::GetData, Code::GetChildren, Code::Sync];
        assert!(looks.into_iter().all(Code::only_looks));
        for code in [Code::Delete, Code::Create2, Code::CreateContainer, Code::Auth, Code::CloseSession] {
            assert!(!code.only_looks(), "{code:?}");
        }
    }

    #[test]
    fn requests_have_the_fields_of_the_protocol_in_their_order() {
        let path = *b"\0\0\0\x02/a";
        assert_eq!(Request::data("/a", true).body, [&path[..], &[1]].concat());
        assert_eq!(Request::data("/a", false).body, [&path[..], &[0]].concat());
        assert_eq!(Request::children("/a").body, [&path[..], &[0]].concat());
        assert_eq!(Request::delete("/a").body, [&path[..], &[0xff; 4]].concat(), "whichever version it has");
        assert_eq!(Request::sync("/a").body, path);
        let mut frames = Writer::default();
        Request::sync("/a").write(7, &mut frames);
        let expected = [&[0, 0, 0, 14, 0, 0, 0, 7, 0, 0, 0, 9][..], &path[..]].concat();
        assert_eq!(frames.0, expected, "length, number, code");
    }

    #[test]
    fn a_frame_may_be_as_long_as_the_longest_and_no_longer() {
        let received = |length: usize| i32::try_from(length).unwrap().to_be_bytes().to_vec();
        assert_eq!(take_frame(&mut received(MAX_FRAME)), Ok(None));
        assert_eq!(take_frame(&mut received(MAX_FRAME + 1)), Err(Malformed));
        assert!(Malformed.to_string().contains("ZooKeeper"), "it says what the other side is not");
    }

    #[test]
    fn a_node_is_read_from_its_fields() {
        let mut writer = Writer::default();
        writer.text("/a").long(11).long(12).long(13).long(14).int(1).int(2).int(3).long(15);
        let stat = Stat { created: 11, created_at: 13, session: 15 };
        assert_eq!(Reader(&writer.0).created(), Ok(("/a".to_owned(), stat)));
        let mut writer = Writer::default();
        writer.int(-1).long(1).long(2).long(3).long(4).int(5).int(6).int(7).long(8);
        let stat = Stat { created: 1, created_at: 3, session: 8 };
        assert_eq!(Reader(&writer.0).data(), Ok((Vec::new(), stat)));
        let mut writer = Writer::default();
        writer.int(2).text("a").text("b");
        assert_eq!(Reader(&writer.0).children(), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(Reader(&[0, 0, 0, 1]).children(), Err(Malformed));
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Reader(&bytes).created();
            let _ = Reader(&bytes).data();
            let _ = Reader(&bytes).children();
            let _ = take_frame(&mut bytes.clone());
        }
    }
}

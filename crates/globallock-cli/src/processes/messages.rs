//! What the processes of a run tell each other: messages of nine bytes over a socket each.

use std::io::{ErrorKind, Read, Result, Write};
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;

/// How many bytes a message has.
pub(super) const SIZE: usize = 9;

/// A message as it is sent: what it is, and a number.
pub(super) type Bytes = [u8; SIZE];

/// What a message is in bytes.
pub(super) trait Message: Sized {
    fn parts(self) -> (u8, i64);
    fn of(kind: u8, number: i64) -> Option<Self>;

    fn encode(self) -> Bytes {
        let (kind, number) = self.parts();
        let mut bytes = [kind; SIZE];
        bytes[1..].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    fn decode(bytes: Bytes) -> Option<Self> {
        let [kind, number @ ..] = bytes;
        Self::of(kind, i64::from_le_bytes(number))
    }
}

/// Defines an enum whose variants have one number each, and how it is sent.
macro_rules! messages {
    ($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $variant:ident = $kind:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $($(#[$what])* $variant(i64),)* }

        impl Message for $name {
            fn parts(self) -> (u8, i64) {
                match self { $($name::$variant(number) => ($kind, number),)* }
            }

            fn of(kind: u8, number: i64) -> Option<Self> {
                match kind { $($kind => Some($name::$variant(number)),)* _ => None }
            }
        }
    };
}

messages! {
    /// From the front to the guardian.
    FromFront {
        /// The front has received this signal.
        Signal = 0,
    }
}

messages! {
    /// From the guardian to the front.
    ToFront {
        /// Stop, because the command has been stopped, which is this process if it has been started.
        Stop = 0,
        /// End with this status.
        Exit = 1,
        /// The command was ended by this signal: end likewise.
        Died = 2,
        /// What follows is the end, and the guardian stays behind.
        Stays = 3,
    }
}

messages! {
    /// From the guardian to the starter.
    ToStarter {
        /// Start the command, with this fencing token.
        Start = 0,
        /// Has this signal reached the group?
        Heard = 1,
    }
}

messages! {
    /// From the starter to the guardian.
    FromStarter {
        /// The command runs, with this id.
        Started = 0,
        /// The command could not be started, for this reason of the system.
        Failed = 1,
        /// The command has ended, with this status as `waitpid` has it.
        Ended = 2,
        /// The command was stopped by this signal.
        Stopped = 3,
        /// The command was continued.
        Continued = 4,
        /// Whether the signal that was asked for has reached the group.
        Heard = 5,
    }
}

/// The signal of a message.
pub(super) fn to_signal(number: i64) -> Option<Signal> {
    i32::try_from(number).ok().and_then(|number| Signal::try_from(number).ok())
}

/// Sends a message. A failure means that the other process has ended, which is noticed where its messages are
/// read.
pub(super) fn send(mut socket: &UnixStream, message: impl Message) {
    let _ = socket.write_all(&message.encode());
}

/// Waits for the next message; `None` when the other process has ended.
pub(super) fn receive<M: Message>(mut socket: &UnixStream) -> Result<Option<M>> {
    let mut bytes = [0; SIZE];
    match socket.read_exact(&mut bytes) {
        Ok(()) => Ok(M::decode(bytes)),
        Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_message_is_read_back(kind in 0_u8..8, number: i64) {
            if let Some(message) = FromStarter::of(kind, number) {
                prop_assert_eq!(FromStarter::decode(message.encode()), Some(message));
            }
            let (near, far) = UnixStream::pair().unwrap();
            send(&near, FromFront::Signal(number));
            drop(near);
            prop_assert_eq!(receive(&far).unwrap(), Some(FromFront::Signal(number)));
            prop_assert_eq!(receive::<FromFront>(&far).unwrap(), None);
        }
    }
}

//! The system's log: the socket of syslog, which the journal of systemd serves too.

use std::io::{ErrorKind, Result, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::libc::EPROTOTYPE;

/// Facility authpriv, severity notice: RFC 3164, section 4.1.1.
const PRIORITY: u8 = 10 * 8 + 5;
/// A log that does not read must not keep an operator waiting.
const LIMIT: Duration = Duration::from_secs(1);

/// Writes a line. Returns false if there is no such log.
pub(crate) fn send(socket: &Path, text: &str) -> Result<bool> {
    // The log puts the time in front.
    let message = format!("<{PRIORITY}>globallock[{}]: {text}", std::process::id());
    let sent = datagram(socket, &message).or_else(|error| match error.raw_os_error() {
        Some(EPROTOTYPE) => stream(socket, &message),
        _ => Err(error),
    });
    match sent {
        Ok(()) => Ok(true),
        Err(error) if [ErrorKind::NotFound, ErrorKind::ConnectionRefused].contains(&error.kind()) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn datagram(socket: &Path, message: &str) -> Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.set_write_timeout(Some(LIMIT))?;
    sender.send_to(message.as_bytes(), socket).map(drop)
}

/// Some logs listen for connections instead. There, a zero byte ends a message.
fn stream(socket: &Path, message: &str) -> Result<()> {
    let mut sender = UnixStream::connect(socket)?;
    sender.set_write_timeout(Some(LIMIT))?;
    sender.write_all(format!("{message}\0").as_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_line_arrives_at_either_kind_of_log_and_no_log_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        let [first, second, none] = ["first", "second", "none"].map(|name| directory.path().join(name));
        let expected = format!("<85>globallock[{}]: it is broken", std::process::id());
        let log = UnixDatagram::bind(&first).unwrap();
        assert!(send(&first, "it is broken").unwrap());
        let mut bytes = [0; 100];
        let length = log.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], expected.as_bytes());
        drop(log);
        assert!(!send(&first, "nobody listens").unwrap());
        let log = UnixListener::bind(&second).unwrap();
        assert!(send(&second, "it is broken").unwrap());
        let mut text = String::new();
        log.accept().unwrap().0.read_to_string(&mut text).unwrap();
        assert_eq!(text, expected + "\0");
        assert!(!send(&none, "nobody listens").unwrap());
    }

    #[test]
    fn a_log_that_does_not_read_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("log");
        let _log = UnixDatagram::bind(&socket).unwrap();
        let mut sent = 0;
        while send(&socket, &"x".repeat(1000)).is_ok() {
            sent += 1;
            assert!(sent < 100_000, "the queue of a socket has an end");
        }
        assert!(sent > 0);
    }
}

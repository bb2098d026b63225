//! The messages of PostgreSQL's protocol, and servers that speak it wrongly.

use crate::hostile::Hostile;

/// A message of the server. It is a notification if it is one by its letter.
pub(super) fn read_message(bytes: &[u8], begins: bool) -> Option<(usize, bool)> {
    // Whether there is TLS: a letter alone, because the client has its turn. Later, a message begins so.
    if begins && matches!(bytes, [b'N' | b'S']) {
        return Some((1, false));
    }
    let header = bytes.first_chunk::<5>()?;
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    let end = usize::try_from(length).ok()?.max(4) + 1;
    (bytes.len() >= end).then_some((end, header[0] == b'A'))
}

/// A message of the server.
fn message(letter: u8, body: &[u8]) -> Vec<u8> {
    with_length(letter, u32::try_from(body.len() + 4).unwrap_or(u32::MAX), body)
}

/// A message whose length is not what follows.
fn with_length(letter: u8, length: u32, body: &[u8]) -> Vec<u8> {
    [&[letter], &length.to_be_bytes()[..], body].concat()
}

/// An error with these fields.
fn error(fields: &[(u8, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (letter, text) in fields {
        body.push(*letter);
        body.extend(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    message(b'E', &body)
}

/// What a server says when it lets somebody in.
fn welcome() -> Vec<u8> {
    [
        message(b'R', &[0; 4]),
        message(b'S', b"server_version\x0015.9\0"),
        message(b'S', b"client_encoding\0UTF8\0"),
        message(b'K', &[0, 0, 0, 7, 0, 0, 0, 9]),
        ready(),
    ]
    .concat()
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

/// The answer to a statement: one row of one column, of this type.
fn row(kind: u32, value: &[u8]) -> Vec<u8> {
    let mut column = b"\0\x01a\0\0\0\0\0\0\0".to_vec();
    column.extend(kind.to_be_bytes());
    column.extend([0, 8, 255, 255, 255, 255, 0, 1]);
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes();
    let data = [&[0, 1], &length[..], value].concat();
    [
        message(b'1', &[]),
        message(b'2', &[]),
        message(b'T', &column),
        message(b'D', &data),
        message(b'C', b"SELECT 1\0"),
        ready(),
    ]
    .concat()
}

/// A server that has no TLS, answers the login by `welcome`, and everything else by `answer`.
fn after(welcome: Vec<u8>, answer: Vec<u8>) -> Hostile {
    Hostile::Replies {
        greeting: b"N".to_vec(),
        reply: Box::new(move |request| {
            // Its length, and then version 3 of the protocol.
            let is_login = request.get(4..8) == Some(&[0, 3, 0, 0]);
            if is_login { welcome.clone() } else { answer.clone() }
        }),
    }
}

pub(super) fn hostile() -> Vec<(&'static str, Hostile)> {
    const TEXT: u32 = 25;
    const BIGINT: u32 = 20;
    let answers = |answer: Vec<u8>| after(welcome(), answer);
    let welcomes = |welcome: Vec<u8>| after(welcome, Vec::new());
    let starting = [(b'S', "FATAL"), (b'C', "57P03"), (b'M', "the database system is starting up")];
    let escapes = [(b'S', "ERROR"), (b'C', "42P01"), (b'M', "\x1b]52;c;aGk=\x07\x1b[31m\u{202e}")];
    let asks = |kind: u8, more: &[u8]| message(b'R', &[&[0, 0, 0, kind], more].concat());
    vec![
        ("no TLS, for ever", Hostile::Answers(vec![b"N".to_vec()])),
        ("TLS that is none", Hostile::Answers(vec![b"S".to_vec(), vec![0; 512]])),
        ("neither TLS nor not", Hostile::Answers(vec![b"X".to_vec()])),
        ("plain text before TLS", Hostile::Answers(vec![[b"S".to_vec(), welcome()].concat()])),
        ("welcomes and is silent", welcomes(welcome())),
        ("still starting", welcomes(error(&starting))),
        ("an error that has no fields", welcomes(message(b'E', &[0]))),
        ("an unknown login", welcomes(asks(99, &[]))),
        ("a login that never ends", after(asks(10, b"SCRAM-SHA-256\0\0"), asks(11, b"r=,s=,i="))),
        (
            "endless work for a login",
            after(asks(10, b"SCRAM-SHA-256\0\0"), asks(11, b"r=a,s=YQ==,i=4000000000")),
        ),
        ("a login without mechanisms", welcomes(asks(10, b"\0"))),
        ("asks for Kerberos", welcomes(asks(7, &[]))),
        ("never ready", welcomes(message(b'R', &[0; 4]))),
        ("another version of the protocol", welcomes(message(b'v', &[0; 8]))),
        ("always ready", answers(ready().repeat(1000))),
        ("a row without a description", answers(message(b'D', &[0, 0]))),
        ("a number that is none", answers(row(BIGINT, b"seven"))),
        ("a number that is short", answers(row(BIGINT, &[1]))),
        ("a text that is none", answers(row(TEXT, b"\xc3\x28\xf0"))),
        ("a type that nobody knows", answers(row(4_000_000_000, b"x"))),
        ("a message without end", answers(with_length(b'D', 0x7fff_ffff, b"abc"))),
        ("a length below its own", answers(with_length(b'D', 2, b"abc"))),
        ("a negative length", answers(with_length(b'D', 0xffff_fff0, b"abc"))),
        ("columns that are not there", answers(message(b'T', &[255, 255]))),
        ("values that are not there", answers(message(b'D', &[127, 255, 0, 0, 0, 9]))),
        ("escapes in an error", answers([error(&escapes), ready()].concat())),
        ("an error without an end", answers(message(b'E', b"SERROR"))),
        ("notifications alone", answers(message(b'A', b"\0\0\0\x07ch\0x\0").repeat(100))),
        ("a notification that is none", answers(message(b'A', b"\0\0"))),
        ("wants a copy", answers(message(b'G', &[0, 0, 0]))),
        ("notices alone", answers(message(b'N', b"SNOTICE\0Mhello\0\0").repeat(100))),
        ("an unknown letter", answers(message(b'!', b"abc"))),
        ("welcomes again", answers(welcome())),
        ("two answers at once", answers(row(TEXT, b"x").repeat(3))),
    ]
}

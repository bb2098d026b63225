//! A proxy in front of Redis that passes answers, and nothing that the server says unasked.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use globallock_conformance::server::redis::Redis;

use super::{examined, names};

/// Such a proxy. Returns its port, and how many messages it has kept back.
fn without_messages(server: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let kept_back = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&kept_back);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(("127.0.0.1", server)).unwrap();
            // Small answers must not wait for each other.
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
            let count = Arc::clone(&count);
            thread::spawn(move || pass_answers(server, client, &count));
        }
    });
    (port, kept_back)
}

fn pass_answers(mut server: TcpStream, mut client: TcpStream, kept_back: &AtomicUsize) {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = server.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..count]);
        while let Some(length) = frame(&bytes) {
            let frame: Vec<u8> = bytes.drain(..length).collect();
            if frame.starts_with(b">") && frame.windows(9).any(|part| part == b"\r\nmessage") {
                kept_back.fetch_add(1, Ordering::SeqCst);
            } else if client.write_all(&frame).is_err() {
                return;
            }
        }
    }
    let _ = client.shutdown(Shutdown::Both);
}

/// How long the first value in RESP3 is, if it is complete.
fn frame(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")? + 2;
    let number = || std::str::from_utf8(&bytes[1..end - 2]).ok()?.parse::<usize>().ok();
    let parts = match bytes[0] {
        b'$' | b'=' | b'!' => {
            let whole = number().map_or(end, |length| end + length + 2);
            return (bytes.len() >= whole).then_some(whole);
        }
        b'*' | b'>' | b'~' => number().unwrap_or(0),
        b'%' => 2 * number().unwrap_or(0),
        _ => 0,
    };
    (0..parts).try_fold(end, |end, _| Some(end + frame(&bytes[end..])?))
}

#[test]
fn pushes_that_do_not_arrive_are_told_because_the_next_owner_has_to_ask() {
    let server = Redis::start().unwrap();
    let (port, kept_back) = without_messages(server.port());
    let found = examined(&format!("redis://127.0.0.1:{port}"), &[]);
    found.ends_with(69);
    found.has("bad", "hand-over", "because it asked by itself: what the store tells does not arrive");
    assert!(kept_back.load(Ordering::SeqCst) > 0, "{found}");
    found.has("ok", "left behind", "");
    assert_eq!(names(&server.url()), [""; 0]);
}

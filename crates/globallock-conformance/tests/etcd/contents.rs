//! Foreign keys in the place of locks in etcd.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::Etcd;

use globallock_conformance::garbage::panics;
use globallock_conformance::garbage::{Garbage, Pair, close, for_seeds, is_free, listed, pair, used};

const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 4 / 3 + 4);
    for three in bytes.chunks(3) {
        let number = three.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte))
            << (8 * (3 - three.len()));
        for position in 0..4 {
            let digit = (number >> (18 - 6 * position)) & 63;
            text.push(if position > three.len() { '=' } else { char::from(DIGITS[digit as usize]) });
        }
    }
    text
}

/// Asks the HTTP gateway that every etcd has, because through it keys and values can be any bytes.
fn post(port: u16, path: &str, body: &str) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let length = body.len();
    let head = format!(
        "POST /v3/kv/{path} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn put(port: u16, key: &[u8], value: &[u8]) {
    post(port, "put", &format!(r#"{{"key": "{}", "value": "{}"}}"#, base64(key), base64(value)));
}

/// Deletes these keys, and none of our own.
fn delete(port: u16, keys: &[Vec<u8>]) {
    for key in keys {
        post(port, "deleterange", &format!(r#"{{"key": "{}"}}"#, base64(key)));
    }
}

/// The last part of a claim's key, or garbage in place of it.
fn claim_part(garbage: &mut Garbage) -> Vec<u8> {
    let digits = garbage.digits(20);
    match garbage.random.u32(..9) {
        0 => Vec::new(),
        1 => b"\x1b[2J\r\n".to_vec(),
        2 => vec![0xff, 0, 0xfe],
        3 => vec![b'/'; 9],
        // So long that a few of them exceed the limit of one answer.
        4 => vec![b'x'; 1_400_000],
        5 => garbage.digits(16).into_bytes(),
        _ => {
            let (number, count, capacity) = (garbage.number(), garbage.number(), garbage.number());
            format!("{digits}.{number}.{count}.{capacity}").into_bytes()
        }
    }
}

async fn fixture(seed: u64, name: String, port: u16, managers: Pair) {
    let label = format!("etcd, {name}");
    let mut garbage = Garbage::new(seed);
    let name_key = format!("/locks/_glocks/{name}");
    let mut keys = Vec::new();
    for _ in 0..garbage.random.u32(1..6) {
        let is_python_etcd3 = garbage.random.u32(..12) == 0;
        let key = if is_python_etcd3 {
            name_key.clone().into_bytes()
        } else {
            [name_key.as_bytes(), b"/", &claim_part(&mut garbage)].concat()
        };
        let value = match garbage.random.u32(..3) {
            0 => [format!("{} {} ", garbage.number(), garbage.digits(32)).into_bytes(), garbage.owner()]
                .concat(),
            _ => garbage.owner(),
        };
        // Key and value are sent in one request, whose size etcd limits.
        put(port, &key, &value[..value.len().min(100_000)]);
        keys.push(key);
    }
    used(&label, &name, &managers).await;
    delete(port, &keys);
    is_free(&label, &name, &managers[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_keys_in_etcd_do_no_harm() {
    let panics = panics();
    let cluster = Etcd::start(1).unwrap();
    let port = cluster.ports()[0];
    let plain = Arc::new(pair(&cluster.url()).await);
    let foreign_keys = [
        b"/locks/_glocks/".as_slice(),
        b"/locks/_glocks/%1B%5B2J",
        b"/locks/_glocks//x/",
        b"/locks/_glocks/a%2Fb%/x",
        b"/locks/_glocks/\x1b[2J/x",
        b"/locks/_glocks/\xff\xfe/x",
    ];
    for key in foreign_keys {
        put(port, key, b"x");
    }
    let mut names = listed("etcd", &plain[0]).await;
    names.sort();
    assert_eq!(names, ["\u{1b}[2J", "a/b%"]);
    // With interop the python-etcd3 key is part of each claim, so most of these keys are no claims.
    let interop = Arc::new(pair(&format!("{}?interop=python-etcd3", cluster.url())).await);
    for (kind, managers) in [("plain", &plain), ("interop", &interop)] {
        for_seeds(0..40, |seed| fixture(seed, format!("{kind}-{seed}"), port, Arc::clone(managers))).await;
    }
    assert_eq!(panics.load(Ordering::SeqCst), 0, "nothing panicked, in no task");
    for managers in [plain, interop] {
        close(Arc::into_inner(managers).expect("all fixtures have ended")).await;
    }
}

#[tokio::test]
async fn a_queue_too_long_for_one_answer_is_an_error_and_leaves_no_claim() {
    let cluster = Etcd::start(1).unwrap();
    let port = cluster.ports()[0];
    let managers = pair(&cluster.url()).await;
    let long = |front| -> Vec<Vec<u8>> {
        (0..6).map(|number| format!("{front}{number}{}", "x".repeat(1_000_000)).into_bytes()).collect()
    };
    let keys: Vec<Vec<u8>> = long("/locks/_glocks/a/");
    for key in &keys {
        put(port, key, b"");
    }
    assert!(managers[0].inspect("a").await.is_err(), "the answer is too long");
    used("etcd, long keys", "a", &managers).await;
    delete(port, &keys);
    is_free("etcd, long keys", "a", &managers[1]).await;
    let keys: Vec<Vec<u8>> = (0..6).map(|number| format!("/locks/_glocks/b/{number}").into_bytes()).collect();
    for (key, value) in keys.iter().zip(long("")) {
        put(port, key, &value);
    }
    used("etcd, long values", "b", &managers).await;
    delete(port, &keys);
    is_free("etcd, long values", "b", &managers[1]).await;
    close(managers).await;
}

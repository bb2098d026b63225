//! Tests of the way to a server, and of what is told of something else at the other end.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::examined::{EARLY, KEPT, may_ask_for_tls};
use super::*;

#[test]
fn a_text_of_others_cannot_steer_a_terminal() {
    assert_eq!(crate::stores::address::printable("run 'x' \"y\" \u{1b}[2J\r\n"), "run 'x' \"y\" \\u{1b}[2J");
}

const REDIS: Expected = Expected {
    name: "Redis",
    speech: Speech::Redis,
    shares_port: false,
    protocols: &[],
    check: "check the port",
};
const ETCD: Expected = Expected { name: "etcd", speech: Speech::Etcd, protocols: &[b"h2"], ..REDIS };

fn transport(url: &str) -> Transport {
    let expected = if url.starts_with("etcd") { &ETCD } else { &REDIS };
    Transport::new(&mut Address::parse(url).unwrap(), expected).unwrap()
}

/// A port at which each connection is counted, and answered by this or closed.
async fn counting(answer: &'static [u8]) -> (u16, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    tokio::spawn({
        let count = Arc::clone(&count);
        async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                stream.write_all(answer).await.unwrap();
            }
        }
    });
    (port, count)
}

#[tokio::test]
async fn a_server_that_closes_its_connections_is_examined_once_for_many_tries() {
    let (port, count) = counting(b"").await;
    let transport = transport(&format!("redis://127.0.0.1:{port}"));
    let first = transport.closed_without_a_word("127.0.0.1", port).await;
    let asked = count.load(Ordering::SeqCst);
    assert_eq!(asked, 4);
    for _ in 0..20 {
        assert_eq!(transport.closed_without_a_word("127.0.0.1", port).await, first);
    }
    assert_eq!(count.load(Ordering::SeqCst), asked);
}

#[tokio::test]
async fn what_is_at_a_port_is_a_refusal_until_the_right_server_has_answered() {
    let (port, _) = counting(b"HTTP/1.1 400 Bad Request\r\n").await;
    let transport = transport(&format!("redis://127.0.0.1:{port}"));
    let refused = transport.closed_without_a_word("127.0.0.1", port).await;
    let reason = "it is an HTTP server: check host and port".to_owned();
    assert_eq!(refused, Unreached::Refused(reason.clone()));
    let heard = Heard::default();
    heard.hear(b"HTTP/1.1 400 ");
    assert_eq!(transport.explain(None, &heard), Some(Unreached::Refused(reason.clone())));
    transport.accept(&Heard::default());
    assert_eq!(transport.explain(None, &heard), Some(Unreached::Away(reason)));
    assert!(matches!(transport.closed_without_a_word("127.0.0.1", port).await, Unreached::Silent(_)));
}

#[tokio::test]
async fn a_server_that_speaks_http_as_it_should_is_no_other() {
    let (port, _) = counting(b"HTTP/1.1 400 Bad Request\r\n").await;
    let transport = transport(&format!("etcd://127.0.0.1:{port}"));
    let told = transport.closed_without_a_word("127.0.0.1", port).await;
    assert!(matches!(told, Unreached::Silent(_)), "{told:?}");
    let told = transport.silent("127.0.0.1", port).await;
    assert!(matches!(&told, Unreached::Silent(reason) if reason.ends_with("no etcd: check the port")));
    transport.accept(&Heard::default());
    assert_eq!(transport.silent("127.0.0.1", port).await, Unreached::Silent(IN_TIME.to_owned()));
}

#[test]
fn a_web_server_that_refuses_http_without_tls_may_speak_tls() {
    assert!(may_ask_for_tls(b"HTTP/1.0 400 Bad"));
    for other in [&b"HTTP/1.0 404 Not"[..], b"HTTP/1.1 200 OK\r", b"-ERR unknown com", b"HTTP/1."] {
        assert!(!may_ask_for_tls(other), "{other:?}");
    }
}

#[test]
fn a_balancer_without_a_server_is_no_refusal() {
    let heard = Heard::default();
    heard.hear(b"HTTP/1.0 503 Service Unavailable\r\n");
    let told = transport("etcd://127.0.0.1").explain(None, &heard);
    assert!(matches!(&told, Some(Unreached::Away(reason)) if reason.contains("no server is available")));
}

#[tokio::test]
async fn an_address_that_nothing_answers_at_delays_by_little() {
    let (port, _) = counting(b"").await;
    let right = SocketAddr::from(([127, 0, 0, 1], port));
    // A queue of connections that is full leaves others without an answer.
    let full = tokio::net::TcpSocket::new_v4().unwrap();
    full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let dead = full.listen(1).unwrap();
    let address = dead.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = tokio::time::timeout(NEXT, TcpStream::connect(address)).await {
        queued.push(stream.unwrap());
    }
    let addresses = [address, right];
    let connected = tokio::time::timeout(NEXT * 40, first_connected(&addresses));
    let connected = connected.await.expect("it is tried beside the dead one").unwrap();
    assert_eq!(connected.peer_addr().unwrap(), right);
    let refused = first_connected(&[SocketAddr::from(([127, 0, 0, 1], 1))]).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

/// A port at which this question is answered, and no other. It counts its connections.
async fn answering(question: &'static [u8], answer: &'static [u8]) -> (u16, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut asked = [0; 64];
                while let Ok(length @ 1..) = stream.read(&mut asked).await {
                    if asked[..length].starts_with(question) {
                        let _ = stream.write_all(answer).await;
                    }
                }
            });
        }
    });
    (port, count)
}

/// Waits for a greeting from this port that never comes.
async fn never_greeted(transport: &Transport, port: u16) -> Result<(), Unreached> {
    let silent = Heard::default();
    transport.greeted(("127.0.0.1", port), (&silent, Duration::ZERO), std::future::pending()).await
}

#[tokio::test]
async fn a_server_that_is_silent_is_asked_what_it_is_while_its_greeting_is_awaited() {
    for (question, answer, reason) in [
        (&b"srvr"[..], &b"Zookeeper version: 3.8.0"[..], "it is a ZooKeeper server: write zookeeper://"),
        (
            b"GET /version",
            b"HTTP/1.0 200 OK\r\n\r\n{\"etcdserver\":1}",
            "it is an etcd server: write etcd://",
        ),
        (&[0, 0, 0, 8], b"N", "it is a PostgreSQL server: write postgres://"),
        (&[0x16, 3], &[0x15, 3, 3, 0, 2, 2, 70], "it speaks TLS at this port: write rediss://"),
    ] {
        let (port, connections) = answering(question, answer).await;
        let transport = transport(&format!("redis://127.0.0.1:{port}"));
        let refused = never_greeted(&transport, port).await.unwrap_err();
        assert!(matches!(refused, Unreached::Refused(_)), "{refused:?}");
        assert!(refused.reason().starts_with(reason), "{refused}");
        assert!(connections.load(Ordering::SeqCst) <= 4);
    }
}

#[tokio::test]
async fn a_right_server_that_is_slow_is_waited_for_and_asked_once() {
    let (port, connections) = answering(b"srvr", b"-ERR unknown command 'srvr'\r\n").await;
    let transport = transport(&format!("redis://127.0.0.1:{port}"));
    let since = crate::sync::now();
    for _ in 0..3 {
        let waited = tokio::time::timeout(EARLY * 3, never_greeted(&transport, port)).await;
        assert!(waited.is_err(), "{waited:?}");
    }
    let times = 1 + since.elapsed().as_secs() / KEPT.as_secs();
    assert!(connections.load(Ordering::SeqCst) as u64 <= 4 * times);
    // One that says something is asked nothing, and so is each one later.
    let (port, connections) = answering(b"srvr", b"Zookeeper version").await;
    let greets = Heard::default();
    greets.hear(b"%7");
    let greeted = transport.greeted(("127.0.0.1", port), (&greets, Duration::ZERO), sleep(EARLY * 3));
    greeted.await.unwrap();
    transport.accept(&greets);
    let waited = tokio::time::timeout(EARLY * 3, never_greeted(&transport, port)).await;
    assert!(waited.is_err(), "{waited:?}");
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_server_that_speaks_with_tls_and_without_may_be_slow_to_begin_with_tls() {
    const BOTH: Expected = Expected { shares_port: true, ..REDIS };
    // A certificate, because an address with TLS has to name one where the system has none.
    const SOME: &str = "\
        -----BEGIN CERTIFICATE-----\n\
        MIIBLDCB36ADAgECAhQj0XnxDUPxySUTnCFQYrrs60BXIzAFBgMrZXAwDDEKMAgG\n\
        A1UEAwwBYTAeFw0yNjExMjcwNDIzMzBaFw0yNjExMjgwNDIzMzBaMAwxCjAIBgNV\n\
        BAMMAWEwKjAFBgMrZXADIQCkgW98AaW/YbuaA4dMNwJGxuiN0chbQIszf3WaDLoM\n\
        XqNTMFEwHQYDVR0OBBYEFKEnbRG60XrYqdrILKy8R/tsfWiUMB8GA1UdIwQYMBaA\n\
        FKEnbRG60XrYqdrILKy8R/tsfWiUMA8GA1UdEwEB/wQFMAMBAf8wBQYDK2VwA0EA\n\
        HkotQVFr0ucnbDJalttxgmIq4sB+sl9NxC58YDLH0+22ZgAA6yTBBMssDF+9pYV6\n\
        ves+atZEbM/txKL89RWXBA==\n\
        -----END CERTIFICATE-----\n";
    let (port, _) = answering(b"srvr", b"-ERR unknown command 'srvr'\r\n").await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, SOME).unwrap();
    let url = format!("rediss://127.0.0.1:{port}?ca={}", file.display());
    for (expected, is_refused) in [(&REDIS, true), (&BOTH, false)] {
        let transport = Transport::new(&mut Address::parse(&url).unwrap(), expected).unwrap();
        let found = transport.silent("127.0.0.1", port).await;
        assert_eq!(matches!(found, Unreached::Refused(_)), is_refused, "{found}");
    }
}

/// As the first connections of a large fleet to a server that is overloaded by them.
#[tokio::test]
async fn many_that_wait_for_a_silent_server_ask_it_in_turn() {
    let (port, connections) = answering(b"nothing", b"").await;
    let url = format!("redis://127.0.0.1:{port}");
    let waiting = (0..40).map(|_| {
        let transport = transport(&url);
        async move { tokio::time::timeout(EARLY * 4, never_greeted(&transport, port)).await.is_err() }
    });
    assert!(futures_util::future::join_all(waiting).await.into_iter().all(|waited| waited));
    // They would be 160 if all asked at once. Two or three times as many as ask at once have had the time.
    let connections = connections.load(Ordering::SeqCst);
    assert!((1..=80).contains(&connections), "{connections}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_far_may_be_silent_for_longer() {
    for (connected_in, longer) in [(0, 200), (50, 200), (51, 204), (500, 2000)] {
        let since = crate::sync::now();
        long_silence(Duration::from_millis(connected_in)).await;
        assert_eq!(since.elapsed().as_millis(), longer, "{connected_in}");
    }
}

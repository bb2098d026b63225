//! The raw limit: how fast the server answers the bytes of globallock's own requests, recorded on the wire
//! and sent again by a client that does nothing else.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A proxy to `target` that records what the clients send.
pub(crate) struct Recorder {
    pub(crate) port: u16,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    pub(crate) async fn start(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let port = listener.local_addr().expect("the listener is bound").port();
        let sent = Arc::new(Mutex::new(Vec::new()));
        let recorded = Arc::clone(&sent);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", target)).await.expect("the server is there");
                tokio::spawn(pass(client, server, Arc::clone(&recorded)));
            }
        });
        Recorder { port, sent }
    }

    /// Takes the requests recorded so far, each as it was on the wire.
    pub(crate) fn take(&self) -> Vec<Vec<u8>> {
        let bytes = std::mem::take(&mut *self.sent.lock().expect("no recorder fails"));
        let mut requests = Vec::new();
        let mut rest = &bytes[..];
        while let Some(length) = request_length(rest) {
            requests.push(rest[..length].to_vec());
            rest = &rest[length..];
        }
        requests
    }
}

async fn pass(client: TcpStream, server: TcpStream, sent: Arc<Mutex<Vec<u8>>>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let forth = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
            sent.lock().expect("no recorder fails").extend_from_slice(&buffer[..count]);
            if to_server.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    let back = async {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
    };
    tokio::select! { () = forth => {} () = back => {} }
}

/// The length of the first request in `bytes`: an array of bulk strings.
fn request_length(bytes: &[u8]) -> Option<usize> {
    let line = |from: usize, mark: u8| {
        let rest = bytes.get(from..).filter(|rest| rest.first() == Some(&mark))?;
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let number: usize = std::str::from_utf8(&rest[1..end]).ok()?.parse().ok()?;
        Some((number, from + end + 2))
    };
    let (count, mut position) = line(0, b'*')?;
    for _ in 0..count {
        let (length, start) = line(position, b'$')?;
        position = start + length + 2;
    }
    (position <= bytes.len()).then_some(position)
}

/// The pairs of requests per second that the server answers, when each connection sends all its pairs at
/// once, reads all answers, and starts again.
pub(crate) async fn pairs_per_second(
    port: u16,
    pairs: &[(Vec<u8>, Vec<u8>)],
    connections: usize,
    run: Duration,
) -> f64 {
    let began = Instant::now();
    let tasks: Vec<_> = pairs
        .chunks(pairs.len().div_ceil(connections))
        .map(|part| {
            let burst: Vec<u8> =
                part.iter().flat_map(|(enqueue, release)| [&enqueue[..], &release[..]].concat()).collect();
            let (pairs, answers) = (part.len(), part.len() * 2);
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the server is there");
                stream.set_nodelay(true).expect("the socket is open");
                let mut done = 0;
                while began.elapsed() < run {
                    stream.write_all(&burst).await.expect("the server reads");
                    read_answers(&mut stream, answers).await;
                    done += pairs;
                }
                done
            })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += task.await.expect("no client fails");
    }
    done as f64 / began.elapsed().as_secs_f64()
}

/// Reads `count` top-level answers, each an integer or an array of integers.
async fn read_answers(stream: &mut TcpStream, count: usize) {
    let mut buffer = vec![0; 64 * 1024];
    let mut line = Vec::new();
    let (mut answered, mut inner) = (0, 0_usize);
    while answered < count {
        let read = stream.read(&mut buffer).await.expect("the server answers");
        assert!(read > 0, "the server hung up");
        for &byte in &buffer[..read] {
            if byte != b'\n' {
                line.push(byte);
                continue;
            }
            assert_ne!(line.first(), Some(&b'-'), "{}", String::from_utf8_lossy(&line));
            if line.first() == Some(&b'*') {
                inner = std::str::from_utf8(&line[1..line.len() - 1])
                    .expect("a number")
                    .parse()
                    .expect("a number");
            } else {
                inner = inner.saturating_sub(1);
            }
            if inner == 0 {
                answered += 1;
            }
            line.clear();
        }
    }
}

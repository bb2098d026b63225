//! Raw writes to ZooKeeper without a client library: globallock's throughput is compared with them.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The writes per second of the server when `together` writes are always in flight on one connection.
pub(crate) async fn writes_per_second(port: u16, together: usize, run: Duration) -> f64 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the server is there");
    stream.set_nodelay(true).expect("the socket is open");
    // Protocol version 0, no zxid seen, a timeout of 10 s, no session yet, a password of 16 zeros.
    let greeting =
        [&[0; 12][..], &10_000_i32.to_be_bytes(), &[0; 8], &16_i32.to_be_bytes(), &[0; 16]].concat();
    stream.write_all(&frame(&greeting)).await.expect("the server reads");
    answer(&mut stream).await;
    // Creates a node that anybody may write. If it exists, the error is ignored.
    let acl = [&1_i32.to_be_bytes()[..], &31_i32.to_be_bytes(), &text("world"), &text("anyone")].concat();
    let create = [&text("/bench-raw")[..], &text("value"), &acl, &0_i32.to_be_bytes()].concat();
    stream.write_all(&request(1, &create)).await.expect("the server reads");
    answer(&mut stream).await;
    // -1: whatever the node's version is.
    let set = [&text("/bench-raw")[..], &text("value"), &(-1_i32).to_be_bytes()].concat();
    let set = request(5, &set);
    stream.write_all(&set.repeat(together)).await.expect("the server reads");
    let (began, mut done) = (Instant::now(), 0_u32);
    while began.elapsed() < run {
        answer(&mut stream).await;
        stream.write_all(&set).await.expect("the server reads");
        done += 1;
    }
    f64::from(done) / began.elapsed().as_secs_f64()
}

fn frame(message: &[u8]) -> Vec<u8> {
    [&i32::try_from(message.len()).expect("a short message").to_be_bytes(), message].concat()
}

fn text(text: &str) -> Vec<u8> {
    frame(text.as_bytes())
}

fn request(code: i32, body: &[u8]) -> Vec<u8> {
    frame(&[&1_i32.to_be_bytes(), &code.to_be_bytes(), body].concat())
}

async fn answer(stream: &mut TcpStream) {
    let length = stream.read_i32().await.expect("the server answers");
    let mut message = vec![0; usize::try_from(length).expect("a length")];
    stream.read_exact(&mut message).await.expect("the server answers");
}

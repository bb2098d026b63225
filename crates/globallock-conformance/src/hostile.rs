//! Servers that answer garbage, too much, or never.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Makes an answer to the bytes of a request.
pub type Reply = Box<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// The behaviour of a hostile server.
pub enum Hostile {
    /// Closes each connection.
    Closes,
    /// Reads, and answers nothing.
    Silent,
    /// Answers whatever arrives with the next of these, and then always with the last.
    Answers(Vec<Vec<u8>>),
    /// Answers a byte at a time, slowly.
    Dribbles(Vec<u8>),
    /// Greets, and then makes an answer to each request.
    Replies {
        /// The answer to what arrives first.
        greeting: Vec<u8>,
        /// Makes the others.
        reply: Reply,
    },
}

impl Hostile {
    /// Starts a server that behaves so, and returns its port. It ends when the task is aborted.
    ///
    /// # Panics
    /// When no port is free.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn start(self) -> (u16, JoinHandle<()>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let behaviour = Arc::new(self);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let behaviour = Arc::clone(&behaviour);
                tokio::spawn(async move { behaviour.serve(stream).await });
            }
        });
        (port, server)
    }

    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let mut buffer = vec![0; 64 * 1024];
        let mut number = 0;
        loop {
            if matches!(self, Hostile::Closes) {
                return None;
            }
            let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
            match self {
                Hostile::Closes | Hostile::Silent => {}
                Hostile::Answers(answers) => {
                    stream.write_all(&answers[number.min(answers.len() - 1)]).await.ok()?;
                }
                Hostile::Dribbles(answer) => {
                    for byte in answer {
                        stream.write_all(&[*byte]).await.ok()?;
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
                Hostile::Replies { greeting, reply } => {
                    let answer = if number == 0 { greeting.clone() } else { reply(&buffer[..count]) };
                    stream.write_all(&answer).await.ok()?;
                }
            }
            number += 1;
        }
    }
}

impl fmt::Debug for Hostile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Hostile::Closes => "Closes",
            Hostile::Silent => "Silent",
            Hostile::Answers(_) => "Answers",
            Hostile::Dribbles(_) => "Dribbles",
            Hostile::Replies { .. } => "Replies",
        })
    }
}

/// Behaviours that are hostile in every protocol.
#[must_use]
pub fn in_any_protocol() -> Vec<(&'static str, Hostile)> {
    let answers = |bytes: &[u8]| Hostile::Answers(vec![bytes.to_vec()]);
    vec![
        ("closes", Hostile::Closes),
        ("silent", Hostile::Silent),
        ("HTTP", answers(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nno\n")),
        ("TLS alert", answers(&[21, 3, 3, 0, 2, 2, 40])),
        ("zeros", answers(&[0; 4096])),
        ("ones", answers(&[255; 4096])),
        ("not text", answers(b"\xc3\x28\xf0\x28\x8c\x28\r\n")),
        ("a byte at a time", Hostile::Dribbles(b"+O\0\0\0\x10K\r\n".to_vec())),
    ]
}

//! A proxy that understands what a server sends, and can drop only its notifications: all requests are
//! answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use globallock_conformance::stores::ReadMessage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A proxy in front of one server.
pub(crate) struct Filter {
    pub(crate) port: u16,
    drops: Arc<AtomicBool>,
    dropped: Arc<AtomicU64>,
}

impl Filter {
    /// Starts one in front of a server whose messages are read so.
    pub(crate) async fn start(reads: ReadMessage, server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let filter = Filter { port, drops: Arc::default(), dropped: Arc::default() };
        let (drops, dropped) = (Arc::clone(&filter.drops), Arc::clone(&filter.dropped));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let (drops, dropped) = (Arc::clone(&drops), Arc::clone(&dropped));
                tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                tokio::spawn(async move {
                    let (mut buffer, mut begins) = (Vec::new(), true);
                    while let Ok(1..) = from_server.read_buf(&mut buffer).await {
                        while let Some((end, is_notification)) = reads(&buffer, begins) {
                            begins = false;
                            let message: Vec<u8> = buffer.drain(..end).collect();
                            if is_notification && drops.load(Ordering::SeqCst) {
                                dropped.fetch_add(1, Ordering::SeqCst);
                            } else if to_client.write_all(&message).await.is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        filter
    }

    /// Sets whether notifications are dropped.
    pub(crate) fn drops(&self, drops: bool) {
        self.drops.store(drops, Ordering::SeqCst);
    }

    /// The number of dropped notifications.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::SeqCst)
    }
}

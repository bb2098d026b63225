//! The server of one member: its channel, and why that has no connection.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tonic::Status;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use crate::stores::transport::{Heard, Stream, Transport, Unreached, causes};
use crate::sync::Mutex;

/// The server of one member.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) channel: Channel,
    way: Way,
}

/// Connects to one server, whenever its channel needs a connection.
#[derive(Clone)]
struct Way {
    transport: Transport,
    server: Arc<(String, u16)>,
    /// How long a try may take.
    timeout: Duration,
    /// What the last connection and the one before it have received first, until one has brought an answer. A
    /// request may learn that it has failed when the next connection is being made already.
    heard: Arc<Mutex<[Option<Arc<Heard>>; 2]>>,
}

impl Server {
    /// A server without a connection yet.
    pub(super) fn new(
        endpoint: &Endpoint,
        transport: Transport,
        server: (String, u16),
        timeout: Duration,
    ) -> Self {
        let way = Way { transport, server: Arc::new(server), timeout, heard: Arc::default() };
        Server { channel: endpoint.connect_with_connector_lazy(way.clone()), way }
    }

    /// Notes that it has answered as etcd does.
    pub(super) fn answered(&self) {
        let [last, _] = std::mem::take(&mut *self.way.heard.lock());
        if let Some(heard) = last {
            self.way.transport.accept(&heard);
        }
    }

    /// Says why a request has failed, where that is because of the connection.
    pub(super) async fn explained(&self, status: Status) -> Status {
        match self.unreached(&status).await {
            Some(unreached) => unanswered(unreached),
            None => status,
        }
    }

    async fn unreached(&self, status: &Status) -> Option<Unreached> {
        if let Some(unreached) = unreached_in(status) {
            return Some(unreached.clone());
        }
        let both = self.way.heard.lock().clone();
        let mut both = both.into_iter().flatten();
        let explained = both.clone().find_map(|heard| self.way.transport.explain(Some(status), &heard));
        if explained.is_some() {
            return explained;
        }
        let heard = both.next()?;
        let (host, port) = &*self.way.server;
        match &heard.bytes()[..] {
            [] => Some(self.way.transport.closed_without_a_word(host, *port, "etcd").await),
            // The first frame of HTTP/2 is that of the settings. It may have been cut off with the
            // connection.
            [_, _, _, 4, ..] | [0] | [0, _] | [0, _, _] => None,
            _ => {
                let words = heard.words();
                let reason = format!("it does not answer as etcd does, but \"{words}\": check host and port");
                Some(self.way.transport.refused(reason))
            }
        }
    }
}

/// The status of a request that has had no answer, for this reason.
pub(super) fn unanswered(unreached: Unreached) -> Status {
    let mut status = Status::unavailable(unreached.reason());
    status.set_source(Arc::new(unreached));
    status
}

/// Whether no connection to the member can be used before somebody has changed something.
pub(super) fn is_refusal(status: &Status) -> bool {
    matches!(unreached_in(status), Some(Unreached::Refused(_)))
}

/// What the members of a cluster have answered last.
pub(super) struct Failures {
    members: usize,
    /// By member, the last at the end.
    last: Vec<(usize, Status)>,
}

impl Failures {
    pub(super) fn of(members: usize) -> Self {
        Failures { members, last: Vec::new() }
    }

    pub(super) fn add(&mut self, member: usize, status: Status) {
        let member = member % self.members;
        self.last.retain(|(other, _)| *other != member);
        self.last.push((member, status));
    }

    /// Whether nobody could be reached.
    pub(super) fn none_reached(&self) -> bool {
        self.last.iter().all(|(_, status)| unreached_in(status).is_some())
    }

    /// All as one: that of the last member. What somebody has to change at one of them is told rather, but it
    /// is a refusal only if every member refuses, since another may answer later.
    pub(super) fn as_one(&mut self) -> Status {
        let refusal = self.last.iter().rposition(|(_, status)| is_refusal(status));
        let every = self.last.len() == self.members && self.last.iter().all(|(_, status)| is_refusal(status));
        let told = refusal.or(self.last.len().checked_sub(1)).map(|told| self.last.swap_remove(told).1);
        self.last.clear();
        let status = told.unwrap_or_else(|| Status::unavailable("no member"));
        match unreached_in(&status) {
            Some(Unreached::Refused(reason)) if !every => unanswered(Unreached::Away(reason.clone())),
            _ => status,
        }
    }
}

/// What is told of the connection by a status.
fn unreached_in(status: &Status) -> Option<&Unreached> {
    causes(status).find_map(|cause| cause.downcast_ref::<Unreached>())
}

impl Service<Uri> for Way {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let way = self.clone();
        Box::pin(async move {
            let (host, port) = &*way.server;
            {
                let mut heard = way.heard.lock();
                if heard[0].is_some() {
                    *heard = [None, heard[0].take()];
                }
            }
            let connected = timeout(way.timeout, way.transport.connect(host, *port)).await;
            let connected = match connected {
                Ok(connected) => connected,
                Err(_) => Err(way.transport.silent(host, *port).await),
            };
            let stream = connected.map_err(io::Error::other)?;
            way.heard.lock()[0] = Some(stream.heard());
            Ok(TokioIo::new(stream))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_members_refuse_only_if_each_of_them_does() {
        let refused = || unanswered(Unreached::Refused("no TLS".to_owned()));
        let away = || unanswered(Unreached::Away("gone".to_owned()));
        let other = || Status::unavailable("last");
        for (failures, told, refuses, none_reached) in [
            (vec![(0, refused()), (1, refused())], "no TLS", true, true),
            (vec![(0, refused()), (1, away())], "no TLS", false, true),
            (vec![(0, away()), (1, refused())], "no TLS", false, true),
            (vec![(0, away()), (1, other())], "last", false, false),
            // Another request has moved on from a member before this one asked it.
            (vec![(0, refused()), (2, refused())], "no TLS", false, true),
            (vec![(0, refused()), (1, refused()), (2, other())], "no TLS", false, false),
            (vec![], "no member", false, true),
        ] {
            let mut all = Failures::of(2);
            for (member, status) in failures {
                all.add(member, status);
            }
            assert_eq!(all.none_reached(), none_reached);
            let status = all.as_one();
            assert_eq!((status.message(), is_refusal(&status)), (told, refuses));
            assert_eq!(status.code(), tonic::Code::Unavailable);
        }
    }
}

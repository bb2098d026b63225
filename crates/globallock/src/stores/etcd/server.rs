//! The server of one member: its channel, and why that has no connection.

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::Status;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use crate::stores::transport::{Heard, Stream, ToldBy, Transport, Unreached, causes, long_silence};
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
    /// How long the last connection took to be made, if there has been one.
    connected_in: Arc<watch::Sender<Option<Duration>>>,
}

impl Server {
    /// A server without a connection yet.
    pub(super) fn new(
        endpoint: &Endpoint,
        transport: Transport,
        server: (String, u16),
        timeout: Duration,
    ) -> Self {
        let (server, connected_in) = (Arc::new(server), Arc::new(watch::Sender::new(None)));
        let way = Way { transport, server, timeout, heard: Arc::default(), connected_in };
        Server { channel: endpoint.connect_with_connector_lazy(way.clone()), way }
    }

    /// Its host and port.
    pub(super) fn host(&self) -> &(String, u16) {
        &self.way.server
    }

    /// The way to it.
    pub(super) fn transport(&self) -> &Transport {
        &self.way.transport
    }

    /// Notes that it has answered as etcd does.
    pub(super) fn answered(&self) {
        let [last, _] = std::mem::take(&mut *self.way.heard.lock());
        if let Some(heard) = last {
            self.way.transport.accept(&heard);
        }
    }

    /// Whether a member has ever answered as etcd does.
    pub(super) fn is_right(&self) -> bool {
        self.way.transport.is_right()
    }

    /// What comes of a request; or why there can be no answer, if the server is silent for long because it is
    /// another one.
    pub(super) async fn unless_other<T>(
        &self,
        request: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let (host, port) = &*self.way.server;
        let silent = async {
            let mut connected = self.way.connected_in.subscribe();
            let connected_in = connected.wait_for(Option::is_some).await.ok().and_then(|took| *took);
            long_silence(connected_in.unwrap_or_default()).await;
            self.way.heard.lock()[0].as_ref().is_some_and(|heard| heard.is_silent())
        };
        let answered = self.way.transport.unless_other((host, *port), silent, request).await;
        answered.unwrap_or_else(|other| Err(unanswered(other)))
    }

    /// Why it has not answered in time.
    pub(super) async fn silent(&self) -> Status {
        let (host, port) = &*self.way.server;
        unanswered(self.way.transport.silent(host, *port).await)
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
            [] => Some(self.way.transport.closed_without_a_word(host, *port).await),
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
    /// What a member has said in an earlier round.
    said: Option<Status>,
}

impl Failures {
    pub(super) fn of(members: usize) -> Self {
        Failures { members, last: Vec::new(), said: None }
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

    /// All as one: that of the last member which has said something, or else of the last. What somebody has
    /// to change at one of them is told rather, but it is a refusal only if every member refuses, since
    /// another may answer later. Where none says anything, as when the wait has ended, it is what one
    /// has said before.
    pub(super) fn as_one(&mut self) -> Status {
        let every = self.last.len() == self.members && self.last.iter().all(|(_, status)| is_refusal(status));
        let tells = |(_, status): &(usize, Status)| (is_refusal(status), told_by(status));
        let told = (0..self.last.len()).max_by_key(|place| tells(&self.last[*place]));
        let told = told.map(|told| self.last.swap_remove(told).1);
        self.last.clear();
        let status = told.unwrap_or_else(|| Status::unavailable("no member"));
        match unreached_in(&status) {
            Some(Unreached::Refused(reason)) if !every => unanswered(Unreached::Away(reason.clone())),
            _ if told_by(&status) == ToldBy::Server => {
                self.said = Some(status.clone());
                status
            }
            _ => self.said.clone().unwrap_or(status),
        }
    }
}

/// Who tells that a request has had no answer.
fn told_by(status: &Status) -> ToldBy {
    match unreached_in(status) {
        Some(unreached) => unreached.told_by(),
        // What broke the connection is its source. What a member answers has none.
        None if status.source().is_some() => ToldBy::Silence,
        None => ToldBy::Server,
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
            way.connected_in.send_replace(Some(stream.connected_in()));
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
        let not_there = || unanswered(Unreached::NotThere("no connection".to_owned()));
        let silent = || unanswered(Unreached::Silent("silent".to_owned()));
        let other = || Status::unavailable("last");
        for (failures, told, refuses, none_reached) in [
            (vec![(0, refused()), (1, refused())], "no TLS", true, true),
            (vec![(0, refused()), (1, away())], "no TLS", false, true),
            (vec![(0, away()), (1, refused())], "no TLS", false, true),
            (vec![(0, away()), (1, other())], "last", false, false),
            // What a member says is told, whatever the order.
            (vec![(0, other()), (1, away())], "gone", false, false),
            (vec![(0, other()), (1, not_there())], "last", false, false),
            (vec![(0, other()), (1, silent())], "last", false, false),
            (vec![(0, silent()), (1, not_there())], "silent", false, true),
            (vec![(0, not_there()), (1, silent())], "silent", false, true),
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

    #[test]
    fn what_a_member_has_said_is_told_when_the_time_is_over() {
        let mut all = Failures::of(2);
        let silent = || unanswered(Unreached::Silent("silent".to_owned()));
        for (said, told) in [(silent(), "silent"), (Status::unavailable("no leader"), "no leader")] {
            all.add(0, said);
            all.add(1, silent());
            assert_eq!(all.as_one().message(), told);
        }
        all.add(0, silent());
        assert_eq!(all.as_one().message(), "no leader");
    }
}

//! Faults of connections and network links between owners and servers.

use std::io::{Error, Result};
use std::time::Duration;

use globallock_conformance::proxy::{Flow, Proxy};
use tokio::time::sleep;

use super::{Fault, FaultKind, Fleet, Outcome, Store};

impl Fault {
    /// Breaks connections by means of the proxies.
    pub(super) async fn break_connections(self, store: &Store) -> Outcome {
        let (any, hold) = (self.any(), Some(Flow::Hold));
        match self.kind {
            FaultKind::HoldAnswers => proxies(store, any, None, hold, false).await,
            FaultKind::HoldRequests => proxies(store, any, hold, None, false).await,
            FaultKind::HoldBoth => proxies(store, self.long(), hold, hold, false).await,
            FaultKind::Delay => {
                let delay = Some(Flow::Delay(self.draw.lease.mul_f64(0.02 + 0.1 * self.draw.length)));
                proxies(store, any, delay, delay, false).await
            }
            FaultKind::SwallowAnswers => {
                proxies(store, self.draw.short() / 4, None, Some(Flow::Swallow), true).await
            }
            _ => {
                let cuts = || store.proxies.iter().map(Proxy::cuts).sum::<u64>();
                let before = cuts();
                store.proxies.iter().for_each(Proxy::cut);
                sleep(Duration::from_millis(20)).await;
                let cut = cuts() - before;
                Outcome::of(cut > 0, format!("{cut} connections cut"))
            }
        }
    }

    /// Takes down the network link of one owner (`hit`), or the links of all.
    pub(super) async fn take_down(self, fleet: &Fleet, hit: &mut Option<u32>) -> Result<Outcome> {
        let network = fleet.network().ok_or_else(|| Error::other("there are no links"))?;
        let member = fleet.choose(self.draw.target);
        let owner = (self.kind == FaultKind::LinkDown).then(|| fleet.number(member));
        let seen = network.down(owner)?;
        sleep(self.any()).await;
        network.up(owner)?;
        *hit = owner;
        Ok(Outcome::of(seen == "DOWN", format!("state {seen}")))
    }
}

/// Lets the proxies in front of all servers treat requests and answers in these ways for a while.
async fn proxies(
    store: &Store,
    length: Duration,
    requests: Option<Flow>,
    answers: Option<Flow>,
    cut: bool,
) -> Outcome {
    let count = || store.proxies.iter().map(|proxy| proxy.held() + proxy.swallowed()).sum::<u64>();
    let before = count();
    for proxy in &store.proxies {
        proxy.requests(requests.unwrap_or_default());
        proxy.answers(answers.unwrap_or_default());
    }
    sleep(length).await;
    for proxy in &store.proxies {
        if cut {
            proxy.cut();
        }
        proxy.requests(Flow::Pass);
        proxy.answers(Flow::Pass);
    }
    let affected = count() - before;
    Outcome::of(affected > 0, format!("{affected} times or bytes kept back within {length:?}"))
}

//! The properties: what must be true in every state, and what must be seen in some state.

use globallock::queue::{admit, blockers};
use stateright::Property;

use super::state::{Message, NO_ENTRY, Phase, Request, State};
use super::{LEASE, Protocol, Shape};

/// All properties.
pub(super) fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always("believed holders never exceed the capacity", |model: &Protocol, state: &State| {
            names(state).all(|name| {
                let permits = model.permits_of(&believers(model, state, name));
                admit(permits.iter().copied()) == permits.len()
            })
        }),
        Property::always(
            "the guarded resource never accepts an older token after a newer one",
            |_: &Protocol, state: &State| !state.went_back,
        ),
        Property::always("tokens rise", |_: &Protocol, state: &State| !state.fell),
        Property::always("a believed holder is a holder in the store", |model: &Protocol, state: &State| {
            let mut store = state.clone();
            model.expire(&mut store);
            names(state).all(|name| {
                let holding = model.holding(&store, name);
                believers(model, state, name).iter().all(|claim| holding.contains(claim))
            })
        }),
        Property::always(
            "a claim has blockers exactly while it is a waiter",
            |model: &Protocol, state: &State| {
                names(state).all(|name| {
                    let queue = model.queue(state, name);
                    let holding = model.holding(state, name).len();
                    (0..queue.len()).all(|position| {
                        let ahead = model.permits_of(&queue[..position]);
                        blockers(&ahead, model.permits(queue[position])).is_empty() == (position < holding)
                    })
                })
            },
        ),
        Property::always(
            "a waiter is granted once the others have been silent for a lease",
            |model: &Protocol, state: &State| {
                let is_granted = |claim: u8| {
                    let now = state.now + LEASE;
                    let mut later = State { now, network: Vec::new(), ..state.clone() };
                    let request = Request { sent: now, entry: NO_ENTRY, held: false };
                    model.arrive(&mut later, Message::Enqueue(claim, request));
                    matches!(later.network[..], [Message::Held(..)])
                };
                let waiting =
                    (0..).zip(&state.phases).filter(|(_, phase)| matches!(phase, Phase::Waiting(..)));
                waiting.into_iter().all(|(claim, _)| is_granted(claim))
            },
        ),
        Property::always(
            "a released claim leaves nothing that another claim keeps alive",
            |model: &Protocol, state: &State| {
                model.shape == Shape::LeasePerClaim
                    || !state.queue.iter().any(|entry| state.tombstones.contains(&entry.claim))
            },
        ),
        Property::always(
            "no claim is reported lost that the store keeps and whose lease has not expired",
            |_: &Protocol, state: &State| !state.unprovoked,
        ),
        Property::always("a believed holder knows its token", |model: &Protocol, state: &State| {
            let known = |claim: u8| match state.phases[usize::from(claim)] {
                Phase::Held(held) => Some(held.fencing_token),
                _ => None,
            };
            let given = |claim: u8| {
                let entry = state.queue.iter().find(|entry| entry.claim == claim);
                entry.map(|entry| entry.fencing_token)
            };
            names(state)
                .flat_map(|name| believers(model, state, name))
                .all(|claim| known(claim) == given(claim))
        }),
        Property::sometimes("two share the lock", |model: &Protocol, state: &State| {
            names(state).any(|name| believers(model, state, name).len() > 1)
        }),
        Property::sometimes("a write comes too late and is refused", |model: &Protocol, state: &State| {
            state.network.iter().any(|message| match *message {
                Message::Write(claim, fencing_token) => {
                    fencing_token < state.written[usize::from(model.wanted(claim).name)]
                }
                _ => false,
            })
        }),
        Property::sometimes("a grant overtakes an answer of waiting", |_: &Protocol, state: &State| {
            state.network.iter().any(|message| match *message {
                Message::Waiting(claim, _, _, held) => {
                    !held && matches!(state.phases[usize::from(claim)], Phase::Held(_))
                }
                _ => false,
            })
        }),
    ]
}

fn names(state: &State) -> impl Iterator<Item = u8> {
    (0..).take(state.written.len())
}

/// The claims whose owners believe that they hold a name.
fn believers(model: &Protocol, state: &State, name: u8) -> Vec<u8> {
    let claims = (0..).take(state.phases.len()).filter(|claim| model.wanted(*claim).name == name);
    claims.filter(|claim| model.believes(state, *claim)).collect()
}

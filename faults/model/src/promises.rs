//! What must hold in every state, and what must be seen in some.

use globallock::queue::{admit, blockers};
use stateright::Property;

use super::state::{Asked, Message, NOWHERE, Phase, State};
use super::{LEASE, Protocol, Shape};

/// All of them.
pub(super) fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always("never more believe to hold than fit", |model: &Protocol, state: &State| {
            names(state).all(|name| {
                let shares = model.shares(&believers(model, state, name));
                admit(shares.iter().copied()) == shares.len()
            })
        }),
        Property::always(
            "what is guarded never takes an older token after a newer one",
            |_: &Protocol, state: &State| !state.went_back,
        ),
        Property::always("tokens rise", |_: &Protocol, state: &State| !state.fell),
        Property::always(
            "whoever believes has a claim in the store that holds",
            |model: &Protocol, state: &State| {
                let mut store = state.clone();
                model.expire(&mut store);
                names(state).all(|name| {
                    let holding = model.holding(&store, name);
                    believers(model, state, name).iter().all(|claim| holding.contains(claim))
                })
            },
        ),
        Property::always(
            "whoever has to wait has somebody to wait for",
            |model: &Protocol, state: &State| {
                names(state).all(|name| {
                    let queue = model.queue(state, name);
                    let holding = model.holding(state, name).len();
                    (0..queue.len()).all(|position| {
                        let ahead = model.shares(&queue[..position]);
                        blockers(&ahead, model.permits(queue[position])).is_empty() == (position < holding)
                    })
                })
            },
        ),
        Property::always(
            "whoever waits is granted when the others have been silent for a lease",
            |model: &Protocol, state: &State| {
                let looks = |claim: u8| {
                    let now = state.now + LEASE;
                    let mut later = State { now, network: Vec::new(), ..state.clone() };
                    let asked = Asked { sent: now, place: NOWHERE, held: false };
                    model.arrive(&mut later, Message::Join(claim, asked));
                    matches!(later.network[..], [Message::Held(..)])
                };
                let waiting =
                    (0..).zip(&state.phases).filter(|(_, phase)| matches!(phase, Phase::Waiting(..)));
                waiting.into_iter().all(|(claim, _)| looks(claim))
            },
        ),
        Property::always(
            "who has left leaves nothing that another claim keeps alive",
            |model: &Protocol, state: &State| {
                model.shape == Shape::LeaseOfClaim
                    || !state.queue.iter().any(|entry| state.barred.contains(&entry.claim))
            },
        ),
        Property::always(
            "nobody is told lost what the store keeps and whose time has not ended",
            |_: &Protocol, state: &State| !state.unprovoked,
        ),
        Property::always("whoever believes knows its token", |model: &Protocol, state: &State| {
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
        Property::sometimes(
            "a grant overtakes an answer that the claim waits",
            |_: &Protocol, state: &State| {
                state.network.iter().any(|message| match *message {
                    Message::Waits(claim, _, _, held) => {
                        !held && matches!(state.phases[usize::from(claim)], Phase::Held(_))
                    }
                    _ => false,
                })
            },
        ),
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

//! The functions in the server, and the statements in their place, decide as `admit` does.

use std::cell::Cell;

use globallock::backend::{Backend, Claim, ClaimId, ClaimStatus, Release, WaitMode};
use globallock::queue::{Permits, admit};
use globallock::{Name, connect_backend};
use globallock_conformance::server::postgres::Postgres;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// What happens to the queue of one name.
#[derive(Clone, Debug)]
enum Step {
    /// A claim of so many permits of so many joins, and waits or not.
    Joins(u32, u32, bool),
    /// The claim at about this place leaves.
    Leaves(prop::sample::Index),
    /// It ends by its lease, which nobody settles.
    Ends(prop::sample::Index),
    /// It asks again.
    Asks(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u32..5, 1_u32..5, any::<bool>())
            .prop_map(|(count, capacity, waits)| Step::Joins(count.min(capacity), capacity, waits)),
        2 => any::<prop::sample::Index>().prop_map(Step::Leaves),
        1 => any::<prop::sample::Index>().prop_map(Step::Ends),
        1 => any::<prop::sample::Index>().prop_map(Step::Asks),
    ]
}

fn holding(queue: &[Claim]) -> usize {
    admit(queue.iter().map(|claim| claim.permits))
}

/// Goes through the steps, and compares who holds after each.
async fn follow(backend: &dyn Backend, server: &Postgres, steps: &[Step], run: u64) {
    let name = Name::new(format!("admit-{run}")).unwrap();
    let mut queue: Vec<Claim> = Vec::new();
    for (number, step) in (1..).zip(steps) {
        let mut settled = true;
        match step {
            Step::Joins(count, capacity, waits) => {
                let mode = if *waits { WaitMode::Wait } else { WaitMode::Try };
                let id = ClaimId::new(u128::from(run) + 1, number);
                let claim =
                    Claim::new(id, name.clone(), Permits::new(*count, *capacity)).with_wait_mode(mode);
                let status = backend.enqueue(&claim).await.unwrap();
                queue.push(claim);
                let holds = holding(&queue) == queue.len();
                assert_eq!(matches!(status, ClaimStatus::Held(_)), holds, "{queue:?}: {status:?}");
                if !holds && !*waits {
                    assert_eq!(status, ClaimStatus::Gone);
                    queue.pop();
                }
            }
            _ if queue.is_empty() => {}
            Step::Leaves(which) => {
                let claim = queue.remove(which.index(queue.len()));
                assert_eq!(backend.release(&claim).await.unwrap(), Release::Released);
            }
            Step::Ends(which) => {
                let claim = queue.remove(which.index(queue.len()));
                let statement = "UPDATE globallock.claims SET expires = clock_timestamp() - interval '1 s'";
                server.sql(&format!("{statement} WHERE id = '{}'", claim.id));
                settled = false;
            }
            Step::Asks(which) => {
                let place = which.index(queue.len());
                let status = backend.enqueue(&queue[place]).await.unwrap();
                let holds = place < holding(&queue);
                assert_eq!(matches!(status, ClaimStatus::Held(_)), holds, "{queue:?}: {status:?}");
            }
        }
        let seen = backend.inspect(&name).await.unwrap();
        let ids: Vec<_> = seen.iter().map(|entry| entry.id.unwrap()).collect();
        assert_eq!(ids, queue.iter().map(|claim| claim.id).collect::<Vec<_>>(), "the order of joining");
        let held = seen.iter().filter(|entry| entry.held).count();
        // Whoever asks next settles what has ended by itself.
        assert!(held == holding(&queue) || !settled && held <= holding(&queue), "{queue:?}: {held} hold");
        let numbers: Vec<_> = seen.iter().map(|entry| entry.fencing_token).collect();
        assert!(numbers.is_sorted() && numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
        if !settled && let Some(first) = queue.first() {
            drop(backend.enqueue(first).await.unwrap());
            let seen = backend.inspect(&name).await.unwrap();
            assert_eq!(seen.iter().filter(|entry| entry.held).count(), holding(&queue), "{queue:?}");
        }
    }
}

#[test]
fn the_functions_grant_what_admit_grants_after_any_steps() {
    let server = Postgres::start().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let connect = |url: &str| runtime.block_on(connect_backend(url)).unwrap();
    let backends = [connect(&server.url()), connect(&format!("{}?plain=yes", server.url()))];
    let run = Cell::new(0);
    let mut runner = TestRunner::new(Config { cases: 40, failure_persistence: None, ..Config::default() });
    let ran = runner.run(&vec(step(), 1..25), |steps| {
        for backend in &backends {
            run.set(run.get() + 1);
            runtime.block_on(follow(&**backend, &server, &steps, run.get()));
        }
        Ok(())
    });
    ran.unwrap();
}

#[tokio::test]
async fn tokens_rise_though_the_sequence_is_an_old_one() {
    let server = Postgres::start().unwrap();
    let manager = crate::manager(&server.url()).await;
    let mut last = 0;
    for set in ["", "SELECT setval('globallock.numbers', 1)", "SELECT setval('globallock.numbers', 77)"] {
        server.sql(set);
        let guard = manager.mutex("a").acquire().await.unwrap();
        assert!(guard.fencing_token() > last, "{} after {last}", guard.fencing_token());
        last = guard.fencing_token();
        guard.release().await.unwrap();
    }
    // Nor does a clock that was set back lower them, because the sequence goes on.
    server.sql(&format!("SELECT setval('globallock.numbers', {})", last + 3_600_000_000));
    let guard = manager.mutex("a").acquire().await.unwrap();
    assert_eq!(guard.fencing_token(), last + 3_600_000_001);
}

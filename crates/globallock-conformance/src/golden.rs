//! Golden tests: compare what a store writes, byte for byte, with what earlier versions wrote, because
//! processes of several versions share a store.
//!
//! Only what differs from run to run is masked: times, and the random ids of connections.

use std::time::Duration;

use globallock::backend::{Backend, Claim, ClaimId, ClaimStatus};
use globallock::queue::{MAX_CAPACITY, Permits};
use globallock::{Name, Owner};

/// The part of the claims' ids that identifies their manager.
pub const MANAGER: u128 = 0x00c0_ffee_00c0_ffee_00c0;
const LEASE: Duration = Duration::from_secs(60);

/// Claims of every kind, in the order in which they join.
///
/// # Panics
/// Never: the names are good.
#[must_use]
pub fn claims() -> Vec<Claim> {
    let all = MAX_CAPACITY;
    let wanted = [
        ("nightly", (1, 1), Some(300)),
        ("nightly", (1, 1), None),
        ("nightly", (1, 1), Some(300)),
        ("a/b {c} %é.", (1, all), None),
        ("a/b {c} %é.", (1, all), Some(300)),
        ("a/b {c} %é.", (all, all), None),
        ("permits", (2, 3), None),
        ("permits", (1, 3), None),
        ("permits", (2, 3), Some(300)),
    ];
    let owner = Owner { host: "db1".to_owned(), pid: Some(12), label: Some("report \"é\"".to_owned()) };
    (1..)
        .zip(wanted)
        .map(|(number, (name, (count, capacity), max_hold))| {
            Claim::new(
                ClaimId::new(MANAGER, number),
                Name::new(name).expect("a good name"),
                Permits::new(count, capacity),
            )
            .with_lease(LEASE)
            .with_max_hold(max_hold.map(Duration::from_secs))
            .with_owner(if number % 2 == 1 { owner.to_text() } else { String::new() })
        })
        .collect()
}

/// Enqueues [`claims`]: the first claim of the mutex, both readers, and the first two claims of permits are
/// granted; the others wait.
///
/// # Panics
/// When the store answers otherwise.
///
/// # Cancel safety
/// Some of the claims have joined.
pub async fn fill(backend: &dyn Backend) {
    let mut holds = Vec::new();
    for claim in claims() {
        match backend.enqueue(&claim).await.expect("the store answers") {
            ClaimStatus::Held(_) => holds.push(true),
            ClaimStatus::Waiting => holds.push(false),
            ClaimStatus::Gone | ClaimStatus::Evicted(_) => panic!("{} is gone", claim.id),
        }
    }
    assert_eq!(holds, [true, false, false, true, true, false, true, true, false]);
}

/// Masks times as `<s>`, `<ms>` or `<us>`, leases of the server as `<lease>`, and ids that are not from
/// [`claims`] as `<id>`.
#[must_use]
pub fn masked(text: &str) -> String {
    let ours = format!("{MANAGER:020x}");
    let mut masked = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let run = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len()).max(first.len_utf8());
        let (word, after) = rest.split_at(run);
        let (decimal, hexadecimal) =
            (word.bytes().all(|b| b.is_ascii_digit()), word.bytes().all(|b| b.is_ascii_hexdigit()));
        masked.push_str(match word.len() {
            _ if word.starts_with(&ours) => word,
            10 if decimal && word.starts_with('1') => "<s>",
            13 if decimal => "<ms>",
            16 if decimal => "<us>",
            17 if word.ends_with('w') => "<us>w",
            // The id of a lease or session, made by the server.
            14..=16 if hexadecimal => "<lease>",
            20 | 32 | 40 if hexadecimal => "<id>",
            _ => word,
        });
        rest = after;
    }
    masked
}

/// Compares what a store wrote with the golden text.
///
/// # Panics
/// At the first line that differs.
pub fn compare(written: &str, golden: &str) {
    println!("{written}");
    for (number, (written, golden)) in (1..).zip(written.lines().zip(golden.lines())) {
        assert_eq!(written, golden, "line {number}");
    }
    assert_eq!(written.lines().count(), golden.lines().count(), "the number of lines");
}

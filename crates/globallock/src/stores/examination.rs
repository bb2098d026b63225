//! What the examinations of several stores have in common: round trips, clocks, and connections without TLS.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::backend::Finding;
use crate::duration::Shown;
use crate::sync::{Instant, now};

/// How many round trips are measured at most, and for how long.
const ROUND_TRIPS: (usize, Duration) = (100, Duration::from_millis(500));
/// From how long a round trip takes on, the store counts as far away.
const FAR: Duration = Duration::from_millis(50);
/// How much clocks may differ before it is worth a note: what people notice when they compare times.
const CLOCKS: Duration = Duration::from_secs(1);

/// The moment by this host's clock, since 1970.
pub(super) fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Measures round trips, one after the other, and says how long they take. `of` is what is asked for. A
/// single request that fails among others is worth a note, because a lock asks again too.
///
/// # Errors
/// As the second request that fails.
pub(super) async fn round_trips<E, F>(of: &str, mut ask: impl FnMut() -> F) -> Result<Finding, E>
where
    F: Future<Output = Result<(), E>>,
{
    let begun = now();
    let mut took = Vec::with_capacity(ROUND_TRIPS.0);
    let mut has_failed = false;
    while took.len() < ROUND_TRIPS.0 && (took.len() < 3 || begun.elapsed() < ROUND_TRIPS.1) {
        let sent = now();
        match ask().await {
            Ok(()) => took.push(sent.elapsed()),
            Err(_) if !has_failed => has_failed = true,
            Err(error) => return Err(error),
        }
    }
    Ok(said_of(of, took, has_failed))
}

fn said_of(of: &str, mut took: Vec<Duration>, has_failed: bool) -> Finding {
    took.sort_unstable();
    let at = |hundredth: usize| took[(took.len() * hundredth).div_ceil(100).clamp(1, took.len()) - 1];
    let (median, p99, count) = (at(50), at(99), took.len());
    let mut text = format!("{} in the median and {} at p99, of {count} {of}", shown(median), shown(p99));
    let far = "each lock takes one round trip and each release another: use a store that is nearer, or hold \
               locks for longer work";
    match (median < FAR, has_failed) {
        (true, false) => Finding::good("round trip", text),
        (false, false) => Finding::note("round trip", text).remedy(far),
        (_, true) => {
            text.push_str("; one more failed, or was not answered in time");
            Finding::note("round trip", text)
                .remedy("look at the servers' logs and load: a lock asks again, and takes that much longer")
        }
    }
}

/// A duration as people read it, to three digits.
pub(super) fn shown(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1e3;
    match millis {
        ..0.9995 => format!("{:.0} µs", millis * 1e3),
        ..9.995 => format!("{millis:.2} ms"),
        ..99.95 => format!("{millis:.1} ms"),
        ..999.5 => format!("{millis:.0} ms"),
        _ => Shown(Duration::from_millis(duration.as_millis().try_into().unwrap_or(u64::MAX))).to_string(),
    }
}

/// A reading of the store's clock, which it has made between two moments of this host's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// Since 1970.
    pub(super) theirs: Duration,
    /// How fine it is: a clock that shows seconds is up to one later than it says.
    pub(super) fine: Duration,
    pub(super) sent: Duration,
    pub(super) took: Duration,
}

impl Reading {
    /// Reads this host's clock on both sides of a request.
    pub(super) async fn of<T>(
        fine: Duration,
        ask: impl Future<Output = T>,
    ) -> (T, impl FnOnce(Duration) -> Self) {
        let (sent, begun) = (wall_clock(), Instant::now());
        let answer = ask.await;
        let took = begun.elapsed();
        (answer, move |theirs| Reading { theirs, fine, sent, took })
    }

    /// By how much the two clocks surely differ, and whether the store's is ahead.
    fn difference(self) -> (Duration, bool) {
        let (earliest, latest) = (self.theirs, self.theirs + self.fine);
        let behind = self.sent.saturating_sub(latest);
        let ahead = earliest.saturating_sub(self.sent + self.took);
        if ahead > behind { (ahead, true) } else { (behind, false) }
    }

    /// What is said of the store's clock. `matters` is what a difference means for this store.
    pub(super) fn finding(self, matters: &str) -> Finding {
        let (difference, is_ahead) = self.difference();
        if difference < CLOCKS {
            let text = format!("the store's clock and this host's differ by less than {}", Shown(CLOCKS));
            return Finding::good("clock", text);
        }
        let side = if is_ahead { "ahead of" } else { "behind" };
        let text = format!("the store's clock is {} {side} this host's: {matters}", shown(difference));
        Finding::note("clock", text).remedy("let NTP set both clocks")
    }
}

/// What is said of connections to these hosts. `scheme` is what an address with TLS begins with.
pub(super) fn encryption<'a>(
    has_tls: bool,
    hosts: impl IntoIterator<Item = &'a str>,
    scheme: &str,
) -> Finding {
    if has_tls {
        return Finding::good(
            "encryption",
            "connections are encrypted (TLS), and the certificate is checked",
        );
    }
    match hosts.into_iter().find(|host| !is_here(host)) {
        None => Finding::good("encryption", "none (TLS), and none is needed on one host"),
        Some(host) => Finding::note(
            "encryption",
            format!("connections to {host} are not encrypted: who can read them reads passwords and locks"),
        )
        .remedy(format!("use {scheme}:// unless the network between is trusted")),
    }
}

fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Verdict;

    #[test]
    fn the_median_and_the_slowest_are_told() {
        let took = (1..=100).rev().map(|number| Duration::from_micros(10 * number)).collect();
        let found = said_of("pings", took, false);
        assert_eq!(
            found,
            Finding::good("round trip", "500 µs in the median and 990 µs at p99, of 100 pings")
        );
        let far = said_of("pings", vec![Duration::from_millis(80); 3], false);
        assert_eq!(far.verdict, Verdict::Note);
        assert_eq!(far.text, "80.0 ms in the median and 80.0 ms at p99, of 3 pings");
    }

    #[tokio::test(start_paused = true)]
    async fn round_trips_are_measured_for_a_bounded_time() {
        let mut asked = 0;
        let found = round_trips("pings", || {
            asked += 1;
            async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok::<(), ()>(())
            }
        });
        assert!(found.await.unwrap().text.ends_with("of 3 pings"));
        assert_eq!(asked, 3);
    }

    #[tokio::test]
    async fn one_request_that_fails_is_told_beside_the_others_and_a_second_one_ends_it() {
        let failing_at = |failing: &'static [u32]| {
            let mut asked = 0;
            round_trips("pings", move || {
                asked += 1;
                std::future::ready(if failing.contains(&asked) { Err(asked) } else { Ok(()) })
            })
        };
        let found = failing_at(&[2]).await.unwrap();
        assert_eq!(found.verdict, Verdict::Note);
        assert!(
            found.text.ends_with("of 100 pings; one more failed, or was not answered in time"),
            "{found}"
        );
        assert_eq!(failing_at(&[1, 7]).await, Err(7));
        assert_eq!(failing_at(&[]).await.unwrap().verdict, Verdict::Good);
    }

    #[test]
    fn durations_have_three_digits() {
        let micros = |micros| shown(Duration::from_micros(micros));
        assert_eq!([micros(7), micros(999), micros(1_000)], ["7 µs", "999 µs", "1.00 ms"]);
        assert_eq!([micros(12_340), micros(456_700)], ["12.3 ms", "457 ms"]);
        assert_eq!(micros(90_000_000), Shown(Duration::from_secs(90)).to_string());
    }

    #[test]
    fn clocks_differ_if_no_moment_of_the_request_explains_it() {
        let seconds = Duration::from_secs;
        let found =
            |theirs, fine| Reading { theirs, fine, sent: seconds(100), took: seconds(2) }.finding("so what");
        for theirs in [99, 100, 101, 102] {
            assert_eq!(found(seconds(theirs), seconds(1)).verdict, Verdict::Good, "{theirs}");
        }
        let ahead = found(seconds(192), Duration::ZERO);
        assert_eq!(ahead.verdict, Verdict::Note);
        assert!(ahead.text.contains("min 30 s ahead of this host's: so what"), "{ahead}");
        let behind = found(seconds(10), seconds(1));
        assert!(behind.text.contains(" behind this host's"), "{behind}");
    }

    #[test]
    fn plain_connections_to_other_hosts_are_worth_a_note() {
        let verdict = |tls, hosts: &[&str]| encryption(tls, hosts.iter().copied(), "rediss").verdict;
        assert_eq!(verdict(true, &["h1"]), Verdict::Good);
        assert_eq!(verdict(false, &["localhost", "::1", "127.0.0.9"]), Verdict::Good);
        assert_eq!(verdict(false, &["localhost", "10.0.0.1"]), Verdict::Note);
        assert_eq!(verdict(false, &["redis"]), Verdict::Note);
    }
}

//! The clock of a member. etcd's interface has none that can be asked, but what serves it also speaks HTTP,
//! whose answers are dated.

use std::future::poll_fn;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::{Service, http};

use crate::backend::Finding;
use crate::stores::etcd::connection::Connection;
use crate::stores::examination::Reading;

/// What a difference between the clocks means here.
const MATTERS: &str = "locks do not depend on that, but the age of a claim is told by its owner's clock";
/// The longest head of an answer that is read.
const LONGEST: u64 = 4096;
/// How fine the date of an answer is.
const FINE: Duration = Duration::from_secs(1);

/// What is said of the clock of the member that answered last.
pub(super) async fn finding(connection: &Connection) -> Finding {
    let member = connection.member.load(std::sync::atomic::Ordering::Relaxed);
    let asked = async {
        match connection.server(member).transport().has_tls() {
            true => dated_by_tls(connection, member).await,
            false => dated(connection, member).await,
        }
    };
    let (date, reading) = Reading::of(FINE, timeout(connection.per_member(), asked)).await;
    match date.ok().flatten().and_then(|date| parse(&date)) {
        Some(theirs) => reading(theirs).finding(MATTERS),
        None => Finding::unknown("clock", "the members do not tell the time"),
    }
}

/// The date of an answer to HTTP/1.1, which members accept beside their own protocol.
async fn dated(connection: &Connection, member: usize) -> Option<String> {
    let server = connection.server(member);
    let (host, port) = server.host();
    let mut stream = server.transport().connect(host, *port).await.ok()?;
    let request = format!("GET /version HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    stream.flush().await.ok()?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8_lossy(&answer);
    let mut lines = answer.lines().take_while(|line| !line.is_empty());
    let date =
        lines.find_map(|line| line.split_once(':').filter(|(field, _)| field.eq_ignore_ascii_case("date")));
    date.map(|(_, date)| date.trim().to_owned())
}

/// The date of an answer over TLS, where what serves the requests of locks also serves others, on the same
/// connection.
async fn dated_by_tls(connection: &Connection, member: usize) -> Option<String> {
    let mut channel = connection.server(member).channel.clone();
    poll_fn(|context| channel.poll_ready(context)).await.ok()?;
    let answer = channel.call(http::Request::get("/version").body(Body::empty()).ok()?).await.ok()?;
    Some(answer.headers().get("date")?.to_str().ok()?.to_owned())
}

/// Reads a date such as `Fri, 27 Nov 2026 18:29:28 GMT`, as the time since 1970.
fn parse(date: &str) -> Option<Duration> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = date.split_once(", ")?.1.strip_suffix(" GMT")?.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = 1 + u64::try_from(MONTHS.iter().position(|name| *name == month)?).ok()?;
    let year: u64 = words.next()?.parse().ok().filter(|year| (1970..10_000).contains(year))?;
    let clock: Vec<u64> = words.next()?.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hours, minutes, seconds] = clock[..] else { return None };
    // The year begins with March, so that the day of a leap year comes last.
    let year = if month < 3 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + day_of_year;
    let since_1970 = days.checked_sub(719_468)?;
    Some(Duration::from_secs(since_1970 * 86_400 + hours * 3_600 + minutes * 60 + seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_as_seconds_since_1970() {
        for (date, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Thu, 29 Feb 2024 23:59:59 GMT", Some(1_709_251_199)),
            ("Fri, 01 Mar 2024 00:00:00 GMT", Some(1_709_251_200)),
            ("Fri, 27 Nov 2026 18:29:28 GMT", Some(1_795_804_168)),
            ("Fri, 27 Nov 2026 18:29 GMT", None),
            ("Fri, 00 Nov 2026 18:29:28 GMT", None),
            ("Fri, 27 Nox 2026 18:29:28 GMT", None),
            ("Fri, 27 Nov 0026 18:29:28 GMT", None),
            ("27 Nov 2026", None),
            ("", None),
        ] {
            assert_eq!(parse(date), seconds.map(Duration::from_secs), "{date}");
        }
    }
}

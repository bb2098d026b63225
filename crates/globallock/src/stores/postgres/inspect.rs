//! What onlookers see: the queue of a name, and the summaries of many.

use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, ToSql, Type};

use super::answers::whole;
use super::failure::{Failure, Kind};
use super::{Postgres, not_ours};
use crate::backend::{ClaimId, Entry, EntryKey, Release, Summary};
use crate::error::Result;
use crate::name::Name;
use crate::owner::Owner;
use crate::queue::Permits;
use crate::sync::{now, sleep_until};

/// How many names come with one answer.
const PAGE: i64 = 2000;
/// The pause between two looks whether a backend has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// As many as the longest name has bytes: no text that begins with a prefix sorts behind it with these.
const LAST: usize = crate::name::MAX_NAME_BYTES;

/// Which user's own transaction it is.
struct Transaction<'a> {
    /// The process of its session; `None` if it is prepared, and waits for another session to end it.
    backend: Option<i32>,
    /// The name that the server gives it, as no other one of that backend.
    name: &'a str,
}

impl<'a> Transaction<'a> {
    /// Reads the key of an entry.
    fn parse(key: &'a str) -> Option<Self> {
        let (backend, name) = key.strip_prefix("pg:")?.split_once(':')?;
        let backend = if backend.is_empty() { None } else { Some(backend.parse().ok()?) };
        Some(Transaction { backend, name })
    }
}

/// Reads a queue; `None` if the rows are not as they should be.
pub(super) fn entries(rows: &[Row]) -> Option<Vec<Entry>> {
    rows.iter()
        .map(|row| {
            let mut entry = entry(row, (0, 2, 3, 4, 5), get(row, 1)?)?;
            entry.age = span(row, 6)?;
            entry.expires_in = span(row, 7)?;
            Some(entry)
        })
        .collect()
}

/// A claim, or a user's own transaction, whose id, count, capacity, number and owner are in these columns.
fn entry(row: &Row, columns: (usize, usize, usize, usize, usize), held: bool) -> Option<Entry> {
    let id: &str = get(row, columns.0)?;
    let key = match Transaction::parse(id) {
        Some(_) => EntryKey::new(id),
        None => ClaimId::parse(&id.replace('-', ""))?.into(),
    };
    let permits = permits(row, columns.1, columns.2)?;
    let mut entry = Entry::new(key, held, permits, Owner::from_text(get(row, columns.4)?));
    entry.fencing_token = whole(get(row, columns.3)?);
    Some(entry)
}

fn permits(row: &Row, count: usize, capacity: usize) -> Option<Permits> {
    let number = |column| u32::try_from(get::<i32>(row, column)?).ok();
    Some(Permits::new(number(count)?, number(capacity)?))
}

fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Option<T> {
    row.try_get(column).ok()
}

/// A time that may be missing. The clock may have been set back since it began.
#[expect(clippy::option_option, reason = "it is there or not, and the row is readable or not")]
fn span(row: &Row, column: usize) -> Option<Option<Duration>> {
    let span: Option<i64> = get(row, column)?;
    Some(span.map(|milliseconds| Duration::from_millis(whole(milliseconds))))
}

fn count(row: &Row, column: usize) -> Option<usize> {
    usize::try_from(get::<i64>(row, column)?).ok()
}

impl Postgres {
    /// Ends the session of a user's own transaction that has the lock or asks for it, and waits until it has
    /// ended.
    ///
    /// # Cancel safety
    /// It is ended or not.
    pub(super) async fn terminate(&self, name: &Name, entry: &EntryKey) -> Result<Release> {
        let Some(Transaction { backend, name: transaction }) = Transaction::parse(entry.as_str()) else {
            return Ok(Release::NotHeld);
        };
        let Some(backend) = backend else {
            let reason = "a prepared transaction has no session that could be ended: COMMIT PREPARED or \
                          ROLLBACK PREPARED ends it";
            return Err(self.error(Failure::new(Kind::FailedPrecondition, reason)));
        };
        let key = self.key(name);
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(&key, Type::TEXT), (&backend, Type::INT4), (&transaction, Type::TEXT)];
        let (mut ended, until) = (Release::NotHeld, now() + self.config().timeout);
        // It lives until it has heard the signal.
        while !self.query(&self.calls.terminate, &parameters).await?.is_empty() {
            ended = Release::Released;
            if now() >= until {
                let reason = "the backend was told to end, and has not ended yet";
                return Err(self.error(Failure::new(Kind::NotNow, reason)));
            }
            sleep_until(now() + LOOK_AGAIN).await;
        }
        Ok(ended)
    }

    /// The names that begin with `prefix` and have a claim, a page a request.
    pub(super) fn summaries<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        let first = format!("{}{prefix}", self.config().prefix);
        let last = format!("{first}{}", "\u{10ffff}".repeat(LAST));
        let pages = stream::try_unfold(Some(String::new()), move |after| {
            let (first, last) = (first.clone(), last.clone());
            async move {
                let Some(after) = after else { return Ok(None) };
                self.are_ours().await?;
                let parameters: [(&(dyn ToSql + Sync), Type); 4] =
                    [(&after, Type::TEXT), (&first, Type::TEXT), (&last, Type::TEXT), (&PAGE, Type::INT8)];
                let rows = self.query(&self.calls.list, &parameters).await?;
                let is_full = i64::try_from(rows.len()).is_ok_and(|rows| rows >= PAGE);
                let next = rows.last().filter(|_| is_full).and_then(|row| get(row, 0));
                let summaries: Option<Vec<Option<Summary>>> =
                    rows.iter().map(|row| self.summary(row)).collect();
                let summaries = summaries.ok_or_else(|| self.error(not_ours()))?;
                Ok(Some((stream::iter(summaries.into_iter().flatten().map(Ok)), next)))
            }
        });
        pages.try_flatten().boxed()
    }

    /// Reads a summary. A key that is none of a name has none.
    #[expect(clippy::option_option, reason = "it is one of a name or not, and readable or not")]
    fn summary(&self, row: &Row) -> Option<Option<Summary>> {
        let key: &str = get(row, 0)?;
        let Some(name) = key.strip_prefix(&self.config().prefix).and_then(|name| Name::new(name).ok()) else {
            return Some(None);
        };
        let kind = Summary::kind_of(permits(row, 1, 2)?, whole(get(row, 5)?));
        let holder = match get::<Option<&str>>(row, 9)? {
            None => None,
            Some(_) => {
                let mut holder = entry(row, (9, 10, 11, 12, 13), true)?;
                holder.age = span(row, 14)?;
                holder.expires_in = span(row, 15)?;
                Some(holder)
            }
        };
        Some(Some(Summary {
            name,
            kind,
            holders: count(row, 3)?,
            waiters: count(row, 4)?,
            fencing_token: whole(get(row, 6)?),
            oldest: span(row, 7)?,
            oldest_wait: span(row, 8)?,
            holder,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_transaction_is_read_and_nothing_else() {
        for (text, expected) in [("pg:4711:3/12", (Some(4711), "3/12")), ("pg::-1/7", (None, "-1/7"))] {
            let Transaction { backend, name } = Transaction::parse(text).unwrap();
            assert_eq!((backend, name), expected, "{text}");
        }
        for text in ["", "pg:", "pg:4711", "pg:x:3/12", "foreign:?", "0123456789abcdef0123456789abcdef"] {
            assert!(Transaction::parse(text).is_none(), "{text}");
        }
    }
}

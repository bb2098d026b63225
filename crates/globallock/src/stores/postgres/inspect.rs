//! What onlookers see: the queue of a name, and the summaries of many.

use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use super::answers::whole;
use super::{Postgres, not_ours};
use crate::backend::{ClaimId, Entry, Summary};
use crate::error::Result;
use crate::name::Name;
use crate::owner::Owner;
use crate::queue::Permits;

/// How many names come with one answer.
const PAGE: i64 = 2000;
/// As many as the longest name has bytes: no text that begins with a prefix sorts behind it with these.
const LAST: usize = crate::name::MAX_NAME_BYTES;

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

/// A claim whose id, count, capacity, number and owner are in these columns.
fn entry(row: &Row, columns: (usize, usize, usize, usize, usize), held: bool) -> Option<Entry> {
    let id = ClaimId::parse(&get::<String>(row, columns.0)?.replace('-', ""))?;
    let permits = permits(row, columns.1, columns.2)?;
    let mut entry = Entry::new(id.into(), held, permits, Owner::from_text(get(row, columns.4)?));
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
    /// The names that begin with `prefix` and have a claim, a page a request.
    pub(super) fn summaries<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        let first = format!("{}{prefix}", self.config().prefix);
        let last = format!("{first}{}", "\u{10ffff}".repeat(LAST));
        let pages = stream::try_unfold(Some(String::new()), move |after| {
            let (first, last) = (first.clone(), last.clone());
            async move {
                let Some(after) = after else { return Ok(None) };
                self.are_ours().await?;
                let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 4] =
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

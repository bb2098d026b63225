//! Locks as lines of text.

use crate::onlook::rows::LockRow;
use crate::onlook::table::{Cell, Ink, Sheet, Table};
use crate::onlook::text::{brief_seconds, json_line, shown};

use super::Output;

/// These locks, in this order.
pub(super) fn of(rows: &[LockRow], output: Output, sheet: Sheet) -> String {
    match output {
        Output::Json => rows.iter().map(json_line).collect(),
        Output::Name => rows.iter().map(|row| shown(&row.name) + "\n").collect(),
        Output::Table | Output::Wide if rows.is_empty() => String::new(),
        Output::Table => table(rows, &[]).drawn(sheet),
        Output::Wide => table(rows, &["TOKEN", "LABEL", "PID", "CLAIM"]).drawn(sheet),
    }
}

fn table(rows: &[LockRow], more: &[&'static str]) -> Table {
    let columns = ["NAME", "MODE", "HOLDER", "HELD-FOR", "LEASE-LEFT", "WAITING"];
    let mut table = Table::new(&[&columns, more].concat(), &["NAME", "HOLDER", "LABEL"]);
    for row in rows {
        let holder = row.holder.as_ref();
        let is_stale = row.stale == Some(true);
        let lease_left = Cell::safe(brief_seconds(holder.and_then(|holder| holder.lease_left_seconds)));
        let waiting = Cell::safe(waiting(row));
        let mut cells = vec![
            Cell::of(&row.name),
            Cell::safe(row.mode.to_string()),
            Cell::safe(holders(row)),
            Cell::safe(brief_seconds(holder.and_then(|holder| holder.age_seconds))),
            lease_left.ink(if is_stale { Ink::Red } else { Ink::Plain }),
            waiting.ink(if row.waiters > 0 { Ink::Yellow } else { Ink::Plain }),
        ];
        if !more.is_empty() {
            let number = |number: Option<String>| Cell::safe(number.unwrap_or_else(|| "-".to_owned()));
            let text = |text: Option<&str>| Cell::of(text.unwrap_or("-"));
            cells.extend([
                number(holder.and_then(|holder| holder.fencing_token).map(|token| token.to_string())),
                text(holder.and_then(|holder| holder.label.as_deref())),
                number(holder.and_then(|holder| holder.pid).map(|pid| pid.to_string())),
                text(holder.map(|holder| &*holder.claim)),
            ]);
        }
        table.push(cells);
    }
    table
}

/// Who holds a lock, in one place: the holder of the longest standing, and how many more there are.
pub(super) fn holders(row: &LockRow) -> String {
    let Some(holder) = &row.holder else { return "-".to_owned() };
    let more = match row.holders.saturating_sub(1) {
        0 => String::new(),
        more => format!(" +{more}"),
    };
    holder.who() + &more
}

/// How many wait, and the longest wait.
fn waiting(row: &LockRow) -> String {
    match (row.waiters, row.oldest_wait_seconds) {
        (0, _) => "-".to_owned(),
        (waiters, None) => waiters.to_string(),
        (waiters, oldest) => format!("{waiters} ({})", brief_seconds(oldest)),
    }
}

#[cfg(test)]
mod tests {
    use globallock::LockKind;
    use serde_json::Value;

    use super::*;
    use crate::onlook::rows::{ClaimRow, Mode};

    fn rows() -> Vec<LockRow> {
        let mode = Mode::of(LockKind::Permits { count: 2, capacity: 5 });
        let holder = ClaimRow {
            claim: "00c1".into(),
            held: true,
            place: None,
            mode,
            fencing_token: Some(42),
            host: Some("db1".into()),
            pid: Some(312),
            label: Some("report\u{1b}[2J".into()),
            foreign: false,
            age_seconds: Some(7800.5),
            lease_left_seconds: Some(9.2),
        };
        let held = LockRow {
            name: "nightly\u{202e}".into(),
            mode,
            holders: 2,
            waiters: 3,
            holder: Some(holder.clone()),
            oldest_wait_seconds: Some(252.0),
            stale: Some(true),
        };
        let unknown = ClaimRow {
            foreign: true,
            fencing_token: None,
            host: None,
            pid: None,
            label: None,
            age_seconds: None,
            lease_left_seconds: None,
            ..holder
        };
        let foreign = LockRow {
            name: "名前".into(),
            mode: Mode::of(LockKind::Mutex),
            holders: 1,
            waiters: 0,
            holder: Some(unknown),
            oldest_wait_seconds: None,
            stale: None,
        };
        let free = LockRow { name: "w".into(), holders: 0, holder: None, waiters: 1, ..foreign.clone() };
        vec![held, foreign, free]
    }

    const PIPE: Sheet = Sheet { width: None, coloured: false };

    #[test]
    fn locks_stand_in_columns() {
        assert_eq!(
            of(&rows(), Output::Table, PIPE),
            "NAME             MODE   HOLDER                               HELD-FOR  LEASE-LEFT  WAITING\n\
             nightly\\u{202e}  2/5    report\\u{1b}[2J (pid 312 on db1) +1  2h10m     9s          3 (4m12s)\n\
             名前             mutex  (foreign)                            -         -           -\n\
             w                mutex  -                                    -         -           1\n"
        );
        let wide = of(&rows(), Output::Wide, PIPE);
        let lines: Vec<Vec<&str>> = wide.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0][6..], ["TOKEN", "LABEL", "PID", "CLAIM"]);
        assert!(lines[1].ends_with(&["42", "report\\u{1b}[2J", "312", "00c1"]), "{wide}");
        assert!(lines[3].ends_with(&["1", "-", "-", "-", "-"]), "{wide}");
        assert_eq!(of(&[], Output::Table, PIPE), "");
    }

    #[test]
    fn names_are_lines_that_no_name_can_break() {
        assert_eq!(of(&rows(), Output::Name, PIPE), "nightly\\u{202e}\n名前\nw\n");
        let two = LockRow { name: "a\nb".into(), ..rows().swap_remove(2) };
        assert_eq!(of(&[two], Output::Name, PIPE), "a\\nb\n");
    }

    #[test]
    fn json_has_an_object_a_line() {
        let text = of(&rows(), Output::Json, PIPE);
        assert!(!text.contains('\u{202e}'));
        let read: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(read, rows().iter().map(|row| serde_json::to_value(row).unwrap()).collect::<Vec<_>>());
    }
}

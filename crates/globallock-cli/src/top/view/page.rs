//! The page of one lock.

use globallock::backend::Instant;
use ratatui::buffer::Buffer;
use ratatui::style::Style;

use super::{Parts, Theme, grown, paint, put, put_right, run_out, shown};
use crate::onlook::rows::{ClaimRow, Mode, WaitRow};
use crate::top::app::App;
use crate::top::app::page::{Deadlocks, Page, Queue};
use crate::top::text::{clean, count, time, wrap};

/// The columns of the queue, but for the owner, which has the rest.
const PLACE: u16 = 5;
const MODE: u16 = 7;
const AGE: u16 = 6;
const LEASE: u16 = 6;
const TOKEN: u16 = 16;
/// With fewer lines for it, only the queue is shown.
const LOW: u16 = 6;
/// What is in front of each wait of a deadlock.
const SIGN: &str = "*";
/// Of how many claims it is told that one waits for them.
const BLOCKERS: usize = 3;

/// How many claims there is room for, and how many lines below them.
pub(super) fn rows(app: &App, parts: Parts) -> (u16, u16) {
    // The name, what it is, and the headings.
    let free = parts.height().saturating_sub(3);
    let Some((page, queue)) = app.page.as_ref().and_then(|page| Some((page, page.queue.as_ref()?))) else {
        return (free, 0);
    };
    if free < LOW {
        return (free, 0);
    }
    let lines =
        details(app, (page, queue), parts.columns.saturating_sub(2), Theme::new(false), queue.at).len() + 1;
    let small = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    // What the queue does not need, and half of the room if more is needed than that.
    let rest = free - small(queue.claims.len()).min(free);
    let below = rest.max(small(lines).min(free / 2 + 1));
    (free - below, below)
}

pub(super) fn draw(buffer: &mut Buffer, app: &App, page: &Page, parts: Parts, theme: Theme, now: Instant) {
    let y = parts.begin;
    let wide = parts.columns - 2;
    put(buffer, (1, y), wide, &clean(&page.name), theme.strong());
    let (says, style) = summary(page, theme, now);
    put(buffer, (1, y + 1), wide, &says, style);
    let has_deadlock = matches!(&page.deadlocks, Deadlocks::Known(cycles, _) if !cycles.is_empty());
    if has_deadlock {
        put_right(buffer, (1, y + 1), wide, " DEADLOCK ", theme.danger());
    }
    let has_token = parts.columns >= 100;
    let fixed = PLACE + MODE + AGE + LEASE + 4 + if has_token { TOKEN + 1 } else { 0 };
    let owners = wide.saturating_sub(fixed);
    let head = theme.heading(false);
    let line = |buffer: &mut Buffer, y: u16, texts: [&str; 6], style: Style| {
        let [place, mode, owner, age, lease, token] = texts;
        let mut x = 1;
        put(buffer, (x, y), PLACE, place, style);
        x += PLACE + 1;
        put(buffer, (x, y), MODE, mode, style);
        x += MODE + 1;
        put(buffer, (x, y), owners, owner, style);
        x += owners + 1;
        put_right(buffer, (x, y), AGE, age, style);
        x += AGE + 1;
        put_right(buffer, (x, y), LEASE, lease, style);
        if has_token {
            put_right(buffer, (x + LEASE + 1, y), TOKEN, token, style);
        }
    };
    line(buffer, y + 2, ["PLACE", "MODE", "OWNER", "FOR", "LEASE", "TOKEN"], head);
    let Some(queue) = &page.queue else { return };
    let (claims, below) = rows(app, parts);
    for (row, (index, claim)) in (0..claims).zip(queue.claims.iter().enumerate().skip(page.top)) {
        let style = if claim.held { theme.plain() } else { theme.waited() };
        let texts = [
            claim.place.map_or_else(|| "holds".to_owned(), |place| place.to_string()),
            claim.mode.to_string(),
            claim.who(),
            shown(grown(claim.age_seconds, queue.at, now)),
            shown(run_out(claim.lease_left_seconds, queue.at, now)),
            claim.fencing_token.map_or_else(|| "-".to_owned(), |token| token.to_string()),
        ];
        line(buffer, y + 3 + row, texts.each_ref().map(|text| &**text), style);
        if index == page.cursor() {
            paint(buffer, y + 3 + row, parts, theme.chosen());
        }
    }
    let lines = details(app, (page, queue), wide, theme, now);
    let first = y + 3 + claims + 1;
    let room = usize::from(below.saturating_sub(1));
    let more = lines.len().saturating_sub(room);
    for (index, (text, style)) in lines.into_iter().take(room).enumerate() {
        let text = match more {
            1.. if index + 1 == room => format!("… and {} more lines", more + 1),
            _ => text,
        };
        put(buffer, (1, first + u16::try_from(index).unwrap_or(u16::MAX)), wide, &text, style);
    }
}

/// What the lock is, and how many have it.
fn summary(page: &Page, theme: Theme, now: Instant) -> (String, Style) {
    let Some(queue) = &page.queue else {
        return match &page.failure {
            Some(failure) => (format!("Its queue cannot be read: {failure}"), theme.danger()),
            None => ("Reading its queue …".to_owned(), theme.plain()),
        };
    };
    let age = time(now.saturating_duration_since(queue.at));
    if let Some(failure) = &page.failure {
        return (format!("As it was {age} ago: {failure}"), theme.danger());
    }
    let holders = queue.claims.iter().filter(|claim| claim.held).count();
    let waiters = queue.claims.len() - holders;
    let says = match queue.claims.first() {
        None => "Free: nobody holds it, and nobody waits for it.".to_owned(),
        Some(first) => {
            let kind = match first.mode {
                Mode { capacity: Some(capacity), .. } => {
                    format!("semaphore of {}", count(capacity as usize, "permit", "permits"))
                }
                Mode { mode: "read" | "write", .. } => "read-write lock".to_owned(),
                Mode { mode, .. } => mode.to_owned(),
            };
            format!(
                "{kind}: {}, {}",
                count(holders, "holder", "holders"),
                count(waiters, "waiter", "waiters")
            )
        }
    };
    (says, theme.plain())
}

/// What is to be said of the claim at the cursor, and of deadlocks.
fn details(
    app: &App,
    (page, queue): (&Page, &Queue),
    columns: u16,
    theme: Theme,
    now: Instant,
) -> Vec<(String, Style)> {
    let mut lines = Vec::new();
    if let Some(claim) = page.claim() {
        of_claim(&mut lines, claim, queue, theme);
    }
    let mut say = |text: String, style: Style| lines.push((text, style));
    match &page.deadlocks {
        Deadlocks::Unasked => say("x looks for deadlocks".to_owned(), theme.dim()),
        Deadlocks::Asked => say("Looking for deadlocks …".to_owned(), theme.dim()),
        Deadlocks::TooMany(queues) => {
            let most = super::super::app::MOST_QUEUES.1;
            let how = match *queues <= most {
                true => "x does".to_owned(),
                false => format!("it is not done for more than {most}"),
            };
            say(format!("To find deadlocks, {queues} queues are to be read: {how}"), theme.dim());
        }
        Deadlocks::Failed(failure) => say(format!("No answer about deadlocks: {failure}"), theme.warning()),
        Deadlocks::Known(cycles, at) => {
            let ago = time(now.saturating_duration_since(*at));
            if cycles.is_empty() {
                let among = match app.prefix.as_str() {
                    "" => String::new(),
                    prefix => format!(" among the names {}*", clean(prefix)),
                };
                say(format!("No deadlock found{among} {ago} ago"), theme.dim());
            }
            for cycle in cycles {
                say(
                    format!("Deadlock, seen {ago} ago: each waits for the next, the last for the first"),
                    theme.stale(),
                );
                for line in
                    cycle.iter().flat_map(|wait| wrap(&of_wait(wait), columns.saturating_sub(4).into()))
                {
                    let indent = if line.starts_with(SIGN) { "" } else { "  " };
                    say(format!("{indent}{line}"), theme.plain());
                }
            }
        }
    }
    lines
}

fn of_claim(lines: &mut Vec<(String, Style)>, claim: &ClaimRow, queue: &Queue, theme: Theme) {
    let what = match (claim.foreign, claim.fencing_token) {
        (true, _) => ", of another program".to_owned(),
        (false, Some(token)) => format!(", fencing token {token}"),
        (false, None) => String::new(),
    };
    lines.push((format!("Claim {}{what}", clean(&claim.claim)), theme.strong()));
    lines.push((claim.who(), theme.plain()));
    let blockers: Vec<&WaitRow> = queue.blockers(&claim.claim).collect();
    for wait in blockers.iter().take(BLOCKERS) {
        let has = if wait.held { "which holds it" } else { "which is in front" };
        lines.push((format!("waits for {}, {has}", clean(&wait.blocker)), theme.waited()));
    }
    if blockers.len() > BLOCKERS {
        lines.push((format!("and for {} more", blockers.len() - BLOCKERS), theme.waited()));
    }
    lines.push((String::new(), theme.plain()));
}

fn of_wait(wait: &WaitRow) -> String {
    let has = if wait.held { "held by" } else { "behind" };
    format!("{SIGN} {} waits for {}, {has} {}", clean(&wait.waiter), clean(&wait.name), clean(&wait.blocker))
}

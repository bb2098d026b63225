//! What `top` shows, and what keys and looks make of it. Nothing here touches a terminal or a store.

pub(super) mod dialog;
pub(super) mod list;
pub(super) mod page;

use std::time::Duration;

use globallock::backend::Instant;

use super::keys::Key;
use super::text::{clean, count, cut};
use super::view;
use crate::break_claim::Outcome;
use crate::onlook::rows::{ClaimRow, LockRow, WaitRow};
use crate::onlook::select::{Filter, Sort};
use dialog::{Answer, Dialog};
use list::List;
use page::{Deadlocks, Page, Queue};

/// How many queues may be read to find the deadlocks of a lock: when its page is opened, and when that is
/// asked for by a key.
pub(super) const MOST_QUEUES: (usize, usize) = (32, 1000);
/// How long a look may take before that is told.
const LONG_LOOK: Duration = Duration::from_secs(3);
/// How often what tells times is drawn again.
const REDRAW: Duration = Duration::from_secs(1);

/// What is to be done outside.
#[derive(Debug, PartialEq)]
pub(super) enum Ask {
    /// List the locks.
    Look,
    /// Read the queue of this lock, and nothing of others that was asked for before.
    Inspect(String),
    /// Find out who waits for whom over all locks.
    Waits,
    /// Look at this claim, and break it if it is as it was seen.
    Break {
        name: String,
        claim: Box<ClaimRow>,
        reason: String,
    },
    /// Give the terminal back, and stop until this job is continued.
    Stop,
    /// Draw everything anew.
    Redraw,
    Quit,
}

/// What a look has found.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) rows: Vec<LockRow>,
    /// Why it told nothing, or not all.
    pub(super) failure: Option<String>,
    /// How long before that the store told all; none if it never has.
    pub(super) age: Option<Duration>,
}

/// Everything that is shown, and how the keys are taken.
#[derive(Debug)]
pub(super) struct App {
    pub(super) store: String,
    pub(super) prefix: String,
    pub(super) interval: Duration,
    pub(super) list: List,
    pub(super) page: Option<Page>,
    pub(super) dialog: Option<Dialog>,
    /// The text before the one that is being typed to find names by.
    pub(super) finding: Option<String>,
    pub(super) is_help: bool,
    pub(super) paused: Option<Instant>,
    pub(super) message: Option<String>,
    /// The question about the claim that is being broken.
    breaking: Option<Dialog>,
    failure: Option<String>,
    complete: Option<Instant>,
    look_begun: Option<Instant>,
    next_look: Instant,
    size: (u16, u16),
}

impl App {
    pub(super) fn new(
        store: &str,
        prefix: &str,
        interval: Duration,
        (filter, sort): (Filter, Sort),
        now: Instant,
    ) -> Self {
        App {
            store: clean(store),
            prefix: prefix.to_owned(),
            interval,
            list: List::new(filter, sort, now),
            page: None,
            dialog: None,
            finding: None,
            is_help: false,
            paused: None,
            message: None,
            breaking: None,
            failure: None,
            complete: None,
            look_begun: None,
            next_look: now,
            size: (80, 24),
        }
    }

    /// The moment that is shown: now, or when it was stopped.
    pub(super) fn clock(&self, now: Instant) -> Instant {
        self.paused.unwrap_or(now)
    }

    /// Takes note of the size of the screen.
    pub(super) fn resize(&mut self, columns: u16, rows: u16) {
        self.size = (columns, rows);
        self.fit();
    }

    fn fit(&mut self) {
        let (list, page) = view::rows(self, self.size);
        self.list.fit(list);
        if let Some(shown) = &mut self.page {
            shown.fit(page);
        }
    }

    /// What is to be asked of the store at this moment. It counts as asked.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Ask> {
        let mut due = Vec::new();
        if self.paused.is_none() && self.look_begun.is_none() && now >= self.next_look {
            self.look_begun = Some(now);
            due.push(Ask::Look);
        }
        let is_paused = self.paused.is_some();
        // What is opened during a pause is read once.
        let wants =
            |page: &&mut Page| !page.is_asked && now >= page.next && !(is_paused && page.queue.is_some());
        if let Some(page) = self.page.as_mut().filter(wants) {
            page.is_asked = true;
            due.push(Ask::Inspect(page.name.clone()));
        }
        due
    }

    /// When something is to be asked or drawn next, if no key is pressed and nothing comes.
    pub(super) fn wakes(&self, now: Instant) -> Option<Instant> {
        if self.paused.is_some() {
            return None;
        }
        let look = self.look_begun.is_none().then_some(self.next_look);
        let page = self.page.as_ref().filter(|page| !page.is_asked).map(|page| page.next);
        [look, page, now.checked_add(REDRAW)].into_iter().flatten().min()
    }

    /// Why what is shown is not what there is now.
    pub(super) fn trouble(&self, now: Instant) -> Option<String> {
        let now = self.clock(now);
        let age = |at: Instant| super::text::time(now.saturating_duration_since(at));
        let shown = match self.complete {
            Some(at) => format!("What is shown is {} old", age(at)),
            None => "Nothing is known yet".to_owned(),
        };
        match (&self.failure, self.look_begun) {
            (Some(failure), _) => Some(format!("{shown}: {failure}")),
            (None, Some(begun)) if now.saturating_duration_since(begun) >= LONG_LOOK => {
                Some(format!("{shown}: the store has not answered for {}", age(begun)))
            }
            _ => None,
        }
    }

    /// Whether any look has told all.
    pub(super) fn knows(&self) -> bool {
        self.complete.is_some() || !self.list.all().is_empty()
    }

    /// Takes what a look has found.
    pub(super) fn looked(&mut self, look: Look, now: Instant) {
        self.look_begun = None;
        self.next_look = now.checked_add(self.interval).unwrap_or(now);
        self.failure = look.failure.map(|failure| clean(&failure));
        self.complete = look.age.and_then(|age| now.checked_sub(age)).or(self.complete);
        if self.paused.is_some() {
            // It was under way when it was stopped. What is shown stays as it is.
            return;
        }
        self.list.set(look.rows, now);
        if self.page.is_none()
            && let Some(dialog) = &mut self.dialog
        {
            let row = self.list.find(&dialog.name);
            let is_same = |claim: &&ClaimRow| claim.claim == dialog.claim.claim;
            let holder = row.and_then(|row| row.holder.as_ref());
            if let Some(row) = row {
                (dialog.waiters, dialog.oldest_wait_seconds) = (row.waiters, row.oldest_wait_seconds);
            }
            // Of several holders, the row shows one.
            if self.failure.is_none() && row.is_none_or(|row| row.holders <= 1) {
                dialog.see(holder.filter(is_same), now);
            }
        }
        self.fit();
    }

    /// Takes the queue of a lock.
    pub(super) fn inspected(&mut self, name: &str, queue: Result<Queue, String>, now: Instant) {
        let Some(page) = self.page.as_mut().filter(|page| page.name == name) else { return };
        page.is_asked = false;
        page.next = now.checked_add(self.interval).unwrap_or(now);
        page.failure = queue.as_ref().err().map(|failure| clean(failure));
        let is_stopped = self.paused.is_some() && page.queue.is_some();
        if let Ok(queue) = queue
            && !is_stopped
        {
            if let Some(dialog) = &mut self.dialog {
                let claim = queue.claims.iter().find(|claim| claim.claim == dialog.claim.claim);
                dialog.see(claim, now);
                (dialog.waiters, dialog.oldest_wait_seconds) = waits(&queue.claims);
            }
            page.set(queue);
        }
        self.fit();
    }

    /// Takes the deadlocks of a store, as circles of waits.
    pub(super) fn waits(&mut self, cycles: Result<Vec<Vec<WaitRow>>, String>, now: Instant) {
        let Some(page) = &mut self.page else { return };
        page.deadlocks = match cycles {
            Ok(mut cycles) => {
                cycles.retain(|cycle| cycle.iter().any(|wait| wait.name == page.name));
                Deadlocks::Known(cycles, now)
            }
            Err(failure) => Deadlocks::Failed(clean(&failure)),
        };
        self.fit();
    }

    /// Takes what has become of a claim that was to be broken, and why that could not be logged.
    pub(super) fn broken(&mut self, outcome: Outcome<ClaimRow>, unlogged: Option<&str>, now: Instant) {
        let Some(mut asked) = self.breaking.take() else { return };
        let name = brief(&asked.name);
        let mut message = match outcome {
            Outcome::Broken => format!("{name}: broken. {} is told", cut(&asked.claim.who(), 60)),
            Outcome::Gone => format!("{name}: that claim is not there any more, and no other was touched"),
            Outcome::Granted(claim) => {
                asked.ask_again(&claim, now);
                self.dialog = Some(asked);
                format!("{name}: not broken yet: it has been granted the lock")
            }
            Outcome::Failed(error) => format!("{name}: not broken: {}", clean(&error.to_string())),
            Outcome::Unknown(error) => {
                format!("{name}: it is not known whether it was broken: {}", clean(&error.to_string()))
            }
        };
        if let Some(unlogged) = unlogged {
            message += &format!("; the system log was not: {}", clean(unlogged));
        }
        self.message = Some(message);
        self.look_again(now);
    }

    fn look_again(&mut self, now: Instant) {
        (self.paused, self.next_look) = (None, now);
        if let Some(page) = &mut self.page {
            page.next = now;
        }
    }

    /// Does what a key asks for, and returns what is to be done outside.
    pub(super) fn key(&mut self, key: Key, now: Instant) -> Option<Ask> {
        match key {
            Key::Ctrl('c') => return Some(Ask::Quit),
            Key::Ctrl('z') => return Some(Ask::Stop),
            Key::Ctrl('l') => return Some(Ask::Redraw),
            _ => {}
        }
        let asked = if std::mem::take(&mut self.is_help) {
            (key == Key::Char('q')).then_some(Ask::Quit)
        } else if self.dialog.is_some() {
            self.dialog_key(key)
        } else if self.finding.is_some() {
            self.finding_key(key);
            None
        } else {
            self.message = None;
            self.common_key(&key, now).unwrap_or_else(|| match self.page {
                Some(_) => self.page_key(&key),
                None => self.list_key(&key, now),
            })
        };
        self.fit();
        asked
    }

    fn dialog_key(&mut self, key: Key) -> Option<Ask> {
        match self.dialog.as_mut()?.key(key) {
            Answer::Open => None,
            Answer::Left => {
                self.dialog = None;
                None
            }
            Answer::Break => {
                let asked = self.dialog.take()?;
                let (name, claim) = (asked.name.clone(), Box::new(asked.claim.clone()));
                let reason = asked.reason.trim().to_owned();
                self.message = Some(format!("{}: is being broken …", clean(&name)));
                self.breaking = Some(asked);
                Some(Ask::Break { name, claim, reason })
            }
        }
    }

    fn finding_key(&mut self, key: Key) {
        match key {
            Key::Enter => self.finding = None,
            Key::Escape => self.list.text = self.finding.take().unwrap_or_default(),
            key => dialog::write(&mut self.list.text, &key, list::LONGEST_TEXT),
        }
        self.list.arrange();
    }

    /// The keys that mean the same in the table and on a page.
    fn common_key(&mut self, key: &Key, now: Instant) -> Option<Option<Ask>> {
        let (list, page) = view::rows(self, self.size);
        let screen = isize::try_from(if self.page.is_some() { page } else { list }.max(2) - 1).unwrap_or(1);
        let by = match key {
            Key::Char('j') | Key::Down => 1,
            Key::Char('k') | Key::Up => -1,
            Key::PageDown | Key::Ctrl('f') => screen,
            Key::PageUp | Key::Ctrl('b') => -screen,
            Key::Char('G') | Key::End => isize::MAX,
            _ => 0,
        };
        match key {
            _ if by != 0 => match &mut self.page {
                Some(page) => page.walk(by),
                None => self.list.walk(by),
            },
            Key::Char('g') | Key::Home => match &mut self.page {
                Some(page) => page.home(),
                None => self.list.home(),
            },
            Key::Char('q') => return Some(Some(Ask::Quit)),
            Key::Char('?') => self.is_help = true,
            Key::Char(' ') if self.paused.is_some() => self.look_again(now),
            Key::Char(' ') => self.paused = Some(now),
            Key::Char('r') => self.look_again(now),
            Key::Char('u') => self.ask_to_break(now),
            _ => return None,
        }
        Some(None)
    }

    fn list_key(&mut self, key: &Key, now: Instant) -> Option<Ask> {
        let filter = &mut self.list.filter;
        match key {
            Key::Char('h') => filter.held ^= true,
            Key::Char('w') => filter.waiting ^= true,
            Key::Char('f') => filter.foreign ^= true,
            Key::Char('s') => filter.stale ^= true,
            Key::Char('c') => self.list.clear(),
            Key::Char('a') => self.list.sort_by(Sort::Age),
            Key::Char('t') => self.list.sort_by(Sort::Wait),
            Key::Char('n') => self.list.sort_by(Sort::Queue),
            Key::Char('l') => self.list.sort_by(Sort::Lease),
            Key::Char('o') => self.list.sort_by(Sort::Name),
            Key::Char('/') => self.finding = Some(self.list.text.clone()),
            Key::Char('d') | Key::Enter => return self.open(now),
            _ => return None,
        }
        self.list.arrange();
        None
    }

    fn page_key(&mut self, key: &Key) -> Option<Ask> {
        match key {
            Key::Escape | Key::Char('d') | Key::Enter | Key::Backspace => self.page = None,
            Key::Char('x') => return self.ask_for_deadlocks(MOST_QUEUES.1),
            _ => {}
        }
        None
    }

    /// Opens the page of the lock at the cursor.
    fn open(&mut self, now: Instant) -> Option<Ask> {
        let row = self.list.row()?;
        let waiters = row.waiters;
        self.list.walk(0);
        self.page = Some(Page::new(row_name(&self.list)?, now));
        // Nobody who waits, no deadlock.
        if waiters > 0 { self.ask_for_deadlocks(MOST_QUEUES.0) } else { None }
    }

    fn ask_for_deadlocks(&mut self, most: usize) -> Option<Ask> {
        let queues = self.list.all().iter().filter(|row| row.waiters > 0).count();
        let page = self.page.as_mut()?;
        if queues > most {
            page.deadlocks = Deadlocks::TooMany(queues);
            return None;
        }
        page.deadlocks = Deadlocks::Asked;
        Some(Ask::Waits)
    }

    /// Asks whether the claim at the cursor is to be broken.
    fn ask_to_break(&mut self, now: Instant) {
        if let Some(asked) = &self.breaking {
            self.message = Some(format!("{}: is still being broken", brief(&asked.name)));
            return;
        }
        if let Some(page) = &self.page {
            let at = page.queue.as_ref().map_or(now, |queue| queue.at);
            self.dialog = page.claim().map(|claim| Dialog::new(&page.name, claim, at, waits(page.claims())));
            return;
        }
        let Some(row) = self.list.row() else { return };
        match &row.holder {
            Some(claim) if row.holders == 1 => {
                let waits = (row.waiters, row.oldest_wait_seconds);
                self.dialog = Some(Dialog::new(&row.name, claim, self.list.at, waits));
                self.list.walk(0);
            }
            _ => {
                let holders = count(row.holders, "holder", "holders");
                self.message =
                    Some(format!("It has {holders}: choose the claim on the lock's page (Enter), then u"));
            }
        }
    }
}

/// A name with room for what is said of it.
fn brief(name: &str) -> String {
    cut(&clean(name), 40)
}

fn row_name(list: &List) -> Option<String> {
    list.row().map(|row| row.name.clone())
}

/// How many wait in a queue, and for how long the first of them has.
fn waits(claims: &[ClaimRow]) -> (usize, Option<f64>) {
    let waiters = || claims.iter().filter(|claim| !claim.held);
    let oldest = waiters().filter_map(|claim| claim.age_seconds).reduce(f64::max);
    (waiters().count(), oldest)
}

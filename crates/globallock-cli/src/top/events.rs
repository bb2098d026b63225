//! What happens: keys, signals, and answers of the store, one after the other.

use std::cell::RefCell;
use std::fmt::Display;
use std::future::ready;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Fuse, FusedFuture, FutureExt};
use globallock::backend::Instant;
use globallock::{EntryKey, LockManager, Name};
use nix::sys::signal::{SigSet, Signal};
use tokio::time::sleep;

use super::Top;
use super::app::page::Queue;
use super::app::{App, Ask, Look};
use super::keys::Key;
use super::terminal::{Event, Events, Screen};
use super::view::{self, Theme};
use crate::break_claim::{self, Outcome, answered};
use crate::exit::Failure;
use crate::log::{self, Line};
use crate::onlook::board::Board;
use crate::onlook::rows::{ClaimRow, LockRow, WaitRow};

/// What the store has said.
enum Answer {
    Looked(Board),
    Inspected(String, Result<Queue, String>),
    Waits(Result<Vec<Vec<WaitRow>>, String>),
    /// What became of it, and why the system's log was not told.
    Broken(Outcome<ClaimRow>, Option<String>),
}

type Work<'a> = Pin<Box<dyn Future<Output = Answer> + 'a>>;

/// What the store has been asked: one thing of each kind at a time.
struct Asked<'a> {
    manager: &'a LockManager,
    prefix: &'a str,
    /// Who asks.
    by: &'a str,
    syslog: &'a Path,
    /// What was broken, to be told when the screen has gone.
    deeds: Rc<RefCell<Vec<(Line, String)>>>,
    /// What is to be told if the answer to what the store was asked to break does not come.
    unanswered: Rc<RefCell<Option<String>>>,
    /// The board, while no look has it.
    board: Option<Board>,
    look: Fuse<Work<'a>>,
    inspect: Fuse<Work<'a>>,
    waits: Fuse<Work<'a>>,
    breaks: Fuse<Work<'a>>,
}

fn work<'a>(work: impl Future<Output = Answer> + 'a) -> Fuse<Work<'a>> {
    let work: Work<'a> = Box::pin(work);
    work.fuse()
}

impl<'a> Asked<'a> {
    fn new(manager: &'a LockManager, arguments: &'a Top, by: &'a str) -> Self {
        let [look, inspect, waits, breaks] = [(); 4].map(|()| Fuse::terminated());
        Asked {
            manager,
            prefix: &arguments.prefix,
            by,
            syslog: &arguments.syslog,
            deeds: Rc::default(),
            unanswered: Rc::default(),
            board: Some(Board::default()),
            look,
            inspect,
            waits,
            breaks,
        }
    }

    fn look(&mut self) {
        let (manager, prefix) = (self.manager, self.prefix);
        if let Some(mut board) = self.board.take() {
            self.look = work(async move {
                board.look(manager, prefix).await;
                Answer::Looked(board)
            });
        }
    }

    fn inspect(&mut self, name: String) {
        let manager = self.manager;
        self.inspect = work(async move {
            let queue = async { Ok((Name::new(&name)?, manager.inspect(&name).await?)) }.await;
            let queue = queue.map(|(name, entries)| Queue::new(&name, &entries, Instant::now()));
            let queue = queue.map_err(|error: globallock::Error| error.to_string());
            Answer::Inspected(name, queue)
        });
    }

    fn waits(&mut self) {
        let (manager, prefix) = (self.manager, self.prefix);
        self.waits = work(async move {
            let graph = manager.waits(prefix).await.map_err(|error| error.to_string());
            Answer::Waits(graph.map(|graph| WaitRow::deadlocks(&graph)))
        });
    }

    fn breaks(&mut self, name: String, claim: ClaimRow, reason: String) {
        let (manager, by, syslog) = (self.manager, self.by, self.syslog);
        let (deeds, unanswered) = (Rc::clone(&self.deeds), Rc::clone(&self.unanswered));
        self.breaks = work(async move {
            // The screen may be older than that: it may be paused.
            let queue = async { Ok((Name::new(&name)?, manager.inspect(&name).await?)) }.await;
            let (name, queue) = match queue {
                Ok(found) => found,
                Err(error) => return Answer::Broken(Outcome::Failed(error), None),
            };
            let now =
                ClaimRow::queue(&queue, Duration::ZERO).into_iter().find(|row| row.claim == claim.claim);
            let claim = match now {
                None => return Answer::Broken(Outcome::Gone, None),
                Some(now) if now.held && !claim.held => return Answer::Broken(Outcome::Granted(now), None),
                Some(now) => now,
            };
            let store = manager.backend().address();
            let deed = |done| break_claim::deed(&name, &claim, done, (by, &reason), store);
            unanswered.replace(Some(deed(break_claim::UNANSWERED)));
            let outcome = manager.evict(&name, &EntryKey::new(claim.claim.as_str()), &reason).await;
            unanswered.take();
            let outcome = Outcome::of(outcome);
            let unlogged = outcome.deed(claim.held).and_then(|(line, done)| {
                let text = deed(done);
                let told = break_claim::tell_system(syslog, &text);
                deeds.borrow_mut().push((line, text));
                told.err().map(|error| error.to_string())
            });
            Answer::Broken(outcome, unlogged)
        });
    }

    /// Waits briefly for the answer to what is being broken, because nobody sees it any more, and tells what
    /// became of it, or that nobody knows.
    async fn finish(&mut self) {
        if self.breaks.is_terminated() {
            return;
        }
        let nothing = |why: &dyn Display| {
            log::error("not_broken").say(format_args!("nothing is broken: {why}"));
        };
        match answered(&mut self.breaks, ready(())).await.0 {
            Some(Answer::Broken(Outcome::Gone, _)) => nothing(&"the claim was not there any more"),
            Some(Answer::Broken(Outcome::Granted(_), _)) => {
                nothing(&"the claim waits no more, but holds the lock");
            }
            Some(Answer::Broken(Outcome::Failed(error), _)) => nothing(&error),
            Some(Answer::Broken(_, Some(unlogged))) => {
                log::warning("no_syslog").say(format_args!("the system log was not told: {unlogged}"));
            }
            Some(_) => {}
            None => match self.unanswered.take() {
                Some(deed) => {
                    let _ = break_claim::tell_system(self.syslog, &deed);
                    self.deeds.borrow_mut().push((log::error("broken_unanswered"), deed));
                }
                None => nothing(&"the store has not answered in time, and was not asked to"),
            },
        }
    }

    /// Waits for the next answer.
    ///
    /// # Cancel safety
    /// What was asked goes on.
    async fn next(&mut self) -> Answer {
        tokio::select! {
            answer = &mut self.look => answer,
            answer = &mut self.inspect => answer,
            answer = &mut self.waits => answer,
            answer = &mut self.breaks => answer,
            else => std::future::pending().await,
        }
    }
}

/// Shows the store until the user quits, or a signal ends this, which is returned. Then it tells what was
/// broken, because the screen has gone.
pub(super) async fn run(
    manager: &LockManager,
    arguments: &Top,
    by: &str,
    signals: &SigSet,
) -> Result<Option<Signal>, Failure> {
    let mut asked = Asked::new(manager, arguments, by);
    let ended = show(&mut asked, arguments, signals).await;
    asked.finish().await;
    for (line, deed) in asked.deeds.take() {
        line.say(deed);
    }
    ended
}

async fn show(asked: &mut Asked<'_>, arguments: &Top, signals: &SigSet) -> Result<Option<Signal>, Failure> {
    let mut app = App::new(
        asked.manager.backend().address(),
        &arguments.prefix,
        arguments.interval,
        (arguments.filter.clone(), arguments.sort),
        Instant::now(),
    );
    let theme = Theme::new(std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()));
    let mut events = Events::new(signals)?;
    let mut screen = Screen::enter()?;
    loop {
        let (columns, rows) = screen.size()?;
        app.resize(columns, rows);
        for ask in app.due(Instant::now()) {
            start(asked, ask);
        }
        let is_drawn = screen.draw(|frame| view::draw(frame, &app, theme, Instant::now()))?;
        let pause = app.wakes(Instant::now()).map(|at| at.saturating_duration_since(Instant::now()));
        let event = tokio::select! {
            event = events.next() => event?,
            answer = asked.next() => {
                take(&mut app, asked, answer)?;
                continue;
            }
            () = screen.idle(), if !is_drawn => continue,
            () = sleep(pause.unwrap_or_default()), if pause.is_some() => continue,
        };
        match event {
            Event::Keys(keys) => {
                if let Some(end) = press(&mut app, &mut screen, asked, keys)? {
                    return Ok(end);
                }
            }
            // It is drawn in its size in any case.
            Event::Resized => {}
            Event::Continued => screen.enter_again()?,
            Event::Stop => screen.stop(false)?,
            Event::End(signal) => return Ok(Some(signal)),
        }
    }
}

/// Presses keys. Returns that this is to end, if it is.
fn press(
    app: &mut App,
    screen: &mut Screen,
    asked: &mut Asked<'_>,
    keys: Vec<Key>,
) -> Result<Option<Option<Signal>>, Failure> {
    for key in keys {
        match app.key(key, Instant::now()) {
            None => {}
            Some(Ask::Quit) => return Ok(Some(None)),
            Some(Ask::Stop) => screen.stop(true)?,
            Some(Ask::Redraw) => screen.forget()?,
            Some(ask) => start(asked, ask),
        }
    }
    Ok(None)
}

fn start(asked: &mut Asked<'_>, ask: Ask) {
    match ask {
        Ask::Look => asked.look(),
        Ask::Inspect(name) => asked.inspect(name),
        Ask::Waits => asked.waits(),
        Ask::Break { name, claim, reason } => asked.breaks(name, *claim, reason),
        Ask::Stop | Ask::Redraw | Ask::Quit => {}
    }
}

/// Takes an answer. What cannot heal and is told at the first look is the end.
fn take(app: &mut App, asked: &mut Asked<'_>, answer: Answer) -> Result<(), Failure> {
    let now = Instant::now();
    match answer {
        Answer::Looked(mut board) => {
            let rows: Vec<LockRow> = board.rows().collect();
            if !app.knows()
                && rows.is_empty()
                && board.failure().is_some_and(|failure| !failure.is_retryable())
                && let Some(failure) = board.take_failure()
            {
                return Err(failure.into());
            }
            let failure = board.failure().map(ToString::to_string);
            app.looked(Look { rows, failure, age: board.age() }, now);
            asked.board = Some(board);
        }
        Answer::Inspected(name, queue) => app.inspected(&name, queue, now),
        Answer::Waits(cycles) => app.waits(cycles, now),
        Answer::Broken(outcome, unlogged) => app.broken(outcome, unlogged.as_deref(), now),
    }
    Ok(())
}

//! What happens: keys, signals, and answers of the store, one after the other.

use std::path::Path;
use std::pin::Pin;

use futures_util::future::{Fuse, FutureExt};
use globallock::backend::Instant;
use globallock::{EntryKey, LockManager, Name, Release};
use nix::sys::signal::{SigSet, Signal};
use tokio::time::sleep;

use super::Top;
use super::app::page::Queue;
use super::app::{App, Ask, Look};
use super::keys::Key;
use super::terminal::{Event, Events, Screen};
use super::view::{self, Theme};
use crate::break_claim;
use crate::exit::Failure;
use crate::log;
use crate::onlook::board::Board;
use crate::onlook::rows::{ClaimRow, LockRow, WaitRow};

/// What the store has said.
enum Answer {
    Looked(Board),
    Inspected(String, Result<Queue, String>),
    Waits(Result<Vec<Vec<WaitRow>>, String>),
    /// What became of it, what is to be told of that, and why the system's log was not told.
    Broken(Result<Release, String>, Option<String>, Option<String>),
}

type Work<'a> = Pin<Box<dyn Future<Output = Answer> + 'a>>;

/// What the store has been asked: one thing of each kind at a time.
struct Asked<'a> {
    manager: &'a LockManager,
    prefix: &'a str,
    /// Who asks.
    by: &'a str,
    syslog: &'a Path,
    /// What was broken.
    deeds: Vec<String>,
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
            deeds: Vec::new(),
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
        self.breaks = work(async move {
            let name = match Name::new(&name) {
                Ok(name) => name,
                Err(error) => return Answer::Broken(Err(error.to_string()), None, None),
            };
            let outcome = manager.evict(&name, &EntryKey::new(claim.claim.as_str()), &reason).await;
            let done = match &outcome {
                Ok(Release::Released) => Some(break_claim::done(claim.held)),
                Ok(Release::NotHeld) => None,
                Err(error) => error.is_unavailable().then_some(break_claim::UNANSWERED),
            };
            let store = manager.backend().address();
            let deed = done.map(|done| break_claim::deed(&name, &claim, done, (by, &reason), store));
            let logged = deed.as_ref().map(|deed| break_claim::tell_system(syslog, deed));
            let unlogged = logged.and_then(Result::err).map(|error| error.to_string());
            Answer::Broken(outcome.map_err(|error| error.to_string()), deed, unlogged)
        });
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
    for deed in &asked.deeds {
        log::warning("broken").say(deed);
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
        Answer::Broken(outcome, deed, unlogged) => {
            asked.deeds.extend(deed);
            app.broken(outcome, unlogged.as_deref(), now);
        }
    }
    Ok(())
}

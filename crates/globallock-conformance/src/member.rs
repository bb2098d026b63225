//! A member of a crowd: a process, or a task, with one manager and any number of waiters on one name.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use globallock::{Guard, LockManager, ManagerOptions, Options, Release, internals::duration};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use crate::child::Report;

/// The settings of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberConfig {
    /// The store's address.
    pub url: String,
    /// The name of the lock, which is a mutex.
    pub name: String,
    /// The owner label that `inspect` shows.
    pub label: String,
    /// The lease of its claims.
    pub lease: Duration,
}

/// A command to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Start this many more waiters.
    Join(usize),
    /// Release the lock.
    Release,
}

/// The handle of a member.
#[derive(Debug)]
pub struct Member {
    body: Body,
}

#[derive(Debug)]
enum Body {
    Process(Box<Child>, ChildStdin),
    Task(JoinHandle<()>, mpsc::UnboundedSender<Order>),
}

impl Member {
    /// Starts a process of the owner's program with these settings. `on_report` is called with each of its
    /// reports.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn process(
        program: &Path,
        config: &MemberConfig,
        on_report: impl Fn(Report) + Send + 'static,
    ) -> Self {
        let MemberConfig { url, name, label, lease } = config;
        let mut child = Command::new(program)
            .args(["member", url, name, label, &format!("{}ms", lease.as_millis())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the member's program starts");
        let orders = child.stdin.take().expect("it has a standard input");
        let mut lines = BufReader::new(child.stdout.take().expect("it has a standard output")).lines();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                on_report(serde_json::from_str(&line).unwrap_or(Report::Failed(line)));
            }
        });
        Member { body: Body::Process(Box::new(child), orders) }
    }

    /// Starts a task of this process with these settings, for a store that lives in the process. `on_report`
    /// is called with each of its reports.
    #[must_use]
    pub fn task(config: &MemberConfig, on_report: impl Fn(Report) + Send + Sync + 'static) -> Self {
        let (orders, receiver) = mpsc::unbounded_channel();
        let orders_of =
            stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver))).boxed();
        let config = config.clone();
        let task = tokio::spawn(async move { serve(&config, orders_of, on_report).await });
        Member { body: Body::Task(task, orders) }
    }

    /// Starts this many more waiters.
    ///
    /// # Panics
    /// When the member has ended.
    pub async fn join(&mut self, count: usize) {
        self.order(Order::Join(count)).await;
    }

    /// Tells the member to release the lock.
    ///
    /// # Panics
    /// When the member has ended.
    pub async fn release(&mut self) {
        self.order(Order::Release).await;
    }

    async fn order(&mut self, order: Order) {
        match &mut self.body {
            Body::Process(_, orders) => {
                let line = match order {
                    Order::Join(count) => format!("{count}\n"),
                    Order::Release => "release\n".to_owned(),
                };
                orders.write_all(line.as_bytes()).await.expect("the member is alive");
            }
            Body::Task(_, orders) => orders.send(order).expect("the member is alive"),
        }
    }

    /// Kills the member, as a crash does, and waits for its end. A task is aborted, so its waiters leave the
    /// queue.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub async fn kill(self) {
        match self.body {
            Body::Process(mut child, _) => child.kill().await.expect("the member can be killed"),
            Body::Task(task, _) => {
                task.abort();
                assert!(
                    task.await.is_err_and(|error| error.is_cancelled()),
                    "the member was alive until now"
                );
            }
        }
    }
}

/// Runs a member's process. The owner's program calls this when its first argument is `member`.
///
/// Arguments: address, name, label, lease. Each line of standard input is a command: a number of waiters to
/// start, or `release`.
///
/// # Panics
/// When the arguments are wrong.
///
/// # Cancel safety
/// Not meant to be dropped.
pub async fn run(arguments: &[String]) {
    // Each claim is an open file in some stores, so the usual limit of open files is too low.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("a process may have as many files as it is allowed to");
    let [url, name, label, lease] = arguments else { panic!("address, name, label, lease") };
    let lease = duration::parse(lease).expect("a span of time");
    let config = MemberConfig { url: url.clone(), name: name.clone(), label: label.clone(), lease };
    let lines = BufReader::new(tokio::io::stdin()).lines();
    let orders = stream::unfold(lines, async |mut lines| {
        let line = lines.next_line().await.ok()??;
        let order = if line == "release" { Order::Release } else { Order::Join(line.parse().ok()?) };
        Some((order, lines))
    });
    let report = |report: Report| println!("{}", serde_json::to_string(&report).expect("it can be written"));
    serve(&config, orders.boxed(), report).await;
}

/// Carries out the orders until there are no more.
async fn serve(config: &MemberConfig, mut orders: BoxStream<'_, Order>, report: impl Fn(Report)) {
    // The waiters all ask at once, so a request may have to wait long for its turn. Speed is not tested here.
    let store_timeout = Some(Duration::from_secs(60));
    let locks = Options::new().lease(config.lease).store_timeout(store_timeout);
    let options = ManagerOptions::new().locks(locks).label(config.label.clone());
    let manager = match LockManager::connect_with(&config.url, options).await {
        Ok(manager) => manager,
        Err(error) => return report(Report::Failed(error.to_string())),
    };
    let lock = manager.mutex(&config.name);
    report(Report::Asking);
    let mut waiting: JoinSet<globallock::Result<Guard>> = JoinSet::new();
    let mut held: Option<Guard> = None;
    loop {
        let lost = async {
            match &held {
                Some(guard) => guard.lost().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            loss = lost => {
                report(Report::Lost(loss.to_string()));
                held = None;
            }
            Some(granted) = waiting.join_next() => match granted.expect("a waiter does not panic") {
                Ok(guard) => {
                    report(Report::Granted(guard.fencing_token()));
                    held = Some(guard);
                }
                Err(error) => report(Report::Failed(error.to_string())),
            },
            order = orders.next() => match order {
                None => return,
                Some(Order::Join(count)) => {
                    for _ in 0..count {
                        let lock = lock.clone();
                        waiting.spawn(async move { lock.acquire().await });
                    }
                }
                Some(Order::Release) => {
                    let guard = held.take().expect("it holds the lock");
                    report(match guard.release().await {
                        Ok(release) => Report::Released(release == Release::Released),
                        Err(error) => Report::Failed(error.to_string()),
                    });
                }
            },
        }
    }
}

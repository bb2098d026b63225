//! A member of a crowd: a process, or a task, with one manager and as many waiters on one name as it is told to have.

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

use crate::child::Told;

/// What a member and its maker tell each other of the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The store.
    pub url: String,
    /// The lock, which is a mutex.
    pub name: String,
    /// What `inspect` shows of the member.
    pub label: String,
    /// The lease of its claims.
    pub lease: Duration,
}

/// What a member is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// So many more wait.
    Join(usize),
    /// What it holds is released.
    Release,
}

/// A member, as its maker sees it.
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
    /// Starts a process for `wish`, by the owner's program, that tells `told` what happens.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn process(program: &Path, wish: &Wish, told: impl Fn(Told) + Send + 'static) -> Self {
        let Wish { url, name, label, lease } = wish;
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
                told(serde_json::from_str(&line).unwrap_or(Told::Failed(line)));
            }
        });
        Member { body: Body::Process(Box::new(child), orders) }
    }

    /// Starts a task of this process for `wish`, that tells `told` what happens: for a store that dies with the process.
    #[must_use]
    pub fn task(wish: &Wish, told: impl Fn(Told) + Send + Sync + 'static) -> Self {
        let (orders, receiver) = mpsc::unbounded_channel();
        let orders_of =
            stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver))).boxed();
        let wish = wish.clone();
        let task = tokio::spawn(async move { attend(&wish, orders_of, told).await });
        Member { body: Body::Task(task, orders) }
    }

    /// Has so many more wait.
    ///
    /// # Panics
    /// When the member has ended.
    pub async fn join(&mut self, count: usize) {
        self.order(Order::Join(count)).await;
    }

    /// Has it release what it holds.
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
                orders.write_all(line.as_bytes()).await.expect("the member goes on");
            }
            Body::Task(_, orders) => orders.send(order).expect("the member goes on"),
        }
    }

    /// Kills it as a crash does, and waits until it is gone. A task gives up what it waits for.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub async fn kill(self) {
        match self.body {
            Body::Process(mut child, _) => child.kill().await.expect("the member can be killed"),
            Body::Task(task, _) => {
                task.abort();
                assert!(task.await.is_err_and(|error| error.is_cancelled()), "the member went on until now");
            }
        }
    }
}

/// What a member's process does: what the owner's program does with `member` as the first argument.
///
/// Arguments: address, name, label, lease. Reads how many more shall wait, or `release`, one a line.
///
/// # Panics
/// When the arguments are wrong.
///
/// # Cancel safety
/// Not meant to be dropped.
pub async fn run(arguments: &[String]) {
    // Each claim is an open file in some stores.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("a process may have as many files as it is allowed to");
    let [url, name, label, lease] = arguments else { panic!("address, name, label, lease") };
    let lease = duration::parse(lease).expect("a span of time");
    let wish = Wish { url: url.clone(), name: name.clone(), label: label.clone(), lease };
    let lines = BufReader::new(tokio::io::stdin()).lines();
    let orders = stream::unfold(lines, async |mut lines| {
        let line = lines.next_line().await.ok()??;
        let order = if line == "release" { Order::Release } else { Order::Join(line.parse().ok()?) };
        Some((order, lines))
    });
    let tell = |told: Told| println!("{}", serde_json::to_string(&told).expect("it can be written"));
    attend(&wish, orders.boxed(), tell).await;
}

/// Waits and releases as it is told to, until nobody tells it any more.
async fn attend(wish: &Wish, mut orders: BoxStream<'_, Order>, tell: impl Fn(Told)) {
    // Waiters that all ask at once take turns: how fast is not what is tested.
    let store_timeout = Some(Duration::from_secs(60));
    let locks = Options { lease: wish.lease, store_timeout, ..Options::default() };
    let options = ManagerOptions { locks, label: Some(wish.label.clone()) };
    let manager = match LockManager::connect_with(&wish.url, options).await {
        Ok(manager) => manager,
        Err(error) => return tell(Told::Failed(error.to_string())),
    };
    let lock = manager.mutex(&wish.name).expect("a good name");
    tell(Told::Asking);
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
                tell(Told::Lost(loss.to_string()));
                held = None;
            }
            Some(granted) = waiting.join_next() => match granted.expect("a waiter does not panic") {
                Ok(guard) => {
                    tell(Told::Granted(guard.fencing_token()));
                    held = Some(guard);
                }
                Err(error) => tell(Told::Failed(error.to_string())),
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
                    let guard = held.take().expect("it holds what it shall release");
                    tell(match guard.release().await {
                        Ok(departure) => Told::Released(departure == Release::Released),
                        Err(error) => Told::Failed(error.to_string()),
                    });
                }
            },
        }
    }
}

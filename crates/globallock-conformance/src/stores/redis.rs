//! The store in Redis.

use std::io::Result;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::time::sleep;

use super::held::{Held, Parts, hosts};
use super::password::{FIRST, PasswordFile, USER};
use super::{Draw, Outcome, OwnFault, ReadMessage, Role, StoreKind, TestStore, Trait};
use crate::fixtures::patient;
use crate::hostile::Hostile;
use crate::proxy::Proxy;
use crate::server::redis::{Redis, cli};
use crate::server::{Cluster, wait_ready};
use crate::store_under_test::StoreUnderTest;

const PROMOTION: OwnFault = OwnFault::new("promotion");
const ROTATE_PASSWORD: OwnFault = OwnFault { takes: 6, ..OwnFault::new("rotate_password") };
const FULL: OwnFault = OwnFault { takes: 18, ..OwnFault::new("full") };
/// How often the password is changed in a row.
const ROTATIONS: usize = 2;
/// By how much the limit of memory is lowered at a time until a small write is refused, in bytes, and how
/// often at most. What a server uses changes with the buffers of its connections.
const TIGHTER: (u64, u64) = (4096, 100);

pub(super) const KINDS: &[StoreKind] = &[
    StoreKind {
        name: "redis",
        roles: &[Role::Suite, Role::Scenarios],
        servers: 1,
        starts_in: 1,
        install: super::nothing,
        traits: &[Trait::BetweenProcesses],
        start: || Ok(Box::new(Alone::start("")?)),
        own_faults: &[],
        hostile,
    },
    StoreKind {
        name: "redis-6",
        roles: &[Role::Suite],
        servers: 1,
        starts_in: 1,
        install: super::nothing,
        traits: &[Trait::BetweenProcesses],
        start: || Ok(Box::new(Alone::start("?commands=6")?)),
        own_faults: &[],
        hostile: super::none,
    },
    StoreKind {
        name: "redis-gaps",
        roles: &[Role::Suite],
        servers: 1,
        starts_in: 1,
        install: super::nothing,
        traits: &[Trait::BetweenProcesses],
        start: || Ok(Box::new(Alone::start("?gap=2ms")?)),
        own_faults: &[],
        hostile: super::none,
    },
    StoreKind {
        name: "redis",
        roles: &[Role::Faults],
        servers: 1,
        starts_in: 1,
        install: super::nothing,
        traits: &[Trait::BetweenProcesses],
        start: || Ok(Box::new(Alone::start_with_login()?)),
        own_faults: &[
            OwnFault::new("flush_all"),
            OwnFault::new("script_flush"),
            OwnFault::new("kill_push"),
            FULL,
            ROTATE_PASSWORD,
            // If the store loses its token counter, the next token comes from the clock. So a fault that
            // loses the counter must wait until the clock shows the latest time again that it had shown
            // before it was mended: otherwise tokens would fall.
            OwnFault { takes: 35, calm_after: 3, ..OwnFault::new("clock_step") },
        ],
        hostile,
    },
    StoreKind {
        name: "redis-replica",
        roles: &[Role::Faults],
        servers: 1,
        starts_in: 1,
        install: super::nothing,
        traits: &[Trait::BetweenProcesses, Trait::Moves],
        start: || Ok(Box::new(Pair::start()?)),
        own_faults: &[PROMOTION, PROMOTION, PROMOTION, PROMOTION, FULL],
        hostile,
    },
];

/// One server. In fault runs its clock can be set, and owners log in.
#[derive(Debug)]
struct Alone {
    server: Redis,
    login: Option<PasswordFile>,
    /// The options of its address.
    options: &'static str,
}

/// A primary and its replica.
#[derive(Debug)]
struct Pair {
    primary: Redis,
    replica: Redis,
}

#[async_trait]
impl TestStore for Alone {
    fn url(&self) -> String {
        format!("{}{}", self.server.url(), self.options)
    }

    fn url_by(&self, hosts: &[String]) -> String {
        self.login.as_ref().map_or_else(|| url_by(hosts), |file| file.url("redis", &hosts.join(",")))
    }

    fn cluster(&mut self) -> Option<&mut dyn Cluster> {
        Some(&mut self.server)
    }

    fn ports(&self) -> Vec<u16> {
        self.server.ports()
    }

    fn under_test(&self, kind: &str, child: Option<PathBuf>) -> Vec<StoreUnderTest> {
        under_test(&self.server, self.options, kind, child)
    }

    fn left(&self, name: &str) -> Vec<String> {
        left(self.server.port(), name)
    }

    fn forgets_when_killed(&self) -> bool {
        true
    }

    async fn break_by(&mut self, fault: &OwnFault, draw: Draw, proxies: &[Proxy]) -> Result<Outcome> {
        Ok(match fault.name {
            "flush_all" => {
                let before = self.server.cli(&["DBSIZE"]);
                let done = self.server.cli(&["FLUSHALL"]);
                Outcome::that_forgets(done == "OK" && before != "0", format!("{before} keys before"))
            }
            "script_flush" => {
                let done = self.server.cli(&["SCRIPT", "FLUSH"]);
                Outcome::of(done == "OK", done)
            }
            "kill_push" => {
                let killed = self.server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
                Outcome::of(killed != "0", format!("{killed} connections killed"))
            }
            "full" => full(&self.server, draw, &self.url_by(&hosts(proxies))).await?,
            "rotate_password" => self.rotate_password(draw).await?,
            _ => self.step_clock(draw).await?,
        })
    }

    fn read_message(&self) -> Option<ReadMessage> {
        Some(read_message)
    }
}

impl Alone {
    fn start(options: &'static str) -> Result<Self> {
        Ok(Alone { server: Redis::start()?, login: None, options })
    }

    fn start_with_login() -> Result<Self> {
        let user = format!("user {USER} on >{FIRST} ~* &* +@all");
        let server = Redis::start_with_users(&[&user])?;
        Ok(Alone { server, login: Some(PasswordFile::new()?), options: "" })
    }

    /// Changes the password of the owners twice, and kills their connections, so that they log in again.
    ///
    /// Either both passwords are good for a moment, or the file has the new one a moment after the server.
    async fn rotate_password(&mut self, draw: Draw) -> Result<Outcome> {
        let Alone { server, login: Some(file), .. } = self else { return Ok(Outcome::default()) };
        let set = |change: &str| server.cli(&["ACL", "SETUSER", USER, change]);
        let logged_in = || {
            let clients = server.cli(&["CLIENT", "LIST"]);
            clients.lines().filter(|client| client.contains(&format!(" user={USER} "))).count()
        };
        let (mut killed, mut logins, mut refused) = (Vec::new(), Vec::new(), 0);
        for _ in 0..ROTATIONS {
            let old = file.password();
            let new = file.choose_next();
            if draw.target.is_multiple_of(2) {
                set(&format!(">{new}"));
                file.write()?;
                set(&format!("<{old}"));
            } else {
                server.cli(&["ACL", "SETUSER", USER, "resetpass", &format!(">{new}")]);
                file.write()?;
            }
            // For when it is restarted.
            server.cli(&["ACL", "SAVE"]);
            killed.push(server.cli(&["CLIENT", "KILL", "USER", USER]));
            let until = Instant::now() + draw.lease;
            // All connections from before were killed, so who is there has logged in with the new password.
            while logged_in() == 0 && Instant::now() < until {
                sleep(Duration::from_millis(5)).await;
            }
            logins.push(logged_in());
            let tried = server.cli(&["AUTH", USER, &old]);
            refused += usize::from(tried.contains("WRONGPASS"));
            sleep(draw.short() / 2).await;
        }
        let took_effect = refused == ROTATIONS && logins.iter().all(|logins| *logins > 0);
        let proof =
            format!("{refused} old passwords were refused; connections killed {killed:?}, new {logins:?}");
        Ok(Outcome::of(took_effect, proof))
    }

    /// Sets the server's wall clock forward or back for a while, by up to three leases.
    async fn step_clock(&self, draw: Draw) -> Result<Outcome> {
        let seconds = (draw.lease.as_secs_f64() * 3.0 * draw.length).ceil() as i64;
        let step = if draw.target.is_multiple_of(2) { seconds } else { -seconds };
        let time = || -> i64 {
            self.server.cli(&["TIME"]).lines().next().and_then(|time| time.parse().ok()).unwrap_or(0)
        };
        let set = |seconds| self.server.clock().map_or(Ok(()), |clock| clock.set(seconds));
        let before = time();
        set(step)?;
        let after = time();
        sleep(draw.short()).await;
        set(0)?;
        let seen = after - before;
        Ok(Outcome::that_forgets((seen - step).abs() <= 1, format!("TIME went on by {seen} s")))
    }
}

#[async_trait]
impl TestStore for Pair {
    fn url(&self) -> String {
        self.primary.url()
    }

    fn url_by(&self, hosts: &[String]) -> String {
        url_by(hosts)
    }

    fn cluster(&mut self) -> Option<&mut dyn Cluster> {
        Some(&mut self.primary)
    }

    fn ports(&self) -> Vec<u16> {
        self.primary.ports()
    }

    fn under_test(&self, kind: &str, child: Option<PathBuf>) -> Vec<StoreUnderTest> {
        under_test(&self.primary, "", kind, child)
    }

    fn left(&self, name: &str) -> Vec<String> {
        left(self.primary.port(), name)
    }

    async fn break_by(&mut self, fault: &OwnFault, draw: Draw, proxies: &[Proxy]) -> Result<Outcome> {
        match fault.name {
            "full" => full(&self.primary, draw, &self.url_by(&hosts(proxies))).await,
            _ => self.promote(proxies).await,
        }
    }

    fn read_message(&self) -> Option<ReadMessage> {
        Some(read_message)
    }
}

impl Pair {
    fn start() -> Result<Self> {
        let pair = Pair { primary: Redis::start()?, replica: Redis::start()? };
        follow(&pair.replica, pair.primary.port())?;
        Ok(pair)
    }

    /// Cuts the replica off, kills the primary, and makes the replica the primary. The replica has missed the
    /// last writes by then.
    async fn promote(&mut self, proxies: &[Proxy]) -> Result<Outcome> {
        let Pair { primary, replica } = self;
        replica.cli(&["REPLICAOF", "127.0.0.1", "1"]);
        sleep(Duration::from_millis(100)).await;
        let offset = |server: &Redis| -> u64 {
            let info = server.cli(&["INFO", "replication"]);
            let field = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:"));
            field.and_then(|field| field.trim().parse().ok()).unwrap_or(0)
        };
        let missed = offset(primary).saturating_sub(offset(replica));
        primary.kill();
        replica.cli(&["REPLICAOF", "NO", "ONE"]);
        for proxy in proxies {
            proxy.redirect_to(replica.port());
            proxy.cut();
        }
        primary.resume_after_kill()?;
        follow(primary, replica.port())?;
        std::mem::swap(primary, replica);
        Ok(Outcome::that_forgets(missed > 0, format!("{missed} bytes had not been replicated")))
    }
}

/// Fills a server's memory for more than a lease: to the brink, where each release makes room for a claim, or
/// far beyond it. Meanwhile locks are held and waited for by `url`.
async fn full(server: &Redis, draw: Draw, url: &str) -> Result<Outcome> {
    let mut held = match Held::take(url, draw.lease).await {
        Ok(held) => held,
        Err(error) => return Ok(Outcome::of(false, format!("nothing was held: {error}"))),
    };
    let limit = |bytes: u64| server.cli(&["CONFIG", "SET", "maxmemory", &bytes.to_string()]);
    // What a stranger writes is no longer than a claim.
    let is_full = || server.cli(&["SET", "fill:stranger", "x"]).starts_with("OOM");
    let is_brink = draw.target.is_multiple_of(2);
    if !is_brink {
        limit(1);
    }
    let (mut asked, mut refused) = (0, Parts::of(draw.lease.mul_f64(1.2 + 0.8 * draw.length)));
    while !refused.are_over() {
        asked += 1;
        let mut is_refused = is_full();
        if is_brink && !is_refused {
            let used = server.cli(&["INFO", "memory"]);
            let used = used.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok());
            let used: u64 = used.unwrap_or(0);
            is_refused = (0..TIGHTER.1).any(|step| {
                limit(used.saturating_sub(step * TIGHTER.0).max(1));
                is_full()
            });
        }
        if is_refused {
            refused.see();
        }
        sleep(draw.lease / 20).await;
    }
    held.look();
    limit(0);
    server.cli(&["DEL", "fill:stranger"]);
    let (outlived, seen) = held.hand_over().await?;
    let kind = if is_brink { "to the brink" } else { "far beyond it" };
    let proof = format!(
        "{kind}; of {asked} small writes of a stranger, {:?} were refused with OOM in the parts of the time; \
         {seen}",
        refused.seen()
    );
    Ok(Outcome::of(refused.all_seen() && outlived, proof))
}

fn follow(replica: &Redis, primary: u16) -> Result<()> {
    replica.cli(&["REPLICAOF", "127.0.0.1", &primary.to_string()]);
    let synced = || replica.cli(&["INFO", "replication"]).contains("master_link_status:up");
    wait_ready("the replica", &replica.directory().join("log"), synced)
}

fn url_by(hosts: &[String]) -> String {
    format!("redis://{}", hosts.join(","))
}

fn under_test(server: &Redis, options: &str, kind: &str, child: Option<PathBuf>) -> Vec<StoreUnderTest> {
    let port = server.port();
    vec![
        StoreUnderTest::at(kind, &patient(&format!("{}{options}", server.url())), child)
            .with_sabotage(move |name| async move {
                let keys = keys(port, name.as_str());
                let mut delete = vec!["DEL"];
                delete.extend(keys.iter().map(String::as_str));
                cli(port, &delete);
            })
            .with_residue(move |name| async move { left(port, name.as_str()) }),
    ]
}

fn keys(port: u16, name: &str) -> Vec<String> {
    let keys = cli(port, &["--scan", "--pattern", &format!("*{name}*")]);
    keys.lines().map(str::to_owned).collect()
}

/// The counter of fencing tokens may stay for some days, the notices of evictions for an hour, the state of
/// the gaps for some seconds, and a value for as long as its writer said, but only with an expiry.
pub(super) fn left(port: u16, name: &str) -> Vec<String> {
    let may_stay =
        |key: &String| [":fence", ":evicted", ":gap", ":glk-value"].iter().any(|side| key.ends_with(side));
    let expires = |key: &String| cli(port, &["TTL", key]) != "-1";
    keys(port, name).into_iter().filter(|key| !may_stay(key) || !expires(key)).collect()
}

/// A RESP3 value. It is a notification if it is a push of a message.
pub(super) fn read_message(bytes: &[u8], _begins: bool) -> Option<(usize, bool)> {
    let end = value(bytes)?;
    Some((end, bytes.starts_with(b">") && bytes[..end].windows(9).any(|part| part == b"message\r\n")))
}

/// Returns where a RESP3 value ends.
fn value(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let count = || std::str::from_utf8(&bytes[1..line - 2]).ok()?.parse::<i64>().ok();
    let parts = match bytes[0] {
        b'$' | b'=' | b'!' => {
            let end = usize::try_from(count()?).map_or(line, |length| line + length + 2);
            return (bytes.len() >= end).then_some(end);
        }
        b'*' | b'~' | b'>' => count()?,
        b'%' => count()? * 2,
        _ => 0,
    };
    (0..parts).try_fold(line, |end, _| Some(end + value(&bytes[end..])?))
}

pub(super) fn hostile() -> Vec<(&'static str, Hostile)> {
    let answers = |bytes: &[u8]| Hostile::Answers(vec![bytes.to_vec()]);
    vec![
        ("always OK", answers(b"+OK\r\n")),
        ("a string without end", answers(b"$999999999999\r\nabc")),
        ("an array without end", answers(b"*2147483647\r\n")),
        ("arrays in arrays", Hostile::Answers(vec![b"*1\r\n".repeat(100_000)])),
        ("a negative length", answers(b"$-5\r\n")),
        ("no number", answers(b":seven\r\n")),
        ("null", answers(b"_\r\n")),
        ("a map", answers(b"%1\r\n+a\r\n+b\r\n")),
        ("a push", answers(b">3\r\n+message\r\n+a\r\n+b\r\n")),
        ("escapes in an error", answers(b"-ERR \x1b]52;c;aGk=\x07\x1b[31m\xe2\x80\xae\r\n")),
        ("numbers", answers(b":18446744073709551615\r\n")),
        ("two at once", answers(b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n")),
        ("cut short", answers(b"*3\r\n:1\r\n")),
        ("moved", answers(b"-MOVED 1 127.0.0.1:1\r\n")),
        ("loading", answers(b"-LOADING Redis is loading the dataset in memory\r\n")),
    ]
}

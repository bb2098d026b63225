//! Calls of the scripts, as the library makes them, over a connection of the test's own. The server's clock
//! is read before and after each call, and the call is repeated until both readings show the same
//! millisecond.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use globallock::backend::{Backend, Claim, ClaimStatus, WaitMode};
use globallock::queue::Permits;
use globallock::{Eviction, Owner, Release};
use globallock_conformance::server::redis::Redis;

use crate::patient;
use crate::times::claim;

pub(crate) const LOCK: &str = "_glocks:a";
pub(crate) const COUNTER: &str = "{_glocks:a}:fence";
pub(crate) const QUEUE: &str = "{_glocks:a}:queue";
pub(crate) const CLAIMS: &str = "{_glocks:a}:claims";
pub(crate) const SHARED: &str = "{_glocks:a}:shared";
/// The notice that the claim that makes the calls has been evicted.
pub(crate) const NOTICE: &str = "{_glocks:a}:000000000000000000000000000000aa:evicted";
pub(crate) const MUTEX: Permits = Permits::MUTEX;
pub(crate) const ONE_OF_TWO: Permits = Permits::new(1, 2);

/// The id of the claim that makes the calls.
pub(crate) const ID: &str = "000000000000000000000000000000aa";
/// The id of another claim.
pub(crate) const OTHER: &str = "000000000000000000000000000000bb";
/// The rest of a member of the queue behind its id: a channel without a subscriber, a lease of ten minutes,
/// no max hold time, all permits.
pub(crate) const REST: &str = "globallock:wake:nobody 600000 0 1/1:x";

/// A server that has loaded the scripts, and their hashes.
pub(crate) struct Scripts {
    pub(crate) server: Redis,
    enqueue: String,
    enqueue_shared: String,
    renew: String,
    release: String,
    evict: String,
}

impl Scripts {
    pub(crate) async fn new() -> Self {
        let server = Redis::start().unwrap();
        let backend = globallock::connect_backend(&patient(&server.url())).await.unwrap();
        let (alone, shares) = (queued(MUTEX), queued(ONE_OF_TWO));
        assert_eq!(server.cli(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]), "OK");
        enqueue(&backend, &alone).await;
        let enqueue_script = last_script(&server);
        assert!(matches!(backend.renew(&[Arc::new(alone.clone())]).await[..], [Ok(ClaimStatus::Held(_))]));
        let renew = last_script(&server);
        backend.release(&alone).await.unwrap();
        let release = last_script(&server);
        enqueue(&backend, &shares).await;
        let enqueue_shared = last_script(&server);
        assert!(enqueue_script != renew && renew != enqueue_shared && enqueue_shared != enqueue_script);
        let eviction = Eviction::new(Owner::default(), "");
        let evicted = backend.evict(&shares.name, &shares.id.into(), &eviction).await.unwrap();
        assert_eq!(evicted, Release::Released);
        let evict = last_script(&server);
        server.cli(&["FLUSHALL"]);
        Scripts { server, enqueue: enqueue_script, enqueue_shared, renew, release, evict }
    }

    /// A call of a script on the lock `a`.
    pub(crate) fn call(script: &str, arguments: &str) -> String {
        format!("EVALSHA {script} 5 {LOCK} {COUNTER} {QUEUE} {CLAIMS} {SHARED} {arguments}")
    }

    /// An enqueue of a claim that waits and takes all permits.
    pub(crate) fn enqueue(&self) -> String {
        self.enqueue_for(0, 1)
    }

    /// An enqueue of a claim that waits and takes one permit of two.
    pub(crate) fn enqueue_shared(&self) -> String {
        self.enqueue_shared_for(0)
    }

    /// An enqueue of a claim that takes all permits, with a max hold time (0: none), and waits (1) or does
    /// not (0).
    pub(crate) fn enqueue_for(&self, max_hold: u32, waits: u8) -> String {
        let arguments = format!("{ID} 600000 {max_hold} \"1/1:x\" \"{waits} globallock:wake:nobody\"");
        Self::call(&self.enqueue, &arguments)
    }

    pub(crate) fn enqueue_shared_for(&self, max_hold: u32) -> String {
        let arguments = format!("{ID} 600000 {max_hold} \"1/2:x\" \"1 globallock:wake:nobody\"");
        Self::call(&self.enqueue_shared, &arguments)
    }

    /// A renewal of a claim that waits or takes all permits.
    pub(crate) fn renew(&self) -> String {
        Self::call(&self.renew, &format!("{ID} 600000 \"{ID} {REST}\""))
    }

    /// An enqueue of a claim that was asked for before and takes one permit of two.
    pub(crate) fn enqueue_again(&self) -> String {
        let arguments = format!("{ID} 600000 0 \"1/2:x\" \"1 globallock:wake:nobody\"");
        Self::call_with_notice(&self.enqueue_shared, &arguments)
    }

    /// An eviction of the claim that makes the calls, with its member of the queue, or with an empty one.
    pub(crate) fn evict(&self, member: &str) -> String {
        Self::call_with_notice(&self.evict, &format!("{ID} \"{member}\" gone"))
    }

    /// An eviction of the foreign holder with this key.
    pub(crate) fn evict_foreign(&self, key: &str) -> String {
        Self::call(&self.evict, &format!("{key} \"\" gone"))
    }

    fn call_with_notice(script: &str, arguments: &str) -> String {
        let keys = [LOCK, COUNTER, QUEUE, CLAIMS, SHARED, NOTICE].join(" ");
        format!("EVALSHA {script} 6 {keys} {arguments}")
    }

    /// Runs the commands that `before` makes from the server's millisecond, and then `request`, in one
    /// transaction.
    pub(crate) fn answer(&self, before: impl Fn(i64) -> Vec<String>, request: &str) -> Reply {
        self.answers(before, &[request])
    }

    /// The same with several requests; their answers follow one another.
    pub(crate) fn answers(&self, before: impl Fn(i64) -> Vec<String>, requests: &[&str]) -> Reply {
        (0..1000)
            .find_map(|_| self.try_answers(&before, requests).ok())
            .expect("once, the requests take no whole millisecond")
    }

    /// The same, where `before` is given the very millisecond in which the requests run.
    pub(crate) fn answers_at(&self, before: impl Fn(i64) -> Vec<String>, requests: &[&str]) -> Reply {
        // Sooner or later the commands of `before` take as long as the last time.
        let mut takes = 1;
        for _ in 0..1000 {
            let reply = self.answers(|now| before(now + takes), requests);
            if reply.late == takes {
                return reply;
            }
            takes = reply.late;
        }
        panic!("once, the requests run in that millisecond");
    }

    /// The same in one try; an error if the millisecond has changed during the requests.
    pub(crate) fn try_answers(
        &self,
        before: impl Fn(i64) -> Vec<String>,
        requests: &[&str],
    ) -> Result<Reply, Reply> {
        let given = millisecond(&numbers(&self.server.cli(&["TIME"])));
        let before = before(given);
        let mut commands = vec!["FLUSHALL".to_owned(), "MULTI".to_owned()];
        commands.extend_from_slice(&before);
        let asked = requests.iter().copied();
        commands.extend(std::iter::once("TIME").chain(asked).chain(["TIME", "EXEC"]).map(str::to_owned));
        let printed = piped(&self.server, &commands);
        let (_, results) = printed.rsplit_once("QUEUED\n").expect("it is queued");
        // Each command of `before` is answered by one line.
        let reply = numbers(results.splitn(before.len() + 1, '\n').last().expect("it is answered"));
        let (first, rest) = reply.split_at(2);
        let (answer, last) = rest.split_at(rest.len() - 2);
        let now = millisecond(first);
        let reply = Reply { now, late: now - given, answer: answer.to_vec() };
        if now == millisecond(last) { Ok(reply) } else { Err(reply) }
    }

    /// A renewal of a claim that never waits.
    pub(crate) fn renew_shared(&self) -> String {
        Self::call(&self.renew, &format!("{ID} 600000 \"\""))
    }

    /// A release of a claim with this member of the queue, or with an empty one if it never waits.
    pub(crate) fn release(&self, id: &str, member: &str) -> String {
        Self::call(&self.release, &format!("{id} \"{member}\""))
    }

    /// The commands that the server runs inside a request.
    pub(crate) fn commands(&self, before: impl Fn(i64) -> Vec<String>, request: &str) -> Vec<Vec<String>> {
        let monitor = Monitor::start(&self.server);
        self.untimed_answers(before, &[request]);
        let seen = monitor.end(&self.server);
        seen.iter()
            .filter_map(|line| line.split_once(" lua] ")?.1.strip_prefix('"')?.strip_suffix('"'))
            .map(|command| command.split("\" \"").map(str::to_owned).collect())
            .collect()
    }

    /// The answers, however long they take.
    pub(crate) fn untimed_answers(&self, before: impl Fn(i64) -> Vec<String>, requests: &[&str]) -> Vec<i64> {
        self.try_answers(before, requests).unwrap_or_else(|reply| reply).answer
    }
}

/// Records every command of a server, also those inside scripts.
pub(crate) struct Monitor {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Monitor {
    pub(crate) fn start(server: &Redis) -> Self {
        let mut process = Command::new("redis-cli")
            .args(["-p", &server.port().to_string(), "monitor"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-cli is installed: run apt-get install redis-tools");
        let mut lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "OK");
        Monitor { process, lines }
    }

    /// The commands until now, each as its time, its client, and its parts in quotes.
    pub(crate) fn end(mut self, server: &Redis) -> Vec<String> {
        const LAST: &str = "that is all";
        server.cli(&["ECHO", LAST]);
        let seen = self.lines.map(Result::unwrap).take_while(|line| !line.contains(LAST)).collect();
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        seen
    }
}

/// An answer, and when it was given.
pub(crate) struct Reply {
    /// The server's millisecond.
    pub(crate) now: i64,
    /// How many milliseconds after the one that `before` was given.
    pub(crate) late: i64,
    pub(crate) answer: Vec<i64>,
}

pub(crate) fn numbers(lines: &str) -> Vec<i64> {
    lines.lines().map(|line| line.parse().expect(lines)).collect()
}

/// Converts what TIME answers, seconds and microseconds, to milliseconds.
pub(crate) fn millisecond(time: &[i64]) -> i64 {
    time[0] * 1000 + time[1] / 1000
}

pub(crate) fn queued(permits: Permits) -> Claim {
    claim("a", 1, permits, WaitMode::Wait)
}

pub(crate) async fn enqueue(backend: &Arc<dyn Backend>, claim: &Claim) {
    assert!(matches!(backend.enqueue(claim).await, Ok(ClaimStatus::Held(_))));
}

/// The hash of the script that was called last.
pub(crate) fn last_script(server: &Redis) -> String {
    let script = "
        for _, entry in ipairs(redis.call('SLOWLOG', 'GET', 100)) do
            if entry[4][1] == 'EVALSHA' then return entry[4][2] end
        end";
    server.cli(&["EVAL", script, "0"])
}

/// Sends these commands in one transmission and returns the answers.
pub(crate) fn piped(server: &Redis, commands: &[String]) -> String {
    let mut client = Command::new("redis-cli")
        .args(["-p", &server.port().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-cli is installed: run apt-get install redis-tools");
    let text = commands.join("\n") + "\n";
    client.stdin.take().expect("it is piped").write_all(text.as_bytes()).unwrap();
    String::from_utf8(client.wait_with_output().unwrap().stdout).unwrap()
}

/// An exclusive holder whose lease ends at this millisecond.
pub(crate) fn held_until(ends: i64) -> String {
    format!("SET {LOCK} \"glk1:{OTHER}:1000::0:1/1:x\" PXAT {ends}")
}

/// So many waiters at the front of the queue, with renewed leases.
pub(crate) fn in_front(count: u32) -> Vec<String> {
    let members: String = (1..=count).map(|number| format!(" {number} \"{number:031x}f {REST}\"")).collect();
    let leases: String = (1..=count).map(|number| format!(" {number:031x}f 99999999999999")).collect();
    if count == 0 {
        Vec::new()
    } else {
        vec![format!("ZADD {QUEUE}{members}"), format!("HSET {CLAIMS}{leases}")]
    }
}

/// The waiter that makes the calls, behind them, with a renewed lease.
pub(crate) fn already_waiting() -> Vec<String> {
    vec![
        format!("ZADD {QUEUE} 5000 \"{ID} {REST}\""),
        format!("HSET {CLAIMS} {ID} 99999999999999"),
        format!("SET {COUNTER} 5000w"),
    ]
}

/// Shared holders with one permit each, given as the end of the lease and the capacity, and all that they
/// store.
pub(crate) fn shared_by(members: &[(i64, u32)], mixed: u8) -> Vec<String> {
    let id = |at: usize| format!("{:032x}", 0xcc00 + at);
    let leases: String =
        members.iter().enumerate().map(|(at, (ends, _))| format!(" {ends} {}", id(at))).collect();
    let record = |(at, (ends, capacity)): (usize, &(i64, u32))| {
        format!(" {} \"1000 {ends} 1 1 0 0 globallock:wake:nobody 1/{capacity}:x\"", id(at))
    };
    let records: String = members.iter().enumerate().map(record).collect();
    let smallest = members.iter().map(|(_, capacity)| capacity).min().expect("there is a shared holder");
    let count = members.len();
    vec![
        format!("SET {LOCK} glk1+:{OTHER}:1000 PXAT 99999999999999"),
        format!("SET {COUNTER} 1000w"),
        format!("ZADD {SHARED}{leases}"),
        format!("HSET {CLAIMS}{records}"),
        format!("HSET {CLAIMS} \"#value\" glk1+:{OTHER}:1000 \"#mixed\" {mixed}"),
        format!("HSET {CLAIMS} \"#weight\" {count} \"#capacity\" {smallest}"),
    ]
}

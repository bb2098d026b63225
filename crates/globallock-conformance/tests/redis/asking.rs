//! The scripts, asked in the words of the library by a connection of the test's own: between two looks at the server's
//! clock, and again until no millisecond has gone by between these.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use globallock::backend::{Backend, Claim, ClaimStatus, WaitMode};
use globallock::queue::Permits;
use globallock_conformance::server::redis::Redis;

use crate::times::claim;

pub(crate) const LOCK: &str = "_glocks:a";
pub(crate) const FENCE: &str = "{_glocks:a}:fence";
pub(crate) const QUEUE: &str = "{_glocks:a}:queue";
pub(crate) const CLAIMS: &str = "{_glocks:a}:claims";
pub(crate) const SHARED: &str = "{_glocks:a}:shared";
pub(crate) const MUTEX: Permits = Permits { count: 1, capacity: 1 };
pub(crate) const ONE_OF_TWO: Permits = Permits { count: 1, capacity: 2 };

/// The claim that asks, as the scripts write it.
pub(crate) const ID: &str = "000000000000000000000000000000aa";
/// Another one.
pub(crate) const OTHER: &str = "000000000000000000000000000000bb";
/// What a member of the queue says behind its id: a channel without a subscriber, ten minutes' lease, no longest hold.
pub(crate) const REST: &str = "globallock:wake:nobody 600000 0 1/1:x";

/// A server that knows the scripts, and by which names.
pub(crate) struct Scripts {
    pub(crate) server: Redis,
    join: String,
    join_shared: String,
    renew: String,
    leave: String,
}

impl Scripts {
    pub(crate) async fn new() -> Self {
        let server = Redis::start().unwrap();
        let backend = globallock::connect_backend(&server.url()).await.unwrap();
        let (alone, shares) = (queued(MUTEX), queued(ONE_OF_TWO));
        assert_eq!(server.cli(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]), "OK");
        enqueue(&backend, &alone).await;
        let join_script = last_script(&server);
        assert!(matches!(backend.renew(&[Arc::new(alone.clone())]).await[..], [Ok(ClaimStatus::Held(_))]));
        let renew = last_script(&server);
        backend.release(&alone).await.unwrap();
        let leave = last_script(&server);
        enqueue(&backend, &shares).await;
        let join_shared = last_script(&server);
        assert!(join_script != renew && renew != join_shared && join_shared != join_script);
        backend.release(&shares).await.unwrap();
        server.cli(&["FLUSHALL"]);
        Scripts { server, join: join_script, join_shared, renew, leave }
    }

    /// A call of a script on the lock `a`.
    pub(crate) fn call(script: &str, arguments: &str) -> String {
        format!("EVALSHA {script} 5 {LOCK} {FENCE} {QUEUE} {CLAIMS} {SHARED} {arguments}")
    }

    /// A join of one that waits, and takes all there is.
    pub(crate) fn joins(&self) -> String {
        self.joins_for(0, 1)
    }

    /// The same of one that may share.
    pub(crate) fn joins_shared(&self) -> String {
        self.joins_shared_for(0)
    }

    /// A join of one that has a longest hold, and waits or does not.
    pub(crate) fn joins_for(&self, longest: u32, waits: u8) -> String {
        let arguments = format!("{ID} 600000 {longest} \"1/1:x\" \"{waits} globallock:wake:nobody\"");
        Self::call(&self.join, &arguments)
    }

    pub(crate) fn joins_shared_for(&self, longest: u32) -> String {
        let arguments = format!("{ID} 600000 {longest} \"1/2:x\" \"1 globallock:wake:nobody\"");
        Self::call(&self.join_shared, &arguments)
    }

    /// A renewal.
    pub(crate) fn renews(&self) -> String {
        Self::call(&self.renew, &format!("{ID} 600000 \"{ID} {REST}\""))
    }

    /// Does what `before` says, with the server's millisecond at hand, and then asks. Nothing comes between.
    pub(crate) fn answer(&self, before: impl Fn(i64) -> Vec<String>, asks: &str) -> Told {
        self.answers(before, &[asks])
    }

    /// The same of several questions, whose answers stand one behind the other.
    pub(crate) fn answers(&self, before: impl Fn(i64) -> Vec<String>, asks: &[&str]) -> Told {
        (0..1000)
            .find_map(|_| self.slow_answers(&before, asks).ok())
            .expect("once, no millisecond goes by while it is asked")
    }

    /// The same, of what ends in the very millisecond in which it is asked.
    pub(crate) fn answers_at(&self, before: impl Fn(i64) -> Vec<String>, asks: &[&str]) -> Told {
        // What is done before takes as long as the last time, sooner or later.
        let mut takes = 1;
        for _ in 0..1000 {
            let told = self.answers(|now| before(now + takes), asks);
            if told.late == takes {
                return told;
            }
            takes = told.late;
        }
        panic!("once, it is asked just then");
    }

    /// The same; what has taken more than a millisecond is an error.
    pub(crate) fn slow_answers(
        &self,
        before: impl Fn(i64) -> Vec<String>,
        asks: &[&str],
    ) -> Result<Told, Told> {
        let given = millisecond(&numbers(&self.server.cli(&["TIME"])));
        let before = before(given);
        let mut commands = vec!["FLUSHALL".to_owned(), "MULTI".to_owned()];
        commands.extend_from_slice(&before);
        let asked = asks.iter().copied();
        commands.extend(std::iter::once("TIME").chain(asked).chain(["TIME", "EXEC"]).map(str::to_owned));
        let printed = piped(&self.server, &commands);
        let (_, results) = printed.rsplit_once("QUEUED\n").expect("it is queued");
        // What is done before is answered by one line each.
        let told = numbers(results.splitn(before.len() + 1, '\n').last().expect("it is answered"));
        let (first, rest) = told.split_at(2);
        let (answer, last) = rest.split_at(rest.len() - 2);
        let now = millisecond(first);
        let told = Told { now, late: now - given, answer: answer.to_vec() };
        if now == millisecond(last) { Ok(told) } else { Err(told) }
    }

    /// A renewal of one that is not in the queue.
    pub(crate) fn renews_shared(&self) -> String {
        Self::call(&self.renew, &format!("{ID} 600000 \"\""))
    }

    /// A departure of one that is this in the queue, or of one that never waits.
    pub(crate) fn leaves(&self, id: &str, member: &str) -> String {
        Self::call(&self.leave, &format!("{id} \"{member}\""))
    }

    /// What a question has the server do inside, command by command.
    pub(crate) fn commands(&self, before: impl Fn(i64) -> Vec<String>, asks: &str) -> Vec<Vec<String>> {
        let monitor = Monitor::start(&self.server);
        self.whatever(before, &[asks]);
        let seen = monitor.end(&self.server);
        seen.iter()
            .filter_map(|line| line.split_once(" lua] ")?.1.strip_prefix('"')?.strip_suffix('"'))
            .map(|command| command.split("\" \"").map(str::to_owned).collect())
            .collect()
    }

    /// What is answered, however long it takes.
    pub(crate) fn whatever(&self, before: impl Fn(i64) -> Vec<String>, asks: &[&str]) -> Vec<i64> {
        self.slow_answers(before, asks).unwrap_or_else(|told| told).answer
    }
}

/// Sees every command of a server, those within scripts too.
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

    /// The commands until now: a moment, whose they are, and each part in quotes.
    pub(crate) fn end(mut self, server: &Redis) -> Vec<String> {
        const LAST: &str = "that is all";
        server.cli(&["ECHO", LAST]);
        let seen = self.lines.map(Result::unwrap).take_while(|line| !line.contains(LAST)).collect();
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        seen
    }
}

/// An answer.
pub(crate) struct Told {
    /// The server's millisecond.
    pub(crate) now: i64,
    /// How many milliseconds ago the one was that had been at hand.
    pub(crate) late: i64,
    pub(crate) answer: Vec<i64>,
}

pub(crate) fn numbers(lines: &str) -> Vec<i64> {
    lines.lines().map(|line| line.parse().expect(lines)).collect()
}

/// Reads a server's seconds and microseconds.
pub(crate) fn millisecond(time: &[i64]) -> i64 {
    time[0] * 1000 + time[1] / 1000
}

pub(crate) fn queued(permits: Permits) -> Claim {
    claim("a", 1, permits, WaitMode::Wait)
}

pub(crate) async fn enqueue(backend: &Arc<dyn Backend>, claim: &Claim) {
    assert!(matches!(backend.enqueue(claim).await, Ok(ClaimStatus::Held(_))));
}

/// The name of the script that was called last.
pub(crate) fn last_script(server: &Redis) -> String {
    let script = "
        for _, entry in ipairs(redis.call('SLOWLOG', 'GET', 100)) do
            if entry[4][1] == 'EVALSHA' then return entry[4][2] end
        end";
    server.cli(&["EVAL", script, "0"])
}

/// What the server answers to these commands, in one transmission.
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

/// A holder whose lease ends then.
pub(crate) fn held_until(ends: i64) -> String {
    format!("SET {LOCK} \"glk1:{OTHER}:1000::0:1/1:x\" PXAT {ends}")
}

/// So many waiters in front, with leases that they have renewed.
pub(crate) fn in_front(count: u32) -> Vec<String> {
    let members: String = (1..=count).map(|number| format!(" {number} \"{number:031x}f {REST}\"")).collect();
    let leases: String = (1..=count).map(|number| format!(" {number:031x}f 99999999999999")).collect();
    if count == 0 {
        Vec::new()
    } else {
        vec![format!("ZADD {QUEUE}{members}"), format!("HSET {CLAIMS}{leases}")]
    }
}

/// The waiter that asks, behind them, with a lease that it has renewed.
pub(crate) fn waits_already() -> Vec<String> {
    vec![
        format!("ZADD {QUEUE} 5000 \"{ID} {REST}\""),
        format!("HSET {CLAIMS} {ID} 99999999999999"),
        format!("SET {FENCE} 5000w"),
    ]
}

/// Those who share, each one of so many with a lease until then, and what they have written beside the lock's key.
pub(crate) fn shared_by(members: &[(i64, u32)], mixed: u8) -> Vec<String> {
    let id = |at: usize| format!("{:032x}", 0xcc00 + at);
    let leases: String =
        members.iter().enumerate().map(|(at, (ends, _))| format!(" {ends} {}", id(at))).collect();
    let record = |(at, (ends, capacity)): (usize, &(i64, u32))| {
        format!(" {} \"1000 {ends} 1 1 0 0 globallock:wake:nobody 1/{capacity}:x\"", id(at))
    };
    let records: String = members.iter().enumerate().map(record).collect();
    let smallest = members.iter().map(|(_, capacity)| capacity).min().expect("somebody shares");
    let count = members.len();
    vec![
        format!("SET {LOCK} glk1+:{OTHER}:1000 PXAT 99999999999999"),
        format!("SET {FENCE} 1000w"),
        format!("ZADD {SHARED}{leases}"),
        format!("HSET {CLAIMS}{records}"),
        format!("HSET {CLAIMS} \"#value\" glk1+:{OTHER}:1000 \"#mixed\" {mixed}"),
        format!("HSET {CLAIMS} \"#weight\" {count} \"#capacity\" {smallest}"),
    ]
}

//! What a server says of itself by INFO and CONFIG, and what it means for locks.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, InfoDict, cmd};

use crate::backend::Finding;
use crate::stores::redis::facts::Facts;

/// The settings that matter, as CONFIG GET names them.
const SETTINGS: [&str; 6] =
    ["save", "appendfsync", "maxclients", "timeout", "min-replicas-to-write", "stop-writes-on-bgsave-error"];

/// The settings of a server that this user may read: few may.
#[derive(Debug, Default)]
pub(super) struct Settings(HashMap<String, String>);

impl Settings {
    pub(super) async fn read(connection: &mut MultiplexedConnection) -> Self {
        let mut settings = HashMap::new();
        for name in SETTINGS {
            // Several names at once are a form of Redis 7.
            let mut command = cmd("CONFIG");
            let asked = command.arg("GET").arg(name).query_async::<HashMap<String, String>>(connection).await;
            let Ok(answer) = asked else { break };
            settings.extend(answer);
        }
        Settings(settings)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }
}

/// All that is said of the server. `may_drop_locks` is what the connection warns of.
pub(super) fn findings(
    facts: &Facts,
    may_drop_locks: Option<String>,
    info: Option<&InfoDict>,
    settings: &Settings,
) -> Vec<Finding> {
    let mut found = vec![version(facts, info)];
    let Some(info) = info else {
        let text = "this user may not read INFO: eviction, persistence, replicas and clients are not known";
        found.push(Finding::unknown("server", text).remedy("give the user +info, and +config|get too"));
        return found;
    };
    let server = Server { info, settings };
    found.push(server.memory(may_drop_locks));
    found.push(server.persistence());
    found.extend(server.failed_saves());
    found.push(server.replication());
    found.extend(server.clients());
    found.extend(server.idle_clients());
    found
}

/// Which server it is, and what its version lacks.
fn version(facts: &Facts, info: Option<&InfoDict>) -> Finding {
    let said = |field: &str| info.and_then(|info| info.get::<String>(field));
    let Some(version) = &facts.version else {
        return Finding::unknown("version", "it does not say which version it is")
            .remedy("give the user +info or +hello");
    };
    let is_of = |program: &str| said("executable").is_some_and(|path| path.contains(program));
    let version = version.escape_debug();
    if let Some(dragonfly) = said("dragonfly_version") {
        let text = format!("Dragonfly {}, like Redis {version}", dragonfly.escape_debug());
        return Finding::note("version", text)
            .remedy("nobody has tried locks on it: try yours before you rely on them");
    }
    if said("mvcc_depth").is_some() || is_of("keydb") {
        let text = format!("KeyDB {version}");
        return Finding::note("version", text)
            .remedy("nobody has tried locks on it: try yours before you rely on them");
    }
    if facts.is_valkey {
        let valkey = said("valkey_version").unwrap_or_else(|| version.to_string());
        return Finding::good("version", format!("Valkey {}", valkey.escape_debug()));
    }
    let numbers: Vec<u32> = version.to_string().split('.').map_while(|part| part.parse().ok()).collect();
    let more = "a lock and its release take two commands of the server more than on 7.0";
    match numbers[..] {
        [6, 0, ..] => Finding::note(
            "version",
            format!("Redis {version}: {more}, scripts do not obey min-replicas-to-write, and users have no rights for channels"),
        )
        .remedy("Redis 7.0 and newer, or Valkey, have all of it"),
        [6, ..] => Finding::note("version", format!("Redis {version}: {more}"))
            .remedy("Redis 7.0 and newer, or Valkey, need fewer"),
        _ => Finding::good("version", format!("Redis {version}")),
    }
}

/// What the server says of itself.
struct Server<'a> {
    info: &'a InfoDict,
    settings: &'a Settings,
}

impl Server<'_> {
    fn field<T: FromRedisValue>(&self, name: &str) -> Option<T> {
        self.info.get(name)
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.field::<String>(name).as_deref() == Some(value)
    }

    /// What becomes of locks when the memory is full.
    fn memory(&self, may_drop_locks: Option<String>) -> Finding {
        let (limit, used) = (self.field("maxmemory").unwrap_or(0), self.field("used_memory").unwrap_or(0));
        let policy: Option<String> = self.field("maxmemory_policy");
        let policy = policy.as_deref().unwrap_or("unknown").escape_debug();
        let percent = |limit: u64| (used.min(limit * 10) * 100).checked_div(limit).unwrap_or(0);
        let full = format!("{} % of maxmemory ({} MiB) are used", percent(limit), limit >> 20);
        match may_drop_locks {
            Some(reason) => {
                let (text, remedy) = reason.split_once(": ").unwrap_or((&reason, ""));
                Finding::bad("eviction", format!("{text} (maxmemory-policy {policy}); {full}")).remedy(remedy)
            }
            None if limit == 0 && policy.to_string() == "noeviction" => {
                Finding::good("eviction", "the server evicts no keys, and its memory is not limited")
            }
            None if limit == 0 => {
                let text = format!(
                    "its memory is not limited, so that it evicts no keys; with a limit, \
                                    maxmemory-policy {policy} would evict locks"
                );
                Finding::note("eviction", text).remedy("set maxmemory-policy to noeviction")
            }
            None if percent(limit) >= 90 => {
                let text = format!("{full}: locks are kept when it is full, and new ones refused");
                Finding::note("eviction", text).remedy("raise maxmemory, or give locks a server of their own")
            }
            None => Finding::good("eviction", format!("the server evicts no keys (noeviction); {full}")),
        }
    }

    /// What a restart forgets.
    fn persistence(&self) -> Finding {
        let always = "set appendonly yes and appendfsync always to keep all, or check fencing tokens in what \
                      the locks guard";
        let saves = self.settings.get("save");
        if self.is("aof_enabled", "1") {
            return match self.settings.get("appendfsync") {
                Some("always") => {
                    Finding::good("persistence", "a restart forgets nothing (appendfsync always)")
                }
                Some("everysec") | None => Finding::note(
                    "persistence",
                    "a crash of the host may forget what was locked in the last two seconds (appendonly yes)",
                )
                .remedy(always),
                Some(other) => Finding::note(
                    "persistence",
                    format!("a crash of the host may forget locks (appendfsync {})", other.escape_debug()),
                )
                .remedy(always),
            };
        }
        let (text, finding): (_, fn(_, _) -> Finding) = match saves {
            Some("") => ("a restart forgets all locks: it saves nothing to its disk", Finding::note),
            Some(_) => ("a restart forgets all locks since the last snapshot", Finding::note),
            None => ("a restart forgets locks: it keeps snapshots at most (appendonly no)", Finding::note),
        };
        finding("persistence", text.to_owned()).remedy(always)
    }

    /// Whether the last save has failed, after which the server refuses writes.
    fn failed_saves(&self) -> Option<Finding> {
        let stops = self.settings.get("stop-writes-on-bgsave-error") != Some("no");
        let snapshot = self.is("rdb_last_bgsave_status", "err");
        let log = self.is("aof_last_write_status", "err");
        if log || snapshot && stops && self.settings.get("save") != Some("") {
            let text =
                "it could not save to its disk, and refuses writes until it can: locks are lost with it";
            return Some(
                Finding::bad("disk", text).remedy("free the disk, and look into the log of the server"),
            );
        }
        snapshot.then(|| {
            Finding::note("disk", "its last snapshot has failed").remedy("look into the log of the server")
        })
    }

    /// What a failover forgets.
    fn replication(&self) -> Finding {
        if self.is("role", "slave") {
            let text = "it is a read-only replica: locks need the primary";
            return Finding::bad("replicas", text).remedy("give the primary's address, or that of sentinels");
        }
        let replicas: u64 = self.field("connected_slaves").unwrap_or(0);
        let needed = self.settings.number("min-replicas-to-write");
        let good: Option<u64> = self.field("min_slaves_good_slaves");
        if let (Some(needed @ 1..), Some(good)) = (needed, good)
            && good < needed
        {
            let text =
                format!("{good} of the {needed} replicas that writes need are there: locks are refused");
            return Finding::bad("replicas", text)
                .remedy("start the replicas, or lower min-replicas-to-write");
        }
        let fencing = "check fencing tokens in what the locks guard, or use etcd or ZooKeeper";
        match replicas {
            0 => Finding::note(
                "replicas",
                "none: while the server is away, nobody gets a lock, and what is held \
                                is lost after its lease",
            )
            .remedy("a replica and three sentinels take over, but may forget the last locks"),
            count => {
                let writes = needed.filter(|needed| *needed > 0);
                let writes =
                    writes.map(|needed| format!("; writes need {needed} of them")).unwrap_or_default();
                let text = format!(
                    "{count}, which copy later: a failover may forget the last locks, which then \
                                    have two holders{writes}"
                );
                Finding::note("replicas", text).remedy(fencing)
            }
        }
    }

    /// How near the limit of clients is.
    fn clients(&self) -> Option<Finding> {
        let limit: u64 = self.field("maxclients").or_else(|| self.settings.number("maxclients"))?;
        let connected: u64 = self.field("connected_clients")?;
        let text = format!("{connected} of {limit} clients are connected");
        let remedy =
            "raise maxclients, or let fewer clients connect: each process with locks has one connection";
        Some(match connected * 100 / limit.max(1) {
            95.. => Finding::bad("clients", format!("{text}: more are refused soon")).remedy(remedy),
            75.. => Finding::note("clients", text).remedy(remedy),
            _ => Finding::good("clients", text),
        })
    }

    /// What becomes of connections without requests.
    fn idle_clients(&self) -> Option<Finding> {
        let seconds = self.settings.number("timeout").filter(|seconds| *seconds > 0)?;
        let text =
            format!("idle connections are closed after {seconds} s, but not those of locks, which subscribe");
        Some(Finding::good("idle clients", text))
    }
}

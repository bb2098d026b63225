//! What a server says of itself by INFO and CONFIG, and what it means for locks.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, InfoDict, Pipeline};

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
        // Several names in one request are a form of Redis 7.
        let mut requests = Pipeline::with_capacity(SETTINGS.len());
        for name in SETTINGS {
            requests.cmd("CONFIG").arg("GET").arg(name);
        }
        let answers = connection.send_packed_commands(&requests, 0, SETTINGS.len()).await.unwrap_or_default();
        let settings = answers.into_iter().filter_map(|answer| {
            HashMap::<String, String>::from_redis_value(answer.extract_error().ok()?).ok()
        });
        Settings(settings.flatten().collect())
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
            format!(
                "Redis {version}: {more}, scripts do not obey min-replicas-to-write, and users have no \
                 rights for channels"
            ),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Verdict;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// What is found on a subject where INFO has these lines, and CONFIG these settings.
    fn found(subject: &str, lines: &[&str], pairs: &[(&str, &str)]) -> Option<Finding> {
        let info = InfoDict::new(&lines.join("\r\n"));
        let facts = Facts { version: Some("7.0.15".to_owned()), ..Facts::default() };
        let all = findings(&facts, None, Some(&info), &settings(pairs));
        all.into_iter().find(|finding| finding.subject == subject)
    }

    fn verdict(subject: &str, lines: &[&str], pairs: &[(&str, &str)]) -> Option<Verdict> {
        found(subject, lines, pairs).map(|finding| finding.verdict)
    }

    #[test]
    fn servers_are_called_by_their_names_and_told_what_they_lack() {
        let told = |number: &str, is_valkey, lines: &[&str]| {
            let facts = Facts { version: Some(number.to_owned()), is_valkey, ..Facts::default() };
            let found = version(&facts, Some(&InfoDict::new(&lines.join("\r\n"))));
            (found.verdict, found.text)
        };
        let good = |text: &str| (Verdict::Good, text.to_owned());
        assert_eq!(told("8.2.3", false, &[]), good("Redis 8.2.3"));
        assert_eq!(told("7.2.4", true, &["valkey_version:9.1.2"]), good("Valkey 9.1.2"));
        for (version, lines, text) in [
            ("6.2.14", &[][..], "Redis 6.2.14: a lock and its release take two commands"),
            (
                "6.0.9",
                &[],
                "scripts do not obey min-replicas-to-write, and users have no rights for channels",
            ),
            ("6.3.4", &["mvcc_depth:0"], "KeyDB 6.3.4"),
            ("6.3.4", &["executable:/usr/bin/keydb-server"], "KeyDB 6.3.4"),
            ("7.4.0", &["dragonfly_version:df-v1.37"], "Dragonfly df-v1.37, like Redis 7.4.0"),
        ] {
            let (verdict, said) = told(version, false, lines);
            assert!(verdict == Verdict::Note && said.contains(text), "{said}");
        }
        let unknown = version(&Facts::default(), None);
        assert_eq!(unknown.verdict, Verdict::Unknown);
    }

    #[test]
    fn without_info_it_is_told_what_is_not_known() {
        let facts = Facts { version: Some("7.0.15".to_owned()), ..Facts::default() };
        let all = findings(&facts, None, None, &Settings::default());
        let verdicts: Vec<_> = all.iter().map(|finding| (finding.subject, finding.verdict)).collect();
        assert_eq!(verdicts, [("version", Verdict::Good), ("server", Verdict::Unknown)]);
    }

    #[test]
    fn a_memory_that_is_nearly_full_or_would_evict_is_worth_a_note() {
        let limit = "maxmemory:1000";
        let memory = |used: &str, policy: &str| {
            let (used, policy) = (format!("used_memory:{used}"), format!("maxmemory_policy:{policy}"));
            verdict("eviction", &[limit, &used, &policy], &[])
        };
        assert_eq!(memory("899", "noeviction"), Some(Verdict::Good));
        assert_eq!(memory("900", "noeviction"), Some(Verdict::Note));
        assert_eq!(verdict("eviction", &["maxmemory_policy:noeviction"], &[]), Some(Verdict::Good));
        assert_eq!(verdict("eviction", &["maxmemory_policy:allkeys-lru"], &[]), Some(Verdict::Note));
    }

    #[test]
    fn what_a_restart_forgets_follows_from_how_the_server_saves() {
        for (lines, pairs, expected, text) in [
            (&["aof_enabled:1"][..], &[("appendfsync", "always")][..], Verdict::Good, "forgets nothing"),
            (&["aof_enabled:1"], &[("appendfsync", "everysec")], Verdict::Note, "last two seconds"),
            (&["aof_enabled:1"], &[("appendfsync", "no")], Verdict::Note, "appendfsync no"),
            (&["aof_enabled:1"], &[], Verdict::Note, "last two seconds"),
            (&["aof_enabled:0"], &[("save", "")], Verdict::Note, "it saves nothing"),
            (&["aof_enabled:0"], &[("save", "3600 1")], Verdict::Note, "since the last snapshot"),
            (&["aof_enabled:0"], &[], Verdict::Note, "snapshots at most"),
        ] {
            let found = found("persistence", lines, pairs).unwrap();
            assert!(found.verdict == expected && found.text.contains(text), "{found}");
        }
    }

    #[test]
    fn a_server_that_cannot_save_refuses_writes_unless_it_is_told_to_go_on() {
        let (snapshot, log) = ("rdb_last_bgsave_status:err", "aof_last_write_status:err");
        assert_eq!(verdict("disk", &[], &[]), None);
        assert_eq!(verdict("disk", &[snapshot], &[]), Some(Verdict::Bad));
        assert_eq!(
            verdict("disk", &[snapshot], &[("stop-writes-on-bgsave-error", "no")]),
            Some(Verdict::Note)
        );
        assert_eq!(verdict("disk", &[snapshot], &[("save", "")]), Some(Verdict::Note));
        assert_eq!(verdict("disk", &[log], &[("save", "")]), Some(Verdict::Bad));
    }

    #[test]
    fn replicas_are_told_by_what_a_failover_forgets() {
        let needs = [("min-replicas-to-write", "2")];
        let good = |count: u32| format!("min_slaves_good_slaves:{count}");
        assert_eq!(verdict("replicas", &["role:slave"], &[]), Some(Verdict::Bad));
        assert_eq!(verdict("replicas", &["role:master", &good(1)], &needs), Some(Verdict::Bad));
        let two = found("replicas", &["role:master", "connected_slaves:2", &good(2)], &needs).unwrap();
        assert!(two.verdict == Verdict::Note && two.text.ends_with("; writes need 2 of them"), "{two}");
        let none = found("replicas", &["role:master", "connected_slaves:0"], &[]).unwrap();
        assert!(none.verdict == Verdict::Note && none.text.starts_with("none: "), "{none}");
    }

    #[test]
    fn a_server_with_many_clients_is_told_before_it_refuses_more() {
        let clients = |connected: u32| {
            let connected = format!("connected_clients:{connected}");
            verdict("clients", &[&connected, "maxclients:100"], &[])
        };
        assert_eq!([clients(74), clients(75)], [Some(Verdict::Good), Some(Verdict::Note)]);
        assert_eq!([clients(94), clients(95)], [Some(Verdict::Note), Some(Verdict::Bad)]);
        assert_eq!(
            verdict("clients", &["connected_clients:99"], &[("maxclients", "100")]),
            Some(Verdict::Bad)
        );
        assert_eq!(verdict("clients", &["connected_clients:99"], &[]), None, "the limit is not known");
        assert_eq!(verdict("idle clients", &[], &[("timeout", "0")]), None);
        assert_eq!(verdict("idle clients", &[], &[("timeout", "60")]), Some(Verdict::Good));
    }
}

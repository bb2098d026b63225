//! What a server says of itself when a connection is made: whether it can serve, and by which commands.

use redis::aio::MultiplexedConnection;
use redis::{InfoDict, RedisResult, Value};

use super::failure::{Failure, Kind};
use super::scripts::Commands;

/// What is known of a server. What it does not say is `None`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The version of Redis that it is, or is like.
    pub(super) version: Option<String>,
    pub(super) is_valkey: bool,
    /// Whether it runs alone (`standalone`), or as a `cluster` node, or as a `sentinel`.
    pub(super) mode: Option<String>,
    /// Which keys it evicts when its memory is full, if its memory is limited.
    pub(super) eviction_policy: Option<String>,
}

/// A server that can serve.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) commands: Commands,
    /// Why it may drop locks, if it may.
    pub(super) may_drop_locks: Option<String>,
}

/// Asks the server what it is.
///
/// # Errors
/// When it cannot serve.
pub(super) async fn ask(connection: &mut MultiplexedConnection) -> Result<Server, Failure> {
    judge(&read(connection).await?.0)
}

/// Reads what the server says of itself, and with it INFO, if this user may read that.
///
/// # Errors
/// When it is no Redis, or has not answered.
pub(super) async fn read(
    connection: &mut MultiplexedConnection,
) -> Result<(Facts, Option<InfoDict>), Failure> {
    let info: RedisResult<InfoDict> = redis::cmd("INFO").query_async(connection).await;
    match info.map_err(Failure::from) {
        Ok(info) if info.get::<String>("redis_version").is_none() => {
            Err(Failure::new(Kind::FailedPrecondition, "it does not answer as Redis does: check the address"))
        }
        Ok(info) => Ok((Facts::of_info(&info), Some(info))),
        // The user may lack the right to INFO, or the operator has renamed it. HELLO says which server it
        // is; that it evicts no locks is then for the operator to see to.
        Err(failure) if failure.kind == Kind::PermissionDenied || failure.is_unknown_command() => {
            let hello: Value = redis::cmd("HELLO").arg(3).query_async(connection).await?;
            Ok((Facts::of_hello(&hello), None))
        }
        Err(failure) => Err(failure),
    }
}

/// Why the server cannot serve, by what INFO says, if it says so.
pub(super) async fn refusal(connection: &mut MultiplexedConnection) -> Option<Failure> {
    let info: InfoDict = redis::cmd("INFO").query_async(connection).await.ok()?;
    judge(&Facts::of_info(&info)).err()
}

impl Facts {
    fn of_info(info: &InfoDict) -> Self {
        let limit: u64 = info.get("maxmemory").unwrap_or_default();
        let is_cluster = info.get::<String>("cluster_enabled").is_some_and(|enabled| enabled == "1");
        Facts {
            version: info.get("redis_version"),
            is_valkey: info.get::<String>("valkey_version").is_some(),
            // Valkey has given it another name.
            mode: match is_cluster {
                true => Some("cluster".to_owned()),
                false => info.get("redis_mode").or_else(|| info.get("server_mode")),
            },
            eviction_policy: (limit > 0).then(|| info.get("maxmemory_policy")).flatten(),
        }
    }

    fn of_hello(hello: &Value) -> Self {
        let Value::Map(fields) = hello else { return Facts::default() };
        let text = |value: &Value| match value {
            Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Value::SimpleString(text) => Some(text.clone()),
            _ => None,
        };
        let field = |name: &str| {
            fields
                .iter()
                .find(|(field, _)| text(field).as_deref() == Some(name))
                .and_then(|(_, value)| text(value))
        };
        Facts {
            version: field("version"),
            is_valkey: field("server").as_deref() == Some("valkey"),
            mode: field("mode"),
            eviction_policy: None,
        }
    }
}

/// Decides whether such a server can serve.
pub(super) fn judge(facts: &Facts) -> Result<Server, Failure> {
    let refused = |reason: String| Err(Failure::new(Kind::FailedPrecondition, reason));
    let name = if facts.is_valkey { "Valkey" } else { "Redis" };
    match facts.mode.as_deref() {
        Some("cluster") => {
            return refused(format!(
                "it is a node of a {name} Cluster, which is not supported: give the address of a server \
                 that runs alone (cluster-enabled no), or of sentinels"
            ));
        }
        Some("sentinel") => {
            return refused(
                "it is a sentinel: write <scheme>+sentinel:// and the service that it watches, such as \
                 <scheme>+sentinel://host:26379/main"
                    .to_owned(),
            );
        }
        _ => {}
    }
    let major = |version: &String| version.split('.').next()?.parse::<u32>().ok();
    let commands = match (&facts.version, facts.version.as_ref().and_then(major)) {
        (Some(version), Some(..6)) => {
            let version = version.escape_debug();
            return refused(format!("it is {name} {version}: globallock needs 6.0 or newer"));
        }
        // A server that does not say which it is has what all have.
        (_, Some(6) | None) => Commands::Redis6,
        (_, Some(_)) => Commands::Redis7,
    };
    let policy = facts.eviction_policy.as_deref().filter(|policy| *policy != "noeviction");
    let may_drop_locks = policy.map(|policy| {
        let policy = policy.escape_debug();
        format!(
            "it may evict locks when its memory is full: set maxmemory-policy to noeviction, not {policy}"
        )
    });
    Ok(Server { commands, may_drop_locks })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(lines: &[&str]) -> Facts {
        let text = lines.join("\r\n");
        Facts::of_info(&InfoDict::new(&text))
    }

    fn judged(lines: &[&str]) -> Result<Server, String> {
        judge(&info(lines)).map_err(|failure| failure.reason().to_owned())
    }

    fn serves(commands: Commands) -> Result<Server, String> {
        Ok(Server { commands, may_drop_locks: None })
    }

    #[test]
    fn the_version_decides_which_commands_are_used() {
        for (version, commands) in [
            ("6.0.0", Commands::Redis6),
            ("6.2.14", Commands::Redis6),
            ("6.3.4", Commands::Redis6),
            ("6.9.242", Commands::Redis6),
            ("7.0.0", Commands::Redis7),
            ("7.2.4", Commands::Redis7),
            ("8.2.3", Commands::Redis7),
            ("10.0.0", Commands::Redis7),
            ("255.255.255", Commands::Redis7),
            ("what is no version", Commands::Redis6),
        ] {
            assert_eq!(judged(&[&format!("redis_version:{version}")]), serves(commands), "{version}");
            let hello =
                Value::Map(vec![(simple("version"), bulk(version)), (bulk("mode"), bulk("standalone"))]);
            assert_eq!(judge(&Facts::of_hello(&hello)).ok(), serves(commands).ok(), "{version}, by HELLO");
        }
        assert_eq!(judge(&Facts::of_hello(&Value::Nil)).ok(), serves(Commands::Redis6).ok());
    }

    fn simple(text: &str) -> Value {
        Value::SimpleString(text.to_owned())
    }

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn an_old_server_is_refused_with_its_version() {
        for version in ["5.0.6", "5.9.102", "4.0.14", "2.8.24"] {
            let reason = format!("it is Redis {version}: globallock needs 6.0 or newer");
            assert_eq!(judged(&[&format!("redis_version:{version}")]), Err(reason));
        }
    }

    #[test]
    fn a_cluster_node_and_a_sentinel_are_refused_with_what_to_use() {
        let cluster =
            "which is not supported: give the address of a server that runs alone (cluster-enabled no)";
        for lines in [
            &["redis_version:7.0.15", "cluster_enabled:1"][..],
            &["redis_version:7.0.15", "redis_mode:cluster"],
            &["redis_version:6.2.5", "redis_mode:cluster", "cluster_enabled:1"],
        ] {
            let refused = judged(lines).unwrap_err();
            assert!(refused.starts_with("it is a node of a Redis Cluster"), "{lines:?}: {refused}");
            assert!(refused.contains(cluster), "{lines:?}: {refused}");
        }
        let valkey =
            judged(&["redis_version:7.2.4", "valkey_version:9.1.2", "cluster_enabled:1"]).unwrap_err();
        assert!(valkey.starts_with("it is a node of a Valkey Cluster"), "{valkey}");
        let hello = [("server", "valkey"), ("version", "9.1.2"), ("mode", "cluster")];
        let hello = Value::Map(hello.iter().map(|(field, value)| (bulk(field), bulk(value))).collect());
        assert_eq!(judge(&Facts::of_hello(&hello)).unwrap_err().reason(), valkey);
        let sentinel = judged(&["redis_version:7.0.15", "redis_mode:sentinel"]).unwrap_err();
        assert!(sentinel.contains("<scheme>+sentinel://host:26379/main"), "{sentinel}");
        let of_valkey = ["redis_version:7.2.4", "valkey_version:9.1.2", "server_mode:sentinel"];
        assert_eq!(judged(&of_valkey).unwrap_err(), sentinel);
        let alone = &["redis_version:7.0.15", "redis_mode:standalone", "cluster_enabled:0"];
        assert_eq!(judged(alone), serves(Commands::Redis7));
    }

    #[test]
    fn a_server_that_may_evict_locks_is_warned_of() {
        let policy = |limit: &str, policy: &str| {
            let lines = [
                "redis_version:7.0.15",
                &format!("maxmemory:{limit}"),
                &format!("maxmemory_policy:{policy}"),
            ];
            judged(&lines).unwrap().may_drop_locks
        };
        assert_eq!(policy("1", "noeviction"), None);
        assert_eq!(policy("0", "allkeys-lru"), None);
        let warning = policy("1", "allkeys-lru").unwrap();
        assert!(warning.ends_with("set maxmemory-policy to noeviction, not allkeys-lru"), "{warning}");
    }
}

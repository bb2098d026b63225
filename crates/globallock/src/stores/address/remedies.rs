//! What to write in place of an option that an address does not have: an option of another scheme, or one
//! that other libraries have for the same thing.

/// What other libraries call an option, in lower case and without `-` and `_`, and what to write here.
const TRANSLATED: &[(&[&str], Remedy)] = &[
    (&["db", "database", "dbnum", "dbindex"], Remedy::Database),
    (
        &[
            "sslcacerts",
            "sslca",
            "sslcapath",
            "sslcadata",
            "tlsca",
            "cacert",
            "cacerts",
            "cafile",
            "sslrootcert",
            "tlscacert",
            "trustedcafile",
            "rootcert",
        ],
        Remedy::Tls("ca=FILE"),
    ),
    (
        &["sslcertfile", "sslcert", "tlscert", "certfile", "clientcert", "certcert"],
        Remedy::Tls("cert=FILE and key=FILE"),
    ),
    (
        &["sslkeyfile", "sslkey", "tlskey", "keyfile", "clientkey", "certkey"],
        Remedy::Tls("cert=FILE and key=FILE"),
    ),
    (
        &[
            "sslcertreqs",
            "sslcheckhostname",
            "insecure",
            "insecureskipverify",
            "tlsinsecure",
            "verify",
            "verifycerts",
            "sslverify",
        ],
        Remedy::Say("a server's certificate is always checked, so name a file of those to trust by ca=FILE"),
    ),
    (&["ssl", "tls", "usessl", "sslmode", "secure"], Remedy::Secure),
    (
        &[
            "sockettimeout",
            "socketconnecttimeout",
            "connecttimeout",
            "connectiontimeout",
            "dialtimeout",
            "readtimeout",
            "writetimeout",
            "requesttimeout",
            "commandtimeout",
            "timeoutms",
        ],
        Remedy::Say("write timeout=2s, which is for each request and for each try to connect"),
    ),
    (
        &["password", "pass", "passwd", "username", "user", "login", "auth"],
        Remedy::Say("write user and password before the host: user:password@host"),
    ),
    (&["keyprefix", "namespace", "globalprefix", "lockprefix"], Remedy::Say("write prefix=TEXT")),
    (
        &["sessiontimeout", "sessiontimeoutms", "leasettl", "ttl", "lockttl", "expiry", "lease"],
        Remedy::Say("the lease is an option of locks, not of the address"),
    ),
    (&["chroot", "root"], Remedy::Say("write it as the path, after the last host: /chroot")),
    (
        &["mastername", "servicename", "sentinelmaster", "master", "service", "mastersetname"],
        Remedy::Say("write redis+sentinel://host,host/SERVICE"),
    ),
    (&["sentinelusername"], Remedy::Sentinel("sentinel_user=USER")),
    (&["sentineluser", "sentinelpassword"], Remedy::Sentinel("it")),
    (&["ca", "cert", "key"], Remedy::Tls("it")),
    (
        &[
            "decoderesponses",
            "protocol",
            "maxconnections",
            "poolsize",
            "retryontimeout",
            "healthcheckinterval",
            "clientname",
            "encoding",
            "socketkeepalive",
            "minidleconns",
            "maxretries",
        ],
        Remedy::Say("leave it out, since nothing here depends on it"),
    ),
];

#[derive(Clone, Copy)]
enum Remedy {
    /// This.
    Say(&'static str),
    /// This option, which addresses with TLS have.
    Tls(&'static str),
    /// This option, which addresses of sentinels have.
    Sentinel(&'static str),
    /// The scheme with TLS.
    Secure,
    /// The number of the database, whose place depends on the scheme.
    Database,
}

/// What to write in the addresses of PostgreSQL, whose options are those of libpq.
const OF_POSTGRES: &[(&[&str], &str)] = &[
    (&["db", "database", "dbname", "databasename"], "the database is the path, as in postgres://host/app"),
    (&["currentschema", "searchpath", "namespace"], "write schema=NAME, which is that of the locks"),
    (&["hostaddr", "server", "servername"], "write the address as the host"),
    (
        &["ssl", "tls", "usessl", "secure", "requiressl", "encrypt"],
        "write sslmode=require, or sslmode=verify-full, which also checks who the server is",
    ),
    (
        &[
            "sslcacerts",
            "sslca",
            "sslcapath",
            "tlsca",
            "ca",
            "cacert",
            "cacerts",
            "cafile",
            "tlscacert",
            "trustedcafile",
            "rootcert",
            "servercertificate",
        ],
        "write sslmode=verify-full with sslrootcert=FILE",
    ),
    (
        &[
            "cert",
            "sslcertfile",
            "tlscert",
            "certfile",
            "clientcert",
            "key",
            "sslkeyfile",
            "tlskey",
            "keyfile",
        ],
        "write sslcert=FILE and sslkey=FILE",
    ),
    (
        &["sslcertreqs", "sslcheckhostname", "insecure", "trustservercertificate", "verify", "sslverify"],
        "write sslmode=require, which checks no certificate, or sslmode=verify-full, which does",
    ),
    (
        &["sslpassword"],
        "a key with a password is not supported: name a file with the key itself by sslkey=FILE",
    ),
    (&["sslcrl", "sslcrldir"], "lists of revoked certificates are not supported"),
    (&["sslnegotiation"], "leave it out: TLS begins as every version of the server knows it"),
    (
        &["gssencmode", "krbsrvname", "gsslib", "gssdelegation", "requirepeer", "requireauth"],
        "it is not supported: only passwords, certificates, and what the server trusts",
    ),
    (
        &["poolsize", "maxpoolsize", "maxconnections", "poolmaxconns", "maxoverflow", "minpoolsize", "pool"],
        "write connections=4, which are the most that a store opens",
    ),
    (
        &["statementtimeout", "locktimeout", "idleintransactionsessiontimeout"],
        "write timeout=2s, after which a request is cancelled",
    ),
    (
        &[
            "clientencoding",
            "fallbackapplicationname",
            "keepalives",
            "keepalivesidle",
            "keepalivesinterval",
            "keepalivescount",
            "tcpusertimeout",
            "sslcompression",
            "sslsni",
            "loadbalancehosts",
            "sslminprotocolversion",
            "sslmaxprotocolversion",
            "preparethreshold",
            "pgbouncer",
            "replication",
            "statementcachesize",
            "statementcachecapacity",
            "preparedstatementcachesize",
        ],
        "leave it out, since nothing here depends on it",
    ),
];

/// What to write in place of an option that the addresses of a scheme do not have.
pub(super) fn of(option: &str, scheme: &str) -> Option<String> {
    let plain: String =
        option.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    if matches!(scheme, "postgres" | "postgresql")
        && let Some((_, remedy)) = OF_POSTGRES.iter().find(|(names, _)| names.contains(&plain.as_str()))
    {
        return Some((*remedy).to_owned());
    }
    let (_, remedy) = TRANSLATED.iter().find(|(names, _)| names.contains(&plain.as_str()))?;
    let (store, way) = scheme.split_once('+').map_or((scheme, None), |(store, way)| (store, Some(way)));
    let is_redis = matches!(store, "redis" | "rediss" | "valkey" | "valkeys");
    let secure = match store {
        "redis" if way != Some("unix") => Some("rediss"),
        "valkey" if way != Some("unix") => Some("valkeys"),
        "etcd" => Some("etcds"),
        "zookeeper" => Some("zookeepers"),
        _ => None,
    };
    let secure = secure.map(|store| way.map_or(store.to_owned(), |way| format!("{store}+{way}")));
    let has_tls = matches!(store, "rediss" | "valkeys" | "etcds" | "zookeepers");
    match (remedy, secure) {
        (Remedy::Say(text), _) => Some((*text).to_owned()),
        (Remedy::Tls("it"), Some(secure)) => Some(format!("this is no TLS, so write {secure}:// with it")),
        (Remedy::Tls("it"), None) => None,
        (Remedy::Tls(option), Some(secure)) => Some(format!("write {secure}:// with {option}")),
        (Remedy::Tls(option), None) => has_tls.then(|| format!("write {option}")),
        (Remedy::Secure, Some(secure)) => Some(format!("write {secure}://")),
        (Remedy::Secure, None) => has_tls.then(|| format!("{scheme}:// is TLS already, so leave it out")),
        (Remedy::Sentinel(_) | Remedy::Database, _) if !is_redis => None,
        (Remedy::Sentinel("it"), _) => {
            Some("that is for sentinels: redis+sentinel://host,host/SERVICE".to_owned())
        }
        (Remedy::Sentinel(option), _) => {
            Some(format!("write {option}, in redis+sentinel://host,host/SERVICE"))
        }
        (Remedy::Database, _) => Some(match way {
            None => format!("the database is the path, as in {scheme}://host/1"),
            Some("sentinel") => {
                format!("the database is behind the service, as in {scheme}://host,host/main/1")
            }
            Some(_) => "write db=1".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_of_another_scheme_or_library_is_translated() {
        for (option, scheme, remedy) in [
            ("db", "redis", Some("the database is the path, as in redis://host/1")),
            ("db", "rediss", Some("the database is the path, as in rediss://host/1")),
            ("database", "redis+unix", Some("write db=1")),
            ("db", "redis+sentinel", Some("behind the service, as in redis+sentinel://host,host/main/1")),
            ("db", "etcd", None),
            ("ssl_ca_certs", "rediss", Some("write ca=FILE")),
            ("ssl_ca_certs", "redis", Some("write rediss:// with ca=FILE")),
            ("ssl-certfile", "etcds", Some("write cert=FILE and key=FILE")),
            ("cacert", "zookeeper", Some("write zookeepers:// with ca=FILE")),
            ("ca", "redis", Some("no TLS, so write rediss:// with it")),
            ("ca", "redis+sentinel", Some("no TLS, so write rediss+sentinel:// with it")),
            ("ca", "redis+unix", None),
            ("key", "file", None),
            ("ssl", "etcd", Some("write etcds://")),
            ("ssl", "etcds", Some("etcds:// is TLS already")),
            ("ssl_cert_reqs", "rediss", Some("always checked")),
            ("socket_timeout", "redis", Some("write timeout=2s")),
            ("socketTimeout", "redis", Some("write timeout=2s")),
            ("sentinel_password", "redis", Some("for sentinels")),
            ("sentinel_username", "redis+sentinel", Some("write sentinel_user=USER")),
            ("sentinel_user", "etcd", None),
            ("password", "zookeeper", Some("user:password@host")),
            ("decode_responses", "redis", Some("leave it out")),
            ("colour", "redis", None),
            ("dbname", "postgres", Some("the database is the path")),
            ("ssl", "postgresql", Some("write sslmode=require")),
            ("ca", "postgres", Some("sslrootcert=FILE")),
            ("pool_size", "postgres", Some("write connections=4")),
            ("socket_timeout", "postgres", Some("write timeout=2s")),
            ("keepalives_idle", "postgres", Some("leave it out")),
            ("password", "postgres", Some("user:password@host")),
            ("colour", "postgres", None),
        ] {
            let found = of(option, scheme);
            match remedy {
                Some(text) => {
                    assert!(found.as_ref().is_some_and(|found| found.contains(text)), "{option}: {found:?}");
                }
                None => assert_eq!(found, None, "{option} {scheme}"),
            }
        }
    }
}

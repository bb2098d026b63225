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

/// What to write in place of an option that the addresses of a scheme do not have.
pub(super) fn of(option: &str, scheme: &str) -> Option<String> {
    let plain: String =
        option.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
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

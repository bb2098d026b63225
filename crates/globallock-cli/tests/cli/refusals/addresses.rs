//! Addresses that name no store, or an option that it does not have.

use globallock::{Error, LockManager, Options};

use crate::support::{ended, globallock};

#[test]
fn an_address_that_is_not_one_of_the_store() {
    for (url, shown, reason) in [
        (
            "redis://h?db=1",
            "redis://h",
            "redis: has no option \"db\": the database is the path, as in redis://host/1; known are: \
             prefix, timeout, gap, commands, password_file, password_command",
        ),
        (
            "redis://h/0?ca=/x",
            "redis://h/0",
            "redis: has no option \"ca\": this is no TLS, so write rediss:// with it; known are: prefix, \
             timeout, gap, commands, password_file, password_command",
        ),
        (
            "rediss://h?ssl_cert_reqs=none",
            "rediss://h",
            "rediss: has no option \"ssl_cert_reqs\": a server's certificate is always checked, so name \
             a file of those to trust by ca=FILE; known are: prefix, timeout, gap, commands, \
             password_file, password_command, ca, cert, key",
        ),
        (
            "rediss://h?ssl_ca_certs=/x",
            "rediss://h",
            "rediss: has no option \"ssl_ca_certs\": write ca=FILE; known are: prefix, timeout, gap, \
             commands, password_file, password_command, ca, cert, key",
        ),
        (
            "redis://h?socket_timeout=5",
            "redis://h",
            "redis: has no option \"socket_timeout\": write timeout=2s, which is for each request and \
             for each try to connect; known are: prefix, timeout, gap, commands, password_file, \
             password_command",
        ),
        (
            "etcd://h?cacert=/x",
            "etcd://h",
            "etcd: has no option \"cacert\": write etcds:// with ca=FILE; known are: prefix, timeout, \
             interop, password_file, password_command",
        ),
        (
            "zookeeper://h1/app,h2/app",
            "zookeeper://h1/app,h2/app",
            "there is a comma after its path: write the path once, after the last host, as \
             zookeeper://h1,h2,h3/chroot",
        ),
        (
            "zookeeper://h1,zookeeper://h2",
            "zookeeper://h1,zookeeper://h2",
            "write the scheme once, before the first host, and then hosts only: scheme://h1,h2",
        ),
        (
            "zookeeper://h?session_timeout=9s",
            "zookeeper://h",
            "zookeeper: has no option \"session_timeout\": the lease is an option of locks, not of the \
             address; known are: prefix, naming, auth, acl, timeout, password_file, password_command",
        ),
    ] {
        let sentence = format!("invalid address {shown}: {reason}");
        let refused = LockManager::connect_lazy(url, Options::new()).expect_err(url);
        assert!(matches!(refused, Error::InvalidAddress { .. }), "{refused:?}");
        assert_eq!(refused.to_string(), sentence);
        let ran = ended(globallock().args(["run", "x", "--", "true"]).env("GLOBALLOCK_URL", url));
        assert_eq!((ran.error, ran.status), (format!("globallock: {sentence}\n"), Some(64)));
    }
}

//! Where it listens, and what it refuses to begin with.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use super::served;
use crate::support::{Ended, TestStore, ended};

fn refused(store: &TestStore, arguments: &[&str]) -> Ended {
    let mut command = store.command();
    let ended = ended(command.arg("serve").args(arguments));
    assert_eq!(ended.error.lines().count(), 1, "one sentence: {}", ended.error);
    ended
}

#[test]
fn what_cannot_be_served_or_should_not_is_refused_in_one_sentence() {
    let store = TestStore::new();
    let file = |name: &str, text: &str| {
        let path = store.path(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let secrets = file("secrets", "0123456789abcdef\n");
    let short = file("short", "0123456789abcde\n");
    let empty = file("empty", "# nothing\n");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let local = "127.0.0.1:0";
    let missing = store.path("missing").to_str().unwrap().to_owned();
    for (arguments, expected) in [
        (&["--listen", &*taken][..], "another program listens there: choose another port"),
        (&["--listen", "nonsense"], "write an address of this host and a port, such as 127.0.0.1:7117"),
        (
            &["--listen", "203.0.113.9:7117", "--token-file", &secrets, "--insecure-http"],
            "it is no address of this host",
        ),
        (&["--listen", "0.0.0.0:0"], "give --token-file or --auth-file"),
        (&["--listen", "[::]:0"], "give --token-file or --auth-file"),
        (&["--listen", "0.0.0.0:0", "--token-file", &secrets], "give --tls-cert and --tls-key"),
        (&["--listen", local, "--token-file", &missing], "missing: No such file or directory"),
        (&["--listen", local, "--token-file", &short], "the secret in line 1 is too short to be safe"),
        (&["--listen", local, "--auth-file", &secrets], "line 1 is not NAME:PASSWORD"),
        (&["--listen", local, "--auth-file", &empty], "it has no secret"),
        (&["--listen", local, "--tls-cert", &secrets, "--tls-key", &secrets], "it has no certificate in PEM"),
        (&["--listen", local, "--tls-cert", &secrets], "--tls-key"),
        (&["--interval", "10ms"], "the shortest is 100ms"),
        (&["--as", " "], "say who breaks claims here"),
        (&["--allow-host", "https://locks.example.org"], "no scheme and no path"),
        (&["--allow-host", "locks.example.org/page"], "no scheme and no path"),
        (
            &["--allow-host", "locks.example.org", "--allow-break"],
            "give --token-file or --auth-file, or --no-secret",
        ),
        (&["--allow-break", "--no-secret"], "--allow-host <HOST>"),
        (
            &["--allow-host", "locks.example.org", "--no-secret", "--token-file", &secrets],
            "cannot be used with",
        ),
    ] {
        let refused = refused(&store, arguments);
        assert!(refused.error.contains(expected), "{arguments:?}: {}", refused.error);
        assert_eq!((refused.status, &*refused.output), (Some(64), ""), "{arguments:?}");
        assert!(!refused.error.contains("0123456789"), "no secret is shown: {}", refused.error);
    }
}

#[test]
fn who_has_a_proxy_that_asks_for_secrets_may_go_without_one() {
    for arguments in [
        &["--allow-host", "locks.example.org", "--allow-break", "--no-secret"][..],
        &["--allow-host", "locks.example.org:8443"],
    ] {
        let (_store, server) = served(arguments);
        let host = [("host", arguments[1])];
        assert_eq!(server.connect().request("GET", "/api/session", &host, "").status, 200, "{arguments:?}");
    }
}

#[test]
fn a_directory_that_cannot_be_used_is_refused_at_once() {
    let store = TestStore::new();
    let refused = refused(&store, &["--listen", "127.0.0.1:0", "--url", "file:///proc/none"]);
    assert!(refused.error.contains("its parent does not exist"), "{}", refused.error);
    assert_eq!((refused.status, &*refused.output), (Some(69), ""));
}

//! Where the address of the store stands, and who gets to see its password.

use std::os::unix::fs::PermissionsExt;

use globallock_conformance::server::redis::Redis;

use crate::support::{TestStore, ended, globallock};

#[test]
fn a_variable_names_a_file_with_the_address() {
    let store = TestStore::new();
    let file = store.path("url");
    std::fs::write(&file, format!("# the locks of this host\n\n{}\n", store.url())).unwrap();
    let mut command = globallock();
    let script = format!("ls {}", store.path("locks").join("a").display());
    let run = ended(command.env("GLOBALLOCK_URL_FILE", &file).args(["run", "a", "--", "sh", "-c", &script]));
    assert_eq!((run.status, run.output.lines().count()), (Some(0), 1), "{}", run.error);
    std::fs::write(&file, "# nothing\n").unwrap();
    let mut command = globallock();
    let refused = ended(command.env("GLOBALLOCK_URL_FILE", &file).args(["run", "a", "--", "true"]));
    let file = file.display();
    assert_eq!(refused.error, format!("globallock: GLOBALLOCK_URL_FILE {file}: it has no address\n"));
    assert_eq!(refused.status, Some(64));
}

#[test]
fn the_command_gets_the_address_and_not_the_password_in_its_environment() {
    let server = Redis::start_with(&["--requirepass", "CANARY"]).unwrap();
    let url = format!("redis://:CANARY@127.0.0.1:{}", server.port());
    let program = env!("CARGO_BIN_EXE_globallock");
    // A run inside, of another lock, uses the same store.
    let script = format!("env; {program} run b -- redis-cli -p {} -a CANARY EXISTS _glocks:b", server.port());
    let mut command = globallock();
    let run = ended(command.env("GLOBALLOCK_URL", &url).args(["run", "a", "--", "sh", "-c", &script]));
    assert_eq!(run.status, Some(0), "{}", run.error);
    assert!(run.output.contains("GLOBALLOCK_URL_FILE=/proc/") && !run.output.contains("CANARY"), "{run:?}");
    assert!(run.output.ends_with("\n1\n"), "{}", run.output);
    assert!(!run.error.contains("others can read"), "{}", run.error);
    // An address without a password stays where it is.
    let store = TestStore::new();
    let plain = store.run(&["a", "--", "sh", "-c", "echo $GLOBALLOCK_URL"]);
    assert_eq!(plain.output, format!("{}\n", store.url()));
}

#[test]
fn a_file_whose_password_others_can_read_is_told() {
    let server = Redis::start_with(&["--requirepass", "CANARY"]).unwrap();
    let store = TestStore::new();
    let file = store.path("url");
    std::fs::write(&file, format!("redis://:CANARY@127.0.0.1:{}", server.port())).unwrap();
    let run = |mode, options: &[&str]| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut command = globallock();
        command.args(["run", "--url-file"]).arg(&file).args(options);
        let run = ended(command.args(["a", "--", "true"]));
        assert_eq!(run.status, Some(0), "{}", run.error);
        run.error
    };
    let path = file.display();
    let told = format!(
        "globallock: others can read the password in {path}: take that right away (chmod o-r {path})\n"
    );
    assert_eq!(run(0o644, &[]), told);
    assert_eq!(run(0o644, &["-q"]), "");
    assert_eq!(run(0o640, &[]), "");
}

#[test]
fn the_holder_is_the_process_that_was_started() {
    let store = TestStore::new();
    let run = store.start(&["a", "--", "sh", "-c", "echo ready; exec sleep 1000"]);
    run.says("ready");
    let refused = store.run(&["-n", "a", "--", "true"]);
    assert!(refused.error.contains(&format!("(pid {} on ", run.id())), "{}", refused.error);
    run.signal("TERM");
    assert_eq!(run.end(), Some(143));
}

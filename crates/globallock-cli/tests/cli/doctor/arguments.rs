//! What is asked for, and how it is printed.

use super::{doctor, examined, examined_by};
use crate::support::{TestStore, ended, globallock, on_terminal};

#[test]
fn the_address_may_stand_alone_or_come_from_where_other_verbs_have_it() {
    let store = TestStore::new();
    let file = store.path("url");
    std::fs::write(&file, store.url()).unwrap();
    let (url, file) = (store.url(), file.display().to_string());
    for arguments in [&[&*url][..], &["--url", &url], &["--url-file", &file]] {
        let found = examined_by(globallock().args(["doctor", "-o", "json"]).args(arguments));
        found.is_well();
        assert_eq!(found.on("file system").count(), 1);
    }
    // The argument counts before the variable.
    let elsewhere = examined("redis://127.0.0.1:1", &[&url]);
    elsewhere.is_well();
    let twice = ended(globallock().args(["doctor", "--url", &url, &url]));
    assert_eq!(twice.status, Some(64));
    assert_eq!(twice.error, "globallock: give the address once: as it is, or by --url or --url-file\n");
}

#[test]
fn what_is_wrong_with_the_arguments_is_told_as_by_other_verbs() {
    for (arguments, told) in [
        (&["nowhere"][..], "invalid address nowhere: it has no scheme"),
        (&["redis://:s3cretCANARY@h/x"], "the database \"x\" is not a number"),
        (&["--name", &"n".repeat(500), "memory:x"], "invalid lock name"),
        (&["--timeout", "soon", "memory:x"], "write a time such as 250ms"),
        (&["-o", "yaml", "memory:x"], "[possible values: text, json]"),
    ] {
        let ended = ended(globallock().arg("doctor").args(arguments));
        assert_eq!((ended.status, &*ended.output), (Some(64), ""), "{arguments:?}: {}", ended.error);
        assert!(ended.error.contains(told) && !ended.error.contains("CANARY"), "{}", ended.error);
    }
}

#[test]
fn people_get_a_line_for_each_finding_and_what_to_do_below_it() {
    let told = ended(doctor("memory:x").arg("-v"));
    assert_eq!(told.status, Some(0));
    let lines: Vec<&str> = told.output.lines().collect();
    assert_eq!(lines[0], "note    sharing: no other process sees these locks, and all end with this one");
    assert_eq!(*lines.last().unwrap(), "memory:x: 5 ok, 1 note");
    assert!(!told.output.contains('\u{1b}'), "{}", told.output);
    let store = TestStore::new();
    let url = format!("file://{}", store.path("missing/locks").display());
    let bad = ended(doctor(&url).arg("-q"));
    assert_eq!(bad.status, Some(69));
    let reason = "its parent does not exist: create that first";
    assert_eq!(bad.output, format!("bad     connection: {url} cannot do this: {reason}\n"));
    let quiet = ended(doctor("memory:x").arg("-q"));
    assert_eq!((quiet.status, &*quiet.output), (Some(0), ""));
}

#[test]
fn a_terminal_gets_colours_unless_they_are_not_wanted() {
    let store = TestStore::new();
    let line = format!("{} doctor memory:x", env!("CARGO_BIN_EXE_globallock"));
    let coloured = ended(&mut on_terminal(&store, "xterm", &line)).output;
    assert!(coloured.contains("\u{1b}[32mok      \u{1b}[0mlock: "), "{coloured:?}");
    let plain = ended(on_terminal(&store, "xterm", &line).env("NO_COLOR", "1")).output;
    assert!(plain.contains("ok      lock: ") && !plain.contains("\u{1b}[32m"), "{plain:?}");
}

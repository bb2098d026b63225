use rustix::process::Signal;

use super::super::Cluster;
use super::{Pair, Pooler, Postgres};

#[test]
fn a_server_keeps_its_data_when_it_is_killed() {
    let mut server = Postgres::start_bare(&[]).unwrap();
    server.sql("CREATE TABLE seen (number int); INSERT INTO seen VALUES (7)");
    for _ in 0..3 {
        server.kill();
        assert!(!super::super::listens(server.port()), "nobody serves its port");
        server.resume_after_kill().unwrap();
        assert_eq!(server.sql("SELECT number FROM seen"), "7");
    }
    server.shut_down().unwrap();
    assert!(server.sql("SELECT 1").contains("connection to server"), "it has ended");
}

#[test]
fn a_stopped_server_answers_when_it_goes_on() {
    let server = Postgres::start_bare(&[]).unwrap();
    Cluster::signal(&server, 0, Signal::STOP);
    let tools = server.tools();
    let answer = std::thread::spawn(move || tools.sql("SELECT 7"));
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(!answer.is_finished(), "a stopped server answers nothing");
    Cluster::signal(&server, 0, Signal::CONT);
    assert_eq!(answer.join().unwrap(), "7");
}

#[test]
fn a_pair_changes_places_with_and_without_a_loss() {
    let mut pair = Pair::start().unwrap();
    assert_eq!(pair.primary(), Some(0));
    pair.server(0).sql("CREATE TABLE seen (number int); INSERT INTO seen VALUES (1)");
    assert_eq!(pair.change_places(true, || ()).unwrap(), 0);
    assert_eq!(pair.primary(), Some(1));
    let count = |pair: &Pair, server: usize| pair.server(server).sql("SELECT count(*) FROM seen");
    assert_eq!(count(&pair, 1), "1");
    let tools = pair.server(1).tools();
    let lost = pair.change_places(false, move || drop(tools.sql("INSERT INTO seen VALUES (2)")));
    assert!(lost.unwrap() > 0);
    assert_eq!((pair.primary(), count(&pair, 0)), (Some(0), "1".to_owned()));
}

#[test]
fn a_synchronous_pair_shows_only_what_both_have() {
    let mut pair = Pair::start_synchronous().unwrap();
    pair.server(0).sql("CREATE TABLE seen (number int); INSERT INTO seen VALUES (1)");
    let tools = pair.server(0).tools();
    let asked = pair.server(0).tools();
    let missed = pair.change_places(false, move || {
        std::thread::spawn(move || tools.sql("INSERT INTO seen VALUES (2)"));
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        while asked.sql(waits) != "1" {}
        assert_eq!(asked.sql("SELECT count(*) FROM seen"), "1");
    });
    assert!(missed.unwrap() > 0);
    assert_eq!(pair.server(1).sql("SELECT count(*) FROM seen"), "1");
}

#[test]
fn a_full_disk_lets_nothing_grow_and_stops_a_server_that_needs_another_log() {
    let mut server = Postgres::start_with_disk().unwrap();
    server.sql(
        "CREATE TABLE begun (number int); INSERT INTO begun VALUES (1); CREATE TABLE empty (number int)",
    );
    let full = |server: &Postgres, full| server.disk().unwrap().be_full(full).unwrap();
    let log = |server: &Postgres| std::fs::read_to_string(server.log()).unwrap();
    // A server that has panicked may answer once more before it ends all its sessions and begins again.
    let readies = |server: &Postgres| log(server).matches("ready to accept connections").count();
    full(&server, true);
    assert_eq!(server.sql("INSERT INTO begun VALUES (2)"), "", "there is room in its page");
    let refused = server.sql("INSERT INTO empty VALUES (1)");
    assert!(refused.contains("No space left on device"), "{refused}");
    let before = readies(&server);
    while !log(&server).contains("PANIC") {
        server.sql("INSERT INTO begun VALUES (3); SELECT pg_switch_wal()");
    }
    full(&server, false);
    while server.sql("SELECT 7") != "7" || readies(&server) == before {
        if server.has_ended() {
            server.resume_after_kill().unwrap();
        }
    }
    assert_eq!(server.sql("INSERT INTO empty VALUES (1); SELECT count(*) FROM empty"), "1");
}

#[test]
fn a_pooler_passes_on_what_it_is_asked() {
    let server = Postgres::start_bare(&[]).unwrap();
    let pooler = Pooler::start(server.port()).unwrap();
    assert!(pooler.console("SHOW VERSION").contains("PgBouncer"), "{}", pooler.console("SHOW VERSION"));
}

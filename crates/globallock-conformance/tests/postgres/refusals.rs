//! Servers that refuse: each error says what to change, and shows no password.

use globallock::Error;
use globallock_conformance::server::certificates::Certificates;
use globallock_conformance::server::free_port;
use globallock_conformance::server::postgres::{Pair, Postgres, USER, url_by};
use globallock_conformance::server::redis::Redis;
use tempfile::TempDir;

use crate::{manager, refusal};

fn is_denied(error: &Error) -> bool {
    matches!(error, Error::PermissionDenied { .. })
}

fn is_precondition(error: &Error) -> bool {
    matches!(error, Error::FailedPrecondition { .. })
}

#[tokio::test]
async fn a_wrong_login_is_told_and_not_shown() {
    let server = Postgres::start().unwrap();
    let at = format!("127.0.0.1:{}", server.port());
    let wrong = refusal(&format!("postgres://{USER}:s3cret@{at}")).await;
    assert!(is_denied(&wrong) && wrong.to_string().contains("is wrong"), "{wrong}");
    let unknown = refusal(&format!("postgres://nobody-knows:s3cret@{at}/{USER}")).await;
    assert!(is_denied(&unknown), "{unknown:?}");
    let missing = refusal(&format!("postgres://{USER}@{at}")).await;
    assert!(is_denied(&missing) && missing.to_string().contains("password"), "{missing}");
    server.sql(&format!("ALTER ROLE {USER} NOLOGIN"));
    let barred = refusal(&server.url()).await;
    assert!(is_denied(&barred) && barred.to_string().contains("LOGIN"), "{barred}");
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_told() {
    let server = Postgres::start().unwrap();
    let error = refusal(&format!("{}/nowhere", server.url())).await;
    assert!(is_precondition(&error) && error.to_string().contains("no database of that name"), "{error}");
}

#[tokio::test]
async fn a_database_that_was_not_set_up_is_told_what_to_run() {
    let server = Postgres::start_bare(&[]).unwrap();
    let error = refusal(&server.url()).await;
    assert!(is_precondition(&error) && error.to_string().contains("globallock setup"), "{error}");
    let other = refusal(&format!("{}?schema=other", server.url())).await;
    assert!(other.to_string().contains("other"), "{other}");
}

#[tokio::test]
async fn rights_that_are_missing_are_named() {
    let server = Postgres::start().unwrap();
    // As if somebody else had set it up.
    server.sql("ALTER SCHEMA globallock OWNER TO postgres");
    for (object, table) in [("TABLE", "claims"), ("TABLE", "evictions"), ("TABLE", "\"values\"")] {
        server.sql(&format!("ALTER {object} globallock.{table} OWNER TO postgres"));
    }
    server.sql("ALTER SEQUENCE globallock.numbers OWNER TO postgres");
    let error = refusal(&server.url()).await;
    assert!(is_denied(&error) && error.to_string().contains("GRANT USAGE ON SCHEMA globallock"), "{error}");
    server.sql(&format!("GRANT USAGE ON SCHEMA globallock TO {USER}"));
    for grant in [
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA globallock TO",
        "GRANT USAGE, UPDATE ON ALL SEQUENCES IN SCHEMA globallock TO",
    ] {
        let error = refusal(&server.url()).await;
        assert!(is_denied(&error) && error.to_string().contains(grant), "{error}");
        server.sql(&format!("{grant} {USER}"));
    }
    // What the document says is enough.
    let document = include_str!("../../../../docs/postgres.md");
    let grants: Vec<&str> = document.lines().filter(|line| line.starts_with("GRANT ")).collect();
    assert!(grants.len() >= 4, "{grants:?}");
    let said = server.sql(&grants.join("\n"));
    assert_eq!(said, "");
    let manager = manager(&server.url()).await;
    let guard = manager.mutex("a").acquire().await.unwrap();
    assert!(guard.renew().await.unwrap());
    guard.release().await.unwrap();
    assert_eq!(manager.inspect("a").await.unwrap(), []);
}

#[tokio::test]
async fn tables_of_another_program_or_another_version_are_left_alone() {
    let server = Postgres::start_bare(&[]).unwrap();
    server.sql(&format!("CREATE SCHEMA globallock AUTHORIZATION {USER}"));
    server.tools().sql_as(USER, "CREATE TABLE globallock.claims (what text)");
    let foreign = refusal(&server.url()).await;
    assert!(is_precondition(&foreign) && foreign.to_string().contains("another program"), "{foreign}");
    let untouched = globallock_conformance::server::postgres::set_up(&server.url()).unwrap_err();
    assert!(untouched.to_string().contains("another"), "{untouched}");
    server.sql("DROP TABLE globallock.claims");
    globallock_conformance::server::postgres::set_up(&server.url()).unwrap();
    server.sql("COMMENT ON TABLE globallock.claims IS 'globallock 999'");
    let newer = refusal(&server.url()).await;
    assert!(is_precondition(&newer) && newer.to_string().contains("globallock 999"), "{newer}");
    assert_eq!(server.sql("SELECT count(*) FROM globallock.claims"), "0");
}

#[tokio::test]
async fn a_replica_is_no_primary_and_the_next_server_is_asked() {
    let pair = Pair::start().unwrap();
    let [primary, replica] = [0, 1].map(|server| format!("127.0.0.1:{}", pair.server(server).port()));
    let error = refusal(&url_by(std::slice::from_ref(&replica))).await;
    assert!(error.is_unavailable() && error.to_string().contains("read-only"), "{error}");
    let nowhere = format!("127.0.0.1:{}", free_port());
    for hosts in [[&replica, &primary], [&nowhere, &primary], [&primary, &nowhere]] {
        let manager = manager(&url_by(&hosts.map(String::clone))).await;
        assert!(manager.mutex("a").acquire().await.unwrap().is_held());
    }
}

#[tokio::test]
async fn a_user_whose_transactions_are_read_only_by_default_is_no_obstacle() {
    let server = Postgres::start().unwrap();
    server.sql(&format!("ALTER ROLE {USER} SET default_transaction_read_only = on"));
    let manager = manager(&server.url()).await;
    let guard = manager.mutex("a").acquire().await.unwrap();
    assert!(guard.renew().await.unwrap());
    guard.release().await.unwrap();
}

#[tokio::test]
async fn tls_is_asked_for_where_it_is_required_and_told_where_it_lacks() {
    let directory = TempDir::new().unwrap();
    let certificates = Certificates::write(directory.path()).unwrap();
    let server = Postgres::start_with_tls(&certificates, &[]).unwrap();
    let with = |options: &str| format!("{}?{options}", server.url());
    let ca = certificates.ca.display();
    for options in
        ["sslmode=require".to_owned(), format!("sslmode=verify-full&sslrootcert={ca}"), String::new()]
    {
        let manager = manager(&with(&options)).await;
        assert!(manager.mutex("a").acquire().await.unwrap().is_held());
        let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                         WHERE usename = 'app'";
        assert_eq!(server.sql(encrypted), "t", "{options}");
        manager.close().await;
    }
    let plain = refusal(&with("sslmode=disable")).await;
    assert!(is_denied(&plain) && plain.to_string().contains("sslmode"), "{plain}");
    let other = certificates.other_ca.display();
    let unknown = refusal(&with(&format!("sslmode=verify-full&sslrootcert={other}"))).await;
    assert!(unknown.to_string().contains("sslrootcert"), "{unknown}");
    let bare = Postgres::start().unwrap();
    let refused = refusal(&format!("{}?sslmode=require", bare.url())).await;
    assert!(is_precondition(&refused) && refused.to_string().contains("TLS"), "{refused}");
}

#[tokio::test]
async fn a_server_of_another_kind_is_named_on_both_sides() {
    let redis = Redis::start().unwrap();
    let error = refusal(&url_by(&[format!("127.0.0.1:{}", redis.port())])).await;
    assert!(error.to_string().contains("redis://"), "{error}");
    let server = Postgres::start().unwrap();
    for scheme in ["redis", "etcd", "zookeeper"] {
        let error = refusal(&format!("{scheme}://127.0.0.1:{}?timeout=1s", server.port())).await;
        assert!(error.to_string().contains("postgres://"), "{scheme}: {error}");
    }
}

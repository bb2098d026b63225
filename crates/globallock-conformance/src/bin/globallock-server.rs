//! Starts a real store for tests in other languages: `globallock-server redis`, for example.
//!
//! Prints one line of JSON with its address, its port, and what else its clients need. Runs until its
//! standard input is closed.

use std::io::{Error, Read, Result};

use globallock_conformance::server::certificates::Certificates;
use globallock_conformance::server::postgres::{Postgres, USER as OWNER};
use globallock_conformance::server::redis::{Redis, Sentinels};
use globallock_conformance::stores::kinds;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A user whose password has characters that an address must escape.
const USER: &str = "--user alice on >p@ss:/% ~* &* +@all --user default off --protected-mode no";

fn main() -> Result<()> {
    let kind = std::env::args().nth(1).unwrap_or_default();
    let directory = TempDir::new()?;
    match kind.as_str() {
        "redis-tls" => {
            let files = Certificates::write(directory.path())?;
            let server = Redis::start_with_tls(&files, &with_user(&[]))?;
            let more = json!({ "ca": files.ca, "cert": files.client, "key": files.client_key });
            serve(&server.url(), more);
        }
        "redis-socket" => {
            let socket = directory.path().join("redis.sock").display().to_string();
            let server = Redis::start_with(&with_user(&["--unixsocket", &socket]))?;
            serve(&server.url(), json!({ "socket": socket }));
        }
        "redis-sentinel" => {
            let set = Sentinels::start()?;
            let primary = set.primary.port();
            serve(&set.url().replace("/main", ""), json!({ "primary": primary }));
        }
        "postgres-owned" => {
            // Its user may do what the user of a Django project may: make databases, and tables in them.
            let server = Postgres::start_bare(&[])?;
            server.sql(&format!("ALTER DATABASE {OWNER} OWNER TO {OWNER}; ALTER ROLE {OWNER} CREATEDB"));
            serve(&server.url(), json!({}));
        }
        name => {
            let kind = kinds().find(|kind| kind.name == name && kind.servers > 0);
            let store =
                kind.ok_or_else(|| Error::other(format!("no kind of store is called {name:?}")))?.started();
            serve(&store.url(), json!({}));
        }
    }
    Ok(())
}

/// The arguments of a Redis server that accepts one user only, followed by `more`.
fn with_user<'a>(more: &[&'a str]) -> Vec<&'a str> {
    USER.split(' ').chain(more.iter().copied()).collect()
}

fn serve(url: &str, mut line: Value) {
    let authority = url.split('/').nth(2).unwrap_or_default();
    let port: u16 = authority.rsplit(':').next().and_then(|port| port.parse().ok()).expect("it has a port");
    line["url"] = url.into();
    line["port"] = port.into();
    println!("{line}");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

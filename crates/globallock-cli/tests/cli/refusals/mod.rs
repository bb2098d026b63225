//! What a store refuses for good, or for now, as a user reads it: the whole sentence, at once and alone.
//! Each is read from a manager that connects at once, from the first lock of one that does not, and from
//! the command line.

mod addresses;
mod etcd;
mod file;
mod kinds;
mod redis;
mod zookeeper;

use std::process::Command;
use std::time::Duration;

use globallock::{Error, LockManager, Options};
use globallock_conformance::server::certificates::Certificates;
use globallock_conformance::server::{Process, free_port, listens, wait_ready};

use crate::support::{ended, globallock};

/// How long a lock is waited for. A store that is tried again until the wait is over is told of by another
/// sentence, so that a refusal which comes has come at once.
const WAIT: Duration = Duration::from_secs(1);
/// How often a lock is asked for until the machine was not too busy to say at once what is refused at once.
const TRIES: usize = 20;

/// Asserts that whoever connects to this address reads this sentence, which begins with the address.
fn refused(url: &str, sentence: &str) {
    let told = asked(async || {
        let error = LockManager::connect(url).await.expect_err(url);
        let from_lock = first_lock(url).await;
        assert_eq!(error.to_string(), from_lock.to_string());
        error
    });
    is_told(url, sentence, &told);
}

/// Asserts that the first lock of this address is refused with this sentence, though a connection can be
/// made.
fn lock_refused(url: &str, sentence: &str) {
    let told = asked(async || {
        let manager = LockManager::connect(url).await.expect(url);
        let error = manager.mutex("x").acquire().await.expect_err(url);
        let from_lock = first_lock(url).await;
        assert_eq!(error.to_string(), from_lock.to_string());
        error
    });
    is_told(url, sentence, &told);
}

/// Asserts that a store of this address is not available now, for the reason in this sentence.
fn unavailable(url: &str, sentence: &str) {
    let told = asked(async || LockManager::connect(url).await.expect_err(url));
    assert!(told.is_unavailable(), "{told:?}");
    assert_eq!(told.to_string(), sentence);
    let mut command = globallock();
    let command = command.args(["run", "-q", "--wait", "3s", "x", "--", "true"]).env("GLOBALLOCK_URL", url);
    let ran = ended(command);
    assert_eq!(ran.status, Some(69), "{}", ran.error);
    assert_eq!(ran.error.lines().last(), Some(&*format!("globallock: {sentence}")));
}

/// Asserts that locks of this address work.
fn works(url: &str) {
    let mut command = globallock();
    let ran = ended(command.args(["run", "x", "--", "echo", "ran"]).env("GLOBALLOCK_URL", url));
    assert_eq!(
        (said(&ran.error), ran.output.as_str(), ran.status),
        (String::new(), "ran\n", Some(0)),
        "{url}"
    );
}

/// What the command line says, but for the faults that are known of the etcd of Debian, which it warns of.
fn said(error: &str) -> String {
    let lines = error.split_inclusive('\n');
    lines.filter(|line| !line.contains("the server should be a newer release")).collect()
}

fn asked(ask: impl AsyncFnOnce() -> Error) -> Error {
    tokio::runtime::Runtime::new().unwrap().block_on(ask())
}

/// What the first lock is refused with, that is waited for.
async fn first_lock(url: &str) -> Error {
    let mut tries = 1..=TRIES;
    loop {
        let manager = match LockManager::connect_lazy(url, Options::new().wait(WAIT)) {
            Ok(manager) => manager,
            Err(error) => return error,
        };
        let error = manager.mutex("x").acquire().await.expect_err(url);
        if !error.is_unavailable() || tries.next().is_none() {
            return error;
        }
    }
}

/// Asserts that the command line prints the sentence and nothing else, and ends with the status for it.
fn is_told(url: &str, sentence: &str, told: &Error) {
    assert_eq!(told.to_string(), sentence, "{url}");
    let status = match told {
        Error::PermissionDenied { .. } => 77,
        Error::FailedPrecondition { .. } => 69,
        other => panic!("{url}: {other:?}"),
    };
    command_is_told(globallock, url, sentence, status);
}

/// The same of the command line alone, which this program runs.
fn command_is_told(program: impl Fn() -> Command, url: &str, sentence: &str, status: i32) {
    let mut tries = 1..=TRIES;
    let ran = loop {
        let mut command = program();
        let wait = format!("{WAIT:?}");
        let ran = ended(command.args(["run", "--wait", &wait, "x", "--", "true"]).env("GLOBALLOCK_URL", url));
        let is_late = ran.error.lines().last().is_some_and(|line| line.contains(" is unavailable: "));
        if !is_late || tries.next().is_none() {
            break ran;
        }
    };
    assert_eq!((said(&ran.error), ran.status), (format!("globallock: {sentence}\n"), Some(status)), "{url}");
}

/// What every store with TLS says of the certificates of a server at `localhost:port` that asks its clients
/// for one, and has the certificate that its authority has signed.
fn certificates_are_explained(scheme: &str, port: u16, files: &Certificates) {
    let client = format!("cert={}&key={}", files.client.display(), files.client_key.display());
    let (ca, other) = (files.ca.display(), files.other_ca.display());
    let address = format!("{scheme}://localhost:{port}");
    works(&format!("{address}?ca={ca}&{client}"));
    // The certificate itself, whoever has signed it.
    works(&format!("{address}?ca={}&{client}", files.server.display()));
    for (options, reason) in [
        (
            client.clone(),
            "its certificate is signed by an authority that this system does not trust: name that \
             authority's file by ?ca=FILE",
        ),
        (
            format!("ca={other}&{client}"),
            "its certificate is not signed by the authority in the file of ?ca=FILE: name the file of the \
             one that has signed it, or of the certificate itself",
        ),
        (
            format!("ca={ca}"),
            "it asks for a certificate of the client: name its files by ?cert=FILE&key=FILE",
        ),
    ] {
        refused(&format!("{address}?{options}"), &format!("{address} cannot do this: {reason}"));
    }
}

/// Starts a server of HTTP, and returns its port.
fn http() -> (Http, u16) {
    let port = free_port();
    let log = tempfile::NamedTempFile::new().unwrap();
    let arguments = ["-m", "http.server", &port.to_string(), "--bind", "127.0.0.1"];
    let process = Process::start("python3", "python3", arguments, log.path()).unwrap();
    wait_ready("HTTP", log.path(), || listens(port)).unwrap();
    (Http { _process: process, _log: log }, port)
}

/// A server of HTTP that ends when this is dropped.
struct Http {
    _process: Process,
    _log: tempfile::NamedTempFile,
}

/// Starts a server that accepts connections and never says anything.
fn silent() -> (std::net::TcpListener, u16) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// What is told of a server that says nothing, before what to check.
fn silence(name: &str) -> String {
    format!("it did not answer in time: it may be overloaded or cut off, or be no {name}:")
}

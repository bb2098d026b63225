//! What a store refuses for good, or for now, as a user reads it: the whole sentence, at once and alone.
//! Each is read from a manager that connects at once, from the first lock of one that does not, and from
//! the command line.

mod addresses;
mod etcd;
mod redis;
mod zookeeper;

use std::time::{Duration, Instant};

use globallock::{Error, LockManager, Options};
use globallock_conformance::server::certificates::Certificates;
use globallock_conformance::server::{Process, free_port, listens, wait_ready};

use crate::support::{ended, globallock};

/// The longest that a refusal may take, which is half of the time for which a store that may heal is tried
/// again.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Asserts that whoever connects to this address reads this sentence, which begins with the address.
fn refused(url: &str, sentence: &str) {
    let told = asked(url, async || {
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
    let told = asked(url, async || {
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
    let told = asked(url, async || LockManager::connect(url).await.expect_err(url));
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

fn asked(url: &str, ask: impl AsyncFnOnce() -> Error) -> Error {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let since = Instant::now();
    let error = runtime.block_on(ask());
    assert!(since.elapsed() < AT_ONCE, "{url}: it took {:?}: {error}", since.elapsed());
    error
}

async fn first_lock(url: &str) -> Error {
    let manager = LockManager::connect_lazy(url, Options::new()).expect(url);
    manager.mutex("x").acquire().await.expect_err(url)
}

/// Asserts that the command line prints the sentence and nothing else, and ends with the status for it.
fn is_told(url: &str, sentence: &str, told: &Error) {
    assert_eq!(told.to_string(), sentence, "{url}");
    let status = match told {
        Error::PermissionDenied { .. } => 77,
        Error::FailedPrecondition { .. } => 69,
        other => panic!("{url}: {other:?}"),
    };
    let since = Instant::now();
    let ran = ended(globallock().args(["run", "x", "--", "true"]).env("GLOBALLOCK_URL", url));
    assert_eq!((said(&ran.error), ran.status), (format!("globallock: {sentence}\n"), Some(status)), "{url}");
    assert!(since.elapsed() < AT_ONCE, "{url}: it took {:?}", since.elapsed());
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

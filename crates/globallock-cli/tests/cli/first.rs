//! A store that is not there yet when the run begins, as at boot.

use globallock_conformance::context::eventually;
use globallock_conformance::proxy::Proxy;
use globallock_conformance::server::free_port;
use globallock_conformance::server::redis::Redis;

use crate::support::{Running, ended, globallock};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_waits_for_its_store_as_it_waits_for_its_lock() {
    let server = Redis::start().unwrap();
    for options in [&["--wait", "120s"][..], &["--lease", "120s", "--no-wait"], &["--lease", "120s"]] {
        let proxy = Proxy::start(free_port()).await.unwrap();
        let url = format!("redis://127.0.0.1:{}", proxy.port());
        let mut command = globallock();
        let run = Running::start(
            command.args(["run", "--url", &url]).args(options).args(["a", "--", "echo", "ran"]),
        );
        eventually("it has tried more than once", async || proxy.connections() >= 3).await;
        proxy.redirect_to(server.port());
        run.says("ran");
        assert_eq!(run.end(), Some(0));
    }
}

#[test]
fn a_store_that_does_not_come_is_told_when_the_wait_is_over() {
    let url = format!("redis://127.0.0.1:{}", free_port());
    let mut command = globallock();
    let ended = ended(command.args(["run", "--url", &url, "--wait", "1s", "a", "--", "echo", "ran"]));
    assert_eq!((ended.status, ended.output.as_str()), (Some(69), ""));
    assert!(ended.error.contains(&url) && ended.error.contains("refused"), "{}", ended.error);
    // It was never reached, so there is nothing to release.
    assert!(!ended.error.contains("release"), "{}", ended.error);
}

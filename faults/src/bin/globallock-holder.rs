//! An owner of one lock, for the scenarios to kill and to suspend. It is here because a test can only run
//! programs of its own package.

use std::sync::Arc;
use std::time::{Duration, Instant};

use globallock::internals::duration;
use globallock::{LockManager, Options};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Handle};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut runtime = match arguments.first().map(String::as_str) {
        // The clock is read in another way there.
        Some("believe-alone") => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = runtime.enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        match arguments.split_first() {
            Some((verb, rest)) if verb.starts_with("believe") => believe(rest).await,
            _ => globallock_conformance::child::run(&arguments).await,
        }
    });
    // Without this, a thread that reads the standard input would keep the process alive.
    std::process::exit(0);
}

/// What the clock shows that goes on while the host is suspended, in nanoseconds.
fn going_on() -> u128 {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("below a second")).as_nanos()
}

/// Acquires a mutex and reads all the time whether it is held, until it is not. Prints `granted`, and then
/// when a reading began that still said so, when one ended that did not, when the loss was told, how long
/// `Instant` had not counted by then, and why it was lost.
///
/// Arguments: address, name, lease, and max hold time if any.
async fn believe(arguments: &[String]) {
    let span = |text: &String| duration::parse(text).expect("a span of time");
    let options = Options::new().lease(span(&arguments[2])).max_hold(arguments.get(3).map(span));
    let manager = LockManager::connect_with(&arguments[0], options).await.expect("the store answers");
    let guard = Arc::new(manager.mutex(&arguments[1]).acquire().await.expect("the store answers"));
    println!("granted");
    let (begin, since) = (Instant::now(), going_on());
    let read = Arc::clone(&guard);
    let runtime = Handle::current();
    let reading = std::thread::spawn(move || {
        let _inside = runtime.enter();
        let mut believed = 0;
        loop {
            let began = going_on();
            if !read.is_held() {
                return (believed, going_on());
            }
            believed = began;
            std::thread::sleep(Duration::from_micros(200));
        }
    });
    let loss = guard.lost().await;
    let told = going_on();
    let (believed, doubted) = reading.join().expect("it does not panic");
    let slept = (going_on() - since).saturating_sub(begin.elapsed().as_nanos());
    println!("{believed} {doubted} {told} {slept} {loss}");
}

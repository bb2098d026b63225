//! Plays owners of locks, for tests of what shows them: `actors URL`, told on standard input what to do.
//!
//! - `PROCESS LABEL NAME`: an owner that says it is this process, with this label, asks for this lock. It
//!   says `held NAME` when it holds it, and `failed NAME: why` when it does not any more, or never will.
//! - `many COUNT PREFIX`: one owner holds as many locks.
//!
//! At the end of the input everything is released.

use std::collections::HashMap;
use std::time::Duration;

use globallock::{LockManager, ManagerOptions, Options};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};
use tokio::sync::watch;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).ok_or("write: actors URL")?;
    let mut managers: HashMap<(u32, String), LockManager> = HashMap::new();
    let mut input = BufReader::new(stdin()).lines();
    let (end, ending) = watch::channel(false);
    let mut playing = Vec::new();
    while let Some(line) = input.next_line().await? {
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        let [first, second, third] = words[..] else { return Err("write three words".into()) };
        if first == "many" {
            let manager = LockManager::connect(&url).await?;
            let mut guards = Vec::new();
            for number in 0..second.parse::<usize>()? {
                guards.push(manager.mutex(format!("{third}{number:05}")).acquire().await?);
            }
            println!("held {third}");
            let mut ending = ending.clone();
            playing.push(tokio::spawn(async move {
                let _ = ending.wait_for(|ending| *ending).await;
                drop(guards);
                manager.close().await;
            }));
            continue;
        }
        let key = (first.parse()?, second.to_owned());
        if !managers.contains_key(&key) {
            let locks = Options::new().wait(Duration::from_secs(600));
            let options = ManagerOptions::new().process(key.0).label(second).locks(locks);
            managers.insert(key.clone(), LockManager::connect_with(&url, options).await?);
        }
        playing.push(tokio::spawn(play(managers[&key].clone(), third.to_owned(), ending.clone())));
    }
    end.send_replace(true);
    for played in playing {
        played.await?;
    }
    for manager in managers.values() {
        manager.close().await;
    }
    Ok(())
}

async fn play(manager: LockManager, name: String, mut ending: watch::Receiver<bool>) {
    let lock = manager.mutex(&name);
    let acquired = tokio::select! {
        _ = ending.wait_for(|ending| *ending) => return,
        acquired = lock.acquire() => acquired,
    };
    match acquired {
        Err(error) => println!("failed {name}: {error}"),
        Ok(guard) => {
            println!("held {name}");
            tokio::select! {
                _ = ending.wait_for(|ending| *ending) => {}
                loss = guard.lost() => println!("failed {name}: {loss}"),
            }
        }
    }
}

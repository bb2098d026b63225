//! Breaks a real store under real owners: `globallock-faults STORE SECONDS [SEED]`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use globallock_faults::run::{Orders, run};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_err(std::io::Error::other)?;
    let seed =
        arguments.get(2).map_or(Ok(clock.as_secs()), |text| text.parse()).map_err(std::io::Error::other)?;
    let orders = Orders {
        store: arguments[0].clone(),
        length: Duration::from_secs(arguments[1].parse().map_err(std::io::Error::other)?),
        seed,
        owners: 6,
        lease: Duration::from_secs(2),
        directory: std::env::temp_dir().join(format!("globallock-faults-{}-{seed}", arguments[0])),
    };
    println!("{} with seed {seed}: {}", orders.store, orders.directory.display());
    run(&orders).await
}

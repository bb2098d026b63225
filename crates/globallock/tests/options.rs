//! What is refused before any store is asked. What holds for every store is in the conformance suite.

use std::time::Duration;

use globallock::{Error, LockManager, MAX_DURATION, ManagerOptions, Memory, Options};

const MILLISECOND: Duration = Duration::from_millis(1);

#[tokio::test]
async fn options_out_of_their_range_are_refused_by_name() {
    let manager = LockManager::with_backend(Memory::new(), ManagerOptions::default()).unwrap();
    let too_long = MAX_DURATION + MILLISECOND;
    for (options, name) in [
        (Options { lease: MILLISECOND, ..Options::default() }, "lease"),
        (Options { lease: too_long, ..Options::default() }, "lease"),
        (Options { max_hold: Some(MILLISECOND), ..Options::default() }, "max_hold"),
        (Options { wait: Some(too_long), ..Options::default() }, "wait"),
        (Options { store_timeout: Some(Duration::ZERO), ..Options::default() }, "store_timeout"),
    ] {
        let for_manager = ManagerOptions { locks: options.clone(), ..ManagerOptions::default() };
        let refused = [
            manager.mutex("a").unwrap().with_options(options).err(),
            LockManager::with_backend(Memory::new(), for_manager.clone()).err(),
            LockManager::connect_with("memory:options", for_manager).await.err(),
        ];
        for error in refused {
            let error = error.expect("it is refused");
            assert!(matches!(error, Error::InvalidOption { .. }), "{error:?}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}

#[tokio::test]
async fn permits_out_of_their_range_are_refused() {
    let manager = LockManager::with_backend(Memory::new(), ManagerOptions::default()).unwrap();
    for capacity in [0, u32::MAX] {
        assert!(matches!(manager.semaphore("a", capacity), Err(Error::InvalidOption { .. })));
    }
    let semaphore = manager.semaphore("a", 3).unwrap();
    for count in [0, 4] {
        assert!(matches!(semaphore.permits(count), Err(Error::InvalidOption { .. })));
    }
    assert_eq!(semaphore.permits(3).unwrap().permits().count, 3);
}

#[tokio::test]
async fn unknown_schemes_are_refused_with_the_known_ones() {
    for url in ["ftp://host", "consul://host", ":", "redis", "memory://host"] {
        let error = LockManager::connect(url).await.unwrap_err();
        assert!(matches!(error, Error::InvalidAddress { .. }), "{url}: {error:?}");
    }
    let error = LockManager::connect("ftp://host").await.unwrap_err().to_string();
    assert!(error.contains("known are memory"), "{error}");
}

#[tokio::test]
async fn one_name_in_memory_is_one_store_and_two_are_two() {
    let connect = async |url: &str| LockManager::connect(url).await.unwrap();
    let (one, same) = (connect("memory:one").await, connect("memory:one").await);
    let other = connect("memory:two").await;
    let _guard = one.mutex("a").unwrap().acquire().await.unwrap();
    assert!(same.mutex("a").unwrap().try_acquire().await.unwrap().is_none());
    assert!(other.mutex("a").unwrap().try_acquire().await.unwrap().is_some());
}

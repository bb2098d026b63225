//! Errors that are found before a request is sent. The conformance suite tests what holds for every store.

use std::time::Duration;

use globallock::{Error, LockManager, MAX_DURATION, ManagerOptions, Memory, Options};

const MILLISECOND: Duration = Duration::from_millis(1);

#[tokio::test]
async fn options_out_of_range_are_refused_by_name() {
    let manager = LockManager::with_backend(Memory::new(), ManagerOptions::default()).unwrap();
    let too_long = MAX_DURATION + MILLISECOND;
    for (options, name) in [
        (Options::new().lease(MILLISECOND), "lease"),
        (Options::new().lease(too_long), "lease"),
        (Options::new().max_hold(Some(MILLISECOND)), "max_hold"),
        (Options::new().wait(Some(too_long)), "wait"),
        (Options::new().store_timeout(Some(Duration::ZERO)), "store_timeout"),
    ] {
        let for_manager = ManagerOptions::new().locks(options.clone());
        let refused = [
            manager.mutex("a").with_options(options).acquire().await.err(),
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
async fn permits_out_of_range_are_refused() {
    let manager = LockManager::with_backend(Memory::new(), ManagerOptions::default()).unwrap();
    for capacity in [0, u32::MAX] {
        assert!(matches!(manager.semaphore("a", capacity).acquire().await, Err(Error::InvalidOption { .. })));
    }
    let semaphore = manager.semaphore("a", 3);
    for count in [0, 4] {
        assert!(matches!(semaphore.permits(count).acquire().await, Err(Error::InvalidOption { .. })));
    }
    assert_eq!(semaphore.acquire_many(3).await.unwrap().fencing_token(), 1);
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
async fn each_memory_address_is_one_store() {
    let connect = async |url: &str| LockManager::connect(url).await.unwrap();
    let (one, same) = (connect("memory:one").await, connect("memory:one").await);
    let other = connect("memory:two").await;
    let _guard = one.mutex("a").acquire().await.unwrap();
    assert!(same.mutex("a").try_acquire().await.unwrap().is_none());
    assert!(other.mutex("a").try_acquire().await.unwrap().is_some());
}

#[tokio::test]
async fn a_lock_has_the_options_of_its_manager_but_for_those_that_it_sets() {
    let second = Duration::from_secs(1);
    let of_manager = Options::new().lease(7 * second).wait(second);
    let manager = LockManager::with_backend(Memory::new(), of_manager.clone()).unwrap();
    let lock = || manager.mutex("a");
    assert_eq!(lock().options(), &of_manager);
    for (lock, expected) in [
        (lock().lease(9 * second), of_manager.clone().lease(9 * second)),
        (lock().wait(3 * second), of_manager.clone().wait(3 * second)),
        (lock().max_hold(4 * second), of_manager.clone().max_hold(4 * second)),
        (lock().store_timeout(5 * second), of_manager.clone().store_timeout(5 * second)),
        (lock().with_options(Options::new()), Options::new()),
        (manager.semaphore("a", 3).with_options(Options::new()).permits(2), Options::new()),
        (manager.rwlock("a").with_options(Options::new()).read(), Options::new()),
    ] {
        assert_eq!(lock.options(), &expected);
    }
}

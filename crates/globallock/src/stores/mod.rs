//! The stores, and which backend serves which address.

pub(crate) mod address;
pub mod duration;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(all(feature = "file", target_os = "linux"))]
mod file;
pub(crate) mod memory;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "etcd", feature = "zookeeper"))]
pub(crate) mod watched;
#[cfg(feature = "zookeeper")]
mod zookeeper;

use std::sync::Arc;

use crate::backend::Backend;
use crate::error::Result;
use crate::stores::address::Address;
use crate::stores::memory::Memory;

/// The schemes that this build knows.
const SCHEMES: &[&str] = &[
    "memory",
    #[cfg(all(feature = "file", target_os = "linux"))]
    "file",
    #[cfg(feature = "redis")]
    "redis",
    #[cfg(feature = "redis")]
    "rediss",
    #[cfg(feature = "redis")]
    "redis+unix",
    #[cfg(feature = "redis")]
    "redis+sentinel",
    #[cfg(feature = "redis")]
    "rediss+sentinel",
    #[cfg(feature = "etcd")]
    "etcd",
    #[cfg(feature = "etcd")]
    "etcds",
    #[cfg(feature = "zookeeper")]
    "zookeeper",
    #[cfg(feature = "zookeeper")]
    "zookeepers",
];

/// Connects to the store at `url`; [`LockManager::connect`](crate::LockManager::connect) lists the forms of
/// addresses.
///
/// # Errors
/// [`Error::InvalidAddress`](crate::Error::InvalidAddress) if the address is invalid; otherwise the error of
/// the store.
///
/// # Cancel safety
/// A dropped call leaves no connection behind.
pub async fn connect_backend(url: &str) -> Result<Arc<dyn Backend>> {
    let address = Address::parse(url)?;
    match address.scheme.as_str() {
        "memory" => Ok(Memory::connect(&address)?),
        #[cfg(all(feature = "file", target_os = "linux"))]
        "file" => Ok(file::File::connect(address)?),
        #[cfg(feature = "redis")]
        "redis" | "rediss" | "redis+unix" | "redis+sentinel" | "rediss+sentinel" => {
            // Boxed, because otherwise the futures nest too deep for the compiler's default recursion limit.
            Ok(Box::pin(redis::Redis::connect(address)).await?)
        }
        #[cfg(feature = "etcd")]
        "etcd" | "etcds" => Ok(Box::pin(etcd::Etcd::connect(address)).await?),
        #[cfg(feature = "zookeeper")]
        "zookeeper" | "zookeepers" => Ok(Box::pin(zookeeper::ZooKeeper::connect(address)).await?),
        scheme => Err(address
            .wrong(format!("the scheme {scheme:?} is not known here; known are {}", SCHEMES.join(", ")))),
    }
}

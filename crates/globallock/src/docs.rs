//! The project's pages: what each store promises and costs, and how it fails; [`metrics`](mod@metrics).
//!
//! | address | store |
//! |---|---|
//! | `redis://[user:password@]host[:port][/db]`, `rediss://` (TLS), `valkey://`, and sentinels | [`redis`] |
//! | `etcd://[user:password@]host,host,host`, `etcds://` (TLS) | [`etcd`] |
//! | `zookeeper://[user:password@]host,host,host[/chroot]`, `zookeepers://` (TLS) | [`zookeeper`] |
//! | `postgres://[user[:password]@]host[:port][/database]` | [`postgres`] |
//! | `file:///directory`, `file:` | [`file`](mod@file) |
//! | `memory:name` | [`memory`] |
//!
//! These modules are empty. They exist in the documentation only.

#[doc = include_str!("../docs/etcd.md")]
pub mod etcd {}
#[doc = include_str!("../docs/file.md")]
pub mod file {}
#[doc = include_str!("../docs/memory.md")]
pub mod memory {}
#[doc = include_str!("../docs/metrics.md")]
pub mod metrics {}
#[doc = include_str!("../docs/postgres.md")]
pub mod postgres {}
#[doc = include_str!("../docs/redis.md")]
pub mod redis {}
#[doc = include_str!("../docs/trust.md")]
pub mod trust {}
#[doc = include_str!("../docs/zookeeper.md")]
pub mod zookeeper {}

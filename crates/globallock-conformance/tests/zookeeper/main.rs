//! What is special to ZooKeeper: sessions, access, other programs' nodes, and servers that fail.

mod access;
mod faults;
mod fleet;
mod sessions;
mod times;
mod wire;

//! What is ZooKeeper's own: sessions, the nodes of other programs, its ways in, and servers that fail.

mod access;
mod faults;
mod fleet;
mod sessions;
mod times;
mod wire;

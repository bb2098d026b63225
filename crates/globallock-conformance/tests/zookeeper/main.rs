//! What is special to ZooKeeper: sessions, access, other programs' nodes, and servers that fail.

mod access;
mod contents;
mod curator;
mod evicting;
mod faults;
mod fleet;
mod listing;
mod sessions;
mod times;
mod wire;

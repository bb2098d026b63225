//! What is special to ZooKeeper: sessions, access, other programs' nodes, and servers that fail.

mod access;
mod contents;
mod curator;
mod evicting;
mod faults;
mod fleet;
mod leases;
mod listing;
mod reconnects;
mod reports;
mod sessions;
mod ticks;
mod times;
mod wire;

//! Tests of what owners do, over a scripted cluster.

mod enqueue;
mod renewal;
mod waiting;

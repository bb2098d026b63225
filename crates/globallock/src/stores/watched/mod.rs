//! What stores share that tell only that a key has gone.

pub(crate) mod inbox;

//! What the stores share whose watches report only that a key was deleted.

pub(crate) mod ahead;
pub(crate) mod by_length;
pub(crate) mod inbox;
pub(crate) mod records;
pub(crate) mod releases;

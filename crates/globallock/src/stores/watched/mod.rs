//! What the stores share whose watches report only that a key was deleted.

pub(crate) mod inbox;

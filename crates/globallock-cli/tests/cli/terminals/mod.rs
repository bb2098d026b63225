//! Interactive shells on terminals: what happens to a command under `globallock run` is what happens to it
//! without, whatever the layout, and nothing of it is left beside a next holder.

mod cells;
mod events;
mod prompts;
mod shell;
mod table;

pub(crate) use shell::{Kind, Shell};

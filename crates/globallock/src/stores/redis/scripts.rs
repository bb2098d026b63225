//! The scripts, each put together from the plain ways in front, the text that they share, and the verb; and the
//! requests that call them.

use redis::{Cmd, Script};

use super::keys::keys;
use crate::name::Name;

/// All that the server is asked to run.
pub(super) struct Scripts {
    pub(super) join: Script,
    /// The same for claims that share, which have no plain way.
    pub(super) join_shared: Script,
    pub(super) renew: Script,
    pub(super) leave: Script,
    pub(super) inspect: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Scripts {
            join: Script::new(concat!(
                include_str!("join_plain.lua"),
                include_str!("queue.lua"),
                include_str!("join.lua")
            )),
            join_shared: Script::new(concat!(include_str!("queue.lua"), include_str!("join.lua"))),
            renew: Script::new(concat!(
                include_str!("renew_plain.lua"),
                include_str!("queue.lua"),
                include_str!("renew.lua")
            )),
            leave: Script::new(concat!(
                include_str!("leave_plain.lua"),
                include_str!("queue.lua"),
                include_str!("leave.lua")
            )),
            inspect: Script::new(concat!(include_str!("queue.lua"), include_str!("inspect.lua"))),
        }
    }

    /// All of them, for loading.
    pub(super) fn all(&self) -> [&Script; 5] {
        [&self.join, &self.join_shared, &self.renew, &self.leave, &self.inspect]
    }
}

/// A call of `script` on the keys of `name`; the arguments follow.
pub(super) fn call(script: &Script, prefix: &str, name: &Name) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(5).arg(&keys(prefix, name));
    command
}

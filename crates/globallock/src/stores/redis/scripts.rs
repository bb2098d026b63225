//! The scripts, each put together from its fast path, the text that all share, and its verb; and the requests
//! that call them.

use redis::{Cmd, Script};

use super::keys::keys;
use crate::name::Name;

/// All scripts that the server is asked to run.
pub(super) struct Scripts {
    pub(super) enqueue: Script,
    /// The same for claims that may share, which have no fast path.
    pub(super) enqueue_shared: Script,
    pub(super) renew: Script,
    pub(super) release: Script,
    pub(super) inspect: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Scripts {
            enqueue: Script::new(concat!(
                include_str!("enqueue_fast.lua"),
                include_str!("queue.lua"),
                include_str!("enqueue.lua")
            )),
            enqueue_shared: Script::new(concat!(include_str!("queue.lua"), include_str!("enqueue.lua"))),
            renew: Script::new(concat!(
                include_str!("renew_fast.lua"),
                include_str!("queue.lua"),
                include_str!("renew.lua")
            )),
            release: Script::new(concat!(
                include_str!("release_fast.lua"),
                include_str!("queue.lua"),
                include_str!("release.lua")
            )),
            inspect: Script::new(concat!(include_str!("queue.lua"), include_str!("inspect.lua"))),
        }
    }

    /// All of them, for loading.
    pub(super) fn all(&self) -> [&Script; 5] {
        [&self.enqueue, &self.enqueue_shared, &self.renew, &self.release, &self.inspect]
    }
}

/// Makes a call of `script` on the keys of `name`; the caller appends the arguments.
pub(super) fn call(script: &Script, prefix: &str, name: &Name) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(5).arg(&keys(prefix, name));
    command
}

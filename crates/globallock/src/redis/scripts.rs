//! The scripts, each behind the text that they share, and the requests that call them.

use redis::{Cmd, Script};

use super::keys::keys;
use crate::name::Name;

macro_rules! script {
    ($verb:literal) => {
        Script::new(concat!(include_str!("queue.lua"), "\n", include_str!($verb)))
    };
}

/// All that the server is asked to run.
pub(super) struct Scripts {
    pub(super) join: Script,
    pub(super) renew: Script,
    pub(super) leave: Script,
    pub(super) inspect: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Scripts {
            join: script!("join.lua"),
            renew: script!("renew.lua"),
            leave: script!("leave.lua"),
            inspect: script!("inspect.lua"),
        }
    }

    /// All of them, for loading.
    pub(super) fn all(&self) -> [&Script; 4] {
        [&self.join, &self.renew, &self.leave, &self.inspect]
    }
}

/// A call of `script` on the keys of `name`; the arguments follow.
pub(super) fn call(script: &Script, prefix: &str, name: &Name) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(5).arg(&keys(prefix, name));
    command
}

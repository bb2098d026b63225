//! The scripts, each put together from its fast path, the text that all share, and its verb; and the requests
//! that call them.

use redis::{Cmd, Script};

use super::keys::{keys, notice};
use crate::backend::ClaimId;
use crate::name::Name;

/// All scripts that the server is asked to run.
pub(super) struct Scripts {
    pub(super) enqueue: Script,
    /// The same without the fast path: for claims that may share, and for those that ask again.
    pub(super) enqueue_shared: Script,
    pub(super) renew: Script,
    pub(super) release: Script,
    pub(super) inspect: Script,
    pub(super) evict: Script,
}

/// The values that `texts.lua` names, the longest names first, since shorter ones are parts of some.
pub(super) fn named() -> Vec<(&'static str, &'static str)> {
    let lines = include_str!("texts.lua").lines().filter_map(|line| line.strip_prefix("local "));
    let pairs = lines.filter_map(|line| line.split_once(" = "));
    let mut named: Vec<_> =
        pairs.flat_map(|(names, values)| names.split(", ").zip(values.split(", "))).collect();
    named.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    named
}

/// A script of a fast path, if there is one, and a verb.
fn script(fast: &str, verb: &str) -> Script {
    let code = [fast, include_str!("queue.lua"), verb].concat();
    Script::new(&named().iter().fold(code, |code, (name, value)| code.replace(name, value)))
}

impl Scripts {
    pub(super) fn new() -> Self {
        Scripts {
            enqueue: script(include_str!("enqueue_fast.lua"), include_str!("enqueue.lua")),
            enqueue_shared: script("", include_str!("enqueue.lua")),
            renew: script(include_str!("renew_fast.lua"), include_str!("renew.lua")),
            release: script(include_str!("release_fast.lua"), include_str!("release.lua")),
            inspect: script("", concat!(include_str!("foreign.lua"), include_str!("inspect.lua"))),
            evict: script("", concat!(include_str!("foreign.lua"), include_str!("evict.lua"))),
        }
    }

    /// All of them, for loading.
    pub(super) fn all(&self) -> [&Script; 6] {
        [&self.enqueue, &self.enqueue_shared, &self.renew, &self.release, &self.inspect, &self.evict]
    }
}

/// Makes a call of `script` on the keys of `name`; the caller appends the arguments.
pub(super) fn call(script: &Script, prefix: &str, name: &Name) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(5).arg(&keys(prefix, name));
    command
}

/// The same where the script looks at the notice for a claim as well, or leaves one.
pub(super) fn call_with_notice(script: &Script, prefix: &str, name: &Name, id: ClaimId) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(6).arg(&keys(prefix, name)).arg(notice(prefix, name, id));
    command
}

//! The scripts, each put together from its fast path, the text that all share, and its verb; and the requests
//! that call them.
//!
//! Everything is written for Redis 7. For an older server, [`rewritten`] makes of each request the one that
//! such a server understands.

use std::sync::LazyLock;

use redis::{Arg, Cmd, Pipeline, Script};

use super::config::Config;
use super::keys::{gaps, keys, notice};
use super::texts::milliseconds;
use crate::backend::ClaimId;
use crate::name::Name;

/// Which commands a server is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commands {
    /// Those of Redis 7, the fewest.
    Redis7,
    /// Those of Redis 6.0.
    Redis6,
}

/// All scripts that the server is asked to run.
pub(super) struct Scripts {
    pub(super) enqueue: Script,
    /// The same without the fast path: for claims that may share, and for those that ask again.
    pub(super) enqueue_shared: Script,
    pub(super) renew: Script,
    pub(super) keep: Script,
    pub(super) release: Script,
    pub(super) inspect: Script,
    pub(super) evict: Script,
    pub(super) value: Script,
    pub(super) set_value: Script,
}

/// The scripts for a server that has these commands. They are made once in each process.
pub(super) fn scripts(commands: Commands) -> &'static Scripts {
    static REDIS_7: LazyLock<Scripts> = LazyLock::new(|| Scripts::new(Commands::Redis7));
    static REDIS_6: LazyLock<Scripts> = LazyLock::new(|| Scripts::new(Commands::Redis6));
    match commands {
        Commands::Redis7 => &REDIS_7,
        Commands::Redis6 => &REDIS_6,
    }
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

/// What the scripts call on an older server in the place of the commands that it lacks; `older.lua` says how.
const OLDER: [(&str, &str); 3] = [
    ("redis.pcall('SET', ", "set(redis.pcall, "),
    ("call('SET', ", "set(call, "),
    ("call('PEXPIRETIME', ", "expires_at(call, "),
];

/// The text of a script of a fast path, if there is one, and a verb.
fn text(commands: Commands, fast: &str, verb: &str) -> String {
    whole(commands, [fast, include_str!("gaps.lua"), include_str!("queue.lua"), verb].concat())
}

/// The text as the server gets it.
fn whole(commands: Commands, text: String) -> String {
    let replaced = |text: String, pairs: &[(&str, &str)]| {
        pairs.iter().fold(text, |text, (from, to)| text.replace(from, to))
    };
    let text = match commands {
        Commands::Redis7 => text,
        Commands::Redis6 => [include_str!("older.lua"), &replaced(text, &OLDER)].concat(),
    };
    replaced(text, &named())
}

impl Scripts {
    fn new(commands: Commands) -> Self {
        let script = |fast, verb| Script::new(&text(commands, fast, verb));
        Scripts {
            enqueue: script(include_str!("enqueue_fast.lua"), include_str!("enqueue.lua")),
            enqueue_shared: script("", include_str!("enqueue.lua")),
            renew: script(include_str!("renew_fast.lua"), include_str!("renew.lua")),
            keep: script("", include_str!("keep.lua")),
            release: script(include_str!("release_fast.lua"), include_str!("release.lua")),
            inspect: script("", concat!(include_str!("foreign.lua"), include_str!("inspect.lua"))),
            evict: script("", concat!(include_str!("foreign.lua"), include_str!("evict.lua"))),
            value: Script::new(&whole(commands, include_str!("value.lua").to_owned())),
            set_value: script("", include_str!("set_value.lua")),
        }
    }

    /// All of them, for loading.
    pub(super) fn all(&self) -> [&Script; 9] {
        [
            &self.enqueue,
            &self.enqueue_shared,
            &self.renew,
            &self.keep,
            &self.release,
            &self.inspect,
            &self.evict,
            &self.value,
            &self.set_value,
        ]
    }
}

/// The request for a server that only has the commands of Redis 6. It calls the script that is written for
/// such a server. PEXPIRE is without LT, which came with Redis 7.0.
pub(super) fn rewritten(command: &Cmd) -> Cmd {
    let [newer, older] = [Commands::Redis7, Commands::Redis6].map(|commands| scripts(commands).all());
    let mut parts: Vec<&[u8]> = command
        .args_iter()
        .map(|part| match part {
            Arg::Simple(part) => part,
            // No request has one: they belong to the client's own iterators.
            _ => b"0",
        })
        .collect();
    match &mut parts[..] {
        [b"EVALSHA", hash, ..] => {
            let place = newer.iter().position(|script| script.get_hash().as_bytes() == *hash);
            *hash = place.map_or(hash, |place| older[place].get_hash().as_bytes());
        }
        [b"PEXPIRE", .., b"LT"] => drop(parts.pop()),
        _ => {}
    }
    let mut rewritten = Cmd::with_capacity(parts.len(), parts.iter().map(|part| part.len()).sum());
    for part in parts {
        rewritten.arg(part);
    }
    rewritten
}

/// The same of several requests.
pub(super) fn all_rewritten(commands: &Pipeline) -> Pipeline {
    let mut rewritten_all = Pipeline::with_capacity(commands.len());
    for command in commands.cmd_iter() {
        rewritten_all.add_command(rewritten(command));
    }
    rewritten_all
}

/// Makes a call of `script` on the keys of `name`; the caller appends the arguments.
pub(super) fn call(script: &Script, prefix: &str, name: &Name) -> Cmd {
    call_on(script, keys(prefix, name).as_slice())
}

pub(super) fn call_on(script: &Script, keys: &[String]) -> Cmd {
    call_with(script, keys, &[])
}

/// Makes a call of `script` on these keys with these arguments, and room for one more.
fn call_with(script: &Script, keys: &[String], arguments: &[&[u8]]) -> Cmd {
    // One that grows by its parts is copied again and again. Of the other parts, the hash is the longest.
    let parts = keys.iter().map(String::len).chain(arguments.iter().map(|argument| argument.len()));
    let size = 4 * script.get_hash().len() + parts.sum::<usize>();
    let mut command = Cmd::with_capacity(4 + keys.len() + arguments.len(), size);
    command.arg("EVALSHA").arg(script.get_hash()).arg(keys.len()).arg(keys).arg(arguments);
    command
}

impl Config {
    /// Makes a call of a script that may grant the lock, and so leave a gap, with these arguments. It is also
    /// on the notice for the claim `noticed`, and on the state of the gaps if there are any.
    pub(super) fn call(
        &self,
        script: &Script,
        name: &Name,
        noticed: Option<ClaimId>,
        arguments: &[&[u8]],
    ) -> Cmd {
        let mut keys = Vec::from(keys(&self.prefix, name));
        keys.extend(noticed.map(|id| notice(&self.prefix, name, id)));
        keys.extend(self.gap.map(|_| gaps(&self.prefix, name)));
        let mut command = call_with(script, &keys, arguments);
        if let Some(gap) = self.gap {
            command.arg(milliseconds(gap));
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(command: &Cmd) -> Vec<String> {
        let text = |part: Arg<&[u8]>| match part {
            Arg::Simple(part) => String::from_utf8_lossy(part).into_owned(),
            other => panic!("{other:?}"),
        };
        command.args_iter().map(text).collect()
    }

    fn command(parts: &[&str]) -> Cmd {
        let mut command = Cmd::new();
        command.arg(parts);
        command
    }

    #[test]
    fn an_older_server_is_asked_for_no_command_that_it_lacks() {
        let texts = |commands| {
            [
                text(commands, include_str!("enqueue_fast.lua"), include_str!("enqueue.lua")),
                text(commands, include_str!("release_fast.lua"), include_str!("release.lua")),
                text(commands, include_str!("renew_fast.lua"), include_str!("renew.lua")),
                text(commands, "", include_str!("keep.lua")),
                text(commands, include_str!("foreign.lua"), include_str!("inspect.lua")),
                text(commands, include_str!("foreign.lua"), include_str!("evict.lua")),
                text(commands, "", include_str!("set_value.lua")),
            ]
        };
        for (newer, older) in texts(Commands::Redis7).iter().zip(texts(Commands::Redis6)) {
            let rest = older.strip_prefix(include_str!("older.lua")).expect("it begins with what they lack");
            for lacks in ["call('SET'", "PEXPIRETIME", "'GT'", "'LT'"] {
                assert!(!rest.contains(lacks), "{lacks} in {rest}");
            }
            let sets = |text: &str| text.matches("call('SET', ").count();
            assert_eq!(
                rest.matches("set(call, ").count() + rest.matches("set(redis.pcall, ").count(),
                sets(newer)
            );
            assert!(sets(newer) > 0 && !newer.contains("replicate_commands"));
        }
    }

    #[test]
    fn each_request_is_rewritten_for_an_older_server() {
        let [newer, older] = [Commands::Redis7, Commands::Redis6].map(|commands| scripts(commands).all());
        let mut pipeline = Pipeline::new();
        for (newer, older) in newer.iter().zip(older) {
            assert_ne!(newer.get_hash(), older.get_hash());
            let call = command(&["EVALSHA", newer.get_hash(), "1", "a key", ""]);
            let expected = ["EVALSHA", older.get_hash(), "1", "a key", ""];
            assert_eq!(parts(&rewritten(&call)), expected);
            pipeline.add_command(call);
        }
        let hashes: Vec<_> = all_rewritten(&pipeline).cmd_iter().map(|call| parts(call)[1].clone()).collect();
        assert_eq!(hashes, older.map(Script::get_hash));
        let shortened = command(&["PEXPIRE", "a", "5", "LT"]);
        assert_eq!(parts(&rewritten(&shortened)), ["PEXPIRE", "a", "5"]);
        for same in
            [&["EVALSHA", "of another", "0"][..], &["GET", "LT"], &["PEXPIRE", "a", "5"], &["SCAN", "0"]]
        {
            assert_eq!(parts(&rewritten(&command(same))), same);
        }
    }
}

//! The rights of the user, each tried by a call that changes nothing.
//!
//! ACL DRYRUN would say the same, but few users may call it. Redis decides on the right to a command and to
//! its keys before it looks at what the command is to do. So each command is called about keys that are not
//! there, in a form that does nothing then.

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value, cmd};

use crate::backend::Finding;
use crate::name::Name;
use crate::stores::redis::failure::{Failure, Lacking};
use crate::stores::redis::scripts::Commands;
use crate::stores::redis::texts::EVERYBODY;
use crate::stores::redis::{Redis, keys};

/// The commands that locks are made of, each with arguments that change nothing about a key that is not
/// there. `K` is the lock's key, and `S` one beside it.
const ON_KEYS: &[&str] = &[
    "GET K",
    "SET K x XX",
    "DEL K",
    "EXISTS K",
    "MGET K",
    "PTTL K",
    "PEXPIRE K 1",
    "PEXPIREAT K 1",
    "GET S",
    "SET S x XX",
    "HDEL S x",
    "HGET S x",
    "HGETALL S",
    "HMGET S x",
    // It lacks the value of the second field, which is found out after the right has been decided on.
    "HSET S x x x",
    "ZADD S XX 1 x",
    "ZCOUNT S 0 0",
    "ZPOPMIN S",
    "ZRANGE S 0 0",
    "ZRANGEBYSCORE S 0 0",
    "ZRANK S x",
    "ZREM S x",
    "ZREMRANGEBYRANK S 0 0",
    "ZSCAN S 0",
    "ZSCORE S x",
];

/// The same, of Redis 7 only.
const ON_KEYS_OF_REDIS_7: &[&str] = &["PEXPIRETIME K"];

/// Those without keys. No script has this digest, so that nothing is run.
const WITHOUT_KEYS: &[&str] = &["PING", "TIME", "EVALSHA 0000000000000000000000000000000000000000 0"];

/// One thing that the user should be allowed.
struct Trial {
    command: &'static str,
    request: Cmd,
    /// What is on keys has a pattern that the user needs.
    pattern: Option<String>,
}

impl Redis {
    /// Tries each right that locks need.
    pub(super) async fn rights(
        &self,
        connection: &mut MultiplexedConnection,
        name: &Name,
    ) -> Result<Vec<Finding>, Failure> {
        let is_new = self.connection.config().commands != Some(Commands::Redis6)
            && refusal(
                cmd("PEXPIRETIME").arg(keys::lock(self.prefix(), name)).query_async(connection).await,
            )?
            .is_none_or(|failure| !failure.is_unknown_command());
        let trials = self.trials(name, is_new);
        let mut pipeline = Pipeline::with_capacity(trials.len());
        for trial in &trials {
            pipeline.add_command(trial.request.clone());
        }
        let answers = connection.send_packed_commands(&pipeline, 0, trials.len()).await?;
        let user = self.user(connection).await;
        let mut missing = Missing { user: &user, found: Vec::new() };
        for (trial, answer) in trials.iter().zip(answers) {
            if let Some(failure) = refusal(answer.extract_error())? {
                missing.note(trial, &failure, || self.connection.config().reason(&failure));
            }
        }
        self.channels(connection, &mut missing).await?;
        self.scripts_and_lists(connection, &mut missing).await?;
        let Missing { mut found, .. } = missing;
        if !found.iter().any(|finding| finding.verdict.is_bad()) {
            let (prefix, count) = (self.prefix(), trials.len());
            let text = format!(
                "{user} has all that locks need: {count} commands, the keys {prefix}* and \
                                {{{prefix}*, the channels globallock:*"
            );
            found.insert(0, Finding::good("rights", text));
        }
        Ok(found)
    }

    fn trials(&self, name: &Name, is_new: bool) -> Vec<Trial> {
        let [lock, counter, ..] = keys::keys(self.prefix(), name);
        let prefix = self.prefix();
        let newer = if is_new { ON_KEYS_OF_REDIS_7 } else { &[] };
        let on_keys = ON_KEYS.iter().chain(newer).chain(WITHOUT_KEYS).map(|text| {
            let mut words = text.split(' ');
            let command = words.next().unwrap_or_default();
            let (mut request, mut pattern) = (cmd(command), None);
            for word in words {
                match word {
                    "K" => {
                        pattern = Some(format!("~{prefix}*"));
                        request.arg(&lock);
                    }
                    "S" => {
                        pattern = Some(pattern.unwrap_or_else(|| format!("~{{{prefix}*")));
                        request.arg(&counter);
                    }
                    word => {
                        request.arg(word);
                    }
                }
            }
            Trial { command, request, pattern }
        });
        on_keys.collect()
    }

    /// Tries the channels on which waiters and evicted owners are told.
    async fn channels(
        &self,
        connection: &mut MultiplexedConnection,
        missing: &mut Missing<'_>,
    ) -> Result<(), Failure> {
        let channel = format!("{}-doctor", self.channel);
        let publish = cmd("PUBLISH").arg(&channel).arg("").query_async::<Value>(connection).await;
        let subscribe = connection.subscribe(&channel).await.map(|()| Value::Nil);
        for (command, answer) in [("PUBLISH", publish), ("SUBSCRIBE", subscribe)] {
            let Some(failure) = refusal(answer)? else { continue };
            let trial = Trial { command, request: Cmd::new(), pattern: Some("&globallock:*".to_owned()) };
            missing.note(&trial, &failure, || self.connection.config().reason(&failure));
        }
        let everybody = connection.subscribe(EVERYBODY).await.map(|()| Value::Nil);
        if refusal(everybody)?.is_some_and(|failure| failure.lacking() == Some(Lacking::Channel))
            && missing.found.is_empty()
        {
            let text = format!(
                "{} may not listen to {EVERYBODY}: a holder that is evicted learns of it at its \
                                next renewal only",
                missing.user
            );
            missing.found.push(Finding::note("rights", text).remedy(missing.setuser("&globallock:*")));
        }
        Ok(())
    }

    /// Tries to load a script, and to list.
    async fn scripts_and_lists(
        &self,
        connection: &mut MultiplexedConnection,
        missing: &mut Missing<'_>,
    ) -> Result<(), Failure> {
        let script = &self.connection.scripts().value;
        if let Some(failure) = refusal(script.load_async(connection).await.map(|_| Value::Nil))? {
            let trial = Trial { command: "SCRIPT", request: Cmd::new(), pattern: None };
            missing.note(&trial, &failure, || self.connection.config().reason(&failure));
        }
        let scan = cmd("SCAN").arg(0).arg("COUNT").arg(1).query_async::<Value>(connection).await;
        if refusal(scan)?.is_some() {
            let text =
                format!("{} may not SCAN: locks work, but nobody can list them as this user", missing.user);
            missing.found.push(Finding::note("rights", text).remedy(missing.setuser("+scan")));
        }
        if self.connection.config().gap.is_some() {
            let tracking = cmd("CLIENT").arg("TRACKING").arg("OFF").query_async::<Value>(connection).await;
            if refusal(tracking)?.is_some() {
                let text =
                    format!("{} may not use CLIENT TRACKING: the first waiter polls in gaps", missing.user);
                let remedy = missing.setuser("+client|tracking +client|caching");
                missing.found.push(Finding::note("rights", text).remedy(remedy));
            }
        }
        Ok(())
    }

    /// How the user is called.
    async fn user(&self, connection: &mut MultiplexedConnection) -> String {
        let asked: redis::RedisResult<String> = cmd("ACL").arg("WHOAMI").query_async(connection).await;
        let known = asked.ok().or_else(|| self.connection.config().login.user.clone());
        format!("the user {}", known.as_deref().unwrap_or("default").escape_debug())
    }
}

/// The rights that are missing.
struct Missing<'a> {
    user: &'a str,
    found: Vec<Finding>,
}

impl Missing<'_> {
    /// What to write to give the user a right.
    fn setuser(&self, right: &str) -> String {
        format!("ACL SETUSER {} {right}", self.user.trim_start_matches("the user "))
    }

    fn note(&mut self, trial: &Trial, failure: &Failure, reason: impl FnOnce() -> String) {
        let Trial { command, pattern, .. } = trial;
        let user = self.user;
        let finding = match (failure.lacking(), pattern) {
            (Some(Lacking::Command), _) => {
                let right = match *command {
                    "SCRIPT" => "+script|load".to_owned(),
                    command => format!("+{}", command.to_ascii_lowercase()),
                };
                Finding::denied("rights", format!("{user} may not call {command}"))
                    .remedy(self.setuser(&right))
            }
            (Some(Lacking::Key), Some(pattern)) => {
                let keys = pattern.trim_start_matches('~');
                Finding::denied("rights", format!("{user} may not read and write the keys {keys}"))
                    .remedy(self.setuser(pattern))
            }
            (Some(Lacking::Channel), Some(pattern)) => {
                let channels = pattern.trim_start_matches('&');
                Finding::denied("rights", format!("{user} may not use the channels {channels}"))
                    .remedy(self.setuser(pattern))
            }
            _ => Finding::bad("rights", reason()),
        };
        if !self.found.contains(&finding) {
            self.found.push(finding);
        }
    }
}

/// What the server refuses to this user, or to everybody. What a command says that was called wrongly on
/// purpose is no refusal.
///
/// # Errors
/// When there is no answer.
fn refusal(answer: redis::RedisResult<Value>) -> Result<Option<Failure>, Failure> {
    match answer.map_err(Failure::from) {
        Ok(_) => Ok(None),
        Err(failure) if !failure.is_of_server() => Err(failure),
        Err(failure) => Ok(failure.is_refused().then_some(failure)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The commands that the scripts call.
    fn called() -> BTreeSet<String> {
        let scripts = [
            include_str!("../enqueue.lua"),
            include_str!("../enqueue_fast.lua"),
            include_str!("../evict.lua"),
            include_str!("../foreign.lua"),
            include_str!("../gaps.lua"),
            include_str!("../inspect.lua"),
            include_str!("../keep.lua"),
            include_str!("../older.lua"),
            include_str!("../queue.lua"),
            include_str!("../release.lua"),
            include_str!("../release_fast.lua"),
            include_str!("../renew.lua"),
            include_str!("../renew_fast.lua"),
            include_str!("../set_value.lua"),
            include_str!("../value.lua"),
        ];
        let calls = scripts.iter().flat_map(|script| script.split("call('").skip(1));
        calls.filter_map(|rest| rest.split_once('\'')).map(|(command, _)| command.to_owned()).collect()
    }

    #[test]
    fn every_command_of_the_scripts_is_tried() {
        let tried = ON_KEYS.iter().chain(ON_KEYS_OF_REDIS_7).chain(WITHOUT_KEYS);
        let tried: BTreeSet<&str> = tried.filter_map(|text| text.split(' ').next()).collect();
        let called = called();
        assert!(called.len() > 20, "{called:?}");
        // It has no key, and needs a channel.
        let missing: Vec<_> =
            called.iter().filter(|call| !tried.contains(&***call) && *call != "PUBLISH").collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

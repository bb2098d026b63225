//! Sums up many queues in few round trips.

use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use redis::{Pipeline, Value};

use super::failure::{Failure, Kind};
use super::scripts::call;
use super::{Redis, inspect, keys};
use crate::backend::Summary;
use crate::error::Result;
use crate::name::Name;

/// How many keys the server looks through in one request.
const PAGE: usize = 1000;
/// How many queues are asked for at once.
const WINDOW: usize = 500;

impl Redis {
    /// The names that begin with `prefix` and have a holder.
    pub(super) fn summaries<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        let pattern = keys::pattern(&format!("{}{prefix}", self.prefix()));
        let pages = stream::try_unfold(Some("0".to_owned()), move |cursor| {
            let pattern = pattern.clone();
            async move {
                let Some(cursor) = cursor else { return Ok(None) };
                let mut command = redis::cmd("SCAN");
                command.arg(&cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(PAGE);
                command.arg("TYPE").arg("string");
                let answer = self.request(&command).await?;
                let (next, keys): (String, Vec<Vec<u8>>) = self.read(answer)?;
                let names: Vec<Name> = keys.into_iter().filter_map(|key| self.name(key)).collect();
                let mut summaries = Vec::new();
                for window in names.chunks(WINDOW) {
                    self.sum_up(window, &mut summaries).await?;
                }
                Ok(Some((stream::iter(summaries), (next != "0").then_some(next))))
            }
        });
        pages.try_flatten().boxed()
    }

    /// The name whose lock's key this is.
    fn name(&self, key: Vec<u8>) -> Option<Name> {
        let key = String::from_utf8(key).ok().filter(|key| !keys::is_side_key(key))?;
        Name::new(key.strip_prefix(self.prefix())?).ok()
    }

    /// Adds the summaries of the names that have claims. An error that concerns one name is its answer; one
    /// that concerns the server ends it.
    async fn sum_up(&self, names: &[Name], summaries: &mut Vec<Result<Summary>>) -> Result<()> {
        let mut answers = self.queues(names).await;
        if answers.iter().any(|answer| is_of_the_server(answer, &[Kind::Disconnected])) {
            answers = self.queues(names).await;
        }
        for (name, answer) in names.iter().zip(answers) {
            if is_of_the_server(&answer, &[Kind::Disconnected, Kind::NotNow, Kind::NoScript]) {
                return answer.map(drop).map_err(|failure| self.error(failure));
            }
            match answer.map(|answer| inspect::entries(&answer)) {
                Ok(Some(queue)) => summaries.extend(Summary::of(name, &queue).map(Ok)),
                Ok(None) => summaries.push(Err(self.not_a_lock())),
                Err(failure) => summaries.push(Err(self.error(failure))),
            }
        }
        Ok(())
    }

    async fn queues(&self, names: &[Name]) -> Vec<Result<Value, Failure>> {
        let mut commands = Pipeline::with_capacity(names.len());
        for name in names {
            commands.add_command(call(&self.connection.scripts().inspect, self.prefix(), name));
        }
        self.connection.requests(&commands, names.len()).await
    }
}

fn is_of_the_server(answer: &Result<Value, Failure>, kinds: &[Kind]) -> bool {
    answer.as_ref().is_err_and(|failure| kinds.contains(&failure.kind))
}

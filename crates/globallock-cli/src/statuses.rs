//! What each exit status means: one table for all verbs, which their helps, the manual and the documents
//! have.

/// The widest line of a help.
const WIDTH: usize = 100;
/// Where the meaning of a status begins.
const INDENT: usize = 7;

/// The rows: a status, the verbs that have it, and what it means to them.
const TABLE: &[(&str, &[&str], &str)] = &[
    ("0", &["hold"], HOLD_ENDED),
    ("0", &["ls"], "the locks are listed, also if there are none"),
    ("0", &["inspect"], "the queue is shown, also if it is empty"),
    ("0", &["break"], "the claim is broken"),
    ("0", &["wait", "status"], "the lock is free: nobody holds it or waits for it"),
    ("0", &["top"], "it was quit"),
    ("0", &["serve"], "a signal has asked it to end"),
    ("0", &["doctor"], "nothing is bad"),
    ("0", &["setup"], "the store is set up, or needs no setup"),
    ("1", &["ls"], "--fail-empty: there is no such lock; --fail-found: there is one"),
    ("1", &["break"], NOT_BROKEN),
    ("1", &["status"], "the lock is held or waited for"),
    ("64", ALL, "wrong usage: an option, the name, or the address"),
    ("69", ALL_BUT_SERVE, "the store cannot be reached, or cannot serve"),
    ("69", &["serve"], "the store's directory cannot be used; a server that is away is asked again"),
    ("69", &["doctor"], "something else is bad: the store may lose locks"),
    ("70", ALL, "something went wrong inside"),
    ("75", &["run", "hold"], TAKEN),
    ("75", &["wait"], "the lock was not free in time (--wait)"),
    ("76", &["run"], RUN_LOST),
    ("76", &["hold"], "the lock was lost while it was held; or this waiter was evicted"),
    ("77", ALL_BUT_SERVE, "the store refused the user"),
    ("77", &["serve"], "the store's directory refused the user; a server that refuses is asked again"),
    ("77", &["doctor"], "a right is missing"),
    ("126", &["run"], "the command cannot be run"),
    ("127", &["run"], "the command was not found"),
    ("128 + N", &["hold"], "when signal N has ended it, after the lock was released"),
    ("128 + N", &["top"], "when signal N has ended it, after the terminal was given back"),
    ("128 + N", &["break"], "when signal N has ended it, after what was done to a claim was written down"),
    ("128 + N", &["doctor"], "when signal N has ended it, after its locks were released"),
];

const ALL: &[&str] =
    &["run", "hold", "ls", "inspect", "break", "wait", "status", "top", "serve", "doctor", "setup"];
/// It goes on without its store, and says so.
const ALL_BUT_SERVE: &[&str] =
    &["run", "hold", "ls", "inspect", "break", "wait", "status", "top", "doctor", "setup"];
const HOLD_ENDED: &str = "the lock was held, and was released because what it was held for has ended; with \
                          --background: the lock is held";
const NOT_BROKEN: &str = "nothing is broken: the claim is not there any more, it waits (without --waiter) or \
                          holds by now (with it), it gives signs of life (--stale), or the answer was no";
const TAKEN: &str = "the lock was not to be had: taken (--no-wait) or not granted in time (--wait); see \
                     --conflict-exit-code";
const RUN_LOST: &str = "the lock was lost, or held for its --max-hold, while the command ran, which was told \
                        to end; or this waiter was evicted";

/// What `run` has before its rows.
const OF_COMMAND: &str = "  that of the command, or 128 + N when it was ended by signal N (if globallock was \
                          sent that signal too, it\n  ends by it likewise, which shells and systemd take for \
                          an interruption); otherwise\n";

/// The end of the help of a verb: its examples, and its exit statuses.
pub(crate) fn below(examples: &str, verb: &str) -> String {
    let mut text = format!("{examples}\n\nExit status:\n");
    if verb == "run" {
        text += OF_COMMAND;
    }
    for (status, _, means) in TABLE.iter().filter(|(_, verbs, _)| verbs.contains(&verb)) {
        let mut line = format!("{status:>5}  ");
        if status.len() > INDENT - 2 {
            line = format!("  {status}  ");
        }
        for word in means.split(' ') {
            if line.len() + word.len() >= WIDTH {
                text += line.trim_end();
                text += "\n";
                line = " ".repeat(INDENT);
            }
            line += word;
            line.push(' ');
        }
        text += line.trim_end();
        text += "\n";
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use globallock::Schemes;

    use super::*;

    #[test]
    fn the_statuses_of_a_verb_stand_below_its_examples() {
        assert_eq!(
            below("Examples:\n  a", "status"),
            [
                "Examples:\n  a\n",
                "Exit status:",
                "    0  the lock is free: nobody holds it or waits for it",
                "    1  the lock is held or waited for",
                "   64  wrong usage: an option, the name, or the address",
                "   69  the store cannot be reached, or cannot serve",
                "   70  something went wrong inside",
                "   77  the store refused the user",
            ]
            .join("\n")
        );
        let run = below("", "run");
        assert!(run.contains("\n       --conflict-exit-code\n") && run.contains("\n  126  the"), "{run}");
        assert!(run.lines().all(|line| line.len() <= 110), "{run}");
    }

    #[test]
    fn every_verb_that_asks_a_store_has_statuses() {
        for verb in crate::arguments::command(&Schemes::default()).get_subcommands() {
            let asks = verb.get_arguments().any(|argument| argument.get_id() == "url");
            let rows = TABLE.iter().filter(|(_, verbs, _)| verbs.contains(&verb.get_name())).count();
            assert_eq!(asks, rows > 3, "{}", verb.get_name());
            let below = verb.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            assert_eq!(asks, below.contains("\nExit status:\n"), "{}", verb.get_name());
        }
    }

    #[test]
    fn the_documents_have_the_table() {
        let document = include_str!("../../../docs/operations.md");
        let rows: Vec<String> = TABLE
            .iter()
            .map(|(status, verbs, means)| {
                let verbs = match *verbs {
                    ALL => "all".to_owned(),
                    ALL_BUT_SERVE => "all but serve".to_owned(),
                    verbs => verbs.join(", "),
                };
                format!("| {status} | {verbs} | {means} |\n")
            })
            .collect();
        assert!(document.contains(&rows.concat()), "docs/operations.md needs:\n{}", rows.concat());
    }
}

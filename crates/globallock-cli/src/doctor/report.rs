//! The findings on standard output: lines for people, or JSON.

use std::io::{ErrorKind, IsTerminal, Write};

use clap::builder::styling::{AnsiColor, Style};
use globallock::{Error, Finding, Verdict};
use serde_json::json;

use crate::exit::Failure;

/// How the findings are printed.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// A line each, and one below it with what to do
    Text,
    /// A JSON object a line
    Json,
}

/// What has been found so far.
pub(super) struct Report {
    output: Output,
    /// Whether only what is bad is printed.
    quiet: bool,
    coloured: bool,
    verdicts: Vec<Verdict>,
}

impl Report {
    pub(super) fn new(output: Output, quiet: bool) -> Self {
        let wants_none = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let coloured = output == Output::Text && !wants_none && std::io::stdout().is_terminal();
        Report { output, quiet, coloured, verdicts: Vec::new() }
    }

    /// Prints a finding.
    pub(super) fn say(&mut self, finding: &Finding) -> Result<(), Failure> {
        self.verdicts.push(finding.verdict);
        if self.quiet && !finding.verdict.is_bad() {
            return Ok(());
        }
        let text = match self.output {
            Output::Text => in_text(finding, self.coloured),
            Output::Json => in_json(finding),
        };
        print(&text)
    }

    /// Prints that the store cannot be examined, and returns the exit status.
    pub(super) fn unreached(&mut self, error: Error) -> Result<u8, Failure> {
        let finding =
            if matches!(error, Error::PermissionDenied { .. }) { Finding::denied } else { Finding::bad };
        self.say(&finding("connection", error.to_string()))?;
        Ok(Failure::Lock(error).status(0))
    }

    /// Prints how many findings of each kind there were, and returns the exit status.
    pub(super) fn end(self, store: &str) -> Result<u8, Failure> {
        let count = |verdict| self.verdicts.iter().filter(|found| **found == verdict).count();
        if self.output == Output::Text && !self.quiet {
            let kinds = [Verdict::Good, Verdict::Note, Verdict::Unknown, Verdict::Bad, Verdict::Denied];
            let counts = kinds.map(|verdict| (count(verdict), verdict));
            let counts: Vec<String> = counts
                .iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, verdict)| format!("{count} {verdict}"))
                .collect();
            print(&format!("{store}: {}\n", counts.join(", ")))?;
        }
        Ok(status(&self.verdicts))
    }
}

/// The exit status: what the worst finding means.
fn status(verdicts: &[Verdict]) -> u8 {
    let error = match verdicts.iter().max() {
        Some(Verdict::Denied) => Error::permission_denied("", ""),
        Some(worst) if worst.is_bad() => Error::failed_precondition("", ""),
        _ => return 0,
    };
    Failure::Lock(error).status(0)
}

fn print(text: &str) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        // Nobody reads any more. What is under way is to end well all the same.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::System(error)),
        _ => Ok(()),
    }
}

fn in_json(finding: &Finding) -> String {
    let Finding { subject, verdict, text, remedy, .. } = finding;
    let line = json!({ "subject": subject, "verdict": verdict.as_str(), "text": text, "remedy": remedy });
    format!("{line}\n")
}

fn in_text(finding: &Finding, coloured: bool) -> String {
    let Finding { subject, verdict, text, remedy, .. } = finding;
    let colour = match verdict {
        _ if !coloured => Style::new(),
        Verdict::Good => AnsiColor::Green.on_default(),
        Verdict::Note => AnsiColor::Yellow.on_default(),
        Verdict::Bad | Verdict::Denied => AnsiColor::Red.on_default().bold(),
        _ => AnsiColor::Cyan.on_default(),
    };
    // What servers say of themselves must not reach the terminal as it is.
    let safe = |text: &str| -> String {
        text.chars().flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] }).collect()
    };
    let mut lines = format!("{colour}{verdict:<8}{colour:#}{subject}: {}\n", safe(text));
    if let Some(remedy) = remedy {
        lines += &format!("        {}\n", safe(remedy));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_what_to_do_is_the_next_one() {
        let finding =
            Finding::note("persistence", "a restart forgets\u{1b}[2J all").remedy("set appendonly yes");
        assert_eq!(
            in_text(&finding, false),
            "note    persistence: a restart forgets\\u{1b}[2J all\n        set appendonly yes\n"
        );
        let coloured = in_text(&Finding::good("version", "Redis 8"), true);
        assert_eq!(coloured, "\u{1b}[32mok      \u{1b}[0mversion: Redis 8\n");
        let bad = in_json(&Finding::bad("a", "b\n\"c\""));
        assert_eq!(
            bad,
            "{\"remedy\":null,\"subject\":\"a\",\"text\":\"b\\n\\\"c\\\"\",\"verdict\":\"bad\"}\n"
        );
    }

    #[test]
    fn the_worst_finding_decides_on_the_status() {
        use Verdict::{Bad, Denied, Good, Note, Unknown};
        for (verdicts, expected) in
            [(&[][..], 0), (&[Good, Note, Unknown], 0), (&[Bad, Good], 69), (&[Bad, Denied, Good], 77)]
        {
            assert_eq!(status(verdicts), expected, "{verdicts:?}");
        }
    }
}

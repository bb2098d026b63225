//! The results of all runs of one pass.

use std::collections::BTreeSet;
use std::fmt;

use super::Report;

/// The reports of all stores, for people: totals, and which faults took effect on which store.
#[derive(Clone, Copy, Debug)]
pub struct Pass<'a> {
    /// One for each store.
    pub reports: &'a [Report],
    /// The kinds of faults that this machine does not permit, and why.
    pub missing: &'a [(String, &'static str)],
}

impl fmt::Display for Pass<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<16} {:>10} {:>8} {:>8} {:>8} {:>11}",
            "store", "grants", "in calm", "faults", "losses", "violations"
        )?;
        for report in self.reports {
            let (grants, calm, faults) =
                (report.all_grants(), report.calm_grants, report.faults_with_effect());
            let (losses, violations) = (report.all_losses(), report.violations.len());
            writeln!(
                f,
                "{:<16} {grants:>10} {calm:>8} {faults:>8} {losses:>8} {violations:>11}",
                report.store
            )?;
        }
        let sum = |count: fn(&Report) -> u64| self.reports.iter().map(count).sum::<u64>();
        let (grants, calm, faults) =
            (sum(Report::all_grants), sum(|report| report.calm_grants), sum(Report::faults_with_effect));
        writeln!(f, "{:<16} {grants:>10} {calm:>8} {faults:>8}", "all")?;
        self.faults(f)
    }
}

impl Pass<'_> {
    /// How often each kind of fault took effect on each store; a star where it had to.
    fn faults(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: BTreeSet<&String> =
            self.reports.iter().flat_map(|report| report.faults.keys().chain(&report.owed)).collect();
        write!(f, "{:<19}", "times with effect")?;
        for report in self.reports {
            write!(f, " {:>13}", report.store)?;
        }
        writeln!(f)?;
        for kind in kinds {
            write!(f, "{kind:<19}")?;
            for report in self.reports {
                let star = if report.owed.contains(kind) { "*" } else { "" };
                match report.faults.get(kind) {
                    Some((effective, 0)) => write!(f, " {:>13}", format!("{effective}{star}"))?,
                    Some((effective, ineffective)) => {
                        let all = effective + ineffective;
                        write!(f, " {:>13}", format!("{effective} of {all}{star}"))?;
                    }
                    None if star.is_empty() => write!(f, " {:>13}", "-")?,
                    None => write!(f, " {:>13}", "never*")?,
                }
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "* had to take effect here; a pass of less than a minute per store divides them by families"
        )?;
        for (kinds, why) in self.missing {
            writeln!(f, "not possible here: {kinds} ({why})")?;
        }
        Ok(())
    }
}

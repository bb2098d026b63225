//! The values that came with grants, and who wrote them when.

use super::exclusion::describe;
use super::read::{Claim, ValueWrite};
use super::{Case, Report, Rule};
use crate::history::{SeenValue, Time, ValueAnswer};

/// Which write of which claim: the fencing token, and the number of the write. The newer one is greater.
type Stamp = (u64, u64);

/// What was written to the value of one name.
struct Written<'a> {
    /// The granted claims, by their tokens.
    claims: Vec<&'a Claim>,
    /// For each of them, the first time at which the grant of an exclusive claim behind it was known.
    replaced: Vec<Time>,
    /// The newest write of an exclusive claim up to each of them that was answered as written.
    newest: Vec<Option<(Stamp, Time)>>,
    /// When each write of any claim was answered as written, and the newest one by then.
    answered: Vec<(Time, (Stamp, Time))>,
}

fn token(claim: &Claim) -> u64 {
    claim.granted.map_or(0, |grant| grant.fencing_token)
}

/// The writes of a claim that were answered as written, and when they were.
fn written(claim: &Claim) -> impl Iterator<Item = (&ValueWrite, Time)> {
    claim.value_writes.iter().filter_map(|write| match &write.answer {
        Some((at, ValueAnswer::Written)) => Some((write, *at)),
        _ => None,
    })
}

impl<'a> Written<'a> {
    fn new(claims: &[&'a Claim]) -> Self {
        let mut claims: Vec<&Claim> =
            claims.iter().copied().filter(|claim| claim.granted.is_some()).collect();
        claims.sort_by_key(|claim| token(claim));
        let (mut replaced, mut first) = (vec![Time::MAX; claims.len()], Time::MAX);
        for (position, claim) in claims.iter().enumerate().rev() {
            replaced[position] = first;
            if let Some(grant) = claim.granted.filter(|_| claim.is_exclusive()) {
                first = first.min(grant.at);
            }
        }
        let (mut newest, mut answered) = (Vec::new(), Vec::new());
        let mut last = None;
        for claim in &claims {
            for (write, at) in written(claim) {
                let this = ((token(claim), write.number), write.at);
                answered.push((at, this));
                last = if claim.is_exclusive() { last.max(Some(this)) } else { last };
            }
            newest.push(last);
        }
        answered.sort_unstable();
        let mut last = (0, 0);
        for (_, this) in &mut answered {
            *this = if this.0 < last { (last, this.1) } else { *this };
            last = this.0;
        }
        Written { claims, replaced, newest, answered }
    }

    /// The position of the first claim that does not have a lower token.
    fn position(&self, fencing_token: u64) -> usize {
        self.claims.partition_point(|claim| token(claim) < fencing_token)
    }

    /// The newest write that surely came before the grant of a claim, and when it was begun.
    fn before(&self, claim: &Claim) -> Option<(Stamp, Time)> {
        let of_lower = self.position(token(claim)).checked_sub(1).and_then(|position| self.newest[position]);
        let asked = self.answered.partition_point(|(at, _)| *at < claim.invoked);
        of_lower.max(asked.checked_sub(1).map(|position| self.answered[position].1))
    }

    /// Who wrote what was seen.
    fn writer(&self, seen: &SeenValue) -> Option<(usize, &'a Claim, &'a ValueWrite)> {
        let (fencing_token, number) = seen.text.split_once(' ')?;
        let (fencing_token, number) = (fencing_token.parse().ok()?, number.parse::<u64>().ok()?);
        let position = self.position(fencing_token);
        let claim = *self.claims.get(position)?;
        let write = claim.value_writes.iter().find(|write| write.number == number)?;
        (fencing_token == seen.fencing_token && fencing_token == token(claim))
            .then_some((position, claim, write))
    }
}

impl Case<'_> {
    /// The value of a name is what its newest holder has written, and no earlier holder writes it any more.
    ///
    /// - No write is answered as written that was begun after the grant of a later exclusive claim was known.
    /// - A value that comes with a grant was written by a claim that asked to, and not after such a grant.
    /// - It is not older than a write that was answered as written before the claim was requested, nor than
    ///   one of an exclusive claim with a lower token.
    /// - It is the same that came with an earlier exclusive grant, unless that claim or a later one wrote.
    /// - With an exclusive grant comes no value of a higher token, and the writes of an exclusive claim are
    ///   not outranked while it surely holds.
    ///
    /// Sound, because a value is written only while its claim holds, and no token overwrites a higher one's.
    /// When an exclusive claim is granted, those with lower tokens have ended, so what they have written by
    /// then is all that they ever write. It does not matter when their owners hear of it: an unanswered write
    /// may have been carried out or not, but never after that grant. The value is read at the grant or later.
    /// While an exclusive claim surely holds, nobody else writes. Values are kept for much longer than a run
    /// lasts.
    pub(super) fn values(&self, report: &mut Report) {
        for claims in self.names.values() {
            let all = Written::new(claims);
            // The last exclusive grant with a value, and that value.
            let mut before: Option<(&Claim, Option<Stamp>)> = None;
            for (position, claim) in all.claims.iter().copied().enumerate() {
                self.value_writes(claim, all.replaced[position], report);
                let Some(seen) = &claim.came_with else { continue };
                let stamp = self.value_seen(claim, seen.as_ref(), &all, report);
                if let Some((earlier, known)) = before
                    && stamp != known
                    && stamp.is_none_or(|(writer, _)| writer < token(earlier))
                {
                    let what = format!(
                        "{known:?} came with the grant of {}, and then {stamp:?} with that of {}",
                        describe(earlier),
                        describe(claim)
                    );
                    self.wrong_value(earlier.invoked, known_at(claim), what, report);
                }
                // If it had ended before the value was read, a later claim may have written.
                if claim.is_exclusive() && stamp.is_none_or(|(writer, _)| writer < token(claim)) {
                    before = Some((claim, stamp));
                }
            }
        }
    }

    /// Judges the value that came with a grant, and returns who wrote it.
    fn value_seen(
        &self,
        claim: &Claim,
        seen: Option<&SeenValue>,
        all: &Written<'_>,
        report: &mut Report,
    ) -> Option<Stamp> {
        report.values += 1;
        let at = known_at(claim);
        let stamp = match seen.map(|seen| all.writer(seen).ok_or(seen)) {
            None => None,
            Some(Ok((position, writer, write))) if write.at <= at => {
                if all.replaced[position] < write.at {
                    let what = format!(
                        "{} wrote at {} after a later grant, and {} came with it",
                        describe(writer),
                        write.at,
                        describe(claim)
                    );
                    self.wrong_value(known_at(writer), at, what, report);
                }
                Some((token(writer), write.number))
            }
            Some(Ok(_)) => {
                let what = format!("{} came with what was not written yet", describe(claim));
                report.violated(Rule::Values, what);
                return None;
            }
            Some(Err(seen)) => {
                report.violated(Rule::Values, format!("nobody wrote {seen:?} of {}", describe(claim)));
                return None;
            }
        };
        if let Some((newest, begun)) = all.before(claim).filter(|(newest, _)| stamp < Some(*newest)) {
            let what = format!("{newest:?} was written, and then {} came with {stamp:?}", describe(claim));
            self.wrong_value(begun, at, what, report);
        }
        let is_higher = stamp.is_some_and(|(writer, _)| writer >= token(claim));
        if is_higher && claim.is_exclusive() && claim.surely_held().is_some() {
            self.wrong_value(claim.invoked, at, format!("{} came with {stamp:?}", describe(claim)), report);
        }
        stamp
    }

    /// Judges the writes of a claim, where a later exclusive grant was known at `replaced`.
    fn value_writes(&self, claim: &Claim, replaced: Time, report: &mut Report) {
        let held_until = claim.surely_held().map_or(0, |(_, to)| to);
        for write in &claim.value_writes {
            let Some((answered, answer)) = &write.answer else { continue };
            let wrong = match answer {
                ValueAnswer::Written => {
                    report.values_written += 1;
                    (replaced < write.at).then_some("wrote after a later grant")
                }
                ValueAnswer::Outranked if claim.is_exclusive() && *answered < held_until => {
                    Some("was outranked while it held")
                }
                ValueAnswer::Lost => {
                    report.values_refused += 1;
                    None
                }
                ValueAnswer::Outranked | ValueAnswer::Unknown(_) => None,
            };
            if let Some(wrong) = wrong {
                let what = format!("{} {wrong}, write {} at {}", describe(claim), write.number, write.at);
                self.wrong_value(known_at(claim), *answered, what, report);
            }
        }
    }

    /// A violation, unless the store may have forgotten something between two times.
    fn wrong_value(&self, from: Time, to: Time, what: String, report: &mut Report) {
        if self.is_excused_between(from, to) {
            report.excused += 1;
        } else {
            report.violated(Rule::Values, what);
        }
    }
}

/// When the grant of a claim was known.
fn known_at(claim: &Claim) -> Time {
    claim.granted.map_or(claim.invoked, |grant| grant.at)
}

//! The question whether a claim is to be broken.

use globallock::backend::Instant;

use crate::break_claim::LONGEST_REASON;
use crate::onlook::rows::ClaimRow;
use crate::top::keys::Key;

/// Which claim would be broken, and what has been typed about that.
#[derive(Debug)]
pub(crate) struct Dialog {
    pub(crate) name: String,
    /// The claim as it was seen last, and when that was.
    pub(crate) claim: ClaimRow,
    pub(crate) at: Instant,
    pub(crate) waiters: usize,
    pub(crate) oldest_wait_seconds: Option<f64>,
    pub(crate) reason: String,
    pub(crate) typed: String,
    pub(crate) field: Field,
    pub(crate) note: Option<Note>,
}

/// Where the next letter goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Reason,
    Confirmation,
}

/// What is to be said beside the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// Something else was typed than what confirms.
    NotConfirmed,
    /// The claim that was asked about waits no more, but holds.
    HoldsNow,
    /// The claim has ended by itself.
    Ended,
}

/// What has become of the question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Open,
    Left,
    Break,
}

impl Dialog {
    pub(super) fn new(name: &str, claim: &ClaimRow, at: Instant, waits: (usize, Option<f64>)) -> Self {
        Dialog {
            name: name.to_owned(),
            claim: claim.clone(),
            at,
            waiters: waits.0,
            oldest_wait_seconds: waits.1,
            reason: String::new(),
            typed: String::new(),
            field: Field::Reason,
            note: None,
        }
    }

    /// Takes the claim as it was seen now, or that it was not seen any more.
    pub(super) fn see(&mut self, claim: Option<&ClaimRow>, at: Instant) {
        match claim {
            Some(claim) => {
                if claim.held && !self.claim.held {
                    // Who has confirmed that a waiter goes has not confirmed that a holder does.
                    self.typed.clear();
                    self.note = Some(Note::HoldsNow);
                }
                (self.claim, self.at) = (claim.clone(), at);
            }
            None => self.note = Some(Note::Ended),
        }
    }

    /// Takes the claim as it was found instead of being broken, and begins anew: keys that were meant for
    /// something else confirm nothing.
    pub(super) fn ask_again(&mut self, claim: &ClaimRow, at: Instant) {
        self.field = Field::Reason;
        self.see(Some(claim), at);
    }

    pub(super) fn key(&mut self, key: Key) -> Answer {
        let has_ended = self.note == Some(Note::Ended);
        match (key, self.field) {
            (Key::Escape, _) => return Answer::Left,
            (Key::Enter, _) if has_ended => return Answer::Left,
            (Key::Enter, Field::Confirmation) => {
                if self.is_confirmed() {
                    return Answer::Break;
                }
                self.note = Some(Note::NotConfirmed);
            }
            (Key::Enter, Field::Reason) | (Key::Tab | Key::Down, Field::Reason) => {
                self.field = Field::Confirmation;
            }
            (Key::Tab | Key::Up, Field::Confirmation) => self.field = Field::Reason,
            (key, Field::Reason) => write(&mut self.reason, &key, LONGEST_REASON),
            (key, Field::Confirmation) => {
                write(&mut self.typed, &key, globallock::MAX_NAME_BYTES);
                self.note = self.note.filter(|note| *note != Note::NotConfirmed);
            }
        }
        Answer::Open
    }

    fn is_confirmed(&self) -> bool {
        let typed = self.typed.trim();
        typed == "y" || typed == "yes" || self.typed == self.name
    }
}

/// Edits a text of at most so many bytes by a key. What was pasted is one line.
pub(super) fn write(text: &mut String, key: &Key, longest: usize) {
    match key {
        Key::Char(letter) if text.len() + letter.len_utf8() <= longest => text.push(*letter),
        Key::Backspace => drop(text.pop()),
        Key::Ctrl('u') => text.clear(),
        Key::Pasted(pasted) => {
            text.extend(
                pasted.trim_end().chars().map(|letter| if letter.is_control() { ' ' } else { letter }),
            );
            text.truncate(text.floor_char_boundary(longest));
        }
        _ => {}
    }
}

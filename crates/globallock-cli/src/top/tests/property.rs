//! Whatever is pressed, and whatever the store says, everything can be drawn.

use proptest::prelude::*;

use super::*;
use crate::break_claim::Outcome;
use crate::onlook::rows::WaitRow;

#[derive(Clone, Debug)]
enum Step {
    Key(Key),
    Look(Vec<(String, u64, usize, Option<bool>)>, bool),
    Queue(Vec<(u64, bool, String)>),
    Failure(String),
    Waits(usize),
    Broken(bool),
    Time(u32),
    Size(u16, u16),
}

fn key() -> impl Strategy<Value = Key> {
    let letters = "jkgGhwfsclnatodxuyqr/? 日\u{301}";
    let letters: Vec<Key> = letters.chars().map(Key::Char).collect();
    let others = vec![
        Key::Enter,
        Key::Enter,
        Key::Tab,
        Key::Backspace,
        Key::Escape,
        Key::Up,
        Key::Down,
        Key::Home,
        Key::End,
        Key::PageUp,
        Key::PageDown,
        Key::Ctrl('u'),
        Key::Ctrl('f'),
    ];
    prop_oneof![
        5 => prop::sample::select(letters),
        2 => prop::sample::select(others),
        1 => any::<char>().prop_filter("is no key", |letter| !letter.is_control()).prop_map(Key::Char),
        1 => any::<String>().prop_map(Key::Pasted),
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec!["a", "b", "c/日本", "d\u{1b}"]).prop_map(str::to_owned),
        "\\PC{1,90}"
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let row = (name(), 0..9_u64, 0..3_usize, any::<Option<bool>>());
    prop_oneof![
        8 => key().prop_map(Step::Key),
        2 => (prop::collection::vec(row, 0..30), any::<bool>())
            .prop_map(|(rows, fails)| Step::Look(rows, fails)),
        1 => prop::collection::vec((0..9_u64, any::<bool>(), name()), 0..30).prop_map(Step::Queue),
        1 => any::<String>().prop_map(Step::Failure),
        1 => (0..4_usize).prop_map(Step::Waits),
        1 => any::<bool>().prop_map(Step::Broken),
        1 => any::<u32>().prop_map(Step::Time),
        1 => (1..150_u16, 1..60_u16).prop_map(|(columns, rows)| Step::Size(columns, rows)),
    ]
}

impl Desk {
    fn step(&mut self, step: Step) {
        let open = self.app.page.as_ref().map(|page| page.name.clone());
        match step {
            Step::Key(key) => drop(self.press(key)),
            Step::Look(rows, fails) => {
                let rows = rows.into_iter().map(|(name, number, waiters, stale)| LockRow {
                    stale,
                    holders: usize::try_from(number % 4).unwrap(),
                    ..lock(&name, (number > 2).then(|| claim(number, "x 1 h", 5e9, Some(0.5))), waiters, None)
                });
                let (rows, failure) = (rows.collect(), fails.then(|| "away\u{1b}".repeat(30)));
                self.app.looked(Look { rows, failure, age: (!fails).then_some(Duration::ZERO) }, self.now);
            }
            Step::Queue(claims) => {
                let claims = claims.into_iter().enumerate().map(|(place, (number, held, label))| ClaimRow {
                    held,
                    place: (!held).then_some(place),
                    label: Some(label),
                    ..claim(number, "- - h", 1.0, None)
                });
                let claims = claims.collect();
                self.queue(&open.unwrap_or_default(), claims);
            }
            Step::Failure(failure) => self.app.inspected(&open.unwrap_or_default(), Err(failure), self.now),
            Step::Waits(count) => {
                let wait = WaitRow {
                    name: open.unwrap_or_default(),
                    waiter: "w".repeat(200),
                    claim: String::new(),
                    blocker: "b".to_owned(),
                    blocked_by: String::new(),
                    held: true,
                };
                self.app.waits(Ok(vec![vec![wait; count]; count]), self.now);
            }
            Step::Broken(is_there) => {
                let outcome = if is_there { Outcome::Broken } else { Outcome::Gone };
                self.app.broken(outcome, None, self.now);
            }
            Step::Time(seconds) => self.pass(f64::from(seconds)),
            Step::Size(columns, rows) => self.app.resize(columns, rows),
        }
        self.due();
        let _ = self.app.wakes(self.now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_keys_and_answers_can_be_drawn(
        steps in prop::collection::vec(step(), 1..60),
        sizes in prop::collection::vec((1..150_u16, 1..60_u16), 60),
    ) {
        let mut desk = Desk::blank();
        for (step, (columns, rows)) in steps.into_iter().zip(sizes) {
            desk.step(step);
            let cells = desk.cells(columns, rows);
            let bad = |letter: char| letter.is_control() || ('\u{202a}'..='\u{202e}').contains(&letter);
            prop_assert!(!cells.content.iter().any(|cell| cell.symbol().contains(bad)));
            let list = &desk.app.list;
            let (cursor, all) = (list.cursor(), list.rows().len());
            let is_seen = cursor >= list.top && (cursor < all || cursor == 0);
            prop_assert!(is_seen, "{cursor} {} {all}", list.top);
        }
    }
}
